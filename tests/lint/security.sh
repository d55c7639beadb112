#!/bin/sh
# SECURITY.md: every promise names a test, and every test that it names exists.  Prints TAP.  Run from the root.
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
named=$(tr '\n' ' ' <SECURITY.md | grep -oE '`tests/[a-z0-9_/.]+: *[A-Za-z0-9_]+`' | tr -d '`')
report "tests_named_in_security_exist" "$(echo "$named" | while IFS=: read -r file name; do
	name=$(echo "$name" | tr -d ' ')
	case $file in
	*.py) pattern="^def $name\\(" ;;
	*) pattern="\\b$name\\(" ;;
	esac
	grep -qE "$pattern" "$file" 2>/dev/null || echo "$file has no $name"
done)"
report "every_promise_names_a_test" "$(awk '
	/^## / { if (open) print open; open = ""; inside = /What is promised/ }
	inside && /^[0-9]+\. / { if (open) print open; open = $0 }
	inside && /`tests\// { open = "" }
	END { if (open) print open }' SECURITY.md)"
report "at_least_ten_promises_are_made" "$(
	[ "$(grep -cE '^[0-9]+\. \*\*' SECURITY.md)" -ge 10 ] || echo "fewer")"
echo "1..$n"
