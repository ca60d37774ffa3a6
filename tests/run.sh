#!/bin/bash
# Builds everything and runs all tests. Exit code 0 if none failed.
#
#   tests/run.sh                 set-up, build, all tests
#   tests/run.sh NAME...         only unit tests and cases with one of these words in their name
#   tests/run.sh --built [...]   without set-up and build
#
# A unit test is a cmocka program, tests/unit/test_NAME.c; each runs twice, as built by
# gcc and as built by clang with sanitizers, two programs at once. A case is a script, tests/cases/NAME.sh, that prints one line a
# test: "ok NAME", "not ok NAME: REASON" or "skipped NAME: REASON". Logs are in build/tests/log.
set -eu
cd "$(dirname "$0")/.."
exec </dev/null

passed=0 failed=0 skipped=0
log=build/tests/log

setup_and_build() {
    bash tests/setup.sh nvrtc
    ninja tests
}

# Ninja has no globs: a file without a line in the build would silently be left out.
check_build_lists() {
    local file missing=
    for file in compiler/*.c runtime/*.c templates/*.c kernels/*.cu* tests/*.c tests/unit/*.c \
        samples/*.c; do
        [ ! -f "$file" ] || grep -qE " $file( |\$)" build.ninja objects.ninja runtime.ninja || missing+=" $file"
    done
    if [ -n "$missing" ]; then
        fail "build lists" "not in build.ninja, objects.ninja or runtime.ninja:$missing"
    else
        ok "build lists"
    fi
}

# An id of a message stands for one place in the code.
check_error_ids() {
    local again
    again=$(grep -Phzo 'fail\([^;"]*?\b\K\d{3,4}(?=,\s*")' compiler/*.[ch] runtime/*.[ch] |
        tr '\0' '\n' | sort | uniq -d | tr '\n' ' ')
    if [ -n "$again" ]; then
        fail "error ids" "used twice: $again"
    else
        ok "error ids"
    fi
}

# compiler/ and runtime/ are linked together: of two functions of one name the linker takes either.
check_symbols() {
    local again
    again=$(nm --defined-only build/libcompiler.a build/runtime/x86_64/libruntime.a 2>/dev/null |
        awk '$2 ~ /^[A-TX-Z]$/ { print $3 }' | sort | uniq -d | tr '\n' ' ')
    if [ -n "$again" ]; then
        fail "symbols" "defined twice: $again"
    else
        ok "symbols"
    fi
}

ok() {
    echo "ok $1"
    passed=$((passed + 1))
}

fail() {
    echo "not ok $1: $2"
    failed=$((failed + 1))
}

skip() {
    echo "skipped $1: $2"
    skipped=$((skipped + 1))
}

selected() {
    local word
    [ ${#words[@]} -gt 0 ] || return 0
    for word in "${words[@]}"; do
        [[ $1 != *"$word"* ]] || return 0
    done
    return 1
}

# Sanitizers see nothing of what these test: GPU code, compiled by NVRTC or emulated.
generated_code="test_gpu_kernels test_gpu_linear test_nvrtc test_nvrtc_linear"

# start_unit LABEL PROGRAM
start_unit() {
    local status=0
    timeout 300 "$2" >"$log/$1.log" 2>&1 || status=$?
    echo "$status" >"$log/$1.status"
}

# report_unit LABEL: one line for each test in it.
report_unit() {
    local out=$log/$1.log status name bad=
    status=$(cat "$log/$1.status")
    while read -r name; do
        ok "$1 $name"
    done < <(sed -nE 's/^\[ +OK \] (\w+)$/\1/p' "$out")
    while read -r name; do
        skip "$1 $name" "$(sed -n 's/^skipped: //p' "$out" | head -n 1)"
    done < <(sed -nE 's/^\[ +SKIPPED \] (\w+)$/\1/p' "$out" | sort -u)
    while read -r name; do
        bad=yes
        fail "$1 $name" "see $out"
    done < <(sed -nE 's/^\[ +FAILED +\] (\w+)$/\1/p' "$out" | sort -u)
    if [ "$status" != 0 ]; then
        [ -n "$bad" ] || fail "$1" "exit status $status, see $out"
        tail -n 40 "$out" | sed 's/^/    /'
    fi
}

# pooled COMMAND...: in the background, two at once.
pooled() {
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do
        wait -n || true
    done
    "$@" &
}

run_units() {
    local file name labels=()
    for file in tests/unit/test_*.c; do
        [ -f "$file" ] || continue
        name=$(basename "$file" .c)
        selected "$name" || continue
        pooled start_unit "$name" "build/tests/$name"
        labels+=("$name")
        if [[ " $generated_code " != *" $name "* ]]; then
            pooled start_unit "$name.asan" "build/asan/tests/$name"
            labels+=("$name.asan")
        fi
    done
    wait
    for name in "${labels[@]}"; do
        report_unit "$name"
    done
}

# grep -c exits 1 when it counts 0.
count() {
    grep -c "$1" "$2" || true
}

# run_case NAME FILE: shows what it prints, and counts its lines.
run_case() {
    local out=$log/$1.log status
    # Not the status of tee; and a case that fails must not end the run.
    set +e
    timeout 600 bash "$2" 2>&1 | tee "$out"
    status=${PIPESTATUS[0]}
    set -e
    passed=$((passed + $(count '^ok ' "$out")))
    failed=$((failed + $(count '^not ok ' "$out")))
    skipped=$((skipped + $(count '^skipped ' "$out")))
    if ! grep -qE '^(ok|not ok|skipped) ' "$out"; then
        fail "$1" "ran no test, exit status $status, see $out"
    elif [ "$status" != 0 ] && ! grep -q '^not ok ' "$out"; then
        fail "$1" "exit status $status, see $out"
    fi
}

run_cases() {
    local file name
    for file in tests/cases/*.sh; do
        [ -f "$file" ] || continue
        name=$(basename "$file" .sh)
        selected "$name" || continue
        run_case "$name" "$file"
    done
}

built=
if [ "${1:-}" = --built ]; then
    built=yes
    shift
fi
words=("$@")

[ -n "$built" ] || setup_and_build

# Tests compile kernels: not into the user's own cache.
export GPTQ_COMPILE_CACHE=$PWD/build/tests/cache
if [ -d build/nvrtc ]; then
    export LD_LIBRARY_PATH=$PWD/build/nvrtc/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
mkdir -p "$log"
check_build_lists
check_error_ids
check_symbols
run_units
run_cases
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
