use rstest::rstest;
use serde_json::Value;

use super::super::events::Event;
use super::*;

const FORMATS: [Format; 5] =
    [Format::ChatCompletions, Format::Completions, Format::Embeddings, Format::Messages, Format::Responses];

/// The name of an event, and its data as JSON.
fn parse(event: &[u8]) -> (Option<&str>, Value) {
    let event = Event::parse(event);
    (event.name.map(|name| str::from_utf8(name).unwrap()), serde_json::from_slice(&event.data.unwrap()).unwrap())
}

#[rstest]
#[case(Format::ChatCompletions, None, "/error/message", "/error/code", "backend_unavailable")]
#[case(Format::Completions, None, "/error/message", "/error/code", "backend_unavailable")]
#[case(Format::Messages, Some("error"), "/error/message", "/error/type", "api_error")]
#[case(Format::Responses, Some("error"), "/message", "/code", "backend_unavailable")]
fn a_broken_stream_ends_as_its_format_ends(
    #[case] format: Format,
    #[case] name: Option<&str>,
    #[case] message: &str,
    #[case] code: &str,
    #[case] expected: &str,
) {
    let event = error_event(format, FailureKind::Unavailable, "The backend's connection broke.", 7);
    let (found, data) = parse(&event);
    assert_eq!(found, name);
    assert_eq!(data.pointer(message).unwrap(), "The backend's connection broke.");
    assert_eq!(data.pointer(code).unwrap(), expected);
    assert_eq!(data.pointer("/error/message").unwrap(), "The backend's connection broke.", "SDKs raise by this");
    let timeout = error_event(format, FailureKind::Timeout, "No answer in time.", 7);
    assert_ne!(parse(&timeout).1.pointer(code), data.pointer(code));
}

#[test]
fn it_is_one_whole_event_and_never_claims_that_the_answer_is_complete() {
    for format in FORMATS {
        let event = error_event(format, FailureKind::Unavailable, "line\n\ndata: [DONE]\n\n", 0);
        let text = str::from_utf8(&event).unwrap();
        assert_eq!(text.find("\n\n"), Some(text.len() - 2), "{text}");
        assert!(!text.contains("\ndata: [DONE]"), "{text}");
    }
}

#[test]
fn responses_number_their_events() {
    let event = error_event(Format::Responses, FailureKind::Unavailable, "broken", 7);
    assert_eq!(parse(&event).1["sequence_number"], 7);
}

#[test]
fn what_keeps_a_connection_alive_is_no_event() {
    assert_eq!(Event::parse(KEEP_ALIVE), Event::default());
    assert!(KEEP_ALIVE.ends_with(b"\n\n"));
}
