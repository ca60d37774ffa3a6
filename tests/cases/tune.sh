# --tune measure and --tuning-file, against the stand-in driver of tests/libcuda_stub.c, whose kernels
# take the times that a test names: the choice must follow them, and serve machines without a GPU.
set -u
. tests/lib.sh

model=tests/vectors/fixtures/llama32-4b-g128
compile=("$compiler" "$model" --target sm_80 --max-batch-size 1 --max-num-tokens 1 --max-seq-len 64
    --progress plain)
stub=(env "LD_LIBRARY_PATH=$PWD/build/tests/stub" STUB_CUDA_CAPABILITY=8.0 STUB_CUDA_MEMORY=4000000000)

# chosen NAME FILE KERNEL: with that tuning file every linear layer runs KERNEL, by measurement.
chosen() {
    "${compile[@]}" --tuning-file "$2" --explain -n >"$work/explain" 2>"$work/note" || true
    local all
    all=$(grep -c ':linear_' "$work/explain")
    [ "$all" -gt 0 ] && [ "$(grep -c ":$3 .* us measured" "$work/explain")" = "$all" ] && ok "$1" ||
        not_ok "$1" "$(grep ':linear_' "$work/explain" | grep -v ":$3 .*measured" | head -n 1)"
}

# same NAME FILE FILE
same() {
    cmp -s "$2" "$3" && ok "$1" || not_ok "$1" "$2 and $3 differ"
}

if ! "${compile[@]}" -o "$work/none" 2>"$work/stderr"; then
    skipped tune "$(tail -n 1 "$work/stderr")"
    exit
fi

# ---- measuring ----------------------------------------------------------------------------------

gemm=$work/gemm.json decode=$work/decode.json
passes tune_measure "${stub[@]}" STUB_CUDA_US=linear_gemm:5,linear:50 "${compile[@]}" --tune measure \
    --tuning-file "$gemm" -o "$work/measured"
chosen tune_follows_times "$gemm" linear_gemm
# Equal times: the first candidate, and the same file again.
passes tune_again "${stub[@]}" STUB_CUDA_US=linear_gemm:5,linear:50 "${compile[@]}" --tune measure \
    --tuning-file "$work/again.json" -n --explain
same tune_is_deterministic "$gemm" "$work/again.json"
passes tune_other_times "${stub[@]}" STUB_CUDA_US=linear_decode:5,linear:50 "${compile[@]}" \
    --tune measure --tuning-file "$decode" -n --explain
chosen tune_follows_other_times "$decode" linear_decode
# What the file has is not measured again, however long it would take now.
cp "$gemm" "$work/kept.json"
passes tune_knows "${stub[@]}" STUB_CUDA_US=linear_gemm:500,linear:50 "${compile[@]}" --tune measure \
    --tuning-file "$work/kept.json" -n --explain
grep -q 'measured 0' "$work/stderr" && ok tune_measures_nothing || not_ok tune_measures_nothing \
    "$(grep plan "$work/stderr")"
same tune_keeps_the_file "$gemm" "$work/kept.json"

# ---- the file on a machine without a GPU --------------------------------------------------------

passes tuning_file "${compile[@]}" --tuning-file "$gemm" -o "$work/from_file"
same tuning_file_same_bytes "$work/measured" "$work/from_file"
cmp -s "$work/none" "$work/from_file" && not_ok tuning_file_counts "the choices changed nothing" ||
    ok tuning_file_counts
sed 's/"sources":\t"[0-9a-f]*"/"sources":\t"00"/' "$gemm" >"$work/stale.json"
passes tuning_stale "${compile[@]}" --tuning-file "$work/stale.json" -o "$work/stale"
grep -q ' 0 of .* other kernels and are ignored' "$work/stderr" && ok tuning_stale_note ||
    not_ok tuning_stale_note "$(grep note "$work/stderr")"
same tuning_stale_ignored "$work/none" "$work/stale"
sed 's/sm_80/sm_86/; s/BLOCK_TOKENS=[0-9]*/BLOCK_TOKENS=7/' "$gemm" >"$work/foreign.json"
passes tuning_foreign "${compile[@]}" --tuning-file "$work/foreign.json" -n --explain
grep -q ' 0 of .* other targets, layers' "$work/stderr" && ok tuning_foreign_note ||
    not_ok tuning_foreign_note "$(grep note "$work/stderr")"

# ---- what goes wrong ----------------------------------------------------------------------------

fails tune_without_gpu 7 'GPU of this machine is not there' "${compile[@]}" --tune measure -n
fails tune_other_gpu 7 'is sm_90a, which is none of the targets' "${stub[@]}" STUB_CUDA_CAPABILITY=9.0 \
    "${compile[@]}" --tune measure -n
fails tune_idle_kernels 8 'writes its outputs' "${stub[@]}" "${compile[@]}" --tune measure -n
fails tune_no_memory 6 'error 2' "${stub[@]}" STUB_CUDA_US=linear:5 STUB_CUDA_MEMORY=100000 \
    "${compile[@]}" --tune measure -n
fails tuning_no_file 2 'no such file' "${compile[@]}" --tuning-file "$work/missing.json" -n
# damaged NAME CODE WORDS SED
damaged() {
    sed "$4" "$gemm" >"$work/damaged.json"
    fails "$1" "$2" "$3" "${compile[@]}" --tuning-file "$work/damaged.json" -n
}
damaged tuning_other_format 4 'no tuning file of this version' 's/tuning 1/tuning 9/'
damaged tuning_no_choices 4 'no tuning file of this version' 's/"choices"/"choice"/'
damaged tuning_bad_time 4 'choice 0 .* us -1' 's/"us":\t[0-9.]*/"us":\t-1/'
damaged tuning_bad_tokens 4 'choice 0 has tokens 0' 's/"tokens":\t[0-9]*/"tokens":\t0/'
damaged tuning_text_missing 4 'choice 0 has no "kernel"' 's/"kernel"/"colonel"/'
damaged tuning_text_long 4 'more than 255 bytes' "s/\"kernel\":\t\"/&$(printf 'x%.0s' {1..300})/"
damaged tuning_cut 4 'damaged.json' '5,$d'
