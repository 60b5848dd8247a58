# sh keep_stderr.sh FILE COMMAND...: what COMMAND writes to standard error goes to FILE; where it fails or warns, also to standard error.
file=$1
shift
"$@" 2>"$file"
status=$?
if [ $status != 0 ]; then cat "$file" >&2
else grep -v -e '^ptxas info' -e 'bytes stack frame' "$file" >&2 || true
fi
exit $status
