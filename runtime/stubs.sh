#!/bin/bash
# stubs.sh MACHINE VERSION IN OUT: the symbols that the library IN of glibc, or the part of it that
# once was the library OUT, had at that version of glibc, as a library to link with (stubs.awk).
set -eu -o pipefail
machine=$1 version=$2 in=$3 out=$4
library=$(basename "$out")
readelf -W --dyn-syms "$in" | awk -v source="$(basename "$in")" -v library="$library" \
    -v limit="$version" -v map="$out.map" -f "$(dirname "$0")/stubs.awk" >"$out.s"
clang-19 --target="$machine-linux-gnu" -fuse-ld=lld -nostdlib -shared -o "$out" "$out.s" \
    "-Wl,-soname,$library,--version-script=$out.map,--build-id=none,--hash-style=gnu"
rm "$out.s" "$out.map"
