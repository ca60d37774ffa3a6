# What executables ask of a system: no symbol of glibc newer than 2.28 (x86-64) and 2.31 (aarch64),
# position-independent, no executable stack, everything relocated read-only; and they run with the C
# library of 2020, by qemu-user (tests/setup.sh fetches it).
set -u
. tests/lib.sh

# asks NAME EXECUTABLE LIMIT
asks() {
    local newest
    newest=$(objdump -T "$2" 2>/dev/null | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -n 1)
    newest=${newest:-$(readelf -W --dyn-syms "$2" | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -n 1)}
    if [ -n "$newest" ] && [ "$(printf '%s\n' "$newest" "GLIBC_$3" | sort -V | tail -n 1)" = "GLIBC_$3" ]
    then
        ok "glibc $1 ($newest)"
    else
        not_ok "glibc $1" "needs ${newest:-nothing?}, at most $3 is allowed: $(readelf -W --dyn-syms \
            "$2" | grep -F "@${newest:-GLIBC}" | awk '{ print $8 }' | head -n 3 | xargs)"
    fi
    readelf -hW "$2" | grep -q 'Type: *DYN' && ok "pie $1" || not_ok "pie $1" "not DYN"
    readelf -lW "$2" | grep -qE 'GNU_STACK.* RW ' && ok "stack $1" ||
        not_ok "stack $1" "$(readelf -lW "$2" | grep GNU_STACK)"
    readelf -lW "$2" | grep -q GNU_RELRO && readelf -dW "$2" | grep -q BIND_NOW && ok "relro $1" ||
        not_ok "relro $1" "$(readelf -dW "$2" | grep FLAGS)"
    readelf -dW "$2" | grep -q TEXTREL && not_ok "textrel $1" "relocations in code" || ok "textrel $1"
}

# runs NAME PROCESSOR EXECUTABLE
runs() {
    local qemu=qemu-$1 root=build/old/$1 story
    if [ ! -d "$root" ] || ! command -v "$qemu" >/dev/null; then
        skipped "old_system $1" "no $root or no $qemu (tests/setup.sh nvrtc)"
        return
    fi
    story=$("$qemu" -cpu "$2" -L "$root" "$3" --raw -p 'Once upon a time' -n 4 --temp 0 --threads 1 \
        2>"$work/stderr")
    [ "$story" = ', and, in' ] && ok "old_system $1" ||
        not_ok "old_system $1" "\"$story\" $(grep -v 'TCG doesn' "$work/stderr" | tail -n 1)"
}

x86=$(cpu_executable) || { not_ok compile "exit code $?"; exit 1; }
arm=$work/aarch64
"$compiler" "$sample" -o "$arm" --target cpu --host aarch64-linux-gnu --progress none
asks x86_64 "$x86" 2.28
asks aarch64 "$arm" 2.31
runs x86_64 Haswell "$x86"
runs aarch64 cortex-a72 "$arm"

# By lld as by ld: with a PATH that has no other linker.
mkdir "$work/bin"
ln -s "$(command -v ld.lld || command -v ld.lld-19)" "$work/bin/ld.lld"
env "PATH=$work/bin" "$compiler" "$sample" -o "$work/lld" --target cpu --progress none
asks 'x86_64 by lld' "$work/lld" 2.28
