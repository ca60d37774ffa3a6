# Two compiles give the same bytes: from two folders, users' homes, locales, time zones and umasks, with
# different thread counts, with and without the cache; for this machine and for aarch64. With a warm
# cache NVRTC is not called.
set -u
. tests/lib.sh

targets=cpu
export GPTQ_COMPILE_CACHE=$work/cache
if "$compiler" "$sample" -o "$work/probe" --target cpu,sm_90a --progress json 2>"$work/cold"; then
    targets=cpu,sm_90a
else
    skipped "reproducible sm_90a" "$(tail -n 1 "$work/cold")"
fi
mkdir "$work/home" "$work/bin"
cp -r "$sample" "$work/elsewhere"
cp "$compiler" "$work/bin/another-name"

# same NAME A B
same() {
    cmp "$2" "$3" 2>"$work/cmp" >&2 && ok "$1" || not_ok "$1" "$(cat "$work/cmp")"
}

# Another name and folder of the compiler, other settings of the user, no cache.
elsewhere=(env -C "$work" "HOME=$work/home" TZ=Pacific/Kiritimati LC_ALL=de_DE.UTF-8 LANG=tr_TR.UTF-8
    "TMPDIR=$work/home" USER=nobody "$work/bin/another-name" "$work/elsewhere/" --cache off)

"$compiler" "$sample" -o "$work/one" --target "$targets" -j 1 --progress none
(umask 077 && "${elsewhere[@]}" -o two --target "$targets" -j 3 --progress none)
same reproducible "$work/one" "$work/two"
[ "$(stat -c %a "$work/one" "$work/two" | xargs)" = "755 755" ] && ok same_mode ||
    not_ok same_mode "$(stat -c %a "$work/one" "$work/two" | xargs)"
"$compiler" "$sample" -o "$work/arm" --target cpu --host aarch64-linux-gnu -j 1 --progress none
(umask 077 && "${elsewhere[@]}" -o arm2 --target cpu --host aarch64-linux-gnu -j 3 --progress none)
same reproducible_aarch64 "$work/arm" "$work/arm2"

# A time stands in the file only if the user gives it.
for epoch in 1700000000 1700000001; do
    SOURCE_DATE_EPOCH=$epoch "$compiler" "$sample" -o "$work/dated.$epoch" --target cpu \
        --progress none
done
grep -aq '"source_date_epoch":1700000000' "$work/dated.1700000000" && ! cmp -s "$work"/dated.* &&
    ok source_date_epoch || not_ok source_date_epoch "not in the receipt"
grep -aq source_date_epoch "$work/one" && not_ok no_date "the receipt names a time" || ok no_date
fails bad_source_date 2 'SOURCE_DATE_EPOCH is "tomorrow"' env SOURCE_DATE_EPOCH=tomorrow \
    "$compiler" "$sample" -o "$work/none" --target cpu --progress none

if [ "$targets" = cpu ]; then
    exit
fi
"$compiler" "$sample" -o "$work/three" --target "$targets" --progress json 2>"$work/warm"
if grep -q '"nvrtc_calls":0,' "$work/warm"; then
    ok warm_cache
else
    not_ok warm_cache "$(grep nvrtc_calls "$work/warm")"
fi
same reproducible_warm "$work/one" "$work/three"
