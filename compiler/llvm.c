// The host object: templates specialized by LLVM, and the step functions that call them.
//
//   templates/*.c --clang, when the project is built--> bitcode per CPU level, unoptimized
//   for every distinct (template, function, parameters) of a CPU plan:
//       a copy of the template's module, HOLE_* constants filled in, the function renamed
//   for every phase of every plan: a step function, straight-line calls with constant addresses
//   all in one module --default<O3>, code generation--> one relocatable object, in memory
//
// What optimizes is the optimizer: a hole is an external constant in the template and an internal
// one with a value here, so every shape, loop bound and branch on a parameter folds away.
//
// The object is a function of the module before optimization, which therefore is its key in the
// cache. Nothing in it depends on the machine, the time or any path.
// Non-goals: debug information, anything at run time.
#include "compile.h"

#include <llvm-c/Analysis.h>
#include <llvm-c/BitReader.h>
#include <llvm-c/BitWriter.h>
#include <llvm-c/Core.h>
#include <llvm-c/Error.h>
#include <llvm-c/Linker.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>

#include <stdlib.h>
#include <string.h>

enum {
    NAME_BYTES = 96,
    REGION_OF_WEIGHTS = 0,
    REGION_OF_BUFFERS = 1 /* ORDER REGIONS: REGION_ARENA */
};

#define HOLE_PREFIX "HOLE_"
#define PASSES      "default<O3>"

typedef struct HostTarget {
    const char *triple;
    const char *llvm_triple;
    const char *step_bitcode; // helpers of the step functions, for any machine of the triple
    void (*initialize)(void); // LLVM's back end
} HostTarget;

typedef struct Host {
    const HostTarget *target;
    LLVMContextRef context;
    LLVMModuleRef module; // grows until it is optimized
    LLVMTargetMachineRef machine;
    LLVMTypeRef pointer, i32, i64;
    const char *diagnostic; // first error that LLVM reported, in the arena; NULL: none
    Arena *arena;
    Error *err;
} Host;

static void x86_initialize(void) {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
}

static void aarch64_initialize(void) {
    LLVMInitializeAArch64TargetInfo();
    LLVMInitializeAArch64Target();
    LLVMInitializeAArch64TargetMC();
    LLVMInitializeAArch64AsmPrinter();
}

static const HostTarget host_targets[] = {
    {"x86_64-linux-gnu", "x86_64-pc-linux-gnu", "bitcode/step.x86_64.bc", x86_initialize},
    {"aarch64-linux-gnu", "aarch64-unknown-linux-gnu", "bitcode/step.aarch64.bc",
     aarch64_initialize},
};

static const HostTarget *host_target_find(const char *triple) {
    for (size_t at = 0; at < sizeof host_targets / sizeof *host_targets; at++)
        if (strcmp(host_targets[at].triple, triple) == 0)
            return &host_targets[at];
    return NULL;
}

// ---- LLVM's own errors --------------------------------------------------------------------------

static void diagnostic_keep(LLVMDiagnosticInfoRef info, void *user) {
    Host *h = user;
    if (LLVMGetDiagInfoSeverity(info) != LLVMDSError || h->diagnostic)
        return;
    char *text = LLVMGetDiagInfoDescription(info);
    h->diagnostic = arena_strndup(h->arena, text, strlen(text));
    LLVMDisposeMessage(text);
}

static const char *diagnostic_of(const Host *h) {
    return h->diagnostic ? h->diagnostic : "no reason given";
}

// Keeps a message that LLVM allocated.
static const char *message_take(const Host *h, char *message) {
    if (!message)
        return diagnostic_of(h);
    const char *kept = arena_strndup(h->arena, message, strlen(message));
    LLVMDisposeMessage(message);
    return kept;
}

// ---- one specialized kernel ---------------------------------------------------------------------

static bool bitcode_parse(Host *h, const char *name, LLVMModuleRef *out) {
    const EmbeddedFile *file = embedded_find(name);
    if (!file)
        return fail(h->err, ERR_INTERNAL, 560, "this gptq-compile carries no %s", name);
    LLVMMemoryBufferRef buffer = LLVMCreateMemoryBufferWithMemoryRange(
        (const char *)file->data, (size_t)(file->end - file->data), name, false);
    bool failed = LLVMParseBitcodeInContext2(h->context, buffer, out);
    LLVMDisposeMemoryBuffer(buffer);
    if (failed)
        return fail(h->err, ERR_INTERNAL, 561, "%s: %s", name, diagnostic_of(h));
    return true;
}

// Gives every hole its value. A hole without a parameter may stay only if nothing reads it.
static bool holes_fill(Host *h, LLVMModuleRef module, const Step *kernel) {
    LLVMValueRef next;
    for (LLVMValueRef hole = LLVMGetFirstGlobal(module); hole; hole = next) {
        size_t size;
        const char *name = LLVMGetValueName2(hole, &size);
        next = LLVMGetNextGlobal(hole);
        if (strncmp(name, HOLE_PREFIX, strlen(HOLE_PREFIX)) != 0)
            continue;
        name += strlen(HOLE_PREFIX);
        const Param *found = NULL;
        for (int at = 0; at < kernel->params.count; at++)
            if (strcmp(kernel->params.items[at].name, name) == 0)
                found = &kernel->params.items[at];
        if (!found && LLVMGetFirstUse(hole))
            return fail(h->err, ERR_INTERNAL, 562, "%s: %s reads %s, which no parameter fills",
                        kernel->source, kernel->entry, name);
        LLVMSetInitializer(
            hole, LLVMConstInt(h->i64, found ? (unsigned long long)found->value : 0, true));
        LLVMSetLinkage(hole, LLVMInternalLinkage);
        LLVMSetGlobalConstant(hole, true);
    }
    return true;
}

static bool passes_run(Host *h, LLVMModuleRef module, const char *passes) {
    LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
    LLVMErrorRef failed = LLVMRunPasses(module, passes, h->machine, options);
    LLVMDisposePassBuilderOptions(options);
    if (!failed)
        return true;
    char *text = LLVMGetErrorMessage(failed);
    fail(h->err, ERR_INTERNAL, 563, "LLVM's passes %s: %s", passes, text);
    LLVMDisposeErrorMessage(text);
    return false;
}

// Moves `from` into the host module; its internal names change where they are taken.
static bool module_link(Host *h, LLVMModuleRef from) {
    LLVMSetSourceFileName(from, "", 0);
    if (LLVMLinkModules2(h->module, from))
        return fail(h->err, ERR_INTERNAL, 564, "linking templates: %s", diagnostic_of(h));
    return true;
}

// Adds a kernel under `name`. Other functions of the template with external linkage go away.
static bool template_add(Host *h, const Step *kernel, const char *level, const char *name) {
    LLVMModuleRef module;
    char file[NAME_BYTES];
    snprintf(file, sizeof file, "bitcode/%s.%s.bc", kernel->source, level);
    TRY(bitcode_parse(h, file, &module));
    LLVMValueRef entry = LLVMGetNamedFunction(module, kernel->entry);
    if (!entry || LLVMIsDeclaration(entry))
        return fail(h->err, ERR_INTERNAL, 565, "%s has no function %s", file, kernel->entry);
    LLVMValueRef next;
    for (LLVMValueRef f = LLVMGetFirstFunction(module); f; f = next) {
        next = LLVMGetNextFunction(f);
        if (f != entry && !LLVMIsDeclaration(f))
            LLVMSetLinkage(f, LLVMInternalLinkage);
    }
    TRY(passes_run(h, module, "globaldce"));
    TRY(holes_fill(h, module, kernel));
    LLVMSetValueName2(entry, name, strlen(name));
    TRY(module_link(h, module));
    LLVMSetLinkage(LLVMGetNamedFunction(h->module, name), LLVMInternalLinkage);
    return true;
}

// ---- step functions -----------------------------------------------------------------------------

typedef struct StepFunction {
    Host *host;
    const Plan *plan;
    const PhasePlan *phase;
    int plan_index;
    LLVMValueRef function, run, thread;
    LLVMBuilderRef builder;
    LLVMValueRef slots; // CUDA: uint64_t [STEP_MAX_OPERANDS]
} StepFunction;

// Calls a function of the host module; helpers come from templates/step.c.
static LLVMValueRef call(const StepFunction *f, const char *name, LLVMValueRef *arguments,
                         unsigned count) {
    LLVMValueRef callee = LLVMGetNamedFunction(f->host->module, name);
    return LLVMBuildCall2(f->builder, LLVMGlobalGetValueType(callee), callee, arguments, count, "");
}

static LLVMValueRef constant(const StepFunction *f, int64_t value) {
    return LLVMConstInt(f->host->i64, (unsigned long long)value, true);
}

static LLVMValueRef constant32(const StepFunction *f, int value) {
    return LLVMConstInt(f->host->i32, (unsigned long long)value, true);
}

static LLVMValueRef operand_address(const StepFunction *f, int region, int64_t offset) {
    LLVMValueRef arguments[] = {f->run, constant(f, region), constant(f, offset)};
    return call(f, "step_address", arguments, 3);
}

// ORDER OPERANDS
static LLVMValueRef operand_value(const StepFunction *f, const Operand *o) {
    LLVMValueRef run = f->run;
    switch (o->kind) {
    case OPERAND_ADDRESS:
        return operand_address(f, o->region, o->offset);
    case OPERAND_BUFFER:
        return operand_address(f, REGION_OF_BUFFERS,
                               f->phase->buffers[o->buffer].offset + o->offset);
    case OPERAND_TOKENS:
        return call(f, "step_tokens", &run, 1);
    case OPERAND_INT:
        break;
    }
    return constant(f, o->offset);
}

static void kernel_name(char out[NAME_BYTES], int plan, const Plan *p, int kernel) {
    snprintf(out, NAME_BYTES, "kernel_%d_%d_%s", plan, kernel, p->kernels[kernel]->entry);
}

// kernel(run, thread, operands...); then all threads meet, unless it is the last step.
static bool cpu_step_emit(const StepFunction *f, const Step *s, bool last) {
    char name[NAME_BYTES];
    kernel_name(name, f->plan_index, f->plan, s->kernel_index);
    LLVMValueRef callee = LLVMGetNamedFunction(f->host->module, name);
    LLVMTypeRef types[STEP_MAX_OPERANDS + 2];
    LLVMValueRef arguments[STEP_MAX_OPERANDS + 2] = {f->run, f->thread};
    if (LLVMCountParams(callee) != (unsigned)s->operand_count + 2)
        return fail(f->host->err, ERR_INTERNAL, 566, "%s: %s takes %u operands, the plan gives %d",
                    s->source, s->entry, LLVMCountParams(callee) - 2, s->operand_count);
    LLVMGetParamTypes(LLVMGlobalGetValueType(callee), types);
    for (int at = 0; at < s->operand_count; at++) {
        LLVMValueRef value = operand_value(f, &s->operands[at]);
        bool wants = LLVMGetTypeKind(types[at + 2]) == LLVMPointerTypeKind;
        bool has = LLVMGetTypeKind(LLVMTypeOf(value)) == LLVMPointerTypeKind;
        if (wants && !has && s->operands[at].kind == OPERAND_INT && s->operands[at].offset == 0)
            value = LLVMConstNull(types[at + 2]);
        else if (wants != has)
            return fail(f->host->err, ERR_INTERNAL, 567,
                        "%s: operand %d of %s is a number on one side and a pointer on the other",
                        s->source, at, s->entry);
        arguments[at + 2] = value;
    }
    call(f, name, arguments, (unsigned)s->operand_count + 2);
    if (!last) {
        LLVMValueRef barrier[] = {f->run, f->thread};
        call(f, "step_barrier", barrier, 2);
    }
    return true;
}

// Fills the argument slots and launches; on an error returns its code.
static void cuda_step_emit(const StepFunction *f, const Step *s) {
    const Host *h = f->host;
    for (int at = 0; at < s->operand_count; at++) {
        LLVMValueRef value = operand_value(f, &s->operands[at]), index = constant(f, at);
        if (LLVMGetTypeKind(LLVMTypeOf(value)) == LLVMPointerTypeKind)
            value = LLVMBuildPtrToInt(f->builder, value, h->i64, "");
        LLVMBuildStore(f->builder, value,
                       LLVMBuildInBoundsGEP2(f->builder, h->i64, f->slots, &index, 1, ""));
    }
    LLVMValueRef arguments[] = {f->run,
                                constant32(f, s->kernel_index),
                                constant32(f, s->grid[0]),
                                constant32(f, s->grid[1]),
                                constant32(f, s->grid[2]),
                                constant32(f, s->tokens_per_block),
                                constant32(f, s->operand_count),
                                f->slots};
    LLVMValueRef error = call(f, "step_launch", arguments, 8);
    LLVMValueRef is_error = LLVMBuildICmp(f->builder, LLVMIntNE, error, constant32(f, 0), "");
    LLVMBasicBlockRef failed = LLVMAppendBasicBlockInContext(h->context, f->function, "");
    LLVMBasicBlockRef next = LLVMAppendBasicBlockInContext(h->context, f->function, "");
    LLVMBuildCondBr(f->builder, is_error, failed, next);
    LLVMPositionBuilderAtEnd(f->builder, failed);
    LLVMBuildRet(f->builder, error);
    LLVMPositionBuilderAtEnd(f->builder, next);
}

// The helpers' CPU and features, so that they can be inlined.
static void attributes_copy(LLVMValueRef to, LLVMValueRef from) {
    enum { MAX_ATTRIBUTES = 64 };
    LLVMAttributeRef attributes[MAX_ATTRIBUTES];
    unsigned count =
        LLVMGetAttributeCountAtIndex(from, (LLVMAttributeIndex)LLVMAttributeFunctionIndex);
    if (count > MAX_ATTRIBUTES)
        return;
    LLVMGetAttributesAtIndex(from, (LLVMAttributeIndex)LLVMAttributeFunctionIndex, attributes);
    for (unsigned at = 0; at < count; at++)
        LLVMAddAttributeAtIndex(to, (LLVMAttributeIndex)LLVMAttributeFunctionIndex, attributes[at]);
}

static bool step_function_emit(Host *h, const Plan *p, int plan_index, int phase_index,
                               LLVMValueRef *function) {
    StepFunction f = {
        .host = h, .plan = p, .phase = &p->phases[phase_index], .plan_index = plan_index};
    bool cuda = p->target->device == DEVICE_CUDA;
    LLVMTypeRef parameters[] = {h->pointer, h->i32};
    LLVMTypeRef type =
        cuda ? LLVMFunctionType(h->i32, parameters, 1, false)
             : LLVMFunctionType(LLVMVoidTypeInContext(h->context), parameters, 2, false);
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "step_%d_%d", plan_index, phase_index);
    f.function = *function = LLVMAddFunction(h->module, name, type);
    LLVMSetLinkage(f.function, LLVMInternalLinkage);
    attributes_copy(f.function, LLVMGetNamedFunction(h->module, "step_address"));
    f.run = LLVMGetParam(f.function, 0);
    f.thread = cuda ? NULL : LLVMGetParam(f.function, 1);
    f.builder = LLVMCreateBuilderInContext(h->context);
    LLVMPositionBuilderAtEnd(f.builder, LLVMAppendBasicBlockInContext(h->context, f.function, ""));
    if (cuda)
        f.slots = LLVMBuildArrayAlloca(f.builder, h->i64, constant(&f, STEP_MAX_OPERANDS), "");
    bool done = true;
    for (int at = 0; at < f.phase->step_count && done; at++) {
        if (cuda)
            cuda_step_emit(&f, &f.phase->steps[at]);
        else
            done = cpu_step_emit(&f, &f.phase->steps[at], at == f.phase->step_count - 1);
    }
    if (cuda)
        LLVMBuildRet(f.builder, constant32(&f, 0));
    else
        LLVMBuildRetVoid(f.builder);
    LLVMDisposeBuilder(f.builder);
    return done;
}

// ---- the table ----------------------------------------------------------------------------------

static LLVMValueRef string_constant(Host *h, const char *text) {
    unsigned size = (unsigned)strlen(text);
    LLVMValueRef value = LLVMConstStringInContext(h->context, text, size, false);
    LLVMValueRef global = LLVMAddGlobal(h->module, LLVMTypeOf(value), "target_name");
    LLVMSetInitializer(global, value);
    LLVMSetLinkage(global, LLVMPrivateLinkage);
    LLVMSetGlobalConstant(global, true);
    return global;
}

// TargetInfo.name
static LLVMValueRef target_constant(Host *h, const Plan *p) {
    bool cuda = p->target->device == DEVICE_CUDA;
    return string_constant(h, cuda ? p->target->name
                                   : arena_printf(h->arena, "cpu:%s", p->target->cpu_level));
}

static void global_export(Host *h, const char *name, LLVMValueRef value) {
    LLVMValueRef global = LLVMAddGlobal(h->module, LLVMTypeOf(value), name);
    LLVMSetInitializer(global, value);
    LLVMSetGlobalConstant(global, true);
}

// By phase, then by max_tokens: the runtime takes the first entry that is large enough.
static int phase_order(const void *a, const void *b) {
    const PhasePlan *x = *(const PhasePlan *const *)a, *y = *(const PhasePlan *const *)b;
    if (x->phase != y->phase)
        return x->phase < y->phase ? -1 : 1;
    return (x->max_tokens > y->max_tokens) - (x->max_tokens < y->max_tokens);
}

// Appends the entries of one plan; their layout is StepEntry of runtime/step.h.
static bool plan_emit(Host *h, const Plan *p, int plan_index, LLVMValueRef *entries, int *count) {
    bool cuda = p->target->device == DEVICE_CUDA;
    for (int at = 0; at < p->kernel_count && !cuda; at++) {
        char name[NAME_BYTES];
        kernel_name(name, plan_index, p, at);
        TRY(template_add(h, p->kernels[at], p->target->cpu_level, name));
    }
    LLVMValueRef target = target_constant(h, p);
    const PhasePlan **phases = ARENA_NEW(h->arena, const PhasePlan *, p->phase_count);
    for (int at = 0; at < p->phase_count; at++)
        phases[at] = &p->phases[at];
    qsort(phases, (size_t)p->phase_count, sizeof *phases, phase_order);
    for (int at = 0; at < p->phase_count; at++) {
        LLVMValueRef function;
        TRY(step_function_emit(h, p, plan_index, (int)(phases[at] - p->phases), &function));
        LLVMValueRef fields[] = {
            target, LLVMConstInt(h->i32, (unsigned long long)phases[at]->phase, true),
            LLVMConstInt(h->i32, (unsigned long long)phases[at]->max_tokens, true), function};
        entries[(*count)++] = LLVMConstStructInContext(h->context, fields, 4, false);
    }
    return true;
}

// Do all kernels of the plan that read a tensor ask for it first?
static bool tensor_ready(const Plan *p, const PackedTensor *t) {
    bool read = false;
    for (int phase = 0; phase < p->phase_count; phase++)
        for (int at = 0; at < p->phases[phase].step_count; at++) {
            const Step *s = &p->phases[phase].steps[at];
            for (const Operand *o = s->operands; o < s->operands + s->operand_count; o++) {
                if (o->kind != OPERAND_ADDRESS || o->region != REGION_OF_WEIGHTS ||
                    o->offset != t->offset)
                    continue;
                if (!o->ready)
                    return false;
                read = true;
            }
        }
    return read;
}

// The table model_ready; its layout is ReadyWeights of runtime/step.h.
static void ready_emit(Host *h, const Plan *const *plans, int count) {
    int room = 1, used = 0;
    for (int at = 0; at < count; at++)
        room += plans[at]->graph->packed_count;
    LLVMValueRef *entries = ARENA_NEW(h->arena, LLVMValueRef, room);
    for (int plan = 0; plan < count; plan++) {
        const Graph *g = plans[plan]->graph;
        if (plans[plan]->target->device == DEVICE_CUDA)
            continue;
        LLVMValueRef target = target_constant(h, plans[plan]);
        for (int at = 0; at < g->packed_count; at++) {
            const PackedTensor *t = &g->packed[at];
            int64_t end = at + 1 < g->packed_count ? t[1].offset : t->offset + t->bytes;
            LLVMValueRef fields[] = {
                target, LLVMConstInt(h->i64, (unsigned long long)t->offset, true),
                LLVMConstInt(h->i64, (unsigned long long)(end - t->offset), true)};
            if (tensor_ready(plans[plan], t))
                entries[used++] = LLVMConstStructInContext(h->context, fields, 3, false);
        }
    }
    LLVMTypeRef fields[] = {h->pointer, h->i64, h->i64};
    LLVMTypeRef entry = LLVMStructTypeInContext(h->context, fields, 3, false);
    global_export(h, "model_ready", LLVMConstArray2(entry, entries, (uint64_t)used));
    global_export(h, "model_ready_count", LLVMConstInt(h->i32, (unsigned long long)used, true));
}

static bool module_build(Host *h, const Plan *const *plans, int count) {
    TRY(bitcode_parse(h, h->target->step_bitcode, &h->module));
    LLVMSetSourceFileName(h->module, "", 0);
    int phases = 0, entry_count = 0;
    for (int at = 0; at < count; at++)
        phases += plans[at]->phase_count;
    LLVMValueRef *entries = ARENA_NEW(h->arena, LLVMValueRef, phases + 1);
    for (int at = 0; at < count; at++)
        TRY(plan_emit(h, plans[at], at, entries, &entry_count));
    LLVMTypeRef fields[] = {h->pointer, h->i32, h->i32, h->pointer};
    LLVMTypeRef entry = LLVMStructTypeInContext(h->context, fields, 4, false);
    global_export(h, "model_steps", LLVMConstArray2(entry, entries, (uint64_t)entry_count));
    global_export(h, "model_step_count",
                  LLVMConstInt(h->i32, (unsigned long long)entry_count, true));
    ready_emit(h, plans, count);
    LLVMValueRef next;
    for (LLVMValueRef f = LLVMGetFirstFunction(h->module); f; f = next) {
        next = LLVMGetNextFunction(f);
        if (!LLVMIsDeclaration(f))
            LLVMSetLinkage(f, LLVMInternalLinkage); // the table is all that the runtime sees
    }
    char *message = NULL;
    if (LLVMVerifyModule(h->module, LLVMReturnStatusAction, &message))
        return fail(h->err, ERR_INTERNAL, 568, "the host module is not valid: %s",
                    message_take(h, message));
    LLVMDisposeMessage(message);
    return true;
}

// ---- from the module to the object --------------------------------------------------------------

static bool machine_make(Host *h) {
    h->target->initialize();
    LLVMTargetRef target;
    char *message = NULL;
    if (LLVMGetTargetFromTriple(h->target->llvm_triple, &target, &message))
        return fail(h->err, ERR_INTERNAL, 569, "LLVM does not know %s: %s", h->target->llvm_triple,
                    message_take(h, message));
    h->machine = LLVMCreateTargetMachine(target, h->target->llvm_triple, "", "",
                                         LLVMCodeGenLevelDefault, LLVMRelocPIC, LLVMCodeModelSmall);
    return true;
}

static Bytes buffer_take(const Host *h, LLVMMemoryBufferRef buffer) {
    size_t size = LLVMGetBufferSize(buffer);
    unsigned char *copy = arena_alloc(h->arena, size);
    memcpy(copy, LLVMGetBufferStart(buffer), size);
    LLVMDisposeMemoryBuffer(buffer);
    return (Bytes){copy, size};
}

static bool object_emit(Host *h, Bytes *object) {
    LLVMMemoryBufferRef buffer;
    char *message = NULL;
    if (LLVMTargetMachineEmitToMemoryBuffer(h->machine, h->module, LLVMObjectFile, &message,
                                            &buffer))
        return fail(h->err, ERR_INTERNAL, 570, "LLVM's code generator: %s",
                    message_take(h, message));
    if (h->diagnostic)
        return fail(h->err, ERR_INTERNAL, 571, "LLVM's code generator: %s", h->diagnostic);
    *object = buffer_take(h, buffer);
    return true;
}

// The key of an object: what the optimizer gets, and which optimizer it is.
static Bytes module_key(const Host *h) {
    unsigned major, minor, patch;
    LLVMGetVersion(&major, &minor, &patch);
    char *head = arena_printf(h->arena, "host object\n%s\nLLVM %u.%u.%u %s\n", h->target->triple,
                              major, minor, patch, PASSES);
    LLVMMemoryBufferRef buffer = LLVMWriteBitcodeToMemoryBuffer(h->module);
    size_t head_size = strlen(head), size = LLVMGetBufferSize(buffer);
    unsigned char *key = arena_alloc(h->arena, head_size + size);
    memcpy(key, head, head_size);
    memcpy(key + head_size, LLVMGetBufferStart(buffer), size);
    LLVMDisposeMemoryBuffer(buffer);
    return (Bytes){key, head_size + size};
}

static bool object_make(Host *h, Bytes *object, const Plan *const *plans, int count, Cache *cache) {
    TRY(machine_make(h));
    TRY(module_build(h, plans, count));
    Bytes key = module_key(h);
    bool found = false;
    if (cache)
        TRY(cache_get(cache, (const char *)key.data, key.size, object, &found, h->arena, h->err));
    if (found)
        return true;
    TRY(passes_run(h, h->module, PASSES));
    TRY(object_emit(h, object));
    if (cache)
        cache_put(cache, (const char *)key.data, key.size, *object);
    return true;
}

bool host_object_make(Bytes *object, const Plan *const *plans, int count, const char *triple,
                      Cache *cache, Arena *a, Error *err) {
    Host h = {.target = host_target_find(triple), .arena = a, .err = err};
    if (!h.target)
        return fail(err, ERR_UNSUPPORTED, 572, "--host %s is not supported; supported: %s, %s",
                    triple, host_targets[0].triple, host_targets[1].triple);
    h.context = LLVMContextCreate();
    LLVMContextSetDiagnosticHandler(h.context, diagnostic_keep, &h);
    h.pointer = LLVMPointerTypeInContext(h.context, 0);
    h.i32 = LLVMInt32TypeInContext(h.context);
    h.i64 = LLVMInt64TypeInContext(h.context);
    bool done = object_make(&h, object, plans, count, cache);
    if (h.module)
        LLVMDisposeModule(h.module);
    if (h.machine)
        LLVMDisposeTargetMachine(h.machine);
    LLVMContextDispose(h.context);
    return done;
}
