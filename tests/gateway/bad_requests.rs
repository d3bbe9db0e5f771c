//! Requests that nobody should send: each is told what is wrong in the shape of its API, costs nothing, and touches nobody else.

use std::time::Duration;

use quartermaster::gateway::listener::{self, Bounds};
use quartermaster::gateway::timed_stream::Patience;
use quartermaster_dev::model_server::{Face, Model, ModelServer, Settings};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::harness::{KEY, MODEL, World, backend, chat, check_shape, hash, plan, server, within};

const PATHS: [&str; 2] = ["/v1/chat/completions", "/v1/messages"];

/// The body of a chat with other members.
fn chat_with(members: Value) -> Value {
    let mut body = chat(1);
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    body
}

/// A call of bytes that need be no JSON is refused with 400 before any backend is asked, and nothing is counted.
async fn check_refused(path: &str, body: Vec<u8>, words: &str) {
    let vllm = server(Face::Vllm).await;
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let request = world.client.post(world.url(path)).bearer_auth(KEY).header("content-type", "application/json").body(body);
    let response = within(request.send()).await.unwrap();
    assert_eq!(response.status(), 400);
    let answer: Value = response.json().await.unwrap();
    check_shape(path, &answer);
    assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{answer}");
    assert_eq!(vllm.totals().calls, 0);
    world.lines(1).await;
    assert!(world.used().is_empty(), "{:?}", world.used());
    assert_eq!(world.chat(1).await.status(), 200, "others are served");
}

#[rstest]
#[case::invalid_utf8(b"{\"model\":\"smart\",\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", "UTF-8")]
#[case::empty(b"", "JSON")]
#[case::cut(b"{\"model\":\"smart\",\"messages\":[", "JSON")]
#[case::behind_the_end(b"{\"model\":\"smart\",\"messages\":[],\"max_tokens\":1}}", "JSON")]
#[case::no_object(b"[]", "object")]
#[case::model_twice(b"{\"model\":\"smart\",\"model\":\"other\",\"messages\":[],\"max_tokens\":1}", "\"model\" stands twice")]
#[case::model_of_no_text(b"{\"model\":7,\"messages\":[],\"max_tokens\":1}", "\"model\" must be")]
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_request_are_refused_with_what_is_wrong(
    #[case] body: &[u8],
    #[case] words: &str,
    #[values(PATHS[0], PATHS[1])] path: &str,
) {
    check_refused(path, body.to_vec(), words).await;
}

#[rstest]
#[case::negative_limit(PATHS[0], json!({ "max_tokens": -1 }), "\"max_tokens\" must be")]
#[case::negative_limit_of_anthropic(PATHS[1], json!({ "max_tokens": -1 }), "\"max_tokens\" must be")]
#[case::limit_beyond_all_numbers(PATHS[1], json!({ "max_tokens": 1e30 }), "\"max_tokens\" must be")]
#[case::limit_as_text(PATHS[0], json!({ "max_completion_tokens": "many" }), "\"max_completion_tokens\" must be")]
#[case::a_thousand_answers(PATHS[0], json!({ "n": 1000 }), "\"n\" must be")]
#[case::no_answer(PATHS[0], json!({ "n": 0 }), "\"n\" must be")]
#[case::a_thousand_completions("/v1/completions", json!({ "n": 1000, "prompt": "hi" }), "\"n\" must be")]
#[case::stream_as_text(PATHS[1], json!({ "stream": "yes" }), "\"stream\" must be")]
#[tokio::test(flavor = "multi_thread")]
async fn a_member_out_of_its_bounds_is_named(#[case] path: &str, #[case] members: Value, #[case] words: &str) {
    check_refused(path, chat_with(members).to_string().into_bytes(), words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_messages_are_a_call_like_any_other() {
    let mut settings = Settings::new(Face::Vllm, &[]);
    settings.models = vec![Model { name: MODEL.to_owned(), context_length: 1_000_000 }];
    let vllm = ModelServer::start(settings).await.unwrap();
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let role = |number: usize| if number.is_multiple_of(2) { "user" } else { "assistant" };
    let messages: Vec<Value> = (0..10_000).map(|number| json!({ "role": role(number), "content": "and then" })).collect();
    for path in PATHS {
        let response = world.post(path, &json!({ "model": "smart", "max_tokens": 3, "messages": messages })).await;
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    }
    let truth = vllm.totals().tokens;
    assert!(truth.input > 20_000, "{truth:?}");
    world.lines(2).await;
    let used = world.used()["llama"];
    assert_eq!((used.input, used.output, used.requests, used.errors), (truth.input, truth.output, 2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_namespace_opens_nothing_here() {
    let vllm = server(Face::Vllm).await;
    let mine = plan(&[("llama", backend(Face::Vllm, vllm.address()))]);
    let mut theirs = mine.clone();
    theirs["namespace"] = "other".into();
    theirs["callers"] = json!({ "writer": { "keyHashes": [hash("qm-key-of-writer")], "routes": ["smart"] } });
    let (mine, theirs) = (World::new(mine).await, World::new(theirs).await);
    for (world, key, status) in [(&mine, "qm-key-of-writer", 401), (&theirs, KEY, 401), (&theirs, "qm-key-of-writer", 200)] {
        for path in PATHS {
            let response = within(world.client.post(world.url(path)).header("x-api-key", key).json(&chat(1)).send()).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
            if status == 401 {
                check_shape(path, &response.json().await.unwrap());
            }
        }
    }
    assert_eq!(vllm.totals().calls, 2);
    mine.lines(2).await;
    assert!(mine.used().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_drip_are_cut_off_and_hold_up_nobody() {
    let vllm = server(Face::Vllm).await;
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let patience = Patience { head: Duration::from_millis(800), write: Duration::from_secs(60) };
    let bounds = Bounds { patience, ..Bounds::default() };
    let serving = tokio::spawn(listener::serve(listener, world.gateway.clone(), bounds, CancellationToken::new()));
    let mut dripping = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        dripping.spawn(async move {
            // More of the head comes for as long as the other end bears it.
            while stream.write_all(b"GET /v1/models HTTP/1.1\r\nx-padding: a").await.is_ok() {
                let mut answer = [0; 256];
                match tokio::time::timeout(Duration::from_millis(100), stream.read(&mut answer)).await {
                    Err(_) => {}
                    Ok(closed) => return closed.unwrap_or(0),
                }
            }
            0
        });
    }
    let request = world.client.post(format!("http://{address}{}", PATHS[0])).bearer_auth(KEY).json(&chat(1));
    assert_eq!(within(request.send()).await.unwrap().status(), 200);
    while let Some(ended) = within(dripping.join_next()).await {
        ended.unwrap();
    }
    serving.abort();
    assert_eq!(world.lines(1).await.len(), 1, "they were no calls");
}

/// A backend that stands for an adapter, such as LiteLLM: it takes orders from a body.
fn adapter(server: &ModelServer) -> Value {
    let mut adapter = backend(Face::OpenAI, server.address());
    adapter["server"] = json!({ "Provider": "OpenAICompatible" });
    adapter["formats"] = json!(["ChatCompletions"]);
    adapter
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_are_meant_for_an_adapter_reach_no_backend_and_the_call_is_answered() {
    let orders = json!({
        "fallbacks": ["steer-me"], "api_base": "http://steer-me", "api_key": "steer-me", "mock_response": "steer-me",
        "tags": ["steer-me"], "num_retries": 9, "extra_headers": { "authorization": "steer-me" }, "cache": { "namespace": "steer-me" },
    });
    for (path, face) in [(PATHS[0], Face::Vllm), (PATHS[0], Face::OpenAI), (PATHS[1], Face::Anthropic)] {
        let server = server(face).await;
        server.change(|behaviour| behaviour.canaries = vec!["steer-me".to_owned()]);
        let named = if face == Face::Vllm { adapter(&server) } else { backend(face, server.address()) };
        let world = World::new(plan(&[("only", named)])).await;
        let mut body = chat_with(orders.clone());
        if face == Face::Vllm {
            // What an adapter reads tags and guardrails from.
            body["metadata"] = json!({ "tags": "steer-me" });
        }
        let request = world.client.post(world.url(path)).bearer_auth(KEY).json(&body);
        let request = request.header("x-litellm-tags", "steer-me").header("x-portkey-config", "steer-me");
        let response = within(request.send()).await.unwrap();
        assert_eq!(response.status(), 200, "{face:?}: {}", response.text().await.unwrap());
        assert_eq!(server.calls()[0].canaries, Vec::<usize>::new(), "{face:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_a_client_may_not_set_change_nothing_and_go_no_further() {
    let (cheap, dear) = (server(Face::Vllm).await, server(Face::Vllm).await);
    let mut plan = plan(&[("cheap", backend(Face::Vllm, cheap.address())), ("dear", backend(Face::Vllm, dear.address()))]);
    plan["callers"]["coder"]["labels"] = json!({ "userTier": "free", "priority": "P3" });
    let route = &mut plan["routes"]["smart"];
    let candidates = json!([{ "backend": "dear", "tier": "Standard", "weight": 1 }]);
    route["rules"] = json!([
        { "name": "gold", "when": { "userTiers": ["gold"] }, "strategy": "Priority", "backends": candidates },
        { "name": "urgent", "when": { "priorities": ["P0", "P1"] }, "strategy": "Priority", "backends": candidates },
        { "name": "secret", "when": { "labels": { "team": ["board"] } }, "strategy": "Priority", "backends": candidates },
    ]);
    route["trustedLabels"] = json!(["userTier", "priority"]);
    let world = World::new(plan).await;
    let stated = [("userTier", "gold"), ("priority", "P0"), ("team", "board")];
    for path in PATHS {
        for (name, value) in stated {
            let request = world.client.post(world.url(path)).bearer_auth(KEY).json(&chat(1));
            let response = within(request.header(format!("x-quartermaster-label-{name}"), value).send()).await.unwrap();
            assert_eq!(response.headers()["x-quartermaster-backend"], "cheap", "{name} in a header of {path}");
            let mut body = chat(1);
            body["metadata"] = json!({ name: value });
            let response = world.post(path, &body).await;
            assert_eq!(response.headers()["x-quartermaster-backend"], "cheap", "{name} in the metadata of {path}");
        }
    }
    assert_eq!((cheap.totals().calls, dear.totals().calls), (12, 0));
    let headers: Vec<String> = cheap.calls().into_iter().flat_map(|call| call.headers).collect();
    assert!(!headers.iter().any(|name| name.starts_with("x-quartermaster")), "{headers:?}");
}
