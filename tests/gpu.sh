#!/bin/bash
# The tests that need a GPU. Builds nothing: `pack` collects here what was built, the other words run
# on the machine with the GPU, from the repository's root with build/gpu.tar.xz beside the sources.
#
#   tests/gpu.sh pack [TEXT] [MODEL...]   collects into build/gpu.tar.xz: TEXT is a file for the
#                              perplexity, MODELs are checkpoints with a reference.json for `formats`
#   tests/gpu.sh kernels       every kernel against the oracle at ragged shapes
#   tests/gpu.sh bench [OPTIONS]  kernels of linear layers at the shapes of real models, checked and
#                              timed beside reading their bytes and the dense product (the head of
#                              tests/gpu_kernels_bench.c tells the options)
#   tests/gpu.sh ncu           issue slots and bytes of the three hottest kernels
#   tests/gpu.sh model         the sample against samples/storyteller/reference.json
#   tests/gpu.sh formats [NAME...]   the fixtures (those named) and packed models, compiled and checked
#   tests/gpu.sh oracle SHAPE [OPTIONS]  two layers of that shape against the oracle, all positions
#   tests/gpu.sh sanitize      compute-sanitizer: memcheck and racecheck on kernels and model
#   tests/gpu.sh large [SHAPE [OPTIONS]]  writes a checkpoint of that shape (llama-3.1-8b) with these
#                              options of make-checkpoint, compiles it, times it
#   tests/gpu.sh serve [SHAPE [OPTIONS]]  the server of such a model: its start, and under load
#   tests/gpu.sh drafts        answers with drafts are those without; what they save
#   tests/gpu.sh life [sample|large]  planted faults, PTX, memory, starts (tests/gpu_life.sh)
#   tests/gpu.sh all           all of them but `serve`, `drafts` and `life`
set -eu
cd "$(dirname "$0")/.."
folder=build/gpu

pack() {
    rm -rf "$folder"
    mkdir -p "$folder"
    strip -o "$folder/gptq-compile" build/gptq-compile
    cp build/make-checkpoint "$folder/"
    strip -o "$folder/oracle_logits" build/tests/oracle_logits
    strip -o "$folder/plant" build/tests/plant
    build/gptq-compile samples/storyteller -o "$folder/storyteller" --target cpu,sm_90a --progress none
    build/gptq-compile samples/storyteller -o "$folder/storyteller-invariant" --target cpu,sm_90a --batch-invariant \
        --progress none
    for program in build/tests/gpu_*; do
        case $program in
        *.o) ;;
        *) strip -o "$folder/$(basename "$program")" "$program" ;;
        esac
    done
    if [ $# -gt 0 ]; then
        cp "$1" "$folder/text.txt"
        shift
    fi
    mkdir "$folder/models"
    [ $# -eq 0 ] || cp -rL "$@" "$folder/models/"
    # the programs are nearly the same: the dictionary must reach from one to the next
    tar -C build -cf - gpu | xz -T1 --lzma2=preset=4,dict=128MiB >build/gpu.tar.xz
    ls -l build/gpu.tar.xz
}

unpack() {
    [ -d "$folder" ] || tar -C build -xf build/gpu.tar.xz
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
}

kernels() {
    local program failed=0
    for program in "$folder"/gpu_*; do
        [ -x "$program" ] && [ "$program" != "$folder/gpu_kernels_bench" ] || continue
        echo "== $(basename "$program")"
        "$program" || failed=1
    done
    return $failed
}

# Where cuBLAS is: with the toolkit, or with PyTorch.
cublas() {
    local dir
    for dir in /usr/local/cuda*/lib64 /usr/local/cuda*/targets/x86_64-linux/lib \
        "$(python3 -c 'import os, torch; print(os.path.dirname(torch.__path__[0]))')"/nvidia/*/lib; do
        if compgen -G "$dir/libcublas.so.1?" >/dev/null; then
            echo "$dir"
            return
        fi
    done 2>/dev/null
}

bench() {
    LD_LIBRARY_PATH="$(cublas):${LD_LIBRARY_PATH:-}" "$folder/gpu_kernels_bench" "$@"
}

ncu() {
    local tool metrics tokens
    tool=$(type -P ncu || compgen -G '/usr/local/cuda*/bin/ncu' | tail -1) || true
    if [ -z "$tool" ]; then
        echo "skipped: no ncu on this machine"
        return
    fi
    metrics=gpu__time_duration.sum,smsp__issue_active.avg.pct_of_peak_sustained_active
    metrics+=,smsp__inst_executed.sum,dram__bytes_read.sum,dram__bytes_write.sum
    metrics+=,dram__throughput.avg.pct_of_peak_sustained_elapsed
    metrics+=,sm__inst_executed_pipe_tensor.sum,sm__warps_active.avg.pct_of_peak_sustained_active
    metrics+=,sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active
    for tokens in 1 64 2048; do
        echo "== 8B gate_up, $tokens tokens"
        "$tool" --clock-control none --kernel-name regex:linear --metrics "$metrics" \
            "$folder/gpu_kernels_bench" --set peers --layer '8B gate_up' --tokens "$tokens" \
            --chosen --check --own-dense | grep -v '^==PROF=='
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

formats() {
    local model name tolerance out=/tmp/gptq-compile-formats words
    mkdir -p "$out"
    for model in tests/vectors/fixtures/*/ "$folder"/models/*/; do
        [ -f "$model/reference.json" ] || continue
        name=$(basename "$model")
        [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
        tolerance=4e-3
        [[ $name != *bf16* ]] || tolerance=2e-2
        if ! "$folder/gptq-compile" "$model" -o "$out/$name" --target sm_90a --progress none; then
            echo "not ok $name: compile failed"
            continue
        fi
        words=()
        [[ $model != "$folder"* ]] || words=(--text "$folder/text.txt")
        python3 tests/check_reference.py "$out/$name" "$model/reference.json" --device cuda:0 \
            --name "$name on cuda:0" --tolerance "$tolerance" "${words[@]}" || true
    done
}

oracle() {
    local shape=$1 dir=/tmp/gptq-compile-oracle ids=1,2,3,700,5,6,7,8,9,10,11,500,13,14,15,16,17,18,19,20
    shift
    "$folder/make-checkpoint" "$shape" "$dir" --layers 2 "$@" >/dev/null
    "$folder/gptq-compile" "$dir" -o "$dir.out" --target sm_90a --progress none
    "$folder/oracle_logits" "$dir" "$ids" "$dir.expected"
    "$dir.out" logits --ids "$ids" --all -o "$dir.found" --device cuda:0
    echo "$shape $* on cuda:0: worst relative L2 of 20 positions to the oracle" \
        "$(python3 tests/check_logits.py "$dir.found" "$dir.expected" 20 median)"
    rm -rf "$dir" "$dir".*
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
    [ $# -eq 0 ] || shift
    mkdir -p "$dir"
    time "$folder/make-checkpoint" "$shape" "$dir/$shape" "$@"
    time "$folder/gptq-compile" "$dir/$shape" -o "$dir/$shape.out" --target sm_90a --max-seq-len 8192 \
        --progress plain
    "$dir/$shape.out" run -p "abc def" -n 8 --ignore-eos --stats --device cuda:0 --temp 0
    "$dir/$shape.out" bench -p 512 -n 128 -b 1,8,16 --device cuda:0
    "$dir/$shape.out" bench -p 1024 -n 64 -b 1 --device cuda:0 --json
}

# serve_start LOG EXECUTABLE OPTIONS...: seconds from the start of a process to its first 200 at /health; the
# server goes on: $pid, $url.
serve_start() {
    local log=$1 exe=$2 start
    shift 2
    start=$(date +%s.%N)
    "$exe" serve --port 18080 --device cuda:0 "$@" 2>"$log" &
    pid=$!
    url=http://127.0.0.1:18080
    until curl -fs -o /dev/null "$url/health"; do
        kill -0 "$pid" || { cat "$log"; return 1; }
        sleep 0.01
    done
    echo "/health answers 200 after $(python3 -c "import time; print(round(time.time() - $start, 2))") s"
    grep '^ready' "$log"
}

# Answers with drafts are the ones without: one after the other, and several at once where batches do not
# change the bits of prompts. Then what drafts save where a text repeats itself.
drafts() {
    local dir=/tmp/gptq-compile-drafts exe name words log at_once failed=0
    local draw="-n 1500 --temp 0 --repeat-penalty 1 --ignore-eos --device cuda:0 --json --stats"
    mkdir -p "$dir"
    cp "$folder/storyteller" "$folder/storyteller-invariant" "$dir/"
    log=$dir/log
    for exe in "$dir/storyteller" "$dir/storyteller-invariant"; do
        at_once=1
        [ "$exe" = "$dir/storyteller" ] || at_once=3
        for name in plain drafted; do
            words=()
            [ $name = plain ] || words=(--speculate 8)
            serve_start "$log" "$exe" "${words[@]}"
            python3 tests/serve_answers.py "$url" 12 "$at_once" >"$exe.$name"
            kill "$pid"
            wait "$pid"
        done
        python3 tests/serve_answers.py "$exe.plain" "$exe.drafted" spec_decode_num_draft_tokens_total \
            spec_decode_num_accepted_tokens_total && echo "ok drafts of $(basename "$exe")" || failed=1
    done
    for words in 0 4 8 15; do
        # shellcheck disable=SC2086
        "$dir/storyteller" --raw -p 'The old king went to the sea, and the old king' $draw --speculate $words \
            >"$dir/answer.$words"
        same_ids "$dir/answer.0" "$dir/answer.$words" || { echo "not ok --speculate $words: other ids"; failed=1; }
    done
    return $failed
}

same_ids() {
    python3 -c 'import json, sys; one, other = (json.load(open(name))["ids"] for name in sys.argv[1:])
sys.exit(one != other or len(one) < 100)' "$@"
}

serve() {
    local shape=${1:-llama-3.1-8b} dir=/tmp/gptq-compile-serve log=/tmp/gptq-compile-serve.log
    local load="--prompt-tokens 512 --output-tokens 128 --vocab 120000"
    [ $# -eq 0 ] || shift
    mkdir -p "$dir"
    [ -d "$dir/$shape" ] || "$folder/make-checkpoint" "$shape" "$dir/$shape" "$@"
    [ -x "$dir/$shape.out" ] || "$folder/gptq-compile" "$dir/$shape" -o "$dir/$shape.out" --target sm_90a \
        --max-seq-len 2048 --max-batch-size 256 --progress plain
    cat "$dir/$shape.out" >/dev/null # into the page cache
    serve_start "$log" "$dir/$shape.out"
    python3 tests/serve_load.py "$url" --concurrency 8 --requests 16 $load >/dev/null # warm
    python3 tests/serve_load.py "$url" --concurrency 1 --requests 16 $load
    python3 tests/serve_load.py "$url" --concurrency 8,64,256 --requests 256 $load
    python3 tests/serve_load.py "$url" --concurrency 64 --seconds 10 --prompts 64 --check --pid "$pid" $load
    python3 tests/serve_load.py "$url" --concurrency 64 --decode --json --prompt-tokens 512 --output-tokens 512 \
        --vocab 120000 >"$dir/decode.json"
    kill "$pid"
    wait "$pid"
    python3 tests/serve_load.py "$dir/decode.json" --against "$dir/$shape.out bench --device cuda:0"
    "$dir/$shape.out" bench -p 512 -n 128 -b 1,64 --device cuda:0
    drafts
}

life() {
    bash tests/gpu_life.sh "$@"
}

word=${1:-all}
[ $# -eq 0 ] || shift
case $word in
pack) pack "$@" ;;
kernels | bench | ncu | model | formats | oracle | sanitize | large | serve | drafts | life)
    unpack
    "$word" "$@"
    ;;
all)
    unpack
    kernels
    bench
    model
    formats
    sanitize
    large
    ;;
*)
    sed -n '2,24s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
