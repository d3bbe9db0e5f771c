//! A call end to end, in every format.

use quartermaster_dev::model_server::{Face, hash as short_hash};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{KEY, MODEL, World, backend, chat, events, plan, server};

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_call_is_answered_by_the_backend_and_told_in_one_line() {
    let vllm = server(Face::Vllm).await;
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let response = world.chat(12).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-quartermaster-backend"], "llama");
    assert_eq!(response.headers()["x-quartermaster-reason"], "Priority");
    assert!(response.headers().contains_key("x-request-id"));
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["usage"]["completion_tokens"], 12, "{answer}");
    let calls = vllm.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].model.as_deref(), Some(MODEL), "the backend is asked for the model by its own name");
    let line = world.lines(1).await.remove(0);
    assert_eq!(line["caller"], "coder");
    assert_eq!(line["operation"], "chat_completions");
    assert_eq!(line["route"], "smart");
    assert_eq!(line["backend"], "llama");
    assert_eq!(line["status"], 200);
    assert_eq!(line["outcome"], "answered");
    assert_eq!(line["stream"], false);
    assert_eq!(line["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(line["tokens"]["output"], 12);
    assert_eq!(line["tokens"]["exact"], true);
    assert_eq!(line["tokens"]["input"], calls[0].tokens.input);
    for shown in [
        r#"quartermaster_gateway_requests_total{code="200",operation="chat_completions",route="smart"} 1"#,
        r#"quartermaster_gateway_attempts_total{backend="llama",outcome="answered"} 1"#,
        r#"quartermaster_gateway_first_content_seconds_count{backend="llama"} 1"#,
        "quartermaster_gateway_requests_in_flight 0",
        "quartermaster_gateway_held_bytes 0",
    ] {
        assert!(world.metrics().lines().any(|line| line == shown), "{shown} is missing in\n{}", world.metrics());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_arrives_whole_with_its_terminal_event_and_without_the_usage_that_nobody_asked_for() {
    let vllm = server(Face::Vllm).await;
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let response = world.stream(7).await;
    assert_eq!(response.status(), 200);
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let text = response.text().await.unwrap();
    assert_eq!(events(&text).last().map(String::as_str), Some("data: [DONE]"), "{text}");
    assert!(!text.contains("\"choices\":[]") && !text.contains("\"usage\""), "{text}");
    let line = world.lines(1).await.remove(0);
    assert_eq!((&line["stream"], &line["outcome"], &line["tokens"]["output"]), (&json!(true), &json!("answered"), &json!(7)));
    assert_eq!(line["tokens"]["exact"], true);
    assert_eq!(vllm.totals().tokens.output, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usage_of_a_stream_reaches_the_client_that_asked_for_it() {
    let vllm = server(Face::Vllm).await;
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let mut body = chat(3);
    body["stream"] = true.into();
    body["stream_options"] = json!({ "include_usage": true });
    let text = world.post("/v1/chat/completions", &body).await.text().await.unwrap();
    assert!(text.contains("\"choices\":[]") && text.contains("\"completion_tokens\":3"), "{text}");
    assert_eq!(text.matches("\"usage\"").count(), 1, "clients add up what they find: {text}");
    body["stream_options"]["continuous_usage_stats"] = true.into();
    let text = world.post("/v1/chat/completions", &body).await.text().await.unwrap();
    assert!(text.matches("\"usage\"").count() > 2, "as it was asked for: {text}");
}

#[rstest]
#[case::chat(Face::Vllm, "/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 4 }), true)]
#[case::completions(Face::Vllm, "/v1/completions", json!({ "prompt": "hi", "max_tokens": 4 }), true)]
#[case::embeddings(Face::Vllm, "/v1/embeddings", json!({ "input": "hi" }), false)]
#[case::responses(Face::OpenAI, "/v1/responses", json!({ "input": "hi", "max_output_tokens": 16 }), true)]
#[case::messages(Face::Anthropic, "/v1/messages", json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 4 }), true)]
#[case::messages_of_vllm(Face::Vllm, "/v1/messages", json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 4 }), true)]
#[case::count_tokens(Face::Anthropic, "/v1/messages/count_tokens", json!({ "messages": [{ "role": "user", "content": "hi" }] }), false)]
#[tokio::test(flavor = "multi_thread")]
async fn every_path_is_answered_plainly_and_as_a_stream_with_exact_usage(
    #[case] face: Face,
    #[case] path: &str,
    #[case] mut body: Value,
    #[case] streams: bool,
) {
    let server = server(face).await;
    let world = World::new(plan(&[("only", backend(face, server.address()))])).await;
    body["model"] = "smart".into();
    let response = world.post(path, &body).await;
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert_eq!(status, 200, "{text}");
    assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
    if streams {
        body["stream"] = true.into();
        let response = world.post(path, &body).await;
        assert_eq!(response.status(), 200);
        let text = response.text().await.unwrap();
        let terminal = match path {
            "/v1/messages" => "message_stop",
            // The answer is cut at the most that was asked for.
            "/v1/responses" => "response.incomplete",
            _ => "[DONE]",
        };
        assert!(events(&text).last().unwrap().contains(terminal), "{text}");
    }
    let lines = world.lines(if streams { 2 } else { 1 }).await;
    let truth = server.totals().tokens;
    let sum = |field: &str| lines.iter().map(|line| line["tokens"][field].as_u64().unwrap()).sum::<u64>();
    if path != "/v1/messages/count_tokens" {
        assert_eq!((sum("input"), sum("output")), (truth.input, truth.output), "{lines:?}");
    }
    assert!(lines.iter().all(|line| line["tokens"]["exact"] == true && line["outcome"] == "answered"), "{lines:?}");
    assert!(server.calls().iter().all(|call| call.path == path && call.model.as_deref() == Some(MODEL)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_sees_the_names_of_its_routes() {
    let vllm = server(Face::Vllm).await;
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let answer = world.client.get(world.url("/v1/models")).header("x-api-key", KEY).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let list: Value = answer.json().await.unwrap();
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["gpt-4o", "smart"]);
    assert_eq!(vllm.totals().calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_gets_its_own_key_and_nothing_of_the_caller() {
    let openai = server(Face::OpenAI).await;
    openai.change(|behaviour| behaviour.canaries = vec![KEY.to_owned(), "steer-me".to_owned(), "session=1".to_owned()]);
    let mut backend = backend(Face::OpenAI, openai.address());
    backend["keys"] = json!(["first"]);
    backend["headers"] = json!([{ "name": "x-team", "value": { "plain": "dev" } }]);
    let world = World::with_secrets(plan(&[("gpt", backend)]), &[("gpt.first", "sk-of-the-provider\n")]).await;
    let request = world.client.post(world.url("/v1/chat/completions")).bearer_auth(KEY).json(&chat(1));
    let request = request.header("x-litellm-tags", "steer-me").header("cookie", "session=1").header("openai-beta", "x");
    let response = request.header("openai-organization", "steer-me").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let call = openai.calls().remove(0);
    assert_eq!(call.key.as_deref(), Some(short_hash(b"sk-of-the-provider").as_str()));
    assert_eq!(call.canaries, Vec::<usize>::new());
    assert!(call.headers.contains(&"x-team".to_owned()) && call.headers.contains(&"openai-beta".to_owned()), "{:?}", call.headers);
    assert!(call.headers.contains(&"content-length".to_owned()), "{:?}", call.headers);
    world.lines(1).await;
    for shown in [world.log(), world.metrics()] {
        assert!(!shown.contains(KEY) && !shown.contains("sk-of-the-provider") && !shown.contains("hello"), "{shown}");
    }
}
