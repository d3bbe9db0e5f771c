//! Bodies of any size.

use quartermaster::gateway::request_body::Room;
use quartermaster_dev::model_server::{Face, Fault, Match, Refusal};
use serde_json::{Value, json};

use crate::harness::{KEY, World, backend, plan, within};

/// A chat with a prompt of so many bytes.
fn large(bytes: usize) -> Value {
    json!({ "model": "smart", "max_tokens": 1, "messages": [{ "role": "user", "content": "a".repeat(bytes) }] })
}

/// A server whose model takes prompts of any length.
async fn patient_server() -> quartermaster_dev::model_server::ModelServer {
    let mut settings = quartermaster_dev::model_server::Settings::new(Face::OpenAI, &[crate::harness::MODEL]);
    settings.models[0].context_length = u64::MAX / 4;
    quartermaster_dev::model_server::ModelServer::start(settings).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_30_mb_reaches_the_backend_and_its_room_is_given_back() {
    let openai = patient_server().await;
    let world = World::new(plan(&[("gpt", backend(Face::OpenAI, openai.address()))])).await;
    let response = world.post("/v1/chat/completions", &large(30_000_000)).await;
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    assert!(openai.calls()[0].body_bytes > 30_000_000);
    world.lines(1).await;
    assert!(world.metrics().contains("quartermaster_gateway_held_bytes 0\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_above_the_limit_is_refused_in_the_shape_of_its_path_and_the_client_gets_to_read_it() {
    let openai = patient_server().await;
    let world = World::new(plan(&[("gpt", backend(Face::OpenAI, openai.address()))])).await;
    for (path, kind) in [("/v1/chat/completions", "invalid_request_error"), ("/v1/messages", "request_too_large")] {
        let response = world.post(path, &large(40 << 20)).await;
        assert_eq!(response.status(), 413);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["type"], kind, "{body}");
    }
    assert_eq!(openai.totals().calls, 0);
    assert_eq!(world.chat(1).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_with_a_large_body_reads_its_401() {
    let world = World::new(plan(&[("gpt", backend(Face::OpenAI, ([127, 0, 0, 1], 9).into()))])).await;
    let request = world.client.post(world.url("/v1/chat/completions")).bearer_auth("wrong").json(&large(20_000_000));
    assert_eq!(within(request.send()).await.unwrap().status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_fit_together_are_refused_for_now() {
    let world = World::without_plan(Room::new(1 << 20)).await;
    world.apply(plan(&[("gpt", backend(Face::OpenAI, ([127, 0, 0, 1], 9).into()))]));
    let response = world.post("/v1/chat/completions", &large(2 << 20)).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "gateway_overloaded");
    assert!(world.metrics().contains("quartermaster_gateway_held_bytes 0\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_attempt_has_the_same_bytes_however_many() {
    let openai = patient_server().await;
    openai.add(Match { times: Some(1), ..Match::default() }, Fault::Refuse(Refusal::ServerError));
    let world = World::new(plan(&[("gpt", backend(Face::OpenAI, openai.address()))])).await;
    assert_eq!(world.post("/v1/chat/completions", &large(1_000_000)).await.status(), 200);
    let calls = openai.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!((calls[0].body_bytes, &calls[0].body_hash), (calls[1].body_bytes, &calls[1].body_hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_is_read_to_its_end() {
    let openai = patient_server().await;
    let world = World::new(plan(&[("gpt", backend(Face::OpenAI, openai.address()))])).await;
    let text = crate::harness::chat(3).to_string();
    let (first, second) = text.split_at(20);
    let chunks = format!("{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n", first.len(), second.len());
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nconnection: close\r\nauthorization: Bearer {KEY}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    stream.write_all(format!("{head}{chunks}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
