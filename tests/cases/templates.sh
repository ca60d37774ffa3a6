# Chat templates that others published, rendered by us and by jinja2: the same bytes, the same refusals.
set -u
. tests/lib.sh

render=build/asan/tests/template_render # bounds are checked on the way
wheel=axolotl==0.19.0 # a training tool (Apache-2.0) that carries the templates of many families
least=30

# Debian's package is of no use to another python3.
if ! python3 -c 'import jinja2' 2>/dev/null; then
    timeout 300 python3 -m pip install -q --disable-pip-version-check --target "$work/python" \
        jinja2 </dev/null >/dev/null 2>&1
    export PYTHONPATH=$work/python
fi
if ! python3 -c 'import jinja2' 2>/dev/null; then
    skipped templates "no python3 module jinja2 here, and pip cannot fetch it"
    exit 0
fi
python3 tests/check_templates.py "$render" "$sample"
if ! timeout 300 python3 -m pip download -q --no-deps --disable-pip-version-check -d "$work/wheel" \
    "$wheel" </dev/null >/dev/null 2>&1; then
    skipped published_templates "pip cannot fetch $wheel"
    exit 0
fi
python3 -m zipfile -e "$work"/wheel/*.whl "$work/wheel"
folder=$work/wheel/axolotl/utils/chat_templates/templates
count=$(find "$folder" -name '*.jinja' | wc -l)
if [ "$count" -lt "$least" ]; then
    not_ok published_templates "$wheel has $count templates, expected $least or more"
else
    python3 tests/check_templates.py "$render" "$folder"
fi
