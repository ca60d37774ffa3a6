// The software bill of materials in the build receipt: what is linked into an executable, and the
// model, as a CycloneDX 1.5 document. No time, no serial number: two compiles give the same bytes.
// Source: https://cyclonedx.org/docs/1.5/json/
#include "metadata.h"

#include <cjson/cJSON.h>
#include <event2/event-config.h>
#include <xxhash.h>

#define TEXT_OF(x)        #x
#define VERSION3(a, b, c) TEXT_OF(a) "." TEXT_OF(b) "." TEXT_OF(c)
#define CJSON_TEXT        VERSION3(CJSON_VERSION_MAJOR, CJSON_VERSION_MINOR, CJSON_VERSION_PATCH)
#ifndef LIBGCC_VERSION // of a compiler that links one of its own version
#define LIBGCC_VERSION __VERSION__
#endif
#define XXHASH_TEXT       VERSION3(XXH_VERSION_MAJOR, XXH_VERSION_MINOR, XXH_VERSION_RELEASE)

typedef struct Component {
    const char *name, *version, *license; // SPDX identifier or expression
    const char *scope;                    // CycloneDX: "required" or "optional"
    const char *how;
} Component;

static const Component components[] = {
    {"gptq-compile-runtime", GPTQ_COMPILE_VERSION, "Apache-2.0", "required", "linked statically"},
    {"cJSON", CJSON_TEXT, "MIT", "required", "linked statically"},
    {"xxHash", XXHASH_TEXT, "BSD-2-Clause", "required", "linked statically"},
    {"libevent", EVENT__VERSION, "BSD-3-Clause", "required", "linked statically"},
    {"libgcc", LIBGCC_VERSION, "GPL-3.0-or-later WITH GCC-exception-3.1", "required",
     "linked statically"},
    {"glibc", NULL, "LGPL-2.1-or-later", "required", "the system's, loaded at start"},
    {"libcuda", NULL, "LicenseRef-NVIDIA", "optional", "the driver's, loaded for GPU targets"},
};

static cJSON *component_json(const char *type, const Component *c) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "type", type);
    cJSON_AddStringToObject(json, "name", c->name);
    if (c->version)
        cJSON_AddStringToObject(json, "version", c->version);
    if (c->scope)
        cJSON_AddStringToObject(json, "scope", c->scope);
    if (c->how)
        cJSON_AddStringToObject(json, "description", c->how);
    if (c->license) {
        cJSON *choice = cJSON_CreateObject();
        cJSON_AddStringToObject(choice, "expression", c->license);
        cJSON_AddItemToArray(cJSON_AddArrayToObject(json, "licenses"), choice);
    }
    return json;
}

cJSON *sbom_make(const Config *config, const char *name) {
    cJSON *json = cJSON_CreateObject(), *tools, *list;
    Component model = {.name = name ? name : config->model_type, .how = config->architecture};
    Component compiler = {.name = "gptq-compile", .version = GPTQ_COMPILE_VERSION};
    cJSON_AddStringToObject(json, "bomFormat", "CycloneDX");
    cJSON_AddStringToObject(json, "specVersion", "1.5");
    cJSON_AddNumberToObject(json, "version", 1);
    tools = cJSON_AddObjectToObject(cJSON_AddObjectToObject(json, "metadata"), "tools");
    cJSON_AddItemToArray(cJSON_AddArrayToObject(tools, "components"),
                         component_json("application", &compiler));
    list = cJSON_AddArrayToObject(json, "components");
    cJSON_AddItemToArray(list, component_json("machine-learning-model", &model));
    for (size_t at = 0; at < sizeof components / sizeof *components; at++)
        cJSON_AddItemToArray(list, component_json("library", &components[at]));
    return json;
}
