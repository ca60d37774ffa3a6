#!/bin/bash
# The life of an executable on a machine with a GPU (`tests/gpu.sh life`): planted faults that only numbers
# can tell, PTX, a file without code for this chip, memory against its table, the speed of starts. One
# line a check: "ok" or "FAILED", what, what was seen. Exit code 1 if one failed.
#
# Words: `sample` (below a minute), `large` (the 8B shape; writes 11 GB to /tmp), none: both.
set -u
cd "$(dirname "$0")/.."
folder=build/gpu
compiler=$folder/gptq-compile
work=/tmp/gptq-compile-life
gpu=(--device cuda:0)
failed=0

row() {
    [ "$1" = ok ] || failed=1
    printf '%-7s %-34s %s\n' "$@"
}

# exits NAME CODE PATTERN COMMAND...: shows the first line of its output that matches.
exits() {
    local name=$1 code=$2 pattern=$3 status=0 seen
    shift 3
    "$@" >"$work/out" 2>&1 </dev/null || status=$?
    seen=$(grep -E -m 1 -- "$pattern" "$work/out" || tail -n 1 "$work/out")
    [ "$status" = "$code" ] && grep -qE -- "$pattern" "$work/out" && row ok "$name" "$seen" ||
        row FAILED "$name" "exit code $status, not $code: $seen"
}

# less NAME FOUND LIMIT UNIT: a number below a limit.
less() {
    python3 -c "import sys; sys.exit(not float('${2:-nan}') < $3)" && row ok "$1" "$2 $4, limit $3" ||
        row FAILED "$1" "${2:-nothing} $4, limit $3"
}

# first_token EXE OPTIONS...: the best of five starts, in milliseconds from the start of the process.
first_token() {
    local exe=$1
    shift
    for _ in 1 2 3 4 5; do
        "$exe" run -p 'abc def' -n 1 --ignore-eos --temp 0 --stats "$@" 2>&1 >/dev/null
    done | sed -nE 's/.*first token ([0-9.]+) ms.*/\1/p' | sort -n | head -n 1
}

# variant NAME EDIT: the sample with another number in its config.json, compiled.
variant() {
    rm -rf "${work:?}/$1.model"
    cp -r samples/storyteller "$work/$1.model"
    chmod -R u+w "$work/$1.model"
    sed -i "$2" "$work/$1.model/config.json"
    "$compiler" "$work/$1.model" -o "$work/$1" --target cpu,sm_90a --progress none
}

planted() {
    local exe=$work/planted number=0 kernel
    cp "$work/st" "$exe" && "$folder/plant" "$exe" tile 6000000
    exits 'an inverted tile' 8 '^cuda:0 +WRONG' "$exe" selftest "${gpu[@]}"
    cp "$work/st" "$exe" && "$folder/plant" "$exe" cubin
    exits 'the image of another shape' 8 '^cuda:0 +WRONG' "$exe" selftest "${gpu[@]}"
    variant rope 's/"rope_theta": *[0-9.]*/"rope_theta": 20000.0/'
    "$folder/plant" "$work/rope" selftest "$work/st"
    exits 'another RoPE base' 8 '^cuda:0 +WRONG' "$work/rope" selftest "${gpu[@]}"
    variant eps 's/"rms_norm_eps": *[0-9.e-]*/"rms_norm_eps": 0.5/'
    while cp "$work/st" "$exe" && kernel=$("$folder/plant" "$exe" cubin-of "$work/eps" $number 2>/dev/null); do
        exits "another eps: $kernel" 8 '^cuda:0 +WRONG' "$exe" selftest "${gpu[@]}"
        number=$((number + 1))
    done
    [ $number -gt 0 ] || row FAILED 'another eps' 'no kernel differs'
    exits 'all of these agree with their checks' 0 good "$compiler" verify "$exe"
}

ptx() {
    local ids=1,2,3,700,5,6,7,8,9,10,11,500,13,14,15,16,17,18,19,20
    "$compiler" samples/storyteller -o "$work/ptx" --target compute_80 --progress none
    exits 'PTX, selftest' 0 '^cuda:0 +good' "$work/ptx" selftest "${gpu[@]}"
    "$work/ptx" logits --ids $ids --all -o "$work/ptx.logits" "${gpu[@]}"
    "$work/st" logits --ids $ids --all -o "$work/st.logits" "${gpu[@]}"
    less 'PTX, worst logits to those of sm_90a' \
        "$(python3 tests/check_logits.py "$work/ptx.logits" "$work/st.logits" 20)" 0.01 'relative L2'
    exits 'PTX, start' 0 'first token' "$work/ptx" run -p x -n 1 --stats "${gpu[@]}"
    "$compiler" samples/storyteller -o "$work/orin" --target sm_87 --progress none
    exits 'only sm_87' 7 'this file holds code for sm_87' "$work/orin" run -p x -n 1
}

sample() {
    "$compiler" samples/storyteller -o "$work/st" --target cpu,sm_90a --progress none
    exits 'storyteller, selftest cpu' 0 '^cpu +good' "$work/st" selftest --device cpu
    exits 'storyteller, selftest' 0 '^cuda:0 +good' "$work/st" selftest "${gpu[@]}"
    exits doctor 0 '^good +GPU' "$work/st" doctor
    grep -vE '^good' "$work/out"
    exits 'memory, 2048 tokens' 0 planned "$work/st" info --measure "${gpu[@]}"
    less 'storyteller, start' "$(first_token "$work/st" "${gpu[@]}")" 1000 ms
    planted
    ptx
}

large() {
    local exe=$work/8b
    [ -d "$work/8b.model" ] || "$folder/make-checkpoint" llama-3.1-8b "$work/8b.model" >/dev/null
    [ -x "$exe" ] || "$compiler" "$work/8b.model" -o "$exe" --target cpu,sm_90a --max-seq-len 8192 \
        --max-batch-size 64 --progress none
    cat "$exe" >/dev/null # into the page cache
    exits '8B, selftest' 0 '^cuda:0 +good' "$exe" selftest "${gpu[@]}"
    exits '8B, memory, 8192 tokens' 0 planned "$exe" info --measure "${gpu[@]}"
    exits '8B, memory, 100 tokens' 0 planned "$exe" info --measure -c 100 "${gpu[@]}"
    less '8B, start' "$(first_token "$exe" "${gpu[@]}" -c 2048)" 1000 ms
    less '8B, start on the CPU' "$(first_token "$exe" --device cpu -c 2048)" 300 ms
    for _ in 1 2 3; do
        "$exe" bench --load -p 1 -n 1 -c 512 "${gpu[@]}" --json
    done >"$work/load"
    python3 - "$work/load" <<'PY' || failed=1
import json, sys
text, best, decoder = open(sys.argv[1]).read(), None, json.JSONDecoder()
while text.strip():
    text = text.lstrip()
    run, end = decoder.raw_decode(text)
    text, load = text[end:], run["load"]
    best = load if not best or load["seconds"] < best["seconds"] else best
gb = best["bytes"] * 1e-9
print(f"{'ok' if best['ratio'] >= 0.7 else 'FAILED':7} {'8B, loading (best of 3)':34} {gb / best['seconds']:.1f} GB/s = "
      f"{100 * best['ratio']:.0f} % of the slower of read {gb / best['plain_read_s']:.1f} and copy "
      f"{gb / best['plain_copy_s']:.1f}; reading and checking {best['read_check_s'] * 1e3:.0f}, waiting "
      f"{best['wait_s'] * 1e3:.0f} of {best['seconds'] * 1e3:.0f} ms, {best['threads']} threads")
sys.exit(best["ratio"] < 0.7)
PY
}

mkdir -p "$work"
for word in ${*:-sample large}; do
    "$word"
done
exit $failed
