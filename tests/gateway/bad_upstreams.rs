//! Backends that answer what nobody should: the client gets an answer of its API, the next call is served, nothing is counted that
//! was not.

use std::collections::BTreeMap;

use quartermaster_dev::model_server::{Break, Face, Fault, Match, ModelServer, Place, Scripted, UsageFault};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{World, backend, chat, check_shape, events, fall_back, plan, read_until, server, until, within};

fn always() -> Match {
    Match::default()
}

fn times(times: u64) -> Match {
    Match { times: Some(times), ..Match::default() }
}

/// An answer of these bytes.
fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Fault {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Fault::Answer(Scripted { status, headers, body: body.to_owned(), tokens: Default::default() })
}

/// A stream of these bytes.
fn stream_of(body: &str) -> Fault {
    answer(200, &[("content-type", "text/event-stream")], body)
}

/// A plan with one backend, which is asked once.
fn single(name: &str, face: Face, server: &ModelServer) -> Value {
    let mut plan = plan(&[(name, backend(face, server.address()))]);
    plan["routes"]["smart"]["retries"]["maxRetries"] = 0.into();
    plan
}

/// What a client gets for an answer whose status is all that it says.
fn told(status: u16) -> u16 {
    match status {
        401 => 502,
        402 | 429 => 429,
        404 | 405 | 410 => 404,
        408 | 504 | 524 => 504,
        407 | 498 | 499 => 503,
        400..=498 | 501 => 400,
        _ => 503,
    }
}

#[rstest]
#[case::empty(Face::OpenAI, "/v1/chat/completions", "")]
#[case::page(Face::Anthropic, "/v1/messages", "<html><h1>It works!</h1></html>")]
#[tokio::test(flavor = "multi_thread")]
async fn every_status_becomes_one_answer_in_the_shape_of_the_api_and_never_a_page(
    #[case] face: Face,
    #[case] path: &str,
    #[case] body: &str,
) {
    let server = server(face).await;
    let world = World::new(single("b200", face, &server)).await;
    for status in 200..=599 {
        // What is learnt of a backend goes with it.
        world.apply(single(&format!("b{status}"), face, &server));
        server.remove_all();
        server.add(always(), answer(status, &[("content-type", "text/html"), ("location", "/elsewhere")], body));
        let response = world.post(path, &chat(1)).await;
        assert_eq!(response.status(), told(status), "{status}");
        assert_eq!(response.headers()["content-type"], "application/json", "{status}");
        assert!(!response.headers().contains_key("location"), "{status}");
        check_shape(path, &response.json().await.unwrap());
    }
    assert_eq!(server.totals().calls, 400, "each is asked once, and nobody follows a redirect");
    world.lines(400).await;
    let used = world.used();
    assert!(used.values().all(|counts| (counts.requests, counts.errors) == (1, 1)), "{used:?}");
    assert!(used.values().all(|counts| (counts.output, counts.input) == (0, 0) || counts.estimated > 0), "{used:?}");
}

#[rstest]
#[case::no_json("garbage")]
#[case::half("{\"choices\":[")]
#[case::another_value("[]")]
#[case::nothing("null")]
#[case::another_object("{\"hello\":\"world\"}")]
#[case::blank("   \n")]
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_answer_that_is_none_falls_back(
    #[case] body: &str,
    #[values((Face::OpenAI, "/v1/chat/completions"), (Face::Anthropic, "/v1/messages"))] api: (Face, &str),
) {
    check_falls_back(api, false, answer(200, &[], body)).await;
}

#[rstest]
#[case::empty("")]
#[case::only_the_end("data: [DONE]\n\nevent: message_stop\n")]
#[case::comments(": hello\n\n: hello\n\n")]
#[case::garbage("garbage\n\ngarbage\n\n")]
#[case::no_json("data: {\n\n")]
#[case::a_role("data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n")]
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_brings_nothing_falls_back(
    #[case] body: &str,
    #[values((Face::OpenAI, "/v1/chat/completions"), (Face::Anthropic, "/v1/messages"))] api: (Face, &str),
) {
    check_falls_back(api, true, stream_of(body)).await;
}

#[rstest]
#[case::too_long(Fault::ContentLength(10))]
#[case::too_short(Fault::ContentLength(-10))]
#[case::cut(Fault::Break { at: Place::Bytes(9), how: Break::Close })]
#[case::reset(Fault::Break { at: Place::Bytes(9), how: Break::Reset })]
#[case::a_header_of_2_mb(Fault::Headers { values: BTreeMap::new(), padding: 2 << 20 })]
#[case::not_http(Fault::Raw("\u{16}\u{3}\u{1}".to_owned()))]
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_answer_that_does_not_arrive_whole_falls_back(
    #[case] fault: Fault,
    #[values((Face::OpenAI, "/v1/chat/completions"), (Face::Anthropic, "/v1/messages"))] api: (Face, &str),
) {
    check_falls_back(api, false, fault).await;
}

#[rstest]
#[case::brotli("br")]
#[case::zstd("zstd")]
#[case::twice("gzip, gzip")]
#[tokio::test(flavor = "multi_thread")]
async fn an_encoding_that_nobody_can_read_is_no_answer_and_no_fault_of_the_caller(
    #[case] encoding: &str,
    #[values(200, 400, 422)] status: u16,
    #[values(false, true)] streams: bool,
) {
    let api = (Face::OpenAI, "/v1/chat/completions");
    check_falls_back(api, streams, answer(status, &[("content-encoding", encoding)], "\u{b}\u{2}encoded")).await;
}

/// Whatever befalls the first backend, the second answers, and the client sees nothing of it.
async fn check_falls_back((face, path): (Face, &str), streams: bool, fault: Fault) {
    let (first, second) = (server(face).await, server(face).await);
    let mut plan = plan(&[("first", backend(face, first.address())), ("second", backend(face, second.address()))]);
    fall_back(&mut plan, &["second"], &["Unavailable"]);
    plan["routes"]["smart"]["retries"]["maxRetries"] = 0.into();
    first.add(times(1), fault);
    let world = World::new(plan).await;
    let mut body = chat(4);
    body["stream"] = streams.into();
    for (answers, reason) in [("second", "fallback after unavailable"), ("first", "Priority")] {
        let response = world.post(path, &body).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-quartermaster-backend"], answers);
        assert_eq!(response.headers()["x-quartermaster-reason"], reason);
        let text = response.text().await.unwrap();
        assert!(!text.contains("\"error\""), "{text}");
    }
    assert_eq!((first.totals().calls, second.totals().calls), (2, 1));
    world.lines(2).await;
    let (used, truth) = (world.used(), second.totals().tokens);
    assert_eq!((used["first"].requests, used["first"].errors), (2, 1));
    assert_eq!((used["second"].input, used["second"].output, used["second"].errors), (truth.input, truth.output, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let (server, elsewhere) = (server(Face::OpenAI).await, server(Face::OpenAI).await);
    let target = elsewhere.url("/v1/chat/completions");
    server.add(always(), answer(307, &[("location", target.as_str())], ""));
    let world = World::new(single("gpt", Face::OpenAI, &server)).await;
    assert_eq!(world.chat(1).await.status(), 503);
    assert_eq!((server.totals().calls, elsewhere.totals().calls), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_16_kb_pass_from_backends_too() {
    let server = server(Face::OpenAI).await;
    server.add(always(), Fault::Headers { values: BTreeMap::new(), padding: 16 << 10 });
    let world = World::new(single("gpt", Face::OpenAI, &server)).await;
    let response = world.chat(1).await;
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("x-padding"));
}

#[rstest]
#[case::chat(Face::Vllm, "/v1/chat/completions")]
#[case::messages(Face::Anthropic, "/v1/messages")]
#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_end_is_the_clients_to_leave_and_touches_nobody_else(#[case] face: Face, #[case] path: &str) {
    let server = server(face).await;
    let rule = server.add(times(1), Fault::EndlessLine);
    let world = World::new(single("only", face, &server)).await;
    let mut body = chat(4);
    body["stream"] = true.into();
    let mut response = world.post(path, &body).await;
    let mut read = 0;
    while read < 8 << 20 {
        read += within(response.chunk()).await.unwrap().unwrap().len();
    }
    assert_eq!(server.befell(rule), 1);
    let text = world.post(path, &body).await.text().await.unwrap();
    assert!(!text.contains("\"error\""), "{text}");
    assert!(world.metrics().contains("quartermaster_gateway_held_bytes 0\n"), "nothing of the line is kept");
    drop(response);
    until("the backend is let go", || server.totals().open == 0).await;
    assert_eq!(world.lines(2).await[1]["outcome"], "left");
}

#[rstest]
#[case::plain(false)]
#[case::stream(true)]
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_usage_is_whole_and_never_counted_as_exact(#[case] streams: bool) {
    let server = server(Face::OpenAI).await;
    server.add(always(), Fault::Usage(UsageFault::Missing));
    let world = World::new(single("gpt", Face::OpenAI, &server)).await;
    let response = if streams { world.stream(5).await } else { world.chat(5).await };
    let text = response.text().await.unwrap();
    assert!(!text.contains("\"error\"") && (!streams || events(&text).last().unwrap() == "data: [DONE]"), "{text}");
    let line = world.lines(1).await.remove(0);
    assert_eq!(line["outcome"], "answered");
    assert_ne!(line["tokens"]["exact"], true, "{line}");
    let counts = world.used()["gpt"];
    assert_eq!((counts.requests, counts.errors), (1, 0));
    assert_eq!(counts.estimated, counts.input + counts.output, "what is counted is marked");
}

#[rstest]
#[case::chat(Face::Vllm, "/v1/chat/completions")]
#[case::chat_of_openai(Face::OpenAI, "/v1/chat/completions")]
#[case::messages(Face::Anthropic, "/v1/messages")]
#[tokio::test(flavor = "multi_thread")]
async fn usage_in_every_event_is_counted_once_and_every_event_with_content_arrives(#[case] face: Face, #[case] path: &str) {
    let server = server(face).await;
    server.add(always(), Fault::Usage(UsageFault::EveryEvent));
    let world = World::new(single("only", face, &server)).await;
    let mut body = chat(9);
    body["stream"] = true.into();
    let text = world.post(path, &body).await.text().await.unwrap();
    let pieces = text.matches("\"content\":\"").count().max(text.matches("text_delta").count());
    assert!(pieces >= 9, "{text}");
    let line = world.lines(1).await.remove(0);
    assert_eq!((&line["outcome"], &line["tokens"]["exact"]), (&json!("answered"), &json!(true)), "{line}");
    let (counts, truth) = (world.used()["only"], server.totals().tokens);
    assert_eq!((counts.input, counts.output, counts.estimated), (truth.input, truth.output, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_without_a_reason_was_cut_though_it_says_done() {
    let server = server(Face::OpenAI).await;
    let body = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n";
    server.add(always(), stream_of(body));
    let world = World::new(single("gpt", Face::OpenAI, &server)).await;
    assert_eq!(world.stream(1).await.text().await.unwrap(), body, "what the backend said is not changed");
    let line = world.lines(1).await.remove(0);
    assert_eq!((&line["outcome"], &line["attempts"][0]["outcome"]), (&json!("cut"), &json!("unavailable")), "{line}");
    assert_eq!((world.used()["gpt"].requests, world.used()["gpt"].errors), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_says_nothing_after_its_first_bytes_is_given_up() {
    let (first, second) = (server(Face::OpenAI).await, server(Face::OpenAI).await);
    let mut plan = plan(&[("first", backend(Face::OpenAI, first.address())), ("second", backend(Face::OpenAI, second.address()))]);
    fall_back(&mut plan, &["second"], &["Timeout"]);
    plan["routes"]["smart"]["retries"]["maxRetries"] = 0.into();
    plan["routes"]["smart"]["timeouts"]["backendRequest"] = 700.into();
    first.add(always(), Fault::Break { at: Place::Bytes(1), how: Break::Hang });
    let world = World::new(plan).await;
    let response = world.stream(2).await;
    assert_eq!(response.headers()["x-quartermaster-reason"], "fallback after timeout");
    until("the backend that hangs is let go", || first.totals().open == 0).await;
    assert_eq!((first.totals().calls, second.totals().calls), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_new_soon_is_waited_for() {
    let server = server(Face::OpenAI).await;
    let mut plan = single("gpt", Face::OpenAI, &server);
    plan["routes"]["smart"]["retries"]["max"] = 10_000.into();
    let values = [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "500ms")];
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    server.add(times(1), Fault::Headers { values, padding: 0 });
    let world = World::new(plan).await;
    let begun = std::time::Instant::now();
    for _ in 0..2 {
        assert_eq!(world.chat(1).await.status(), 200);
    }
    assert!(begun.elapsed().as_millis() >= 500, "{:?}", begun.elapsed());
    assert_eq!(server.totals().calls, 2);
    assert_eq!(world.lines(2).await[1]["attempts"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_has_no_calls_left_is_left_alone_before_its_wall_is_hit() {
    let server = server(Face::OpenAI).await;
    let mut backend = backend(Face::OpenAI, server.address());
    backend["keys"] = json!(["first", "second"]);
    let world = World::with_secrets(plan(&[("gpt", backend)]), &[("gpt.first", "sk-1"), ("gpt.second", "sk-2")]).await;
    let first_key = Some(quartermaster_dev::model_server::hash(b"sk-1"));
    let values = [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "30s")];
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let spent = server.add(Match { key: first_key, ..always() }, Fault::Headers { values, padding: 0 });
    for _ in 0..6 {
        assert_eq!(world.chat(1).await.status(), 200);
    }
    assert_eq!(server.befell(spent), 1, "all other calls are made with the other key");
    assert_eq!(server.totals().calls, 6);
    server.remove_all();
    let values = BTreeMap::from([
        ("x-ratelimit-remaining-tokens".to_owned(), "0".to_owned()),
        ("x-ratelimit-reset-tokens".to_owned(), "20s".to_owned()),
    ]);
    server.add(always(), Fault::Headers { values, padding: 0 });
    let mut stream = world.stream(2).await;
    read_until(&mut stream, "[DONE]").await;
    let response = world.chat(1).await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "20"));
    assert_eq!(server.totals().calls, 7);
}
