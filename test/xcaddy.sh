#!/bin/sh
# Builds Caddy with this module as xcaddy.md says, by xcaddy itself, and looks
# whether the module is in it and works.
set -eu
cd "$(dirname "$0")/.."
clone=$PWD
go=${GO:-go}
xcaddy=$clone/bin/xcaddy
caddy=$clone/bin/xcaddy-caddy

# Whatever is not a result lives in one folder, the build's own temporary
# folders too.
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# run <command…> keeps what it prints for those who need it: the ones for whom
# it does not work.
run() {
	"$@" >"$tmp/out" 2>"$tmp/log" || {
		cat "$tmp/log" >&2
		exit 1
	}
}

(cd test/tools/xcaddy && "$go" build -o "$xcaddy" github.com/caddyserver/xcaddy/cmd/xcaddy)

# Before go looks for the package in the folder that --replace names, it asks
# the proxy whether the package is a module of its own. An empty list says no.
# A proxy that knows the module as little as all others do may answer
# "forbidden" instead, and go gives up.
for package in caddyauth caddyauth/redisstore; do
	mkdir -p "$tmp/stub/github.com/pkce-auth/caddy-pkce-auth/$package/@v"
	touch "$tmp/stub/github.com/pkce-auth/caddy-pkce-auth/$package/@v/list"
done
GOPROXY="file://$tmp/stub,$("$go" env GOPROXY)"
export GOPROXY

# What somebody has set for builds of their own must not change this one.
unset XCADDY_SKIP_BUILD XCADDY_SKIP_CLEANUP XCADDY_SETCAP XCADDY_DEBUG XCADDY_RACE_DETECTOR
unset XCADDY_GO_BUILD_FLAGS XCADDY_GO_MOD_FLAGS

version=$("$go" list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)
echo "building Caddy $version with xcaddy"
rm -f "$caddy"
mkdir "$tmp/build"
cd "$tmp/build" # on macOS, xcaddy's temporary folder is made where it runs
run env TMPDIR="$tmp/build" XCADDY_WHICH_GO="$go" "$xcaddy" build "$version" \
	--with github.com/pkce-auth/caddy-pkce-auth/caddyauth \
	--with github.com/pkce-auth/caddy-pkce-auth/caddyauth/redisstore \
	--replace github.com/pkce-auth/caddy-pkce-auth="$clone" \
	--output "$caddy"
cd "$clone"

"$caddy" list-modules >"$tmp/modules"
for module in admin.api.pkce_auth http.handlers.pkce_auth pkce_auth pkce_auth.sessions.cookie pkce_auth.sessions.memory pkce_auth.sessions.redis pkce_auth.sessions.storage; do
	grep -qxF "$module" "$tmp/modules" || {
		echo "bin/xcaddy-caddy has no module $module" >&2
		exit 1
	}
done

# Caddyfile.example names secrets that this machine has not: each gets a value
# that will do for one. Caddy's own folders are named, so that nothing stays
# behind in the home of whoever runs this.
sed 's/{file\.[^}]*}/{env.FROM_FILE}/g' Caddyfile.example >"$tmp/Caddyfile"
for name in $(grep -oE '\{env\.[A-Z_]+' "$tmp/Caddyfile" | cut -d. -f2 | sort -u); do
	export "$name=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"
done
run env XDG_DATA_HOME="$tmp" XDG_CONFIG_HOME="$tmp" \
	"$caddy" adapt --validate --adapter caddyfile --config "$tmp/Caddyfile"
echo "bin/xcaddy-caddy has pkce_auth, and accepts Caddyfile.example"
