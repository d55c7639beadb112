#!/bin/sh
# make install into an empty DESTDIR, then use what was installed as a stranger would: compile the
# example with pkg-config, look at exported symbols, verify the unit.  Prints TAP.
set -u
root=$(mktemp -d "${TMPDIR:-/tmp}/m2install.XXXXXX")
trap 'rm -rf "$root"' EXIT
n=0
check() { # check NAME COMMAND...
	name=$1
	shift
	n=$((n + 1))
	if out=$("$@" 2>&1); then
		echo "ok $n - $name"
	else
		echo "not ok $n - $name"
		echo "$out" | sed 's/^/# /'
	fi
}
skip() {
	n=$((n + 1))
	echo "ok $n # SKIP $1: $2"
}

check installs_under_destdir make -s install DESTDIR="$root" PREFIX=/usr
check installs_nothing_outside_its_places sh -c "[ \"\$(cd '$root' && ls | tr '\n' ' ')\" = 'etc usr ' ]"
check programs_run sh -c "'$root/usr/bin/mamba2ctl' --help >/dev/null && '$root/usr/bin/mamba2d' --help >/dev/null && '$root/usr/bin/mamba2d' --version"
check variant_points_at_the_installed_demo grep -q '^checkpoint: /usr/share/mamba2d/demo$' "$root/etc/mamba2d/variants/demo.yaml"
example() {
	PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 \
		PKG_CONFIG_SYSROOT_DIR="$root" PKG_CONFIG_PATH="$root/usr/lib/pkgconfig" \
		sh -c "cc -std=c17 -Wall -Wextra -Werror client/examples/hello.c \$(pkg-config --cflags --libs mamba2) -o '$root/hello'"
}
check example_compiles_with_pkg_config example
exports() {
	bad=$(nm -D --defined-only "$root/usr/lib/libmamba2.so.0" | awk '$2 ~ /[TDBRVW]/ { print $3 }' |
		grep -vE '^mamba2_' | grep -v '@' | grep -v '^MAMBA2_')
	[ -z "$bad" ] || { echo "$bad"; return 1; }
}
check library_exports_only_its_own_names exports
cxx() {
	command -v c++ >/dev/null || return 0
	echo '#include <mamba2.h>
int main() { return mamba2_version() == 0; }' >"$root/t.cc"
	c++ -Wall -Werror -I"$root/usr/include" -fsyntax-only "$root/t.cc"
}
check header_is_valid_cxx cxx
if command -v systemd-analyze >/dev/null 2>&1; then
	unit="$root/usr/lib/systemd/system/mamba2d.service"
	verify() { # verify needs the program at the place the unit names
		sed "s|/usr/bin/mamba2d|$root/usr/bin/mamba2d|" "$unit" >"$root/mamba2d.service"
		out=$(systemd-analyze verify --man=no "$root/mamba2d.service" 2>&1 | grep -F "mamba2d.service")
		[ -z "$out" ] || { echo "$out"; return 1; }
	}
	check unit_verifies_clean verify
	score() {
		value=$(systemd-analyze security --offline=true --no-pager "$unit" | sed -n 's/.*Overall exposure level[^:]*: \([0-9.]*\).*/\1/p')
		echo "exposure $value"
		[ -n "$value" ] && awk "BEGIN { exit !($value <= 1.5) }"
	}
	check unit_exposure_is_at_most_1_5 score
else
	skip unit_verifies_clean "systemd-analyze is not installed"
	skip unit_exposure_is_at_most_1_5 "systemd-analyze is not installed"
fi
check uninstalls make -s uninstall DESTDIR="$root" PREFIX=/usr
echo "1..$n"
