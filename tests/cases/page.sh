# The page at / in headless Chromium, by clicks and keys: with a server of known answers, and with ours.
set -u
. tests/lib.sh

exe=$(cpu_executable) || { not_ok compile "exit code $?"; exit 1; }
"$exe" serve --port 0 --served-model-name storyteller 2>"$work/serve.log" &
pid=$!
trap 'kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; rm -rf "$work"' EXIT
for _ in $(seq 400); do
    ! grep -q '^ready' "$work/serve.log" || break
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05
done
url=$(sed -n 's/^listening on //p' "$work/serve.log")
curl -s -D "$work/headers" -o "$work/page" "$url/"
if cmp -s "$work/page" runtime/page.html && grep -qi '^content-type: text/html; charset=utf-8' "$work/headers"; then
    ok page_is_served
else
    not_ok page_is_served "$(head -n 1 "$work/headers")"
fi
if grep -nE '(src|href)="(https?:)?//|@import|innerHTML|insertAdjacentHTML|document\.write|eval\(' runtime/page.html >"$work/found"; then
    not_ok page_loads_nothing "$(head -n 1 "$work/found")"
else
    ok page_loads_nothing
fi
chromium=$PWD/build/chromium/usr
if command -v chromedriver >/dev/null; then
    browser=(chromedriver runtime/page.html)
elif [ -x "$chromium/bin/chromedriver" ]; then
    export LD_LIBRARY_PATH=$chromium/lib/x86_64-linux-gnu
    browser=("$chromium/bin/chromedriver" runtime/page.html --browser "$chromium/lib/chromium/chromium-headless-shell")
else
    skipped page "no Chromium here (tests/setup.sh nvrtc fetches it)"
    exit 0
fi
limited 120 python3 tests/check_page.py "${browser[@]}" --server "$url"
