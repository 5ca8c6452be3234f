#!/bin/sh
# Fails when the tests of the packages that decide run too little of their
# statements. The rest, up to the whole, is what cannot happen: errors of
# ciphers with keys of the right size, and the like.
set -eu
cd "$(dirname "$0")/.."
least=95
packages="internal/rp internal/claims internal/sealed internal/session store"

for package in $packages; do
	line=$("${GO:-go}" test -count=1 -cover "./caddyauth/$package") || { echo "$line"; exit 1; }
	echo "$line" | awk -v least="$least" -v package="$package" '
		match($0, /coverage: [0-9.]+%/) { share = substr($0, RSTART + 10, RLENGTH - 11); found = 1 }
		END {
			if (!found) { print package ": no coverage was reported"; exit 1 }
			printf "%s: %s%% of statements\n", package, share
			if (share + 0 < least) { print "at least " least "% are wanted"; exit 1 }
		}'
done
