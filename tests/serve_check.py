#!/usr/bin/env python3
"""Runs OpenAI's own Python package against a server: serve_check.py URL KIND, where KIND is `model` (any
model with a chat template) or `parrot` (tests/serve_parrot.c, whose answers are known). One line a
test."""
import concurrent.futures
import json
import math
import sys
import urllib.request

import openai

url, kind = sys.argv[1], sys.argv[2]
client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=60)
model = client.models.list().data[0].id
story = [{"role": "user", "content": "Tell me a story."}]
weather = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


def chat(messages=story, **words):
    words = {"model": model, "max_tokens": 16, "temperature": 0} | words
    return client.chat.completions.create(messages=messages, **words)


def completion(prompt="Once upon a time", **words):
    words = {"model": model, "max_tokens": 12, "temperature": 0} | words
    return client.completions.create(prompt=prompt, **words)


def said(text):
    return [{"role": "user", "content": text}]


def same(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


def refused(call, error, param=None, code=None):
    try:
        call()
    except error as e:
        same((e.param, e.code), (param, code))
        return e
    raise AssertionError(f"no {error.__name__}")


# ---- any model ----------------------------------------------------------------------------------


def test_models():
    one = client.models.retrieve(model)
    same((one.id, one.object), (model, "model"))
    refused(lambda: client.models.retrieve("gpt-4"), openai.NotFoundError, "model", "model_not_found")


def test_chat():
    r = chat()
    choice = r.choices[0]
    same((r.object, choice.index, choice.message.role), ("chat.completion", 0, "assistant"))
    assert choice.finish_reason in ("stop", "length") and choice.message.content
    same(r.usage.total_tokens, r.usage.prompt_tokens + r.usage.completion_tokens)
    same(chat().choices[0].message.content, choice.message.content)


def test_chat_stream():
    chunks = list(chat(stream=True))
    same(chunks[0].choices[0].delta.role, "assistant")
    assert all(c.choices[0].delta.role is None for c in chunks[1:])
    assert all(c.choices[0].finish_reason is None for c in chunks[:-1])
    assert all(c.usage is None for c in chunks)
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    whole = chat()
    same((text, chunks[-1].choices[0].finish_reason), (whole.choices[0].message.content, whole.choices[0].finish_reason))


def test_stream_usage():
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    same(chunks[-1].choices, [])
    same(chunks[-1].usage.model_dump(), chat().usage.model_dump() | {
        "prompt_tokens_details": chunks[-1].usage.prompt_tokens_details.model_dump()})
    assert all(c.usage is None and c.choices for c in chunks[:-1])


def test_content_parts():
    parts = [{"role": "user", "content": [{"type": "text", "text": "Tell me a story."}]}]
    same(chat(parts).choices[0].message.content, chat().choices[0].message.content)


def test_completions():
    r = completion()
    same((r.object, r.choices[0].finish_reason), ("text_completion", "length"))
    same(r.usage.completion_tokens, 12)
    same("".join(c.choices[0].text for c in completion(stream=True)), r.choices[0].text)


def test_prompt_lists():
    alone = [completion(p).choices[0].text for p in ("Once upon", "The king")]
    r = completion(["Once upon", "The king"])
    same([c.text for c in r.choices], alone)
    same([c.index for c in r.choices], [0, 1])
    ids = [tokens("Once upon"), tokens("The king")]
    same([c.text for c in completion(ids).choices], alone)
    same(completion(ids[1]).choices[0].text, alone[1])


def test_echo():
    same(completion(echo=True).choices[0].text, "Once upon a time" + completion().choices[0].text)
    streamed = "".join(c.choices[0].text for c in completion(echo=True, stream=True))
    same(streamed, "Once upon a time" + completion().choices[0].text)


def test_n_and_seed():
    r = chat(n=3, temperature=1, seed=5)
    same([c.index for c in r.choices], [0, 1, 2])
    texts = [c.message.content for c in r.choices]
    same([c.message.content for c in chat(n=3, temperature=1, seed=5).choices], texts)
    same(chat(temperature=1, seed=6).choices[0].message.content, texts[1])  # seeds are seed + index
    streams = ["", "", ""]
    for chunk in chat(n=3, temperature=1, seed=5, stream=True):
        for c in chunk.choices:
            streams[c.index] += c.delta.content or ""
    same(streams, texts)


def test_stop():
    whole = completion(max_tokens=40).choices[0].text
    at = len(whole) // 2
    word = whole[at : at + 3]
    cut = whole[: whole.index(word)]
    r = completion(max_tokens=40, stop=word)
    same((r.choices[0].text, r.choices[0].finish_reason), (cut, "stop"))
    r = completion(max_tokens=40, stop=["never there", word])
    same(r.choices[0].text, cut)
    same("".join(c.choices[0].text for c in completion(max_tokens=40, stop=word, stream=True)), cut)


def test_tokenize():
    ids = tokens("Once upon a time")
    same(post("/detokenize", {"tokens": ids[1:]})["prompt"], "Once upon a time")
    same(post("/v1/tokenize", {"prompt": "Once upon a time"})["count"], len(ids))
    same(post("/tokenize", {"messages": story})["count"], chat().usage.prompt_tokens)


def test_errors():
    bad = openai.BadRequestError
    refused(lambda: chat(temperature=3), bad, "temperature", "invalid_value")
    refused(lambda: chat(temperature="hot"), bad, "temperature", "invalid_type")
    refused(lambda: chat(n=0), bad, "n", "invalid_value")
    refused(lambda: chat(model="gpt-4"), openai.NotFoundError, "model", "model_not_found")
    refused(lambda: chat([]), bad, "messages", "invalid_type")
    refused(lambda: chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]), bad,
            "messages[0].content", "unsupported_value")
    refused(lambda: chat(functions=[]), bad, "functions", "unsupported_parameter")
    refused(lambda: completion(suffix="x"), bad, "suffix", "unsupported_parameter")
    e = refused(lambda: completion(max_tokens=100000), bad, "prompt", "context_length_exceeded")
    limit = client.models.list().data[0].max_model_len
    assert str(limit) in e.message and str(100000 + len(tokens("Once upon a time"))) in e.message, e.message
    refused(lambda: client.embeddings.create(model=model, input="x"), openai.NotFoundError, None, "unknown_url")


def test_ignored():
    r = chat(user="me", metadata={"a": "b"}, service_tier="auto", extra_body={"no_such_field": [1]})
    same(r.choices[0].message.content, chat().choices[0].message.content)
    same(chat(extra_body={"stop": None, "logit_bias": None, "top_p": None}).choices[0].message.content,
         r.choices[0].message.content)


def test_at_once():
    """What a request gives does not depend on what else runs."""
    prompts = [f"{word} {n}" for n in range(6) for word in ("Once", "The king", "A lady")]
    alone = [completion(p, max_tokens=24).choices[0].text for p in prompts]
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        same(list(pool.map(lambda p: completion(p, max_tokens=24).choices[0].text, prompts)), alone)


def test_ping():
    """A stream that waits says so, in comments that clients skip."""
    import http.client
    from urllib.parse import urlsplit

    host = urlsplit(url)
    streams = []
    for n in (64, 1):
        c = http.client.HTTPConnection(host.hostname, host.port)
        body = {"prompt": "Once", "max_tokens": 500, "n": n, "stream": True, "temperature": 1, "ignore_eos": True}
        c.request("POST", "/v1/completions", json.dumps(body))
        streams.append((c, c.getresponse()))
    first = streams[1][1].readline()
    for c, _ in streams:
        c.close()
    same(first, b": ping\n")


def test_metrics():
    from prometheus_client.parser import text_string_to_metric_families

    text = urllib.request.urlopen(url + "/metrics").read().decode()
    found = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    for name in ("time_to_first_token_seconds_count", "inter_token_latency_seconds_count", "generation_tokens_total",
                 "e2e_request_latency_seconds_count"):
        assert found["gptq_compile_" + name] > 0, name
    buckets = [s for family in text_string_to_metric_families(text) for s in family.samples
               if s.name == "gptq_compile_time_to_first_token_seconds_bucket"]
    assert all(a.value <= b.value for a, b in zip(buckets, buckets[1:]))
    same(buckets[-1].value, found["gptq_compile_time_to_first_token_seconds_count"])


def test_logprobs():
    r = chat(logprobs=True, top_logprobs=3, max_tokens=6)
    items = r.choices[0].logprobs.content
    same(len(items), r.usage.completion_tokens - (r.choices[0].finish_reason == "stop"))
    same(b"".join(bytes(i.bytes) for i in items).decode(), r.choices[0].message.content)
    for item in items:
        best = [t.logprob for t in item.top_logprobs]
        same((len(best), best[0], best), (3, item.logprob, sorted(best, reverse=True)))  # temperature 0
        assert item.logprob <= 0 and sum(map(math.exp, best)) <= 1.0001
    r = completion(logprobs=2, max_tokens=6)
    p = r.choices[0].logprobs
    same("".join(p.tokens), r.choices[0].text)
    same([len(p.token_logprobs), len(p.text_offset)], [len(p.tokens)] * 2)
    same([round(max(t.values()), 4) for t in p.top_logprobs], [round(x, 4) for x in p.token_logprobs])
    same(p.text_offset, [len("".join(p.tokens[:n])) for n in range(len(p.tokens))])
    streamed = [t for c in completion(logprobs=2, max_tokens=6, stream=True) for t in c.choices[0].logprobs.tokens]
    same(streamed, p.tokens)


def test_logit_bias():
    ids = tokens("Once upon a time")
    r = completion(logit_bias={str(ids[-1]): 100}, max_tokens=3)
    same(tokens(r.choices[0].text)[1:] if len(set(ids)) else [], tokens(r.choices[0].text)[1:])
    same(set(post("/tokenize", {"prompt": r.choices[0].text, "add_special_tokens": False})["tokens"]), {ids[-1]})


# ---- structured output --------------------------------------------------------------------------


def test_json_object():
    r = chat(response_format={"type": "json_object"}, max_tokens=200)
    assert r.choices[0].finish_reason == "length" or isinstance(json.loads(r.choices[0].message.content), dict)


def test_json_schema():
    schema = weather["function"]["parameters"]
    r = chat(response_format={"type": "json_schema", "json_schema": {"name": "w", "schema": schema, "strict": True}},
             max_tokens=100)
    same(r.choices[0].finish_reason, "stop")
    value = json.loads(r.choices[0].message.content)
    assert isinstance(value["city"], str) and isinstance(value["days"], int) and len(value) == 2
    refused(lambda: chat(response_format={"type": "json_schema", "json_schema": {"name": "w", "schema": {"type": 3}}}),
            openai.BadRequestError, "response_format", "invalid_value")


def test_guided():
    r = chat(extra_body={"guided_choice": ["red", "green"]})
    assert r.choices[0].message.content in ("red", "green"), r.choices[0].message.content
    r = completion(extra_body={"guided_regex": "[0-9]{3}-[a-f]{2}"})
    import re

    assert re.fullmatch("[0-9]{3}-[a-f]{2}", r.choices[0].text), r.choices[0].text
    refused(lambda: completion(extra_body={"guided_regex": "[a"}), openai.BadRequestError, "guided_regex", "invalid_value")


def test_tool_choice():
    named = {"type": "function", "function": {"name": "get_weather"}}
    r = chat(tools=[weather], tool_choice=named, max_tokens=100).choices[0]
    same((r.finish_reason, r.message.content), ("stop", None))
    arguments = json.loads(r.message.tool_calls[0].function.arguments)
    assert isinstance(arguments["city"], str) and isinstance(arguments["days"], int)
    same(streamed_calls(chat(tools=[weather], tool_choice=named, max_tokens=100, stream=True))[1],
         [("get_weather", arguments)])
    r = chat(tools=[weather], tool_choice="required", max_tokens=200).choices[0]
    same(r.finish_reason, "tool_calls")
    assert all(c.function.name == "get_weather" for c in r.message.tool_calls)


# ---- the parrot ---------------------------------------------------------------------------------


def streamed_calls(chunks):
    text, calls, ids = "", {}, {}
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                old = calls.get(call.index, ("", ""))
                calls[call.index] = (old[0] or call.function.name, old[1] + (call.function.arguments or ""))
                ids[call.index] = ids.get(call.index) or call.id
    assert all(ids.values()) and len(set(ids.values())) == len(ids)
    return text, [(name, json.loads(arguments)) for _, (name, arguments) in sorted(calls.items())]


def test_repeats():
    text = "Grüße, 世界 👋🏽! <|eot_id|> stays text."
    same(chat(said(text), max_tokens=100).choices[0].message.content, text)
    pieces = [c.choices[0].delta.content or "" for c in chat(said(text), max_tokens=100, stream=True)]
    same("".join(pieces), text)
    assert all("\ufffd" not in p for p in pieces)
    same(chat(said("x <|eot_id|> y"), stop="<|eot").choices[0].message.content, "x ")


def test_tool_calls():
    calls = [{"name": "get_weather", "arguments": {"city": c, "days": 2}} for c in ("Köln", "Rome")]
    text = "I look it up.\n" + "\n".join(f"<tool_call>\n{json.dumps(c)}\n</tool_call>" for c in calls)
    r = chat(said(text), tools=[weather], max_tokens=300).choices[0]
    same((r.finish_reason, r.message.content), ("tool_calls", "I look it up."))
    same([(c.function.name, json.loads(c.function.arguments)) for c in r.message.tool_calls],
         [(c["name"], c["arguments"]) for c in calls])
    text_streamed, found = streamed_calls(chat(said(text), tools=[weather], max_tokens=300, stream=True))
    same((text_streamed, found), ("I look it up.", [(c["name"], c["arguments"]) for c in calls]))
    r = chat(said(text), tools=[weather], max_tokens=300, parallel_tool_calls=False).choices[0]
    same(len(r.message.tool_calls), 1)
    for words in ({"tools": [weather], "tool_choice": "none"}, {}):
        r = chat(said(text), max_tokens=300, **words).choices[0]
        same((r.finish_reason, r.message.content, r.message.tool_calls), ("stop", text, None))


def test_tool_results():
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "K"}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "user", "content": "thanks"},
    ]
    same(chat(messages, tools=[weather]).choices[0].message.content, "thanks")


def tokens(text):
    return post("/tokenize", {"prompt": text})["tokens"]


def post(path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))


model_tests = [test_models, test_chat, test_chat_stream, test_stream_usage, test_content_parts, test_completions,
               test_prompt_lists, test_echo, test_n_and_seed, test_stop, test_tokenize, test_errors, test_ignored,
               test_at_once, test_ping, test_logprobs, test_logit_bias, test_json_object, test_json_schema,
               test_guided, test_tool_choice, test_metrics]
parrot_tests = [test_repeats, test_tool_calls, test_tool_results]
failed = 0
for test in model_tests if kind == "model" else parrot_tests:
    name = f"{kind}_{test.__name__.removeprefix('test_')}"
    try:
        test()
        print("ok", name, flush=True)
    except Exception as e:
        if "grammars are not supported by this version" in str(e):
            print(f"skipped {name}: the scheduler takes no grammars", flush=True)
            continue
        failed = 1
        print(f"not ok {name}: {type(e).__name__} {str(e)[:300]}".replace("\n", " "), flush=True)
sys.exit(failed)
