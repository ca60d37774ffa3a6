#!/bin/bash
# From a clone to a story: installs what is missing, builds the compiler, compiles the sample model
# (a small GPTQ checkpoint that comes with the sources) and runs the result on the CPU.
set -eu
cd "$(dirname "$0")/.."

say() {
    echo "== $*"
}

say "1/4 looking for what the build needs"
bash tests/setup.sh
say "2/4 building the compiler, build/gptq-compile"
ninja --quiet
say "3/4 compiling samples/storyteller into one executable, build/storyteller"
build/gptq-compile samples/storyteller -o build/storyteller --target cpu
say "4/4 running it: build/storyteller --raw -p \"Once upon a time\" -n 200"
build/storyteller --raw -p "Once upon a time" -n 200
