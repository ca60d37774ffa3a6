# Tiny checkpoints of other settings, compiled for the CPU, against transformers and the oracle; and
# one of each group size and width that the generator writes, against the oracle alone.
set -u
. tests/lib.sh

# Code for this machine's level only: aarch64.sh shows that all levels give the same bits.
level=x86-64-v3
! grep -q avx512_vnni /proc/cpuinfo || level=x86-64-v4-vnni

for fixture in tests/vectors/fixtures/*/; do
    name=$(basename "$fixture")
    if ! "$compiler" "$fixture" -o "$work/$name" --target cpu:$level --progress none; then
        not_ok "$name" "compile failed"
        continue
    fi
    tolerance=2e-3
    [[ $name != *bf16* ]] || tolerance=1e-2
    python3 tests/check_reference.py "$work/$name" "$fixture/reference.json" --name "$name" \
        --tolerance "$tolerance" --oracle build/tests/oracle_logits "$fixture"
done

ids=1,2,3,700,5,6,7,8,9,10,11,500,13,14,15,16,17,18,19,20
for setting in "4 32 0 0" "4 64 0 0" "4 -1 1 0" "4 256 0 0" "8 32 0 1" "8 64 1 0" "8 128 0 0" \
    "8 -1 0 0" "2 16 1 0" "2 64 0 1" "3 32 1 1" "3 -1 0 0" "4 16 1 1" "4 128 1 1" "8 16 1 1" "5 32 1 0" "6 128 0 1" "7 64 1 1"; do
    read -r bits group asymmetric order <<<"$setting"
    name="generated ${bits}-bit g$group"
    [ "$asymmetric" = 0 ] || name+=" asymmetric"
    [ "$order" = 0 ] || name+=" act-order"
    words=(--bits "$bits" --group-size "$group")
    [ "$asymmetric" = 0 ] || words+=(--asymmetric 1)
    [ "$order" = 0 ] || words+=(--act-order 1)
    build/make-checkpoint custom "$work/model" "${words[@]}" >/dev/null
    if ! "$compiler" "$work/model" -o "$work/exe" --target cpu:$level --progress none 2>"$work/stderr"; then
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
