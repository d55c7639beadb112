# What the build needs, as Debian packages.  As root what is missing is installed; otherwise the
# command to run is printed.  check-packages is quick when nothing is missing.
packages := gcc make pkg-config libyaml-dev libsqlite3-dev libzmq3-dev libjson-c-dev \
            libsystemd-dev libacl1-dev libpcre2-dev libutf8proc-dev \
            libzip-dev libprotobuf-c-dev protobuf-c-compiler libssl-dev libcmocka-dev
test_packages := python3 python3-numpy acl systemd clang clang-format libclang-rt-14-dev

check-packages:
	@sh mk/packages.sh $(packages)
check-test-packages:
	@sh mk/packages.sh $(test_packages)
.PHONY: check-packages check-test-packages
