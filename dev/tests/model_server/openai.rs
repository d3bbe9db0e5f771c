//! OpenAI's face.

use quartermaster_dev::model_server::{Face, Match, ModelServer, Settings};
use serde_json::{Value, json};

use crate::client::{call, chat, ended, fault, get, post, streamed_chat, with};

async fn start() -> ModelServer {
    ModelServer::start(Settings::new(Face::OpenAI, &["m", "gpt-6-sol"])).await.unwrap()
}

#[tokio::test]
async fn a_chat_has_details_of_its_usage_also_for_reasoning() {
    let server = start().await;
    server.change(|behaviour| behaviour.reasoning_tokens = 3);
    let reply = post(&server, "/v1/chat/completions", &chat("[[tokens=8]]", json!({}))).await;
    let usage = reply.json()["usage"].clone();
    let truth = ended(&server).await.tokens;
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(truth.input), &json!(8)));
    assert_eq!(usage["total_tokens"], truth.input + 8);
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 3);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    assert!(reply.header("x-request-id").starts_with("req_"));
}

#[tokio::test]
async fn a_long_prompt_is_found_in_the_cache_in_steps_of_128_from_1024_on() {
    let server = start().await;
    for (words, cached) in [(500, false), (1500, true)] {
        let request = chat(&"word ".repeat(words), json!({}));
        post(&server, "/v1/chat/completions", &request).await;
        let usage = post(&server, "/v1/chat/completions", &request).await.json()["usage"].clone();
        let found = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        assert_eq!((found >= 1024, found % 128), (cached, 0), "{usage}");
    }
}

#[tokio::test]
async fn a_stream_has_null_usage_until_the_chunk_without_choices() {
    let server = start().await;
    let reply = post(&server, "/v1/chat/completions", &streamed_chat("[[tokens=2]]")).await;
    let data = reply.data();
    let (last, others) = data.split_last().unwrap();
    assert!(others.iter().all(|chunk| chunk.as_object().unwrap().contains_key("usage") && chunk["usage"].is_null()));
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(2)));
    assert!(reply.is_done());
    let text: String = others.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, " t0 t1");
    let plain = post(&server, "/v1/chat/completions", &chat("[[tokens=2]]", json!({"stream": true}))).await;
    assert!(plain.data().iter().all(|chunk| chunk.get("usage").is_none()));
}

#[tokio::test]
async fn it_refuses_what_it_does_not_know_and_the_older_limit_on_newer_models() {
    let server = start().await;
    for (more, param, code) in [
        (json!({"thinking": {}}), "thinking", json!("unknown_parameter")),
        (
            json!({"stream": true, "stream_options": {"continuous_usage_stats": true}}),
            "continuous_usage_stats",
            json!("unknown_parameter"),
        ),
        (json!({"model": "gpt-6-sol", "max_tokens": 5}), "max_tokens", json!("unsupported_parameter")),
        (json!({"n": 1000}), "n", Value::Null),
        (json!({"max_tokens": -1}), "max_tokens", Value::Null),
    ] {
        let reply = post(&server, "/v1/chat/completions", &chat("a", more)).await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, &error["param"], &error["code"]), (400, &json!(param), &code), "{error}");
    }
    let newer = chat("a", json!({"model": "gpt-6-sol", "max_completion_tokens": 5}));
    assert_eq!(post(&server, "/v1/chat/completions", &newer).await.json()["usage"]["completion_tokens"], 5);
    let body = call(&server, "POST", "/v1/chat/completions", &[], &json!("no object")).await;
    assert_eq!((body.status, &body.json()["error"]["type"]), (400, &json!("invalid_request_error")));
}

#[tokio::test]
async fn a_response_ends_with_its_own_event_and_without_done() {
    let server = start().await;
    let request = json!({"model": "m", "input": [{"role": "user", "content": "[[tokens=3]]"}], "stream": true});
    for (more, name, status) in
        [(json!({}), "response.completed", "completed"), (json!({"max_output_tokens": 2}), "response.incomplete", "incomplete")]
    {
        let reply = post(&server, "/v1/responses", &with(request.clone(), more)).await;
        let events = reply.events();
        assert_eq!((events[0].0.as_str(), events.last().unwrap().0.as_str()), ("response.created", name));
        let data = reply.data();
        assert_eq!(data.len(), events.len(), "there is no [DONE]");
        assert!(data.iter().enumerate().all(|(index, data)| data["sequence_number"] == index));
        let response = &data.last().unwrap()["response"];
        assert_eq!(
            (&response["status"], &response["usage"]["output_tokens"]),
            (&json!(status), &json!(ended(&server).await.tokens.output))
        );
        let text: String = data.iter().filter_map(|data| data["delta"].as_str()).collect();
        assert_eq!(response["output"][0]["content"][0]["text"], text);
    }
    server.add(Match::default(), fault(r#"{"errorEvent": {"after": 5, "refusal": {"rateLimited": 1}}}"#));
    let data = post(&server, "/v1/responses", &request).await.data();
    assert_eq!(
        (&data[5]["type"], &data[5]["response"]["error"]["code"]),
        (&json!("response.failed"), &json!("rate_limit_exceeded"))
    );
}

#[tokio::test]
async fn embeddings_come_as_numbers_or_as_text() {
    let server = start().await;
    let request = json!({"model": "m", "input": "one two"});
    let reply = post(&server, "/v1/embeddings", &request).await.json();
    assert_eq!(reply["data"][0]["embedding"].as_array().unwrap().len(), 8);
    let truth = ended(&server).await.tokens;
    assert_eq!((&reply["usage"]["prompt_tokens"], truth.output), (&json!(truth.input), 0));
    let text = post(&server, "/v1/embeddings", &with(request, json!({"encoding_format": "base64"}))).await.json();
    assert_eq!(text["data"][0]["embedding"].as_str().unwrap().len(), 44);
    assert_eq!(get(&server, "/v1/models").await.json()["data"].as_array().unwrap().len(), 2);
    assert_eq!(post(&server, "/v1/messages", &json!({})).await.status, 404);
}

#[tokio::test]
async fn it_refuses_as_its_documentation_says() {
    let server = start().await;
    for (refusal, status, type_, code) in [
        (r#""contextLength""#, 400, "invalid_request_error", json!("context_length_exceeded")),
        (r#""keyRejected""#, 401, "invalid_request_error", json!("invalid_api_key")),
        (r#""quotaExhausted""#, 429, "insufficient_quota", json!("insufficient_quota")),
        (r#""spendLimitReached""#, 429, "invalid_request_error", json!("organization_spend_limit_exceeded")),
        (r#""creditTooLow""#, 429, "invalid_request_error", json!("credit_balance_exhausted")),
        (r#"{"rateLimited": 7}"#, 429, "requests", json!("rate_limit_exceeded")),
        (r#""modelGone""#, 404, "invalid_request_error", json!("model_not_found")),
        (r#""overloaded""#, 503, "service_unavailable_error", json!("server_is_overloaded")),
        (r#""serverError""#, 500, "server_error", Value::Null),
    ] {
        server.remove_all();
        server.add(Match::default(), fault(&format!(r#"{{"refuse": {refusal}}}"#)));
        let reply = post(&server, "/v1/chat/completions", &chat("a", json!({}))).await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, &error["type"], &error["code"]), (status, &json!(type_), &code), "{refusal}");
        let hints = (reply.header("retry-after"), reply.header("retry-after-ms"), reply.header("x-ratelimit-reset-requests"));
        assert_eq!(hints == ("7", "7000", "7s"), refusal.contains("rateLimited"), "{refusal}");
    }
}

#[tokio::test]
async fn an_error_in_the_middle_ends_the_stream_without_done() {
    let server = start().await;
    server.add(Match::default(), fault(r#"{"errorEvent": {"after": 0, "refusal": "overloaded"}}"#));
    let reply = post(&server, "/v1/chat/completions", &streamed_chat("a")).await;
    assert_eq!((reply.status, reply.events().len(), reply.is_done()), (200, 1, false));
    assert_eq!(reply.data()[0]["error"]["code"], "server_is_overloaded");
}
