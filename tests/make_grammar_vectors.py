#!/usr/bin/env python3
"""Writes tests/vectors/grammar/: what the `jsonschema` package and Python's `re` say of documents and texts.

    pip install jsonschema rfc3339-validator; python3 tests/make_grammar_vectors.py

schemas.json: {"schema", "accept": [texts], "reject": [texts]}; documents are those given here and random changes
of them, judged by jsonschema (with its format checks), written compactly and with blanks behind commas and
colons; texts that are no JSON are rejected. regexes.json: {"regex", "accept", "reject"}: whole texts by
re.fullmatch. refused.json: {"schema" or "regex", "words"}: what is refused, and words of its message.
"""
import copy
import json
import os
import random
import re

from jsonschema import Draft202012Validator

FOLDER = "tests/vectors/grammar"

PERSON = {"type": "object", "additionalProperties": False, "required": ["name", "age"],
          "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
                         "email": {"type": "string", "format": "email"}, "tags": {"type": "array", "items": {"type": "string"}}}}
TREE = {"$ref": "#/$defs/node", "$defs": {"node": {
    "type": "object", "additionalProperties": False, "required": ["value"],
    "properties": {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}}}

# (schema, documents)
SCHEMAS = [
    (PERSON, [{"name": "Ada", "age": 36}, {"name": "", "age": 0, "email": "a.b@example.org", "tags": ["x", "y"]},
              {"name": "é😀\"\\\n\u0001/", "age": 130, "tags": []}, {"age": 3}, {"name": "x", "age": 131},
              {"name": "x", "age": -1}, {"name": "x", "age": 5, "email": "no"}, {"name": 3, "age": 5}]),
    (TREE, [{"value": 1}, {"value": -12, "children": []}, {"value": 0, "children": [{"value": 2}, {"value": 3, "children":
            [{"value": 4}]}]}, {"value": 1, "children": [{}]}, {"children": []}]),
    ({"type": "string"}, ["", "a", "\u2028\u0000\x7f", "𝄞", "a" * 300, 1, None]),
    ({"type": "string", "minLength": 2, "maxLength": 4}, ["ab", "abcd", "é😀", "\n\n\"\\", "a", "abcde", "😀"]),
    ({"type": "string", "maxLength": 1000}, ["x" * 1000, "é" * 1000, "x" * 1001]),
    ({"type": "string", "pattern": "^[A-Z]{2}-\\d+$"}, ["AB-1", "ZZ-0042", "ab-1", "AB-", "xAB-1", "AB-1x"]),
    ({"type": "string", "pattern": "foo|^b\\s?a"}, ["foo", "xfoox", "ba", "b ax", "b\tabc", "xba", "", "fo"]),
    ({"type": "string", "pattern": "^[^a-c]*[\"\\\\]$"}, ["\"", "xyz\\", "\n\"", "a\"", "x"]),
    ({"type": "integer"}, [0, -1, 12345678901234, -907, 1.5, "1", None, True]),
    ({"type": "integer", "minimum": 25, "maximum": 1199}, [25, 26, 99, 100, 999, 1000, 1199, 24, 1200, -25, 0, 11990]),
    ({"type": "integer", "minimum": -17, "maximum": 3}, [-17, -16, -10, -9, -1, 0, 3, -18, 4, 17, -170]),
    ({"type": "integer", "exclusiveMinimum": 7}, [8, 9, 10, 70, 12345, 7, 0, -8]),
    ({"type": "integer", "maximum": -5}, [-5, -6, -10, -99999, -4, 0, 5]),
    ({"type": "number"}, [0, -0.5, 1.25, 3e10, 1e-7, -2E+5, "1", None]),
    ({"type": "number", "minimum": 0, "maximum": 1}, [0, 1, 0.5, 0.999, 1.0, 0.0, 1.001, -0.1, 2, 10]),
    ({"type": "number", "exclusiveMinimum": 0}, [0.001, 1, 17.5, 0, -1, -0.5]),
    ({"type": "number", "minimum": -1.5, "exclusiveMaximum": 2.25},
     [-1.5, -1.49, -1, -0.01, 0, 1, 2, 2.2, 2.24, 2.2499, -1.51, 2.25, 2.3, 3, -2, -15]),
    ({"type": "boolean"}, [True, False, None, 0, "true"]),
    ({"type": "null"}, [None, False, 0, ""]),
    ({"type": ["string", "null"]}, ["x", None, 1]),
    ({"enum": ["red", "green", 3, None, {"a": [1, 2]}]}, ["red", "green", 3, None, {"a": [1, 2]}, "blue", 4, {"a": [1]}, "re"]),
    ({"const": "a\"b"}, ["a\"b", "a", "ab"]),
    ({"type": "string", "enum": ["x", "xy", 1]}, ["x", "xy", 1, "xyz"]),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3}, [[1, 2], [1, 2, 3], [1], [], [1, 2, 3, 4], [1, "2"]]),
    ({"type": "array", "items": {"type": "boolean"}}, [[], [True], [True, False] * 20, [1]]),
    ({"type": "array", "maxItems": 0}, [[], [1]]),
    ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
     [[], ["a"], ["a", 1], [1], ["a", 1, 2], ["a", "b"]]),
    ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": {"type": "null"}, "minItems": 2, "maxItems": 4},
     [["a", 1], ["a", 1, None], ["a", 1, None, None], ["a"], ["a", 1, 2], ["a", 1, None, None, None]]),
    ({"type": "object"}, [{}, {"a": 1}, {"a": {"b": [None, True, {"c": "d"}]}, "e": 1.5}, [], 1]),
    ({"type": "object", "properties": {"a": {"type": "integer"}, "ab": {"type": "integer"}}, "required": ["a"],
      "additionalProperties": {"type": "string"}},
     [{"a": 1}, {"a": 1, "ab": 2}, {"a": 1, "b": "x"}, {"a": 1, "ab": 2, "abc": "x", "": "", "é": "y"}, {"a": 1, "b": 2}, {"ab": 2}]),
    ({"type": "object", "properties": {"a": True}, "additionalProperties": True}, [{}, {"a": None}, {"a": [], "b": {}}, {"b": 1}]),
    ({"type": "object", "additionalProperties": False}, [{}, {"a": 1}]),
    ({"type": "object", "properties": {f"k{i}": {"type": "integer"} for i in range(8)}, "required": ["k3"], "additionalProperties": False},
     [{"k3": 1}, {"k0": 1, "k3": 1}, {"k0": 1, "k1": 2, "k2": 3, "k3": 4, "k4": 5, "k5": 6, "k6": 7, "k7": 8},
      {"k3": 1, "k7": 1}, {"k0": 1}, {}]),
    ({"type": "object", "properties": {"kind": {"const": "n"}, "list": {"$ref": "#"}}, "required": ["kind"], "additionalProperties": False},
     [{"kind": "n"}, {"kind": "n", "list": {"kind": "n", "list": {"kind": "n"}}}, {"kind": "n", "list": {}}]),
    ({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#"}}]}, [1, [], [1, [2, []]], ["x"], "x"]),
    ({"oneOf": [{"type": "object", "properties": {"t": {"const": "a"}, "x": {"type": "integer"}}, "required": ["t", "x"], "additionalProperties": False},
                {"type": "object", "properties": {"t": {"const": "b"}, "y": {"type": "string"}}, "required": ["t", "y"], "additionalProperties": False}]},
     [{"t": "a", "x": 1}, {"t": "b", "y": ""}, {"t": "a", "y": ""}, {"t": "b"}]),
    ({"type": "object", "allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                                  {"properties": {"a": {"minimum": 5}, "b": {"type": "null"}}}]},
     [{"a": 5}, {"a": 6, "b": None}, {"a": 4}, {"b": None}]),
    ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}, {"exclusiveMaximum": 9}]}, [3, 8, 2, 9, 10]),
    ({"anyOf": [{"minimum": 10}, {"maximum": -10}], "type": "integer"}, [10, -10, 11, 0, 9]),
    ({"$defs": {"s": {"type": "string"}, "a/b": {"type": "integer"}}, "type": "array", "prefixItems": [{"$ref": "#/$defs/s"}, {"$ref": "#/$defs/a~1b"}]},
     [["x", 1], ["x", 1, None], [1, 1], ["x", "y"]]),
    ({"type": "string", "format": "date"}, ["2024-02-29", "2023-02-28", "1999-12-31", "2023-02-29", "2024-13-01", "2024-04-31", "2024-1-1", "1900-02-29"]),
    ({"type": "string", "format": "date-time"}, ["2024-02-29T12:00:00Z", "2024-02-29T23:59:59.123+02:00", "2024-02-29", "2024-02-29T24:00:00Z"]),
    ({"type": "string", "format": "time"}, ["12:00:00Z", "23:59:59.5-07:30", "24:00:00Z", "12:60:00Z"]),
    ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000", "123e4567e89b12d3a456426614174000", "x"]),
    ({"type": "string", "format": "ipv4"}, ["1.2.3.4", "255.255.255.255", "0.0.0.0", "256.1.1.1", "1.2.3", "1.2.3.4.5"]),
    ({"type": "string", "format": "ipv6"}, ["::", "::1", "2001:db8::8a2e:370:7334", "1:2:3:4:5:6:7:8", "1::8", "1:2:3", "1:2:3:4:5:6:7:8:9", "g::"]),
    (True, [None, 1, "x", [], {}, {"a": [1.5, {"b": None}]}]),
    ({}, [None, [[[["x"]]]]]),
    ({"title": "X", "description": "y", "default": 3, "examples": [1], "x-own": {}, "type": "integer"}, [3, "3"]),
]

# Texts that are no JSON, or not in one of the two spacings.
NO_JSON = ["", "{", "[1,]", "{\"a\":1,}", "{'a':1}", "01", "1.", ".5", "+1", "-", "1e", "nul", "\"\t\"", "\"\\x41\"", "\"\\ud800\"",
           "\"\\udc00\\ud800\"", "\"\\ud83dx\"", "\"a", "{\"a\" :1}", "[1,  2]", "{\"a\":1}}", "1 ", " 1", "[1 2]", "\"\\u12g4\"", "NaN"]
WELL_ESCAPED = ["\"\\ud83d\\ude00\"", "\"\\u0041\\/\\b\"", "\"\\uD83D\\uDE00\\u00e9\"", "\"\\ufFfF\""]

REGEXES = [
    ("abc", ["abc", "ab", "abcd", ""]), ("a|bc|", ["a", "bc", "", "b", "abc"]), ("(a|b)*c", ["c", "abac", "ab", "abcc"]),
    ("a{2,3}b{2}c{1,}d{0,1}", ["aabbc", "aaabbccd", "abbc", "aabbcdd", "aaaabbc"]), ("[a-c^]+", ["abc^", "d", ""]),
    ("[^a-c\\d]", ["d", "é", "\n", "a", "5", "xx"]), ("[]a-]+", ["]", "a-", "b"]), (".+", ["x", "é😀", "a\nb", ""]),
    ("\\d{3}-\\d{4}", ["555-1234", "5555-123"]), ("\\w+\\s\\w+", ["foo bar", "foo\tb_1", "foo", "foo  bar"]), ("\\D\\W\\S", ["a.b", "1.b", "aab", "a. "]),
    ("(?:ab)+?x??", ["ab", "ababx", "x"]), ("(?P<y>\\d+)\\.(?P<z>\\d+)", ["1.2", "12"]), ("é{2}|[à-ü]", ["éé", "ö", "é", "z"]),
    ("(a?){3}b", ["b", "ab", "aaab", "aaaab"]), ("(a*)*b", ["b", "aaab", "a"]), ("(a|aa){1,9}", ["a", "a" * 9, "a" * 18, "a" * 19, ""]),
    ("(?:(?:a{1,3}b){2}c){2}", ["ababcababc", "aaabaabcababc", "abcabc"]), ("x{1000}", ["x" * 1000, "x" * 999, "x" * 1001]),
    ("\\x41\\u00e9\\n\\t\\.\\\\", ["Aé\n\t.\\", "Ae\n\t.\\"]), ("^ab$", ["ab", "abc"]), ("a{,2}b", ["b", "aab", "aaab"]), ("a{x}", ["a{x}", "a"]),
    ("[\\w.-]+@[\\w-]+\\.\\w{2,}", ["a.b@c.de", "a@b.c", "@b.cd"]), ("[\U0001f600-\U0001f64f]", ["😀", "🚀", "x"]), ("(|a)+b?", ["", "aab", "c"]),
    ("((((a))))", ["a", "b"]), ("[^\\s\\S]|q", ["q", "x"]), ("\u20ac?5{2}", ["€55", "55", "5"]), ("[\\x00-\\x7f]*", ["ab\x00", "é"]),
]

REFUSED = [
    ({"schema": {"not": {}}}, "not"), ({"schema": {"type": "object", "patternProperties": {}}}, "patternProperties"),
    ({"schema": {"properties": {"a": {"if": {}}}}}, "#/properties/a.*\"if\""), ({"schema": {"type": "float"}}, "type"),
    ({"schema": {"type": "array", "uniqueItems": True}}, "uniqueItems"), ({"schema": {"$ref": "#/nowhere"}}, "ref"),
    ({"schema": {"$ref": "http://x/y"}}, "ref"), ({"schema": {"required": "a"}}, "required"), ({"schema": {"items": [1]}}, "items"),
    ({"schema": False}, "no text is valid"), ({"schema": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}}, "no text is valid"),
    ({"schema": {"allOf": [{"type": "string"}, {"type": "integer"}]}}, "no text is valid"), ({"schema": {"minLength": -1}}, "minLength"),
    ({"schema": {"type": "string", "format": "regex"}}, "format"), ({"schema": {"type": "string", "pattern": "(?=a)"}}, "pattern.*look-ahead"),
    ({"schema": {"type": "string", "pattern": "a", "maxLength": 3}}, "only one of"), ({"schema": {"enum": [1], "minimum": 0}}, "minimum"),
    ({"schema": {"type": "number", "minimum": 0.12345678}}, "decimals"), ({"schema": {"type": "integer", "multipleOf": 5}}, "multipleOf"),
    ({"schema": 3}, "expected a schema"), ({"schema": {"properties": {"a": 3}}}, "#/properties/a"), ({"schema": {"minLength": 5000000}}, "minLength"),
    ({"regex": "a\\1"}, "references"), ({"regex": "(?<=a)b"}, "look-behind"), ({"regex": "(?!a)"}, "look-ahead"), ({"regex": "\\bfoo"}, "boundar"),
    ({"regex": "(a"}, "no end"), ({"regex": "a)"}, "closes nothing"), ({"regex": "*a"}, "nothing to repeat"), ({"regex": "a**"}, "doubled"),
    ({"regex": "a{3,2}"}, "less"), ({"regex": "a{1,99999999}"}, "repeats"), ({"regex": "[b-a]"}, "range"), ({"regex": "[a"}, "no end"),
    ({"regex": "\\p{L}"}, "properties"), ({"regex": "(?i)a"}, "flags"), ({"regex": "\\"}, "backslash"), ({"regex": "a$b"}, "\\$"), ({"regex": "a^b"}, "\\^"),
    ({"regex": "(" * 200 + ")" * 200}, "groups"), ({"regex": "[^\\s\\S]"}, "no text is valid"), ({"regex": "\\ud800"}, "no character"),
]


def changes(doc, draw):
    """Documents that differ from doc in one place."""
    places = []

    def visit(holder, key):
        places.append((holder, key))
        value = holder[key]
        for inner in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            visit(value, inner)

    for _ in range(6):
        holder, places = [copy.deepcopy(doc)], []
        visit(holder, 0)
        at, key = draw.choice(places)
        value = at[key]
        kind = draw.randrange(4)
        if kind == 0 and at is not holder:
            del at[key]
        elif kind == 1:
            at[key] = draw.choice([None, True, "", "x", -1, 17, 0.25, [], {}])
        elif isinstance(value, str):
            cut = draw.randrange(len(value) + 1)
            at[key] = value[:cut] + draw.choice(["", "z", "é", "\"", "7"]) + value[cut + draw.randrange(2):]
        elif isinstance(value, bool) or value is None:
            at[key] = not value
        elif isinstance(value, (int, float)):
            at[key] = value + draw.choice([-100, -10, -1, 1, 10, 100])
        elif isinstance(value, list):
            value.append(copy.deepcopy(draw.choice(value)) if value else 1)
        if not kind or holder[0] != doc:
            yield holder[0]


def whole(doc):
    """jsonschema takes 1.0 for an integer; the grammar writes integers without a point."""
    if isinstance(doc, dict):
        return any(map(whole, doc.values()))
    if isinstance(doc, list):
        return any(map(whole, doc))
    return isinstance(doc, float) and (doc.is_integer() or abs(doc) < 1e-4 or abs(doc) > 1e15)


def texts(doc):
    forms = [json.dumps(doc, ensure_ascii=False, separators=s) for s in ((",", ":"), (", ", ": "))]
    return sorted(set(forms))


def schema_vector(schema, documents, draw):
    judge = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    accept, reject = [], []
    for doc in list(documents):
        documents += [d for d in changes(doc, draw) if not whole(d)]
    for doc in documents:
        (accept if judge.is_valid(doc) else reject).extend(texts(doc))
    reject += [t for t in NO_JSON]
    reject += [t + "x" for t in accept[:3]] + [t[:-1] for t in accept[:3] if t[-1] in "}]\""]
    if schema in (True, {"type": "string"}):
        accept += WELL_ESCAPED
    unique = lambda items: list(dict.fromkeys(items))
    return {"schema": json.dumps(schema), "accept": unique(accept), "reject": [t for t in unique(reject) if t not in accept]}


def write(name, entries):
    with open(os.path.join(FOLDER, name), "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(e, ensure_ascii=True) for e in entries) + "\n]\n")


def main():
    draw = random.Random(5)
    os.makedirs(FOLDER, exist_ok=True)
    write("schemas.json", [schema_vector(s, list(d), draw) for s, d in SCHEMAS])
    regexes = []
    for regex, samples in REGEXES:
        judge = re.compile(regex, re.ASCII)
        accept = [s for s in samples if judge.fullmatch(s)]
        regexes.append({"regex": regex, "accept": accept, "reject": [s for s in samples if s not in accept]})
    write("regexes.json", regexes)
    write("refused.json", [{k: v if k == "regex" else json.dumps(v) for k, v in what.items()} | {"words": words}
                           for what, words in REFUSED])


main()
