"""Makes the expectations of src/text/template_golden_test.cpp with Jinja2, set up as transformers sets it up.

    python tests/golden/templates.py FOLDER_WITH_JINJA_FILES

writes tests/data/templates/conversations.json (what is rendered) and tests/data/templates/expected.json: for each template and
conversation "error", or the length in bytes and the start of the SHA-256 of the text. The templates themselves are not ours to
publish; the test reads them from where they are and skips without them. With --show TEMPLATE CASE the text itself is printed.
It also writes tests/data/templates/language.json: small templates of our own with the full expected text (templates_language.py).
"""
import datetime
import hashlib
import json
import pathlib
import sys

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from templates_language import LANGUAGE, SAMPLE

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "templates"
NOW = datetime.datetime(2024, 7, 26, 13, 5, 9)  # a Friday


class GenerationTag(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


class TemplateDict:
    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)


class TemplateNamespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            TemplateNamespace.check(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name, value):
        TemplateNamespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"namespace attribute {name!r}")


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: NOW.strftime(form)
    env.globals["dict"] = TemplateDict()
    env.globals["namespace"] = TemplateNamespace
    return env


def with_reasoning_names(message):
    names = ("reasoning_content", "thinking", "reasoning")
    reasoning = next((message[n] for n in names if message.get(n) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def render(template, case):
    variables = {"documents": None, "add_generation_prompt": False, **case.get("extra", {})}
    messages = [with_reasoning_names(m) for m in case["messages"]]
    return template.render(messages=messages, tools=case.get("tools"), **variables)


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a place",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "City and country, e.g. \"Paris, France\""},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius", "description": "Unit"},
                "days": {"type": "integer", "description": "Days ahead", "minimum": 1, "default": 3},
                "hours": {"type": "array", "items": {"type": "number"}, "description": "Hours <of> the day & night"},
            },
            "required": ["location"],
        },
    },
}
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search the web",
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": ["string", "null"], "description": "What to look for"},
                "filter": {
                    "type": "object",
                    "properties": {"site": {"type": "string"}, "after": {"type": "string", "format": "date"}, "exact": {"type": "boolean"}},
                    "required": ["site"],
                },
                "sort": {"oneOf": [{"type": "string"}, {"type": "number", "default": 1.5}]},
                "tags": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string", "nullable": True}}}},
            },
            "required": ["query", "filter"],
        },
        "response": {"type": "object", "description": "hits"},
    },
}
PLAIN = {"type": "function", "function": {"name": "ping", "description": "No parameters", "parameters": {"type": "object", "properties": {}}}}


def system(text="You are a helpful assistant."):
    return {"role": "system", "content": text}


def user(content="Hello, who are you?"):
    return {"role": "user", "content": content}


def assistant(content="I am a model.", **more):
    return {"role": "assistant", "content": content, **more}


def call(name, arguments, ident="call_abc12"):
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(content, ident="call_abc12", name="get_weather"):
    return {"role": "tool", "tool_call_id": ident, "name": name, "content": content}


def text_parts(*texts):
    return [{"type": "text", "text": t} for t in texts]


def conversations():
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    prompt = {**tokens, "add_generation_prompt": True}
    paris = {"location": "Paris, France", "unit": "celsius"}
    cases = {}

    def add(name, messages, tools=None, **extra):
        cases[name] = {"messages": messages, **({"tools": tools} if tools is not None else {}), "extra": {**prompt, **extra}}

    add("user", [user()])
    add("user_no_prompt", [user()], add_generation_prompt=False)
    add("system_user", [system(), user()])
    add("two_turns", [user(), assistant(), user("And now?")])
    add("two_turns_closed", [user(), assistant(), user("And now?"), assistant("Done.")], add_generation_prompt=False)
    add("system_two_turns", [system(), user(), assistant(), user("Why?"), assistant("Because."), user("Really?")])
    add("thinking_on", [system(), user("2+2?")], enable_thinking=True, thinking=True, reasoning_effort="high")
    add("thinking_off", [system(), user("2+2?")], enable_thinking=False, thinking=False, reasoning_effort="low")
    add("think_flags_no_prompt", [user("2+2?"), assistant("4")], enable_thinking=True, add_generation_prompt=False)
    add("reasoning", [user("2+2?"), assistant("4", reasoning_content="Two and two.\n"), user("3+3?")])
    add("reasoning_last", [user("2+2?"), assistant("4", reasoning_content="Two and two.")], add_generation_prompt=False)
    add("reasoning_thinking_on", [user("2+2?"), assistant("4", reasoning_content=" a\n\nb "), user("3+3?")], enable_thinking=True, clear_thinking=False)
    add("inline_think", [user("2+2?"), assistant("<think>\nTwo and two.\n</think>\n\n4"), user("3+3?")])
    add("inline_think_last", [user("2+2?"), assistant("<think>Hm</think>4")], add_generation_prompt=False)
    add("tools_user", [user("Weather in Paris?")], [WEATHER])
    add("tools_system", [system(), user("Weather in Paris?")], [WEATHER, SEARCH])
    add("tools_plain", [system(), user("Ping!")], [PLAIN])
    add("tools_empty", [system(), user()], [])
    add("tool_call", [user("Weather?"), assistant("", tool_calls=[call("get_weather", paris)])], [WEATHER], add_generation_prompt=False)
    add("tool_call_none_content", [user("Weather?"), assistant(None, tool_calls=[call("get_weather", paris)]), tool("18 °C")], [WEATHER])
    add("tool_call_string", [user("Weather?"), assistant("", tool_calls=[call("get_weather", json.dumps(paris))]), tool('{"t": 18}')], [WEATHER])
    add("tool_result", [system(), user("Weather?"), assistant("", tool_calls=[call("get_weather", paris)]), tool('{"temp": 18.5}'),
                        assistant("It is 18.5 °C."), user("Thanks")], [WEATHER, SEARCH])
    add("tool_two_calls", [user("Both?"), assistant("Let me see.", tool_calls=[call("get_weather", paris, "call00001"),
                           call("search", {"query": None, "filter": {"site": "a.b", "exact": True}, "n": 3, "x": 1.0, "tags": ["a", {"b": []}]}, "call00002")]),
                           tool("sunny", "call00001"), tool("42 hits", "call00002", "search"), assistant("Sunny; 42 hits.")], [WEATHER, SEARCH],
        add_generation_prompt=False)
    add("tool_id_nine", [user("Weather?"), assistant("", tool_calls=[call("get_weather", paris, "abcdef123")]), tool("18", "abcdef123")], [WEATHER])
    add("tool_call_ids_kimi", [user("Weather?"), assistant("", tool_calls=[call("get_weather", paris, "functions.get_weather:0")]),
                               tool("18", "functions.get_weather:0")], [WEATHER])
    add("tool_content_dict", [user("Weather?"), assistant("", tool_calls=[call("get_weather", paris)]), tool({"temp": 18, "wind": [1, 2]})], [WEATHER])
    add("tool_content_parts", [user("Weather?"), assistant("", tool_calls=[call("get_weather", paris)]), tool(text_parts("18 °C", "windy"))], [WEATHER])
    add("tool_reasoning", [user("Weather?"), assistant("", reasoning_content="I need the tool.", tool_calls=[call("get_weather", paris)]), tool("18"),
                           assistant("18 °C", reasoning_content="Now answer."), user("Thanks")], [WEATHER], enable_thinking=True)
    add("tool_without_tools", [user("Weather?"), assistant("", tool_calls=[call("get_weather", {})]), tool("")])
    add("bare_call", [user("Weather?"), {"role": "assistant", "tool_calls": [{"name": "get_weather", "arguments": paris}]}, tool("18")], [WEATHER])
    add("bare_tool", [user("Weather?")], [WEATHER["function"]])
    add("parts_user", [user(text_parts("Hello ", "there"))])
    add("parts_system", [{"role": "system", "content": text_parts("Be brief.")}, user(text_parts("Hi")), assistant(text_parts("Yes?")), user(text_parts("No"))])
    add("parts_image", [user([{"type": "image"}, {"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "x"}}])])
    add("unicode", [system("Sei höflich – „bitte“."), user("Grüße, 世界! 🚀 ǅ ß\u00a0\u200b"), assistant("naïve café Σίσυφος"), user("'\"\\ \t<&>")])
    add("empty_strings", [system(""), user(""), assistant(""), user("")])
    add("white_space", [system("  padded \n"), user("\n\n  x  \n"), assistant("\t y \n\n"), user(" ")])
    add("no_messages", [])
    add("only_system", [system()])
    add("assistant_first", [assistant(), user()])
    add("user_twice", [user("a"), user("b")])
    add("unknown_role", [user(), {"role": "critic", "content": "Hm."}])
    add("developer", [{"role": "developer", "content": "Be terse."}, user()])
    add("system_later", [user(), assistant(), system("Change."), user("Go on")])
    add("ends_with_assistant", [user(), assistant("Partial")])
    add("no_tokens", [user()], bos_token=None, eos_token=None)
    add("missing_content", [{"role": "user"}])
    add("long", [m for i in range(12) for m in (user(f"Question {i}?"), assistant(f"Answer {i}."))] + [user("Last?")])
    add("documents", [user("Read.")], documents=[{"title": "T", "text": "Body"}, {"title": "U", "text": "More", "n": 2}])
    add("builtin_tools", [system("/no_think Be good. /system_override"), user("Go /no_think")], builtin_tools=["browser", "python", "code_interpreter"],
        tools_in_user_message=False, date_string="1 Jan 2025", xml_tools=["x"], keep_cot=True)
    return cases


def expectation(template, case):
    try:
        text = render(template, case).encode("utf-8")
    except Exception:
        return "error"
    return f"{len(text)} {hashlib.sha256(text).hexdigest()[:16]}"


def language_expectations(env):
    rows = []
    for source in LANGUAGE:
        row = {"template": source}
        try:
            row["text"] = env.from_string(source).render(**SAMPLE)
        except Exception as error:
            row["error"] = type(error).__name__
        rows.append(row)
    return rows


def dump_rows(rows):
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def main():
    env = environment()
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / "language.json").write_text(dump_rows([{"variables": SAMPLE}] + language_expectations(env)))
    cases = conversations()
    folder = pathlib.Path(sys.argv[1])
    if len(sys.argv) == 5 and sys.argv[2] == "--show":
        sys.stdout.write(render(env.from_string((folder / sys.argv[3]).read_text()), cases[sys.argv[4]]))
        return
    (DATA / "conversations.json").write_text(dump_rows([{"name": name, **case} for name, case in cases.items()]))
    lines = []
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text()
        try:
            template = env.from_string(source)
            results = [expectation(template, case) for case in cases.values()]
        except jinja2.TemplateSyntaxError:
            results = ["error"] * len(cases)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        lines.append({"template": path.name, "sha256": digest, "expected": results})
    (DATA / "expected.json").write_text(dump_rows(lines))
    n_errors = sum(r == "error" for line in lines for r in line["expected"])
    print(f"{len(lines)} templates x {len(cases)} conversations, {n_errors} errors")


if __name__ == "__main__":
    main()
