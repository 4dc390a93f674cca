"""OpenAI's SDK for Python against the gateway; tests/tests/inference/sdk.rs runs it.

Each step asserts what a user of the SDK relies on.
"""

import asyncio
import json
import os
import time
from typing import Literal

import httpx
import openai
import pydantic

URL = os.environ["GATEWAY_URL"]
MODEL = os.environ["MODEL"]
VECTORS = os.environ["VECTORS"]
CALLING = os.environ["CALLING"]
SLEEPING = os.environ["SLEEPING"]
HELLO = [{"role": "user", "content": f"Say hello. {os.environ['CANARY']}"}]
# No more than this may pass until a slot that nobody waits for is free. A machine that also compiles may
# stand in the way of one client that leaves, not of ten.
FREED_MAX, LEAVERS_MAX = 0.5, 10
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Utrecht", "Delft"]}},
            "required": ["city"],
        },
    },
}
sent = []


def client(key="KEY", **options):
    hooks = {"request": [lambda request: sent.append(request.url.path)]}
    http = openai.DefaultHttpxClient(verify=os.environ["CA"], event_hooks=hooks)
    return openai.OpenAI(base_url=f"{URL}/v1", api_key=os.environ[key], http_client=http, **options)


def raises(kind, call):
    """The error of that kind, whose body has the four keys that clients index."""
    try:
        call()
    except kind as error:
        assert set(error.body) == {"message", "type", "param", "code"}, error.body
        assert error.body["message"] and error.type and error.code, error.body
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def models(gateway):
    names = {model.id: model for model in gateway.models.list()}
    assert {MODEL, VECTORS, SLEEPING} <= names.keys(), names
    assert names[SLEEPING].status["value"] == "asleep", names[SLEEPING]
    assert gateway.models.retrieve(MODEL).id == MODEL
    assert raises(openai.NotFoundError, lambda: gateway.models.retrieve("nowhere")).param == "model"


def chat(gateway):
    answer = gateway.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=16)
    assert answer.object == "chat.completion" and answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content and answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def stream(gateway):
    def ask(**more):
        chunks = gateway.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=16, stream=True, seed=1, temperature=0, **more
        )
        return list(chunks)

    counted, plain = ask(stream_options={"include_usage": True}), ask()
    text = "".join(chunk.choices[0].delta.content or "" for chunk in counted if chunk.choices)
    assert text and len(counted) > 4, counted
    assert counted[-1].usage.completion_tokens > 0 and not counted[-1].choices
    assert all(chunk.usage is None for chunk in counted[:-1])
    assert all(chunk.usage is None and chunk.choices for chunk in plain)
    whole = gateway.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=16, seed=1, temperature=0
    )
    assert whole.choices[0].message.content == text, (whole, text)


def unknown_fields(gateway):
    """What neither SDK nor gateway knows reaches the engine, and what it adds comes back."""
    answer = gateway.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=4, logprobs=True, top_logprobs=2,
        extra_body={"timings_per_token": True, "x_unheard_of": [1.50, None]},
    )
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2, answer
    assert answer.timings["predicted_per_second"] > 0, answer


def tools(gateway):
    """Definitions reach the engine, calls come back whole and in pieces, and results go in again."""
    messages = [{"role": "user", "content": "What is the weather in Delft and Utrecht?"}]

    def ask(model=CALLING, **more):
        return gateway.chat.completions.create(
            model=model, messages=messages, max_tokens=48, tools=[WEATHER], parallel_tool_calls=True, **more
        )

    whole = ask(tool_choice="required").choices[0]
    assert whole.finish_reason == "tool_calls" and whole.message.content is None, whole
    calls = [(call.id, call.type, call.function.name) for call in whole.message.tool_calls]
    assert calls == [("call_a", "function", "get_weather"), ("call_b", "function", "get_weather")], calls
    said = [json.loads(call.function.arguments)["city"] for call in whole.message.tool_calls]
    assert said == ["Delft", "Utrecht"], said
    pieces = [chunk.choices[0].delta.tool_calls for chunk in ask(tool_choice="required", stream=True)]
    pieces = [piece for some in pieces for piece in some or []]
    for number, city in enumerate(said):
        parts = (piece.function.arguments or "" for piece in pieces if piece.index == number)
        assert json.loads("".join(parts)) == {"city": city}, pieces
    # The model of the house reads the results, though it would never have called anything.
    messages.append(whole.message.model_dump(exclude_none=True))
    messages += [{"role": "tool", "tool_call_id": call[0], "content": "Rain."} for call in calls]
    assert ask(model=MODEL).usage.completion_tokens > 0


def completions(gateway):
    """The older API, by which editors ask what comes next."""

    def ask(**more):
        return gateway.completions.create(
            model=MODEL, prompt="One, two, three,", max_tokens=8, seed=1, temperature=0, **more
        )

    whole = ask()
    assert whole.object == "text_completion" and whole.usage.completion_tokens > 0, whole
    text = "".join(chunk.choices[0].text for chunk in ask(stream=True) if chunk.choices)
    assert text == whole.choices[0].text and "four" in text, (text, whole)
    assert [choice.index for choice in ask(n=2).choices] == [0, 1]
    empty = raises(openai.BadRequestError, lambda: gateway.completions.create(model=MODEL, prompt=[]))
    assert empty.param == "prompt", empty.body


def structured(gateway):
    """A form that is asked for is one that the engine holds the model to."""

    class Weather(pydantic.BaseModel):
        city: Literal["Utrecht", "Delft"]

    answer = gateway.chat.completions.parse(
        model=MODEL, messages=HELLO, max_tokens=64, response_format=Weather
    )
    assert answer.choices[0].message.parsed.city in ("Utrecht", "Delft"), answer


def embeddings(gateway):
    texts = ["a cat", "a cat", "the tax office"]
    packed = gateway.embeddings.create(model=VECTORS, input=texts)
    plain = gateway.embeddings.create(model=VECTORS, input=texts, encoding_format="float")
    assert [row.index for row in packed.data] == [0, 1, 2] and packed.usage.prompt_tokens > 3
    one, same, other = (row.embedding for row in packed.data)
    assert len(one) == 576 and max(map(abs, map(float.__sub__, one, same))) < 1e-3
    assert max(map(abs, map(float.__sub__, one, other))) > 1e-3
    assert max(map(abs, map(float.__sub__, one, plain.data[0].embedding))) < 1e-3
    create = gateway.embeddings.create
    assert raises(openai.NotFoundError, lambda: create(model="nowhere", input="a")).code == "model_not_found"
    away = raises(
        openai.InternalServerError,
        lambda: gateway.with_options(max_retries=0).embeddings.create(model=SLEEPING, input="a"),
    )
    assert away.status_code == 503 and int(away.response.headers["retry-after"]) > 0, away.body


def errors(gateway):
    wrong = raises(openai.AuthenticationError, lambda: gateway.with_options(api_key="sk-no").models.list())
    assert (wrong.code, wrong.type) == ("invalid_api_key", "authentication_error"), wrong.body
    ask = gateway.chat.completions.create
    missing = raises(openai.NotFoundError, lambda: ask(model="nowhere", messages=HELLO))
    assert (missing.code, missing.param) == ("model_not_found", "model"), missing.body
    assert raises(openai.BadRequestError, lambda: ask(model=MODEL, messages=[])).param == "messages"
    long = [{"role": "user", "content": "word " * 9000}]
    raises(openai.BadRequestError, lambda: ask(model=MODEL, messages=long))
    huge = [{"role": "user", "content": "x" * (17 << 20)}]
    large = raises(openai.APIStatusError, lambda: ask(model=MODEL, messages=huge))
    assert (large.status_code, large.code) == (413, "request_too_large"), large.body
    unbuilt = raises(openai.APIStatusError, lambda: gateway.moderations.create(input="x"))
    assert (unbuilt.status_code, unbuilt.code) == (501, "not_built_yet"), unbuilt.body
    # The queue has tried all it can, and the SDK, which would try again, is told not to.
    before = len(sent)
    refused = raises(
        openai.InternalServerError, lambda: ask(model=MODEL, messages=HELLO, tools=[{"type": "function"}])
    )
    assert refused.response.headers["x-should-retry"] == "false" and len(sent) == before + 1, sent[before:]
    assert "tool" in refused.message.lower(), refused.body


def limits(_gateway):
    few = client("FEW_KEY", max_retries=0)
    few.models.list()
    create = few.chat.completions.create
    create(model=MODEL, messages=HELLO, max_tokens=1)
    limit = raises(openai.RateLimitError, lambda: create(model=MODEL, messages=HELLO, max_tokens=1))
    assert limit.code == "rate_limit_exceeded" and int(limit.response.headers["retry-after"]) > 0
    assert limit.response.headers["x-ratelimit-remaining-requests"] == "0", limit.response.headers
    bronze = client("BRONZE_KEY").chat.completions.create
    over = raises(openai.PermissionDeniedError, lambda: bronze(model=SLEEPING, messages=HELLO))
    assert over.code == "tier_not_allowed", over.body


def at_once(gateway):
    """More than there are slots: the others wait for their turn."""

    async def all_of_them():
        http = openai.DefaultAsyncHttpxClient(verify=os.environ["CA"])
        many = openai.AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.api_key, http_client=http)
        ask = many.chat.completions.create
        return await asyncio.gather(*(ask(model=MODEL, messages=HELLO, max_tokens=4) for _ in range(6)))

    assert all(answer.usage.completion_tokens > 0 for answer in asyncio.run(all_of_them()))


def busy():
    key = {"Authorization": f"Bearer {os.environ['ENGINE_KEY']}"}
    slots = httpx.get(f"{os.environ['ENGINE_URL']}/slots", headers=key).json()
    return sum(slot["is_processing"] for slot in slots)


def cancel(gateway):
    """Who leaves, streaming or not, frees the slot: by the engine's own account."""
    long = {"model": MODEL, "messages": HELLO, "max_tokens": 3000, "extra_body": {"ignore_eos": True}}

    def leave_a_stream():
        with gateway.chat.completions.create(stream=True, **long) as chunks:
            next(chunks)
            assert busy() == 1
        return time.monotonic()

    def give_up_waiting():
        impatient = gateway.with_options(timeout=1.5, max_retries=0)
        try:
            impatient.chat.completions.create(**long)
        except openai.APITimeoutError:
            return time.monotonic()
        raise AssertionError("it was answered")

    for leave in (leave_a_stream, give_up_waiting):
        freed = []
        while not freed or (min(freed) > FREED_MAX and len(freed) < LEAVERS_MAX):
            left = leave()
            while busy():
                assert time.monotonic() - left < 30, "the engine works on for nobody"
            freed.append(time.monotonic() - left)
        print(leave.__name__, *(f"{seconds:.3f} s" for seconds in freed), flush=True)
        assert min(freed) <= FREED_MAX, freed


def queued(gateway):
    """A stream for a machine that sleeps has headers and comments at once, and its job ends with it."""
    began = time.monotonic()
    with gateway.chat.completions.with_streaming_response.create(
        model=SLEEPING, messages=HELLO, stream=True
    ) as response:
        first = next(response.iter_lines())
        assert first.startswith(": queued position=1 tier=silver"), first
        assert time.monotonic() - began < 5
        job = response.headers["x-homelab-job"]
    print("cancelled", job, flush=True)


def once(gateway):
    def ask():
        headers = {"Idempotency-Key": "sdk-python-1"}
        create = gateway.chat.completions.with_raw_response.create
        return create(model=MODEL, messages=HELLO, max_tokens=8, extra_headers=headers)

    first, second = ask(), ask()
    assert first.headers["x-homelab-job"] == second.headers["x-homelab-job"]
    assert first.parse().choices == second.parse().choices


def batch(gateway):
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "messages": HELLO, "max_tokens": 4},
        }
        for number in range(5)
    ]
    text = "\n".join(json.dumps(line) for line in lines).encode()
    given = gateway.files.create(file=("in.jsonl", text), purpose="batch")
    assert gateway.files.retrieve(given.id).bytes == len(text)
    assert gateway.files.content(given.id).read() == text
    made = gateway.batches.create(
        input_file_id=given.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    until = time.monotonic() + 120
    while made.status != "completed":
        assert time.monotonic() < until, made
        time.sleep(0.2)
        made = gateway.batches.retrieve(made.id)
    assert made.request_counts.completed == 5 and made.error_file_id is None, made
    rows = [json.loads(line) for line in gateway.files.content(made.output_file_id).text.splitlines()]
    assert sorted(row["custom_id"] for row in rows) == [line["custom_id"] for line in lines]
    assert all(row["response"]["body"]["choices"][0]["message"]["content"] for row in rows)
    assert made.id in [one.id for one in gateway.batches.list()]
    assert gateway.files.delete(given.id).deleted


def responses(gateway):
    answer = gateway.responses.create(
        model=MODEL, instructions="Be brief.", input="Say hello.", max_output_tokens=16
    )
    assert answer.object == "response" and answer.output_text, answer
    assert answer.usage.total_tokens > 0
    events = list(
        gateway.responses.create(
            model=MODEL, input=[{"role": "user", "content": "Say hello."}], max_output_tokens=16, stream=True
        )
    )
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"], kinds
    assert kinds[-1] in ("response.completed", "response.incomplete"), kinds
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text and text, text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    create = gateway.responses.create
    refused = raises(
        openai.BadRequestError, lambda: create(model=MODEL, input="x", previous_response_id="resp_1")
    )
    assert refused.param == "previous_response_id", refused.body


STEPS = (
    models, chat, stream, unknown_fields, tools, structured, completions, embeddings, errors, limits,
    at_once, cancel, queued, once, batch, responses,
)


def main():
    gateway = client()
    for step in STEPS:
        began = time.monotonic()
        step(gateway)
        print("ok", step.__name__, f"{time.monotonic() - began:.2f} s", flush=True)


main()
