#!/bin/sh
# Make sure that the named Debian packages are installed: as root install what is missing, as anyone
# else print the command and stop.  Quick and silent when nothing is missing.  Not Debian: say so and
# go on, the compiler will tell what is missing.
set -u
if ! command -v dpkg-query >/dev/null 2>&1; then
	echo "not a Debian system; these packages are needed under your distribution's names: $*"
	exit 0
fi
missing=
for package in "$@"; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)
	[ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
	echo "missing packages; run:  sudo apt-get install -y --no-install-recommends$missing" >&2
	exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# The package lists may be old or absent on a fresh machine: try as it is, then update and try again.
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 && exit 0
apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null
