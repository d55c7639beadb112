# Which files make what.  Rooms are globbed: a new file in a room is compiled.
common := $(wildcard common/*.c)
daemon_main := daemon/main.c
client_lib := $(wildcard client/*.c)
ctl := $(wildcard client/mamba2ctl/*.c)
rooms := $(common) $(wildcard registry/*.c kernels/*.c kernels/ref/*.c kernels/cpu/*.c model/*.c) \
         $(filter-out $(daemon_main),$(wildcard daemon/*.c))
objects = $(patsubst %.c,$(B)/%.o,$(1))

unit_tests := $(patsubst %.c,$(B)/%,$(wildcard tests/unit/test_*.c))
conformance_tests := $(patsubst %.c,$(B)/%,$(wildcard tests/conformance/test_*.c))
test_programs := $(unit_tests) $(conformance_tests)
system_helpers := $(patsubst %.c,$(B)/%,$(wildcard tests/system/*.c) tests/conformance/encode_stream.c)
# Means to make a daemon fail, for tests: a preloaded library, and a device that is none.
fault_libraries := $(B)/tests/system/faults/libfaults.so $(B)/tests/system/faults/libmamba2-cuda.so
system_helpers += $(fault_libraries)
bench_programs := $(patsubst %.c,$(B)/%,$(wildcard tests/bench/bench_*.c))
