// JSON from strangers: what a request's body may be before cJSON sees it.
#ifndef JSON_INPUT_H
#define JSON_INPUT_H

#include "base.h"

struct cJSON;

// RFC 8259 to the letter, valid UTF-8, no lone surrogates, no zero bytes in strings, no number that
// a double cannot hold, bounded depth and count. ERR_USAGE says where. Released by cJSON_Delete.
bool json_input(struct cJSON **out, Bytes text, Error *err);
// The member `name`, the last one of several; NULL: absent or null.
struct cJSON *json_member(const struct cJSON *object, const char *name);
// The text of the value of a member of an object that json_input takes; false: there is none.
bool json_member_text(Bytes object, const char *name, Bytes *value);

#endif
