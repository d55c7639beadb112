# mamba2d: make | make demo | make check | make install | make bench
#
# One archive of all rooms, three programs, one library, one test program per test file.
# Every variant of the build has its own folder: build/release, build/address,undefined, build/thread.
SAN ?=
CUDA ?= $(if $(shell command -v nvcc 2>/dev/null),1,0)
B ?= build/$(if $(SAN),$(SAN),release)
PREFIX ?= /usr/local
PYTHON ?= python3

VERSION := 0.1.0
WARN := -Wall -Wextra -Wpedantic -Werror -Wshadow -Wconversion -Wstrict-prototypes \
        -Wmissing-prototypes -Wpointer-arith -Wvla -Wundef
LIBS := yaml-0.1 sqlite3 libzmq json-c libsystemd libzip libprotobuf-c libcrypto
cflags := -std=c17 -O2 -g -fPIC -ffp-contract=off -fno-math-errno -fvisibility=hidden \
          -fstack-protector-strong $(WARN) $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer)
cppflags := -I. -I$(B)/generated -D_GNU_SOURCE -DM2_VERSION='"$(VERSION)"' -MMD -MP $(if $(SAN),,-D_FORTIFY_SOURCE=2)
ldflags := -pthread -Wl,-z,relro,-z,now -Wl,--as-needed $(if $(SAN),-fsanitize=$(SAN))
ldlibs = $(shell pkg-config --libs $(LIBS)) -lacl -lpcre2-8 -lutf8proc -ldl -lm

include mk/sources.mk
include mk/packages.mk

programs := $(B)/mamba2d $(B)/mamba2ctl
library := $(B)/libmamba2.so.0

all: $(programs) $(library) $(B)/libmamba2.a

# ---- compiling ---------------------------------------------------------------------------------

$(B)/%.o: %.c $(B)/flags | check-packages
	@mkdir -p $(@D)
	$(Q)$(CC) $(cppflags) $(cflags) $(call isa,$<) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

# What the file name promises is what it may use: *_avx2.c runs only where AVX2 was found.
isa = $(if $(filter %_avx2.c,$(1)),-mavx2 -mfma -mf16c)$(if $(filter %_avx512.c,$(1)),-mavx512f \
      -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c)

# An object also depends on the flags that made it.
$(B)/flags: FORCE
	@mkdir -p $(B)
	@echo '$(CC) $(cflags) $(cppflags) $(CPPFLAGS) $(CFLAGS)' > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

# The reader of SentencePiece's protobuf is generated from the fields that we use.
$(B)/generated/%.pb-c.c $(B)/generated/%.pb-c.h: %.proto | check-packages
	@mkdir -p $(B)/generated
	$(Q)protoc-c --c_out=$(B)/generated $<
generated := $(B)/generated/model/sentencepiece.pb-c
$(generated).o: $(generated).c
	$(Q)$(CC) $(cppflags) $(cflags) -w $(CFLAGS) -c $< -o $@
$(call objects,$(wildcard model/*.c)): $(generated).h

$(B)/libm2.a: $(call objects,$(rooms)) $(generated).o
	@rm -f $@
	$(Q)$(AR) rcs $@ $^
$(B)/libmamba2.a: $(call objects,$(client_lib) $(common))
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

$(B)/mamba2d: $(call objects,$(daemon_main)) $(B)/libm2.a
	$(Q)$(CC) $(ldflags) $(LDFLAGS) -rdynamic -o $@ $^ $(ldlibs)
$(B)/mamba2ctl: $(call objects,$(ctl)) $(B)/libmamba2.a
	$(Q)$(CC) $(ldflags) $(LDFLAGS) -o $@ $^ $(ldlibs)
$(B)/libmamba2.so.0: $(call objects,$(client_lib) $(common)) client/libmamba2.map
	$(Q)$(CC) -shared $(ldflags) $(LDFLAGS) -Wl,-soname,libmamba2.so.0 \
		-Wl,--version-script,client/libmamba2.map -o $@ $(filter %.o,$^) $(ldlibs)
	@ln -sf libmamba2.so.0 $(B)/libmamba2.so
$(B)/tests/%: $(B)/tests/%.o $(B)/libm2.a $(B)/libmamba2.a
	$(Q)$(CC) $(ldflags) $(LDFLAGS) -o $@ $< -Wl,--start-group $(B)/libm2.a $(B)/libmamba2.a \
		-Wl,--end-group $(ldlibs) -lcmocka

tests: all $(test_programs) $(system_helpers) $(bench_programs)

include mk/cuda.mk
include mk/check.mk
include mk/install.mk

clean:
	rm -rf build

V ?= 0
Q := $(if $(filter 1,$(V)),,@)
-include $(shell find $(B) -name '*.d' 2>/dev/null)
.PHONY: all tests clean FORCE
.SECONDARY:
.DEFAULT_GOAL := all
