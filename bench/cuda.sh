#!/usr/bin/env bash
# Runs Sarit on an NVIDIA GPU and keeps what it prints: bits, speed, memory, sanitizers, peers.
#
# Usage: bench/cuda.sh SARIT OUT [STEP...]
#   SARIT   the command, built for this machine (`cargo build --release -p sarit`, stripped)
#   OUT     folder for the output: one file a step, each with card, driver, date and commands
#   STEP    card verify handover speed prefill streams memory sanitizer peers; all without any
#
# Needs the driver, NVRTC (of the CUDA toolkit, or of PyPI's nvidia-cuda-nvrtc in LD_LIBRARY_PATH), and python3 with
# numpy and safetensors for random checkpoints; peers need torch and transformers. MODELS names the folder in which
# models are made (default: OUT/models, 20 GB with all of them).
set -euo pipefail
sarit=$(realpath "$1")
out=$2
shift 2
cd "$(dirname "$0")/.."
models=${MODELS:-$out/models}
mkdir -p "$out" "$models"

say() { printf '\n$ %s\n' "$*"; }

shown() { # COMMAND...: prints it and runs it; a failure is part of the result
    say "$@"
    "$@" 2>&1 || printf 'exit code %s\n' "$?"
}

heading() {
    date -u +%Y-%m-%d
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem --format=csv,noheader
    "$sarit" --version
}

model() { # NAME WEIGHTS: path of a random model of that size, made when it is first needed
    local file="$models/$1-$2.sarit"
    if [ ! -e "$file" ]; then
        [ -e "$models/$1/model.safetensors" ] || python3 bench/checkpoints.py "$models" "$1" >&2
        "$sarit" convert "$models/$1" -o "$file" --weights "$2" >&2
    fi
    echo "$file"
}

golden() { # FOLDER WEIGHTS: path of a golden checkpoint as a model
    local file="$models/golden-$(basename "$1")-$2.sarit"
    [ -e "$file" ] || "$sarit" convert "$1" -o "$file" --weights "$2" >&2
    echo "$file"
}

step_card() {
    shown "$sarit" devices
    shown nvidia-smi
}

# Bits of scalar over 200 tokens, in chunks of 1, 7 and 64, and with the state handed from CPU to GPU to CPU: the bundled
# model, and every golden checkpoint with every type of weights.
step_verify() {
    shown "$sarit" verify --backend cuda
    for folder in tests/golden/*/; do
        [ -e "$folder/golden.safetensors" ] || continue
        for weights in f32 f16 q8 q4; do
            shown "$sarit" verify "$(golden "$folder" "$weights")" --backend cuda
        done
    done
}

# A text read on one back end and asked about on the other.
step_handover() {
    local text="पुणे का तापमान 31 डिग्री सेल्सियस है। पुणे की आर्द्रता 40% है। नागपुर का तापमान 38 डिग्री सेल्सियस है। नागपुर की आर्द्रता 25% है।"
    local question="नागपुर का तापमान क्या है?"
    printf %s "$text" >"$out/text.txt"
    for from in scalar cuda; do
        shown "$sarit" read --context-file "$out/text.txt" -o "$out/$from.state" --backend "$from" --json
        for to in scalar cuda; do
            shown "$sarit" ask --state "$out/$from.state" --question "$question" --backend "$to"
        done
    done
    shown cmp "$out/scalar.state" "$out/cuda.state"
    shown "$sarit" eval qa tests/data/indic-qa/eval.jsonl --backend cuda --json
}

step_speed() {
    for case in "mamba2-130m q8" "mamba-130m q8" "mamba2-130m q4" "mamba-130m q4" "mamba2-130m f16" \
        "mamba2-2.7b q4" "mamba2-2.7b q8"; do
        # shellcheck disable=SC2086
        shown "$sarit" bench "$(model $case)" --backend cuda --prompt 512 --generate 1024 --runs 5 --json
    done
    shown "$sarit" bench --backend cuda --json
}

step_prefill() {
    shown "$sarit" bench "$(model mamba2-130m q8)" --backend cuda --prompt 4096 --generate 32 --runs 5 --json
    shown "$sarit" bench "$(model mamba-130m q8)" --backend cuda --prompt 4096 --generate 32 --runs 5 --json
}

step_streams() {
    for case in "mamba-130m q8" "mamba2-130m q8"; do
        for streams in 8 64; do
            # shellcheck disable=SC2086
            shown "$sarit" bench "$(model $case)" --backend cuda --streams "$streams" --prompt 32 --generate 512 --json
        done
    done
}

# Free device memory before and after 10,000 steps.
step_memory() {
    shown "$sarit" bench "$(model mamba2-130m q8)" --backend cuda --prompt 32 --generate 10000 --runs 1 --json
}

step_sanitizer() {
    local file
    for family in mamba-tiny mamba2-groups jamba-tiny falcon-h1-tiny zamba2-tiny lfm2-tiny nemotron-h-tiny; do
        file=$(golden "tests/golden/$family" q8)
        for tool in memcheck racecheck; do
            shown compute-sanitizer --tool "$tool" --error-exitcode 9 "$sarit" verify "$file" --backend cuda
        done
        shown compute-sanitizer --tool memcheck --error-exitcode 9 "$sarit" bench "$file" --backend cuda \
            --prompt 64 --generate 64 --runs 1
    done
}

step_peers() {
    for name in mamba2-130m mamba-130m; do
        model "$name" q8 >/dev/null
        shown python3 bench/cuda_peer.py "$models/$name"
    done
}

steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(card verify handover speed prefill streams memory sanitizer peers)
for step in "${steps[@]}"; do
    { heading; "step_$step"; } 2>&1 | tee "$out/$step.txt"
done
