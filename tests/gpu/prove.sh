#!/bin/sh
# prove: the CUDA backend's correctness, then its table of figures, on this machine.  In a bundle made
# by `make gpu-bundle`; needs the NVIDIA driver, and python3 for the part that runs the daemon.
#
#     ./prove [correct] [bits] [full] [serve] [bench] [sanitize]     default: correct bits serve bench
#
# full: the published shapes at full size; M2_SHAPES and M2_YARDSTICK as in tests/gpu/test_published.c.
# SHAPES="130m 2.7b" chooses the bench's shapes.  Ends with "N passed, N failed, N skipped".
here=$(cd "$(dirname "$0")" && pwd)
LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
M2_SHARED=$here # its cases/
export LD_LIBRARY_PATH M2_SHARED
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=0

# The backend's object is found beside the program, so tests run from bin/.
run() { # run PROGRAM ARGUMENTS...
	name=$1
	shift
	echo "== $name $*"
	[ -x "$here/tests/bin/$name" ] || { echo "[  SKIPPED ] $name: not in this bundle" | tee -a "$log"; return; }
	ln -f "$here/tests/bin/$name" "$here/bin/$name"
	"$here/bin/$name" "$@" >"$log.one" 2>&1 || failed=1
	grep -vE '^\[( RUN|-+|=+)' "$log.one"
	cat "$log.one" >>"$log"
	rm -f "$log.one"
}
[ $# -gt 0 ] || set -- correct bits serve bench
for part in "$@"; do
	case $part in
	correct)
		run test_cases cuda_gives_every_case
		run test_cuda
		run test_ssd
		run test_replay
		run test_park
		run bench_product --bits
		;;
	bits)
		run test_kernels_bits cuda
		run test_kernels_pick cuda
		;;
	full)
		run test_published
		;;
	serve)
		echo "== serve.py"
		M2_BUILD=$here/bin MAMBA2_LIBRARY=$here/lib/libmamba2.so.0 \
			python3 "$here/tests/gpu/serve.py" >"$log.one" 2>&1 || failed=1
		cat "$log.one"
		sed -n 's/^ok [0-9]* # SKIP/[  SKIPPED ]/p; s/^ok/[       OK ]/p; s/^not ok/[  FAILED  ]/p' "$log.one" >>"$log"
		rm -f "$log.one"
		;;
	bench)
		for shape in ${SHAPES:-130m 370m 780m 1.3b 2.7b}; do
			"$here/bin/mamba2-bench" --device cuda --shape "$shape" --dtype bf16 || failed=1
		done
		;;
	sanitize)
		for tool in memcheck racecheck initcheck synccheck; do
			echo "== compute-sanitizer --tool $tool"
			ln -f "$here/tests/bin/test_cuda" "$here/bin/test_cuda"
			compute-sanitizer --tool "$tool" --error-exitcode 9 "$here/bin/test_cuda" 2>&1 |
				grep -E 'ERROR SUMMARY|RACECHECK SUMMARY|PASSED|FAILED' || failed=1
		done
		;;
	*)
		echo "prove: no part is called $part" >&2
		exit 2
		;;
	esac
done
passed=$(grep -c '^\[       OK \]' "$log")
skipped=$(grep -cE '^\[  SKIPPED \] [a-z]' "$log")
bad=$(grep -cE '^\[  FAILED  \] [a-z]' "$log")
[ "$failed" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
echo "$passed passed, $bad failed, $skipped skipped"
[ "$bad" -eq 0 ]
