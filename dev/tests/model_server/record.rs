//! The record: it tells what really happened, and holds no secret.

use std::time::Duration;

use quartermaster_dev::model_server::{Behaviour, End, Face, Match, ModelServer, Settings, Tokens, hash};
use serde_json::{Value, json};

use crate::client::{Connection, call, chat, ended, fault, get, post, read_until, streamed_chat, until};

const CHAT: &str = "/v1/chat/completions";

async fn start(behaviour: Behaviour) -> ModelServer {
    let settings = Settings { behaviour, ..Settings::new(Face::OpenAI, &["m"]) };
    ModelServer::start(settings).await.unwrap()
}

#[tokio::test]
async fn a_call_is_recorded_without_its_key_and_its_prompt() {
    let server = start(Behaviour { canaries: vec!["c4nary".into(), "absent".into()], ..Behaviour::default() }).await;
    let request = chat("a prompt with a c4nary [[tokens=2]]", json!({}));
    let headers = [("authorization", "Bearer s3cret"), ("x-label", "team-a")];
    call(&server, "POST", CHAT, &headers, &request).await;
    let record = get(&server, "/control/calls").await.text();
    for secret in ["s3cret", "c4nary", "team-a"] {
        assert!(!record.contains(secret), "{record}");
    }
    let recorded = ended(&server).await;
    let body = request.to_string();
    assert_eq!(recorded.body_hash, hash(body.as_bytes()));
    assert_eq!(recorded.body_bytes, u64::try_from(body.len()).unwrap());
    assert_eq!(recorded.key, Some(hash(b"s3cret")));
    assert_eq!(recorded.headers, ["host", "authorization", "x-label", "content-length"]);
    assert_eq!(recorded.canaries, [0]);
    assert_eq!((recorded.model.as_deref(), recorded.status, recorded.end), (Some("m"), Some(200), Some(End::Complete)));
    let listed: Value = serde_json::from_str(&record).unwrap();
    assert_eq!((&listed[0]["tokens"]["output"], &listed[0]["end"]), (&json!(2), &json!("complete")));
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_is_noticed_and_nothing_more_is_made() {
    let server = start(Behaviour { token_milliseconds: 20, ..Behaviour::default() }).await;
    let mut connection = Connection::open(&server).await;
    let mut response = connection.send("POST", CHAT, &[], &streamed_chat("[[tokens=100000]]")).await.unwrap();
    read_until(&mut response, " t2").await;
    let before = server.calls()[0].tokens.output;
    drop((response, connection));
    let call = ended(&server).await;
    assert_eq!(call.end, Some(End::ClientLeft));
    // Tens of milliseconds at best; a machine with much to do may be late.
    assert!((before..before + 50).contains(&call.tokens.output), "{:?}", call.tokens);
    assert_eq!(server.totals().tokens, call.tokens);
    assert!(call.ended > Some(call.arrived));
}

#[tokio::test]
async fn a_client_that_leaves_before_an_answer_is_noticed_too() {
    for behaviour in [
        Behaviour { first_token_milliseconds: 3_600_000, ..Behaviour::default() },
        Behaviour { token_milliseconds: 3_600_000, ..Behaviour::default() },
    ] {
        let reads = behaviour.first_token_milliseconds == 0;
        let server = start(behaviour).await;
        let mut connection = Connection::open(&server).await;
        let request = chat("[[tokens=5]]", json!({}));
        let sending = connection.send("POST", CHAT, &[], &request);
        tokio::select! {
            _ = sending => panic!("there is no answer yet"),
            () = until("its arrival", || server.calls().pop().filter(|call| (call.tokens.input > 0) == reads).map(|_| ())) => {}
        }
        drop(connection);
        let call = ended(&server).await;
        assert_eq!((call.end, call.status), (Some(End::ClientLeft), None));
        assert_eq!((call.tokens.input > 0, call.tokens.output), (reads, u64::from(reads)), "an unread prompt has cost nothing");
    }
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_makes_room() {
    let settings = Settings { slots: 1, ..Settings::new(Face::OpenAI, &["m"]) };
    let server = ModelServer::start(settings).await.unwrap();
    server.change(|behaviour| behaviour.token_milliseconds = 3_600_000);
    let mut running = Connection::open(&server).await;
    let mut response = running.send("POST", CHAT, &[], &streamed_chat("[[tokens=5]]")).await.unwrap();
    read_until(&mut response, " t0").await;
    let mut waiting = Connection::open(&server).await;
    let _head = waiting.send("POST", CHAT, &[], &streamed_chat("[[tokens=5]]")).await.unwrap();
    drop(waiting);
    let left = until("the one that waited to leave", || server.calls().into_iter().nth(1).filter(|call| call.end.is_some())).await;
    assert_eq!((left.end, left.tokens), (Some(End::ClientLeft), Tokens::default()));
    server.change(|behaviour| behaviour.token_milliseconds = 0);
    drop((response, running));
    assert_eq!(post(&server, CHAT, &chat("a", json!({}))).await.status, 200);
}

#[tokio::test]
async fn totals_are_the_sums_of_all_calls_whatever_became_of_them() {
    let server = start(Behaviour::default()).await;
    let third = |skip| Match { skip, times: Some(1), ..Match::default() };
    server.add(third(1), fault(r#"{"refuse": "overloaded"}"#));
    server.add(third(2), fault(r#"{"break": {"at": {"events": 3}, "how": "close"}}"#));
    for _ in 0..5 {
        let mut connection = Connection::open(&server).await;
        let _ = connection.post(CHAT, &streamed_chat("[[tokens=4]]")).await;
    }
    let totals = until("all to end", || Some(server.totals()).filter(|totals| totals.open == 0)).await;
    let mut sum = Tokens::default();
    server.calls().iter().for_each(|call| sum += call.tokens);
    assert_eq!(totals.tokens, sum);
    assert_eq!(totals.models["m"], sum);
    assert_eq!(totals.ends.values().sum::<u64>(), 5);
    assert_eq!((totals.ends[&End::Complete], totals.ends[&End::Refused], totals.ends[&End::Cut]), (3, 1, 1));
    assert_eq!(get(&server, "/control/totals").await.json()["tokens"]["output"], totals.tokens.output);
}

#[tokio::test]
async fn an_event_can_carry_several_tokens_and_each_counts() {
    let server = start(Behaviour { tokens_per_event: 3, ..Behaviour::default() }).await;
    let reply = post(&server, CHAT, &streamed_chat("[[tokens=7]]")).await;
    let data = reply.data();
    let texts: Vec<&str> = data.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(texts, ["", " t0 t1 t2", " t3 t4 t5", " t6"]);
    assert_eq!((&data.last().unwrap()["usage"]["completion_tokens"], server.totals().tokens.output), (&json!(7), 7));
}

#[tokio::test]
async fn a_server_that_stops_lets_calls_end_and_cuts_those_that_do_not() {
    let server = start(Behaviour { token_milliseconds: 5, ..Behaviour::default() }).await;
    let mut connection = Connection::open(&server).await;
    let mut response = connection.send("POST", CHAT, &[], &streamed_chat("[[tokens=20]]")).await.unwrap();
    read_until(&mut response, " t0").await;
    let mut idle = Connection::open(&server).await;
    assert_eq!(idle.call("GET", "/v1/models", &[], &Value::Null).await.unwrap().status, 200);
    let stopping = tokio::spawn(server.stop(quartermaster_dev::PATIENCE));
    assert!(read_until(&mut response, "[DONE]").await.contains(" t19"));
    stopping.await.unwrap();
    until("the idle connection to close", || idle.is_closed().then_some(())).await;

    let server = start(Behaviour { token_milliseconds: 3_600_000, ..Behaviour::default() }).await;
    let address = server.address();
    let mut connection = Connection::open(&server).await;
    let mut response = connection.send("POST", CHAT, &[], &streamed_chat("[[tokens=20]]")).await.unwrap();
    read_until(&mut response, " t0").await;
    server.stop(Duration::ZERO).await;
    assert!(http_body_util::BodyExt::collect(response.into_body()).await.is_err());
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn servers_in_one_process_know_nothing_of_each_other() {
    let (one, other) = (start(Behaviour::default()).await, start(Behaviour::default()).await);
    one.add(Match::default(), fault(r#"{"refuse": "overloaded"}"#));
    assert_eq!(post(&one, CHAT, &chat("a", json!({}))).await.status, 503);
    assert_eq!(post(&other, CHAT, &chat("a", json!({}))).await.status, 200);
    assert_eq!((one.totals().tokens.output, other.totals().tokens.output > 0), (0, true));
    assert_ne!(one.address(), other.address());
}
