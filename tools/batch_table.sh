#!/usr/bin/env bash
# The table that users of GPTQ know: 512 tokens in, 512 out, several sequences at once.
#     tools/batch_table.sh SKIFF MODEL [SCHEME...]
# MODEL: a folder, or random:SHAPE.json, whose plain weights are rounded to each scheme while loading; bf16 stands for weights as they are. Needs jq.
# BATCHES (1 2 4 8 16), THREADS (all physical cores), KERNELS (fastest; or "fastest reference") and TOKENS (512: of the prompt, and of the answer) in the environment.
# Latency is of one token of every sequence, mean over the answer; peak memory is the process', with weights, state and scratch.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,6{s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
skiff=$1 model=$2
shift 2
tokens=${TOKENS:-512}
echo "| scheme | kernels | batch | prompt, tok/s | answer, tok/s | latency per token, ms | peak memory, MiB |"
echo "|---|---|---:|---:|---:|---:|---:|"
[ $# -gt 0 ] || set -- bf16 w8 w4g128 w4g32 w3g32r n2g16r
for scheme in "$@"; do
    for kernels in ${KERNELS:-fastest}; do
        for batch in ${BATCHES:-1 2 4 8 16}; do
            common=("$model" --kernels "$kernels" --threads "${THREADS:-0}" --ctx $((2 * tokens + 8)) --sequences "$batch" -r 1 --json)
            [ "$scheme" = bf16 ] || common+=(--scheme "$scheme")
            prompt=$("$skiff" bench "${common[@]}" -p "$tokens" -n 0)
            answer=$("$skiff" bench "${common[@]}" -p 0 -n "$tokens" -d "$tokens")
            jq -rn --arg scheme "$scheme" --arg kernels "$kernels" --argjson batch "$batch" --argjson prompt "$prompt" --argjson answer "$answer" '
                def fixed($n): . * pow(10; $n) | round / pow(10; $n);
                ($prompt.results[0].tokens_per_s.median) as $in | ($answer.results[0].tokens_per_s.median) as $out
                | "| \($scheme) | \($kernels) | \($batch) | \($in | fixed(1)) | \($out | fixed(1)) | \(1000 * $batch / $out | fixed(2)) | \($answer.peak_memory_bytes / 1048576 | fixed(0)) |"'
        done
    done
done
