# The CUDA backend: a shared object of its own, opened at run time (kernels/backend.c), so that one
# build serves hosts with and without a GPU.  It needs nvcc to be built and a driver to run.
NVCC ?= nvcc
cuda_object := $(B)/libmamba2-cuda.so
cuda_home = $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v $(NVCC))))
# Machine code for Ampere, Ada and Hopper, PTX for what comes later.
cuda_archs ?= 80 86 89 90a
cuda_targets = $(foreach a,$(cuda_archs),-gencode arch=compute_$(a),code=sm_$(a)) \
               -gencode arch=compute_80,code=compute_80
nvcc_flags = $(nvcc_faults) -std=c++17 -O3 -I. -D_GNU_SOURCE --expt-relaxed-constexpr -Xcompiler \
             -fPIC,-fvisibility=hidden,-Wall -Werror all-warnings
cuda_sources := $(wildcard kernels/cuda/*.c kernels/cuda/*.cu)
cuda_common := $(patsubst %.c,$(B)/%.o,common/err.c common/dtype.c kernels/desc.c)

$(B)/kernels/cuda/%.o: kernels/cuda/%.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(cppflags) $(filter-out -Wpedantic,$(cflags)) -isystem $(cuda_home)/include $(CFLAGS) -c $< -o $@
$(B)/kernels/cuda/%.cu.o: kernels/cuda/%.cu $(wildcard kernels/cuda/*.h kernels/cuda/*.cuh) $(B)/cuda-flags
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(nvcc_flags) $(cuda_targets) -c $< -o $@
$(cuda_object): $(patsubst kernels/cuda/%.c,$(B)/kernels/cuda/%.o,$(filter %.c,$(cuda_sources))) \
		$(patsubst %.cu,$(B)/%.cu.o,$(filter %.cu,$(cuda_sources))) $(cuda_common)
	$(Q)$(NVCC) -shared -cudart static -Xlinker --exclude-libs,ALL,-z,relro,-z,now -o $@ $^

# An object also depends on the flags that made it.
$(B)/cuda-flags: FORCE
	@mkdir -p $(B)
	@echo '$(NVCC) $(nvcc_flags) $(cuda_targets)' > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

cuda: $(cuda_object)
.PHONY: cuda

# The engine alone, with random weights, on any backend; and what a machine with a GPU runs.
$(B)/mamba2-bench: $(call objects,$(wildcard kernels/bench/*.c)) $(B)/libm2.a
	$(Q)$(CC) $(ldflags) $(LDFLAGS) -rdynamic -o $@ $^ $(ldlibs)
gpu_tests := $(patsubst %.c,$(B)/%,$(wildcard tests/gpu/test_*.c))
# Every way of doing a matrix product against the plainest: bits and times.
$(B)/tests/gpu/bench_product.cu.o: tests/gpu/bench_product.cu $(wildcard kernels/cuda/*.h kernels/cuda/*.cuh) $(B)/cuda-flags
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(nvcc_flags) $(cuda_targets) -c $< -o $@
$(B)/tests/gpu/bench_product: $(B)/tests/gpu/bench_product.cu.o \
		$(patsubst %.cu,$(B)/%.cu.o,$(wildcard kernels/cuda/product*.cu) kernels/cuda/measure.cu)
	$(Q)$(NVCC) -cudart static -o $@ $^
gpu: cuda $(B)/mamba2-bench $(gpu_tests) $(B)/tests/unit/test_kernels_bits $(B)/tests/unit/test_kernels_pick $(B)/tests/gpu/bench_product
.PHONY: gpu

# The backend with a fault on order (kernels/cuda/fault.cu): what a lost device costs is tested with it.
$(B)/faulty/libmamba2-cuda.so:
	$(Q)$(MAKE) --no-print-directory B=$(B)/faulty-build cuda CPPFLAGS=-DM2_CUDA_FAULTS \
		nvcc_faults=-DM2_CUDA_FAULTS cuda_archs='$(cuda_archs)'
	@mkdir -p $(@D)
	@cp $(B)/faulty-build/libmamba2-cuda.so $@
gpu-bundle: all gpu $(B)/faulty/libmamba2-cuda.so $(B)/tests/unit/test_kernels_pick \
		$(B)/tests/conformance/test_cases $(B)/tests/bench/bench_load $(B)/tests/bench/bench_latency
	@sh mk/gpu_bundle.sh $(B)
.PHONY: gpu-bundle $(B)/faulty/libmamba2-cuda.so
