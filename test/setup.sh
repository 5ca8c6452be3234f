#!/bin/sh
# Installs what the tests need beside Go: a C compiler for the race detector,
# Node.js for the certified provider, Chromium for the browser.
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
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086 # one word for each package
	apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
	echo "The tests also need:$missing" >&2
	echo "Install them (these are Debian's names), or run this as root on Debian." >&2
	echo "A Chromium that is called something else is named by CHROMIUM=/path/to/it." >&2
	exit 1
fi
