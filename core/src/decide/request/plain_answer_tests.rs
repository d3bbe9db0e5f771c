use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn exact(input: u64, cached_input: u64, cache_write: u64, output: u64) -> PlainAnswer {
    PlainAnswer::Good(Metered::Exact(Usage { input, cached_input, cache_write, output }))
}

#[rstest]
#[case::chat(
    Operation::ChatCompletions,
    r#"{"id":"a","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},
        "finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12},"error":null}"#,
    exact(9, 0, 0, 3)
)]
#[case::after_lines_that_keep_the_connection_alive(
    Operation::ChatCompletions,
    "\n\n\n {\"choices\":[{}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}",
    exact(9, 0, 0, 3)
)]
#[case::completions(
    Operation::Completions,
    r#"{"choices":[{"text":"hi"}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#,
    exact(9, 0, 0, 3)
)]
#[case::embeddings(
    Operation::Embeddings,
    r#"{"object":"list","data":[{"embedding":[0.1,-0.2]}],"usage":{"prompt_tokens":9,"total_tokens":9}}"#,
    exact(9, 0, 0, 0)
)]
#[case::responses(
    Operation::Responses,
    r#"{"object":"response","status":"completed","error":null,"output":[{"type":"message"}],
        "usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},"output_tokens":3,"total_tokens":12}}"#,
    exact(5, 4, 0, 3)
)]
#[case::messages(
    Operation::Messages,
    r#"{"type":"message","content":[{"type":"text","text":"hi"}],
        "usage":{"input_tokens":9,"cache_read_input_tokens":4,"cache_creation_input_tokens":2,"output_tokens":3}}"#,
    exact(9, 4, 2, 3)
)]
#[case::counting_costs_nothing(Operation::CountTokens, r#"{"input_tokens":2095}"#, exact(0, 0, 0, 0))]
#[case::nothing_to_say(
    Operation::Messages,
    r#"{"type":"message","content":[],"usage":{"input_tokens":9,"output_tokens":1}}"#,
    exact(9, 0, 0, 1)
)]
fn usage_of_an_answer(#[case] operation: Operation, #[case] body: &str, #[case] expected: PlainAnswer) {
    assert_eq!(read(operation, body.as_bytes()), expected);
}

#[rstest]
#[case::missing(r#"{"choices":[{"message":{"content":"hi"}}]}"#)]
#[case::null(r#"{"choices":[{}],"usage":null}"#)]
#[case::a_text(r#"{"choices":[{}],"usage":"prompt_tokens"}"#)]
#[case::negative(r#"{"choices":[{}],"usage":{"prompt_tokens":9,"completion_tokens":-3}}"#)]
#[case::fractional(r#"{"choices":[{}],"usage":{"prompt_tokens":9.5,"completion_tokens":3}}"#)]
#[case::in_a_text(r#"{"choices":[{"message":{"content":"{\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}"}}]}"#)]
#[case::elsewhere(r#"{"choices":[{"usage":{"prompt_tokens":9,"completion_tokens":3}}]}"#)]
fn an_answer_without_usage_is_unknown_and_not_free(#[case] body: &str) {
    assert_eq!(read(Operation::ChatCompletions, body.as_bytes()), PlainAnswer::Good(Metered::Unknown));
}

#[rstest]
#[case::openrouter(r#"{"error":{"code":502,"message":"no","metadata":{"error_type":"provider_unavailable"}},"user_id":"u"}"#)]
#[case::openrouter_with_a_part_of_the_answer(
    r#"{"choices":[{"message":{"content":"ha"},"finish_reason":"error"}],"error":{"code":502,"message":"no"}}"#
)]
#[case::anthropic(r#"{"type":"error","error":{"type":"overloaded_error","message":"no"},"request_id":"r"}"#)]
#[case::gemini(r#"[{"error":{"code":503,"message":"no","status":"UNAVAILABLE"}}]"#)]
#[case::mistral(r#"{"object":"error","message":"no","type":"service_unavailable","code":"3000"}"#)]
#[case::a_text(r#"{"error":"no"}"#)]
#[case::a_failed_response(r#"{"object":"response","status":"failed","error":{"code":"server_error","message":"no"},"output":[]}"#)]
fn an_error_with_status_200_is_an_error(#[case] body: &str) {
    for operation in [Operation::ChatCompletions, Operation::Messages, Operation::Responses, Operation::Embeddings] {
        let PlainAnswer::Error(error) = read(operation, body.as_bytes()) else { panic!("{operation:?} {body}") };
        let error: Value = serde_json::from_slice(&error).unwrap();
        let message = error.pointer("/error/message").or_else(|| error.get("message"));
        assert_eq!(message.and_then(Value::as_str), Some("no"), "{error}");
    }
}

#[rstest]
#[case::empty(b"")]
#[case::blank(b"\n\n \n")]
#[case::html(b"<html><body>502 Bad Gateway</body></html>")]
#[case::cut(br#"{"choices":[{"message":{"content":"hi"#)]
#[case::compressed(b"\x1f\x8b\x08\x00\x00\x00\x00\x00")]
#[case::no_answer(b"{}")]
#[case::of_another_kind(br#"{"status":"ok"}"#)]
#[case::null_choices(br#"{"choices":null}"#)]
#[case::a_list(b"[]")]
#[case::a_list_of_what_members_may_be(br#"["",null,null,[1],[1],[1],[1],1]"#)]
#[case::a_text(br#""hello""#)]
#[case::two(br#"{"choices":[{}]}{"choices":[{}]}"#)]
fn what_is_no_answer_is_unreadable(#[case] body: &[u8]) {
    assert_eq!(read(Operation::ChatCompletions, body), PlainAnswer::Unreadable);
}

#[test]
fn a_long_answer_may_hold_anything_outside_of_its_usage() {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let long = "x\\\"usage\\\":".repeat(200_000);
    let body = format!(
        r#"{{"new":{deep},"choices":[{{"message":{{"content":"{long}"}}}}],"usage":{{"prompt_tokens":9,"completion_tokens":3}}}}"#
    );
    assert_eq!(read(Operation::ChatCompletions, body.as_bytes()), exact(9, 0, 0, 3));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        body in prop::collection::vec(any::<u8>(), 0..200),
        json in "[{\\[]\"?(error|usage|choices|object|data)?\"?:?[{\\[\"0-9a-z.\\-]{0,8}[}\\]\"]{0,4}",
    ) {
        for operation in [Operation::ChatCompletions, Operation::Messages, Operation::CountTokens] {
            read(operation, &body);
            read(operation, json.as_bytes());
        }
    }
}
