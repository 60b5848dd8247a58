#!/usr/bin/env bash
# skiff train on a tiny corpus: a run that is killed goes on to the same bytes; several ranks, adapters, packed texts, checkpoints to go on from; what is refused.
# timeout: 600
set -euo pipefail
. "$SKIFF_SOURCE_DIR/tests/e2e/program_testing.bash"
needs_training
export TMPDIR=$work
log() { echo "$SECONDS s: $*"; }

head -c 60000 models/pocket/calib.txt > "$work/corpus.txt"
head -c 12000 models/pocket/heldout.txt > "$work/other.txt"
cat > "$work/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu",
 "tie_word_embeddings": true}
JSON
quietly "$SKIFF" train-tokenizer "$work/corpus.txt" -o "$work/tok" --vocab-size 320

fresh="random:$work/config.json"
# Sets `rest` to the usual options but for those that are given (an option given twice is an error).
usual_but() {
    local given=" $* " option
    rest=()
    for option in "--data $work/corpus.txt" "--tokenizer $work/tok" "--batch 24" "-c 64" "--lr 3e-3" "--warmup 5" "-t 1" "--precision f32"; do
        [[ "$given" == *" ${option%% *} "* ]] || rest+=($option)
    done
}
# fresh_run NAME STEPS options...: trains from fresh weights into $work/NAME
fresh_run() {
    usual_but "${@:3}"
    "$SKIFF" train "$fresh" -o "$work/$1" --steps "$2" "${@:3}" "${rest[@]}"
}
# Steps, tokens, loss, learning rate, norm of the gradient: what does not depend on the clock.
course() { cut -d, -f1-5 "$work/$1/train.csv"; }
rows() { local n; n=$(2>/dev/null wc -l < "$work/$1.partial/train.csv" || echo 0); echo $((n > 0 ? n - 1 : 0)); }
same_result() {
    [ "$(course "$1")" = "$(course "$2")" ] || fail "$1 and $2 took other courses: $(diff <(course "$1") <(course "$2") | head -5)"
    local file
    for file in model.safetensors config.json skiff.json; do cmp "$work/$1/$file" "$work/$2/$file" || fail "$1 and $2 have another $file"; done
    [ ! -e "$work/$2.partial" ] || fail "$2.partial is still there"
}
# losses_differ NAME NAME: the largest difference of the losses
losses_differ() { paste -d, <(cut -d, -f3 "$work/$1/train.csv") <(cut -d, -f3 "$work/$2/train.csv") | awk -F, 'NR > 1 { d = $1 > $2 ? $1 - $2 : $2 - $1; if (d > m) m = d } END { print m + 0 }'; }

# started NAME STEPS options...: the same in the background; its process is $pid
started() {
    usual_but "${@:3}"
    "$SKIFF" train "$fresh" -o "$work/$1" --steps "$2" "${@:3}" "${rest[@]}" >"$work/$1.log" 2>&1 &  # not the function: $! would be a shell's
    pid=$!
}
# Until the run has written so many rows (or has ended).
wait_for_rows() {
    local tries=0
    while [ "$(rows "$1")" -lt "$2" ] && [ ! -e "$work/$1" ] && kill -0 $pid 2>/dev/null && [ $tries -lt 6000 ]; do
        sleep 0.01
        tries=$((tries + 1))
    done
}

# ---- one whole run, and what it leaves
exact=(--valid "$work/other.txt" --eval-windows 1000 --eval-every 10 --save-every 4)
fresh_run whole 30 "${exact[@]}" --json >"$work/json" 2>"$work/log" || fail "$(cat "$work/log")"
for key in output steps resumed_at tokens corpus_tokens parameters trained_parameters first_loss last_loss validation_loss seconds tokens_per_s peak_memory_bytes step; do
    grep -q "\"$key\":" "$work/json" || fail "--json has no $key"
done
for file in model.safetensors config.json tokenizer.json tokenizer_config.json skiff.json train.csv validation.csv loss.svg; do [ -s "$work/whole/$file" ] || fail "no $file"; done
[ "$(ls "$work/whole" | grep -c -e tokens$ -e state -e tmp)" = 0 ] || fail "scratch files are left: $(ls "$work/whole")"
"$SKIFF" curves "whole=$work/whole,$work/whole" "$work=$work/whole" -o "$work/curves.svg" > "$work/log" 2>&1 || fail "curves: $(cat "$work/log")"
grep -q "whole (2 runs)" "$work/curves.svg" && grep -q "| whole | 2 |" "$work/log" || fail "no curve of two runs: $(cat "$work/log")"
expect 2 "expected NAME=RUN" "$SKIFF" curves "$work/whole"
expect 3 "validation.csv: no such file" "$SKIFF" curves "a=$work"
[ "$(wc -l < "$work/whole/train.csv")" = 31 ] && [ "$(wc -l < "$work/whole/validation.csv")" = 4 ] || fail "rows are missing"
below "$(tail -1 "$work/whole/train.csv" | cut -d, -f3)" 5 || fail "the loss did not fall: $(tail -1 "$work/whole/train.csv")"
log "one whole run"

# ---- killed three times at random moments and gone on with: the same numbers and bytes
kills=0
for range in "1 8" "9 8" "17 12"; do
    started killed 30 "${exact[@]}"
    set -- $range
    wait_for_rows killed $(($1 + RANDOM % $2))
    kill -9 $pid 2>/dev/null && kills=$((kills + 1))
    wait $pid 2>/dev/null || true
    [ ! -e "$work/killed" ] || break
done
[ -e "$work/killed" ] || expect 0 'going on after step' fresh_run killed 30 "${exact[@]}"
[ $kills -ge 1 ] || fail "no run was killed before it ended"
same_result whole killed
log "$kills kills"

# ---- Ctrl-C: the state is saved, the exit code says so
started interrupted 30 "${exact[@]}"
wait_for_rows interrupted 6
kill -INT $pid 2>/dev/null || true
rc=0
wait $pid || rc=$?
[ $rc = 130 ] || fail "exit $rc after an interrupt: $(cat "$work/interrupted.log")"
grep -q 'stopped after step' "$work/interrupted.log" || fail "no word about the interrupt: $(cat "$work/interrupted.log")"
[ ! -e "$work/interrupted" ] && [ -s "$work/interrupted.partial/state.safetensors" ] || fail "no state after an interrupt"
expect 2 'unfinished run with other options' fresh_run interrupted 30 "${exact[@]}" --seed 9
expect 2 'unfinished run with other options' fresh_run interrupted 31 "${exact[@]}"
cp "$work/corpus.txt" "$work/longer.txt"
echo "More." >> "$work/longer.txt"
expect 2 'unfinished run with other options' fresh_run interrupted 30 --data "$work/longer.txt" "${exact[@]}"
expect 0 'going on after step' fresh_run interrupted 30 "${exact[@]}"
same_result whole interrupted
log "interrupt"

# ---- the same with Muon, layer drop and adapters
for kind in muon drop lora; do
    case $kind in
        muon) options=(--optimizer muon) ;;
        drop) options=(--layer-drop 0.5 --micro-batch 2) ;;
        lora) options=(--lora 4) ;;
    esac
    quietly fresh_run $kind 14 --save-every 3 "${options[@]}"
    started $kind-killed 14 --save-every 3 "${options[@]}"
    wait_for_rows $kind-killed $((3 + RANDOM % 8))
    kill -9 $pid 2>/dev/null || true
    wait $pid 2>/dev/null || true
    [ -e "$work/$kind-killed" ] || fresh_run $kind-killed 14 --save-every 3 "${options[@]}" >"$work/log" 2>&1 || fail "$(cat "$work/log")"
    same_result $kind $kind-killed
done
[ "$(course muon)" != "$(course drop)" ] || fail "options do nothing"
log "muon, layer drop, lora"

# ---- warm-up, stable, decay: a run whose length is decided on the way
wsd=(--schedule wsd --decay 5 --save-every 3)
quietly fresh_run wsd 16 "${wsd[@]}"
started wsd-changed 400 "${wsd[@]}"
wait_for_rows wsd-changed 6
kill -STOP $pid
[ "$(rows wsd-changed)" -le 11 ] || log "the machine was too fast for the change of wsd's length; taken as it is"
kill -9 $pid
wait $pid 2>/dev/null || true
if [ "$(rows wsd-changed)" -le 11 ]; then
    expect 0 'going on after step' fresh_run wsd-changed 16 "${wsd[@]}"
    same_result wsd wsd-changed
else
    rm -r "$work/wsd-changed.partial"
fi
log "wsd"

# ---- other ways to compute the same
quietly fresh_run composed 12 --operators composed
quietly fresh_run recomputed 12 --recompute
quietly fresh_run plain 12
quietly fresh_run threads 12 -t 2
below "$(losses_differ plain composed)" 1e-3 || fail "composed operators give other losses"
same_result plain recomputed
below "$(losses_differ plain threads)" 1e-4 || fail "two threads give other losses"
quietly fresh_run bf16 12 --precision bf16
below "$(losses_differ plain bf16)" 0.05 || fail "bf16 is $(losses_differ plain bf16) off"
quietly fresh_run micro 12 --micro-batch 3
below "$(losses_differ plain micro)" 1e-4 || fail "micro-batches give other losses"
log "composed, recomputed, threads, bf16, micro-batches"

# ---- two ranks
quietly fresh_run ranks 12 --ranks 2
below "$(losses_differ plain ranks)" 1e-4 || fail "two ranks are $(losses_differ plain ranks) off"
[ "$(ls "$work"/skiff_ranks_* 2>/dev/null | wc -l)" = 0 ] || fail "the meeting file is left"
expect 2 'multiple of the number of ranks' fresh_run x 5 --ranks 5
expect 2 'give --rank too' fresh_run x 5 --ranks 2 --meeting "$work/meeting"
# Started by hand.
fresh_run by-hand 12 --ranks 2 --rank 1 --meeting "$work/meeting" >"$work/log1" 2>&1 &
other=$!
fresh_run by-hand 12 --ranks 2 --rank 0 --meeting "$work/meeting" >"$work/log" 2>&1 || fail "$(cat "$work/log" "$work/log1")"
wait $other || fail "rank 1: $(cat "$work/log1")"
cmp "$work/ranks/model.safetensors" "$work/by-hand/model.safetensors" || fail "ranks started by hand give another model"
# One dies: the other ends with a message, and the work goes on from the last state.
started dying 2000 --ranks 2 --save-every 2
wait_for_rows dying 5
child=$(pgrep -P $pid | head -1)
[ -n "$child" ] || fail "no second process"
kill -9 "$child"
rc=0
wait $pid || rc=$?
[ $rc = 1 ] || fail "exit $rc after a rank died: $(cat "$work/dying.log")"
grep -q 'another rank is gone' "$work/dying.log" || fail "no word about the rank that died: $(cat "$work/dying.log")"
[ -s "$work/dying.partial/state.safetensors" ] || fail "the state is gone with the rank"
# The first dies: the others do not stay behind.
started orphans 2000 --ranks 2
wait_for_rows orphans 3
child=$(pgrep -P $pid | head -1)
kill -9 $pid
wait $pid 2>/dev/null || true
tries=0
while kill -0 "$child" 2>/dev/null && [ $tries -lt 200 ]; do sleep 0.05; tries=$((tries + 1)); done
! kill -0 "$child" 2>/dev/null || { kill -9 "$child"; fail "a rank stays behind when the first dies"; }
rm -rf "$work"/dying.partial "$work"/orphans.partial
log "ranks"

# ---- adapters for a trained model
go_on() { "$SKIFF" train "$work/whole" --data "$work/other.txt" --batch 4 -c 64 --lr 1e-3 -t 1 --precision f32 --steps 4 "$@"; }
expect 0 'LoRA: 14 weights get adapters of rank 4' go_on -o "$work/merged" --lora 4
expect 0 'wrote' go_on -o "$work/adapter" --lora 4 --lora-output adapter --lora-target q_proj --lora-target v_proj
[ -s "$work/adapter/adapter_model.safetensors" ] && grep -q '"r": 4' "$work/adapter/adapter_config.json" && [ ! -e "$work/adapter/model.safetensors" ] || fail "not an adapter: $(ls "$work/adapter")"
[ "$(course merged)" != "$(course adapter)" ] || fail "--lora-target does nothing"
expect 2 'no linear weight of the blocks matches' go_on -o "$work/x" --lora 4 --lora-target nothing
expect 2 'LoRA rank 65 is more than' go_on -o "$work/x" --lora 65
expect 2 'need --lora RANK' go_on -o "$work/x" --lora-output adapter
log "adapters"

# ---- the result runs, and eval finds the loss that training found
expect 0 '' "$SKIFF" run "$work/whole" --raw -p "The " -n 8 --temp 0
expect 0 '' "$SKIFF" run "$work/merged" --raw -p "The " -n 8 --temp 0
expect 0 'the model writes' fresh_run sampled 5 --sample-every 4 --sample-tokens 4
"$SKIFF" eval "$work/whole" --text "$work/other.txt" --window 65 --json >"$work/json" 2>/dev/null
# Both predict 64 tokens from what stands before them in the window. They differ a little: training's windows overlap by the one token that is target in one
# and input in the next, eval's lie side by side, so the text is cut at other places; and eval takes the weights as they were written, in bf16.
measured=$(tr -d '\n' < "$work/json" | sed -n 's/.*"perplexity": *{[^}]*"value": *\([0-9.]*\).*/\1/p')
trained=$(tail -1 "$work/whole/validation.csv" | cut -d, -f3)
awk -v p="$measured" -v l="$trained" 'BEGIN { r = p / exp(l); exit !(r > 0.99 && r < 1.01) }' || fail "eval's perplexity $measured, training's loss $trained"
log "run and eval ($measured, $trained)"

# ---- texts in other forms
{ printf '{"text": "%s"}\n' "A first document of a few words." "And another one."; tr -d '"\\\n' < "$work/other.txt" | sed 's/.*/{"text": "&"}/'; echo; } > "$work/lines.jsonl"
expect 0 'packed 3 documents' fresh_run jsonl 5 --data "$work/lines.jsonl"
pack() { "$SKIFF" train "$fresh" --tokenizer "$work/tok" "$@"; }
expect 0 "wrote $work/corpus.tokens" pack --data "$work/corpus.txt" --pack "$work/corpus.tokens"
expect 2 'already exists' pack --data "$work/corpus.txt" --pack "$work/corpus.tokens"
expect 0 'wrote' pack --data "$work/corpus.txt" --data "$work/lines.jsonl" --pack "$work/corpus.tokens" --force
expect 0 'wrote' pack --data "$work/corpus.txt" --pack "$work/corpus.tokens" --force
expect 2 'must end in .tokens' pack --data "$work/corpus.txt" --pack "$work/corpus.bin"
expect 2 'is packed already' pack --data "$work/corpus.tokens" --pack "$work/again.tokens"
expect 2 'texts need a tokenizer' "$SKIFF" train "$fresh" --data "$work/corpus.txt" --pack "$work/x.tokens"
expect 0 'wrote' "$SKIFF" train "$work/whole" --data "$work/corpus.txt" --pack "$work/own.tokens"
cmp "$work/corpus.tokens" "$work/own.tokens" || fail "packed with the model's own tokenizer the tokens are others"
expect 0 'wrote' fresh_run packed 12 --data "$work/corpus.tokens"
same_result plain packed
# A packed file tells its tokenizer; weights alone can be trained on it without one.
quietly "$SKIFF" train-tokenizer "$work/other.txt" -o "$work/tok2" --vocab-size 320
expect 2 'another tokenizer' fresh_run x 5 --tokenizer "$work/tok2" --data "$work/corpus.tokens"
expect 0 'wrote' "$SKIFF" train "$fresh" --data "$work/corpus.tokens" --batch 2 -c 64 -t 1 -o "$work/bare" --steps 2
log "jsonl and packed texts"

# ---- going on with a checkpoint, a quantized one, a pruned one
expect 0 'wrote' go_on -o "$work/more"
quietly "$SKIFF" quantize "$work/whole" -o "$work/coded" --scheme w8g32
expect 0 'wrote' "$SKIFF" train "$work/coded" --data "$work/other.txt" --batch 4 -c 64 -t 1 --steps 4 -o "$work/from-coded"
! grep -q quantization_config "$work/from-coded/config.json" || fail "the trained model still says it is quantized"
grep -q '"train"' "$work/from-coded/skiff.json" && grep -q quantize "$work/from-coded/skiff.json" || fail "the manifest forgets a step: $(cat "$work/from-coded/skiff.json")"
expect 0 '' "$SKIFF" run "$work/from-coded" --raw -p "The " -n 4 --temp 0
# Zeros for the first half of one weight, written into the file.
cp -r "$work/whole" "$work/pruned"
tensor=model.layers.1.mlp.up_proj.weight
place() { # FOLDER: sets begin and bytes of the tensor's first half
    local header
    header=$(od -An -t u8 -N 8 "$1/model.safetensors" | tr -d ' ')
    set -- $(dd if="$1/model.safetensors" bs=1 skip=8 count="$header" 2>/dev/null | tr -d '\n' | sed -n "s/.*\"$tensor\": *{[^}]*\"data_offsets\": *\[ *\([0-9]*\) *, *\([0-9]*\) *\].*/\1 \2/p")
    begin=$((8 + header + $1))
    bytes=$((($2 - $1) / 2))
}
place "$work/pruned"
dd if=/dev/zero of="$work/pruned/model.safetensors" bs=1 seek=$begin count=$bytes conv=notrunc 2>/dev/null
from_pruned() { "$SKIFF" train "$work/pruned" --data "$work/other.txt" --batch 4 -c 64 -t 1 --steps 4 -o "$work/$1" "${@:2}"; }
n_set() { place "$1"; dd if="$1/model.safetensors" bs=1 skip=$begin count=$bytes 2>/dev/null | tr -d '\0' | wc -c; }
expect 0 'the zeros of 1 pruned tensors are kept' from_pruned kept
[ "$(n_set "$work/kept")" = 0 ] || fail "zeros were not kept"
expect 0 'wrote' from_pruned filled --zeros train
[ "$(n_set "$work/filled")" -gt 100 ] || fail "--zeros train leaves them zero"
expect 0 'wrote' from_pruned pruned-lora --lora 4 --lr 1e-2
[ "$(n_set "$work/pruned-lora")" = 0 ] || fail "merged adapters filled the zeros"
expect 0 'wrote' from_pruned pruned-adapter --lora 4 --lora-output adapter
log "checkpoints"

# ---- what is refused
expect 2 'give the text to train on with --data' "$SKIFF" train "$fresh" --tokenizer "$work/tok" -o "$work/x"
expect 2 'give the folder to write with -o' "$SKIFF" train "$fresh" --tokenizer "$work/tok" --data "$work/corpus.txt"
expect 2 'texts need a tokenizer' "$SKIFF" train "$fresh" --data "$work/corpus.txt" -o "$work/x"
expect 2 'is more than the model'"'"'s 128 positions' fresh_run x 5 -c 129
expect 2 'already exists' fresh_run whole 30
head -c 60 "$work/corpus.txt" > "$work/short.txt"
expect 2 'fewer than one window of 64' fresh_run x 5 --data "$work/short.txt"
expect 2 'fewer than one window of 64' fresh_run x 5 --valid "$work/short.txt"
head -c 4000 "$work/corpus.tokens" > "$work/corpus.bin"
expect 2 'corpus.bin: expected a text' fresh_run x 5 --data "$work/corpus.bin"
expect 3 'nowhere.txt' fresh_run x 5 --data "$work/nowhere.txt"
head -c 1000 "$work/corpus.tokens" > "$work/cut.tokens"
expect 5 'cut.tokens' fresh_run x 5 --data "$work/cut.tokens"
sed 's/"vocab_size": 320/"vocab_size": 300/' "$work/config.json" > "$work/smaller.json"
expect 2 'the tokenizer has 320 tokens, the model 300' "$SKIFF" train "random:$work/smaller.json" --tokenizer "$work/tok" --data "$work/corpus.txt" -o "$work/x"
expect 2 'expected auto, F32, F16 or BF16' fresh_run x 5 --dtype I8
expect 2 'expected auto, F32, F16 or BF16' fresh_run x 5 --dtype F64
expect 2 'cannot be negative' fresh_run x 5 --warmup -1
expect 2 'must not be longer than --steps' fresh_run x 5 --warmup 6
expect 2 '--lr must be' fresh_run x 5 --lr 0
expect 2 '--layer-drop must be' fresh_run x 5 --layer-drop 1
expect 2 'share of --lr' fresh_run x 5 --min-lr 2
expect 2 '--sample-every needs a tokenizer' "$SKIFF" train "$fresh" --data "$work/corpus.tokens" -o "$work/x" --sample-every 1
[ ! -e "$work/x" ] && [ ! -e "$work/x.partial" ] || fail "an error left something behind: $(ls "$work/x.partial")"
# Much too fast.
rc=0
fresh_run diverged 300 --lr 1 --warmup 0 --clip 0 --weight-decay 50 --save-every 0 >"$work/stdout" 2>"$work/stderr" || rc=$?
[ $rc = 1 ] && grep -q 'a lower --lr' "$work/stderr" || fail "exit $rc, no word about a loss that is no number: $(tail -2 "$work/stderr")"
expect 0 'wrote' fresh_run whole 5 --force
[ "$(wc -l < "$work/whole/train.csv")" = 6 ] || fail "--force kept the old folder"
log "train refuses what it should; all the rest trains"
