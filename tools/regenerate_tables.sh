#!/usr/bin/env bash
# Measures every table in the documents anew and writes it between its marks, <!-- table:NAME --> and <!-- /table -->.
#   tools/regenerate_tables.sh [-p PROGRAM] [NAME...]     names: demo schemes bench; default: all, with build/bin/skiff
# Speeds mean something only while nothing else runs. `schemes` holds no speeds.
set -euo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "$0")/.."
program=build/bin/skiff
if [ "${1:-}" = -p ]; then program=$2; shift 2; fi
[ -x "$program" ] || { echo "regenerate_tables: no program at $program; run make build first" >&2; exit 1; }
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(demo schemes bench)
documents=(README.md README.zh-CN.md docs/guide.md docs/guide.zh-CN.md docs/performance.md)
out=out/tables
mkdir -p "$out"

machine() { "$program" doctor --no-measure | sed -n 's/^processor  *//p'; }
# Runnable tasks averaged over the last minute, before anything of ours ran: what else the machine was doing.
load_before=$(cut -d' ' -f1 /proc/loadavg 2>/dev/null || echo unknown)
stamp() { printf '\n%s, %s, %s, other load %s\n' "$("$program" --version)" "$(machine)" "$(date +%F)" "$load_before"; }
# The table and the lines behind it that say of what.
table_lines() { awk '/^\|/ { print } /^(parent|read bandwidth) / || /^of memory:/ { print "\n" $0 }'; }
# pick KEY.KEY FILE: a value out of the JSON that skiff prints, whose depth is its indentation.
pick() { awk -v path="$1" '{ match($0, /^ */); depth = RLENGTH / 2; line = substr($0, RLENGTH + 1); if (line !~ /^"/) next
    key = line; sub(/^"/, "", key); sub(/".*/, "", key); keys[depth] = key
    at = keys[1]; for (i = 2; i <= depth; ++i) at = at "." keys[i]
    if (at == path) { sub(/^"[^"]*": */, "", line); sub(/,$/, "", line); gsub(/"/, "", line); print line; exit } }' "$2"; }

# Children of every kind, judged on the whole text. Bytes and bits are those of the checkpoint.
schemes() {
    local scheme child
    echo '| scheme | weights, bytes | bits/weight | perplexity | mean KL | p99 KL | same top-1 |'
    echo '|---|---:|---:|---:|---:|---:|---:|'
    for scheme in "" fp16 w8 w4g32 w4g32a w4g64 w4g64a w4g128 w4g128a w3g32a; do
        child=models/pocket
        against=()
        if [ -n "$scheme" ]; then
            child=$out/pocket-$scheme
            against=(--against models/pocket)
            "$program" quantize models/pocket --scheme "$scheme" -o "$child" --force >/dev/null
        fi
        "$program" inspect "$child" --json >"$out/inspect.json"
        "$program" eval "$child" --text models/pocket/heldout.txt "${against[@]}" --json >"$out/eval.json"
        printf '| %s | %s | %.2f | %.3f ± %.3f | ' "${scheme:-the parent, bf16}" "$(pick weight_bytes "$out/inspect.json")" "$(pick bits_per_weight "$out/inspect.json")" \
            "$(pick perplexity.value "$out/eval.json")" "$(pick perplexity.stderr "$out/eval.json")"
        if [ -n "$scheme" ]; then
            awk -v kl="$(pick against.mean_kl "$out/eval.json")" -v p99="$(pick against.p99_kl "$out/eval.json")" -v top="$(pick against.top1_agreement "$out/eval.json")" \
                'BEGIN { printf "%.5f | %.4f | %.2f %% |\n", kl < 0 ? 0 : kl, p99 < 0 ? 0 : p99, 100 * top }'
        else
            echo '| | |'
        fi
    done
    "$program" inspect models/pocket --hash --json >"$out/inspect.json"
    printf '\nparent %.16s · text models/pocket/heldout.txt, sha256 %.12s · %s of %s tokens · %s tokens scored\n' "$(pick hash "$out/inspect.json")" "$(pick text.sha256 "$out/eval.json")" \
        "$(pick perplexity.protocol "$out/eval.json")" "$(pick perplexity.window "$out/eval.json")" "$(pick perplexity.tokens "$out/eval.json")"
}

measure() {
    case $1 in
    demo) "$program" demo -o "$out/demo" | table_lines ;;
    schemes) schemes ;;
    bench)
        for scheme in "" w8 w4g32 w4g128; do
            "$program" bench random:bench/shapes/S.json ${scheme:+--scheme "$scheme"} -p 512 -n 64 -r 5 | table_lines >"$out/bench.one"
            if [ -z "$scheme" ]; then grep '^|' "$out/bench.one"; else grep '^|' "$out/bench.one" | tail -n +3; fi
            grep '^read bandwidth' "$out/bench.one" | sed "s/^/${scheme:-bf16}: /" >>"$out/bench.notes"
        done
        sed 's/^/\n/' "$out/bench.notes"
        ;;
    *) echo "regenerate_tables: no table is called $1" >&2; return 2 ;;
    esac
    stamp
}

# The header row in Chinese.
chinese() {
    sed -e '1s/| model /| 模型 /' -e '1s/ scheme |/ 方案 |/' -e 's/| the parent, bf16 |/| 原模型，bf16 |/' -e '1s/ weights, bytes |/ 权重字节数 |/' -e '1s/ weights |/ 权重 |/' -e '1s/ bits\/weight |/ 每权重位数 |/' -e '1s/ perplexity |/ 困惑度 |/' -e '1s/ mean KL |/ 平均 KL |/' -e '1s/ p99 KL |/ KL 的 99 分位 |/' \
        -e '1s/ same top-1 |/ 首选一致 |/' -e '1s/ prefill t\/s |/ 预填充 t\/s |/' -e '1s/ decode t\/s |/ 解码 t\/s |/' -e '1s/ of memory |/ 占内存带宽 |/' -e '1s/ peak memory |/ 峰值内存 |/'
}

# replace NAME FILE TABLE: the lines between the marks become those of TABLE.
replace() {
    awk -v name="$1" -v table="$3" '
        /^<!-- \/table -->$/ { inside = 0 }
        !inside { print }
        $0 == "<!-- table:" name " -->" { inside = 1; while ((getline line < table) > 0) print line; close(table) }
    ' "$2" >"$2.tmp"
    cat "$2.tmp" >"$2"
    rm "$2.tmp"
}

if awk -v load="$load_before" 'BEGIN { exit !(load > 0.5) }'; then echo "regenerate_tables: the machine is busy (load $load_before); speeds will be too low" >&2; fi
for name in "${names[@]}"; do
    echo "regenerate_tables: measuring $name" >&2
    rm -f "$out/bench.notes"
    measure "$name" >"$out/$name.md"
    chinese <"$out/$name.md" >"$out/$name.zh-CN.md"
    for document in "${documents[@]}"; do
        [ -f "$document" ] || continue
        grep -q "^<!-- table:$name -->$" "$document" || continue
        case $document in *.zh-CN.md) replace "$name" "$document" "$out/$name.zh-CN.md" ;; *) replace "$name" "$document" "$out/$name.md" ;; esac
        echo "  $document" >&2
    done
done
