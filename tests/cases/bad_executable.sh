# What goes wrong with a finished executable: damaged copies, bad requests, no GPU.
set -u
. tests/lib.sh

exe=$(cpu_executable) || { not_ok compile "exit code $?"; exit 1; }

cp "$exe" "$work/truncated" && truncate -s -100000 "$work/truncated"
fails truncated_copy 4 'truncated|copy it again' "$work/truncated" -p x
cp "$exe" "$work/extended" && echo more >>"$work/extended"
fails extended_copy 4 'copy' "$work/extended" -p x

# flipped NAME OFFSET_FROM_END WORDS
flip() {
    cp "$exe" "$work/$1"
    python3 - "$work/$1" "$2" <<'PY'
import sys
path, at = sys.argv[1], int(sys.argv[2])
with open(path, "r+b") as f:
    f.seek(at, 2 if at < 0 else 0)
    byte = f.read(1)[0]
    f.seek(-1, 1)
    f.write(bytes([byte ^ 16]))
PY
}
flip footer -950 # in the first of two footers of 512 bytes
fails flipped_footer 4 'damaged' "$work/footer" -p x
flip table "$(offset_of "$exe" table)"
fails flipped_table 4 'damaged' "$work/table" -p x
flip segment "$(offset_of "$exe" license)"
fails flipped_segment 4 'damaged' "$work/segment" -p x
flip weights 5000000 # inside WEIGHTS, which start at a multiple of 2 MiB
fails flipped_weight 4 'weights are damaged' "$work/weights" -p x

fails unknown_command 2 'frobnicate' "$exe" frobnicate
fails unknown_option 2 'frobnicate' "$exe" -p x --frobnicate
fails bad_number 2 'top-p' "$exe" -p x --top-p 2
fails bad_device 2 'device' "$exe" -p x --device tpu
fails gpu_of_cpu_file 2 'GPU' "$exe" -p x --device cuda:0
fails missing_prompt_file 2 'nowhere' "$exe" -f "$work/nowhere"
fails bad_ids 2 'ids' "$exe" logits --ids 1,x -o "$work/logits"
fails id_out_of_range 2 '8192' "$exe" logits --ids 1,8192 -o "$work/logits"
fails logits_to_missing_folder 6 'nowhere' "$exe" logits --ids 1 -o "$work/nowhere/logits"
fails bad_batch 2 'from 1' "$exe" bench -b 0

python3 -c 'print("word " * 5000)' >"$work/long"
fails prompt_too_long 6 '2048' "$exe" -f "$work/long"
printf 'caf\xe9 \xff\xfe' >"$work/latin1"
passes invalid_utf8 "$exe" -f "$work/latin1" -n 2 --temp 0
passes empty_prompt "$exe" --raw -p "" -n 2 --temp 0

# A reader that has enough ends us quietly, without an error line.
"$exe" -p x -n 400 --ignore-eos --temp 0 2>"$work/stderr" | head -c 1 >"$work/stdout"
status=${PIPESTATUS[0]}
if [ "$status" = 0 ] && [ ! -s "$work/stderr" ]; then
    ok closed_stdout
else
    not_ok closed_stdout "exit code $status: $(head -n 1 "$work/stderr")"
fi
"$exe" -p x -n 4 --temp 0 >&- 2>"$work/stderr" && not_ok no_stdout "exit code 0" || ok no_stdout

# Text on a terminal and text in JSON are the same, and the same seed gives the same text.
"$exe" -p "One day" -n 40 -s 7 --temp 0.9 >"$work/a"
"$exe" run -p "One day" -n 40 --seed 7 --temperature 0.9 --json >"$work/b"
if python3 -c 'import json, sys; sys.exit(open(sys.argv[1]).read() != json.load(open(sys.argv[2]))["text"] + "\n")' \
    "$work/a" "$work/b"; then
    ok same_seed
else
    not_ok same_seed "$(head -c 200 "$work/a")"
fi

# Without a GPU: said, not silently replaced.
both=$work/both
if "$compiler" "$sample" -o "$both" --target cpu,sm_90a --progress none 2>"$work/stderr"; then
    if [ -e /dev/nvidia0 ]; then
        skipped no_gpu "this machine has one"
    else
        fails no_gpu 7 'driver|GPU' "$both" -p x -n 2 --device cuda:0
        "$both" -p x -n 2 --temp 0 >/dev/null 2>"$work/stderr"
        if grep -q 'CPU' "$work/stderr"; then
            ok fall_to_cpu_is_said
        else
            not_ok fall_to_cpu_is_said "$(cat "$work/stderr")"
        fi
    fi
else
    skipped no_gpu "$(tail -n 1 "$work/stderr")"
fi
