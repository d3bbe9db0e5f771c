"""What OpenAI's SDK sees of the gateway: answers, streams, tools, and errors as its own exceptions.

tests/gateway/sdks/mod.rs makes the routes. A route that is named after a failure has a backend that fails so, always, and no
retry: what the SDK sees is what the gateway says of it. `comes-back` fails once.
"""

import json
import time

import openai
from openai import OpenAI

# The SDK's own retries are asked for where they are meant.
client = OpenAI(max_retries=0)
HELLO = [{"role": "user", "content": "hello [[tokens=5]]"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def chat(model, of=client, **more):
    return of.chat.completions.create(model=model, messages=HELLO, **more)


def answers():
    answer = chat("smart-router")
    assert answer.choices[0].message.content and answer.choices[0].finish_reason == "stop", answer
    assert answer.usage.completion_tokens == 5, answer.usage
    raw = client.chat.completions.with_raw_response.create(model="smart-router", messages=HELLO)
    assert raw.headers["x-quartermaster-backend"] == "own" and raw.headers["x-request-id"], raw.headers
    assert raw.parse().usage.completion_tokens == 5
    text = client.completions.create(model="smart-router", prompt="hello [[tokens=3]]", max_tokens=3)
    assert text.choices[0].text and text.usage.completion_tokens == 3, text
    embeddings = client.embeddings.create(model="smart-router", input=["one", "two"])
    assert [item.index for item in embeddings.data] == [0, 1], embeddings
    assert all(isinstance(number, float) for number in embeddings.data[1].embedding), embeddings
    response = client.responses.create(model="smart-router", input="hello [[tokens=20]]", max_output_tokens=40)
    assert response.output_text and response.status == "completed" and response.usage.output_tokens == 20, response
    names = [model.id for model in client.models.list()]
    assert "smart-router" in names and "not-for-this-caller" not in names, names


def streams():
    chunks = list(chat("smart-router", stream=True))
    # The gateway asks for the usage, and keeps the event with it from a client that did not: some take every event's first choice.
    assert all(chunk.choices and chunk.usage is None for chunk in chunks), chunks
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == chat("smart-router").choices[0].message.content, text
    asked = list(chat("smart-router", stream=True, stream_options={"include_usage": True}))
    assert asked[-1].usage.completion_tokens == 5, asked[-1]
    assert all(chunk.usage is None for chunk in asked[:-1]), asked
    with client.chat.completions.stream(model="smart-router", messages=HELLO) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == text, final
    events = client.responses.create(model="smart-router", input="hello [[tokens=5]]", max_output_tokens=40, stream=True)
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds


def tools():
    call = chat("tools", tools=[WEATHER]).choices[0].message.tool_calls[0]
    assert call.function.name == "weather" and json.loads(call.function.arguments) == {"city": "Zürich"}, call
    with client.chat.completions.stream(model="tools", messages=HELLO, tools=[WEATHER]) as stream:
        choice = stream.get_final_completion().choices[0]
    call = choice.message.tool_calls[0]
    assert choice.finish_reason == "tool_calls" and call.id == "call-1", choice
    assert call.function.name == "weather" and json.loads(call.function.arguments) == {"city": "Zürich"}, call
    # What came of the tool is sent back with the call.
    result = {"role": "tool", "tool_call_id": "call-1", "content": "sunny"}
    asked = {"role": "assistant", "content": None, "tool_calls": [call.model_dump(exclude={"function": {"parsed_arguments"}})]}
    answer = client.chat.completions.create(model="smart-router", messages=[*HELLO, asked, result], tools=[WEATHER])
    assert answer.choices[0].message.content, answer


def raises(kind, status, code, make):
    try:
        made = make()
    except openai.APIStatusError as error:
        assert type(error) is kind and (error.status_code, error.code) == (status, code), (error, error.body)
        assert error.request_id and error.message, error
        return error
    raise AssertionError(f"{kind.__name__} was expected and not {made}")


def errors():
    wrong_key = OpenAI(api_key="qm-wrong", max_retries=0)
    raises(openai.AuthenticationError, 401, "invalid_api_key", lambda: chat("smart-router", wrong_key))
    raises(openai.NotFoundError, 404, "model_not_found", lambda: chat("no-such-route"))
    raises(openai.NotFoundError, 404, "model_not_found", lambda: chat("not-for-this-caller"))
    raises(openai.NotFoundError, 404, "unknown_url", lambda: client.images.generate(model="smart-router", prompt="a cat"))
    raises(openai.BadRequestError, 400, "invalid_body", lambda: chat(""))
    # The provider's own words: nothing of the gateway is in between.
    wrong = raises(openai.BadRequestError, 400, None, lambda: chat("wrong-request"))
    assert "The request is not valid." in wrong.message, wrong
    raises(openai.BadRequestError, 400, "context_length_exceeded", lambda: chat("too-long"))
    raises(openai.NotFoundError, 404, "model_not_found", lambda: chat("gone"))
    limited = raises(openai.RateLimitError, 429, "rate_limit_exceeded", lambda: chat("rate-limited"))
    assert 50 <= int(limited.response.headers["retry-after"]) <= 60, limited.response.headers
    raises(openai.RateLimitError, 429, "rate_limit_exceeded", lambda: chat("quota-exhausted"))
    for stream in (False, True):
        raises(openai.InternalServerError, 503, "backend_unavailable", lambda stream=stream: chat("overloaded", stream=stream))
        raises(openai.InternalServerError, 504, "backend_timeout", lambda stream=stream: chat("timeout", stream=stream))
    # A key of the gateway's that the provider refuses is no 401, and the SDK does not repeat what would meet the same.
    raises(openai.InternalServerError, 502, "backend_key_rejected", lambda: chat("key-rejected", OpenAI(max_retries=2)))


def a_stream_that_breaks_says_so():
    text = ""
    try:
        for chunk in chat("breaks", stream=True):
            text += chunk.choices[0].delta.content or ""
    except openai.APIError as error:
        assert text and error.code == "backend_unavailable", (text, error)
    else:
        raise AssertionError(f"the stream ended as if it were whole: {text}")


def retry_after_is_respected():
    began = time.monotonic()
    answer = chat("comes-back", OpenAI(max_retries=1))
    waited = time.monotonic() - began
    # Its own first wait would be half a second at most.
    assert answer.choices[0].message.content and 1.9 <= waited < 20, waited


answers()
streams()
tools()
errors()
a_stream_that_breaks_says_so()
retry_after_is_respected()
print("ok")
