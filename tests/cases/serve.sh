# The server: answers over HTTP, streams, refusals, the end.
set -u
. tests/lib.sh

exe=$(cpu_executable) || { not_ok compile "exit code $?"; exit 1; }

# start NAME EXE OPTIONS...: $url and $pid of a server on a free port.
start() {
    local log=$work/$1.log exe=$2
    shift 2
    "$exe" serve --port 0 "$@" 2>"$log" &
    pid=$!
    for _ in $(seq 200); do
        ! grep -q '^ready' "$log" || break
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    url=$(sed -n 's/^listening on //p' "$log")
}

start plain "$exe"
answer=$(curl -s "$url/v1/completions" -d '{"prompt":"Once upon a time","max_tokens":12,"temperature":0}' |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["choices"][0]["text"])')
alone=$("$exe" --raw -p "Once upon a time" -n 12 --temp 0)
if [ "$answer" = "$alone" ]; then ok completion; else not_ok completion "'$answer', expected '$alone'"; fi
stream=$(curl -sN "$url/v1/completions" -d '{"prompt":"Once upon a time","max_tokens":12,"temperature":0,"stream":true}' |
    python3 -c '
import json, sys
lines = [line for line in sys.stdin.read().split("\n\n") if line]
assert lines[-1] == "data: [DONE]", lines[-1]
print("".join(json.loads(line[6:])["choices"][0]["text"] for line in lines[:-1]))')
if [ "$stream" = "$alone" ]; then ok stream; else not_ok stream "'$stream', expected '$alone'"; fi
status=$(curl -s -o "$work/reply" -w '%{http_code}' "$url/v1/completions" -d '{"prompt":[1,"x"]}')
if [ "$status" = 400 ] && grep -q '"param":"prompt"' "$work/reply"; then ok refusal; else not_ok refusal "$status $(cat "$work/reply")"; fi
kill -TERM "$pid"
wait "$pid"
status=$?
if [ "$status" = 0 ]; then ok stops_on_sigterm; else not_ok stops_on_sigterm "exit code $status"; fi
