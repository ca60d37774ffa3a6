# Executables for aarch64, made here, run by qemu-user with Debian's arm64 C library, against the x86-64
# executable of the same model and the reference: as a processor with dot products (Neoverse N1) and as
# one without (Cortex A72). All levels of all processors compute the same bits.
set -u
. tests/lib.sh

host=aarch64-linux-gnu
sysroot=build/sysroot/aarch64

if ! command -v qemu-aarch64 >/dev/null; then
    skipped aarch64 "no qemu-aarch64 (package qemu-user)"
    exit
fi

# on PROCESSOR WORDS...: one thread, since those of an emulated machine wait for each other.
on() {
    qemu-aarch64 -cpu "$1" -L "$sysroot" "${@:2}"
}

# same_logits NAME X86 IDS COMMAND...: the command's logits are those of the executable X86.
same_logits() {
    local rows
    rows=$(tr , '\n' <<<"$3" | wc -l)
    if ! "$2" logits --ids "$3" --all -o "$work/expected" 2>"$work/stderr" ||
        ! "${@:4}" logits --ids "$3" --all -o "$work/found" --threads 1 2>"$work/stderr"; then
        not_ok "$1" "$(tail -n 1 "$work/stderr")"
    elif cmp -s "$work/expected" "$work/found"; then
        ok "$1"
    else
        not_ok "$1" "worst relative L2 $(python3 tests/check_logits.py "$work/found" \
            "$work/expected" "$rows")"
    fi
    rm -f "$work/expected" "$work/found"
}

# ---- the sample ---------------------------------------------------------------------------------

x86=$(cpu_executable) || { not_ok compile "exit code $?"; exit 1; }
arm=$work/storyteller
passes aarch64_compile "$compiler" "$sample" -o "$arm" --target cpu --host $host --progress none
"$x86" tokenize --json -p "$(cat README.md)" >"$work/x86.ids"
on cortex-a72 "$arm" tokenize --json -p "$(cat README.md)" >"$work/arm.ids"
cmp -s "$work/x86.ids" "$work/arm.ids" && ok aarch64_ids || not_ok aarch64_ids "differ"

# story PROCESSOR LEVEL: greedy ids of the reference, the level that was picked, and all logits.
story() {
    local problem
    on "$1" "$arm" run --raw -p 'Once upon a time' -n 6 --temp 0 --ignore-eos --repeat-penalty 1 \
        --json --stats --threads 1 >"$work/story" 2>"$work/stderr"
    problem=$(python3 - "$work/story" "$sample/reference.json" <<'PY'
import json, sys
found, prompt = json.load(open(sys.argv[1])), json.load(open(sys.argv[2]))["prompts"][0]
if found["prompt_ids"] != prompt["input_ids"]:
    print("other prompt ids")
for step, margin in enumerate(prompt["greedy_margin"][:6]):
    if margin < 0.05:
        break
    if found["ids"][step] != prompt["greedy_ids"][step]:
        print(f"step {step}: {found['ids'][step]}, expected {prompt['greedy_ids'][step]}")
PY
    ) || problem=$(tail -n 1 "$work/stderr")
    [ -z "$problem" ] && ok "aarch64_story $2" || not_ok "aarch64_story $2" "$problem"
    grep -q "cpu:$2 " "$work/stderr" && ok "aarch64_level $2" ||
        not_ok "aarch64_level $2" "$(tail -n 1 "$work/stderr")"
    same_logits "aarch64_logits $2" "$x86" "$ids" on "$1" "$arm"
    same_logits "aarch64_decode $2" "$x86" 700 on "$1" "$arm"
}
ids=$(python3 -c '
import json
print(*json.load(open("samples/storyteller/reference.json"))["prompts"][7]["input_ids"], sep=",")')
story cortex-a72 armv8-a
story neoverse-n1 armv8.2-a-dotprod
same_logits "aarch64_logits x86-64-v3" "$x86" "$ids" qemu-x86_64 -cpu Haswell "$x86"

head -c 400 README.md >"$work/text"
for machine in x86 arm; do
    run=("$x86")
    [ $machine = x86 ] || run=(on neoverse-n1 "$arm")
    "${run[@]}" perplexity "$work/text" --ctx 24 --windows 1 --threads 1 --json >"$work/$machine.ppl"
done
python3 - "$work/x86.ppl" "$work/arm.ppl" <<'PY' && ok aarch64_perplexity || not_ok aarch64_perplexity "differs"
import json, sys
a, b = (json.load(open(name)) for name in sys.argv[1:])
sys.exit(not (a["tokens"] == b["tokens"] > 20 and a["ppl"] == b["ppl"]))
PY

# ---- kernels: other widths, groups and orders; experts ------------------------------------------

ids=1,2,3,200,5,6,7
# kernels NAME MODEL
kernels() {
    "$compiler" "$2" -o "$work/x" --target cpu --progress none &&
        "$compiler" "$2" -o "$work/a" --target cpu --host $host --progress none
    for processor in cortex-a72 neoverse-n1; do
        same_logits "aarch64_kernels $1 $processor" "$work/x" $ids on $processor "$work/a"
        # one token: products that read the packed weights
        same_logits "aarch64_decode $1 $processor" "$work/x" 700 on $processor "$work/a"
    done
}
for setting in "8 64 --asymmetric 1 --act-order 1" "4 16 --asymmetric 1"; do
    read -r bits group words <<<"$setting"
    build/make-checkpoint custom "$work/model" --bits "$bits" --group-size "$group" $words >/dev/null
    kernels "$bits-bit g$group" "$work/model"
done
kernels qwen3moe tests/vectors/fixtures/qwen3moe-4b-g128

# ---- refusals -----------------------------------------------------------------------------------

fails aarch64_native 2 'orin,cpu' "$compiler" "$sample" -o "$work/none" --host $host --target native
fails aarch64_level_of_x86 3 'x86_64-linux-gnu' "$compiler" "$sample" -o "$work/none" --host $host \
    --target cpu:x86-64-v3
mkdir "$work/bin" # a machine without a linker
fails aarch64_linker 5 'install lld' env "PATH=$work/bin" "$compiler" "$sample" -o "$work/none" \
    --host $host --target cpu --progress none
