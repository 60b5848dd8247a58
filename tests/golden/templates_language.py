"""Small templates of our own that cover the language; templates.py writes what Jinja2 makes of them."""

SAMPLE = {
    "name": "Ada", "n": 7, "x": 2.5, "yes": True, "nothing": None, "items": [3, 1, 2], "words": ["pear", "Apple", "fig"],
    "d": {"b": 1, "A": 2, "items": [1]}, "rows": [{"k": "a", "v": 1}, {"k": "b", "v": 2}, {"k": "a", "v": 3}], "text": " a b  c\n",
}

OUTPUTS = [
    # printing
    "name", "n", "x", "yes", "nothing", "items", "d", "undefined_name", "[1, 'a', \"it's\", None, True, 1.0, {'k': (1,)}]", "(1, 2)", "()", "1e16", "1e15",
    "0.0001", "1e-5", "1.0 * 3", "100000000000000000000.0", "-0.0", "1.1e300", "'\\u00e9\\x41\\n\\t\\q'", "['\\n\\t\\\\', 'é', '\\x00', '\\u200b']", "'a' 'b'",
    # arithmetic
    "1 + 2 * 3", "7 / 2", "7 // 2", "-7 // 2", "-7 % 3", "7 % -3", "2 ** 10", "2 ** -1", "7.5 // 2", "-7.5 % 2", "1 / 0", "1 % 0", "'a' * 3", "[1] * 2", "'a' + 1",
    "'a' + 'b'", "[1] + [2]", "1 ~ 'a' ~ none ~ 2.0", "1 + true", "-n", "+n", "-'a'", "nothing + 1", "undefined_name + 1", "2 ** 3 ** 2", "1 - 2 - 3", "10 / 2 * 3",
    "0x1F", "0b101", "0o17", "1_000",
    # comparison
    "1 < 2 < 3", "1 < 3 < 2", "1 == 1.0", "true == 1", "'a' < 'b'", "'a' < 1", "[1, 2] < [1, 3]", "none == undefined_name", "undefined_name == other_undefined",
    "1 in items", "9 not in items", "'d' in d", "'b' in d", "'da' in name", "1 in 'abc'", "'x' in nothing", "'x' in undefined_name", "[1] in d", "not n", "n and name",
    "nothing or 'x'", "0 or '' or none", "d == {'A': 2, 'b': 1, 'items': [1]}", "(1, 2) == [1, 2]",
    # conditions
    "'a' if yes else 'b'", "'a' if nothing", "'a' if nothing else 'b' if n > 3 else 'c'", "(1 if yes) is defined",
    # members
    "d.b", "d['A']", "d.missing", "d.missing.more", "d['items']", "d.get('b')", "d.get('z', 5)", "d.get('z')", "items[0]", "items[-1]", "items[9]",
    "items.0", "name[0]", "name[5]", "nothing.x", "name.x", "undefined_name.x", "items[1:]", "items[::-1]", "name[::2]", "name[-2:]", "name[10:]", "items[:-1]",
    "'héé'[1:]", "'héé'[1]", "items[::0]", "d[1:]", "d.keys()[1:]", "n[1:]", "items['a']", "nothing[1:]", "n.x", "items[1:2, 0]", "d[none]", "'abcdef'[4:1:-2]", "'abc'[-100:100]", "items[none:2]",
    # tests
    "n is defined", "undefined_name is defined", "undefined_name is undefined", "nothing is none", "name is string", "d is mapping", "items is sequence", "d is sequence",
    "d.items() is sequence", "undefined_name is sequence", "items is iterable", "n is iterable", "undefined_name is iterable", "n is number", "yes is number",
    "yes is integer", "yes is boolean", "x is float", "n is odd", "n is even", "n is divisibleby 7", "n is divisibleby(3)", "name is equalto 'Ada'", "n is gt 3", "n is eq 7",
    "n is in items", "'A' is upper", "'a' is lower", "n is not none", "yes is true", "nothing is false", "n is sameas 7", "n is callable", "range is callable",
    "name is not string and n", "n is unknown_test", "'upper' is filter", "'odd' is test", "name is defined and name is string", "n is le 7",
    # string methods
    "text.strip()", "text.lstrip() | length", "text.rstrip() | length", "'xxaxx'.strip('x')", "text.split()", "'a,b,c'.split(',')", "'a,b,c'.split(',', 1)",
    "'a,b,c'.rsplit(',', 1)", "'a b c'.split(maxsplit=1)", "'a b c '.rsplit(none, 1)", "''.split(',')", "''.split()", "'abc'.startswith('ab')",
    "'abc'.endswith(('x', 'c'))", "'abc'.startswith('b', 1)", "'a-b'.replace('-', '+')", "'aaa'.replace('a', 'b', 2)", "'abc'.replace('', '-')", "'ab'.upper()",
    "'ÀÉß'.lower()", "'straße'.upper()", "'ΣΟΦΟΣ'.lower()", "'hello wORLD'.title()", "\"they're\".title()", "'hello wORLD'.capitalize()", "'-'.join(words)",
    "'-'.join(items)", "'abcb'.find('b')", "'abcb'.rfind('b')", "'abc'.find('z')", "'abc'.index('z')", "'éb'.find('b')", "'abcb'.count('b')", "'a\\nb\\r\\nc'.splitlines()",
    "'a\\nb'.splitlines(true)", "'abc'.removeprefix('a')", "'abc'.removesuffix('c')", "'a=b=c'.partition('=')", "'a=b=c'.rpartition('=')", "'7'.zfill(3)", "'-7'.zfill(4)",
    "'a'.center(4, '*')", "'ab'.center(5, '*')", "'a'.ljust(3) ~ '|'", "'a'.rjust(3)", "'12'.isdigit()", "'ab'.isalpha()", "''.isalpha()", "'a1'.isalnum()", "' '.isspace()",
    "'Ab'.swapcase()", "'{} {}'.format(1, 'a')", "'{0} {x}'.format(1, x=2)", "'{:>5}|{:<5}|{:^5}'.format('a', 'b', 'c')", "'{:.2f} {:,} {:05d} {:x}'.format(3.14159, 1234567, 42, 255)",
    "'{{}}'.format()", "'{a.b[0]}'.format(a={'b': [5]})", "'%s is %d' % ('a', 3)", "'%.2f|%5s|%-5s|%05d|%x' % (3.14159, 'a', 'b', 42, 255)", "'%s' % name", "'%(a)s' % {'a': 1}",
    "'%s %s' % ('a',)", "'%s' % ('a', 'b')", "'%%'", "'%r' % 'a'", "'abc'.nothing()", "''.join([])",
    # dict and list methods
    "d.items() | list", "d.keys() | list", "d.values() | list", "d.keys()", "d.items()", "items.count(1)", "items.index(2)", "items.index(9)", "items.append(4)", "d.update({'a': 1})",
    "d.pop('b')", "items.append is defined", "d.copy()",
    # filters
    "name | upper", "name | lower", "'a-b c'|title", "'hELLO'|capitalize", "text|trim", "'xax'|trim('x')", "items|length", "undefined_name|length", "n|length", "items|first", "items|last",
    "[]|first", "name|first", "items|join", "items|join(', ')", "rows|join(',', attribute='k')", "undefined_name|default('z')", "nothing|default('z')", "''|default('z', true)",
    "undefined_name|d", "items|sort", "items|sort(reverse=true)", "words|sort", "words|sort(case_sensitive=true)", "rows|sort(attribute='v', reverse=true)|map(attribute='v')|list",
    "[1, 'a']|sort", "d|dictsort", "d|dictsort(true)", "d|dictsort(by='value', reverse=true)", "{'a': 2, 'b': 1}|dictsort(by='value')", "d|items|list", "undefined_name|items|list",
    "rows|selectattr('k', 'equalto', 'a')|map(attribute='v')|list", "rows|rejectattr('k', '==', 'a')|list", "rows|selectattr('missing')|list", "rows|selectattr('v')|list|length",
    "[0, 1, none, 'a']|select|list", "[0, 1, 2]|reject('odd')|list", "items|select('gt', 1)|list", "words|map('upper')|list", "words|map('replace', 'p', 'b')|join(' ')",
    "rows|map(attribute='z', default='-')|list", "items|map('unknown_filter')|list", "['a', 'A', 'b']|unique|list", "['a', 'A']|unique(true)|list", "rows|unique(attribute='k')|list",
    "items|reverse|list", "name|reverse", "items|sum", "rows|sum(attribute='v')", "words|sum", "items|min", "items|max", "words|max", "[]|max", "rows|max(attribute='v')",
    "items|batch(2)|list", "items|batch(2, 0)|list", "range(7)|slice(3)|list", "'3'|int", "'3.7'|int", "'x'|int", "'x'|int(5)", "'ff'|int(base=16)", "'0x1F'|int(0, 16)", "3.9|int", "' 4_2 '|int",
    "'3.5'|float", "'x'|float", "3|float", "-3|abs", "2.567|round(2)", "2.5|round", "3.5|round", "2.5|round(method='ceil')", "2.1|round(0, 'floor')", "7|round", "1.005|round(2)", "n|string ~ 1",
    "'a\\nb'|indent", "'a\\n\\nb'|indent(2)", "'a\\nb'|indent(2, true)", "'a\\n\\nb'|indent(2, blank=true)", "'a\\nb'|indent('> ')", "'<a>'|escape", "'<a>'|e ~ '<b>'", "'<a>'|safe", "('<a>'|safe) + '<b>'",
    "'<b>' + ('<a>'|safe)", "'%s-%s'|format('a', 2)", "'a b c'|wordcount", "'abcdefghij'|truncate(5)", "'abc def ghi jkl'|truncate(9)", "'abc def ghi jkl'|truncate(9, true)", "items|list", "'ab'|list",
    "d|list", "n|list", "name|replace('A', 'B')", "123|replace(2, 'x')", "rows|groupby('k')|list", "name|attr('upper') is callable", "d|attr('b')", "nothing|upper", "undefined_name|trim",
    "items|unknown_filter", "yes and (items|unknown_filter if false)", "'a'|center(5) ~ '|'", "[3, [1]]|join('-')", "items|map('string')|join", "'x'|default", "('a', 'b')|join",
    # tojson
    "d|tojson", "items|tojson", "'é\"\\\\\\n\\x01/<'|tojson", "'é😀\\x7f'|tojson(ensure_ascii=true)", "d|tojson(indent=2)", "[]|tojson(indent=2)", "{'a': {}, 'b': []}|tojson(indent=1)", "d|tojson(sort_keys=true)",
    "d|tojson(separators=(',', ':'))", "d|tojson(indent=2, separators=(',', ': '))", "[1.0, 1e20, none, true]|tojson", "{1: 2, none: 3, true: 4}|tojson", "undefined_name|tojson", "(1, 2)|tojson", "range(3)|tojson",
    "d.items()|tojson", "d|tojson(indent='--')", "rows|map(attribute='k')|tojson",
    # globals
    "range(4)|list", "range(1, 9, 3)|list", "range(3, 0, -1)|list", "range(5)|length", "range(3)[1]", "range(0)|list", "range(1, 2, 0)", "range('a')", "dict(a=1, b=2)", "dict({'a': 1}, b=2)",
    "namespace(a=1).a", "namespace({'a': 1}).a", "namespace(_a=1)", "strftime_now('%d %b %Y, %A %H:%M:%S %j %-d')", "raise_exception('no')", "undefined_function()", "n()", "range(200000)|length",
    # calls
    "dict(*[{'a': 1}], **{'b': 2})", "d.get(*['b'])", "'{a}'.format(**{'a': 1})", "d.get(key='b')", "name.upper(1)",
    # syntax errors
    "1 +", "(1", "[1, 2", "{'a' 1}", "1 if", "'abc", "a b", "1 is", "d.", "f(a=1, 2)", "f(**a, *b)", "@", "n is odd is even", "-", "x | ", "]", "a.b.", "1 in", "not",
]

TEMPLATES = [
    "plain text", "", "\n", "a\n", "a\n\n", "{{ 1 }}\n", "a {# comment #} b", "a {#- comment -#} b", "{# open", "{{ 1", "{% if 1", "{% if 1 %}", "{% endif %}", "{% unknown %}", "{%%}", "}} %} #}",
    "{% if n > 3 %}\n  yes\n{% else %}\n  no\n{% endif %}\nend", "  {% if n %}\n  x\n  {% endif %}\n  y", "a  {%- if n %}  b  {%- endif -%}  c", "  {%+ if n %}x{% endif %}", "{% if n %}x{% endif +%}\ny",
    "a\n  {{- n }}\n  {{ n -}}\n b", "  {# c #}\n  x", "a {# c #}\nb", "\t{% set a = 1 %}\n\t{{ a }}", "{% raw %}{{ x }} {% if %}{% endraw %}", "a {%- raw -%}  {{ x }}  {%- endraw -%} b", "  {% raw %}\n x\n  {% endraw %}\n y",
    "{{ '}}' }}", "{{ {'a': {'b': 1}} }}", "{{ '{%' }}", "a\r\nb\rc", "{{+ n }}", "{{-1 }}", "{% if 0 %}a{% elif 1 %}b{% elif 1 %}c{% else %}d{% endif %}", "{%if n%}a{%endif%}",
    "{% for i in items %}{{ i }},{% endfor %}", "{% for i in [] %}x{% else %}empty{% endfor %}", "{% for i in items if i > 1 %}{{ loop.index }}:{{ i }} {% else %}none{% endfor %}",
    "{% for i in items %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.previtem }}{{ loop.nextitem }}|{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|dictsort %}{{ k }}{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for c in name %}{{ c }}-{% endfor %}", "{% for a, b in [1, 2] %}{% endfor %}",
    "{% for a, b in [[1, 2], [3, 4]] %}{{ a + b }} {% endfor %}", "{% for a, (b, c) in [[1, [2, 3]]] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a in nothing %}{% endfor %}", "{% for a in undefined_name %}x{% else %}e{% endfor %}",
    "{% for a in 5 %}{% endfor %}", "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{% break %}", "{% for i in items %}{% for j in items %}{% break %}{% endfor %}{{ i }}{% endfor %}",
    "{% for i in items %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}", "{% for i in items %}{% for j in items %}{{ loop.depth }}{% endfor %}{% endfor %}",
    "{% for i in items %}{% set y = i %}{% endfor %}{{ y }}", "{% set y = 0 %}{% for i in items %}{% set y = y + i %}{{ y }} {% endfor %}{{ y }}", "{% set ns = namespace(t=0) %}{% for i in items %}{% set ns.t = ns.t + i %}{% endfor %}{{ ns.t }}",
    "{% set ns = namespace(stop=false) %}{% for i in items if not ns.stop %}{{ i }}{% set ns.stop = true %}{% endfor %}", "{% for i in items if loop %}{{ i }}{% endfor %}", "{% for i in items %}{{ loop.missing }}{% endfor %}",
    "{% for i in items if i != 1 %}{{ loop.length }}{{ loop.last }}{{ loop.nextitem }} {% endfor %}", "{% for x in x %}{% endfor %}", "{% for items in items %}{{ items }}{% endfor %}{{ items }}",
    "{% set a = 1 %}{% if 1 %}{% set a = 2 %}{% endif %}{{ a }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = [1] %}", "{% set a = 1, 2 %}{{ a }}", "{% set x %}a{{ n }}b{% endset %}{{ x }}", "{% set x | upper | replace('A', 'z') %}a{{ n }}b{% endset %}{{ x }}",
    "{% set name.x = 1 %}", "{% set undefined_name.x = 1 %}", "{% set true = 1 %}", "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns['a'] }}{{ ns.b }}{{ ns }}", "{% set ns = namespace() %}{% set ns._a = 1 %}", "{% set ns = namespace() %}{% set ns.a, b = 1, 2 %}{{ ns.a }}{{ b }}",
    "{% set a = items %}{% set a = a + [4] %}{{ a }}{{ items }}", "{% set x = 1 %}{% set y %}{% set x = 2 %}{{ x }}{% endset %}{{ x }}{{ y }}",
    "{% macro f(a, b=2) %}{{ a }}-{{ b }};{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(b=1, a=0) }}", "{% macro f(a, b=2) %}{{ a }}{% endmacro %}{{ f() }}|", "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{% endmacro %}{{ f(z=2) }}",
    "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, a=3) }}", "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(4) }}", "{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 2) }}",
    "{% macro f() %}{{ n }}{{ later }}{% endmacro %}{% set later = 'L' %}{{ f() }}", "{% macro f() %}{{ i }}{% endmacro %}{% for i in items %}{{ f() }}{% endfor %}", "{% macro f(x) %}[{{ x }}]{{ caller() }}{% endmacro %}{% call f(1) %}body {{ n }}{% endcall %}",
    "{% macro f() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) f() %}{{ a + b }}{% endcall %}", "{% macro f() %}x{% endmacro %}{% call f() %}y{% endcall %}", "{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}", "{% macro f(a=1, b) %}{% endmacro %}", "{{ f }}{% macro f() %}{% endmacro %}",
    "{% macro f() %}a{% endmacro %}{{ f() + 'b' }}{{ f()|upper }}{{ f() is string }}", "{% if n %}{% macro f() %}in{% endmacro %}{% endif %}{{ f() }}", "{% macro f() %}{% set z = 1 %}{% endmacro %}{{ f() }}{{ z }}", "{% macro f(items) %}{{ items }}{% endmacro %}{{ f([0]) }}{{ items }}",
    "{% macro f() %}{% for i in items %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% endfor %}{% endmacro %}{{ f() }}", "{% for i in items %}{% macro f() %}{{ i }}{% endmacro %}{{ f() }}{% endfor %}", "{% for i in items %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}",
    "{% filter upper %}a{{ name }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}banana{% endfilter %}", "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}", "{% generation %}a{{ n }}{% endgeneration %}b",
    "{% generation %}{% set q = 1 %}{% endgeneration %}{{ q }}", "{% for i in items %}{% generation %}{{ i }}{% endgeneration %}{% endfor %}", "{% for i in items %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% if false %}{{ n|unknown_filter }}{% endif %}ok", "{% for i in [] %}{{ n|unknown_filter }}{% endfor %}ok", "{% if false %}{{ n is unknown_test }}{% endif %}ok", "{% if true %}{{ n|unknown_filter }}{% endif %}", "{% if false %}{% for i in items %}{{ n|unknown_filter }}{% endfor %}{% endif %}ok",
    "{% set a = rows|selectattr('k', 'eq', 'a') %}{{ 'y' if a else 'n' }}{{ a|list|length }}{{ a|list|length }}", "{% set a = rows|selectattr('k', 'eq', 'z') %}{{ 'y' if a else 'n' }}", "{{ (rows|selectattr('v', 'gt', 1)|first).v }}", "{{ (rows|selectattr('v', 'gt', 1))[0] }}",
    "{{ rows|map(attribute='v')|length }}", "{% if n is defined and n %}a{% endif %}{% if not undefined_name %}b{% endif %}", "{{ 1, 2 }}", "{{ }}", "{% set %}", "{% for %}{% endfor %}", "{% if %}{% endif %}", "{% else %}",
    "{% set a = 'x' if yes else 'y' %}{{ a }}", "{% if 'a' in d or n == 7 and not yes %}a{% else %}b{% endif %}", "{{ not yes and no }}|{{ not (yes and no) }}", "{{ a.b.c }}", "{{ d.b.c }}|", "{{ d.b.c.e }}", "{{ items|map('string')|map('upper')|join('') }}",
    "{%- for r in rows -%}\n  {%- if not loop.first %}, {% endif -%}\n  {{ r.k }}\n{%- endfor -%}\n", "{{ 'a' ~ ('<b>'|safe) ~ '<c>' }}{{ ('<b>'|safe) ~ '<c>' }}", "{{ \"a\\\nb\" }}", "{{ 'multi\nline' }}", "{{ n }}{{ x }}{#c#}{{ yes }}", "{% set s = 'ab' %}{{ s[0] }}{{ s[1:] + s[:1] }}",
]

LANGUAGE = ["{{ " + source + " }}" for source in OUTPUTS] + TEMPLATES
