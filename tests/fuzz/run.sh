#!/bin/sh
# Build and run every fuzz target with libFuzzer for FUZZ_SECONDS each, starting from its corpus.
# Prints TAP; skipped by name without clang.  Findings are left in build/fuzz/.
set -u
seconds=${FUZZ_SECONDS:-10}
n=0
mkdir -p build/fuzz
CLANG=${CLANG:-$(command -v clang || true)}
flags="-std=c17 -D_GNU_SOURCE -DM2_VERSION=\"fuzz\" -I. -Ibuild/release/generated -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -ffp-contract=off"
can_fuzz() {
	echo 'int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { (void)p; (void)n; return 0; }' >build/fuzz/probe.c
	[ -n "$CLANG" ] && "$CLANG" -fsanitize=fuzzer,address build/fuzz/probe.c -o build/fuzz/probe 2>/dev/null
}
if ! can_fuzz; then
	for source in tests/fuzz/fuzz_*.c; do
		n=$((n + 1))
		echo "ok $n # SKIP $(basename "$source" .c): clang with libFuzzer is not installed"
	done
	echo "1..$n"
	exit 0
fi
# The sources under test, compiled once with coverage; kernels and the like are linked, not fuzzed.
sources=$(ls common/*.c registry/*.c model/*.c kernels/backend.c daemon/*.c 2>/dev/null | grep -v '^daemon/main.c')
for source in $sources; do
	object=build/fuzz/$source.o
	if [ ! -e "$object" ] || [ -n "$(find common registry model kernels daemon -name '*.[ch]' -newer "$object" -print -quit)" ]; then
		mkdir -p "$(dirname "$object")"
		# shellcheck disable=SC2086
		"$CLANG" $flags -c "$source" -o "$object" || exit 1
	fi
	objects="${objects:-} $object"
done
rm -f build/fuzz/rooms.a
# shellcheck disable=SC2086
ar rcs build/fuzz/rooms.a $objects
for source in tests/fuzz/fuzz_*.c; do
	name=$(basename "$source" .c)
	n=$((n + 1))
	corpus=tests/fuzz/corpus/${name#fuzz_}
	work=build/fuzz/corpus/$name
	mkdir -p "$work" "$corpus"
	# shellcheck disable=SC2046,SC2086
	if "$CLANG" $flags -fsanitize=fuzzer,address,undefined "$source" build/fuzz/rooms.a build/release/libm2.a \
		$(pkg-config --libs yaml-0.1 sqlite3 libzmq json-c libsystemd libzip libprotobuf-c libcrypto) -lacl -lpcre2-8 -lutf8proc -ldl -lm -pthread \
		-o "build/fuzz/$name" 2>"build/fuzz/$name.log" &&
		"build/fuzz/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
			-artifact_prefix="build/fuzz/$name-" "$work" "$corpus" >>"build/fuzz/$name.log" 2>&1; then
		echo "# $name: $(grep -E 'stat::number_of_executed_units|^Done|DONE' "build/fuzz/$name.log" | tail -1)"
		echo "ok $n - $name"
	else
		echo "not ok $n - $name"
		tail -40 "build/fuzz/$name.log" | sed 's/^/# /'
	fi
done
echo "1..$n"
