use proptest::prelude::*;
use rstest::rstest;

use super::fixtures::{Golden, asked, bounded, exact, goldens};
use super::*;
use crate::api::external::Provider;

/// What a meter said about a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    forwarded: String,
    content: bool,
    error: Option<String>,
    ending: Option<Ending>,
    terminated: bool,
    usage: Metered,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What goes on of a chunk.
fn push(meter: &mut Meter, chunk: &Bytes) -> Vec<Bytes> {
    let mut forward = Vec::new();
    meter.push(chunk, &mut forward);
    forward
}

fn observe<'chunks>(asked: Asked, chunks: impl IntoIterator<Item = &'chunks [u8]>, close: Close) -> Outcome {
    let mut meter = Meter::new(asked);
    let mut forwarded = Vec::new();
    for chunk in chunks {
        push(&mut meter, &Bytes::copy_from_slice(chunk)).iter().for_each(|piece| forwarded.extend_from_slice(piece));
    }
    forwarded.extend_from_slice(&meter.end(close));
    Outcome {
        forwarded: text(&forwarded),
        content: meter.has_content(),
        error: meter.error().map(|error| text(error)),
        ending: meter.ending(),
        terminated: meter.is_terminated(),
        usage: meter.usage(),
    }
}

fn observe_whole(asked: Asked, stream: &str) -> Outcome {
    observe(asked, [stream.as_bytes()], Close::Clean)
}

/// The golden stream of this name.
fn golden(name: &str) -> Golden {
    goldens().into_iter().find(|golden| golden.name == name).unwrap()
}

fn asked_of(golden: &Golden) -> Asked {
    asked(golden.server, golden.operation)
}

/// The events of a stream with their blank lines.
fn events(stream: &str) -> impl Iterator<Item = &str> {
    stream.split_inclusive("\n\n")
}

/// A golden stream up to and with the event in which this stands.
fn up_to(golden: &Golden, last: &str) -> &'static str {
    let at = golden.stream.find(last).unwrap();
    let end = at + golden.stream[at..].find("\n\n").unwrap() + 2;
    &golden.stream[..end]
}

#[test]
fn golden_streams_are_understood_wherever_their_chunks_begin() {
    for golden in goldens() {
        let whole = observe_whole(asked_of(&golden), golden.stream);
        let name = golden.name;
        assert_eq!(whole.content, golden.first_content.is_some(), "{name}");
        assert_eq!(whole.ending, golden.ending, "{name}");
        assert_eq!(whole.usage, golden.usage, "{name}");
        match (golden.error, &whole.error) {
            (Some(expected), Some(error)) => assert!(error.contains(expected), "{name}: {error}"),
            (expected, error) => assert_eq!(error.as_deref(), expected, "{name}"),
        }
        assert_eq!(whole.forwarded, golden.forwarded(), "{name}");
        for at in 1..golden.stream.len() {
            let (before, after) = golden.stream.as_bytes().split_at(at);
            assert_eq!(observe(asked_of(&golden), [before, after], Close::Clean), whole, "{name} cut at {at}");
        }
        for length in [1, 2, 3, 7, 100] {
            let chunks = golden.stream.as_bytes().chunks(length);
            assert_eq!(observe(asked_of(&golden), chunks, Close::Clean), whole, "{name} in chunks of {length}");
        }
    }
}

#[test]
fn line_ends_make_no_difference() {
    for golden in goldens() {
        let expected = observe_whole(asked_of(&golden), golden.stream);
        for line_end in ["\r\n", "\r"] {
            let found = observe_whole(asked_of(&golden), &golden.stream.replace('\n', line_end));
            let forwarded = expected.forwarded.replace('\n', line_end);
            assert_eq!(found, Outcome { forwarded, ..expected.clone() }, "{}", golden.name);
        }
    }
}

#[test]
fn a_client_that_asked_for_usage_gets_every_byte() {
    for golden in goldens() {
        let asked = Asked { client_wants_usage: true, client_wants_running_usage: true, ..asked_of(&golden) };
        let outcome = observe_whole(asked, golden.stream);
        assert_eq!(outcome.forwarded, golden.stream, "{}", golden.name);
        assert_eq!(outcome.usage, golden.usage, "{}", golden.name);
        // Only vLLM is asked for more than the client has asked for.
        let at_the_end = Asked { client_wants_running_usage: false, ..asked };
        let outcome = observe_whole(at_the_end, golden.stream);
        assert_eq!(outcome.forwarded, Golden { withheld: false, ..golden }.forwarded());
    }
}

/// LangChain adds up the usage of all chunks; OpenAI has it in the last one alone.
#[test]
fn the_running_counts_of_vllm_are_for_the_gateway_alone() {
    for name in ["vLLM", "vLLM, completions", "vLLM, failing"] {
        let golden = golden(name);
        let outcome = observe_whole(asked_of(&golden), golden.stream);
        assert!(golden.stream.contains("\"usage\"") && !outcome.forwarded.contains("\"usage\""), "{name}: {}", outcome.forwarded);
        assert_eq!(outcome.usage, golden.usage, "{name}: what was cut is known all the same");
        // Each of the other bytes is there, and every event is one.
        for event in events(&outcome.forwarded) {
            let data = event.strip_prefix("data: ").and_then(|data| data.strip_suffix("\n\n")).unwrap();
            assert!(data == "[DONE]" || serde_json::from_str::<Value>(data).is_ok(), "{name}: {event}");
        }
        let asked = Asked { client_wants_usage: true, ..asked_of(&golden) };
        let told = observe_whole(asked, golden.stream).forwarded;
        assert_eq!(told.matches("\"usage\"").count(), usize::from(golden.withheld), "{name}: {told}");
    }
}

#[rstest]
#[case::in_the_middle(
    r#"data: {"choices":[{"delta":{"content":"\"usage\":{}"}}],"usage":{"prompt_tokens":9,"completion_tokens":1},"token_ids":[1]}"#,
    r#"data: {"choices":[{"delta":{"content":"\"usage\":{}"}}],"token_ids":[1]}"#
)]
#[case::with_a_name_and_spaces(
    "event: chunk\ndata:  { \"usage\": {\"prompt_tokens\": 9}, \"choices\": [{\"delta\": {\"content\": \"x\"}}] } ",
    "event: chunk\ndata:  {  \"choices\": [{\"delta\": {\"content\": \"x\"}}] } "
)]
fn of_an_event_nothing_but_the_usage_is_cut(#[case] event: &str, #[case] expected: &str) {
    let asked = asked(Server::Vllm, Operation::ChatCompletions);
    assert_eq!(observe_whole(asked, &format!("{event}\n\n")).forwarded, format!("{expected}\n\n"));
    assert_eq!(observe_whole(asked, event).forwarded, expected, "also at the end, without its blank line");
}

#[test]
fn data_of_several_lines_is_left_alone() {
    let stream =
        "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\ndata: \"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}\n\n";
    assert_eq!(observe_whole(asked(Server::Vllm, Operation::ChatCompletions), stream).forwarded, stream);
}

#[test]
fn an_attempt_is_good_at_its_first_content_and_not_before() {
    for golden in goldens() {
        let mut meter = Meter::new(asked_of(&golden));
        let mut good = false;
        for event in events(golden.stream) {
            good |= golden.first_content.is_some_and(|content| event.contains(content));
            push(&mut meter, &Bytes::copy_from_slice(event.as_bytes()));
            assert_eq!(meter.has_content(), good, "{}: {event}", golden.name);
        }
    }
}

#[test]
fn a_stream_cut_anywhere_is_never_complete_and_never_exact_about_a_part() {
    for golden in goldens() {
        for at in 0..golden.stream.len() {
            let cut = observe(asked_of(&golden), [&golden.stream.as_bytes()[..at]], Close::Broken);
            let name = golden.name;
            // The last blank line, or a part of it, may be missing.
            let whole_but_for_it = golden.stream.as_bytes()[at..].trim_ascii().is_empty();
            assert!(!cut.terminated || whole_but_for_it, "{name} cut at {at}");
            assert!(cut.ending != Some(Ending::Complete) || whole_but_for_it, "{name} cut at {at}");
            match cut.usage {
                Metered::Exact(usage) if cut.error.is_none() => {
                    // Details of caches may be missing, but no tokens.
                    let Metered::Exact(truth) = golden.usage else { panic!("{name} cut at {at}: {usage:?}") };
                    let tokens = |usage: Usage| usage.input + usage.cached_input + usage.cache_write + usage.output;
                    assert_eq!(tokens(usage), tokens(truth), "{name} cut at {at}");
                }
                Metered::Exact(usage) => assert!(cut.content || usage == Usage::default(), "{name} cut at {at}"),
                Metered::Bounded(_) | Metered::Unknown => {}
            }
            // What went on is a part of the stream, and ends with an event, or lacks only its blank line.
            let whole = golden.forwarded();
            let rest = whole.strip_prefix(&cut.forwarded).unwrap_or_else(|| panic!("{name} cut at {at}"));
            assert!(cut.forwarded.is_empty() || cut.forwarded.ends_with("\n\n") || rest.starts_with('\n'), "{name} cut at {at}");
        }
    }
}

#[rstest]
#[case::openai("OpenAI", "Hel", Metered::Unknown)]
#[case::openai_after_its_usage("OpenAI", "prompt_tokens_details", exact(6, 64, 0, 21))]
#[case::gemini_counts_on("Gemini", "Hi", Metered::Unknown)]
#[case::gemini_at_its_finish("Gemini", "finish_reason", exact(10, 0, 0, 30))]
#[case::groq("Groq", "Hi", Metered::Unknown)]
#[case::vllm_before_content("vLLM", "assistant", bounded(34, 0, 0, 400))]
#[case::vllm("vLLM", "Hi", bounded(34, 0, 0, 400))]
#[case::vllm_at_its_finish("vLLM", "stop_reason", exact(34, 0, 0, 5))]
#[case::vllm_completions("vLLM, completions", "Hi", bounded(34, 0, 0, 400))]
#[case::ollama("Ollama", "Hi", Metered::Unknown)]
#[case::anthropic_at_its_start("Anthropic", "message_start", bounded(25, 0, 0, 400))]
#[case::anthropic("Anthropic", "Hel", bounded(25, 0, 0, 400))]
#[case::anthropic_with_a_cache("Anthropic, thinking and a tool", "partial_json", bounded(79, 1000, 200, 400))]
#[case::anthropic_after_its_usage("Anthropic", "end_turn", exact(25, 0, 0, 15))]
#[case::vllm_messages("vLLM, messages", "Hi", bounded(2, 32, 0, 400))]
#[case::an_adapter_that_has_not_counted("an adapter that counts at the end", "Hi", Metered::Unknown)]
#[case::responses("responses", "Hi", Metered::Unknown)]
fn what_a_cut_answer_cost(#[case] name: &str, #[case] last: &str, #[case] expected: Metered) {
    let golden = golden(name);
    let stream = up_to(&golden, last);
    let cut = observe(asked_of(&golden), [stream.as_bytes()], Close::Broken);
    assert_eq!((cut.ending, cut.usage), (None, expected));
}

#[test]
fn a_bound_is_no_more_than_the_limit_that_was_sent() {
    let golden = golden("vLLM");
    let stream = up_to(&golden, "Hi");
    let limited = |most_output| observe_whole(Asked { most_output, ..asked_of(&golden) }, stream).usage;
    assert_eq!(limited(10), bounded(34, 0, 0, 10));
    assert_eq!(limited(1), bounded(34, 0, 0, 2));
    assert_eq!(limited(400), bounded(34, 0, 0, 34));
}

/// vLLM does not wait for who reads: what it has made is ahead of what has come, by any number of tokens.
#[test]
fn a_stream_that_broke_or_was_left_may_have_been_made_to_its_limit() {
    let golden = golden("vLLM");
    let stream = Bytes::from_static(up_to(&golden, "Hi").as_bytes());
    let mut left = Meter::new(asked_of(&golden));
    push(&mut left, &stream);
    assert_eq!(left.usage(), bounded(34, 0, 0, 400));
    left.end(Close::Broken);
    assert_eq!(left.usage(), bounded(34, 0, 0, 400));
    let mut ended = Meter::new(asked_of(&golden));
    push(&mut ended, &stream);
    ended.end(Close::Clean);
    assert_eq!(ended.usage(), bounded(34, 0, 0, 34));
}

#[test]
fn tools_that_the_provider_runs_leave_a_cut_message_without_a_bound() {
    let golden = golden("Anthropic");
    let text = r#""content_block":{"type":"text","text":""}"#;
    let search = r#""content_block":{"type":"server_tool_use","id":"s","name":"web_search","input":{}}"#;
    let stream = golden.stream.replace(text, search);
    let cut = up_to(&golden, "Hel").replace(text, search);
    assert_eq!(observe_whole(asked_of(&golden), &cut).usage, Metered::Unknown);
    assert_eq!(observe_whole(asked_of(&golden), &stream).usage, exact(25, 0, 0, 15));
}

#[test]
fn running_counts_of_several_choices_are_those_of_one_each() {
    let stream = r#"data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3}}

data: {"choices":[{"index":1,"delta":{"content":"b"},"finish_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":13,"completion_tokens":4}}

data: {"choices":[{"index":0,"delta":{"content":"."},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"total_tokens":15,"completion_tokens":6}}

data: {"choices":[{"index":1,"delta":{"content":"."},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"total_tokens":14,"completion_tokens":5}}

data: {"choices":[],"usage":{"prompt_tokens":9,"total_tokens":20,"completion_tokens":11}}

data: [DONE]

"#;
    let asked = asked(Server::Vllm, Operation::ChatCompletions);
    assert_eq!(observe_whole(asked, stream).usage, exact(9, 0, 0, 11));
    let several = Asked { single_choice: false, ..asked };
    for count in 1..=4 {
        let cut: String = events(stream).take(count).collect();
        assert_eq!(observe_whole(several, &cut).usage, Metered::Unknown, "{count}");
        let expected = if count == 1 { bounded(9, 0, 0, 35) } else { Metered::Unknown };
        assert_eq!(observe_whole(asked, &cut).usage, expected, "{count}");
    }
    let without_total: String = events(stream).filter(|event| !event.contains("\"choices\":[]")).collect();
    assert_eq!(observe_whole(several, &without_total).usage, Metered::Unknown);
}

#[rstest]
#[case::negative(r#"{"prompt_tokens":9,"completion_tokens":-1}"#)]
#[case::fractional(r#"{"prompt_tokens":9,"completion_tokens":1.5}"#)]
#[case::too_large(r#"{"prompt_tokens":9,"completion_tokens":9007199254740993}"#)]
#[case::empty("{}")]
fn usage_that_is_none_is_unknown_and_still_not_shown(#[case] usage: &str) {
    let golden = golden("Azure");
    let chunk = format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n");
    let stream = golden.stream.replace(golden.withheld().unwrap(), &chunk);
    let outcome = observe_whole(asked_of(&golden), &stream);
    assert_eq!((outcome.ending, outcome.usage), (Some(Ending::Complete), Metered::Unknown));
    assert!(!outcome.forwarded.contains(&chunk));
}

#[test]
fn a_chunk_with_usage_and_more_is_never_kept_back() {
    for chunk in [
        r#"{"choices":[{"index":0,"delta":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#,
        r#"{"choices":[{"index":0,"delta":{"role":"assistant"}}],"usage":{"prompt_tokens":9,"completion_tokens":0}}"#,
        r#"{"choices":[{"index":0,"delta":{}}],"usage":{"prompt_tokens":9,"completion_tokens":0}}"#,
        r#"{"choices":[],"usage":null}"#,
        r#"{"choices":[]}"#,
        r#"{"usage":{"prompt_tokens":9,"completion_tokens":1}}"#,
    ] {
        let stream = format!("data: {chunk}\n\n");
        let outcome = observe_whole(asked(Server::Provider(Provider::OpenAICompatible), Operation::ChatCompletions), &stream);
        assert_eq!(outcome.forwarded, stream);
    }
}

#[rstest]
#[case::done("OpenAI", "\n\n")]
#[case::done_with_a_line("OpenAI", "\n")]
#[case::message_stop("Anthropic", "\n\n")]
#[case::completed("responses", "\n\n")]
fn a_last_event_without_its_blank_line_counts(#[case] name: &str, #[case] missing: &str) {
    let golden = golden(name);
    let stream = golden.stream.strip_suffix(missing).unwrap();
    for close in [Close::Clean, Close::Broken] {
        let outcome = observe(asked_of(&golden), [stream.as_bytes()], close);
        assert_eq!((outcome.ending, outcome.usage), (Some(Ending::Complete), golden.usage), "{close:?}");
        assert!(stream.ends_with(outcome.forwarded.rsplit("\n\n").next().unwrap()), "{close:?}");
    }
}

#[test]
fn usage_as_a_last_event_without_its_blank_line_is_kept_back_too() {
    let golden = golden("OpenAI");
    let stream = up_to(&golden, "prompt_tokens_details").trim_end();
    let outcome = observe(asked_of(&golden), [stream.as_bytes()], Close::Broken);
    assert_eq!(outcome.usage, golden.usage);
    assert!(!outcome.forwarded.contains("cached_tokens"));
}

#[test]
fn done_without_a_reason_to_finish_is_no_complete_answer() {
    let golden = golden("OpenAI, not asked for usage");
    let stream: String = events(golden.stream).filter(|event| !event.contains("stop")).collect();
    let outcome = observe_whole(asked_of(&golden), &stream);
    assert_eq!((outcome.ending, outcome.terminated), (Some(Ending::Unfinished), true));
    assert_eq!(outcome.forwarded, stream);
}

#[test]
fn an_empty_stream_is_no_answer() {
    for stream in ["", "data: [DONE]\n\n", ": nothing\n\n"] {
        let outcome = observe_whole(asked(Server::Vllm, Operation::ChatCompletions), stream);
        assert!(!outcome.content, "{stream}");
        assert_ne!(outcome.ending, Some(Ending::Complete), "{stream}");
        assert_eq!(outcome.usage, Metered::Unknown, "{stream}");
    }
}

#[test]
fn an_answer_that_finishes_without_a_word_is_good() {
    let stream = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n";
    let outcome = observe_whole(asked(Server::Vllm, Operation::ChatCompletions), stream);
    assert_eq!((outcome.content, outcome.ending), (true, Some(Ending::Complete)));
}

#[test]
fn content_after_an_error_makes_no_attempt_good() {
    let content = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";
    let stream = format!("data: {{\"error\":\"no\"}}\n\n{content}data: [DONE]\n\n");
    let outcome = observe_whole(asked(Server::Vllm, Operation::ChatCompletions), &stream);
    assert_eq!((outcome.content, outcome.ending), (false, Some(Ending::Failed)));
    assert_eq!(outcome.error.as_deref(), Some(r#"{"error":{"message":"no"}}"#));
}

#[rstest]
#[case::no_object(Operation::ChatCompletions, "event: error\ndata: out of memory\n\n", "out of memory")]
#[case::null(Operation::ChatCompletions, "event: error\ndata: null\n\n", "null")]
#[case::in_a_choice(
    Operation::ChatCompletions,
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"error\":{\"code\":502,\"message\":\"no\"}}]}\n\n",
    "502"
)]
#[case::without_a_word(
    Operation::ChatCompletions,
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"error\"}]}\n\n",
    "ended its answer"
)]
#[case::mistral(Operation::ChatCompletions, "data: {\"object\":\"error\",\"message\":\"no\",\"type\":\"x\"}\n\n", "\"no\"")]
#[case::adapter(Operation::Messages, "data: {\"error\":{\"message\":\"no\",\"code\":\"500\"}}\n\n", "\"no\"")]
#[case::nested(Operation::Responses, "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"no\"}}\n\n", "\"no\"")]
#[case::unnamed(Operation::Responses, "data: {\"error\":{\"message\":\"no\"}}\n\n", "\"no\"")]
#[case::without_a_reason(Operation::Responses, "event: response.failed\ndata: {}\n\n", "ended its answer")]
fn an_error_in_any_form_is_an_error(#[case] operation: Operation, #[case] stream: &str, #[case] expected: &str) {
    let outcome = observe_whole(asked(Server::Provider(Provider::OpenAICompatible), operation), stream);
    assert_eq!((outcome.content, outcome.ending), (false, Some(Ending::Failed)));
    assert!(outcome.error.as_deref().unwrap().contains(expected), "{:?}", outcome.error);
    assert_eq!(outcome.usage, exact(0, 0, 0, 0));
    assert_eq!(outcome.forwarded, stream);
}

#[test]
fn an_event_that_tells_of_the_cut_follows_whole_events() {
    let golden = golden("responses, an error event");
    let mut meter = Meter::new(asked_of(&golden));
    let mut sent = Vec::new();
    for event in events(up_to(&golden, "Hi")) {
        push(&mut meter, &Bytes::copy_from_slice(event.as_bytes())).iter().for_each(|piece| sent.extend_from_slice(piece));
    }
    push(&mut meter, &Bytes::from_static(b"event: response.output_text.delta\ndata: {\"ty"));
    assert!(meter.is_between_events());
    sent.extend_from_slice(&meter.end(Close::Broken));
    assert_eq!(meter.ending(), None);
    sent.extend_from_slice(&meter.error_event(FailureKind::Unavailable, "The backend's connection broke."));
    let last = text(&sent);
    let last = events(&last).last().unwrap();
    assert!(last.starts_with("event: error\n") && last.contains("\"sequence_number\":2"), "{last}");
}

#[rstest]
#[case::a_piece_of_an_event("data: {\"choi")]
#[case::an_event_without_its_blank_line("data: {\"choices\":[]}")]
fn what_a_backend_left_in_order_goes_on_apart_from_the_error_event(#[case] rest: &str) {
    let mut meter = Meter::new(asked(Server::Vllm, Operation::ChatCompletions));
    assert_eq!(push(&mut meter, &Bytes::copy_from_slice(rest.as_bytes())), Vec::<Bytes>::new());
    assert_eq!(meter.end(Close::Clean), rest);
    assert!(!meter.is_between_events());
    let event = meter.error_event(FailureKind::Timeout, "silence");
    assert!(event.starts_with(b"\n\ndata: {"));
}

#[test]
fn bytes_that_are_no_text_pass_and_nothing_is_metered() {
    let mut compressed = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03".to_vec();
    compressed.extend((0..5000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()[3]));
    let mut meter = Meter::new(asked(Server::Vllm, Operation::ChatCompletions));
    let mut forwarded = Vec::new();
    push(&mut meter, &Bytes::from(compressed.clone())).iter().for_each(|piece| forwarded.extend_from_slice(piece));
    forwarded.extend_from_slice(&meter.end(Close::Clean));
    assert_eq!(forwarded, compressed);
    assert_eq!((meter.ending(), meter.usage(), meter.has_content()), (None, Metered::Unknown, false));
}

/// An event that is too long to be looked at.
fn long_event(beginning: &str, end: &str) -> String {
    format!("{beginning}{}{end}\n\n", "x".repeat(1 << 20))
}

#[test]
fn a_chunk_that_is_too_long_leaves_usage_open_until_it_is_stated_again() {
    let golden = golden("OpenAI");
    let long = long_event(r#"data: {"choices":[{"index":0,"delta":{"content":""#, r#""},"finish_reason":"stop"}]}"#);
    let usage = golden.withheld().unwrap();
    let after = observe_whole(asked_of(&golden), &format!("{long}{usage}data: [DONE]\n\n"));
    assert_eq!((after.content, after.ending), (true, Some(Ending::Complete)));
    assert_eq!(after.usage, golden.usage);
    let before = observe_whole(asked_of(&golden), &format!("{usage}{long}data: [DONE]\n\n"));
    assert_eq!((before.ending, before.usage), (Some(Ending::Complete), Metered::Unknown));
    assert!(before.forwarded == format!("{long}data: [DONE]\n\n"));
}

#[rstest]
#[case::completed("response.completed", Some(Ending::Complete))]
#[case::failed("response.failed", Some(Ending::Failed))]
#[case::another("response.output_text.done", None)]
fn a_long_event_of_a_response_is_known_by_its_name(#[case] name: &str, #[case] ending: Option<Ending>) {
    let stream = long_event(&format!("event: {name}\ndata: {{\"type\":\"{name}\",\"text\":\""), "\"}");
    let outcome = observe_whole(asked(Server::Provider(Provider::OpenAI), Operation::Responses), &stream);
    assert_eq!(outcome.ending, ending);
    assert_eq!(outcome.content, ending != Some(Ending::Failed));
    assert!(outcome.forwarded == stream);
    let cut = observe(
        asked(Server::Provider(Provider::OpenAI), Operation::Responses),
        [&stream.as_bytes()[..stream.len() - 2]],
        Close::Clean,
    );
    assert_eq!((cut.ending, cut.terminated), (None, false));
}

#[test]
fn a_long_first_event_of_a_message_leaves_its_input_open() {
    let golden = golden("Anthropic");
    let start = long_event("event: message_start\ndata: {\"type\":\"message_start\",\"new\":\"", "\"}");
    let rest: String = events(golden.stream).skip(1).collect();
    let outcome = observe_whole(asked_of(&golden), &format!("{start}{rest}"));
    assert_eq!((outcome.ending, outcome.usage), (Some(Ending::Complete), Metered::Unknown));
}

#[test]
fn no_comment_fits_into_an_event_that_is_too_long_to_be_held() {
    let mut meter = Meter::new(asked(Server::Vllm, Operation::ChatCompletions));
    push(&mut meter, &Bytes::from(vec![b'x'; (1 << 20) + 1]));
    assert!(!meter.is_between_events());
    push(&mut meter, &Bytes::from_static(b"x\n\n"));
    assert!(meter.is_between_events());
}

#[test]
fn what_is_kept_before_the_first_content_is_bounded() {
    let mut meter = Meter::new(asked(Server::Vllm, Operation::ChatCompletions));
    let comment = Bytes::from(format!(": {}\n\n", "x".repeat(1020)));
    let mut pushed = 0;
    while !meter.has_content() {
        push(&mut meter, &comment);
        pushed += comment.len();
        assert!(pushed <= MOST_BEFORE_CONTENT + comment.len());
    }
}

proptest! {
    #[test]
    fn any_bytes_come_out_whole_and_in_order(
        stream in prop::collection::vec(any::<u8>(), 0..300),
        wants in any::<bool>(),
        length in 1_usize..50,
    ) {
        for operation in [Operation::ChatCompletions, Operation::Messages, Operation::Responses] {
            let asked = Asked { client_wants_usage: wants, ..asked(Server::Vllm, operation) };
            let mut meter = Meter::new(asked);
            let mut forwarded: Vec<u8> = Vec::new();
            for chunk in stream.chunks(length) {
                push(&mut meter, &Bytes::copy_from_slice(chunk)).iter().for_each(|piece| forwarded.extend_from_slice(piece));
            }
            forwarded.extend_from_slice(&meter.end(Close::Clean));
            prop_assert_eq!(&forwarded, &stream);
        }
    }

    #[test]
    fn events_of_any_content_come_out_whole_and_in_the_same_outcome(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "data: ", "event: ", "error", "message_stop", "\n", "\n\n", "\r\n", "{", "}", "[DONE]", "[", "]", ":", ",", "1", "-1",
                "\"choices\"", "\"usage\"", "\"delta\"", "\"error\"", "\"type\"", "null", "\"x\"", "{}", "\"prompt_tokens\"",
                "{\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}", ": c", "\u{feff}",
            ]),
            0..40,
        ),
        at in any::<prop::sample::Index>(),
    ) {
        let stream = pieces.concat();
        for operation in [Operation::ChatCompletions, Operation::Messages, Operation::Responses] {
            let wants = Asked { client_wants_usage: true, client_wants_running_usage: true, ..asked(Server::Vllm, operation) };
            let whole = observe_whole(wants, &stream);
            prop_assert_eq!(&whole.forwarded, &stream);
            let (before, after) = stream.as_bytes().split_at(at.index(stream.len() + 1));
            prop_assert_eq!(observe(wants, [before, after], Close::Clean), whole);
        }
    }
}
