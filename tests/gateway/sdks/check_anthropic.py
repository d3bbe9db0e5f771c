"""What Anthropic's SDK sees of the gateway: messages, streams, tools, token counts, and errors as its own exceptions.

tests/gateway/sdks/mod.rs makes the routes. A route that is named after a failure has a backend that fails so, always, and no
retry: what the SDK sees is what the gateway says of it. `comes-back` fails once.
"""

import time

import anthropic
from anthropic import Anthropic

# The SDK's own retries are asked for where they are meant.
client = Anthropic(max_retries=0)
HELLO = [{"role": "user", "content": "hello [[tokens=5]]"}]
WEATHER = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def message(model, of=client, **more):
    return of.messages.create(model=model, max_tokens=100, messages=HELLO, **more)


def answers():
    answer = message("smart-router")
    assert answer.content[0].text and answer.stop_reason == "end_turn" and answer.usage.output_tokens == 5, answer
    raw = client.messages.with_raw_response.create(model="smart-router", max_tokens=100, messages=HELLO)
    assert raw.headers["x-quartermaster-backend"] == "own" and raw.headers["request-id"], raw.headers
    counted = client.messages.count_tokens(model="smart-router", messages=HELLO)
    assert counted.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) + (
        answer.usage.cache_creation_input_tokens or 0
    ), (counted, answer.usage)
    names = [model.id for model in client.models.list()]
    assert "smart-router" in names and "not-for-this-caller" not in names, names


def streams():
    with client.messages.stream(model="smart-router", max_tokens=100, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == message("smart-router").content[0].text, final
    assert final.stop_reason == "end_turn" and final.usage.output_tokens == 5, final
    kinds = [event.type for event in message("smart-router", stream=True)]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop", kinds


def tools():
    answer = message("tools", tools=[WEATHER])
    assert answer.content[0].type == "tool_use" and answer.content[0].input == {"city": "Zürich"}, answer
    with client.messages.stream(model="tools", max_tokens=100, messages=HELLO, tools=[WEATHER]) as stream:
        final = stream.get_final_message()
    use = final.content[0]
    assert final.stop_reason == "tool_use" and (use.name, use.input) == ("weather", {"city": "Zürich"}), final
    # What came of the tool is sent back with the call.
    asked = {"role": "assistant", "content": [{"type": "tool_use", "id": use.id, "name": use.name, "input": use.input}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]}
    answer = client.messages.create(model="smart-router", max_tokens=100, messages=[*HELLO, asked, result], tools=[WEATHER])
    assert answer.content[0].text, answer


def raises(kind, status, code, make):
    try:
        made = make()
    except anthropic.APIStatusError as error:
        assert type(error) is kind and (error.status_code, error.error_code) == (status, code), (error, error.body)
        assert error.request_id and error.api_message, error
        return error
    raise AssertionError(f"{kind.__name__} was expected and not {made}")


def errors():
    wrong_key = Anthropic(api_key="qm-wrong", max_retries=0)
    raises(anthropic.AuthenticationError, 401, "invalid_api_key", lambda: message("smart-router", wrong_key))
    raises(anthropic.NotFoundError, 404, "model_not_found", lambda: message("no-such-route"))
    raises(anthropic.NotFoundError, 404, "model_not_found", lambda: message("not-for-this-caller"))
    raises(anthropic.BadRequestError, 400, "invalid_body", lambda: message(""))
    # The provider's own words: nothing of the gateway is in between.
    wrong = raises(anthropic.BadRequestError, 400, None, lambda: message("wrong-request"))
    assert "The request is not valid." in wrong.message, wrong
    long = raises(anthropic.BadRequestError, 400, "context_length_exceeded", lambda: message("too-long"))
    # Agents look for these words before they compact their history.
    assert "prompt is too long" in long.message, long
    raises(anthropic.NotFoundError, 404, "model_not_found", lambda: message("gone"))
    limited = raises(anthropic.RateLimitError, 429, "rate_limit_exceeded", lambda: message("rate-limited"))
    assert 50 <= int(limited.response.headers["retry-after"]) <= 60, limited.response.headers
    raises(anthropic.RateLimitError, 429, "rate_limit_exceeded", lambda: message("quota-exhausted"))
    for stream in (False, True):
        raises(UNAVAILABLE, 503, "backend_unavailable", lambda stream=stream: message("overloaded", stream=stream))
        raises(TIMEOUT, 504, "backend_timeout", lambda stream=stream: message("timeout", stream=stream))
    # A key of the gateway's that the provider refuses is no 401, and the SDK does not repeat what would meet the same.
    raises(anthropic.InternalServerError, 502, "backend_key_rejected", lambda: message("key-rejected", Anthropic(max_retries=2)))


# Both are InternalServerErrors of their own.
UNAVAILABLE, TIMEOUT = anthropic._exceptions.ServiceUnavailableError, anthropic._exceptions.GatewayTimeoutError
assert issubclass(UNAVAILABLE, anthropic.InternalServerError) and issubclass(TIMEOUT, anthropic.InternalServerError)


def a_stream_that_breaks_says_so():
    text = ""
    try:
        with client.messages.stream(model="breaks", max_tokens=100, messages=HELLO) as stream:
            for piece in stream.text_stream:
                text += piece
    except anthropic.APIStatusError as error:
        assert text and error.type == "api_error", (text, error.body)
    else:
        raise AssertionError(f"the stream ended as if it were whole: {text}")


def retry_after_is_respected():
    began = time.monotonic()
    answer = message("comes-back", Anthropic(max_retries=1))
    waited = time.monotonic() - began
    # Its own first wait would be half a second at most.
    assert answer.content[0].text and 1.9 <= waited < 20, waited


answers()
streams()
tools()
errors()
a_stream_that_breaks_says_so()
retry_after_is_respected()
print("ok")
