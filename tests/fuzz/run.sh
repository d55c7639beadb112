#!/bin/sh
# Build and run every fuzz target with libFuzzer for FUZZ_SECONDS each, starting from its corpus.
# Prints TAP; skipped by name without clang.  Findings are left in build/fuzz/.
# FUZZ_ONLY: names of targets, without fuzz_; M2_BUILD: the build whose kernels are linked; FUZZ_DIR: another
# build/fuzz.  Each target's dictionary is tests/fuzz/dict/NAME.dict and the words of the tables it reads.
set -u
seconds=${FUZZ_SECONDS:-10}
release=${M2_BUILD:-build/release}
work_dir=${FUZZ_DIR:-build/fuzz}
n=0
mkdir -p "$work_dir"
CLANG=${CLANG:-$(command -v clang || true)}
flags="-std=c17 -D_GNU_SOURCE -DM2_VERSION=\"fuzz\" -I. -I$release/generated -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -ffp-contract=off"
can_fuzz() {
	echo 'int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { (void)p; (void)n; return 0; }' >"$work_dir/probe.c"
	[ -n "$CLANG" ] && "$CLANG" -fsanitize=fuzzer,address "$work_dir/probe.c" -o "$work_dir/probe" 2>/dev/null
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
	object=$work_dir/$source.o
	if [ ! -e "$object" ] || [ -n "$(find common registry model kernels daemon -name '*.[ch]' -newer "$object" -print -quit)" ]; then
		mkdir -p "$(dirname "$object")"
		# shellcheck disable=SC2086
		"$CLANG" $flags -c "$source" -o "$object" || exit 1
	fi
	objects="${objects:-} $object"
done
rm -f "$work_dir/rooms.a"
# shellcheck disable=SC2086
ar rcs "$work_dir/rooms.a" $objects
# The words of NAME's dictionary, one in each line between quotes.
words() {
	[ -e "tests/fuzz/dict/$1.dict" ] && cat "tests/fuzz/dict/$1.dict"
	case $1 in
	wire | ipc)
		sed -nE 's/^M2_FIELD\(([a-z_]+),.*/"\\"\1\\":"/p' common/fields.def
		sed -nE 's/^M2_OP\([A-Z_]+, "([a-z_]+)".*/"\\"op\\":\\"\1\\""/p' common/ops.def
		;;
	variant) sed -nE 's/^M2_[A-Z]+\("([a-z_.]+)".*/"\1: "/p' registry/variant_keys.def | sed 's/"[a-z_]*\./"/' ;;
	esac
}
for source in tests/fuzz/fuzz_*.c; do
	name=$(basename "$source" .c)
	case " ${FUZZ_ONLY:-${name#fuzz_}} " in *" ${name#fuzz_} "*) ;; *) continue ;; esac
	words "${name#fuzz_}" >"$work_dir/$name.dict"
	dict= # libFuzzer takes no empty one
	[ -s "$work_dir/$name.dict" ] && dict=-dict=$work_dir/$name.dict
	n=$((n + 1))
	corpus=tests/fuzz/corpus/${name#fuzz_}
	work=$work_dir/corpus/$name
	# the supervisor logs what its children do wrong; findings are still written
	case $name in fuzz_ipc) quiet=-close_fd_mask=2 ;; *) quiet= ;; esac
	mkdir -p "$work" "$corpus"
	# shellcheck disable=SC2046,SC2086
	if "$CLANG" $flags -fsanitize=fuzzer,address,undefined "$source" "$work_dir/rooms.a" "$release/libm2.a" \
		$(pkg-config --libs yaml-0.1 sqlite3 libzmq json-c libsystemd libzip libprotobuf-c libcrypto) -lacl -lpcre2-8 -lutf8proc -ldl -lm -pthread \
		-o "$work_dir/$name" 2>"$work_dir/$name.log" &&
		"$work_dir/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
			$quiet $dict -artifact_prefix="$work_dir/$name-" "$work" "$corpus" >>"$work_dir/$name.log" 2>&1; then
		echo "# $name: $(grep -E 'stat::number_of_executed_units|^Done|DONE' "$work_dir/$name.log" | tail -1)"
		echo "ok $n - $name"
	else
		echo "not ok $n - $name"
		tail -40 "$work_dir/$name.log" | sed 's/^/# /'
	fi
done
echo "1..$n"
