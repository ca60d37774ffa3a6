// Functions of newer glibc in terms of the kernel's own calls, for executables that are linked
// against the symbols of an old one (stubs.awk). Before 2.33 the stat family stood in the static part
// of libc, under other names. Linked into produced executables only, where unused ones fall away.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int fstatat(int folder, const char *restrict path, struct stat *restrict out, int flags) {
    return (int)syscall(SYS_newfstatat, folder, path, out, flags);
}

int stat(const char *restrict path, struct stat *restrict out) {
    return fstatat(AT_FDCWD, path, out, 0);
}

int lstat(const char *restrict path, struct stat *restrict out) {
    return fstatat(AT_FDCWD, path, out, AT_SYMLINK_NOFOLLOW);
}

int fstat(int fd, struct stat *out) {
    return (int)syscall(SYS_fstat, fd, out);
}
