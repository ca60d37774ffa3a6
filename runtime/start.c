// Where a produced executable begins. glibc's own start file (Scrt1.o) of 2.34 and newer leaves the
// constructors to a C library of that age; this one runs them itself, as programs did before, which
// every C library since knows: so an executable that was linked today also starts on old systems.
// Not here: _init and _fini of crti.o, which nothing of ours has. Destructors are run by the loader.
#include <stddef.h>

typedef void Constructor(int argc, char **argv, char **envp);

extern Constructor *const __init_array_start[] __attribute__((visibility("hidden")));
extern Constructor *const __init_array_end[] __attribute__((visibility("hidden")));

// glibc: atexit() of libc_nonshared.a names with it the program that registers.
extern void *const __dso_handle __attribute__((visibility("hidden")));
void *const __dso_handle = NULL;

int main(int argc, char **argv);
int __libc_start_main(int (*program)(int, char **), int argc, char **argv, Constructor *init,
                      void (*fini)(void), void (*loader_fini)(void), void *stack_end);

// stack: argc, argv[argc + 1], environment, as the kernel leaves them.
_Noreturn void start_program(long *stack, void (*loader_fini)(void));

// The kernel passes the stack pointer only, the loader its finisher in the third argument register.
#if defined(__x86_64__)
__asm__(".pushsection .text.start,\"ax\",@progbits\n"
        ".globl _start\n.type _start, @function\n"
        "_start: xorl %ebp, %ebp\n movq %rsp, %rdi\n movq %rdx, %rsi\n andq $-16, %rsp\n"
        " call start_program\n hlt\n.size _start, . - _start\n.popsection\n");
#elif defined(__aarch64__)
__asm__(".pushsection .text.start,\"ax\",@progbits\n"
        ".globl _start\n.type _start, %function\n"
        "_start: mov x29, #0\n mov x30, #0\n mov x1, x0\n mov x0, sp\n"
        " b start_program\n.size _start, . - _start\n.popsection\n");
#else
#error "no start code for this processor"
#endif

static void constructors_run(int argc, char **argv, char **envp) {
    for (Constructor *const *at = __init_array_start; at < __init_array_end; at++)
        (*at)(argc, argv, envp);
}

__attribute__((used)) _Noreturn void start_program(long *stack, void (*loader_fini)(void)) {
    __libc_start_main(main, (int)stack[0], (char **)(stack + 1), constructors_run, NULL,
                      loader_fini, stack);
    __builtin_unreachable();
}
