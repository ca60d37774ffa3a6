# One file for a whole fleet: made without a GPU and with a cold cache in less than a minute, of the size
# of the weights and 20 MB at most, no kernel with spills; --explain says what each target adds; the
# right target is picked for each chip, PTX for one that nothing was made for.
set -u
. tests/lib.sh

exe=$work/all
start=$SECONDS
export GPTQ_COMPILE_CACHE=$work/cache
if ! "$compiler" "$sample" -o "$exe" --target all --explain --progress plain >"$work/explain" \
    2>"$work/stderr"; then
    grep -q 'GQC-0501' "$work/stderr" && skipped target_all "$(tail -n 1 "$work/stderr")" ||
        not_ok target_all "$(tail -n 1 "$work/stderr")"
    exit
fi
# Other work on the machine does not count: half of the processor time is the time on two cores.
times >"$work/times"
used=$(tail -n 1 "$work/times" | awk '{ split($1, a, /[ms]/); split($2, b, /[ms]/)
    print int((a[1] * 60 + a[2] + b[1] * 60 + b[2]) / 2 + 0.5) }')
[ "$used" -lt 60 ] && ok "all_time ($used s of two cores, $((SECONDS - start)) s on the clock)" ||
    not_ok all_time "$used s of two cores"
grep -q 'note: .*kernels: ' "$work/stderr" && not_ok all_spills "$(grep 'note:' "$work/stderr")" ||
    ok all_spills
size=$(stat -c %s "$exe")
weights=$("$exe" info --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["weights_bytes"])')
[ $((size - weights)) -le 20000000 ] && ok "all_size ($(((size - weights) / 1000)) KB and the weights)" ||
    not_ok all_size "$size bytes around $weights of weights"

for target in sm_80 sm_86 sm_87 sm_89 sm_90a sm_100a sm_110a sm_120a compute_80; do
    grep -qE "^  $target +[0-9]+\.[0-9]+ MB, [0-9]+ kernels" "$work/explain" || bad+=" $target"
done
[ -z "${bad:-}" ] && ok all_explained || not_ok all_explained "nothing about$bad"

export LD_LIBRARY_PATH=$PWD/build/tests/stub${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# picked CAPABILITY TARGET REASON
picked() {
    local found
    found=$(env "STUB_CUDA_CAPABILITY=$1" "$exe" -p x -n 2 --stats 2>&1 >/dev/null | tail -n 1)
    [[ $found == *", $2 ($3"* ]] && ok "picked $1" || not_ok "picked $1" "$found"
}
picked 8.7 sm_87 'made for'
picked 8.8 sm_87 'the closest'
picked 11.0 sm_110a 'made for'
picked 12.1 compute_80 'PTX that the driver translates'
picked 15.0 compute_80 'PTX that the driver translates'
fails nothing_fits 7 'capability 7.5; this file holds code for .*sm_90a.*, compute_80' \
    env STUB_CUDA_CAPABILITY=7.5 "$exe" -p x -n 2
