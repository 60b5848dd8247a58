#!/usr/bin/env bash
# skiff distill on a tiny corpus: the teacher beside or in a file, students of its layers, losses on the inside, block by block; a killed run; what is refused.
# timeout: 600
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
needs_training
export TMPDIR=$work

head -c 60000 models/pocket/calib.txt > "$work/corpus.txt"
head -c 12000 models/pocket/heldout.txt > "$work/other.txt"
config() {  # width, layers, file
    cat > "$3" <<JSON
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": $1, "intermediate_size": $((2 * $1)), "num_hidden_layers": $2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu",
 "tie_word_embeddings": true}
JSON
}
config 64 4 "$work/teacher.json"
config 32 2 "$work/student.json"
quietly "$SKIFF" train-tokenizer "$work/corpus.txt" -o "$work/tok" --vocab-size 320
usual=(--data "$work/corpus.txt" --batch 16 -c 64 --warmup 3 -t 1 --precision f32)
quietly "$SKIFF" train "random:$work/teacher.json" --tokenizer "$work/tok" "${usual[@]}" --lr 4e-3 --steps 60 -o "$work/teacher"
distill() { "$SKIFF" distill "$@" --teacher "$work/teacher" "${usual[@]}"; }
fresh() { distill "random:$work/student.json" --tokenizer "$work/tok" --lr 4e-3 "$@"; }
course() { cut -d, -f1-5 "$work/$1/train.csv"; }
loss_at() { awk -F, -v n="$2" 'NR == n + 1 { print $3 }' "$work/$1/train.csv"; }

# ---- the teacher in a file: written once, read by another run without the teacher; and the same course with the file begun or complete
quietly fresh --steps 20 -o "$work/first" --teacher-cache "$work/teacher.cache" --teacher-top 256
grep -q "on 0 windows" "$work/log" || fail "the file should have been empty: $(cat "$work/log")"
quietly fresh --steps 20 -o "$work/again" --teacher-cache "$work/teacher.cache" --teacher-top 256
grep -q "on 320 windows" "$work/log" || fail "the file should hold 320 windows: $(cat "$work/log")"
[ "$(course first)" = "$(course again)" ] || fail "a run that reads the file takes another course"
cmp "$work/first/model.safetensors" "$work/again/model.safetensors" || fail "a run that reads the file makes another model"
grep -q '"kind": "distill"' "$work/first/skiff.json" || fail "the manifest does not say distill"
grep -q '"top": 256' "$work/first/skiff.json" || fail "the manifest does not say how much of the teacher was kept"
quietly fresh --steps 20 -o "$work/beside" --kd-loss forward-kl
below "$(loss_at first 20)" "$(loss_at first 1)" || fail "nothing was learnt from the file"
awk -v a="$(loss_at beside 20)" -v b="$(loss_at first 20)" 'BEGIN { d = a - b; exit !(d < 0.1 && d > -0.1) }' || fail "the file's loss $(loss_at first 20) is far from the teacher's beside, $(loss_at beside 20)"
expect 2 "was made for another run" fresh --steps 20 -o "$work/x" --teacher-cache "$work/teacher.cache" --teacher-top 256 --kd-temp 2
expect 2 "was made for another run" fresh --steps 20 -o "$work/x" --teacher-cache "$work/teacher.cache" --teacher-top 256 --seed 2
expect 2 "need the teacher itself" fresh --steps 20 -o "$work/x" --teacher-cache "$work/teacher.cache" --hidden-weight 1

# ---- a longer run with batches of another size: the file goes on inside one of them, and is read again
longer() { "$SKIFF" distill "random:$work/student.json" --tokenizer "$work/tok" --teacher "$work/teacher" --data "$work/corpus.txt" --batch 12 -c 64 --warmup 3 -t 1 --precision f32 --lr 4e-3 --steps 30 --teacher-cache "$work/teacher.cache" --teacher-top 256 "$@"; }
quietly longer -o "$work/longer"
grep -q "on 320 windows" "$work/log" || fail "the file should still hold 320 windows: $(cat "$work/log")"
quietly longer -o "$work/longer-again"
grep -q "on 360 windows" "$work/log" || fail "the file should hold 360 windows: $(cat "$work/log")"
[ "$(course longer)" = "$(course longer-again)" ] || fail "a run that extends the file takes another course than one that reads it"

# ---- killed with a file, and gone on with: the same bytes
"$SKIFF" distill "random:$work/student.json" --tokenizer "$work/tok" --lr 4e-3 --steps 20 -o "$work/killed" --teacher-cache "$work/second.cache" --teacher-top 256 --teacher "$work/teacher" "${usual[@]}" --save-every 3 >"$work/log" 2>&1 &
pid=$!
for _ in $(seq 1 3000); do
    [ "$(2>/dev/null wc -l < "$work/killed.partial/train.csv" || echo 0)" -ge 8 ] && break
    kill -0 $pid 2>/dev/null || break
    sleep 0.01
done
kill -9 $pid 2>/dev/null || true
wait $pid 2>/dev/null || true
[ -d "$work/killed" ] || quietly fresh --steps 20 -o "$work/killed" --teacher-cache "$work/second.cache" --teacher-top 256 --save-every 3
cmp "$work/first/model.safetensors" "$work/killed/model.safetensors" || fail "a killed run ends elsewhere"

# ---- every loss falls
for options in "--kd-loss reverse-kl --kd-temp 2" "--kd-loss jsd --kd-beta 0.3 --kd-alpha 1" "--hidden-weight 1 --attention-weight 1" "--attention-weight 1 --layer-drop 0.4 --micro-batch 4" "--hidden-weight 0.5 --recompute"; do
    quietly fresh --steps 12 -o "$work/loss" --force $options
    below "$(loss_at loss 12)" "$(loss_at loss 1)" || fail "$options: the loss went from $(loss_at loss 1) to $(loss_at loss 12)"
done

# ---- layers of the teacher, as they are and block by block
quietly distill --student-layers every-other --lr 1e-3 --steps 12 -o "$work/halved" --valid "$work/other.txt"
grep -q '"num_hidden_layers": 2' "$work/halved/config.json" || fail "the student should have two layers"
quietly "$SKIFF" run "$work/halved" -p "The" -n 4
quietly distill --student-layers 0,2 --block-wise --lr 1e-3 --steps 12 -o "$work/blocks" --valid "$work/other.txt"
below "$(loss_at blocks 12)" "$(loss_at blocks 1)" || fail "block-wise: the loss went from $(loss_at blocks 1) to $(loss_at blocks 12)"
quietly distill --student-layers 0,2 --lr 1e-12 --steps 3 -o "$work/untrained" --valid "$work/other.txt"
validation() { tail -1 "$work/$1/validation.csv" | cut -d, -f3; }
below "$(validation blocks)" "$(validation untrained)" || fail "block-wise: the whole is no better for it: $(validation blocks) after, $(validation untrained) before"
for file in train.csv blocks.csv loss.svg; do [ -s "$work/blocks/$file" ] || fail "block-wise: no $file"; done
[ "$(wc -l < "$work/blocks/blocks.csv")" = 25 ] && [ "$(wc -l < "$work/blocks/train.csv")" = 13 ] || fail "block-wise: rows are missing"
! ls "$work/blocks" | grep -q -e state -e streams || fail "block-wise: scratch files are left: $(ls "$work/blocks")"

# ---- block by block again, killed, with another measurement on the way and the streams in a file: the same bytes; what needs the whole student is refused
by_blocks() { distill --student-layers 0,2 --block-wise --lr 1e-3 --steps 12 --valid "$work/other.txt" "$@"; }
quietly by_blocks -o "$work/blocks-file" --stream-mb 0 --eval-every 5 --json
grep -q '"in": "file"' "$work/log" && grep -q '"steps_per_round": 1,' "$work/log" && grep -q '"peak_memory_bytes": [1-9]' "$work/log" || fail "block-wise: no word of streams in a file: $(cat "$work/log")"
[ "$(cut -d, -f1 "$work/blocks-file/validation.csv" | tr '\n' ' ')" = "step 5 10 12 " ] || fail "block-wise: measured at $(cut -d, -f1 "$work/blocks-file/validation.csv")"
"$SKIFF" distill --student-layers 0,2 --block-wise --lr 1e-3 --steps 12 --valid "$work/other.txt" --teacher "$work/teacher" "${usual[@]}" --save-every 2 -o "$work/blocks-killed" >"$work/log" 2>&1 &
pid=$!
for _ in $(seq 1 3000); do
    [ "$(2>/dev/null wc -l < "$work/blocks-killed.partial/blocks.csv" || echo 0)" -ge 17 ] && break
    kill -0 $pid 2>/dev/null || break
    sleep 0.01
done
kill -9 $pid 2>/dev/null || true
wait $pid 2>/dev/null || true
[ -d "$work/blocks-killed" ] || expect 0 "going on after step" by_blocks --save-every 2 -o "$work/blocks-killed"
quietly by_blocks -o "$work/blocks-ranks" --ranks 2
quietly by_blocks -o "$work/blocks-halves" --micro-batch 8  # a distance is relative to the streams of its micro-batch
for name in blocks-file blocks-killed; do
    cmp "$work/blocks/model.safetensors" "$work/$name/model.safetensors" || fail "$name: other weights than in one run"
    [ "$(course blocks)" = "$(course $name)" ] || fail "$name took another course"
done
awk -v a="$(loss_at blocks-halves 12)" -v b="$(loss_at blocks-ranks 12)" 'BEGIN { d = a - b; exit !(d < 1e-6 && d > -1e-6) }' || fail "block-wise: two ranks end at $(loss_at blocks-ranks 12), one at $(loss_at blocks-halves 12)"
expect 2 "--sample-every writes text with all of them" by_blocks --sample-every 2 -o "$work/x"
expect 2 "leave --kd-loss" by_blocks --kd-temp 2 -o "$work/x"
expect 2 "leave --kd-alpha out" by_blocks --kd-alpha 0.5 -o "$work/x"
expect 2 "--prune-scope global looks for" by_blocks --sparsity 0.5 --prune-scope global -o "$work/x"
expect 2 "--stream-mb bounds" distill --student-layers 0,2 --steps 3 --stream-mb 8 -o "$work/x"

# ---- what is refused
expect 2 "--teacher" "$SKIFF" distill "$work/teacher" --data "$work/corpus.txt" -o "$work/x"
expect 2 "give the STUDENT" distill --steps 3 -o "$work/x"
expect 2 "leave $work/teacher out" distill "$work/teacher" --student-layers 0 --steps 3 -o "$work/x"
expect 2 "must ascend" distill --student-layers 2,1 --steps 3 -o "$work/x"
expect 2 "one vocabulary" "$SKIFF" distill models/pocket-student --teacher "$work/teacher" --data "$work/corpus.txt" --steps 3 -o "$work/x"
expect 2 "one width" fresh --block-wise --steps 3 -o "$work/x"
expect 2 "--kd-alpha must be" fresh --kd-alpha 2 --steps 3 -o "$work/x"
[ ! -e "$work/x.partial" ] || fail "a refused run left its folder"

# ---- what a teacher says at several temperatures
quietly "$SKIFF" eval "$work/teacher" --text "$work/other.txt" --window 64 --max-windows 2 --soft-labels 3 --kd-temp 1,8
grep -q "mean entropy" "$work/log" || fail "no entropy in: $(cat "$work/log")"
expect 2 "leave --against" "$SKIFF" eval "$work/teacher" --text "$work/other.txt" --soft-labels 3 --against "$work/teacher"
expect 2 "expected numbers above 0" "$SKIFF" eval "$work/teacher" --text "$work/other.txt" --soft-labels 3 --kd-temp 1,x
echo "distill: all as expected"
