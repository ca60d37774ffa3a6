# Texts drawn at random through the masks of grammars: Python's json and jsonschema, or re, take all.
set -u
. tests/lib.sh

if ! python3 -c 'import jsonschema' 2>/dev/null; then
    timeout 300 python3 -m pip install -q --disable-pip-version-check --target "$work/python" \
        jsonschema rfc3339-validator </dev/null >/dev/null 2>&1
    export PYTHONPATH=$work/python
fi
if ! python3 -c 'import jsonschema' 2>/dev/null; then
    skipped grammar "no python3 module jsonschema here, and pip cannot fetch it"
    exit 0
fi
python3 tests/check_grammar.py build/tests/grammar_walk
