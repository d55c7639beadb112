#!/bin/sh
# make demo: start a private daemon, load the bundled model, generate text, stop.
# Everything lives in one temporary directory that is gone afterwards.
set -eu
build=$1
dir=$(mktemp -d "${XDG_RUNTIME_DIR:-/tmp}/mamba2d-demo.XXXXXX")
daemon=
finish() {
	status=$?
	if [ -n "$daemon" ]; then
		kill -TERM "$daemon" 2>/dev/null || true
		wait "$daemon" 2>/dev/null || true
	fi
	[ "$status" -eq 0 ] || { echo "the daemon's log:"; cat "$dir/log"; } >&2
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM

ctl() {
	"$build/mamba2ctl" --runtime-dir "$dir/run" "$@"
}
say() {
	printf '\n\033[1m$ %s\033[0m\n' "$*"
}
[ -t 1 ] || say() { printf '\n$ %s\n' "$*"; }

command -v nvidia-smi >/dev/null 2>&1 || echo "no NVIDIA GPU here: everything runs on the CPU"
say mamba2d --runtime-dir "$dir/run" --state-dir "$dir/state"
"$build/mamba2d" --runtime-dir "$dir/run" --state-dir "$dir/state" 2>"$dir/log" &
daemon=$!
# mamba2ctl waits by itself until the daemon answers
say mamba2ctl register configs/demo/demo.yaml
ctl register configs/demo/demo.yaml
say mamba2ctl load demo
ctl load demo
say mamba2ctl list
ctl list
say "mamba2ctl generate demo 'In the beginning' -n 120 --seed 7"
ctl generate demo 'In the beginning' -n 120 --seed 7
say "mamba2ctl score demo 'And the king said unto him, Go in peace.'"
ctl score demo 'And the king said unto him, Go in peace.'
say mamba2ctl ps
ctl ps
say "stop the daemon (SIGTERM)"
kill -TERM "$daemon"
wait "$daemon"
daemon=
echo "done"
