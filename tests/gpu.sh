#!/bin/bash
# The tests that need a GPU. Builds nothing: `pack` collects here what was built, the other words run
# on the machine with the GPU, from the repository's root with build/gpu.tar.xz beside the sources.
#
#   tests/gpu.sh pack [TEXT]   collects into build/gpu.tar.xz (TEXT: a file for the perplexity)
#   tests/gpu.sh kernels       every kernel against the oracle at ragged shapes
#   tests/gpu.sh model         the sample against samples/storyteller/reference.json
#   tests/gpu.sh sanitize      compute-sanitizer: memcheck and racecheck on kernels and model
#   tests/gpu.sh large [SHAPE] writes a checkpoint of that shape (llama-3.1-8b), compiles it, times it
#   tests/gpu.sh all           the four above
set -eu
cd "$(dirname "$0")/.."
folder=build/gpu

pack() {
    rm -rf "$folder"
    mkdir -p "$folder"
    strip -o "$folder/gptq-compile" build/gptq-compile
    cp build/make-checkpoint "$folder/"
    build/gptq-compile samples/storyteller -o "$folder/storyteller" --target cpu,sm_90a --progress none
    for program in build/tests/gpu_*; do
        case $program in
        *.o) ;;
        *) strip -o "$folder/$(basename "$program")" "$program" ;;
        esac
    done
    [ -z "${1:-}" ] || cp "$1" "$folder/text.txt"
    tar -C build -cf - gpu | xz -T0 -3 >build/gpu.tar.xz
    ls -l build/gpu.tar.xz
}

unpack() {
    [ -d "$folder" ] || tar -C build -xf build/gpu.tar.xz
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
}

kernels() {
    local program
    for program in "$folder"/gpu_*; do
        [ -x "$program" ] || continue
        echo "== $(basename "$program")"
        "$program"
    done
}

model() {
    local words=()
    [ ! -f "$folder/text.txt" ] || words=(--text "$folder/text.txt")
    python3 tests/check_reference.py "$folder/storyteller" samples/storyteller/reference.json \
        --device cuda:0 --name "storyteller on cuda:0" "${words[@]}"
    "$folder/storyteller" run -p "Once upon a time" -n 60 --device cuda:0 --stats
    "$folder/storyteller" bench -p 512 -n 128 -b 1,8,16 --device cuda:0
}

sanitize() {
    local tool
    for tool in memcheck racecheck; do
        echo "== compute-sanitizer $tool"
        compute-sanitizer --tool "$tool" --error-exitcode 9 "$folder/storyteller" run \
            -p "Once upon a time" -n 4 --device cuda:0 -c 512
    done
}

large() {
    local shape=${1:-llama-3.1-8b} dir=/tmp/gptq-compile-large
    mkdir -p "$dir"
    time "$folder/make-checkpoint" "$shape" "$dir/$shape"
    time "$folder/gptq-compile" "$dir/$shape" -o "$dir/$shape.out" --target sm_90a --max-seq-len 8192 \
        --progress plain
    "$dir/$shape.out" run -p "abc def" -n 8 --ignore-eos --stats --device cuda:0 --temp 0
    "$dir/$shape.out" bench -p 512 -n 128 -b 1,8,16 --device cuda:0
    "$dir/$shape.out" bench -p 1024 -n 64 -b 1 --device cuda:0 --json
}

word=${1:-all}
[ $# -eq 0 ] || shift
case $word in
pack) pack "$@" ;;
kernels | model | sanitize | large)
    unpack
    "$word" "$@"
    ;;
all)
    unpack
    kernels
    model
    sanitize
    large
    ;;
*)
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
