#!/usr/bin/env python3
"""check_grammar.py WALK: walks the schemas and expressions of tests/vectors/grammar at random, with the
vocabularies of several families, and shows the texts to json, jsonschema and re."""
import json
import os
import re
import subprocess
import sys

from jsonschema import Draft202012Validator

VECTORS = "tests/vectors/grammar"
MODELS = [("samples/storyteller", 8192), ("tests/vectors/fixtures/llama2-4b-g128-bf16-lmhead", 1024),
          ("tests/vectors/fixtures/qwen2-4b-g128", 1024)]
TEXTS, LEAST_PERCENT = 6, 90  # of a grammar; of all that must come to their end


def walk(program, model, path):
    run = subprocess.run([program, model[0], str(model[1]), path, str(TEXTS), "3"], capture_output=True, text=True)
    if run.returncode:
        return [], (run.stderr.strip() or f"exit code {run.returncode}")[-300:]
    return [json.loads(line) for line in run.stdout.splitlines()], None


def schema_fault(schema, text):
    try:
        doc = json.loads(text)
    except ValueError as error:
        return f"no JSON: {error}"
    for error in Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).iter_errors(doc):
        return error.message
    return None


def regex_fault(regex, text):
    r"""\d and \w are ASCII's, \s is ECMAScript's: re has flags for one or the other."""
    text = text.replace("\ufeff", " ")
    return None if re.fullmatch(regex, text) or re.fullmatch(regex, text, re.ASCII) else "no match"


def check(program, model, kind, path):
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)
    texts, error = walk(program, model, path)
    faults = [error] if error else []
    schemas = [json.loads(v["schema"]) for v in vectors] if kind == "schema" else None
    for index, text in texts:
        fault = schema_fault(schemas[index], text) if schemas else regex_fault(vectors[index]["regex"], text)
        if fault:
            faults.append(f"{vectors[index][kind][:100]}: {text[:100]!r}: {fault}")
    name = f"grammar_{kind}_{os.path.basename(model[0]).split('-')[0]}"
    if faults:
        print(f"not ok {name}: {len(faults)} faults: {faults[0]}")
    elif len(texts) * 100 < len(vectors) * TEXTS * LEAST_PERCENT:
        print(f"not ok {name}: {len(texts)} texts came to their end, wanted {LEAST_PERCENT} % of {len(vectors) * TEXTS}")
    else:
        print(f"ok {name}")


for tested in MODELS:
    check(sys.argv[1], tested, "schema", f"{VECTORS}/schemas.json")
    check(sys.argv[1], tested, "regex", f"{VECTORS}/regexes.json")
