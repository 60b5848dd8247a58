#!/usr/bin/env bash
# bench/gpu_suite with programs that only say what they are told to: what it keeps, what it does again, when it fails. No GPU is needed.
# timeout: 120
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; [ ! -f "$work/log" ] || cat "$work/log"; exit 1; }
mkdir -p "$work/build/bin" "$work/tools"
cat >"$work/build/bin/skiff" <<'END'
#!/usr/bin/env bash
case $1 in
    doctor) echo "{\"devices\": [{\"name\": \"NVIDIA Test\", \"usable\": ${FAKE_USABLE:-true}}]}" ;;
    run) case "$*" in *cuda*) echo "${FAKE_TEXT:-Once there was a girl who had a ball.}" ;; *) echo "Once there was a girl who had a dog." ;; esac ;;
    eval) case "$*" in *cuda*) value=${FAKE_PERPLEXITY-17.42} ;; *) value=17.4 ;; esac; printf '{\n  "model": {"path": "x"},\n  "perplexity": {\n    "value": %s,\n    "tokens": 8\n  }\n}\n' "$value" ;;
    bench) printf '{\n  "results": [1]\n}\n' ;;
esac
END
cat >"$work/build/bin/cuda_sweep" <<'END'
#!/usr/bin/env bash
echo "$*" >>"${0%/bin/*}/sweeps"
echo "{\"part\": \"$1\", \"us\": 1.5}"
[ "$*" != "${FAKE_SLOW:-}" ] || exec sleep 60
[ "$*" != "${FAKE_BAD:-}" ] || exit 3
END
printf '#!/usr/bin/env bash\necho ok\n' | tee "$work/build/cuda_device_tests" >"$work/build/backend_tests"
# shellcheck disable=SC2016
printf '#!/usr/bin/env bash\necho "$*" >>"${0%%/*}/calls"\n' >"$work/tools/compute-sanitizer"
chmod +x "$work"/build/bin/* "$work"/build/*_tests "$work/tools/compute-sanitizer"
suite() {  # STATUS STAGE...
    local wanted=$1 status=0; shift
    PATH=$work/tools:$PATH SKIFF_CUDA_LIBRARIES=$work BUILD=$work/build RESULTS=$work/results bash "$SKIFF_SOURCE_DIR/bench/gpu_suite" "$@" >"$work/log" 2>&1 || status=$?
    [ $status = "$wanted" ] || fail "exit $status instead of $wanted: gpu_suite $*"
}
kept() { grep -c -- "$2" "$work/results/gpu-nvidia-test-$1.jsonl" || true; }

FAKE_USABLE=false suite 77 test
suite 0
for stage in test sanitize sweep e2e; do [ "$(kept $stage '"status": 0')" -gt 3 ] || fail "stage $stage kept nothing"; done
[ "$(kept test '"processor": 17.4, "device": 17.42')" = 2 ] || fail "the perplexities of the model and of calibration are not kept"
[ "$(kept sweep '"of": "gemv-w4g128"')" = 1 ] || fail "a sweep's lines are not kept"
[ "$(wc -l <"$work/tools/calls")" = 7 ] || fail "the sanitizer was not called for every tool"

# Again: everything is there.
before=$(wc -l <"$work/build/sweeps")
suite 0
[ "$(wc -l <"$work/build/sweeps")" = "$before" ] || fail "what was done is done again"

# What must not pass.
rm -r "$work/results"
FAKE_TEXT="Something else entirely, and long." suite 1 test
grep -q "text: FAILED" "$work/log" || fail "another text passes"
suite 0 test
rm -r "$work/results"
FAKE_PERPLEXITY=17.6 suite 1 test
grep -q "perplexity: FAILED" "$work/log" || fail "another perplexity passes"
FAKE_PERPLEXITY=nan suite 1 test
grep -q "perplexity: FAILED" "$work/log" || fail "no perplexity passes"
FAKE_PERPLEXITY='' suite 1 test
mv "$work/build/backend_tests" "$work/build/away"
suite 1 test
grep -q "models: FAILED, there is no" "$work/log" || fail "a missing program passes"
mv "$work/build/away" "$work/build/backend_tests"

# A step that fails keeps its lines, and is done again.
rm -r "$work/results"
FAKE_BAD="gemv w8" suite 1 sweep
[ "$(kept sweep '"of": "gemv-w8", "partial": true')" = 1 ] && [ "$(kept sweep '"step": "gemv-w8", "status": 3')" = 1 ] || fail "the lines of a failed step are lost"
suite 0 sweep

# What the stage's end cuts short is left, not failed.
rm -r "$work/results"
FAKE_SLOW="gemv bf16" STAGE_SECONDS=7 suite 75 sweep
grep -q "gemv-bf16: left for the next time" "$work/log" || fail "a step that the stage's end cuts short is not left"
[ "$(kept sweep '"step": "gemv-bf16"')" = 0 ] || fail "a step that was cut short has a result"
suite 0 sweep
echo "gpu_suite keeps, resumes, compares and fails as it says"
