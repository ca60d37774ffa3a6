# Shared by tests/cases/*.sh: sourced from the repository root. Each check prints one line.
compiler=build/gptq-compile
sample=samples/storyteller
work=$(mktemp -d "${TMPDIR:-/tmp}/gptq-compile-test.XXXXXX")
trap 'rm -rf "$work"' EXIT

ok() {
    echo "ok $1"
}

not_ok() {
    echo "not ok $1: $2"
}

skipped() {
    echo "skipped $1: $2"
}

# limited SECONDS COMMAND...: `timeout` runs programs only; a shell function runs without a limit.
limited() {
    if [ "$(type -t "$2")" = function ]; then
        shift
        "$@"
    else
        timeout "$@"
    fi
}

# fails NAME CODE WORDS COMMAND...: the command exits with CODE, says WORDS (a grep -E pattern) in one
# line of stderr that starts with "error GQC-", and writes nothing to stdout but what it must.
fails() {
    local name=$1 code=$2 words=$3 status=0
    shift 3
    limited 60 "$@" >"$work/stdout" 2>"$work/stderr" </dev/null || status=$?
    if [ "$status" != "$code" ]; then
        not_ok "$name" "exit code $status, expected $code: $(tail -n 1 "$work/stderr")"
    elif ! grep -qE '^error GQC-[0-9]{4}: ' "$work/stderr"; then
        not_ok "$name" "no error line: $(head -n 1 "$work/stderr")"
    elif ! grep -E '^error GQC-' "$work/stderr" | grep -qE -- "$words"; then
        not_ok "$name" "the message does not say $words: $(grep -E '^error' "$work/stderr")"
    else
        ok "$name"
    fi
}

# passes NAME COMMAND...
passes() {
    local name=$1 status=0
    shift
    limited 300 "$@" >"$work/stdout" 2>"$work/stderr" </dev/null || status=$?
    if [ "$status" = 0 ]; then
        ok "$name"
    else
        not_ok "$name" "exit code $status: $(tail -n 1 "$work/stderr")"
    fi
}

# A fresh copy of the sample in $work/NAME, to be damaged.
copy_sample() {
    rm -rf "${work:?}/$1"
    cp -r "$sample" "$work/$1"
    chmod -R u+w "$work/$1"
}

# offset_of EXECUTABLE SEGMENT|table: where it starts in the file.
offset_of() {
    "$compiler" inspect "$1" --json | python3 -c 'import json, sys
j = json.load(sys.stdin)
print(j["table_offset"] if sys.argv[1] == "table" else
      next(s["offset"] for s in j["segments"] if s["name"] == sys.argv[1]))' "$2"
}

# The sample compiled for the CPU, once for all cases.
cpu_executable() {
    local exe=build/tests/storyteller-cpu
    if [ ! -x "$exe" ] || [ "$compiler" -nt "$exe" ]; then
        "$compiler" "$sample" -o "$exe" --target cpu --progress none >&2
    fi
    echo "$exe"
}
