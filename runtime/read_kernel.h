// The fastest way to read memory on a GPU, against which times are held: a kernel in PTX, which the
// driver translates, that only reads. Each thread has four loads of 16 bytes in flight.
#ifndef READ_KERNEL_H
#define READ_KERNEL_H

enum { READ_THREADS = 512, READ_BLOCKS = 4 }; // of a block; blocks per multiprocessor

// read(from, count, out): reads `count` 16-byte words at `from`; `out` is never written, but the
// translator cannot know. Threads of all blocks lie side by side.
static const char read_kernel[] =
    ".version 7.4\n.target sm_80\n.address_size 64\n"
    ".visible .entry read(.param .u64 from, .param .u64 count, .param .u64 out) .maxntid 512, 1, 1 "
    "{\n"
    ".reg .pred p; .reg .b32 a, t, b, n, v<16>; .reg .b64 at, end, step, base, i;\n"
    "ld.param.u64 base, [from]; ld.param.u64 end, [count]; cvta.to.global.u64 base, base;\n"
    "mov.u32 t, %tid.x; mov.u32 b, %ctaid.x; mov.u32 n, %nctaid.x; shl.b32 n, n, 9;\n"
    "mad.lo.u32 t, b, 512, t; cvt.u64.u32 i, t; shl.b64 i, i, 4; shl.b64 end, end, 4;\n"
    "cvt.u64.u32 step, n; shl.b64 step, step, 4; mov.u32 a, 0;\n"
    "mov.u32 v4, 0; mov.u32 v5, 0; mov.u32 v6, 0; mov.u32 v7, 0; mov.u32 v8, 0; mov.u32 v9, 0;\n"
    "mov.u32 v10, 0; mov.u32 v11, 0; mov.u32 v12, 0; mov.u32 v13, 0; mov.u32 v14, 0; mov.u32 v15, "
    "0;\n"
    "loop: setp.ge.u64 p, i, end; @p bra done; add.u64 at, base, i;\n"
    "ld.global.nc.L1::no_allocate.v4.u32 {v0, v1, v2, v3}, [at];\n"
    "add.u64 at, at, step; add.u64 i, i, step; setp.lt.u64 p, i, end;\n"
    "@p ld.global.nc.L1::no_allocate.v4.u32 {v4, v5, v6, v7}, [at];\n"
    "add.u64 at, at, step; add.u64 i, i, step; setp.lt.u64 p, i, end;\n"
    "@p ld.global.nc.L1::no_allocate.v4.u32 {v8, v9, v10, v11}, [at];\n"
    "add.u64 at, at, step; add.u64 i, i, step; setp.lt.u64 p, i, end;\n"
    "@p ld.global.nc.L1::no_allocate.v4.u32 {v12, v13, v14, v15}, [at];\n"
    "add.u64 i, i, step;\n"
    "xor.b32 v0, v0, v1; xor.b32 v2, v2, v3; xor.b32 v4, v4, v5; xor.b32 v6, v6, v7;\n"
    "xor.b32 v8, v8, v9; xor.b32 v10, v10, v11; xor.b32 v12, v12, v13; xor.b32 v14, v14, v15;\n"
    "xor.b32 v0, v0, v2; xor.b32 v4, v4, v6; xor.b32 v8, v8, v10; xor.b32 v12, v12, v14;\n"
    "xor.b32 v0, v0, v4; xor.b32 v8, v8, v12; xor.b32 v0, v0, v8; xor.b32 a, a, v0;\n"
    "bra loop;\n"
    "done: setp.ne.u32 p, a, 0x12345677; @p ret;\n"
    "ld.param.u64 at, [out]; cvta.to.global.u64 at, at; st.global.u32 [at], a; ret; }\n";

#endif
