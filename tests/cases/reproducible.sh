# Two compiles give the same bytes: from two folders, with different thread counts, with and without
# the cache. With a warm cache NVRTC is not called.
set -u
. tests/lib.sh

targets=cpu
export GPTQ_COMPILE_CACHE=$work/cache
if "$compiler" "$sample" -o "$work/probe" --target cpu,sm_90a --progress json 2>"$work/cold"; then
    targets=cpu,sm_90a
else
    skipped "reproducible sm_90a" "$(tail -n 1 "$work/cold")"
fi
cp -r "$sample" "$work/elsewhere"
"$compiler" "$sample" -o "$work/one" --target "$targets" -j 1 --progress none
"$compiler" "$work/elsewhere/" -o "$work/two" --target "$targets" -j 3 --cache off --progress none
if cmp "$work/one" "$work/two" 2>"$work/cmp"; then
    ok reproducible
else
    not_ok reproducible "$(cat "$work/cmp")"
fi
if [ "$targets" = cpu ]; then
    exit
fi
"$compiler" "$sample" -o "$work/three" --target "$targets" --progress json 2>"$work/warm"
if grep -q '"nvrtc_calls":0,' "$work/warm"; then
    ok warm_cache
else
    not_ok warm_cache "$(grep nvrtc_calls "$work/warm")"
fi
