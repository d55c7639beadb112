#!/bin/sh
# The arrows between the rooms: an include line is an arrow, and each room may include only what is
# below it.  Prints TAP.  Run from the root of the tree.
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
room() { # room NAME ALLOWED...
	name=$1
	allowed=$(printf '%s|' "$@")
	allowed=${allowed%|}
	report "arrows_of_$name" "$(grep -rnE '^#include "[a-z0-9_]+/' "$name" --include='*.[ch]' \
		--include='*.cu' --include='*.cuh' | grep -vE "#include \"($allowed)/")"
}
room common
room registry common
room kernels common
room model kernels common
room daemon model kernels registry common
room client common
report "model_knows_no_backend_but_the_boundary" \
	"$(grep -rnE '#include "kernels/' model | grep -v '"kernels/backend.h"')"
report "daemon_knows_no_backend_but_the_boundary" \
	"$(grep -rnE '#include "kernels/' daemon | grep -v '"kernels/backend.h"')"
report "sql_only_in_the_registry" "$(grep -rlE 'sqlite3_' --include='*.[ch]' . | grep -v '^./registry/' | grep -v '^./tests/')"
report "zeromq_only_in_gate_and_client" \
	"$(grep -rlE '#include <zmq.h>' --include='*.[ch]' . | grep -vE '^./(daemon/gate|client/|tests/)')"
report "getenv_only_in_options_and_clients" \
	"$(grep -rnE '\bgetenv *\(' common registry kernels model daemon --include='*.c' | grep -v '^daemon/options.c')"
report "no_exit_below_main" \
	"$(grep -rnE '[^_a-z](exit|abort) *\(' common registry kernels model daemon client/*.c --include='*.c' | grep -vE '^daemon/(main|options)\.c' | grep -vE '^[^:]+:[0-9]+: *(\*|/\*)')"
report "no_unbounded_string_calls" \
	"$(grep -rnE '\b(sprintf|strcpy|strcat|gets|system|popen|alloca) *\(' common registry kernels model daemon client --include='*.c')"
report "no_file_over_600_lines" \
	"$(git ls-files '*.c' '*.h' '*.py' '*.sh' | xargs wc -l | awk '$2 != "total" && $1 > 600 { print $1, $2 }')"
report "nothing_marked_unfinished" \
	"$(git grep -nwE 'TODO|FIXME|XXX|HACK' -- '*.c' '*.h' '*.py' '*.sh' ':!tests/lint/arrows.sh')"
report "every_file_opens_with_what_it_is" \
	"$(for f in $(git ls-files '*.c' '*.h'); do head -c 3 "$f" | grep -q '^/\*' || echo "$f"; done)"
echo "1..$n"
