//! Silence and its end. Minutes pass at once: time is tokio's paused one.

use std::io;
use std::sync::Arc;

use futures::channel::mpsc::{UnboundedSender, unbounded};
use http_body_util::StreamBody;
use quartermaster_core::decide::gateway::plan::Server;
use quartermaster_core::decide::request::meter::Asked;
use quartermaster_core::decide::request::operation::Operation;

use super::*;
use crate::gateway::call_id::CallId;
use crate::gateway::state::Gateway;
use crate::gateway::testing;

type Upstream = UnboundedSender<io::Result<Frame<Bytes>>>;

const CONTENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";

/// A body, and the backend that feeds it.
fn stream(idle: Duration) -> (AnswerBody, Upstream, Arc<Gateway>) {
    let gateway = testing::gateway();
    let settlement = Settlement::new(gateway.clone(), CallId::by_chance(), "chat_completions");
    let (upstream, frames) = unbounded();
    let meter = Meter::new(Asked {
        server: Server::Vllm,
        operation: Operation::ChatCompletions,
        client_wants_usage: false,
        client_wants_running_usage: false,
        single_choice: true,
        most_output: 400,
    });
    let upstream_answer = hyper::Response::new(StreamBody::new(frames).boxed_unsync());
    let relay = Relay {
        upstream: Some(upstream_answer),
        meter,
        ready: Vec::new(),
        idle,
        settlement,
        told: Instant::now(),
        waiting: None,
        alarm: None,
    };
    (relay.into_body(), upstream, gateway)
}

fn send(upstream: &Upstream, text: &str) {
    upstream.unbounded_send(Ok(Frame::data(Bytes::from(text.to_owned())))).unwrap();
}

async fn next(body: &mut AnswerBody) -> Option<String> {
    let frame = body.frame().await?;
    Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_silent_backend_is_covered_by_comments_between_events_only() {
    let (mut body, upstream, _) = stream(Duration::from_secs(600));
    send(&upstream, CONTENT);
    assert_eq!(next(&mut body).await.unwrap(), CONTENT);
    let begun = Instant::now();
    for times in 1..=8 {
        assert_eq!(next(&mut body).await.unwrap(), ": keep-alive\n\n");
        assert_eq!(begun.elapsed(), COMMENT_AFTER * times);
    }
    let (first, rest) = CONTENT.split_at(20);
    send(&upstream, first);
    // Half an event is held back, so that a comment still stands between whole ones.
    assert_eq!(next(&mut body).await.unwrap(), ": keep-alive\n\n");
    send(&upstream, rest);
    assert_eq!(next(&mut body).await.unwrap(), CONTENT);
    send(&upstream, "data: [DONE]\n\n");
    assert_eq!(next(&mut body).await.unwrap(), "data: [DONE]\n\n");
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_event_goes_on_in_one_piece_whatever_is_cut_out_of_it() {
    let (mut body, upstream, _) = stream(Duration::from_secs(600));
    let usage = ",\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}";
    let counted = CONTENT.replace("]}\n", &format!("]{usage},\"tokens\":null}}\n"));
    let uncounted = counted.replace(usage, "");
    for _ in 0..3 {
        send(&upstream, &counted);
        assert_eq!(next(&mut body).await.unwrap(), uncounted);
    }
    send(&upstream, &counted.repeat(2));
    send(&upstream, &counted);
    assert_eq!(next(&mut body).await.unwrap(), uncounted.repeat(3));
}

#[tokio::test(start_paused = true)]
async fn no_comment_stands_within_a_line_that_is_too_long_to_be_held() {
    let (mut body, upstream, _) = stream(Duration::from_secs(40));
    send(&upstream, CONTENT);
    assert_eq!(next(&mut body).await.unwrap(), CONTENT);
    let line = format!("data: {}", "x".repeat(1 << 20));
    send(&upstream, &line);
    assert_eq!(next(&mut body).await.unwrap(), line);
    let begun = Instant::now();
    let event = next(&mut body).await.unwrap();
    assert!(event.starts_with("\n\ndata: {\"error\":"), "{event}");
    assert_eq!(begun.elapsed(), Duration::from_secs(40), "nothing is said while the line may go on");
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn silence_beyond_the_routes_bound_ends_the_stream_with_an_error_event() {
    let (mut body, upstream, _) = stream(Duration::from_secs(20));
    send(&upstream, CONTENT);
    assert_eq!(next(&mut body).await.unwrap(), CONTENT);
    let begun = Instant::now();
    assert_eq!(next(&mut body).await.unwrap(), ": keep-alive\n\n");
    let event = next(&mut body).await.unwrap();
    assert!(event.starts_with("data: {\"error\":") && event.contains("timeout"), "{event}");
    assert_eq!(begun.elapsed(), Duration::from_secs(20), "comments do not hide the silence");
    assert_eq!(next(&mut body).await, None);
    assert!(upstream.is_closed(), "the backend is let go");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_gone_lets_the_backend_go_and_settles_once() {
    let (mut body, upstream, gateway) = stream(Duration::from_secs(20));
    send(&upstream, CONTENT);
    next(&mut body).await.unwrap();
    assert_eq!(gateway.metrics.in_flight.get(), 1);
    drop(body);
    assert!(upstream.is_closed());
    assert_eq!((gateway.metrics.in_flight.get(), gateway.metrics.client_left.get()), (0, 1));
}
