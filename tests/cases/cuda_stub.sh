# The host side of the GPU path against the stand-in driver of tests/libcuda_stub.c, which ends the
# process with status 99 at the first wrong call. It computes nothing: all logits are 0, so every token
# is id 0.
set -u
. tests/lib.sh

exe=build/tests/storyteller-cuda
if [ ! -x "$exe" ] || [ "$compiler" -nt "$exe" ]; then
    if ! "$compiler" "$sample" -o "$exe" --target cpu,sm_90a --progress none 2>"$work/stderr"; then
        skipped cuda_stub "$(tail -n 1 "$work/stderr")"
        exit
    fi
fi
export LD_LIBRARY_PATH=$PWD/build/tests/stub${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
gpu=(env "STUB_CUDA_LOG=$work/log")

# logged NAME PATTERN COUNT: so many lines of the last call log match.
logged() {
    local found
    found=$(grep -cE "$2" "$work/log")
    [ "$found" = "$3" ] && ok "$1" || not_ok "$1" "$found lines of the log match $2, expected $3"
}

# ---- what it asks of the driver -----------------------------------------------------------------

passes stub_run "${gpu[@]}" "$exe" -p 'Once upon a time' -n 20 --temp 0 --json
grep -q '"ids":\[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0\]' "$work/stdout" && ok stub_tokens ||
    not_ok stub_tokens "$(head -c 200 "$work/stdout")"
logged one_graph '^cuGraphInstantiate' 1
logged graph_per_token '^cuGraphLaunch' 19
logged weights_in_one_copy_per_stage '^cuMemHostAlloc' 3
passes stub_sampled "${gpu[@]}" "$exe" -p x -n 70 --temp 0.9 --top-k 40 --min-p 0.1 --device cuda:0
# New pages of the KV cache are the only uploads while it decodes: 70 tokens, 64 to a page.
copies=$(awk '/^cuGraphLaunch/ {decoding = 1} decoding && /^cuMemcpyHtoD/ {n++} END {print n + 0}' "$work/log")
[ "$copies" -le 2 ] && ok no_upload_per_token || not_ok no_upload_per_token "$copies copies to the device"
passes stub_long_prompt "${gpu[@]}" "$exe" logits --ids "$(seq -s , 1 1500)" -o "$work/out" --device cuda
passes stub_all_logits "${gpu[@]}" "$exe" logits --all --ids "$(seq -s , 1 40)" -o "$work/out" --device cuda
[ "$(stat -c %s "$work/out")" = $((40 * 8192 * 4)) ] && ok stub_logits_size || not_ok stub_logits_size "wrong size"
passes stub_bench "${gpu[@]}" "$exe" bench -p 300 -n 4 -b 1,2,5,16 --json
logged graph_per_batch '^cuGraphInstantiate' 4
seq 1 500 >"$work/text"
passes stub_perplexity "${gpu[@]}" "$exe" perplexity "$work/text" --ctx 128 --windows 2 --json
# Streams: text is made while the device works, and what it works on stays as it is.
STUB_CUDA_GRAPH_US=1000 "${gpu[@]}" "$exe" serve --port 0 --device cuda:0 2>"$work/serve" &
pid=$!
for _ in $(seq 200); do
    ! grep -q '^ready' "$work/serve" || break
    sleep 0.05
done
passes stub_serve python3 tests/serve_load.py "$(sed -n 's/^listening on //p' "$work/serve")" \
    --concurrency 12 --requests 48 --prompt-tokens 40 --output-tokens 50
kill -TERM "$pid"
wait "$pid" && ok stub_serve_ends || not_ok stub_serve_ends "$(tail -n 1 "$work/serve")"
rm "$work/log"
passes stub_cpu "${gpu[@]}" "$exe" -p x -n 2 --device cpu
[ ! -e "$work/log" ] && ok cpu_needs_no_driver || not_ok cpu_needs_no_driver "$(head -n 1 "$work/log")"

# ---- a GPU that shares the host's memory --------------------------------------------------------

rm -f "$work/log"
passes integrated env STUB_CUDA_INTEGRATED=1 "${gpu[@]}" "$exe" -p 'Once upon a time' -n 4 --device cuda
logged integrated_weights '^cuMemAllocManaged' 1
passes separate "${gpu[@]}" "$exe" -p x -n 2 --device cuda
logged separate_weights '^cuMemAllocManaged' 0

# ---- machines that cannot run it ----------------------------------------------------------------

run=("$exe" -p x -n 2 --device cuda)
fails no_driver 7 'libcuda.so.1 was not found' env -u LD_LIBRARY_PATH "${run[@]}"
fails no_gpu 7 'finds no GPU' env STUB_CUDA_DEVICES=0 "${run[@]}"
fails no_second_gpu 7 'cuda:1 does not exist' "$exe" -p x --device cuda:1
fails wrong_gpu 7 'compute capability 8.0; .*sm_90a.*--target sm_80' env STUB_CUDA_CAPABILITY=8.0 "${run[@]}"
fails newer_gpu 7 'compute capability 10.0; .*sm_90a' env STUB_CUDA_CAPABILITY=10.0 "${run[@]}"
fails old_driver 7 'update the NVIDIA driver' env STUB_CUDA_VERSION=11040 "${run[@]}"
fails little_memory 6 '0.01 GB for the weights, but 0.01 GB of 0.01 GB' env STUB_CUDA_MEMORY=10000000 "${run[@]}"
fails little_memory_kv 6 'KV cache of 2048 tokens takes 0.01 GB, there is room for' \
    env STUB_CUDA_MEMORY=550000000 "$exe" -p x --device cuda -c 2048
# Without --device the CPU takes over, and says so.
passes falls_to_cpu env STUB_CUDA_DEVICES=0 "$exe" -p x -n 2
grep -q 'no NVIDIA GPU in this machine; running on the CPU' "$work/stderr" && ok says_so || not_ok says_so "$(cat "$work/stderr")"
# But not for a GPU that is there and cannot be used: that is for the user to decide.
fails no_silent_fall_gpu 7 'this file holds code for .*cpu:.*sm_90a.*--device cpu' \
    env STUB_CUDA_CAPABILITY=8.0 "$exe" -p x -n 2
fails no_silent_fall_driver 7 'update the NVIDIA driver' env STUB_CUDA_VERSION=11040 "$exe" -p x -n 2
passes choice "$exe" explain
grep -q '^On this machine: .*cuda:0.*: sm_90a, made for compute capability 9.0' "$work/stdout" &&
    ok choice_reason || not_ok choice_reason "$(tail -n 1 "$work/stdout")"
passes stats_reason "$exe" -p x -n 2 --stats
grep -q 'sm_90a (made for compute capability 9.0)' "$work/stderr" && ok stats_gpu ||
    not_ok stats_gpu "$(tail -n 1 "$work/stderr")"
passes choice_cpu env STUB_CUDA_DEVICES=0 "$exe" explain
grep -qE '^On this machine: .*: cpu:x86-64-v[34].*, the best of its levels' "$work/stdout" &&
    ok choice_cpu_reason || not_ok choice_cpu_reason "$(tail -n 1 "$work/stdout")"
fails no_silent_fall 6 'GB for the weights' env STUB_CUDA_MEMORY=10000000 "$exe" -p x -n 2

# Damaged weights are found while they stream in.
cp "$exe" "$work/damaged"
python3 - "$work/damaged" <<'PY'
import os, sys
with open(sys.argv[1], "r+b") as file:
    file.seek(os.path.getsize(sys.argv[1]) // 2)
    byte = file.read(1)[0]
    file.seek(-1, 1)
    file.write(bytes([byte ^ 1]))
PY
fails damaged_weights 4 'weights are damaged' "$work/damaged" -p x --device cuda
fails damaged_in_place 4 'weights are damaged' env STUB_CUDA_INTEGRATED=1 "$work/damaged" -p x --device cuda

# ---- every call fails once ----------------------------------------------------------------------

# Whatever the driver refuses, the runtime says it, releases what it holds, and ends with 6 or 7. What it
# calls while closing (the second cuCtxSetCurrent) nobody needs any more.
"${gpu[@]}" "${run[@]}" >"$work/stdout" 2>&1
calls=$(grep -oE '^cu[A-Za-z0-9_]+' "$work/log" | sort | uniq -c |
    awk '$2 !~ /Free|Destroy|Release|Unload|cuGetErrorString/ {print $2 ":" ($2 == "cuCtxSetCurrent" ? 1 : $1 > 3 ? 3 : $1)}')
bad=0 tried=0
for call in $calls; do
    for n in $(seq 1 "${call#*:}"); do
        status=0
        env STUB_CUDA_FAIL="${call%:*}:$n:719" timeout 60 "${run[@]}" >"$work/stdout" 2>"$work/stderr" || status=$?
        tried=$((tried + 1))
        if [ "$status" != 7 ] || ! grep -q '^error GQC-' "$work/stderr"; then
            not_ok "failing_call ${call%:*}:$n" "exit code $status: $(tail -n 1 "$work/stderr")"
            bad=$((bad + 1))
        fi
    done
done
[ "$bad" = 0 ] && [ "$tried" -gt 30 ] && ok "failing_calls ($tried)" || not_ok failing_calls "$bad of $tried"

# ---- selftest: the stand-in computes nothing ----------------------------------------------------

fails stub_selftest 8 'does not compute' "${gpu[@]}" "$exe" selftest
grep -qE '^cpu +good' "$work/stdout" && grep -qE '^cuda +WRONG' "$work/stdout" && ok stub_selftest_says ||
    not_ok stub_selftest_says "$(cat "$work/stdout")"
functions=$("$exe" explain | awk '/^target sm_90a/ {on = 1} on && /(prefill|head|decode), up to [0-9]+ tokens:/ {n++} END {print n}')
grep -qE "^cuda .* $functions step functions" "$work/stdout" && [ "$functions" -ge 4 ] && ok stub_selftest_all ||
    not_ok stub_selftest_all "not $functions functions: $(cat "$work/stdout")"
passes stub_selftest_absent env STUB_CUDA_DEVICES=0 "$exe" selftest
grep -qE '^cuda +absent' "$work/stdout" && ok stub_selftest_absent_says ||
    not_ok stub_selftest_absent_says "$(cat "$work/stdout")"
# A kernel that fails is an answer of the self-test, not the lack of a device.
fails stub_selftest_fault 8 'does not compute' env STUB_CUDA_FAIL=cuLaunchKernelEx:5:700 "$exe" selftest --device cuda
grep -qE '^cuda +WRONG +.*CUDA error 700' "$work/stdout" && ok stub_selftest_fault_says ||
    not_ok stub_selftest_fault_says "$(cat "$work/stdout")"
fails stub_selftest_asked 7 'no GPU' env STUB_CUDA_DEVICES=0 "$exe" selftest --device cuda
cp "$exe" "$work/swapped" && build/tests/plant "$work/swapped" cubin --keep-golden
fails swapped_cubin 8 'does not compute' "$work/swapped" selftest --device cpu
grep -qE '^file +WRONG' "$work/stdout" && ok swapped_cubin_says || not_ok swapped_cubin_says "$(cat "$work/stdout")"

# ---- memory, doctor -----------------------------------------------------------------------------

# Device memory is what `info` promises, to the byte.
passes stub_memory "${gpu[@]}" "$exe" -p x -n 1 -c 2048 --device cuda
found=$(awk '/^cuMemAlloc_v2/ {getline; n += $2} END {print n}' "$work/log")
pinned=$(awk '/^cuMemHostAlloc/ {n++} END {print n}' "$work/log")
expected=$("$exe" info --json | python3 -c 'import json, sys
print(next(r["device_bytes"] for r in json.load(sys.stdin)["memory"]
           if (r["device"], r["context"], r["sequences"]) == ("cuda", 2048, 1)))')
[ "$found" = "$expected" ] && [ "$pinned" = 3 ] && ok memory_cuda || not_ok memory_cuda "allocated $found, promised $expected"
passes stub_measure "${gpu[@]}" "$exe" info --measure -c 2048 --device cuda
grep -q "planned $expected bytes, taken $expected, +0 " "$work/stdout" && ok stub_measured ||
    not_ok stub_measured "$(cat "$work/stdout")"
fails stub_measure_integrated 3 'page by page' env STUB_CUDA_INTEGRATED=1 "$exe" info --measure --device cuda
passes stub_load "${gpu[@]}" "$exe" bench --load --json
python3 -c 'import json, sys
load = json.load(sys.stdin)["load"]
assert load["bytes"] > 12e6 and load["ratio"] > 0 and load["seconds"] >= load["read_check_s"] > 0, load
assert abs(load["ratio"] - max(load["plain_read_s"], load["plain_copy_s"]) / load["seconds"]) < 1e-6' \
    <"$work/stdout" && ok stub_load_json || not_ok stub_load_json "$(cat "$work/stdout")"
fails load_mapped 2 'mapped on a CPU' "$exe" bench --load --device cpu
# doctor NAME PATTERN SETTINGS...: a line of its output under these settings of the stand-ins.
doctor() {
    local name=$1 pattern=$2
    shift 2
    env "$@" "$exe" doctor >"$work/stdout" 2>"$work/stderr"
    grep -qE -- "$pattern" "$work/stdout" && ok "$name" || not_ok "$name" "$(cat "$work/stdout" "$work/stderr")"
}
doctor doctor_gpu 'good +GPU +cuda:0 is stand-in, compute capability 9.0: runs sm_90a' X=
doctor doctor_driver 'good +driver +for CUDA 13.0' X=
doctor doctor_old_driver 'bad +driver .*CUDA 11.4' STUB_CUDA_VERSION=11040
doctor doctor_wrong_gpu 'bad +GPU .*no code for it' STUB_CUDA_CAPABILITY=8.0
doctor doctor_wrong_gpu_mend '-> gptq-compile MODEL -o OUT --target sm_80' STUB_CUDA_CAPABILITY=8.0
doctor doctor_no_gpu 'bad +GPU .*finds no GPU' STUB_CUDA_DEVICES=0
doctor doctor_no_driver 'bad +driver .*libcuda.so.1 was not found' LD_LIBRARY_PATH=
doctor doctor_memory 'bad +GPU memory' STUB_NVML_FREE=1000000
doctor doctor_ecc_off 'note +ECC +off' STUB_NVML_ECC=0
doctor doctor_ecc_errors 'bad +ECC +on, 3 uncorrected' STUB_NVML_ERRORS=3
doctor doctor_power '-> sudo nvidia-smi -pl 700' STUB_NVML_POWER=300
doctor doctor_throttled 'note +clocks .*slowed down' STUB_NVML_THROTTLE=0x20
doctor doctor_no_nvml 'note +NVML' STUB_NVML_FAIL=1
