# Tiny checkpoints of other settings, compiled for the CPU, against transformers and the oracle; and
# one of each group size and width that the generator writes, against the oracle alone.
set -u
. tests/lib.sh

for fixture in tests/vectors/fixtures/*/; do
    name=$(basename "$fixture")
    if ! "$compiler" "$fixture" -o "$work/$name" --target cpu --progress none; then
        not_ok "$name" "compile failed"
        continue
    fi
    python3 tests/check_reference.py "$work/$name" "$fixture/reference.json" --name "$name" \
        --tolerance 2e-3 --oracle build/tests/oracle_logits "$fixture"
done

ids=1,2,3,700,5,6,7,8,9,10,11,500,13,14,15,16,17,18,19,20
for setting in "4 32" "4 64" "4 -1" "4 256" "8 32" "8 64" "8 128" "8 -1"; do
    read -r bits group <<<"$setting"
    name="generated ${bits}-bit g$group"
    build/make-checkpoint custom "$work/model" --bits "$bits" --group-size "$group" >/dev/null
    if ! "$compiler" "$work/model" -o "$work/exe" --target cpu --progress none 2>"$work/stderr"; then
        not_ok "$name" "$(tail -n 1 "$work/stderr")"
        continue
    fi
    "$work/exe" logits --ids "$ids" --all -o "$work/found"
    build/tests/oracle_logits "$work/model" "$ids" "$work/expected"
    error=$(python3 tests/check_logits.py "$work/found" "$work/expected" 20)
    if python3 -c "import sys; sys.exit(not float(sys.argv[1]) < 4e-3)" "$error"; then
        ok "$name ($error)"
    else
        not_ok "$name" "worst relative L2 $error"
    fi
done
