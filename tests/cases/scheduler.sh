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

"$exe" serve --port 0 -c 1024 --kv-tokens 1280 --drain-timeout 1 2>"$work/serve.log" &
pid=$!
for _ in $(seq 200); do
    ! grep -q '^ready' "$work/serve.log" || break
    sleep 0.05
done
url=$(sed -n 's/^listening on //p' "$work/serve.log")
if python3 - "$url" >"$work/together" 2>&1 <<'PYTHON'; then ok together; else not_ok together "$(tail -n 3 "$work/together")"; fi
import concurrent.futures, json, sys, urllib.request

url = sys.argv[1]
story = "Once upon a time there was a little house at the end of a long road. " * 6


def complete(at):
    body = {"prompt": story * (1 + at % 2) + "Number %d said" % (at // 2), "max_tokens": 60 + 37 * at % 120,
            "temperature": 0.8 * (at % 3 > 0), "seed": at, "ignore_eos": True,
            "frequency_penalty": 0.3 * (at % 4 == 1)}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=100))["choices"][0]["text"]


def metrics():
    lines = urllib.request.urlopen(url + "/metrics").read().decode().split("\n")
    return {line.split(" ")[0].split("{")[0]: float(line.rsplit(" ", 1)[1])
            for line in lines if line and line[0] != "#"}


alone = [complete(at) for at in range(10)]
before = metrics()
with concurrent.futures.ThreadPoolExecutor(10) as pool:
    together = list(pool.map(complete, range(10)))
after = metrics()
more = {name: after["gptq_compile_" + name] - before["gptq_compile_" + name]
        for name in ("num_preemptions_total", "prefix_cache_hits_total", "steps_total")}
print(more)
assert more["num_preemptions_total"] > 0 and more["prefix_cache_hits_total"] > 0, more
assert together == alone, [at for at in range(10) if together[at] != alone[at]]
PYTHON
kill -TERM "$pid"
wait "$pid"
