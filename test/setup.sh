#!/bin/sh
# Installs what the tests need beside Go: a C compiler for the race detector,
# Node.js for the certified provider, Perl and LemonLDAP::NG for another one,
# Glewlwyd for one more, Redis for sessions, nginx to stand in front, Chromium
# for the browser.
set -eu
mkdir -p "$(dirname "$0")/../bin"

missing=
need() { # need <command> <Debian package>
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need gcc gcc
need node nodejs
need npm npm
need "${CHROMIUM:-chromium}" chromium
needperl() { # needperl <Perl module> <Debian packages>
	perl -M"$1" -e 1 >/dev/null 2>&1 || missing="$missing $2"
}
# The portal insists on something that can serve it; of all that does,
# lemonldap-ng-uwsgi-app alone brings no server. Its OpenID Connect does not
# load without the last two, which Debian does not make it depend on.
needperl Lemonldap::NG::Portal::Issuer::OpenIDConnect \
	"liblemonldap-ng-portal-perl lemonldap-ng-uwsgi-app libio-string-perl libstring-random-perl"
# Its tests make databases of their own, so none is prepared for the machine.
need glewlwyd "glewlwyd dbconfig-no-thanks"
need sqlite3 sqlite3
need redis-server redis-server # its Sentinel is the same program
need redis-cli redis-tools
# Debian puts it where only root's PATH leads.
[ -x /usr/sbin/nginx ] || need nginx nginx-light
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# The tests start what they need: LemonLDAP's timers and cron jobs, which
	# would tidy up a portal on this machine, and the services of Glewlwyd, Redis
	# and nginx are not even unpacked. Glewlwyd's package asks how to set up its own.
	case $missing in
	*glewlwyd*) echo "glewlwyd glewlwyd/config_type select No configuration" | debconf-set-selections ;;
	esac
	# shellcheck disable=SC2086 # one word for each package
	apt-get install -y -qq --no-install-recommends --no-remove \
		-o 'Dpkg::Options::=--path-exclude=/lib/systemd/system/liblemonldap-ng-*' \
		-o 'Dpkg::Options::=--path-exclude=/etc/cron.d/liblemonldap-ng-*' \
		-o 'Dpkg::Options::=--path-exclude=/lib/systemd/system/glewlwyd.service' \
		-o 'Dpkg::Options::=--path-exclude=/etc/init.d/glewlwyd' \
		-o 'Dpkg::Options::=--path-exclude=/etc/logrotate.d/glewlwyd' \
		-o 'Dpkg::Options::=--path-exclude=/lib/systemd/system/redis-server*' \
		-o 'Dpkg::Options::=--path-exclude=/etc/init.d/redis-server' \
		-o 'Dpkg::Options::=--path-exclude=/etc/logrotate.d/redis-server' \
		-o 'Dpkg::Options::=--path-exclude=/lib/systemd/system/nginx.service' \
		-o 'Dpkg::Options::=--path-exclude=/etc/init.d/nginx' \
		-o 'Dpkg::Options::=--path-exclude=/etc/logrotate.d/nginx' \
		$missing >/dev/null
else
	echo "The tests also need:$missing" >&2
	echo "Install them (these are Debian's names), or run this as root on Debian." >&2
	echo "A Chromium that is called something else is named by CHROMIUM=/path/to/it." >&2
	exit 1
fi
