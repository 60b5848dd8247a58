#!/usr/bin/env bash
# A quantize that is killed at random moments leaves no output; run again it goes on, and in the end every byte is as without the kill.
# timeout: 300
set -euo pipefail
[ -x "$SKIFF" ] || { echo "skipped: no program at $SKIFF"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 384, "intermediate_size": 1000, "num_hidden_layers": 5,
 "num_attention_heads": 6, "num_key_value_heads": 3, "vocab_size": 4000, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
JSON
model=$work/parent
"$SKIFF" quantize "random:$work/config.json" -o "$model" --scheme bf16 >/dev/null 2>&1
quantize() { "$SKIFF" quantize "$model" -o "$work/$1" --scheme w4g32 --max-shard-mb 4 -t "$2" "${@:3}" 2>>"$work/log"; }
# Lines of the journal: its first is the head, each other one a finished tensor. None where the work had not begun.
journal_lines() { if [ -e "$work/out.partial/journal" ]; then wc -l <"$work/out.partial/journal"; else echo 0; fi; }
sums() { (cd "$1" && find . -type f | sort | xargs sha256sum); }

start=$(date +%s%N)
quantize whole 1 >/dev/null
elapsed_us=$((($(date +%s%N) - start) / 1000))
expected=$(sums "$work/whole")
quantize other 3 >/dev/null
[ "$expected" = "$(sums "$work/other")" ] || { echo "FAILED: another number of threads gave other bytes"; exit 1; }

kills=0 unfinished=0
for round in $(seq 20); do
    rm -rf "$work/out" "$work/out.partial"
    # Up to three kills of one and the same work, each anywhere in the time that it takes.
    for attempt in 1 2 3; do
        setsid "$SKIFF" quantize "$model" -o "$work/out" --scheme w4g32 --max-shard-mb 4 -t $((1 + attempt % 2)) >/dev/null 2>>"$work/log" &
        pid=$!
        # Every second round waits until the work itself has begun, or most kills would fall into the preparation.
        tries=0
        while [ $((round % 2)) = 1 ] && [ ! -s "$work/out.partial/journal" ] && [ $tries -lt 500 ] && kill -0 $pid 2>/dev/null; do
            sleep 0.01
            tries=$((tries + 1))
        done
        pause=$(((RANDOM * 32768 + RANDOM) % (elapsed_us / (1 + round % 2))))
        sleep "$((pause / 1000000)).$(printf '%06d' $((pause % 1000000)))"
        if kill -9 $pid 2>/dev/null; then kills=$((kills + 1)); fi
        wait $pid 2>/dev/null || true
        if [ -e "$work/out" ]; then break; fi
        if [ "$(journal_lines)" -gt 1 ]; then unfinished=$((unfinished + 1)); fi
    done
    # What is there is complete or is not there.
    if [ ! -e "$work/out" ]; then
        lines=$(journal_lines)
        json=$(quantize out 2 --json)
        n=$(printf '%s' "$json" | sed -n 's/.*"resumed_tensors": \([0-9]*\).*/\1/p')
        # No finished tensor is done again (a torn last line has no end and is not counted).
        [ $lines -le 1 ] || [ "$n" = $((lines - 1)) ] || { echo "FAILED: $((lines - 1)) tensors were done, went on from $n"; exit 1; }
    fi
    [ "$expected" = "$(sums "$work/out")" ] || { echo "FAILED: round $round gave other bytes"; sums "$work/out"; echo "$expected"; exit 1; }
    [ ! -e "$work/out.partial" ] || { echo "FAILED: the working folder is still there"; exit 1; }
done
[ $unfinished -ge 5 ] || { echo "FAILED: only $unfinished of $kills kills left work to go on with"; exit 1; }
echo "20 rounds, $kills kills, $unfinished of them with finished tensors to go on from; all bytes as without"
