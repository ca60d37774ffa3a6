# Everything that can go wrong around a compile that is not the checkpoint's fault.
set -u
. tests/lib.sh

out=$work/out
compile() {
    "$compiler" "$sample" -o "$out" --target cpu --progress none "$@"
}

fails no_arguments 2 'no model' "$compiler"
fails no_output 2 'no output' "$compiler" "$sample"
fails unknown_option 2 'frobnicate' "$compiler" "$sample" -o "$out" --frobnicate
fails unknown_target 3 'sm_13' "$compiler" "$sample" -o "$out" --target sm_13
fails unknown_host 3 'host' compile --host mips-linux-gnu
fails output_is_folder 2 'folder' "$compiler" "$sample" -o "$work" --target cpu
fails output_in_missing_folder 6 'missing' "$compiler" "$sample" -o "$work/missing/out" --target cpu

mkdir "$work/nobin"
fails no_linker 5 'no linker' env PATH="$work/nobin" \
    "$compiler" "$sample" -o "$out" --target cpu --progress none

# A full disk: a file system of 4 MiB, if this machine lets us mount one; else a file size limit.
echo old >"$work/limited"
full_disk() {
    (
        ulimit -f 4096
        trap '' XFSZ
        exec "$compiler" "$sample" -o "$work/limited" --target cpu --progress none
    )
}
fails full_disk 6 'limited' full_disk
[ "$(cat "$work/limited")" = old ] && ok full_disk_keeps_old || not_ok full_disk_keeps_old "changed"

# Killed and interrupted compiles leave the old output and no other file.
mkdir "$work/folder"
for signal in INT KILL; do
    echo old >"$work/folder/out"
    for delay in 0.05 0.2 0.5; do
        setsid "$compiler" "$sample" -o "$work/folder/out" --target cpu --progress none \
            --cache off >/dev/null 2>&1 &
        sleep "$delay"
        kill -"$signal" "$!" 2>/dev/null
        wait "$!" 2>/dev/null
    done
    left=$(ls -A "$work/folder")
    if [ "$left" != out ]; then
        not_ok "killed_by_$signal" "left behind: $left"
    else
        ok "killed_by_$signal"
    fi
done

# A cache that somebody damaged, or that is not private.
export GPTQ_COMPILE_CACHE=$work/cache
mkdir -m 777 "$work/open_cache"
fails open_cache 2 'open_cache' compile --cache-dir "$work/open_cache"
