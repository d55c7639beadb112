#!/bin/sh
# The committed style: clang-format changes nothing.  Prints TAP; skipped by name without clang-format.
if ! command -v clang-format >/dev/null 2>&1; then
	echo "ok 1 # SKIP source_is_formatted: clang-format is not installed"
	echo "1..1"
	exit 0
fi
bad=$(git ls-files '*.c' '*.h' | xargs clang-format --dry-run 2>&1 | grep -E 'warning: code' |
	cut -d: -f1 | sort | uniq -c)
if [ -z "$bad" ]; then
	echo "ok 1 - source_is_formatted"
else
	echo "not ok 1 - source_is_formatted"
	echo "$bad" | sed 's/^/# /'
fi
echo "1..1"
