// The files that gptq-compile carries in itself: kernel texts, bitcode of the templates, and what
// it takes to link an executable on a machine without a C compiler (our runtime, start files of the
// C library, the shared C libraries as link inputs only).
//
// The list is in build.ninja ("Embedded files") and arrives as build/embed.inc, one line a file:
//     file "kernels/ptx.cuh", "kernels/ptx.cuh"      // name in the table, path from the root
// compile.h declares the table: EmbeddedFile embedded_files[] = {name, data, end}, and its length.

    .macro file name, path
    .section .rodata.embedded.names, "a"
0:  .asciz "\name"
    .section .rodata.embedded.data, "a"
    .balign 64
1:  .incbin "\path"
2:  .byte 0                         // so that texts are also C strings
    .section .data.rel.ro.embedded, "aw"
    .quad 0b, 1b, 2b
    .endm

    .section .data.rel.ro.embedded, "aw"
    .balign 8
    .globl embedded_files
    .type embedded_files, @object
embedded_files:
#include "embed.inc"
    .section .data.rel.ro.embedded, "aw"
    .size embedded_files, . - embedded_files
3:

    .section .rodata.embedded.count, "a"
    .balign 8
    .globl embedded_file_count
    .type embedded_file_count, @object
    .size embedded_file_count, 8
embedded_file_count:
    .quad (3b - embedded_files) / 24

    .section .note.GNU-stack, "", @progbits
