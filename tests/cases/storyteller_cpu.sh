# The sample, compiled for the CPU, against what transformers computed; and what the executable is.
set -u
. tests/lib.sh

exe=$(cpu_executable) || { not_ok compile "exit code $?"; exit 1; }
text=../shared/models/valid.txt
words=()
if [ -f "$text" ]; then
    words=(--text "$text")
else
    skipped "storyteller perplexity" "no $text"
fi
python3 tests/check_reference.py "$exe" "$sample/reference.json" --name storyteller \
    --oracle build/tests/oracle_logits "$sample" "${words[@]}"

needed=$(ldd "$exe" | sed -E 's/ \(0x.*//; s/.* => //' | awk '{print $NF}' | xargs -n 1 basename |
    sed -E 's/[.-].*//' | sort | tr '\n' ' ')
# glibc's own, as they were divided before 2.34
others=$(tr ' ' '\n' <<<"$needed" | grep -vxE 'ld|libc|libm|libpthread|libdl|linux|')
[ -z "$others" ] && ok "storyteller libraries" || not_ok "storyteller libraries" "$needed"

size=$(stat -c %s "$exe")
weights=$("$exe" info --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["weights_bytes"])')
if [ $((size - weights)) -le 6000000 ]; then
    ok "storyteller size"
else
    not_ok "storyteller size" "$size bytes around $weights of weights"
fi
