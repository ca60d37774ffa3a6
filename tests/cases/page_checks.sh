# Weights that are damaged where nothing reads them at first: a page is checked before its first use, so
# a run refuses there and not before, with the text that it made of good pages; what serves checks all
# first. The model's embedding table is not its head; it has 8 pages of 2048 rows.
set -u
. tests/lib.sh

shape=(--layers 1 --hidden 256 --vocab 16384 --intermediate 512 --heads 4 --kv-heads 2 --head-dim 64)
build/make-checkpoint custom "$work/model" "${shape[@]}" >/dev/null
good=$work/good
exe=$work/exe
"$compiler" "$work/model" -o "$good" --target cpu --self-test off --progress none ||
    { not_ok compile "exit code $?"; exit 1; }
run=(--raw -p a --temp 0 --ignore-eos)

# Pages of the table: of the prompt; one that no token has; the first one that a token of the answer has
# and no token before it, and the number of that token.
"$good" "${run[@]}" -n 8 --json >"$work/json"
read -r prompt_page unused_page answer_page answer_at < <(python3 - "$work/json" <<'PY'
import json, sys
j = json.load(open(sys.argv[1], encoding="utf-8"))
prompt, answer = ([at // 2048 for at in j[key]] for key in ("prompt_ids", "ids"))
new = next(at for at, page in enumerate(answer) if page not in prompt + answer[:at])
print(prompt[0], next(p for p in range(8) if p not in prompt + answer), answer[new], new)
PY
)

# flip PAGE: $exe with one bit changed in that page of the weights; from their end if negative.
flip() {
    cp "$good" "$exe"
    python3 - "$exe" "$(offset_of "$good" weights)" "$(offset_of "$good" tokenizer)" "$1" <<'PY'
import sys
first, end, page = map(int, sys.argv[2:])
at = (first if page >= 0 else end) + (page << 20) + 123456
with open(sys.argv[1], "r+b") as file:
    file.seek(at)
    byte = file.read(1)[0]
    file.seek(at)
    file.write(bytes([byte ^ 64]))
PY
}

# refuses NAME TEXT COMMAND...: for the weights, after it wrote that text.
refuses() {
    local name=$1 text=$2
    shift 2
    fails "$name" 4 'weights are damaged \(MiB' "$@"
    if [ "$(cat "$work/stdout")" = "$text" ]; then
        ok "${name}_text"
    else
        not_ok "${name}_text" "$(head -c 100 "$work/stdout"), expected $text"
    fi
}

# writes NAME TOKENS: what the undamaged file writes.
writes() {
    if [ "$("$exe" "${run[@]}" -n "$2" 2>&1)" = "$("$good" "${run[@]}" -n "$2")" ]; then
        ok "$1"
    else
        not_ok "$1" "another text"
    fi
}

flip "$unused_page"
writes row_of_no_token 8
fails row_of_no_token_verify 4 'weights are damaged' "$compiler" verify "$exe"
refuses row_of_no_token_bench '' "$exe" bench -p 4 -n 1 -b 1
refuses row_of_no_token_serve '' "$exe" serve --port 0

flip "$answer_page"
writes row_before_its_token $((answer_at + 1))
refuses row_of_token "$("$good" "${run[@]}" -n $((answer_at + 1)))" \
    "$exe" "${run[@]}" -n $((answer_at + 2))

flip "$prompt_page"
for threads in 1 3; do
    refuses "row_of_prompt_$threads" '' "$exe" "${run[@]}" -n 1 -t "$threads"
done
flip -2 # the head, in the first step
for threads in 1 2 5; do
    refuses "head_$threads" '' "$exe" "${run[@]}" -n 1 -t "$threads"
done
