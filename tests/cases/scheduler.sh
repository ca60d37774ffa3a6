# Many answers at once are the ones that each gets alone: batched, cut into chunks, taken out and put
# back for want of pages, with beginnings from the prefix cache, with drafts. On the sample, beyond
# the positions at which attention is cut into parts.
set -u
. tests/lib.sh

exe=$(cpu_executable) || { not_ok compile "exit code $?"; exit 1; }

# ---- drafts -------------------------------------------------------------------------------------

ids() {
    "$exe" --raw -p 'The old king went to the sea, and the old king' --json "$@" 2>>"$work/stats" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["ids"])'
}

for draw in "--temp 0 --repeat-penalty 1" "--temp 0.5 --top-p 0.9 -s 5 --repeat-penalty 1.1"; do
    # shellcheck disable=SC2086
    plain=$(ids -n 320 --ignore-eos $draw) drafted=$(ids -n 320 --ignore-eos $draw --speculate 8 --stats)
    if [ -n "$plain" ] && [ "$plain" = "$drafted" ]; then
        ok "speculate $draw"
    else
        not_ok "speculate $draw" "other ids: $plain, with drafts $drafted"
    fi
done
accepted=$(sed -n 's/^speculation: \([0-9]*\) of .*/\1/p' "$work/stats" | sort -n | tail -n 1)
[ "${accepted:-0}" -gt 30 ] && ok "drafts accepted" || not_ok "drafts accepted" "${accepted:-none}"

# ---- together -----------------------------------------------------------------------------------

# answers COUNT AT_ONCE NAME OPTIONS...: what a server with these options says to COUNT requests, one
# after the other or AT_ONCE, to $work/NAME.json with its metrics.
answers() {
    local count=$1 at_once=$2 name=$3 pid status=0
    shift 3
    "$exe" serve --port 0 -c 1024 --drain-timeout 1 "$@" 2>"$work/$name.log" &
    pid=$!
    for _ in $(seq 200); do
        ! grep -q '^ready' "$work/$name.log" || break
        sleep 0.05
    done
    python3 tests/serve_answers.py "$(sed -n 's/^listening on //p' "$work/$name.log")" "$count" "$at_once" \
        >"$work/$name.json" 2>>"$work/$name.log" || status=$?
    kill -TERM "$pid"
    wait "$pid"
    return $status
}

# same_answers NAME OTHER METRIC...: both said the same, and the metrics of OTHER are not 0.
same_answers() {
    local name=$2
    if python3 tests/serve_answers.py "$work/$1.json" "$work/$2.json" "${@:3}" >"$work/same" 2>&1; then
        ok "$name"
    else
        not_ok "$name" "$(tail -n 1 "$work/same")"
    fi
}

answers 10 1 alone
answers 10 10 together --kv-tokens 1280
same_answers alone together num_preemptions_total prefix_cache_hits_total
answers 10 3 drafted --speculate 8
same_answers alone drafted spec_decode_num_draft_tokens_total spec_decode_num_accepted_tokens_total
