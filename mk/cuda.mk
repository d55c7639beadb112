# The CUDA backend: a shared object of its own, opened at run time (kernels/backend.c), so that one
# build serves hosts with and without a GPU.  It needs nvcc to be built and a driver to run.
NVCC ?= nvcc
cuda_object := $(B)/libmamba2-cuda.so
cuda_home = $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v $(NVCC))))
# Machine code for Ampere, Ada and Hopper, PTX for what comes later.
cuda_archs ?= 80 86 89 90a
cuda_targets = $(foreach a,$(cuda_archs),-gencode arch=compute_$(a),code=sm_$(a)) \
               -gencode arch=compute_80,code=compute_80
nvcc_flags = -std=c++17 -O3 -I. -D_GNU_SOURCE --expt-relaxed-constexpr -Xcompiler \
             -fPIC,-fvisibility=hidden,-Wall -Werror all-warnings
cuda_sources := $(wildcard kernels/cuda/*.c kernels/cuda/*.cu)
cuda_common := $(patsubst %.c,$(B)/%.o,common/err.c common/dtype.c kernels/desc.c)

$(B)/kernels/cuda/%.o: kernels/cuda/%.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(cppflags) $(filter-out -Wpedantic,$(cflags)) -isystem $(cuda_home)/include $(CFLAGS) -c $< -o $@
$(B)/kernels/cuda/%.cu.o: kernels/cuda/%.cu $(wildcard kernels/cuda/*.h kernels/cuda/*.cuh) $(B)/flags
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(nvcc_flags) $(cuda_targets) -c $< -o $@
$(cuda_object): $(patsubst kernels/cuda/%.c,$(B)/kernels/cuda/%.o,$(filter %.c,$(cuda_sources))) \
		$(patsubst %.cu,$(B)/%.cu.o,$(filter %.cu,$(cuda_sources))) $(cuda_common)
	$(Q)$(NVCC) -shared -cudart static -Xlinker --exclude-libs,ALL,-z,relro,-z,now -o $@ $^

cuda: $(cuda_object)
.PHONY: cuda

# The engine alone, with random weights, on any backend; and what a machine with a GPU runs.
$(B)/mamba2-bench: $(B)/kernels/bench/main.o $(B)/libm2.a
	$(Q)$(CC) $(ldflags) $(LDFLAGS) -rdynamic -o $@ $^ $(ldlibs)
gpu: cuda $(B)/mamba2-bench $(B)/tests/gpu/test_cuda $(B)/tests/unit/test_kernels_bits
.PHONY: gpu
