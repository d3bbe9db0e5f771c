//! Every fault, as a client meets it.

use std::io::Read as _;

use flate2::read::GzDecoder;
use http_body_util::BodyExt as _;
use quartermaster_dev::model_server::{Break, End, Face, Fault, Match, ModelServer, Place, Settings, Tokens};
use serde_json::{Value, json};

use crate::client::{Connection, Reply, call, chat, ended, fault, get, post, read_until, streamed_chat, until};

const CHAT: &str = "/v1/chat/completions";

async fn start() -> ModelServer {
    ModelServer::start(Settings::new(Face::OpenAI, &["m"])).await.unwrap()
}

/// A server on which this befalls every call.
async fn faulty(text: &str) -> ModelServer {
    let server = start().await;
    server.add(Match::default(), fault(text));
    server
}

async fn try_post(server: &ModelServer, body: &Value) -> hyper::Result<Reply> {
    Connection::open(server).await.post(CHAT, body).await
}

#[tokio::test]
async fn any_answer_can_be_given_and_stands_for_as_many_tokens_as_it_says() {
    let server = faulty(
        r#"{"answer": {"status": 307, "headers": {"location": "/elsewhere", "content-type": "text/html"},
            "body": "<html>", "tokens": {"input": 25, "output": 15}}}"#,
    )
    .await;
    let reply = post(&server, CHAT, &chat("a", json!({}))).await;
    assert_eq!((reply.status, reply.header("location"), reply.text().as_str()), (307, "/elsewhere", "<html>"));
    assert_eq!(reply.headers.get_all("content-type").iter().count(), 1);
    let truth = ended(&server).await;
    assert_eq!((truth.tokens, truth.end), (Tokens { input: 25, output: 15, ..Tokens::default() }, Some(End::Complete)));
    let server = faulty(r#"{"answer": {"status": 200}}"#).await;
    let reply = post(&server, CHAT, &chat("a", json!({}))).await;
    assert_eq!((reply.status, reply.body.len()), (200, 0));
}

#[tokio::test]
async fn every_break_happens_at_every_place_and_what_was_made_before_counts() {
    for (place, stream, made) in [
        (Place::Arrival, false, 0),
        (Place::Head, false, 4),
        (Place::Body, false, 4),
        (Place::Bytes(1), false, 4),
        (Place::Arrival, true, 0),
        (Place::Head, true, 0),
        (Place::Body, true, 0),
        (Place::Bytes(1), true, 0),
        (Place::Events(0), true, 0),
        (Place::Events(3), true, 3),
    ] {
        for how in [Break::Reset, Break::Close, Break::Hang] {
            let server = start().await;
            server.add(Match::default(), Fault::Break { at: place, how });
            let mut connection = Connection::open(&server).await;
            let request = chat("[[tokens=4]]", json!({ "stream": stream }));
            let context = format!("{place:?} {how:?} stream: {stream}");
            if how == Break::Hang {
                let receives = async {
                    let mut response = connection.send("POST", CHAT, &[], &request).await?;
                    while let Some(frame) = response.body_mut().frame().await {
                        frame?;
                    }
                    Ok::<_, hyper::Error>(())
                };
                // It hangs where it should: nothing ends before the client leaves.
                let reached = until("the fault", || server.calls().pop().filter(|call| call.tokens.output == made));
                tokio::select! {
                    biased;
                    ended = receives => panic!("{context}: ended with {ended:?}"),
                    _ = reached => {}
                }
                drop(connection);
                assert_eq!(ended(&server).await.end, Some(End::ClientLeft), "{context}");
                continue;
            }
            let head = connection.send("POST", CHAT, &[], &request).await;
            assert_eq!(head.is_ok(), !matches!(place, Place::Arrival | Place::Head), "{context}");
            if let Ok(response) = head {
                assert!(response.into_body().collect().await.is_err(), "{context}");
            }
            let call = ended(&server).await;
            assert_eq!(call.end, Some(End::Cut), "{context}");
            // A token may be ready when the event before it is the last that is sent.
            assert!((made..=made + u64::from(stream && made > 0)).contains(&call.tokens.output), "{context}: {:?}", call.tokens);
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_has_the_events_before_and_an_end_that_looks_orderly_is_one() {
    for how in [Break::Close, Break::Reset, Break::End] {
        let server = start().await;
        server.add(Match::default(), Fault::Break { at: Place::Events(3), how });
        let mut connection = Connection::open(&server).await;
        let mut response = connection.send("POST", CHAT, &[], &streamed_chat("[[tokens=9]]")).await.unwrap();
        let text = read_until(&mut response, " t1").await;
        assert_eq!(text.matches("data: ").count(), 3);
        match response.body_mut().frame().await {
            None => assert_eq!(how, Break::End),
            Some(frame) => assert!(frame.is_err() && how != Break::End),
        }
        let call = ended(&server).await;
        assert_eq!((call.events, call.end), (3, Some(End::Cut)));
    }
}

#[tokio::test]
async fn a_hang_ends_when_its_rule_is_removed() {
    let server = start().await;
    let rule = server.add(Match::default(), fault(r#"{"break": {"at": {"events": 3}, "how": "hang"}}"#));
    let mut connection = Connection::open(&server).await;
    let mut response = connection.send("POST", CHAT, &[], &streamed_chat("[[tokens=9]]")).await.unwrap();
    read_until(&mut response, " t1").await;
    server.remove(rule);
    assert!(read_until(&mut response, "[DONE]").await.contains(" t8"));
    assert_eq!(ended(&server).await.end, Some(End::Complete));
}

#[tokio::test]
async fn a_pause_and_a_trickle_lose_nothing() {
    for text in [
        r#"{"break": {"at": {"events": 2}, "how": {"pause": 20}}}"#,
        r#"{"break": {"at": {"bytes": 7}, "how": {"pause": 20}}}"#,
        r#"{"break": {"at": "arrival", "how": {"pause": 20}}}"#,
        r#"{"trickle": {"bytes": 100, "milliseconds": 1}}"#,
    ] {
        let server = faulty(text).await;
        let reply = post(&server, CHAT, &streamed_chat("[[tokens=3]]")).await;
        assert!(reply.is_done() && reply.data().len() == 6, "{text}: {}", reply.text());
        let whole = post(&server, CHAT, &chat("[[tokens=3]]", json!({}))).await.json();
        assert_eq!(whole["choices"][0]["message"]["content"], " t0 t1 t2", "{text}");
    }
}

#[tokio::test]
async fn a_pooled_connection_closes_as_the_next_call_arrives() {
    let server = start().await;
    let which = Match { reused: Some(true), ..Match::default() };
    let rule = server.add(which, fault(r#"{"break": {"at": "arrival", "how": "close"}}"#));
    let mut connection = Connection::open(&server).await;
    assert_eq!(connection.post(CHAT, &chat("a", json!({}))).await.unwrap().status, 200);
    assert!(connection.post(CHAT, &chat("a", json!({}))).await.is_err());
    assert_eq!(server.befell(rule), 1);
    assert_eq!(post(&server, CHAT, &chat("a", json!({}))).await.status, 200, "a new connection is served");
}

#[tokio::test]
async fn what_is_not_http_or_not_as_long_as_it_says_is_written_so() {
    let server = faulty(r#"{"raw": "garbage\r\n\r\n"}"#).await;
    assert!(try_post(&server, &chat("a", json!({}))).await.is_err());
    assert_eq!(ended(&server).await.end, Some(End::Cut));
    let server = faulty(r#"{"contentLength": 10}"#).await;
    assert!(try_post(&server, &chat("a", json!({}))).await.is_err(), "ten bytes are missing");
    let server = faulty(r#"{"contentLength": -10}"#).await;
    let mut connection = Connection::open(&server).await;
    let reply = connection.post(CHAT, &chat("a", json!({}))).await.unwrap();
    assert!(serde_json::from_slice::<Value>(&reply.body).is_err(), "ten bytes are left over");
    assert!(connection.post(CHAT, &chat("a", json!({}))).await.is_err(), "which are no answer to the next call");
}

#[tokio::test]
async fn a_stream_or_a_line_without_end_goes_on_until_the_client_leaves() {
    for (text, event) in [(r#""endlessStream""#, " t300\""), (r#""endlessLine""#, "data: aaaaaaaa")] {
        let server = faulty(text).await;
        let mut connection = Connection::open(&server).await;
        let mut response = connection.send("POST", CHAT, &[], &chat("a", json!({"stream": true, "max_tokens": 5}))).await.unwrap();
        read_until(&mut response, event).await;
        drop((response, connection));
        assert_eq!(ended(&server).await.end, Some(End::ClientLeft), "{text}");
    }
}

#[tokio::test]
async fn usage_is_missing_or_in_every_event() {
    for face in [Face::OpenAI, Face::Vllm, Face::Ollama, Face::Anthropic] {
        for every in [false, true] {
            let server = ModelServer::start(Settings::new(face, &["m"])).await.unwrap();
            let usage = if every { "everyEvent" } else { "missing" };
            server.add(Match::default(), fault(&format!(r#"{{"usage": "{usage}"}}"#)));
            let message = json!({
                "model": "m", "max_tokens": 3, "stream": true, "messages": [{"role": "user", "content": "a"}],
            });
            let path = if face == Face::Anthropic { "/v1/messages" } else { CHAT };
            let version = [("anthropic-version", "2023-06-01")];
            let reply = call(&server, "POST", path, &version, &message).await;
            let data = reply.data();
            assert!(data.iter().all(|data| data["usage"].is_object() == every), "{face:?}: {data:?}");
            assert_eq!(reply.text().contains("usage"), every);
            assert_eq!(server.totals().tokens.output, 3);
        }
    }
    let server = faulty(r#"{"usage": "missing"}"#).await;
    let stream = post(&server, CHAT, &streamed_chat("a")).await;
    assert!(stream.is_done() && stream.data().iter().all(|chunk| chunk["choices"] != json!([])));
    assert!(post(&server, CHAT, &chat("a", json!({}))).await.json().get("usage").is_none());
    assert!(post(&server, "/v1/embeddings", &json!({"model": "m", "input": "a"})).await.json().get("usage").is_none());
}

#[tokio::test]
async fn gzip_comes_unasked_for_whole_answers_and_event_by_event() {
    let server = faulty(r#""gzip""#).await;
    for request in [chat("[[tokens=3]]", json!({})), streamed_chat("[[tokens=3]]")] {
        let reply = post(&server, CHAT, &request).await;
        assert_eq!(reply.header("content-encoding"), "gzip");
        let mut text = String::new();
        GzDecoder::new(&reply.body[..]).read_to_string(&mut text).unwrap();
        assert!(text.contains("\"completion_tokens\":3"), "{text}");
    }
    server.change(|behaviour| behaviour.token_milliseconds = 3_600_000);
    let mut connection = Connection::open(&server).await;
    let mut response = connection.send("POST", CHAT, &[], &streamed_chat("[[tokens=3]]")).await.unwrap();
    let (mut bytes, mut text) = (Vec::new(), Vec::new());
    while !String::from_utf8_lossy(&text).contains(" t0") {
        bytes.extend_from_slice(response.body_mut().frame().await.unwrap().unwrap().data_ref().unwrap());
        text.clear();
        // It ends in the middle, but what was sent can be read.
        let _ = GzDecoder::new(&bytes[..]).read_to_end(&mut text);
    }
}

#[tokio::test]
async fn further_headers_come_with_the_answer_also_a_very_long_one() {
    let server = faulty(r#"{"headers": {"values": {"x-ratelimit-remaining-requests": "1"}, "padding": 2097152}}"#).await;
    let reply = post(&server, CHAT, &chat("a", json!({}))).await;
    assert_eq!((reply.status, reply.header("x-ratelimit-remaining-requests")), (200, "1"));
    assert_eq!(reply.header("x-padding").len(), 2 << 20);
}

#[tokio::test]
async fn anything_can_stand_between_two_events() {
    let server = faulty(r#"{"insert": {"after": 2, "text": ": comment\n\ndata: {\n\n"}}"#).await;
    let reply = post(&server, CHAT, &streamed_chat("[[tokens=2]]")).await;
    assert!(reply.text().contains(": comment\n\ndata: {\n\ndata: {\""), "{}", reply.text());
    assert!(reply.is_done());
}

#[tokio::test]
async fn faults_and_settings_are_given_and_read_at_the_control_endpoint() {
    let server = start().await;
    let rules = json!([
        {"match": {"path": CHAT, "times": 1}, "fault": {"refuse": "overloaded"}},
        {"match": {"model": "other"}, "fault": "gzip"},
    ]);
    assert_eq!(post(&server, "/control/faults", &rules).await.json(), json!([1, 2]));
    assert_eq!(post(&server, CHAT, &chat("a", json!({}))).await.status, 503);
    assert_eq!(post(&server, CHAT, &chat("a", json!({}))).await.status, 200);
    let listed = get(&server, "/control/faults").await.json();
    assert_eq!((&listed[0]["befell"], &listed[0]["matched"], &listed[1]["befell"]), (&json!(1), &json!(2), &json!(0)));
    assert_eq!(call(&server, "DELETE", "/control/faults/1", &[], &Value::Null).await.status, 200);
    assert_eq!(get(&server, "/control/faults").await.json().as_array().unwrap().len(), 1);
    assert_eq!(call(&server, "DELETE", "/control/faults", &[], &Value::Null).await.status, 200);
    assert_eq!(get(&server, "/control/faults").await.json(), json!([]));

    let changed = post(&server, "/control/settings", &json!({"outputTokens": 3})).await.json();
    assert_eq!((&changed["outputTokens"], &changed["healthy"]), (&json!(3), &json!(true)));
    assert_eq!(post(&server, CHAT, &chat("a", json!({}))).await.json()["usage"]["completion_tokens"], 3);
    for (path, body) in [
        ("/control/faults", json!([{"fault": "explode"}])),
        ("/control/faults", json!([{"match": {"header": "x"}, "fault": "gzip"}])),
        ("/control/settings", json!({"speed": 1})),
    ] {
        let refused = post(&server, path, &body).await;
        assert_eq!(refused.status, 400, "{body}");
        assert!(refused.json()["error"].as_str().unwrap().contains("unknown"), "{}", refused.text());
    }
    assert_eq!(server.totals().calls, 3, "calls of the control endpoint are not recorded");
}
