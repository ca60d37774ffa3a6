# The executable's command line on the CPU: what it prints, how it refuses, how it ends.
set -u
. tests/lib.sh

exe=$(cpu_executable) || { not_ok compile "exit code $?"; exit 1; }

# equal NAME EXPECTED COMMAND...: the command succeeds and prints exactly that.
equal() {
    local name=$1 expected=$2 found status=0
    shift 2
    found=$(timeout 60 "$@" 2>"$work/stderr" </dev/null) || status=$?
    if [ "$status" != 0 ]; then
        not_ok "$name" "exit code $status: $(tail -n 1 "$work/stderr")"
    elif [ "$found" != "$expected" ]; then
        not_ok "$name" "found $found, expected $expected"
    else
        ok "$name"
    fi
}

# json NAME PYTHON COMMAND...: the command prints JSON of which the expression over `j` is true.
json() {
    local name=$1 expression=$2 status=0
    shift 2
    timeout 120 "$@" >"$work/json" 2>"$work/stderr" </dev/null || status=$?
    if [ "$status" != 0 ]; then
        not_ok "$name" "exit code $status: $(tail -n 1 "$work/stderr")"
    elif python3 -c 'import json, sys
j = json.load(open(sys.argv[1], encoding="utf-8"))
sys.exit(not eval(f"({sys.argv[2]})"))' "$work/json" "$expression"; then
        ok "$name"
    else
        not_ok "$name" "$(head -c 300 "$work/json")"
    fi
}

greedy=(--temp 0 --repeat-penalty 1)

# ---- run ----------------------------------------------------------------------------------------

equal run ', and, in the meantime, the' "$exe" --raw -p 'Once upon a time' -n 8 "${greedy[@]}"
equal run_named ', and, in the meantime, the' "$exe" run --raw --prompt='Once upon a time' -n 8 "${greedy[@]}"
printf 'Once upon a time' >"$work/prompt"
equal run_file ', and, in the meantime, the' "$exe" run -f "$work/prompt" --raw -n 8 "${greedy[@]}"
equal run_stdin ', and, in the meantime, the' sh -c "$exe --raw -n 8 --temp 0 --repeat-penalty 1 <$work/prompt"
json run_json 'j["prompt_ids"] == [8187, 6321, 640, 258, 562] and len(j["ids"]) == 8 and
    j["text"] == ", and, in the meantime, the" and j["finish_reason"] == "length"' \
    "$exe" --raw -p 'Once upon a time' -n 8 "${greedy[@]}" --json
json run_empty 'j["prompt_ids"] == [8187] and len(j["ids"]) == 3' "$exe" --raw -p '' -n 3 "${greedy[@]}" --json
json run_context 'len(j["ids"]) == 5 and j["finish_reason"] == "length"' \
    "$exe" --raw -p 'Once upon a time' -c 10 --ignore-eos "${greedy[@]}" --json
json run_bad_utf8 'j["prompt_ids"][0] == 8187 and len(j["prompt_ids"]) > 6' \
    "$exe" --raw -p "$(printf 'caf\xc3 \xff\xfe')" -n 1 --json

# Tokens that make no character are U+FFFD: uniform draws give some.
json run_no_character '"\ufffd" in j["text"]' "$exe" --raw -p x -n 500 --temp 100 --top-p 1 -s 3 --json

first=$("$exe" --raw -p 'The king' -n 40 -s 7 2>"$work/stderr")
equal run_seed "$first" "$exe" --raw -p 'The king' -n 40 --seed 7
equal run_threads "$first" "$exe" --raw -p 'The king' -n 40 --seed 7 -t 3
[ "$("$exe" --raw -p 'The king' -n 40 -s 8)" != "$first" ] && ok run_other_seed || not_ok run_other_seed same

# The answer stops at a stop token, which is the last id and no text. Uniform draws find one in 2,000.
for seed in 1 2 3 4 5 6 7 8 9 10; do
    "$exe" --raw -p x -s "$seed" -n 2000 --temp 100 --top-p 1 --json >"$work/stopped" 2>"$work/stderr"
    grep -q '"finish_reason":"stop"' "$work/stopped" && break
done
json run_stop 'j["finish_reason"] == "stop" and j["ids"][-1] in (8188, 8191) and
    not set(j["ids"][:-1]) & {8188, 8191} and "<|end_of_text|>" not in j["text"]' cat "$work/stopped"
json run_ignore_eos 'j["finish_reason"] == "length" and len(j["ids"]) == 2000' \
    "$exe" --raw -p x -s "$seed" -n 2000 --temp 100 --top-p 1 --ignore-eos --json

# ---- tokens -------------------------------------------------------------------------------------

equal tokenize '[8187,6321,640,258,562]' "$exe" tokenize --json -p 'Once upon a time'
equal detokenize 'Once upon a time' "$exe" detokenize --ids 6321,640,258,562
equal detokenize_half "$(printf 'caf\xef\xbf\xbd')" "$exe" detokenize --ids 66,4212,127

# ---- logits, perplexity, bench, info ------------------------------------------------------------

passes logits_all "$exe" logits --ids 8187,6321,640,258,562 --all -o "$work/all"
passes logits_last "$exe" logits --ids 8187,6321,640,258,562 -o "$work/last"
python3 - "$work/all" "$work/last" <<'PY' && ok logits_agree || not_ok logits_agree "sizes or bytes differ"
import sys
all_rows, last = (open(path, "rb").read() for path in sys.argv[1:])
sys.exit(len(all_rows) != 5 * 8192 * 4 or len(last) != 8192 * 4 or all_rows[-len(last):] != last)
PY
seq 1 2000 >"$work/text"
json perplexity 'j["tokens"] == 4 * 63 and j["ppl"] > 1 and
    abs(j["nll_sum"] / j["tokens"] - __import__("math").log(j["ppl"])) < 1e-6' \
    "$exe" perplexity "$work/text" --ctx 64 --windows 4 --json
json bench 'len(j["decode"]) == 2 and j["decode"][1]["batch"] == 8 and
    all(d["ratio"] > 0 and d["limit"] for d in j["decode"]) and j["prefill"]["ratio"] > 0' \
    "$exe" bench -p 32 -n 8 -b 1,8 --json
json info 'j["vocab_size"] == 8192 and "cpu:x86-64-v3" in j["targets"]' "$exe" info --json
passes info_text "$exe" info
passes explain "$exe" explain
grep -q linear "$work/stdout" && ok explain_names_kernels || not_ok explain_names_kernels "no linear"
passes version "$exe" version
for command in run tokenize detokenize logits perplexity bench info explain version; do
    passes "help_$command" "$exe" "$command" --help
    grep -q "^usage: .* $command " "$work/stdout" || not_ok "help_$command" "$(head -n 1 "$work/stdout")"
done

# ---- how it refuses -----------------------------------------------------------------------------

fails unknown_command 2 'unknown command "frobnicate"' "$exe" frobnicate
fails unknown_option 2 'run has no option --frobnicate' "$exe" --frobnicate
fails missing_value 2 '-n wants a value' "$exe" --raw -p x -n
fails bad_number 2 '-n wants a number .*found "x"' "$exe" --raw -p x -n x
fails bad_temperature 2 '--temp wants a number' "$exe" --raw -p x --temp -1
fails nan_temperature 2 '--temp wants a number' "$exe" --raw -p x --temp nan
fails flag_with_value 2 '--raw takes no value' "$exe" --raw -p x --raw=1
fails two_inputs 2 '-p and -f exclude' "$exe" --raw -p x -f y
fails extra_word 2 'one word too many' "$exe" run hello
fails bad_device 2 '--device wants cpu, cuda or cuda:N' "$exe" --raw -p x --device gpu
fails no_gpu_code 2 'no code for a GPU' "$exe" --raw -p x --device cuda
fails missing_file 2 'missing: No such file' "$exe" -f "$work/missing"
fails file_is_folder 2 'Is a directory' "$exe" -f "$work"
fails context_too_large 2 'compiled for at most 2048 tokens' "$exe" --raw -p x -c 4096
yes word | head -n 3000 >"$work/long"
fails prompt_too_long 6 'the prompt has [0-9]+ tokens, the context is 2048' "$exe" -f "$work/long"
fails prompt_too_long_for_c 6 'the prompt has 5 tokens, the context is 5' "$exe" --raw -p 'Once upon a time' -c 5
fails bad_ids 2 '--ids wants numbers' "$exe" logits --ids 1,x -o "$work/out"
fails empty_ids 2 '--ids is empty' "$exe" logits --ids '' -o "$work/out"
fails id_too_large 2 'token id 8192 is outside the vocabulary of 8192' "$exe" logits --ids 1,8192 -o "$work/out"
fails detokenize_too_large 2 'token id 99999 is outside' "$exe" detokenize --ids 99999
fails logits_no_file 2 '-o FILE is missing' "$exe" logits --ids 1
fails logits_unwritable 6 'no/out: No such file' "$exe" logits --ids 1 -o "$work/no/out"
fails logits_full_disk 6 'No space left' "$exe" logits --ids 1 -o /dev/full
fails perplexity_short 2 'does not fit' "$exe" perplexity "$work/prompt" --ctx 1024
fails bench_batch 2 '-b wants' "$exe" bench -b 0
fails bench_long 2 'do not fit into the context' "$exe" bench -p 2000 -n 100

# ---- where its text goes ------------------------------------------------------------------------

"$exe" --raw -p 'x' -n 200 2>"$work/stderr" | head -c 5 >"$work/stdout"
status=("${PIPESTATUS[@]}")
[ "${status[0]}" = 0 ] && [ ! -s "$work/stderr" ] && ok closed_pipe ||
    not_ok closed_pipe "exit code ${status[0]}: $(head -n 1 "$work/stderr")"
for command in "info --json" "tokenize -p x" explain; do
    # shellcheck disable=SC2086
    "$exe" $command 2>"$work/stderr" | true
    [ "${PIPESTATUS[0]}" = 0 ] && ok "closed_pipe_${command%% *}" || not_ok "closed_pipe_${command%% *}" "exit code"
done
fails full_disk 6 'standard output: No space left' sh -c "'$exe' -p x -n 3 >/dev/full"
fails closed_stdout 6 'standard output: Bad file' sh -c "'$exe' -p x -n 3 >&-"

# ---- damage -------------------------------------------------------------------------------------

size=$(stat -c %s "$exe")
cp "$exe" "$work/truncated" && truncate -s -1000 "$work/truncated"
fails truncated_copy 4 'truncated' "$work/truncated" -p x -n 1
cp "$exe" "$work/longer" && printf 'x' >>"$work/longer"
fails longer_copy 4 'payload' "$work/longer" -p x -n 1

# flip NAME OFFSET: a copy with one bit of that byte changed.
flip() {
    cp "$exe" "$work/$1"
    python3 - "$work/$1" "$2" <<'PY'
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(int(sys.argv[2]))
    byte = file.read(1)[0]
    file.seek(-1, 1)
    file.write(bytes([byte ^ 16]))
PY
}
flip footer $((size - 950))
fails flipped_footer 4 'damaged|version|payload' "$work/footer" -p x -n 1
flip table "$(offset_of "$exe" table)"
fails flipped_table 4 'segment table is damaged' "$work/table" -p x -n 1
flip tail "$(offset_of "$exe" license)"
fails flipped_segment 4 'segment [a-z]+ is damaged' "$work/tail" -p x -n 1
# 8 MiB stand before the tail with the small segments: the middle of the file is weights.
flip weights $((size / 2))
fails flipped_weights 4 'weights are damaged' "$work/weights" -p x -n 1
passes info_of_damaged_weights "$work/weights" info

# ---- start --------------------------------------------------------------------------------------

best=1000000
for attempt in 1 2 3 4 5 6 7 8; do
    "$exe" --raw -p 'Once upon a time' -n 1 --stats 2>"$work/stderr" >"$work/stdout"
    ms=$(sed -nE 's/.*first token ([0-9]+)\.[0-9] ms after the start.*/\1/p' "$work/stderr")
    [ "${ms:-1000000}" -lt "$best" ] && best=$ms
done
[ "$best" -lt 100 ] && ok "start ($best ms)" || not_ok start "first token after $best ms"
