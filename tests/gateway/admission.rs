//! Who is let in, and what everybody else is told.

use quartermaster::gateway::request_body::{Room, TOGETHER};
use quartermaster_dev::model_server::Face;
use rstest::rstest;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{KEY, World, backend, chat, check_shape, plan, server, until, within};

#[rstest]
#[case::wrong_key("/v1/chat/completions", "POST", Some("qm-other"), 401)]
#[case::no_key("/v1/messages", "POST", None, 401)]
#[case::no_key_for_models("/v1/models", "GET", None, 401)]
#[case::unknown_path("/v1/files", "POST", Some(KEY), 404)]
#[case::unknown_path_of_anthropic("/v1/messages/batches", "POST", Some(KEY), 404)]
#[case::trailing_slash("/v1/chat/completions/", "POST", Some(KEY), 404)]
#[case::root("/", "GET", None, 404)]
#[case::method("/v1/chat/completions", "GET", Some(KEY), 405)]
#[case::method_of_anthropic("/v1/messages", "PUT", Some(KEY), 405)]
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_not_let_in_is_told_so_in_the_shape_of_its_api_and_no_backend_is_asked(
    #[case] path: &str,
    #[case] method: &str,
    #[case] key: Option<&str>,
    #[case] status: u16,
) {
    let vllm = server(Face::Vllm).await;
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let mut request = world.client.request(method.parse().unwrap(), world.url(path)).json(&chat(1));
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    let response = within(request.send()).await.unwrap();
    assert_eq!(response.status(), status);
    check_shape(path, &response.json().await.unwrap());
    assert_eq!(vllm.totals().calls, 0);
    let line = world.lines(1).await.remove(0);
    assert_eq!(line["status"], status);
    assert_eq!(line["attempts"], json!([]));
}

#[rstest]
#[case::not_json("/v1/chat/completions", "{", 400)]
#[case::no_model("/v1/messages", r#"{"messages":[]}"#, 400)]
#[case::twice("/v1/chat/completions", r#"{"model":"smart","mod\u0065l":"other","messages":[]}"#, 400)]
#[case::another_model("/v1/chat/completions", r#"{"model":"other","messages":[]}"#, 404)]
#[case::another_model_of_anthropic("/v1/messages", r#"{"model":"other","messages":[],"max_tokens":1}"#, 404)]
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_cannot_be_read_and_a_model_that_is_none_are_the_callers_fault(
    #[case] path: &str,
    #[case] body: &'static str,
    #[case] status: u16,
) {
    let vllm = server(Face::Vllm).await;
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let response = within(world.client.post(world.url(path)).bearer_auth(KEY).body(body).send()).await.unwrap();
    assert_eq!(response.status(), status);
    check_shape(path, &response.json().await.unwrap());
    assert_eq!(vllm.totals().calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_a_plan_asks_to_try_again_and_serves_from_its_first_plan_on() {
    let vllm = server(Face::Vllm).await;
    let world = World::without_plan(Room::new(TOGETHER)).await;
    let response = world.chat(1).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(response.json::<serde_json::Value>().await.unwrap()["error"]["code"], "gateway_starting");
    world.apply(plan(&[("llama", backend(Face::Vllm, vllm.address()))]));
    assert_eq!(world.chat(1).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_leaves_its_connection_usable() {
    let vllm = server(Face::Vllm).await;
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let body = chat(1).to_string();
    let request = |key: &str| {
        let length = body.len();
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    for (key, status) in [("wrong", "401"), (KEY, "200")] {
        stream.write_all(request(key).as_bytes()).await.unwrap();
        let head = read_answer(&mut stream).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    }
}

/// Reads an answer with a length.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            if body.len() >= length {
                return text;
            }
        }
        assert_ne!(within(stream.read_buf(&mut read)).await.unwrap(), 0, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_16_kib_pass_and_header_bombs_end_only_their_own_connection() {
    let vllm = server(Face::Vllm).await;
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let with_header = |bytes: usize| {
        let request = world.client.post(world.url("/v1/chat/completions")).bearer_auth(KEY).json(&chat(1));
        request.header("x-trace", "t".repeat(bytes)).send()
    };
    assert_eq!(within(with_header(16 << 10)).await.unwrap().status(), 200);
    // Either the status arrives, or the connection is closed while the bomb is still being sent.
    if let Ok(response) = within(with_header(2 << 20)).await {
        assert_eq!(response.status(), 431);
    }
    let mut many = TcpStream::connect(world.address).await.unwrap();
    let headers: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
    many.write_all(format!("GET /v1/models HTTP/1.1\r\nhost: g\r\n{headers}\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(many.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(world.chat(1).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_closed_and_touches_nobody() {
    let vllm = server(Face::Vllm).await;
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    for garbage in ["\x16\x03\x01\x02\x00", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(garbage.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _closed = within(stream.read_to_end(&mut answer)).await;
    }
    until("the log has no line of them", || world.log().is_empty()).await;
    assert_eq!(world.chat(1).await.status(), 200);
}
