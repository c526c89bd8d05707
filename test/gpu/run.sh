#!/usr/bin/env bash
# On a machine with an NVIDIA GPU and CUDA: builds CUDA artifacts by their own Makefiles, runs their self-tests, the goldens
# and compute-sanitizer, tunes, measures, and prints one table. What fails becomes a row of it, and the next step begins.
# Weights of the sizes of Gemma 2B and 7B are random ones, made here (22 GB of disk, and 30 GB of artifacts).
# Usage: test/gpu/run.sh [CHECKPOINT:QUANT[:CACHE] …]   (QUANT is bf16, int8 or int4; CACHE is f32, f16, bf16, or rounded for
# --arithmetic bf16, which rounds what prefill multiplies and makes the caches bf16)
# Without a GPU, to try these very steps on the processor, as the gate does with fewer of them:
#   PATH="$PWD/test/gpu/processor:$PATH" test/gpu/run.sh examples/gemma-kjv-2m:int8
set -uo pipefail
cd "$(dirname "$0")/../.."

bandwidth=${GPU_BANDWIDTH:-3.0e12} # bytes a second that decoding's share is told of
flops=${GPU_FLOPS:-989e12}         # dense bf16 operations a second that prefill's share is told of
nvcc=${NVCC:-nvcc}
out=${OUT:-out/gpu}
demos=${DEMOS-bf16 bf16:rounded int8 int8:rounded int4} # weights, and caches, that the demo model is tried with
goldens=${GOLDENS:-on cuda}        # which goldens, by their names

command -v "$nvcc" > /dev/null || { echo "there is no nvcc; install the CUDA toolkit, or name one in NVCC" >&2; exit 5; }
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null | head -n 1) ||
  { echo "there is no NVIDIA GPU that nvidia-smi knows" >&2; exit 5; }
[ -n "$gpu" ] || { echo "there is no NVIDIA GPU that nvidia-smi knows" >&2; exit 5; }

node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2> /dev/null || { echo "there is no Node 20 or later" >&2; exit 5; }
[ -d node_modules ] || npm ci || exit
npm run --silent build && mkdir -p "$out" || exit
rows=()
failed=0
ended=

# Whatever happens, what is known by then is told.
table() {
  local status=$?
  echo
  echo "$(date +%F), $gpu, $("$nvcc" --version | sed -nE 's/^.*release ([0-9.]+).*/nvcc \1/p')"
  [[ $gpu != "no GPU"* ]] || echo "A stand-in ran all this on the processor: its figures say nothing of any GPU."
  echo
  echo "| what | result | said |"
  echo "| --- | --- | --- |"
  for row in "${rows[@]}"; do echo "| $row |"; done
  [ "$ended" ] || echo "stopped before the end, with $status"
}
trap table EXIT

# check NAME COMMAND…: runs it, and keeps what came of it for the table.
check() {
  local name=$1 log=$out/check.log
  shift
  if "$@" > "$log" 2>&1; then
    rows+=("$name | ok | $(grep -E '^(ok|FAILED|========= ERROR SUMMARY|verified)' "$log" | tail -n 1)")
    return 0
  fi
  failed=1
  rows+=("$name | FAILED | $(grep -v '^ *$' "$log" | tail -n 1 | cut -c 1-300)")
  cat "$log" >&2
  return 1
}

# artifact NAME CHECKPOINT QUANT CACHE: compiles, without its proof if that fails, and builds; `dir` says where.
artifact() {
  local passes=()
  dir=$out/${1//[ ,]/-}
  [ "$3" = bf16 ] || passes+=(--pass "quantize{scheme=$3,block=$([ "$3" = int8 ] && echo 0 || echo 32)}")
  case $4 in
    rounded) passes+=(--arithmetic bf16) ;;
    f16 | bf16) passes+=(--pass "narrow-caches{dtype=$4}") ;;
  esac
  local compile=(node dist/src/cli/main.js compile "$2" --target cuda --out "$dir" --force "${passes[@]}")
  check "compile and prove, $1" "${compile[@]}" || check "compile unproven, $1" "${compile[@]}" --no-verify || return
  check "build, $1" make -s -C "$dir" "NVCC=$nvcc" ARCH=-arch=native gemma gemma-test
}

# bench NAME CHECKPOINT: speed, and its share of what the GPU can do.
bench() {
  check "bench, $1" "$dir/gemma" --bench || return
  cat "$out/check.log" >&2
  unset 'rows[-1]'
  local rate prefill bytes work
  rate=$(sed -nE 's/^decode after [0-9]+: ([0-9.]+) tokens.*/\1/p' "$out/check.log")
  prefill=$(sed -nE 's/^prefill [0-9]+: ([0-9.]+) tokens.*/\1/p' "$out/check.log")
  bytes=$(sed -nE 's/^#define BYTES_PER_TOKEN ([0-9.]+)$/\1/p' "$dir/gemma.cu")
  # Of the layers: of many tokens only the last is scored.
  work=$(node -p 'const c = JSON.parse(require("fs").readFileSync(process.argv[1]));
    2 * c.num_hidden_layers * c.hidden_size * (2 * c.head_dim * (c.num_attention_heads + c.num_key_value_heads) + 3 * c.intermediate_size)' \
    "$2/config.json")
  share() { awk -v a="$1" -v b="$2" -v of="$3" 'BEGIN { printf "%.0f %%", 100 * a * b / of }'; }
  rows+=("decode, $1 | $rate tokens/s | $(share "$rate" "$bytes" "$bandwidth") of $bandwidth bytes/s")
  rows+=("prefill, $1 | $prefill tokens/s | $(share "$prefill" "$work" "$flops") of $flops operations/s")
}

for demo in $demos; do
  IFS=: read -r quant cache <<< "$demo"
  name="demo $quant${cache:+, $cache}"
  artifact "$name" examples/gemma-kjv-2m "$quant" "${cache:-f32}" || continue
  check "self-test by layer, $name" "$dir/gemma-test" --selftest
  check "self-test, $name" "$dir/gemma" --selftest
  sanitizer=$(command -v compute-sanitizer)
  for tool in memcheck racecheck initcheck synccheck; do
    if [ -n "$sanitizer" ]; then
      check "$tool, $name" "$sanitizer" --tool "$tool" --error-exitcode 1 \
        "$dir/gemma" --ids 5,6,7,8,9 -n 4 --temperature 1 --seed 1
    else
      rows+=("$tool, $name | skipped | there is no compute-sanitizer")
    fi
  done
done

check "goldens" env GEMMAC_GOLDENS=all npx vitest run test/goldens.test.ts -t "$goldens"

models=("$@")
if [ ${#models[@]} -eq 0 ]; then
  for size in gemma-2b gemma-7b; do
    check "random weights, $size" \
      node -e 'import("./test/bench/synthetic.mjs").then((m) => m.synthetic(process.argv[1], process.argv[2]))' "$out" "$size"
  done
  models=()
  for model in gemma-2b:bf16:rounded gemma-2b:bf16 gemma-2b:int8:rounded gemma-2b:int4:rounded gemma-7b:int8:rounded gemma-7b:int8; do
    models+=("$out/$model")
  done
fi
for model in "${models[@]}"; do
  IFS=: read -r checkpoint quant cache <<< "$model"
  name="$(basename "$checkpoint") $quant${cache:+, $cache}"
  artifact "$name" "$checkpoint" "$quant" "${cache:-f32}" || continue
  check "self-test, $name" "$dir/gemma" --selftest
  check "tuning, $name" "$dir/gemma" --tune
  cat "$out/check.log" >&2
  bench "$name" "$checkpoint"
  if [ "$quant" = bf16 ] && check "build with cuBLASLt, $name" \
    make -s -B -C "$dir" "NVCC=$nvcc" ARCH=-arch=native CUBLASLT=1 gemma; then
    check "self-test with cuBLASLt, $name" "$dir/gemma" --selftest
    bench "$name with cuBLASLt" "$checkpoint"
  fi
done
ended=yes
exit "$failed"
