//! Streams go through as they come.

use std::time::Duration;

use quartermaster_dev::model_server::{Break, Face, Fault, Match, Place, Scripted};
use rstest::rstest;
use serde_json::Value;

use crate::harness::{World, backend, chat, events, plan, read_until, server, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_reaches_the_client_before_the_next_is_made() {
    let vllm = server(Face::Vllm).await;
    let hang = vllm.add(Match::default(), Fault::Break { at: Place::Events(3), how: Break::Hang });
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let mut response = world.stream(5).await;
    let read = read_until(&mut response, "\"content\":").await;
    assert!(!read.contains("[DONE]"));
    assert_eq!(vllm.totals().open, 1, "the backend has not ended");
    vllm.remove(hang);
    read_until(&mut response, "[DONE]").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_terminal_event_though_the_backends_socket_stays_open() {
    let vllm = server(Face::Vllm).await;
    let body = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let headers = [("content-type".to_owned(), "text/event-stream".to_owned())].into();
    vllm.add(
        Match { times: Some(1), ..Match::default() },
        Fault::Answer(Scripted { status: 200, headers, body: body.into(), tokens: Default::default() }),
    );
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let text = within(world.stream(1).await.text()).await.unwrap();
    assert_eq!(text, body, "the bytes of the backend, unchanged");
}

#[rstest]
#[case::in_pieces_of_a_byte(Fault::Trickle { bytes: 1, milliseconds: 0 })]
#[case::with_another_field(Fault::Insert { after: 2, text: "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"hm\"}}],\"unknown\":1}\n\n".to_owned() })]
#[case::with_a_comment(Fault::Insert { after: 2, text: ": OPENROUTER PROCESSING\n\n".to_owned() })]
#[case::with_garbage(Fault::Insert { after: 2, text: "data: {\n\n".to_owned() })]
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_holds_arrives_byte_for_byte_with_exact_usage(#[case] fault: Fault) {
    let vllm = server(Face::Vllm).await;
    let inserted = if let Fault::Insert { text, .. } = &fault { Some(text.clone()) } else { None };
    vllm.add(Match::default(), fault);
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let text = world.stream(6).await.text().await.unwrap();
    assert!(inserted.is_none_or(|inserted| text.contains(&inserted)), "{text}");
    assert_eq!(events(&text).last().unwrap(), "data: [DONE]", "{text}");
    let line = world.lines(1).await.remove(0);
    assert_eq!((&line["tokens"]["output"], &line["tokens"]["exact"]), (&6.into(), &true.into()), "{line}");
}

#[rstest]
#[case::stream(true)]
#[case::plain(false)]
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_before_the_head_cancels_the_backend(#[case] streams: bool) {
    let vllm = server(Face::Vllm).await;
    let at = if streams { Place::Body } else { Place::Head };
    vllm.add(Match::default(), Fault::Break { at, how: Break::Hang });
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let mut body = chat(5);
    body["stream"] = streams.into();
    let (client, url) = (world.client.clone(), world.url("/v1/chat/completions"));
    let calling = tokio::spawn(client.post(url).bearer_auth(crate::harness::KEY).json(&body).send());
    until("the backend works", || vllm.totals().open == 1).await;
    calling.abort();
    let left = std::time::Instant::now();
    until("the backend is let go", || vllm.totals().open == 0).await;
    assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
    let line = world.lines(1).await.remove(0);
    assert_eq!((&line["outcome"], line.get("status")), (&"left".into(), None), "{line}");
    assert_eq!(vllm.totals().calls, 1, "nothing more is started");
    assert!(world.metrics().contains("quartermaster_gateway_client_left_total 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_between_events_cancels_the_backend_and_pays_for_what_was_made() {
    let vllm = server(Face::Vllm).await;
    vllm.add(Match::default(), Fault::Break { at: Place::Events(5), how: Break::Hang });
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let mut response = world.stream(1000).await;
    read_until(&mut response, "\"content\":").await;
    drop(response);
    until("the backend is let go", || vllm.totals().open == 0).await;
    let line = world.lines(1).await.remove(0);
    assert_eq!(
        (&line["outcome"], &line["status"], &line["tokens"]["exact"]),
        (&"left".into(), &200.into(), &false.into()),
        "{line}"
    );
    assert!(line["tokens"]["output"].as_u64().unwrap() >= vllm.totals().tokens.output.min(4), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_stops_the_backend_and_fills_no_memory() {
    let vllm = server(Face::Vllm).await;
    vllm.add(Match::default(), Fault::EndlessStream);
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let mut response = world.stream(1_000_000).await;
    read_until(&mut response, "\"content\":").await;
    // The kernel's buffers fill, then the backend has to wait.
    let mut last = u64::MAX;
    let made = || vllm.calls()[0].events;
    let waiting = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = made();
            if now == last {
                break;
            }
            last = now;
        }
    };
    within(waiting).await;
    drop(response);
    until("the backend is let go", || vllm.totals().open == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_clients_that_leave_leave_nothing_behind() {
    let vllm = server(Face::Vllm).await;
    vllm.change(|behaviour| behaviour.token_milliseconds = 20);
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let mut leaving = tokio::task::JoinSet::new();
    for number in 0..500 {
        let mut body = chat(500);
        body["stream"] = true.into();
        let request = world.client.post(world.url("/v1/chat/completions")).bearer_auth(crate::harness::KEY).json(&body);
        leaving.spawn(async move {
            let mut response = request.send().await.unwrap();
            for _ in 0..number % 7 {
                response.chunk().await.unwrap();
            }
        });
    }
    within(async { while leaving.join_next().await.is_some() {} }).await;
    until("the backend is let go", || vllm.totals().open == 0).await;
    until("no connection is kept that was left", || vllm.totals().open_connections == 0).await;
    world.lines(500).await;
    let metrics = world.metrics();
    assert!(metrics.contains("quartermaster_gateway_requests_in_flight 0\n"), "{metrics}");
    assert!(metrics.contains("quartermaster_gateway_held_bytes 0\n"), "{metrics}");
    assert_eq!(world.chat(1).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_all_formats_end_with_an_error_event_of_their_own_when_they_are_cut() {
    for (face, path, field) in [
        (Face::Anthropic, "/v1/messages", "max_tokens"),
        (Face::OpenAI, "/v1/responses", "max_output_tokens"),
        (Face::OpenAI, "/v1/completions", "max_tokens"),
    ] {
        let server = server(face).await;
        server.add(Match::default(), Fault::Break { at: Place::Events(8), how: Break::Reset });
        let world = World::new(plan(&[("only", backend(face, server.address()))])).await;
        let mut body = chat(200);
        body["stream"] = true.into();
        let limit = body.as_object_mut().unwrap().remove("max_tokens").unwrap();
        body[field] = limit;
        match path {
            "/v1/responses" => body["input"] = "hi [[tokens=200]]".into(),
            "/v1/completions" => body["prompt"] = "hi [[tokens=200]]".into(),
            _ => {}
        }
        if path != "/v1/messages" {
            body.as_object_mut().unwrap().remove("messages");
        }
        let response = world.post(path, &body).await;
        assert_eq!(response.status(), 200, "{path}");
        let text = response.text().await.unwrap();
        let last = events(&text).pop().unwrap();
        let data: Value = serde_json::from_str(last.split_once("data: ").unwrap().1).unwrap();
        match path {
            "/v1/completions" => assert!(data["error"]["message"].is_string(), "{text}"),
            _ => assert!(last.starts_with("event: error\n") && data["type"] == "error", "{text}"),
        }
        assert!(!text.contains("[DONE]") && !text.contains("message_stop") && !text.contains("response.completed"), "{text}");
    }
}
