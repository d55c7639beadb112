#!/bin/sh
# The CUDA backend as this machine can have it without a GPU: built for every architecture, needing
# nothing but a driver, and plain about what is missing.  Prints TAP; skipped by name without nvcc.
#
#     sh tests/gpu/test_compiled.sh build/release
build=${1:-${M2_BUILD:-build/release}}
object=$build/libmamba2-cuda.so
archs=${CUDA_ARCHS:-80 86 89 90a}
if ! command -v nvcc >/dev/null 2>&1; then
	echo "ok 1 # SKIP the_cuda_backend_is_built: nvcc is not installed"
	echo "1..1"
	exit 0
fi
n=0
report() { # report NAME OUTPUT: ok when OUTPUT is empty
	n=$((n + 1))
	if [ -z "$2" ]; then
		echo "ok $n - $1"
	else
		echo "not ok $n - $1"
		echo "$2" | sed 's/^/# /'
	fi
}
report "the_cuda_backend_is_built" "$([ -e "$object" ] || echo "$object is not there")"
report "it_gives_its_table_and_nothing_else" \
	"$(nm -D --defined-only "$object" | awk '{ print $3 }' | grep -v '^m2_cuda_backend$')"
report "it_needs_no_cuda_library" "$(ldd "$object" | grep -iE 'cuda|cublas|nvidia')"
report "it_has_code_for_every_architecture" "$(
	for arch in $archs; do
		strings -n 8 "$object" | grep -q -- "-arch sm_$arch " || echo "sm_$arch is missing"
	done
)"
if [ -e /dev/nvidiactl ]; then
	n=$((n + 1))
	echo "ok $n # SKIP without_a_driver_it_says_so: there is one here"
else
	said=$("$build/mamba2-bench" --device cuda --shape 130m 2>&1)
	report "without_a_driver_it_says_so" \
		"$(echo "$said" | grep -q 'is the NVIDIA driver loaded' || echo "it said: $said")"
fi
echo "1..$n"
