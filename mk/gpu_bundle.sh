#!/bin/sh
# make gpu-bundle: one folder that proves and measures the CUDA backend on a machine with an NVIDIA
# driver and a C library at least as new as this one's; nothing is installed there.
# Shared libraries other than the C library and the driver travel along in lib/.
set -eu
build=$1
shared=${M2_SHARED:-../shared}
to=$build/gpu-bundle
rm -rf "$to"
mkdir -p "$to/bin" "$to/lib" "$to/tests/bin" "$to/tests/system" "$to/tests/gpu" "$to/client" "$to/configs"

cp "$build/mamba2d" "$build/mamba2ctl" "$build/mamba2-bench" "$build/libmamba2-cuda.so" "$to/bin/"
cp "$build/libmamba2.so.0" "$to/lib/"
mkdir -p "$to/faulty"
cp "$build/mamba2d" "$build/mamba2ctl" "$to/faulty/"
cp "$build/faulty/libmamba2-cuda.so" "$to/faulty/"
for program in "$build"/tests/gpu/test_* "$build"/tests/gpu/bench_* "$build/tests/unit/test_kernels_bits" \
	"$build/tests/unit/test_kernels_pick" "$build/tests/conformance/test_cases" \
	"$build/tests/bench/bench_load" "$build/tests/bench/bench_latency"; do
	case $program in *.o | *.d) continue ;; esac
	if [ -x "$program" ]; then cp "$program" "$to/tests/bin/"; fi
done
cp tests/system/harness.py "$to/tests/system/"
cp tests/gpu/serve.py "$to/tests/gpu/"
cp tests/gpu/prove.sh "$to/prove"
cp -r client/python "$to/client/"
cp -r configs/demo "$to/configs/"
if [ -d "$shared/cases" ]; then cp -r "$shared/cases" "$to/cases"; fi

# What the programs are linked with, less what belongs to the C library.
for program in "$to"/bin/* "$to"/lib/* "$to"/tests/bin/*; do ldd "$program"; done |
	awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
	grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|ld-linux[^/]*|libcuda)\.so' |
	while read -r library; do
		if ! cmp -s "$library" "$to/lib/$(basename "$library")"; then cp -L "$library" "$to/lib/"; fi
	done
chmod -R u+w "$to"
find "$to" -name __pycache__ -type d -exec rm -rf {} +
strip --strip-unneeded "$to"/bin/* "$to"/faulty/* "$to"/tests/bin/* "$to"/lib/*.so* 2>/dev/null || true
tar -C "$build" -czf "$build/gpu-bundle.tar.gz" gpu-bundle
echo "$build/gpu-bundle.tar.gz: $(du -h "$build/gpu-bundle.tar.gz" | cut -f1); there: tar xf gpu-bundle.tar.gz && gpu-bundle/prove"
