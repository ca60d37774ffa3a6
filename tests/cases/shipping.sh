# The life of an executable: inspect, verify, repack; damage and interruption.
set -u
. tests/lib.sh

exe=$(cpu_executable) || { not_ok compile "exit code $?"; exit 1; }
greedy=(--temp 0 --repeat-penalty 1)

# says NAME PATTERN COMMAND...: the command succeeds and its output matches.
says() {
    local name=$1 pattern=$2
    shift 2
    passes "$name" "$@"
    grep -qE -- "$pattern" "$work/stdout" || not_ok "$name" "no $pattern in: $(head -c 300 "$work/stdout")"
}

# ---- inspect, verify ----------------------------------------------------------------------------

says inspect 'weights +2097152 +12805888' "$compiler" inspect "$exe"
"$compiler" inspect "$exe" --json >"$work/json"
python3 - "$work/json" "$exe" <<'PY' && ok inspect_json || not_ok inspect_json "see above"
import json, os, sys
j = json.load(open(sys.argv[1]))
assert j["file_bytes"] == os.path.getsize(sys.argv[2]) and len(j["segments"]) > 12
assert {t["name"] for t in j["targets"]} >= {"cpu:x86-64-v3"} and j["receipt"]["targets"]
PY
says verify 'good' "$compiler" verify "$exe"
says verify_against 'weights and tokenizer are those of .*tensors compared' \
    "$compiler" verify "$exe" --against "$sample"
copy_sample other
python3 - "$work/other/model.safetensors" <<'PY'
import sys
with open(sys.argv[1], "r+b") as file: # one code of the last tensor
    file.seek(-1000, 2)
    byte = file.read(1)[0]
    file.seek(-1000, 2)
    file.write(bytes([byte ^ 1]))
PY
fails verify_against_other 8 'is not what the checkpoint holds' "$compiler" verify "$exe" --against "$work/other"
fails verify_against_size 8 'made from another model' "$compiler" verify "$exe" --against \
    tests/vectors/fixtures/llama32-4b-g128
fails verify_no_file 2 'No such file' "$compiler" verify "$work/none"
fails verify_other_file 4 'no payload|too short' "$compiler" verify README.md
fails verify_folder 4 'no executable' "$compiler" verify "$work"
fails verify_option 2 'has no option --what' "$compiler" verify "$exe" --what
fails verify_words 2 'one word too many' "$compiler" verify "$exe" "$exe"
fails verify_nothing 2 'wants a file' "$compiler" verify
says flips '0 wrong' nice python3 tests/bit_flips.py "$compiler" "$exe" 80

# ---- selftest -----------------------------------------------------------------------------------

says selftest '^cpu +good' "$exe" selftest
"$exe" selftest --json >"$work/json"
python3 -c 'import json, sys; j = json.load(open(sys.argv[1])); sys.exit(any(f["verdict"] != "good" for f in j))' \
    "$work/json" && ok selftest_json || not_ok selftest_json "$(head -c 300 "$work/json")"
passes selftest_auto "$compiler" "$sample" -o "$work/auto" --target cpu --progress none --self-test auto
grep -q '^cpu *good' "$work/stderr" && ok selftest_ran || not_ok selftest_ran "$(head -c 300 "$work/stderr")"
passes selftest_off "$compiler" "$sample" -o "$work/off" --target cpu --progress none --self-test off
fails selftest_none 3 'compiled with --self-test off' "$work/off" selftest
# wrong NAME PATTERN: selftest of $work/exe finds it, though all checks of the file are right.
wrong() {
    fails "$1" 8 'does not compute' "$work/exe" selftest
    grep -qE "$2" "$work/stdout" || not_ok "$1" "$(cat "$work/stdout")"
    says "$1_verify" good "$compiler" verify "$work/exe"
}
cp "$exe" "$work/exe" && build/tests/plant "$work/exe" tile 6000000
wrong planted_tile '^cpu +WRONG'
cp "$exe" "$work/exe" && build/tests/plant "$work/exe" tile 6000000 --keep-golden
wrong planted_tile_hash '^file +WRONG'
copy_sample rope
sed -i 's/"rope_theta": *[0-9.]*/"rope_theta": 20000.0/' "$work/rope/config.json"
passes planted_rope_compile "$compiler" "$work/rope" -o "$work/exe" --target cpu --progress none
build/tests/plant "$work/exe" selftest "$exe"
wrong planted_rope '^cpu +WRONG'

# ---- memory, doctor, receipt --------------------------------------------------------------------

"$exe" info --json >"$work/info"
# row DEVICE CONTEXT SEQUENCES EXPRESSION: of the table of `info`.
row() {
    python3 -c 'import json, sys
rows = json.load(open(sys.argv[1]))["memory"]
print(next(eval(sys.argv[5], r) for r in rows if
           (r["device"], r["context"], r["sequences"]) == (sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))' \
        "$work/info" "$@"
}
env LD_PRELOAD="$PWD/build/tests/count_mmaps.so" COUNT_MMAPS="$work/mmaps" "$exe" --raw -p x -n 1 -c 2048 >"$work/stdout"
found=$(awk '{n += $1} END {print n}' "$work/mmaps")
expected=$(row cpu 2048 1 'arena_bytes + kv_bytes')
[ "$found" = "$expected" ] && ok memory_cpu || not_ok memory_cpu "mapped $found, promised $expected"
passes measure_cpu "$exe" info --measure -c 2048 --device cpu --json
python3 -c 'import json, sys
m = json.load(sys.stdin)
assert 0 <= m["taken_bytes"] - m["planned_bytes"] < 2 * m["page_bytes"], m' <"$work/stdout" &&
    ok measured_cpu || not_ok measured_cpu "$(cat "$work/stdout")"
fails max_memory 6 '16 sequences of 2048 tokens take' "$compiler" "$sample" -n --target cpu --max-memory 40M
grep -qE '^  1024 +2 ' "$work/stderr" && ok max_memory_table || not_ok max_memory_table "$(cat "$work/stderr")"
passes max_memory_fits "$compiler" "$sample" -n --target cpu --max-memory 40M --max-seq-len 1024 --max-batch-size 2
fails max_memory_word 2 'wants a size' "$compiler" "$sample" -n --target cpu --max-memory much
says doctor 'good +processor +runs cpu:' "$exe" doctor
mkdir -p "$work/root/proc/device-tree" "$work/root/var/lib/nvpmodel" "$work/root/sys/kernel/mm/transparent_hugepage"
printf 'NVIDIA Jetson Orin' >"$work/root/proc/device-tree/model"
echo 'pmode:0002' >"$work/root/var/lib/nvpmodel/status"
echo 'always madvise [never]' >"$work/root/sys/kernel/mm/transparent_hugepage/enabled"
echo 'MemAvailable:   10000 kB' >"$work/root/proc/meminfo"
"$exe" doctor --root "$work/root" --json >"$work/json"
python3 - "$work/json" <<'PY' && ok doctor_findings || not_ok doctor_findings "$(cat "$work/json")"
import json, sys
f = {item["what"]: item for item in json.load(open(sys.argv[1]))}
assert f["memory"]["verdict"] == "bad" and "mend" in f["memory"]
assert f["power mode"]["mend"] == "sudo nvpmodel -m 0" and f["huge pages"]["verdict"] == "note"
PY
"$compiler" inspect "$exe" --json | python3 -c 'import json, sys
s = json.load(sys.stdin)["receipt"]["sbom"]
assert s["bomFormat"] == "CycloneDX" and {"cJSON", "xxHash", "libevent"} <= {c["name"] for c in s["components"]}' &&
    ok sbom || not_ok sbom "see above"

# ---- extract ------------------------------------------------------------------------------------

passes extract "$exe" extract -o "$work/checkpoint"
# Of a checkpoint that is stored as it was, every tensor comes back bit by bit.
python3 - "$sample" "$work/checkpoint" <<'PY' && ok extract_tensors || not_ok extract_tensors "see above"
import json, struct, sys
def read(folder):
    data = open(folder + "/model.safetensors", "rb").read()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]])
            for name, t in header.items()}
old, new = map(read, sys.argv[1:])
assert old.keys() == new.keys(), old.keys() ^ new.keys()
wrong = [name for name in old if old[name] != new[name]]
assert not wrong, wrong[:5]
PY
cmp "$sample/tokenizer.json" "$work/checkpoint/tokenizer.json" && ok extract_tokenizer || not_ok extract_tokenizer differs
fails extract_again 6 'File exists' "$exe" extract -o "$work/checkpoint"
fails extract_nowhere 2 '-o DIR is missing' "$exe" extract
cp "$exe" "$work/exe"
flip_at=$(offset_of "$exe" source)
python3 -c 'import sys
f = open(sys.argv[1], "r+b"); f.seek(int(sys.argv[2]) + 5000); b = f.read(1)[0]; f.seek(-1, 1); f.write(bytes([b ^ 1]))' \
    "$work/exe" "$flip_at"
fails extract_damaged 4 'segment source is damaged' "$work/exe" extract -o "$work/damaged"
# Every coding, order of inputs and family: packed again, the extracted checkpoint gives the same bytes.
for name in llama32-2b-g32-asym llama32-3b-g128 llama32-4b-g32-actorder-asym llama32-dynamic phi3-4b-g128 \
    qwen3moe-4b-g128; do
    says "extract_$name" 'are those of' sh -c "'$compiler' tests/vectors/fixtures/$name -o '$work/exe' --target cpu \
        --progress none --self-test off && '$work/exe' extract -o '$work/$name' &&
        '$compiler' verify '$work/exe' --against '$work/$name'"
done

# ---- weights in files of their own --------------------------------------------------------------

no_copies=(env "LD_PRELOAD=$PWD/build/tests/no_copies.so") # the kernel copies the first MiB of a file only
mkdir "$work/parts" "$work/copied"
passes external "$compiler" "$sample" -o "$work/parts/exe" --target cpu --progress none --weights external --split-size 5M
passes external_by_hand "${no_copies[@]}" "$compiler" "$sample" -o "$work/copied/exe" --target cpu --progress none \
    --weights external --split-size 5M
diff -r "$work/parts" "$work/copied" >"$work/diff" && ok external_by_hand_same_bytes ||
    not_ok external_by_hand_same_bytes "$(head -n 1 "$work/diff")"
[ "$(cd "$work/parts" && echo exe*)" = 'exe exe.weights.00001 exe.weights.00002 exe.weights.00003 exe.weights.00004' ] &&
    [ "$(stat -c %s "$work/parts/exe.weights.00001")" = 4194304 ] && ok external_files ||
    not_ok external_files "$(ls -l "$work/parts")"
says external_verify good "$compiler" verify "$work/parts/exe" --against "$sample"
[ "$(cd / && "$work/parts/exe" --raw -p 'Once upon a time' -n 8 "${greedy[@]}")" = ', and, in the meantime, the' ] &&
    ok external_text || not_ok external_text "another text"
says external_selftest '^cpu +good' "$work/parts/exe" selftest
passes external_repack "$compiler" repack "$work/parts/exe" --name apart
printf 'x' | dd of="$work/parts/exe.weights.00002" bs=1 seek=1000 conv=notrunc status=none
fails external_damaged 4 'weights are damaged' "$work/parts/exe" -p x -n 1
fails external_damaged_verify 4 'weights are damaged' "$compiler" verify "$work/parts/exe"
truncate -s -1 "$work/parts/exe.weights.00002"
fails external_short 4 'exe.weights.00002: expected 4194304 bytes' "$work/parts/exe" -p x -n 1
rm "$work/parts/exe.weights.00002"
fails external_missing 4 'exe.weights.00002: No such file' "$work/parts/exe" -p x -n 1
fails external_split 2 'split-size wants 2M or more' "$compiler" "$sample" -n --target cpu --weights external --split-size 1M

# ---- repack -------------------------------------------------------------------------------------

cp "$exe" "$work/exe"
says repack_name 'ship +\(LlamaForCausalLM\)|ship \(' sh -c \
    "'$compiler' repack '$work/exe' --name ship && '$work/exe' info"
says repack_verify good "$compiler" verify "$work/exe"
says repack_verify_against 'are those of' "$compiler" verify "$work/exe" --against "$sample"
cmp -s -n 15000000 "$exe" "$work/exe" && ok repack_keeps_weights || not_ok repack_keeps_weights differ
printf '{%%- for m in messages %%}[{{ m.role }}] {{ m.content }}\n{%% endfor %%}' >"$work/jinja"
passes repack_template "$compiler" repack "$work/exe" --chat-template "$work/jinja" --system 'Be brief.' \
    --args '-n 3 --threads 2 --windows 4' --temp 0 --license-file README.md
says repack_text '^\[user\] hi' sh -c \
    "echo '[{\"role\": \"user\", \"content\": \"hi\"}]' | '$work/exe' template"
says repack_system '^[0-9]+$' sh -c "'$work/exe' -p hi --json |
    python3 -c 'import json, sys; print(len(json.load(sys.stdin)[\"prompt_ids\"]))'"
with=$(cat "$work/stdout")
"$compiler" repack "$work/exe" --system '' && without=$("$work/exe" -p hi --json |
    python3 -c 'import json, sys; print(len(json.load(sys.stdin)["prompt_ids"]))')
[ "$with" -gt "$without" ] && ok repack_system_prompt || not_ok repack_system_prompt "$with ids, $without without"
[ "$("$work/exe" --raw -p 'Once upon a time')" = ', and,' ] && ok repack_args || not_ok repack_args "no default -n"
[ "$("$work/exe" --raw -p 'Once upon a time' -n 8)" = ', and, in the meantime, the' ] && ok args_give_way ||
    not_ok args_give_way "-n does not win over the default"
says repack_license 'ahead-of-time compiler' "$work/exe" licenses
passes repack_new "$compiler" repack "$work/exe" -o "$work/new" --name fresh
says repack_new_verify good "$compiler" verify "$work/new"
passes repack_by_hand "${no_copies[@]}" "$compiler" repack "$work/exe" -o "$work/by_hand" --name fresh
cmp -s "$work/new" "$work/by_hand" && ok repack_by_hand_same_bytes || not_ok repack_by_hand_same_bytes differ
head -c 300000 /dev/urandom | base64 >"$work/long"
says repack_grows good sh -c "'$compiler' repack '$work/exe' --license-file '$work/long' &&
    '$compiler' verify '$work/exe' && '$work/exe' info"
echo '{% what %}' >"$work/bad"
fails repack_bad_template 3 'what' "$compiler" repack "$work/exe" --chat-template "$work/bad"
fails repack_bad_number 2 'top-p wants a number' "$compiler" repack "$work/exe" --top-p 2
fails repack_long_name 2 'name wants 1 to 95 bytes' "$compiler" repack "$work/exe" --name "$(printf '%200s' x)"
says repack_kills '0 wrong' nice python3 tests/kill_repack.py "$compiler" "$exe" 25
