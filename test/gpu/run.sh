#!/usr/bin/env bash
# On a machine with an NVIDIA GPU and CUDA: builds CUDA artifacts by their own Makefiles, runs their self-tests, the goldens
# and compute-sanitizer, tunes, measures, and prints one table. Weights of the sizes of Gemma 2B and 7B
# are random ones, made here (22 GB of disk, and 20 GB of artifacts).
# Usage: test/gpu/run.sh [CHECKPOINT:QUANT …]   (QUANT is bf16, int8 or int4)
# Without a GPU, to try these very steps on the processor:
#   PATH="$PWD/test/gpu/processor:$PATH" test/gpu/run.sh examples/gemma-kjv-2m:int8
set -euo pipefail
cd "$(dirname "$0")/../.."

bandwidth=${GPU_BANDWIDTH:-3.0e12} # bytes a second that decoding's share is told of
flops=${GPU_FLOPS:-989e12}         # dense bf16 operations a second that prefill's share is told of
nvcc=${NVCC:-nvcc}
out=${OUT:-out/gpu}

command -v "$nvcc" > /dev/null || { echo "there is no nvcc; install the CUDA toolkit, or name one in NVCC" >&2; exit 5; }
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null | head -n 1) ||
  { echo "there is no NVIDIA GPU that nvidia-smi knows" >&2; exit 5; }
[ -n "$gpu" ] || { echo "there is no NVIDIA GPU that nvidia-smi knows" >&2; exit 5; }

[ -d node_modules ] || npm ci
npm run --silent build
mkdir -p "$out"
rows=()
failed=0
ended=

# Whatever happens, what is known by then is told.
table() {
  local status=$?
  echo
  echo "$(date +%F), $gpu, $("$nvcc" --version | sed -nE 's/^.*release ([0-9.]+).*/nvcc \1/p')"
  echo
  echo "| what | result | said |"
  echo "| --- | --- | --- |"
  for row in "${rows[@]}"; do echo "| $row |"; done
  [ "$ended" ] || echo "stopped before the end, with $status"
}
trap table EXIT

# artifact NAME CHECKPOINT QUANT: compiles and builds, and says where.
artifact() {
  local dir=$out/$1 quant=()
  [ "$3" = bf16 ] || quant=(--pass "quantize{scheme=$3,block=$([ "$3" = int8 ] && echo 0 || echo 32)}")
  rm -rf "$dir"
  node dist/src/cli/main.js compile "$2" --target cuda --out "$dir" "${quant[@]}" >&2
  make -s -C "$dir" "NVCC=$nvcc" ARCH=-arch=native gemma gemma-test >&2
  echo "$dir"
}

# check NAME COMMAND…: runs it, and keeps what came of it for the table.
check() {
  local name=$1 log=$out/check.log
  shift
  if "$@" > "$log" 2>&1; then
    rows+=("$name | ok | $(grep -E '^(ok|FAILED|========= ERROR SUMMARY)' "$log" | tail -n 1 || true)")
  else
    failed=1
    rows+=("$name | FAILED | $(tail -n 1 "$log")")
    cat "$log" >&2
  fi
}

for quant in bf16 int8 int4; do
  dir=$(artifact "demo-$quant" examples/gemma-kjv-2m "$quant")
  check "self-test by layer, demo $quant" "$dir/gemma-test" --selftest
  check "self-test, demo $quant" "$dir/gemma" --selftest
  sanitizer=$(command -v compute-sanitizer || true)
  for tool in memcheck racecheck initcheck synccheck; do
    if [ -n "$sanitizer" ]; then
      check "$tool, demo $quant" "$sanitizer" --tool "$tool" --error-exitcode 1 \
        "$dir/gemma" --ids 5,6,7,8,9 -n 4 --temperature 1 --seed 1
    else
      rows+=("$tool, demo $quant | skipped | there is no compute-sanitizer")
    fi
  done
done

check "goldens of every model" env GEMMAC_CUDA_GOLDENS=all npx vitest run test/goldens.test.ts -t "on cuda"

models=("$@")
if [ ${#models[@]} -eq 0 ]; then
  for size in gemma-2b gemma-7b; do
    node -e 'import("./test/bench/synthetic.mjs").then((m) => m.synthetic(process.argv[1], process.argv[2]))' "$out" "$size"
  done
  models=("$out/gemma-2b:bf16" "$out/gemma-2b:int8" "$out/gemma-2b:int4" "$out/gemma-7b:int8")
fi
for model in "${models[@]}"; do
  checkpoint=${model%:*} quant=${model##*:}
  name="$(basename "$checkpoint") $quant"
  dir=$(artifact "${name// /-}" "$checkpoint" "$quant")
  check "self-test, $name" "$dir/gemma" --selftest
  check "tuning, $name" "$dir/gemma" --tune
  cat "$out/check.log" >&2
  if ! said=$("$dir/gemma" --bench); then
    failed=1
    rows+=("bench, $name | FAILED |")
    continue
  fi
  echo "$said" >&2
  rate=$(sed -nE 's/^decode after [0-9]+: ([0-9.]+) tokens.*/\1/p' <<< "$said")
  prefill=$(sed -nE 's/^prefill [0-9]+: ([0-9.]+) tokens.*/\1/p' <<< "$said")
  bytes=$(sed -nE 's/^#define BYTES_PER_TOKEN ([0-9.]+)$/\1/p' "$dir/gemma.cu")
  # Of the layers: of many tokens only the last is scored.
  work=$(node -p 'const c = JSON.parse(require("fs").readFileSync(process.argv[1]));
    2 * c.num_hidden_layers * c.hidden_size * (2 * c.head_dim * (c.num_attention_heads + c.num_key_value_heads) + 3 * c.intermediate_size)' \
    "$checkpoint/config.json")
  share() { awk -v a="$1" -v b="$2" -v of="$3" 'BEGIN { printf "%.0f %%", 100 * a * b / of }'; }
  rows+=("decode, $name | $rate tokens/s | $(share "$rate" "$bytes" "$bandwidth") of $bandwidth bytes/s")
  rows+=("prefill, $name | $prefill tokens/s | $(share "$prefill" "$work" "$flops") of $flops operations/s")
done
ended=yes
exit "$failed"
