//! Anthropic's face.

use quartermaster_dev::model_server::{Face, Match, ModelServer, Settings};
use serde_json::{Value, json};

use crate::client::{Reply, call, ended, fault, with};

const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");
const KEY: (&str, &str) = ("x-api-key", "s3cret");

async fn start() -> ModelServer {
    let mut settings = Settings::new(Face::Anthropic, &["m"]);
    settings.api_keys = vec!["s3cret".to_owned()];
    ModelServer::start(settings).await.unwrap()
}

fn message(content: &str) -> Value {
    json!({"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": content}]})
}

async fn send(server: &ModelServer, body: &Value) -> Reply {
    call(server, "POST", "/v1/messages", &[VERSION, KEY], body).await
}

#[tokio::test]
async fn key_and_version_are_asked_for_in_its_own_shape() {
    let server = start().await;
    for (headers, status, type_) in [
        (vec![VERSION], 401, "authentication_error"),
        (vec![VERSION, ("x-api-key", "other")], 401, "authentication_error"),
        (vec![KEY], 400, "invalid_request_error"),
        (vec![KEY, ("anthropic-version", "2020-01-01")], 400, "invalid_request_error"),
        (vec![VERSION, ("authorization", "Bearer s3cret")], 200, ""),
    ] {
        let reply = call(&server, "POST", "/v1/messages", &headers, &message("a")).await;
        assert_eq!(reply.status, status, "{headers:?}");
        let body = reply.json();
        assert_eq!(body["error"]["type"].as_str().unwrap_or_default(), type_, "{headers:?}");
        assert_eq!(body["type"], if status == 200 { "message" } else { "error" });
        assert!(reply.header("request-id").starts_with("req_"));
    }
    let newer = [KEY, ("anthropic-version", "2026-10-21")];
    let sampled = with(message("a"), json!({"temperature": 0.5}));
    assert_eq!(call(&server, "POST", "/v1/messages", &newer, &sampled).await.status, 400);
    assert_eq!(send(&server, &sampled).await.status, 200);
}

#[tokio::test]
async fn a_request_needs_a_limit_and_has_no_unknown_members() {
    let server = start().await;
    for (body, words) in [
        (json!({"model": "m", "messages": [{"role": "user", "content": "a"}]}), "max_tokens: Field required"),
        (with(message("a"), json!({"stream_options": {}})), "stream_options"),
        (with(message("a"), json!({"messages": []})), "messages"),
        (with(message("a"), json!({"max_tokens": 0})), "max_tokens"),
        (message(&"word ".repeat(40_000)), "prompt is too long"),
    ] {
        let reply = send(&server, &body).await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, &error["type"]), (400, &json!("invalid_request_error")));
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    }
    let gone = send(&server, &with(message("a"), json!({"model": "other"}))).await;
    assert_eq!((gone.status, &gone.json()["error"]["message"]), (404, &json!("model: other")));
    assert_eq!(server.totals().tokens.output, 0);
}

#[tokio::test]
async fn a_stream_has_the_input_first_and_the_output_cumulated_last() {
    let server = start().await;
    let reply = send(&server, &with(message("hello [[tokens=3]]"), json!({"stream": true}))).await;
    let names: Vec<String> = reply.events().into_iter().map(|(name, _)| name).collect();
    let delta = "content_block_delta";
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "ping",
            delta,
            delta,
            delta,
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    let data = reply.data();
    assert!(names.iter().zip(&data).all(|(name, data)| data["type"] == **name));
    let truth = ended(&server).await.tokens;
    assert_eq!(data[0]["message"]["usage"]["input_tokens"], truth.input);
    assert_eq!(data[0]["message"]["usage"]["output_tokens"], 1, "to be replaced, not added to");
    assert_eq!((&data[7]["usage"]["output_tokens"], &data[7]["delta"]["stop_reason"]), (&json!(3), &json!("end_turn")));
    assert_eq!(truth.output, 3);
}

#[tokio::test]
async fn only_what_is_marked_is_cached_and_the_three_kinds_of_input_add_up() {
    let server = start().await;
    let text = "a system prompt ".repeat(40);
    let marked = with(message("a"), json!({"system": [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]}));
    let plain = with(message("a"), json!({"system": text}));
    let usage = async |body: &Value| send(&server, body).await.json()["usage"].clone();
    let number = |usage: &Value, name: &str| usage[name].as_u64().unwrap();
    for (body, reads, writes) in [(&plain, false, false), (&marked, false, true), (&marked, true, false), (&plain, false, false)] {
        let usage = usage(body).await;
        let truth = ended(&server).await.tokens;
        let (read, written) = (number(&usage, "cache_read_input_tokens"), number(&usage, "cache_creation_input_tokens"));
        assert_eq!((read > 0, written > 0), (reads, writes), "{usage}");
        assert_eq!(number(&usage, "input_tokens") + read + written, truth.input);
        assert_eq!((read, written), (truth.cached, truth.cache_written));
        assert_eq!(usage["cache_creation"]["ephemeral_5m_input_tokens"], written);
    }
}

#[tokio::test]
async fn tokens_are_counted_without_a_model_and_models_are_listed() {
    let server = start().await;
    let counted = call(&server, "POST", "/v1/messages/count_tokens", &[VERSION, KEY], &message("hello")).await.json();
    assert_eq!(server.totals().tokens.input, 0);
    send(&server, &message("hello")).await;
    assert_eq!(counted["input_tokens"], server.totals().tokens.input);
    let models = call(&server, "GET", "/v1/models", &[VERSION, KEY], &Value::Null).await.json();
    assert_eq!((&models["data"][0]["id"], &models["has_more"]), (&json!("m"), &json!(false)));
    assert_eq!(call(&server, "POST", "/v1/chat/completions", &[VERSION, KEY], &message("a")).await.status, 404);
}

#[tokio::test]
async fn it_refuses_as_its_documentation_says() {
    let server = start().await;
    for (refusal, status, type_, words) in [
        (r#""contextLength""#, 400, "invalid_request_error", "prompt is too long"),
        (r#""keyRejected""#, 401, "authentication_error", ""),
        (r#""forbidden""#, 403, "permission_error", ""),
        (r#""quotaExhausted""#, 402, "billing_error", ""),
        (r#""creditTooLow""#, 400, "invalid_request_error", "credit balance is too low"),
        (r#""spendLimitReached""#, 429, "rate_limit_error", "spend limit"),
        (r#"{"rateLimited": 7}"#, 429, "rate_limit_error", ""),
        (r#""modelGone""#, 404, "not_found_error", "model: m"),
        (r#""overloaded""#, 529, "overloaded_error", ""),
        (r#""serverError""#, 500, "api_error", ""),
        (r#""timeout""#, 504, "timeout_error", ""),
    ] {
        server.remove_all();
        server.add(Match::default(), fault(&format!(r#"{{"refuse": {refusal}}}"#)));
        let reply = send(&server, &message("a")).await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, &error["type"]), (status, &json!(type_)), "{refusal}");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
        assert_eq!(reply.header("retry-after") == "7", refusal.contains("rateLimited"), "{refusal}");
        let code = error["details"]["error_code"] == "enforced_spend_limit_reached";
        assert_eq!(code, refusal.contains("spendLimit"), "{refusal}");
        if refusal.contains("rateLimited") {
            assert_eq!(reply.header("anthropic-ratelimit-requests-remaining"), "0");
            assert!(reply.header("anthropic-ratelimit-requests-reset").ends_with('Z'));
        }
    }
    assert_eq!(server.totals().tokens.input, 0);
}

#[tokio::test]
async fn an_error_event_comes_first_or_in_the_middle() {
    let server = start().await;
    for after in [0, 4] {
        server.remove_all();
        server.add(Match::default(), fault(&format!(r#"{{"errorEvent": {{"after": {after}, "refusal": "overloaded"}}}}"#)));
        let reply = send(&server, &with(message("[[tokens=9]]"), json!({"stream": true}))).await;
        let events = reply.events();
        assert_eq!((reply.status, events.len(), events[after].0.as_str()), (200, after + 1, "error"));
        assert_eq!(reply.data()[after]["error"]["type"], "overloaded_error");
    }
}
