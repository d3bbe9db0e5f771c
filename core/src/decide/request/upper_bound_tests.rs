use bytes::Bytes;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::api::external::Provider;
use crate::decide::gateway::plan::Server;
use crate::decide::request::body::{Piece, read, rewrite};
use crate::decide::request::fixtures;
use crate::decide::request::meter::{Asked, Close, Meter};

/// A backend with this context and this most output.
fn backend(context_length: Option<u32>, max_output_tokens: Option<u32>) -> Backend {
    Backend { context_length, max_output_tokens, ..fixtures::backend(&[]) }
}

/// The bound of a body at a backend with a context of 8,192 tokens, and the length of the body.
fn bound(operation: Operation, body: &Value) -> (Usage, u64) {
    let text = body.to_string();
    let body = read(operation, text.as_bytes()).unwrap();
    (of(&body, &backend(Some(8192), None)), u64::try_from(text.len()).unwrap())
}

fn chat(message: Value) -> Value {
    json!({ "model": "m", "max_tokens": 100, "messages": [message] })
}

#[test]
fn a_prompt_is_bounded_by_its_bytes_and_an_answer_by_its_limit() {
    let (usage, length) = bound(Operation::ChatCompletions, &chat(json!({ "role": "user", "content": "hello" })));
    assert_eq!(usage, Usage { input: length + 64 + 16, output: 100, ..Usage::default() });
    let (usage, _) = bound(Operation::ChatCompletions, &chat(json!({ "role": "user", "content": "a".repeat(10_000) })));
    assert_eq!(usage.input, 8192, "more than the context is refused");
    let mut tools = chat(json!({ "role": "user", "content": "hello" }));
    tools["tools"] = json!([{ "type": "function", "function": { "name": "f" } }]);
    let (usage, length) = bound(Operation::ChatCompletions, &tools);
    assert_eq!(usage.input, length + 64 + 16 + 1024);
}

#[rstest]
#[case::the_clients(Some(100), Some(8192), Some(4096), 100)]
#[case::the_backends(Some(5000), Some(8192), Some(4096), 4096)]
#[case::the_context(Some(10_000), Some(8192), None, 8192)]
#[case::no_limit(None, Some(8192), Some(4096), 4096)]
#[case::no_limit_but_the_context(None, Some(8192), None, 8192)]
#[case::nothing_is_known(None, None, None, LARGEST_CONTEXT)]
fn the_smallest_limit_bounds_a_choice(
    #[case] client: Option<u32>,
    #[case] context: Option<u32>,
    #[case] most: Option<u32>,
    #[case] expected: u64,
) {
    for (operation, choices) in [(Operation::ChatCompletions, 1), (Operation::ChatCompletions, 3), (Operation::Messages, 1)] {
        let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] });
        if let Some(client) = client {
            body["max_tokens"] = client.into();
        }
        if choices > 1 {
            body["n"] = choices.into();
        }
        let body = read(operation, body.to_string().as_bytes()).unwrap();
        assert_eq!(of(&body, &backend(context, most)).output, expected * choices, "{operation:?}");
    }
}

#[rstest]
#[case::the_clients(Some(100), Some(4096), 100)]
#[case::the_clients_though_it_is_large(Some(100_000), None, 100_000)]
#[case::the_backends(Some(5000), Some(4096), 4096)]
#[case::nobody_says(None, None, 16_384)]
#[case::the_client_does_not_say(None, Some(4096), 4096)]
#[case::the_backend_could_make_more(None, Some(64_000), 16_384)]
fn where_output_counts_it_has_a_limit_that_is_sent_and_bounds_it(
    #[case] client: Option<u32>,
    #[case] most: Option<u32>,
    #[case] expected: u32,
) {
    for operation in [Operation::ChatCompletions, Operation::Messages] {
        let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] });
        if let Some(client) = client {
            body["max_tokens"] = client.into();
        }
        let text = body.to_string();
        let (body, backend) = (read(operation, text.as_bytes()).unwrap(), backend(None, most));
        let ceiling = output_ceiling(&body, &backend);
        assert_eq!(ceiling, Some(expected), "{operation:?}");
        assert_eq!(within(&body, &backend, ceiling).output, u64::from(expected), "{operation:?}");
        let sent: String = rewrite(&body, &backend, ceiling)
            .into_iter()
            .map(|piece| match piece {
                Piece::Kept(range) => text[range].to_owned(),
                Piece::Inserted(inserted) => inserted,
            })
            .collect();
        let sent: Value = serde_json::from_str(&sent).unwrap();
        assert_eq!(sent.get("max_tokens").or(sent.get("max_completion_tokens")), Some(&json!(expected)), "{operation:?}");
    }
}

#[test]
fn no_limit_is_sent_that_may_not_fit_into_the_context_beside_the_prompt() {
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] }).to_string();
    let body = read(Operation::ChatCompletions, body.as_bytes()).unwrap();
    let of = |context| output_ceiling(&body, &backend(Some(context), None));
    assert_eq!((of(4096), of(16_384), of(32_768)), (None, None, Some(16_384)));
    assert_eq!(within(&body, &backend(Some(4096), None), None).output, 4096, "the context bounds it all the same");
}

#[test]
fn where_one_call_may_use_so_much_an_answer_without_a_limit_gets_what_is_left_beside_the_prompt() {
    let body = |more: Value| {
        let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        read(Operation::ChatCompletions, body.to_string().as_bytes()).unwrap()
    };
    let plain = body(json!({}));
    let input = of(&plain, &backend(None, None)).input;
    let beside = |context: u32| context - u32::try_from(input).unwrap();
    for (context, most, expected) in [
        (32_768, input + 500, Some(500)),
        (32_768, 100_000, Some(16_384)),
        // Nobody would have sent a limit.
        (1_000, input + 500, Some(500)),
        (600, input + 500, Some(beside(600))),
        (600, 10_000, None),
        // It has no room, and is left as it is.
        (32_768, input, Some(16_384)),
    ] {
        let backend = backend(Some(context), None);
        let ceiling = output_ceiling_within(&plain, &backend, most);
        assert_eq!(ceiling, expected, "{context} {most}");
        let bound = within(&plain, &backend, ceiling);
        assert_eq!(bound.input + bound.output <= most, most > input, "{context} {most}");
    }
    let large = backend(Some(32_768), None);
    assert_eq!(output_ceiling_within(&body(json!({ "max_tokens": 900 })), &large, input + 500), Some(900), "it says what it wants");
    let two = body(json!({ "n": 2 }));
    let most = of(&two, &large).input + 500;
    assert_eq!(output_ceiling_within(&two, &large, most), Some(250));
    let embedding = read(Operation::Embeddings, br#"{"model":"m","input":"a"}"#).unwrap();
    assert_eq!(output_ceiling_within(&embedding, &large, 1), None);
}

#[test]
fn completions_that_say_no_limit_get_what_their_api_says() {
    let body = json!({ "model": "m", "prompt": "hello" }).to_string();
    let body = read(Operation::Completions, body.as_bytes()).unwrap();
    assert_eq!(output_ceiling(&body, &backend(Some(4096), None)), Some(16));
}

#[test]
fn what_has_no_output_has_no_limit_of_it() {
    for (operation, body) in [
        (Operation::Embeddings, json!({ "model": "m", "input": "a" })),
        (Operation::CountTokens, json!({ "model": "m", "messages": [] })),
    ] {
        let body = read(operation, body.to_string().as_bytes()).unwrap();
        assert_eq!(output_ceiling(&body, &backend(None, None)), None);
    }
}

#[test]
fn tools_that_the_provider_runs_have_no_bound() {
    let find = |tool: Value| {
        let text = json!({ "model": "m", "input": "a", "tools": [tool] }).to_string();
        unbounded_tools(&read(Operation::Responses, text.as_bytes()).unwrap(), text.as_bytes())
    };
    assert_eq!(find(json!({ "type": "web_search" })), Some("web search"));
    assert_eq!(find(json!({ "type": "function", "name": "web_search" })), None);
}

#[rstest]
#[case::one(json!("a"), 1)]
#[case::tokens(json!([1, 2, 3]), 1)]
#[case::none(json!([]), 1)]
#[case::texts(json!(["a", "b", "c"]), 3)]
#[case::lists_of_tokens(json!([[1, 2], [3]]), 2)]
fn each_prompt_of_a_list_has_its_own_answers(#[case] prompt: Value, #[case] prompts: u64) {
    let body = json!({ "model": "m", "prompt": prompt, "max_tokens": 10, "n": 2, "best_of": 3 });
    let (usage, length) = bound(Operation::Completions, &body);
    assert_eq!(usage, Usage { input: length + 64 * prompts, output: 10 * 3 * prompts, ..Usage::default() });
    let (usage, length) = bound(Operation::Embeddings, &json!({ "model": "m", "input": prompt }));
    assert_eq!(usage, Usage { input: length + 64 * prompts, ..Usage::default() });
}

#[test]
fn counting_costs_nothing() {
    assert_eq!(bound(Operation::CountTokens, &chat(json!({ "role": "user", "content": "hello" }))).0, Usage::default());
}

#[rstest]
#[case::an_image(Operation::ChatCompletions, json!({ "type": "image_url", "image_url": { "url": "https://h/i.png" } }))]
#[case::an_image_without_a_type(Operation::ChatCompletions, json!({ "image_url": "https://h/i.png" }))]
#[case::sound(Operation::ChatCompletions, json!({ "type": "input_audio", "input_audio": { "data": "", "format": "wav" } }))]
#[case::a_type_with_an_escape(Operation::ChatCompletions, json!({ "type": "text\u{0}", "text": "hello" }))]
#[case::a_document(Operation::Messages, json!({ "type": "document", "source": { "type": "url", "url": "https://h/d.pdf" } }))]
#[case::an_image_of_a_tool(
    Operation::Messages,
    json!({ "type": "tool_result", "tool_use_id": "t", "content": [{ "type": "image", "source": {} }] })
)]
#[case::what_stands_too_deep(
    Operation::Messages,
    (0..4).fold(json!("a"), |content, _| json!({ "type": "tool_result", "content": [content] }))
)]
fn what_bytes_do_not_bound_counts_as_the_context(#[case] operation: Operation, #[case] part: Value) {
    let (usage, _) = bound(operation, &chat(json!({ "role": "user", "content": [part] })));
    assert_eq!(usage.input, 8192);
}

#[rstest]
#[case::the_sound_of_an_answer(Operation::ChatCompletions, chat(json!({ "role": "assistant", "audio": { "id": "a" } })))]
#[case::a_reference(Operation::Responses, json!({ "model": "m", "input": [{ "type": "item_reference", "id": "r" }] }))]
#[case::what_the_provider_keeps(Operation::Responses, json!({ "model": "m", "input": "a", "previous_response_id": "r" }))]
#[case::a_chat_to_embed(Operation::Embeddings, json!({ "model": "m", "messages": [] }))]
fn a_reference_counts_as_the_context(#[case] operation: Operation, #[case] body: Value) {
    assert_eq!(bound(operation, &body).0.input, 8192);
}

#[rstest]
#[case::as_sdks_write_answers(
    Operation::ChatCompletions,
    chat(json!({
        "role": "assistant", "content": null, "refusal": null, "audio": null, "function_call": null, "annotations": [],
        "tool_calls": [{ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } }],
    }))
)]
#[case::a_result(Operation::ChatCompletions, chat(json!({ "role": "tool", "tool_call_id": "c", "content": [{ "type": "text", "text": "a" }] })))]
#[case::thinking_and_a_call(
    Operation::Messages,
    chat(json!({ "role": "assistant", "content": [
        { "type": "thinking", "thinking": "hm", "signature": "s" },
        { "type": "redacted_thinking", "data": "d" },
        { "type": "text", "text": "a", "cache_control": { "type": "ephemeral" } },
        { "type": "tool_use", "id": "t", "name": "f", "input": { "image": "i" } },
    ] }))
)]
#[case::items(
    Operation::Responses,
    json!({ "model": "m", "max_output_tokens": 100, "input": [
        { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "a" }] },
        { "type": "reasoning", "id": "r", "summary": [{ "type": "summary_text", "text": "hm" }], "encrypted_content": "e" },
        { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed" },
        { "type": "function_call_output", "call_id": "c", "output": "a" },
    ] })
)]
fn conversations_of_agents_are_bounded_by_their_bytes(#[case] operation: Operation, #[case] body: Value) {
    let (usage, length) = bound(operation, &body);
    assert!(usage.input < length + 200, "{usage:?}");
}

/// How a stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Vllm,
    OpenAI,
    Messages,
    Responses,
}

impl Shape {
    const ALL: [Self; 4] = [Self::Vllm, Self::OpenAI, Self::Messages, Self::Responses];

    fn server(self) -> (Server, Operation) {
        match self {
            Self::Vllm => (Server::Vllm, Operation::ChatCompletions),
            Self::OpenAI => (Server::Provider(Provider::OpenAI), Operation::ChatCompletions),
            Self::Messages => (Server::Provider(Provider::Anthropic), Operation::Messages),
            Self::Responses => (Server::Provider(Provider::OpenAI), Operation::Responses),
        }
    }

    /// The events of an answer whose tokens come in pieces of these sizes, each with the tokens that were made by then.
    fn events(self, input: u64, sizes: &[u64]) -> Vec<(String, u64)> {
        let mut made = 0;
        let mut events = Vec::new();
        let chunk = |choices: Value, usage: Value| format!("data: {}\n\n", json!({ "choices": choices, "usage": usage }));
        let usage = |made: u64| json!({ "prompt_tokens": input, "completion_tokens": made, "total_tokens": input + made });
        let running = |made: u64| if self == Self::Vllm { usage(made) } else { Value::Null };
        let named = |name: &str, data: Value| format!("event: {name}\ndata: {data}\n\n");
        events.push(match self {
            Self::Vllm | Self::OpenAI => (chunk(json!([{ "index": 0, "delta": { "role": "assistant" } }]), running(0)), 0),
            Self::Messages => {
                let usage = json!({ "input_tokens": input, "output_tokens": 1 });
                (named("message_start", json!({ "type": "message_start", "message": { "usage": usage } })), 0)
            }
            Self::Responses => (named("response.created", json!({ "type": "response.created" })), 0),
        });
        for size in sizes {
            made += size;
            let event = match self {
                Self::Vllm | Self::OpenAI => chunk(json!([{ "index": 0, "delta": { "content": "a" } }]), running(made)),
                Self::Messages => named(
                    "content_block_delta",
                    json!({ "type": "content_block_delta", "delta": { "type": "text_delta", "text": "a" } }),
                ),
                Self::Responses => {
                    named("response.output_text.delta", json!({ "type": "response.output_text.delta", "delta": "a" }))
                }
            };
            events.push((event, made));
        }
        let last = match self {
            Self::Vllm | Self::OpenAI => vec![
                chunk(json!([{ "index": 0, "delta": {}, "finish_reason": "stop" }]), running(made)),
                chunk(json!([]), usage(made)),
                "data: [DONE]\n\n".to_owned(),
            ],
            Self::Messages => {
                let delta = json!({
                    "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": { "output_tokens": made },
                });
                vec![named("message_delta", delta), named("message_stop", json!({ "type": "message_stop" }))]
            }
            Self::Responses => {
                let usage = json!({ "input_tokens": input, "output_tokens": made, "total_tokens": input + made });
                let completed = json!({ "type": "response.completed", "response": { "usage": usage } });
                vec![named("response.completed", completed)]
            }
        };
        events.extend(last.into_iter().map(|event| (event, made)));
        events
    }
}

/// How the gateway stops reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The client left.
    Left,
    /// The connection broke.
    Broke,
    /// The backend ended the stream.
    Ended,
}

proptest! {
    /// A server counts at most a token for each byte of text, and makes at most what it was asked for. Where the connection breaks
    /// or is left it may be ahead of what has come, up to the limit; where it ends the stream itself it is ahead by an event.
    #[test]
    fn what_counts_is_exact_or_never_below_what_the_server_counted(
        shape in prop::sample::select(Shape::ALL.to_vec()),
        prompt in "\\PC{0,60}",
        sizes in prop::collection::vec(1_u64..=8, 0..12),
        unused in 0_u64..100,
        at in any::<prop::sample::Index>(),
        length in 1_usize..200,
        stop in prop::sample::select(vec![Stop::Left, Stop::Broke, Stop::Ended]),
    ) {
        let (server, operation) = shape.server();
        let (input, made): (u64, u64) = (u64::try_from(prompt.len()).unwrap(), sizes.iter().sum());
        let limit = made + unused + 1;
        let body = match operation {
            Operation::Responses => json!({ "model": "m", "input": prompt, "max_output_tokens": limit }),
            _ => json!({ "model": "m", "max_tokens": limit, "messages": [{ "role": "user", "content": prompt }] }),
        };
        let most = of(&read(operation, body.to_string().as_bytes()).unwrap(), &backend(Some(1 << 20), None));
        let asked = Asked {
            server,
            operation,
            client_wants_usage: false,
            client_wants_running_usage: false,
            single_choice: true,
            most_output: most.output,
        };

        let events = shape.events(input, &sizes);
        let whole: String = events.iter().map(|(event, _)| event.as_str()).collect();
        let sent = &whole.as_bytes()[..at.index(whole.len() + 1)];
        let mut meter = Meter::new(asked);
        for chunk in sent.chunks(length) {
            meter.push(&Bytes::copy_from_slice(chunk), &mut Vec::new());
        }
        match stop {
            Stop::Left => {}
            Stop::Broke => drop(meter.end(Close::Broken)),
            Stop::Ended => drop(meter.end(Close::Clean)),
        }
        let (counted, exact) = meter.usage().or_at_most(most);
        if exact {
            prop_assert_eq!((counted.input, counted.output), (input, made));
        } else {
            let mut end = 0;
            let next = events.iter().find(|(event, _)| {
                end += event.len();
                end > sent.len()
            });
            let next = next.map_or(made, |(_, made)| *made);
            let truth = if stop == Stop::Ended { next } else { limit };
            prop_assert!(counted.input >= input && counted.output >= truth, "{:?} {} {}", counted, input, truth);
        }
        prop_assert!(exact || sent.len() < whole.len(), "what is whole is exact");
    }

    /// However a text is escaped, its bytes are bounded by those of the body.
    #[test]
    fn no_text_has_more_bytes_than_its_bound(texts in prop::collection::vec("\\PC{0,30}", 1..5)) {
        let bytes: usize = texts.iter().map(String::len).sum();
        let messages: Vec<Value> = texts.iter().map(|text| json!({ "role": "user", "content": text })).collect();
        let raw = json!({ "model": "m", "messages": messages }).to_string();
        let escaped: String = raw.chars().flat_map(|character| {
            let mut units = [0; 2];
            let escapes = character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
            if character.is_ascii() { vec![character] } else { escapes.chars().collect() }
        }).collect();
        for body in [raw, escaped] {
            let body = read(Operation::ChatCompletions, body.as_bytes()).unwrap();
            prop_assert!(!body.opaque_input);
            prop_assert!(of(&body, &backend(None, None)).input >= u64::try_from(bytes).unwrap());
        }
    }
}
