#!/bin/bash
# Installs what the build needs and cannot carry: LLVM 19, a few static libraries, the sources of
# cJSON and libevent. Run by tests/run.sh and samples/quickstart.sh; the second run only looks and is
# done.
#
#   tests/setup.sh            for the build, executables for aarch64 included
#   tests/setup.sh nvrtc      also NVRTC, which compiles CUDA kernels, if no CUDA toolkit is here, and
#                             C libraries of an older Debian, clients of the server and Chromium, for
#                             the tests
#   tests/setup.sh aarch64    also what gptq-compile itself is made of for aarch64 (0.4 GB in build/sysroot)
#   tests/setup.sh sources    only what is fetched as source
#
# Packages go into the system, everything else into build/. Nothing here needs git.
set -eu
cd "$(dirname "$0")/.."

# One line each: what for, and the package.
packages="
    gcc g++ libc6-dev       # compiles the C; libstdc++.a for LLVM
    ninja-build             # runs build.ninja
    llvm-19-dev lld-19      # the back end inside gptq-compile, and the linker of the build
    clang-19                # bitcode of templates/, and the second opinion on warnings
    libclang-rt-19-dev      # address and undefined-behaviour sanitizers of the tests
    libxxhash-dev libpcre2-dev libutf8proc-dev libzstd-dev zlib1g-dev
    libcmocka-dev           # unit tests
    dpkg-dev                # unpacks and patches the sources of cJSON and libevent
    python3 python3-pip     # fetches the NVRTC wheel
    python3-jinja2          # what our chat templates are compared with
    qemu-user               # runs executables for another machine
"
# For executables of another machine: unpacked into build/sysroot, not installed.
sysroot_packages="libc6 libc6-dev linux-libc-dev libgcc-12-dev libxxhash-dev"
host_packages="libc6 libc6-dev linux-libc-dev libgcc-12-dev libgcc-s1 libstdc++-12-dev libstdc++6
    llvm-19-dev libxxhash-dev libpcre2-dev libutf8proc-dev libzstd-dev zlib1g-dev"

wanted() {
    local list
    list=$(sed 's/#.*//' <<<"$packages")
    # Any python3 with pip will do, Debian's own or not.
    if python3 -m pip --version >/dev/null 2>&1; then
        list=${list/python3 python3-pip/}
    fi
    echo $list
}

missing() {
    local installed name
    installed=" $(dpkg-query -W -f '${db:Status-Abbrev}:${Package}\n' $(wanted) 2>/dev/null |
        sed -n 's/^ii *://p' | tr '\n' ' ')"
    for name in $(wanted); do
        [[ $installed == *" $name "* ]] || echo "$name"
    done
}

install_packages() {
    local list sudo=
    if ! command -v apt-get >/dev/null; then
        echo "setup: no apt-get here; please see to these yourself:" $(wanted) >&2
        return
    fi
    list=$(missing)
    [ -n "$list" ] || return 0
    echo "setup: installing with apt-get, to build the compiler and its tests:" $list
    if [ "$(id -u)" != 0 ]; then
        sudo=sudo # asks for the password
    fi
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends $list </dev/null >/dev/null
}

# An apt of our own in folder $1, which neither needs root nor touches the machine's; its options.
apt_folder() {
    rm -rf "$1"
    mkdir -p "$1/sources" "$1/lists/partial" "$1/cache/archives/partial"
    : >"$1/status"
    apt_options=(-qq
        -o "Dir::State::lists=$1/lists" -o "Dir::Cache=$1/cache"
        -o "APT::Sandbox::User=$(id -un)" -o "Acquire::Languages=none")
}

# unpack_packages MACHINE FOLDER OPTIONS...: unpacks the packages on standard input.
unpack_packages() {
    local machine=$1 folder=$2 apt=$PWD/build/apt-$1 list file
    shift 2
    list=$(cat)
    apt_folder "$apt"
    apt_options+=(-o "APT::Architecture=$machine" -o "APT::Architectures::=$machine"
        -o "Dir::State::status=$apt/status" "$@")
    rm -rf "$folder" "$folder.new"
    mkdir -p "$folder.new"
    # Some entry may have nothing to offer; what counts is whether the packages are found.
    apt-get "${apt_options[@]}" update || true
    (cd "$apt" && apt-get "${apt_options[@]}" download $list >/dev/null) || return 1
    for file in "$apt"/*.deb; do
        dpkg-deb -x "$file" "$folder.new" || return 1
    done
    rm -rf "$apt"
    mv "$folder.new" "$folder"
}

# The C library, headers and static libraries that executables for the other machine are made of.
fetch_sysroot() {
    local stamp="build/sysroot/aarch64/packages"
    [ "$(cat "$stamp" 2>/dev/null)" != "$sysroot_packages" ] || return 0
    echo "setup: fetching Debian's arm64 libraries into build/sysroot"
    mkdir -p build/sysroot
    unpack_packages arm64 build/sysroot/aarch64 <<<"$sysroot_packages"
    echo "$sysroot_packages" >"$stamp"
}

# What gptq-compile itself is linked with for the other machine.
fetch_host() {
    local root=build/sysroot/aarch64-host link
    [ ! -d "$root" ] || return 0
    echo "setup: fetching Debian's arm64 packages of LLVM and other libraries into $root"
    unpack_packages arm64 "$root" <<<"$host_packages"
    for link in $(find "$root" -type l -lname '/*'); do
        ln -sfr "$root$(readlink "$link")" "$link"
    done
}

# C libraries of an older Debian, 2.31, which Ubuntu 20.04 also has: executables must run with them.
# Where its packages are not to be had, the test says so.
fetch_old_systems() {
    local release=bullseye machine triple apt=$PWD/build/apt-old link
    for machine in amd64:x86_64 arm64:aarch64; do
        triple=${machine#*:}
        [ ! -d "build/old/$triple" ] || continue
        echo "setup: fetching the C library of Debian $release, ${machine%:*}, into build/old"
        rm -rf "$apt"
        mkdir -p build/old "$apt"
        source_entries "$apt" deb
        sed -i -E "s/^Suites:.*/Suites: $release/; s/^(deb [^ ]+ ) *[^ ]+/\1$release/" "$apt"/*
        if ! unpack_packages "${machine%:*}" "build/old/$triple" -o Dir::Etc::sourcelist=/dev/null \
            -o "Dir::Etc::sourceparts=$apt" <<<libc6 2>"$apt/log"; then
            echo "setup: not to be had: $(tail -n 1 "$apt/log")"
        fi
        for link in $(find "build/old/$triple" -type l -lname '/*'); do
            ln -sfr "build/old/$triple$(readlink "$link")" "$link"
        done
        rm -rf "$apt"
    done
}

# What Debian has no static library of that would do for every machine: we take its patched source
# into build/NAME. The source entries are made from the machine's own package entries and live in
# build/: apt's configuration stays as it is, and root is not needed.
fetch_sources() {
    local apt=$PWD/build/apt name options list=
    for name in cjson libevent; do
        [ -f "build/$name/LICENSE" ] || list+=" $name"
    done
    [ -n "$list" ] || return 0
    echo "setup: fetching sources (apt-get source) into build/:$list"
    rm -rf build/source.new
    mkdir -p build/source.new
    apt_folder "$apt"
    source_entries "$apt/sources"
    options=("${apt_options[@]}" -o "Dir::Etc::sourcelist=/dev/null"
        -o "Dir::Etc::sourceparts=$apt/sources")
    # Some entry may have no sources to offer; what counts is whether ours are found.
    apt-get "${options[@]}" update || true
    (cd build/source.new && apt-get "${options[@]}" source $list >/dev/null)
    for name in $list; do
        rm -rf "build/$name"
        mkdir "build/$name"
        cp -r build/source.new/"$name"-*/*.[ch] build/source.new/"$name"-*/LICENSE "build/$name/"
        [ "$name" != libevent ] || cp -r build/source.new/libevent-*/include build/libevent/
    done
    rm -rf build/source.new "$apt"
}

# Writes the machine's package entries as entries of sources (or of $2) into folder $1, in apt's old
# and new form.
source_entries() {
    local file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -f "$file" ] || continue
        sed -n "s/^deb[[:space:]]/${2:-deb-src} /p" "$file" >"$1/${file##*/}.list"
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -f "$file" ] || continue
        sed "s/^Types:.*/Types: ${2:-deb-src}/" "$file" >"$1/${file##*/}"
    done
}

has_nvrtc() {
    local dir nvcc
    nvcc=$(command -v nvcc || true)
    for dir in "${CUDA_HOME:-}" "${CUDA_PATH:-}" "${nvcc%/bin/nvcc}" /usr/local/cuda*; do
        [ -n "$dir" ] || continue
        compgen -G "$dir/lib64/libnvrtc.so*" >/dev/null && return
    done
    ldconfig -p 2>/dev/null | grep -q 'libnvrtc\.so'
}

# The wheel holds the same libnvrtc.so as the toolkit; nothing is installed from it.
fetch_nvrtc() {
    [ ! -d build/nvrtc ] || return 0
    ! has_nvrtc || return 0
    echo "setup: no CUDA toolkit here; fetching NVRTC (pip download, 60 MB) into build/nvrtc"
    rm -rf build/nvrtc.new
    mkdir -p build/nvrtc.new
    download 'nvidia-cuda-nvrtc>=13,<14' || download nvidia-cuda-nvrtc-cu12
    python3 -m zipfile -e build/nvrtc.new/*.whl build/nvrtc.new
    mv build/nvrtc.new/nvidia/*/lib build/nvrtc.new/nvidia/*/include build/nvrtc.new/
    rm -rf build/nvrtc.new/*.whl build/nvrtc.new/nvidia
    mv build/nvrtc.new build/nvrtc
}

download() {
    python3 -m pip download -q --no-deps --disable-pip-version-check -d build/nvrtc.new "$1" \
        </dev/null
}

# Clients that the server is tested with, from PyPI, for PYTHONPATH.
fetch_clients() {
    [ ! -d build/python ] || return 0
    echo "setup: fetching clients of the server (pip install openai prometheus-client) into build/python"
    rm -rf build/python.new
    python3 -m pip install -q --disable-pip-version-check --root-user-action ignore \
        --target build/python.new 'openai>=1,<4' prometheus-client </dev/null
    mv build/python.new build/python
}

# Clicks on the page of `serve`: the headless part of Chromium, its driver, and what libraries of
# theirs are not here, unpacked.
fetch_chromium() {
    local apt=$PWD/build/apt-chromium list
    [ ! -d build/chromium ] || return 0
    ! command -v chromedriver >/dev/null || return 0
    apt_folder "$apt"
    apt_options+=(-o Dir::State::status=/var/lib/dpkg/status)
    apt-get "${apt_options[@]}" update || true
    list=$(apt-get "${apt_options[@]}" -s install --no-install-recommends chromium-headless-shell |
        sed -n 's/^Inst \([^ ]*\) .*/\1/p') || list=
    rm -rf "$apt"
    if [ -z "$list" ]; then
        echo "setup: chromium-headless-shell is not to be had"
        return
    fi
    echo "setup: fetching Chromium (apt-get download, 110 MB) into build/chromium"
    unpack_packages "$(dpkg --print-architecture)" build/chromium <<<"$list chromium-driver" ||
        echo "setup: chromium-driver is not to be had"
}

mkdir -p build
[ "${1:-}" = sources ] || install_packages
fetch_sources
fetch_sysroot
[ "${1:-}" != aarch64 ] || fetch_host
if [ "${1:-}" = nvrtc ]; then
    fetch_nvrtc
    fetch_old_systems
    fetch_clients
    fetch_chromium
fi
