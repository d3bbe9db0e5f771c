use rstest::rstest;

use super::*;

fn read(body: &str) -> ErrorBody {
    ErrorBody::read(body.as_bytes())
}

#[rstest]
#[case::openai(r#"{"error":{"message":"Too Many","type":"tokens","param":"p","code":"rate_limit_exceeded"}}"#, &["rate_limit_exceeded", "tokens"], "too many", None)]
#[case::anthropic(r#"{"type":"error","error":{"type":"rate_limit_error","message":"X","details":{"error_code":"ramp_limit_exceeded"}}}"#, &["ramp_limit_exceeded", "rate_limit_error"], "x", None)]
#[case::gemini(r#"[{"error":{"code":429,"message":"X","status":"RESOURCE_EXHAUSTED"}}]"#, &["RESOURCE_EXHAUSTED"], "x", Some(429))]
#[case::openrouter(r#"{"error":{"code":400,"message":"X","metadata":{"error_type":"server"},"availability":{"code":"model_not_found"}}}"#, &["model_not_found", "server"], "x", Some(400))]
#[case::status_as_text(r#"{"error":{"code":"429","message":"X","type":null}}"#, &[], "x", Some(429))]
#[case::flat(r#"{"object":"error","message":"X","type":"invalid_model","param":null,"code":"1500"}"#, &["1500", "invalid_model"], "x", None)]
#[case::text(r#"{"error":"Unauthorized"}"#, &[], "unauthorized", None)]
#[case::responses(r#"{"type":"response.failed","response":{"error":{"code":"server_error","message":"X"}}}"#, &["server_error"], "x", None)]
fn every_form_of_an_error_says_the_same_things(
    #[case] body: &str,
    #[case] codes: &[&str],
    #[case] text: &str,
    #[case] status: Option<u16>,
) {
    let error = read(body);
    assert_eq!(error.codes, codes);
    assert_eq!((error.text.as_str(), error.status, error.is_error), (text, status, true));
}

#[rstest]
#[case::good_answer(r#"{"id":"x","choices":[],"usage":{}}"#)]
#[case::no_error(r#"{"choices":[],"error":null}"#)]
#[case::fast_api(r#"{"detail":"Not Found"}"#)]
#[case::garbage("garbage")]
#[case::empty("")]
fn what_has_no_form_of_an_error_is_none(#[case] body: &str) {
    assert!(!read(body).is_error);
}

#[test]
fn a_page_of_html_says_nothing_and_a_plain_text_says_itself() {
    assert_eq!(read("\n <html>API key not valid</html>"), ErrorBody::default());
    assert_eq!(read("Upstream CONNECT error").text, "upstream connect error");
}

#[test]
fn what_an_adapter_has_wrapped_is_read_whatever_stands_around_it() {
    let inner = r#"{"type":"error","error":{"type":"overloaded_error","message":"It's \"full\""}}"#;
    let python = r#"b'{"type":"error","error":{"type":"overloaded_error","message":"It\'s \\"full\\""}}'"#;
    for written in [inner, python] {
        let message = format!("litellm.InternalServerError: AnthropicException - {written}\n\nLiteLLM: model group a");
        let body = serde_json::json!({ "error": { "message": message, "type": "None", "code": "500" } }).to_string();
        let error = read(&body);
        assert_eq!(error.codes, ["overloaded_error", "InternalServerError", "None"], "{written}");
        assert_eq!((error.text.as_str(), error.status, error.wrapped), ("it's \"full\"", Some(500), true), "{written}");
    }
}

#[test]
fn an_adapter_behind_adapters_is_followed_only_so_far() {
    let mut body = r#"{"error":{"message":"deep","code":"slow_down"}}"#.to_owned();
    for _ in 0..8 {
        body = serde_json::json!({ "error": { "message": format!("litellm.APIError: XException - {body}") } }).to_string();
    }
    let error = read(&body);
    assert!(error.wrapped && error.text.starts_with("{\"error\""), "{}", error.text);
}

#[rstest]
#[case(r"caf\xc3\xa9'rest", "café")]
#[case(r"a\'b\\c\nd\te", "a'b\\c\nd\te")]
#[case(r"cut\x4", "cut\u{4}")]
#[case(r"cut\", "cut")]
fn a_python_literal_is_its_bytes(#[case] literal: &str, #[case] bytes: &str) {
    assert_eq!(String::from_utf8(bytes_literal(literal, '\'')).unwrap(), bytes);
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let body = serde_json::json!({ "error": { "message": "ä".repeat(TEXT) } }).to_string();
    assert_eq!(read(&body).text.len(), TEXT);
    let body = serde_json::json!({ "error": { "message": format!("x{}", "ä".repeat(TEXT)) } }).to_string();
    assert_eq!(read(&body).text.len(), TEXT - 1);
}
