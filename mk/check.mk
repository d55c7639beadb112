# make demo, make check and their parts.  `make check` is everything; each part can be run alone.
LOG := build/check.log
RUN = $(PYTHON) tests/run.py --log $(LOG)
lint_tests := $(wildcard tests/lint/*.sh)
# The two that take longest first: two run at a time.
system_tests := tests/system/test_kill.py tests/system/test_load.py
system_tests += $(filter-out $(system_tests),$(sort $(wildcard tests/system/test_*.py)))
# Everything but the lint, the install and the fuzzers runs a second and a third time under the sanitizers.
san_address := build/address,undefined
san_thread := build/thread
tsan := halt_on_error=1:second_deadlock_stack=1:suppressions=$(CURDIR)/tests/tsan.supp
FUZZ_SECONDS ?= 3
# The thread sanitizer is for what has threads: files, formats and tokenizers are left to the other two, and so
# are the faults, which are about processes.
threadless := $(addprefix tests/conformance/test_,tokenizers controls) \
              $(patsubst %.c,%,$(wildcard tests/unit/test_model_*.c tests/unit/test_registry_*.c)) tests/unit/test_zoo
thread_tests = $(filter-out $(addprefix $(B)/,$(filter-out tests/unit/test_model_pytorch,$(threadless))),$(test_programs))
thread_system_tests = $(filter-out $(patsubst %,tests/system/test_%.py,faults models hostile layouts \
                      containers template inspect),$(system_tests))

demo: all
	@sh mk/demo.sh $(B)

check: check-test-packages
	@rm -f $(LOG)
	@status=0; for part in lint unit cuda install system address thread fuzz; do \
		echo "== $$part"; \
		$(MAKE) --no-print-directory -j2 check-build-$$part && \
		$(MAKE) --no-print-directory check-$$part || status=1; done; \
	echo "== all"; $(PYTHON) tests/run.py --summary $(LOG) && exit $$status

check-build-lint check-build-fuzz check-build-install:
	@true
check-build-unit: tests
# No GPU is needed to compile: without nvcc the part says that it is skipped.
check-build-cuda:
	@if command -v $(NVCC) >/dev/null 2>&1; then $(MAKE) --no-print-directory gpu; fi
check-build-system: tests
check-build-address:
	@$(MAKE) --no-print-directory SAN=address,undefined tests
check-build-thread:
	@$(MAKE) --no-print-directory SAN=thread tests

check-lint:
	@$(RUN) --title lint $(lint_tests)
check-unit:
	@$(RUN) --title unit --jobs 2 --env M2_BUILD=$(B) $(test_programs) tests/conformance/test_mutants.py
check-cuda:
	@$(RUN) --title cuda --env M2_BUILD=$(B) --env CUDA_ARCHS='$(cuda_archs)' tests/gpu/test_compiled.sh \
		$(wildcard $(gpu_tests))
check-install:
	@$(RUN) --title install tests/install/test_install.sh
check-system:
	@$(RUN) --title system --jobs 2 --env M2_BUILD=$(B) $(system_tests)
# stack-use-after-return stays off: gcc 12 does not align its fake frames for 64-byte vectors
check-address:
	@status=0; $(RUN) --title address --jobs 2 --env ASAN_OPTIONS=detect_stack_use_after_return=0 \
		--env UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
		$(patsubst $(B)/%,$(san_address)/%,$(test_programs)) || status=1; \
	$(RUN) --title address --jobs 2 --env M2_BUILD=$(san_address) --env M2_SANITIZER=address \
		$(system_tests) || status=1; exit $$status
check-thread:
	@status=0; $(RUN) --title thread --jobs 2 --env TSAN_OPTIONS=$(tsan) \
		$(patsubst $(B)/%,$(san_thread)/%,$(thread_tests)) || status=1; \
	$(RUN) --title thread --jobs 2 --env TSAN_OPTIONS=$(tsan) --env M2_BUILD=$(san_thread) \
		--env M2_SANITIZER=thread $(thread_system_tests) || status=1; exit $$status
check-fuzz:
	@$(RUN) --title fuzz --env FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run.sh

# Ten minutes for every target, as before a release: make fuzz FUZZ_SECONDS=600
fuzz: $(B)/libm2.a
	FUZZ_SECONDS=$(FUZZ_SECONDS) sh tests/fuzz/run.sh

format:
	clang-format -i $$(git ls-files '*.c' '*.h')

# Not fortified: the functions it replaces are the plain ones.  The sanitizers' runtime wants to be first, so
# tests that preload it are left to the plain build.
$(B)/tests/system/faults/libfaults.so: tests/system/faults/shim.c $(wildcard tests/system/faults/*.h tests/system/faults/*.def)
	@mkdir -p $(@D)
	$(Q)$(CC) -I. -D_GNU_SOURCE $(filter-out -fsanitize=%,$(cflags)) -U_FORTIFY_SOURCE -fno-builtin $(CFLAGS) -shared -o $@ $< -ldl
$(B)/tests/system/faults/libmamba2-cuda.so: $(B)/tests/system/faults/fake_cuda.o $(B)/libm2.a
	$(Q)$(CC) -shared $(ldflags) $(LDFLAGS) -o $@ $^ $(ldlibs)

.PHONY: check-cuda check-build-cuda
.PHONY: demo check fuzz format check-lint check-unit check-install check-system check-address \
        check-thread check-fuzz check-build-lint check-build-unit check-build-install \
        check-build-system check-build-address check-build-thread check-build-fuzz

# Figures, not judgements: tests/bench/results/ keeps those of record, with the machine and the date.
bench: tests
	@$(B)/tests/bench/bench_kernels
	@$(PYTHON) tests/bench/latency.py
.PHONY: bench
