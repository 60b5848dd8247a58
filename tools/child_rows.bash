# For the scripts that print tables of children of one model, each beside its parent: to be sourced with SKIFF MODEL WORK as arguments. Needs jq. MODEL has
# calib.txt and heldout.txt beside its weights. WORK keeps the evaluations; what is there already is not made again.
skiff=$1 model=$2 work=$3
windows=${WINDOWS:-64}
threads=(-t "${THREADS:-0}")
mkdir -p "$work"
parent=$work/parent$windows.logits
[ -s "$parent" ] || "$skiff" eval "$model" "${threads[@]}" --text "$model/heldout.txt" --max-windows "$windows" --save-logits "$parent" > /dev/null

# with_text VERB ARGUMENTS...: shown the calibration text, which what looks at none refuses
with_text() {
    if "$skiff" "$@" --calibration "$model/calib.txt" > "$work/made" 2> "$work/said"; then cat "$work/made"; return; fi
    grep -q 'error: --calibration: ' "$work/said" || { cat "$work/said" >&2; return 1; }
    "$skiff" "$@"
}
# row NAME VERB ARGUMENTS...: t_NAME.json and q_NAME.json
row() {
    local name=$1 verb=$2
    shift 2
    [ -s "$work/t_$name.json" ] && return
    rm -rf "$work/child"
    with_text "$verb" "$model" "${threads[@]}" -o "$work/child" --restart "$@" --json > "$work/q_$name.json"
    "$skiff" eval "$work/child" "${threads[@]}" --text "$model/heldout.txt" --max-windows "$windows" --against "$parent" --json > "$work/t.json"
    mv "$work/t.json" "$work/t_$name.json"
    rm -rf "$work/child"
}
# table BASE NAME...: the difference in KL is that of BASE less each
table() {
    local base=$1
    shift
    for name in "$@"; do
        [ -s "$work/t_$name.json" ] || continue
        jq -rn --arg name "$name" --arg base "$base" --slurpfile own "$work/t_$name.json" --slurpfile base_of "$work/t_$base.json" --slurpfile made "$work/q_$name.json" '
            def fixed($n): . * pow(10; $n) | round / pow(10; $n) | tostring;
            $own[0] as $o | ($o.against.window_kl) as $kl | [range($kl | length) | $base_of[0].against.window_kl[.] - $kl[.]] as $d
            | ($d | add / length) as $mean | (1.96 * (($d | map((. - $mean) * (. - $mean)) | add) / (($d | length) - 1) / ($d | length) | sqrt)) as $half
            | "| \($name | gsub("_"; " ")) | \($made[0].estimate.bytes_after) | \($o.perplexity.value | fixed(3)) ± \($o.perplexity.stderr | fixed(3)) | \($o.against.mean_kl | fixed(5)) | \(if $name == $base then "" else "\($mean | fixed(5)) ± \($half | fixed(5))" end) |"'
    done
}
heading() {
    echo
    echo "| what goes | weights, bytes | perplexity | mean KL | less than the first, 95 % |"
    echo "|---|---:|---:|---:|---:|"
}
# matrix "COLUMN..." NAME...: mean KL and perplexity, both ± their standard error, of the rows COLUMN_NAME, a line for each name; bytes are those of the first name
matrix() {
    local columns=$1 line name column
    shift
    echo
    line="| mean KL (perplexity) |"
    for column in $columns; do line+=" ${column#*-} |"; done
    echo "$line"
    echo "|---|$(for column in $columns; do printf -- '---:|'; done)"
    for name in "$@"; do
        line="| ${name//_/ } |"
        for column in $columns; do
            line+=" $([ -s "$work/t_${column}_$name.json" ] && jq -r '[.against.mean_kl, .against.mean_kl_stderr, .perplexity.value, .perplexity.stderr] | @tsv' "$work/t_${column}_$name.json" | awk '{ d = $1 < 0.1 ? 5 : 3; printf "%.*f ± %.*f (%.1f ± %.1f)", d, $1, d, $2, $3, $4 }') |"
        done
        echo "$line"
    done
    line="| bytes |"
    for column in $columns; do line+=" $(jq .estimate.bytes_after "$work/q_${column}_$1.json") |"; done
    echo "$line"
}
