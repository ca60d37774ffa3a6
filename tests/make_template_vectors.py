"""Writes tests/vectors/templates/constructs.jsonl: one construct of chat templates a line, with the
text that jinja2 makes of it (set up as in check_templates.py), or "error" where it raises, or
"syntax" where it does not compile.

    python3 tests/make_template_vectors.py >tests/vectors/templates/constructs.jsonl
"""
import json
import sys

import jinja2

from check_templates import environment

CONTEXT = {
    "messages": [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "Hi <|im_end|> it's \"me\"\n", "n": 1},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "f": {"x": 1.0}}]},
        {"role": "user", "content": [{"type": "text", "text": "Grüße 👍 漢字"}]},
    ],
    "tools": None,
    "words": ["pear", "Apple", "fig", "apple", "Fig"],
    "numbers": [3, 1, 2.5, -4, 0, True],
    "nested": {"b": [1, [2, {"c": None}]], "A": {"deep": "x"}, "a": ""},
    "text": "The quick brown fox",
    "lines": "one\ntwo\r\n\n  three\n",
    "unicode": "ßtraße İ ǆ ŉ ﬁ ΑΣ Σ όσος 漢字 👍\u00a0\u200b\u0007 é",
    "empty": [], "none": None, "yes": True, "zero": 0, "big": 18446744073709551616,
    "items": "shadows", "bos_token": "<s>",
}

TEMPLATES = r"""
{{ bos_token }}{{ missing }}|{{ none }}|{{ yes }}|{{ zero }}|{{ big }}
{{ 1 }} {{ -1 }} {{ 1.0 }} {{ 1e3 }} {{ 1e16 }} {{ 1.5e-7 }} {{ 0.1 + 0.2 }} {{ 1_000 }} {{ 0x1f }} {{ 0b11 }} {{ 0o17 }}
{{ 100000000000000000000.0 }} {{ 123456789.123456789 }} {{ 0.0001 }} {{ 0.00001 }} {{ -0.0 }} {{ 1e22 }} {{ 5e-324 }}
{{ 'a' "b" 'c\n\t\\\'\x41\u00e9\U0001F44D\101' }} {{ "\d \q" }} {{ 'é\'é' }}
{{ [1, 'a', "it's", '"', none, true, 1.5, [], {}, (), (1,), {'k': 'v', 2: 3}] }}
{{ ['\n\t\\', 'é漢👍', '\x00\x7f', "both ' and \""] }} {{ [unicode] }}
{{ nested }} {{ messages[2] }} {{ (1, 2) }} {{ () }} {{ {'a': [1]} }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2.0 ** 3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 7 % -3 }}
{{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 1 - 2 - 3 }} {{ 2 * 3 + 4 }} {{ 2 + 3 * 4 }} {{ (2 + 3) * 4 }} {{ 10 - -1 }} {{ +3 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 'a' + 1 }}
{{ 'a' + 'b' * 3 }} {{ [1] + [2] }} {{ [0] * 3 }} {{ 3 * 'x' }} {{ 'x' * -1 }} {{ (1,) + (2,) }}
{{ 1 ~ 'a' ~ none ~ 2.0 ~ [1] ~ missing ~ true }}
{{ 1 < 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 == 1.0 }} {{ true == 1 }} {{ '1' == 1 }} {{ none == false }} {{ [1] == [1.0] }} {{ (1,) == [1] }} {{ {'a': 1} == {'a': 1.0} }}
{{ 1 < 'a' }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 3 > 2 == 2 }} {{ 1 == 1 in [1] }} {{ 1 < 2 < 3 < 1 }} {{ 'a' < 'b' != 'c' and 1 }}
{{ 2 >= 2 }} {{ 2 <= 1 }} {{ 'b' > 'a' }} {{ 1 != 2 }} {{ missing == missing2 }} {{ missing == none }} {{ missing != '' }}
{{ 'quick' in text }} {{ 'x' not in text }} {{ 1 in numbers }} {{ 'a' in nested }} {{ 'z' in nested }} {{ '' in '' }} {{ 'r' in messages[0] }}
{{ 1 in text }}
{{ 1 in none }}
{{ 1 in missing }}
{{ not 1 }} {{ not '' }} {{ not not [] }} {{ 1 and 'a' }} {{ 0 or 'b' }} {{ '' and x.y }} {{ 1 or x.y }} {{ not 1 == 2 }} {{ none or [] or 'c' }}
{{ 'a' if yes }} {{ 'a' if zero }}| {{ 'a' if zero else 'b' }} {{ 'a' if 0 else 'b' if 1 else 'c' }}
{{ text[0] }} {{ text[-1] }} {{ text[4:9] }} {{ text[::-1] }} {{ text[:3] }} {{ text[-3:] }} {{ text[::2] }} {{ text[10:2:-2] }} {{ text[100:] }} {{ text[100] }}|
{{ unicode[0] }} {{ unicode[1:4] }} {{ unicode[::-1] }} {{ unicode|length }} {{ '漢字👍'[1] }} {{ '漢字👍'[-1:] }}
{{ numbers[1:] }} {{ numbers[::-1] }} {{ numbers[-2] }} {{ numbers[9] }}| {{ numbers['x'] }}| {{ (1,2,3)[:2] }} {{ words[1:-1] }} {{ words[:-1][0] }}
{{ text[::0] }}
{% set n = none %}{{ n[1:] }}
{{ missing[0] }}
{{ missing.x }}
{{ none.x }}| {{ none['x'] }}| {{ yes.x }}
{{ nested.A.deep }} {{ nested['A']['deep'] }} {{ nested.b[1][1].c }} {{ nested.nope }}| {{ nested.nope is defined }}
{{ nested.nope.more }}
{{ nested.items() }} {{ nested.keys() }} {{ nested.values() }} {{ nested.get('a') }} {{ nested.get('zz') }} {{ nested.get('zz', 5) }}
{{ nested['items'] is callable }} {{ {'items': 1}['items'] }} {{ {'items': 1}.items is callable }} {{ {'get': 2}.get('get') }}
{{ nested.pop('a') }}
{{ words.append('x') }}
{{ nested.update({}) }}
{{ words.append is defined }} {{ nested.clear is defined }}
{{ text.upper() }} {{ text.lower() }} {{ text.title() }} {{ 'aBC dEF'.capitalize() }} {{ "it's a dog's life".title() }}
{{ unicode.upper() }} | {{ unicode.lower() }} | {{ unicode.title() }} | {{ unicode.capitalize() }}
{{ unicode|upper }} | {{ unicode|lower }} | {{ unicode|title }} | {{ unicode|capitalize }}
{{ 'ΑΣ. ΣΑΣ Σ'.lower() }} {{ 'ĲSSEL ǆ'.capitalize() }} {{ 'ა Ა'.title() }} {{ 'ა'.upper() }}
{{ '  a b '.strip() }}|{{ '  a b '.lstrip() }}|{{ '  a b '.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcba'.strip('ab') }}|{{ '漢a漢'.strip('漢') }}|{{ '\u00a0\u2003x\x1f'.strip() }}
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }} {{ 'a b c'.split(None, 1) }} {{ ' a  b  c '.split(None, 1) }} {{ 'abc'.split('x') }} {{ ''.split() }} {{ ''.split(',') }}
{{ 'a,b,c'.rsplit(',', 1) }} {{ ' a  b  c '.rsplit(None, 1) }} {{ ' a  b  c '.rsplit() }} {{ 'aXXbXXc'.rsplit('XX') }} {{ 'a,b'.split(sep=',', maxsplit=0) }}
{{ 'a'.split('') }}
{{ lines.splitlines() }} {{ lines.splitlines(true) }} {{ 'a\x0bb\x1cc\x85d\u2028e'.splitlines() }}
{{ text.startswith('The') }} {{ text.endswith(('x', 'fox')) }} {{ text.startswith('quick', 4) }} {{ text.startswith('x') }} {{ text.endswith('') }}
{{ text.find('quick') }} {{ text.find('zzz') }} {{ text.rfind('o') }} {{ text.count('o') }} {{ text.index('brown') }} {{ '漢字漢'.find('字') }} {{ '漢字漢'.rfind('漢') }} {{ 'aaa'.count('') }}
{{ text.index('zzz') }}
{{ text.replace('quick', 'slow') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'abc'.replace('', '-') }} {{ 'abc'.replace('', '-', 2) }} {{ ''.replace('', 'x') }}
{{ ', '.join(words) }} {{ ''.join(['a', 'b']) }}
{{ ','.join([1]) }}
{{ 'k=v=w'.partition('=') }} {{ 'k=v=w'.rpartition('=') }} {{ 'k'.partition('=') }} {{ 'k'.rpartition('=') }}
{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.txt'.removesuffix('.txt') }} {{ 'x'.removeprefix('y') }}
{{ 'x'.center(5) }}|{{ 'ab'.center(5, '*') }}|{{ 'x'.ljust(3) }}|{{ 'x'.rjust(3, '0') }}|{{ '-7'.zfill(4) }}|{{ '7'.zfill(1) }}
{{ '12'.isdigit() }} {{ ''.isdigit() }} {{ ' \n'.isspace() }} {{ 'AB'.isupper() }} {{ 'a1'.islower() }} {{ '1'.islower() }}
{{ words.index('fig') }} {{ words.count('fig') }} {{ (1, 1).count(1) }}
{{ words.index('nope') }}
{{ 'a {} b {}'.format(1, 'x') }} {{ '{0} {1} {0}'.format('a', 'b') }} {{ '{x}!'.format(x=2) }} {{ '{{}}'.format() }} {{ '{:>5}|{:<5}|{:^5}'.format('a', 'b', 'c') }} {{ '{:.2f} {:d} {:05d} {:x}'.format(3.14159, 7, 42, 255) }}
{{ '{} {}'.format(1) }}
{{ '%s is %d and %.2f%%' % ('x', 3, 1.5) }} {{ '%s' % 'a' }} {{ '%5s|%-5s|%05d' % ('a', 'b', 42) }} {{ '%r' % 'q' }} {{ '%(a)s' % {'a': 1} }} {{ '%x' % 255 }}
{{ '%d' % 'x' }}
{{ '%s %s' % 'x' }}
{{ 'a' % 1 }}
{{ "%s-%s"|format('a', 2) }} {{ '%(k)s'|format(k='v') }}
{{ text|length }} {{ words|count }} {{ nested|length }} {{ missing|length }} {{ ''|length }}
{{ 5|length }}
{{ none|length }}
{{ '  x  '|trim }}|{{ 'xxaxx'|trim('x') }}|{{ none|trim }}|{{ 5|trim }}|{{ missing|trim }}
{{ 'abc'|upper }} {{ 5|upper }} {{ none|lower }} {{ 'hello wOrld-foo (bar [baz {q <r'|title }} {{ 'ABC'|capitalize }}
{{ missing|default('d') }} {{ ''|default('d') }}| {{ ''|default('d', true) }} {{ none|d('x') }} {{ none|d('x', true) }} {{ missing|default }}| {{ missing|default(default_value=3) }}
{{ words|join }} {{ words|join(', ') }} {{ [1, none, 'a', 2.5]|join('-') }} {{ messages|join('/', attribute='role') }} {{ 'abc'|join('.') }} {{ missing|join('x') }}|
{{ 5|join }}
{{ 'aXbX'|replace('X', '-') }} {{ 'aXbX'|replace('X', '-', 1) }} {{ 5|replace(5, 6) }}
{{ words|first }} {{ words|last }} {{ empty|first }}| {{ empty|last }}| {{ 'abc'|first }} {{ 'abc'|last }} {{ nested|first }} {{ missing|first }}|
{{ 'abc'|list }} {{ nested|list }} {{ (1, 2)|list }} {{ range(3)|list }} {{ missing|list }} {{ '漢字'|list }}
{{ 5|list }}
{{ 5|string }} {{ none|string }} {{ [1, 'a']|string }} {{ missing|string }}| {{ 1.0|string|length }}
{{ '42'|int }} {{ '4.7'|int }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ 3.9|int }} {{ '-0x1f'|int(0, 16) }} {{ ' 12 '|int }} {{ none|int }} {{ true|int }} {{ '1_000'|int }} {{ '0b11'|int(base=2) }} {{ ''|int }} {{ -3.9|int }}
{{ missing|int }}
{{ '1.5'|float }} {{ 'x'|float }} {{ 3|float }} {{ '1e3'|float }} {{ 'nan'|float }} {{ none|float }} {{ 'x'|float(2.5) }} {{ ' 7 '|float }} {{ 'inf'|float }}
{{ nested|tojson }} {{ text|tojson }} {{ none|tojson }} {{ true|tojson }} {{ [1, 2.0, 'é', "q\"\n\\"]|tojson }} {{ big|tojson }} {{ 1e400|tojson }} {{ 'x'|float|tojson }}
{{ nested|tojson(indent=2) }} {{ []|tojson(indent=2) }} {{ {}|tojson(indent=4) }} {{ [[], {}]|tojson(indent=1) }} {{ [1]|tojson(indent=0) }} {{ [1,[2]]|tojson(indent='\t') }}
{{ nested|tojson(ensure_ascii=true) }} {{ unicode|tojson(ensure_ascii=True) }} {{ unicode|tojson }} {{ '\x7f\x1f/'|tojson(true) }}
{{ {'b': 1, 'a': {'d': 1, 'c': 2}}|tojson(sort_keys=true) }} {{ [1, {'a': 2}]|tojson(separators=(',', ':')) }} {{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }} {{ (1, 2)|tojson }}
{{ missing|tojson }}
{{ range(3)|tojson }}
{{ nested.items()|tojson }}
{{ '<a href="x">&\''|e }} {{ '<'|escape|e }} {{ ('<'|safe) + '<' }} {{ '<'|safe }} {{ ('<'|e) ~ '<' }} {{ '<'|forceescape }} {{ 5|e }}
{{ nested|items|list }} {{ missing|items|list }}
{{ 5|items|list }}
{{ nested|dictsort }} {{ nested|dictsort(true) }} {{ {'a': 2, 'b': 1}|dictsort(by='value') }} {{ {'a': 2, 'b': 1}|dictsort(reverse=true) }}
{{ {'a': 1, 2: 3}|dictsort }}
{{ words|map('upper')|list }} {{ messages|map(attribute='role')|list }} {{ messages|map(attribute='n', default=0)|list }} {{ words|map('replace', 'p', 'b')|list }} {{ messages|map(attribute='nope.x', default='q')|list }} {{ none|map('upper')|list }}
{{ messages|map(attribute='nope.x')|list }}
{{ words|map('nope')|list }}
{{ words|map|list }}
{{ numbers|select|list }} {{ numbers|select('odd')|list }} {{ numbers|reject('none')|list }} {{ numbers|select('gt', 1)|list }} {{ words|select('in', ['fig'])|list }} {{ numbers|reject|list }} {{ numbers|select('divisibleby', 2)|list }}
{{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ messages|selectattr('n')|map(attribute='n')|first }} {{ messages|rejectattr('content')|list|length }} {{ messages|selectattr('tool_calls', 'defined')|list|length }} {{ messages|selectattr('content', 'string')|map(attribute='role')|join(',') }} {{ messages|rejectattr('role', 'in', ['user', 'system'])|map(attribute='role')|list }}
{{ messages|selectattr('role', 'equalto', 'user') is defined }} {{ (words|map('upper'))|first }}
{{ words|map('upper')|length }}
{{ (words|map('upper'))|last }}
{{ words|select('nope')|list }}
{{ words|reverse|list }} {{ 'abc'|reverse }} {{ nested|reverse|list }} {{ range(3)|reverse|list }}
{{ words|sort }} {{ words|sort(case_sensitive=true) }} {{ words|sort(reverse=true) }} {{ numbers|sort }} {{ messages|sort(attribute='role')|map(attribute='role')|list }} {{ [{'a': 1, 'b': 2}, {'a': 1, 'b': 1}]|sort(attribute='a,b') }} {{ 'banana'|sort }} {{ [[2, 'a'], [1, 'b']]|sort }}
{{ [1, 'a']|sort }}
{{ [none, 1]|sort }}
{{ words|unique|list }} {{ words|unique(true)|list }} {{ [1, 1.0, true, 2]|unique|list }} {{ messages|unique(attribute='role')|map(attribute='role')|list }}
{{ numbers|min }} {{ numbers|max }} {{ words|min }} {{ words|max }} {{ words|max(case_sensitive=true) }} {{ empty|min }}| {{ messages|max(attribute='role') }}
{{ numbers|sum }} {{ empty|sum }} {{ [{'v': 2}, {'v': 3}]|sum(attribute='v') }} {{ [1, 2]|sum(start=10) }} {{ [[1], [2]]|sum(start=[]) }}
{{ words|sum }}
{{ lines|indent }}|{{ lines|indent(2, true) }}|{{ lines|indent(2, blank=true) }}|{{ lines|indent('> ', first=true) }}|{{ ''|indent }}|{{ 'a'|indent(width=1, first=True) }}
{{ -5|abs }} {{ (-5)|abs }} {{ (-2.5)|abs }} {{ true|abs }}
{{ 'x'|abs }}
{{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 42.55|round(1, 'floor') }} {{ 42.51|round(method='ceil') }} {{ 7|round }} {{ 1234.5|round(-2) }} {{ 7|round(1, 'ceil') }}
{{ range(7)|batch(3)|list }} {{ range(7)|batch(3, 'x')|list }} {{ range(7)|slice(3)|list }} {{ range(7)|slice(3, '-')|list }} {{ empty|batch(2)|list }}
{{ text|truncate(9) }} {{ text|truncate(9, true) }} {{ text|truncate(16) }} {{ text|truncate(5, false, '…', 0) }} {{ text|truncate(255) }}
{{ 'a b/c?d=é&'|urlencode }} {{ 'x'|center(5) }}| {{ nested|attr('A') }}|
{{ missing is defined }} {{ missing is undefined }} {{ none is none }} {{ none is not none }} {{ yes is boolean }} {{ 1 is boolean }} {{ yes is true }} {{ 1 is true }} {{ zero is false }} {{ false is false }} {{ missing is none }}
{{ 1 is number }} {{ 1.0 is number }} {{ true is number }} {{ '1' is number }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is integer }} {{ 1.0 is float }} {{ 1 is float }} {{ big is number }} {{ big is integer }}
{{ 'a' is string }} {{ 1 is string }} {{ nested is mapping }} {{ [] is mapping }} {{ [] is sequence }} {{ 'a' is sequence }} {{ nested is sequence }} {{ 1 is sequence }} {{ missing is sequence }} {{ nested.keys() is sequence }} {{ range(2) is sequence }} {{ none is sequence }}
{{ [] is iterable }} {{ 'a' is iterable }} {{ 1 is iterable }} {{ none is iterable }} {{ missing is iterable }} {{ nested.items() is iterable }} {{ words|map('upper') is iterable }}
{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 3 is eq 3 }} {{ 3 is equalto(4) }} {{ 3 is ne 4 }} {{ 3 is == 3 }}
{{ 'a' is odd }}
{{ 3 is gt 2 }} {{ 3 is ge(3) }} {{ 3 is lt 2 }} {{ 3 is le 3 }} {{ 3 is greaterthan(1) }} {{ 3 is lessthan(1) }} {{ 3 is in [1, 3] }} {{ 3 is not in [1] }} {{ 'a' is in 'abc' }}
{{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 'Abc' is lower }} {{ range is callable }} {{ text is callable }} {{ text.upper is callable }} {{ none is sameas none }} {{ 'upper' is filter }} {{ 'nope' is filter }} {{ 'odd' is test }} {{ ('<'|e) is escaped }}
{{ not missing is defined }} {{ missing is not defined and 1 }} {{ 1 is number and 'a' is string }} {{ 'x' if missing is defined else 'y' }} {{ messages[0].role is defined and messages[0].role == 'system' }}
{{ range(5)|list }} {{ range(2, 5)|list }} {{ range(5, 0, -2)|list }} {{ range(0)|list }} {{ range(3) }} {{ range(1, 9, 2) }} {{ range(5)[1:3]|list }} {{ range(4)[-1] }}
{{ range(1000000) }}
{{ range(1, 2, 0) }}
{{ range('a') }}
{{ dict(a=1, b=2) }} {{ dict([('x', 1)]) }} {{ dict({'a': 1}, b=2) }} {{ dict(**{'q': 1}) }} {{ dict() }}
{{ raise_exception('No ' ~ 1 ~ ' way') }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %j %a %b %p %% %d %B') }} {{ strftime_now("%d %b %Y") }} {{ strftime_now('%-d') }}
{% if yes %}a{% elif zero %}b{% else %}c{% endif %}{% if zero %}a{% elif yes %}b{% else %}c{% endif %}{% if zero %}a{% elif none %}b{% else %}c{% endif %}{% if zero %}x{% endif %}
{% for w in words %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ w }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }};{% endfor %}
{% for w in empty %}{{ w }}{% else %}nothing{% endfor %}{% for w in words %}{{ w }}{% else %}nothing{% endfor %}{% for x in missing %}x{% else %}none{% endfor %}
{% for x in none %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a }}-{{ b }} {% endfor %}{% for k, v in nested.items() %}{{ k }}={{ v }} {% endfor %}{% for (a, b) in [[1, 2]] %}{{ a }}{{ b }}{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for w in words if w|length > 3 %}{{ loop.index }}/{{ loop.length }}{{ w }}{{ loop.last }} {% endfor %}{% for w in words if w == 'zz' %}{{ w }}{% else %}none{% endfor %}{% for w in words if w != 'fig' %}{{ w }}{% endfor %}
{% for n in numbers %}{% if n == 2.5 %}{% continue %}{% endif %}{% if n == 0 %}{% break %}{% endif %}{{ n }},{% endfor %}
{% for n in numbers %}{% continue %}{% else %}else{% endfor %}{% for n in numbers %}{% break %}{% else %}else{% endfor %}{% for n in numbers %}{% if loop.last %}{% break %}{% endif %}{% else %}else{% endfor %}
{% for a in [1, 2] %}{% for b in [3, 4] %}{{ a }}{{ b }}{{ loop.index }}{{ loop.first }} {% if b == 3 and a == 2 %}{% break %}{% endif %}{% endfor %}{{ loop.index }};{% endfor %}
{% for a in 'xyz' %}{{ loop.cycle('odd', 'even') }}{{ loop.changed(a == 'x') }} {% endfor %}
{% for x in [1] %}{% set y = 5 %}{{ y }}{% endfor %}{{ y }}|{% set z = 1 %}{% for x in [1, 2] %}{{ z }}{% set z = z + 10 %}{{ z }} {% endfor %}{{ z }}
{% set x = 1 %}{% if yes %}{% set x = 2 %}{% endif %}{{ x }}{% if yes %}{% set q = 3 %}{% endif %}{{ q }}{% if zero %}{% set text = 'no' %}{% endif %}{{ text }}
{{ text }}{% set text = 'mine' %}{{ text }}{% for i in [1] %}{{ text }}{% endfor %}
{% for i in [1] %}{{ text }}|{% endfor %}{% set text = 'mine' %}{{ text }}
{% set text = text ~ '!' %}{{ text }}{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}{% set t = 1, 2 %}{{ t }}
{% set ns = namespace(n=0, s='') %}{% for i in [1, 2, 3] %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }}{{ ns.s }}{{ ns.zzz }}|{{ ns.zzz is defined }}{% set ns.new = [1] %}{{ ns.new }} {{ namespace({'a': 1}, b=2).a }}
{% set d = {'a': 1} %}{% set d.a = 2 %}
{% set nope.a = 2 %}
{% set block %}a{{ 1 }}b{% endset %}[{{ block }}]{% set up | upper %}abc{{ text }}{% endset %}{{ up }}{% set t | trim | length %}  ab {% endset %}{{ t }}
{% for i in [1, 2] %}{% set b %}{{ loop.index }}{% endset %}{{ b }}{% endfor %}{{ b }}|
{% macro m(a, b='B', c=none) %}[{{ a }},{{ b }},{{ c }}]{% endmacro %}{{ m() }}{{ m(1) }}{{ m(1, 2, 3) }}{{ m(c=3, a=1) }}{{ m(1, c=[2]) }}{{ m.name }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}
{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}{{ m() }}{% macro k(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ k(1) }}{{ k('x', 'y') }}
{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(5) }}
{% macro outer() %}{% set inner_value = 'i' %}{% macro inner(x) %}{{ x }}{{ inner_value }}{{ late }}{% endmacro %}{{ inner(1) }}{% endmacro %}{% set late = 'L' %}{{ outer() }}{{ inner is defined }}
{% macro show() %}{{ v }}{% endmacro %}{% set v = 1 %}{{ show() }}{% set v = 2 %}{{ show() }}{% for i in [7] %}{% set v = i %}{{ show() }}{{ v }}{% endfor %}
{% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}
{% macro wrap(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro %}{% call wrap('b') %}body {{ text }}{% endcall %}{% macro each(list) %}{% for i in list %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(x) each([1, 2]) %}<{{ x }}>{% endcall %}{% call wrap(tag='i') %}kw{% endcall %}
{% macro m() %}{% if caller %}yes{% else %}no{% endif %}{% endmacro %}{{ m() }}{% call m() %}{% endcall %}
{% macro m() %}x{% endmacro %}{% call m() %}{% endcall %}
{% generation %}said {{ text }}{% endgeneration %}{% for m in messages[:2] %}{% generation %}{{ m.role }}{% set q = 1 %}{% endgeneration %}{{ q }}{% endfor %}
{% filter upper %}shout {{ text }}{% endfilter %}{% filter replace('a', 'b') | upper %}banana{% endfilter %}
{% with a = 1, b = text %}{{ a }}{{ b }}{% set c = 3 %}{{ c }}{% endwith %}{{ a }}{{ c }}|{% with %}x{% endwith %}{% set a = 5 %}{% with a = a + 1, b = a %}{{ a }}{{ b }}{% endwith %}
{# a comment {{ 1 }} #}x{#- y -#} z {% raw %}{{ raw }} {% if %}{% endraw %}{%- raw -%}  a  {%- endraw -%} b
{{ {'a': {'b': [1, {'c': 2}]}}.a.b[1].c }} {{ [1, 2, 3,] }} {{ {'a': 1,} }} {{ (1, 2,) }} {{ "a" in ["a",] }}
{{ words[0].upper()[1:]|lower ~ '!' }} {{ (words|first).upper() }} {{ words|map('upper')|join(' ')|replace(' ', '_') }} {{ 'a,b'.split(',')[-1].strip() }} {{ words.0 }} {{ nested.b.1.0 }}
{{ messages|tojson }} {{ messages[1]|tojson(indent=4) }} {{ messages[3].content[0].text }} {{ messages[-1]['content'][0]['text'][::-1] }}
{{ 1 if 1 is defined else 2 }} {{ -1 ** 2 }} {{ not a is defined }} {{ 'a' ~ 1 + 2 }} {{ 1 + 1 ~ 'x' }} {{ 'a' == 'a' and 'b' in 'abc' or false }}
{{ loop }}|{{ loop.index }}
{{ missing() }}
{{ text() }}
{{ text.nope() }}
{{ messages[0].content.strip().split()[0] }} {{ messages[1].content|trim|length }} {{ messages[0]['role'] + ': ' + messages[0]['content']|trim }}
{{ [1, 2] | map('string') | join('+') }} {{ ['b', 'a'] | sort | first }} {{ {'x': 1} | items | first }} {{ words | select('equalto', 'fig') | list | length > 0 }}
{{ 'abc' is string and 'abc' is not mapping }} {{ 5 is odd or false }} {{ (5 is odd) ~ '' }}
{{ 3 * (2 + 1) - 4 / 2 }} {{ 10 // 3 * 3 + 10 % 3 }} {{ 1.5 + 1 }} {{ 3.0 * 2 }} {{ 9007199254740993 }} {{ 1e15 }} {{ 123456.789e3 }} {{ 1.0e-5 }} {{ 3.14159265358979 }}
{{ true + 1 }} {{ true and 1 }} {{ none is none }} {{ True }} {{ None }} {{ False }} {{ [True, None] }}
{% if
{{ 1
{{ }}
{{ 1 + }}
{{ 'a }}
{% if x %}
{% for x in y %}{% endif %}
{% endif %}
{% nope %}
{{ x|nope }}
{{ x is nope }}
{% set 1 = 2 %}
{% set loop = 2 %}{% for loop in [] %}{% endfor %}
{{ (1 }}
{{ [1) }}
{# never ends
{% raw %}x
{% macro m(a=1, b) %}{% endmacro %}
{% break %}
{{ a.1.2 }} {{ x y }}
{{ 'a' 5 }}
{{ f(a=1, 2) }}
""".strip("\n").split("\n")

MULTILINE = [
    "{% if yes %}\n  a\n{% endif %}\nb\n",
    "  {% if yes %}\n  a\n  {% endif %}\n  b  {% if yes %}c{% endif %}\n\n",
    "x\n  {%- if yes -%}  \n  a  \n  {%- endif +%}\n  b\n",
    "x  {%+ if yes %}\n  a\n    {%+ endif %}\nb",
    "a\n    {{ 1 }}\n    {{- 2 -}}\n   c   {# d #}\n   {# e #}\n  f\n",
    "a\n  {#- c -#}  \n b {#+ d +#}\n e",
    "{{ 1 }}\n{{ 2 }}\n\n",
    "line\r\nother\rlast\r\n",
    "{% for m in messages %}\n    {{ m.role }}\n{% endfor %}\nend\n",
    "{%- for m in messages %}\n    {{- m.role }}\n{%- endfor %}\nend\n",
    "{% set x %}\n  in {{ 1 }}\n{% endset %}\n[{{ x }}]\n",
    "{% raw %}\n  {{ a }}\n{% endraw %}\nb",
    "  {% raw %}  x  {% endraw %}  \n  y",
    "  {%- raw %}\n a {% endraw -%}\n  y",
    "{{ '\n' }}{{ 'a\\\nb' }}{{ 'c\r\nd' }}|",
    "{{\n  text\n  |upper\n}}\n{%\n if yes\n%}\nq\n{%\nendif\n%}\n",
    "{% macro m(x) %}\n  ({{ x }})\n{% endmacro %}\n{{ m(1) }}\n{{- m(2) }}\n",
    "\n\n{% if yes %}\n\n\na\n{% endif %}\n",
    "\u00a0 {% if yes %}a{% endif %}\n\u00a0{%- if yes %}b{% endif %}\u2003{%- if yes %}c{% endif %}",
    "{{ 1 }}  {%- if yes %}  a{% endif %}  {{- 2 }}",
    "{% if yes %}{% endif %}\n   {% if yes %}x{% endif %}",
    "a{{ '{{' }}b{{ '%}' }}c { % } {  { }} %} #}",
    "{%if yes%}a{%else%}b{%endif%}{{text|upper}}{{-1}}{{- -1}}{%-if yes-%} x {%-endif-%}",
    "",
    "\n",
    "\n\n",
    "   ",
]


def vector(env, source):
    row = {"template": source}
    try:
        template = env.from_string(source)
    except SyntaxError: # Python's own: break outside of a loop
        return {**row, "syntax": True}
    except jinja2.TemplateSyntaxError:
        return {**row, "syntax": True}
    try:
        row["text"] = template.render(**CONTEXT)
    except Exception:
        row["error"] = True
    return row


def main():
    env = environment()
    print(json.dumps({"context": json.dumps(CONTEXT)}))
    for source in TEMPLATES + MULTILINE:
        print(json.dumps(vector(env, source)))


if __name__ == "__main__":
    sys.exit(main())
