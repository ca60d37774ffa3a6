# Writes a library to link executables against, without any code: the symbols that a library of
# glibc had at an older version, so that what is linked runs on systems of that version and newer.
#
# Run by stubs.sh: `readelf -W --dyn-syms` of the library `source` in; out comes assembly, and a
# version script in the file `map`, for the part of it that was in `library` at version `limit`.
#
# Of every symbol it takes the newest version that is not newer than `limit`; what has only newer
# ones is left out, and code that wants it does not link. glibc 2.34 moved most of libpthread, libdl
# and librt into libc: what it moved belongs to the library that an older system has it in. Objects
# keep their size, for copy relocations, and stand at one place when they are one object (environ,
# __environ). Source: the version nodes in glibc's own library, which never lose an old version.
# Non-goals: symbols that glibc moved and that nobody here uses (libresolv, libutil, libanl).

function number(version, part) {
    split(version, part, ".")
    return part[1] * 1000000 + part[2] * 1000 + part[3]
}

# Where a symbol was before glibc 2.34 had it in libc; "": in no library that we link with.
function old_library(name) {
    if (name ~ /^dl(open|close|sym|vsym|mopen|error|addr|addr1|info)$/)
        return "libdl.so.2"
    if (name ~ /^(timer|aio|mq|lio|shm)_/)
        return "librt.so.1"
    if (name ~ /^(_*pthread|sem|thrd|mtx|cnd|tss)_|^call_once$/)
        return "libpthread.so.0"
    return name == "__libc_start_main" ? "libc.so.6" : ""
}

function home(name, moved) {
    if (source != "libc.so.6" || number(newest[name]) <= number(limit))
        return source
    moved = old_library(name)
    return moved || newest[name] == "2.34" ? moved : source
}

# Fields: number, address, size, type, binding, visibility, section, name@VERSION or name@@VERSION
$7 != "UND" && $8 ~ /@GLIBC_[0-9]/ && $4 ~ /^(FUNC|IFUNC|OBJECT)$/ {
    split($8, part, "@+GLIBC_")
    name = part[1]
    version = part[2]
    if ($8 ~ /@@/)
        newest[name] = version
    if (number(version) > number(limit) || (name in best && number(version) < number(best[name])))
        next
    if (!(name in best))
        names[++count] = name
    best[name] = version
    type[name] = $4
    address[name] = $2
    size[name] = $3
}

END {
    for (at = 1; at <= count; at++) {
        name = names[at]
        if (!(name in newest) || home(name) != library)
            continue
        version = best[name]
        if (!(version in nodes))
            order[++node_count] = version
        nodes[version] = nodes[version] " " name ";"
        if (type[name] == "OBJECT")
            objects[address[name]] = objects[address[name]] " " name
        else
            printf ".globl %s\n.type %s, %%function\n%s:\n", name, name, name
    }
    print ".byte 0\n.data"
    for (at = 1; at <= count; at++) {
        name = names[at]
        place = address[name]
        if (type[name] != "OBJECT" || !(place in objects))
            continue
        aliases = split(objects[place], alias, " ")
        delete objects[place]
        print ".balign 64"
        for (i = 1; i <= aliases; i++)
            printf ".globl %s\n.type %s, %%object\n.size %s, %d\n%s:\n", alias[i], alias[i], \
                alias[i], size[alias[i]], alias[i]
        printf ".space %d\n", size[name]
    }
    print ".section .note.GNU-stack, \"\", %progbits"
    for (at = 1; at <= node_count; at++)
        printf "GLIBC_%s {%s };\n", order[at], nodes[order[at]] > map
}
