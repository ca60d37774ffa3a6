# The server: OpenAI's own client, abuse, load, start and end. `parrot` is the same server with a model
# whose answers are known (tests/serve_parrot.c), here also as built with sanitizers.
set -u
. tests/lib.sh

exe=$(cpu_executable) || { not_ok compile "exit code $?"; exit 1; }
pid=

# start NAME COMMAND...: $url and $pid of a server on a free port, once it is ready; it says so in
# $work/NAME.log.
start() {
    local log=$work/$1.log
    shift
    "$@" --port 0 2>"$log" &
    pid=$!
    for _ in $(seq 400); do
        if grep -q '^ready' "$log" || ! kill -0 "$pid" 2>/dev/null; then break; fi
        sleep 0.05
    done
    url=$(sed -n 's/^listening on //p' "$log")
}

# stop NAME: the server ends, within seconds and with exit code 0, and has said nothing but its own lines.
stop() {
    local status=0
    kill -TERM "$pid" 2>/dev/null
    wait "$pid" || status=$?
    pid=
    if [ "$status" != 0 ]; then
        not_ok "$1_ends" "exit code $status: $(tail -n 1 "$work/$1.log")"
    elif grep -qvE '^(listening|ready|stopping)' "$work/$1.log"; then
        not_ok "$1_ends" "$(grep -vE '^(listening|ready|stopping)' "$work/$1.log" | head -n 1)"
    else
        ok "$1_ends"
    fi
}
trap '[ -z "$pid" ] || kill -9 "$pid"; rm -rf "$work"' EXIT

same() { # same NAME FOUND EXPECTED
    if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "'$2', expected '$3'"; fi
}
request='{"prompt":"Once upon a time","max_tokens":12,"temperature":0}'

# curl
start model "$exe" serve --served-model-name tale,other
text=$(curl -s "$url/v1/completions" -d "$request" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["choices"][0]["text"])')
same curl_completion "$text" "$("$exe" --raw -p "Once upon a time" -n 12 --temp 0)"
same curl_health "$(curl -s -o "$work/reply" -w '%{http_code}' "$url/health")" 200
same curl_names "$(curl -s "$url/models" | grep -oE '"id":"[a-z]+"' | tr -d '\n')" '"id":"tale""id":"other"'

# OpenAI's client
clients=build/python
if [ ! -d $clients ]; then
    skipped openai_client "no $clients (tests/setup.sh nvrtc fetches it)"
else
    PYTHONPATH=$clients python3 tests/serve_check.py "$url" model
fi

# Load: every answer is the one computed alone, memory stays.
if python3 tests/serve_load.py "$url" --concurrency 50 --seconds 8 --prompt-tokens 24 --output-tokens 16 \
    --check --prompts 8 --pid "$pid" >"$work/load"; then
    ok load
else
    not_ok load "$(cat "$work/load")"
fi

# A drain: what is in work ends, nothing new is taken.
curl -s "$url/v1/completions" -d '{"prompt":"Once","max_tokens":200,"temperature":0,"ignore_eos":true}' >"$work/last" &
last=$!
sleep 0.3
stop model
wait "$last"
same drain "$(grep -oE '"completion_tokens":[0-9]+' "$work/last")" '"completion_tokens":200'

# Known answers, calls of tools, and abuse under sanitizers
start parrot build/asan/tests/serve_parrot "$exe" --tool-call-parser hermes --client-timeout 2 --max-connections 500
[ ! -d $clients ] || PYTHONPATH=$clients python3 tests/serve_check.py "$url" parrot
python3 tests/serve_faults.py "$url" 2000
stop parrot

# The key, and a queue that is full
start parrot build/asan/tests/serve_parrot "$exe" --api-key sesame --max-queue 1 -t 1
status() { curl -s -o "$work/reply" -D "$work/head" -w '%{http_code}' "$@"; }
same key_missing "$(status "$url/v1/models")" 401
same key_wrong "$(status -H 'Authorization: Bearer sesam' "$url/v1/models")" 401
same key_longer "$(status -H 'Authorization: Bearer sesamee' "$url/v1/models")" 401
same key_right "$(status -H 'Authorization: Bearer sesame' "$url/v1/models")" 200
same key_health "$(status "$url/health")" 200
long='{"prompt":"Once","max_tokens":1500,"ignore_eos":true,"n":64}'
same queue_full "$(status -H 'Authorization: Bearer sesame' "$url/v1/completions" -d "$long")" 429
same queue_full_retry "$(grep -ic '^retry-after: 1' "$work/head")" 1
stop parrot

# What is in work when the time of a drain is over gets an error, in a stream too.
start parrot build/asan/tests/serve_parrot "$exe" --drain-timeout 0 -t 1
curl -sN "$url/v1/completions" -d '{"prompt":"Once","max_tokens":1500,"ignore_eos":true,"n":64,"stream":true}' >"$work/cut" &
last=$!
for _ in $(seq 100); do
    if [ -s "$work/cut" ]; then break; fi # in work
    sleep 0.1
done
stop parrot
wait "$last"
same cut_stream "$(grep -c '"code":"shutting_down"' "$work/cut") $(tail -n 2 "$work/cut" | head -n 1)" "64 data: [DONE]"

# Command lines
same help "$("$exe" serve --help | head -n 1)" "usage: $(basename "$exe") serve [options]"
fails port_in_use 2 'cannot listen' "$exe" serve --host 203.0.113.1 --port 1
fails no_such_host 2 'host' "$exe" serve --host no.such.host.invalid
fails bad_parser 2 'tool-call-parser' "$exe" serve --tool-call-parser none-such
fails bad_device 2 'GPU' "$exe" serve --port 0 --device cuda
