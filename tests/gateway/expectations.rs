//! What users of other gateways complained of, and what is expected of this one. The table names the test of each expectation; those
//! that belong nowhere else stand here.

use std::time::Duration;

use quartermaster_dev::model_server::{Face, Fault, Match, ModelServer, Refusal, Scripted, Settings, hash};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{MODEL, World, backend, chat, events, fall_back, plan, server};

/// Where the tests stand.
const SOURCES: [&str; 13] = [
    include_str!("admission.rs"),
    include_str!("bad_requests.rs"),
    include_str!("bad_upstreams.rs"),
    include_str!("bodies.rs"),
    include_str!("expectations.rs"),
    include_str!("failures.rs"),
    include_str!("matrix.rs"),
    include_str!("plans.rs"),
    include_str!("process.rs"),
    include_str!("spine.rs"),
    include_str!("streams.rs"),
    include_str!("usage.rs"),
    include_str!("../../src/gateway/relay_tests.rs"),
];

/// What is expected, and the tests that say so.
#[rustfmt::skip]
const EXPECTATIONS: &[(&str, &[&str])] = &[
    ("cumulative usage is not summed", &["usage_that_a_message_states_again_replaces_what_it_stated_before"]),
    ("usage is exact whether or not the client asks for it, and shown only to those who do", &[
        "a_stream_arrives_whole_with_its_terminal_event_and_without_the_usage_that_nobody_asked_for",
        "a_client_that_wants_no_usage_gets_none_and_is_counted_all_the_same",
        "the_usage_of_a_stream_reaches_the_client_that_asked_for_it",
    ]),
    ("calls that fail, are cut or are tried again are counted", &[
        "each_kind_of_failure_is_tried_again_passed_on_told_and_counted_as_its_row_says",
        "what_callers_used_is_what_servers_counted_and_a_bound_where_calls_are_cut",
    ]),
    ("every path that reaches a backend is metered, and no other reaches one", &[
        "every_path_is_answered_plainly_and_as_a_stream_with_exact_usage",
        "a_call_that_is_not_let_in_is_told_so_in_the_shape_of_its_api_and_no_backend_is_asked",
    ]),
    ("a client that leaves cancels its call within a second, and leaves nothing behind", &[
        "a_client_that_leaves_before_the_head_cancels_the_backend",
        "a_client_that_leaves_between_events_cancels_the_backend_and_pays_for_what_was_made",
        "five_hundred_clients_that_leave_leave_nothing_behind",
    ]),
    ("calls of tools, reasoning, signatures and unknown members arrive byte for byte", &[
        "a_stream_arrives_byte_for_byte_whatever_it_brings",
        "what_a_stream_holds_arrives_byte_for_byte_with_exact_usage",
    ]),
    ("marks for the cache stay at every place", &["a_request_reaches_a_backend_of_its_format_with_nothing_changed_but_the_model"]),
    ("silence is no end, and comments stand between events only", &[
        "a_silent_backend_is_covered_by_comments_between_events_only",
        "no_comment_stands_within_a_line_that_is_too_long_to_be_held",
    ]),
    ("a stream ends with the terminal event of its format", &["every_path_is_answered_plainly_and_as_a_stream_with_exact_usage"]),
    ("a backend that dies within a stream ends it with an error of the format, and with no invented end", &[
        "streams_of_all_formats_end_with_an_error_event_of_their_own_when_they_are_cut",
        "a_stream_that_breaks_before_its_first_content_falls_back_and_after_it_ends_with_an_error",
    ]),
    ("an error in place of the first content is a failure like any other", &[
        "an_overloaded_backend_that_says_so_in_a_stream_is_unavailable",
        "a_stream_whose_first_event_is_an_error_is_that_error",
    ]),
    ("nothing is tried again after the first content", &[
        "each_kind_of_failure_is_tried_again_passed_on_told_and_counted_as_its_row_says",
    ]),
    ("what a backend compresses is undone, named and counted right", &[
        "gzip_that_nobody_asked_for_is_undone_and_its_usage_counted",
        "an_encoding_that_nobody_can_read_is_no_answer_and_no_fault_of_the_caller",
    ]),
    ("a client that reads nothing stops its backend and fills no memory", &[
        "a_client_that_reads_nothing_stops_the_backend_and_fills_no_memory",
        "a_process_whose_clients_read_nothing_grows_by_no_more_than_8_mib",
    ]),
    ("connections that backends close between calls cost no call", &[
        "backends_that_close_idle_connections_soon_lose_no_call",
        "a_pooled_connection_that_closes_as_the_next_call_arrives_costs_no_call",
    ]),
    ("long prompts are tried again with the same bytes", &["a_second_attempt_has_the_same_bytes_however_many"]),
    ("bodies of 30 MB pass, and those above the limit read why they do not", &[
        "a_body_of_30_mb_reaches_the_backend_and_its_room_is_given_back",
        "a_body_above_the_limit_is_refused_in_the_shape_of_its_path_and_the_client_gets_to_read_it",
    ]),
    ("large headers end no call but their own", &[
        "heads_of_16_kib_pass_and_header_bombs_end_only_their_own_connection",
        "heads_of_16_kb_pass_from_backends_too",
    ]),
    ("changed routes are right at once, and streams go on", &[
        "a_route_that_is_gone_and_a_new_one_are_right_from_the_next_call_on",
        "plans_change_under_load_without_a_failed_call_and_streams_end_under_their_own",
    ]),
    ("a caller's key goes nowhere", &["a_backend_gets_its_own_key_and_nothing_of_the_caller"]),
    ("an outage is not multiplied, and a client hears how long to wait", &[
        "during_an_outage_attempts_stay_within_first_tries_and_the_retry_budget",
        "a_rate_limit_that_reaches_the_client_says_how_long_to_wait",
    ]),
    ("a stream that is in flight when the process is told to end ends in order", &[
        "the_process_follows_its_mounted_files_and_ends_with_its_last_call",
    ]),
    ("prompts and keys that are all different leave nothing behind", &[
        "a_process_that_sees_ever_new_prompts_and_keys_does_not_grow",
    ]),
];

#[test]
fn every_expectation_has_its_tests() {
    for (expectation, tests) in EXPECTATIONS {
        assert!(!tests.is_empty(), "{expectation}");
        for test in *tests {
            let definition = format!("\nasync fn {test}(");
            let found = SOURCES.iter().filter(|source| source.contains(&definition)).count();
            assert_eq!(found, 1, "{expectation}: {test}");
        }
    }
}

/// Lets a server answer with a stream of these bytes.
fn answer_with(server: &ModelServer, body: &str) {
    let headers = [("content-type".to_owned(), "text/event-stream".to_owned())].into();
    let scripted = Scripted { status: 200, headers, body: body.to_owned(), tokens: Default::default() };
    server.add(Match::default(), Fault::Answer(scripted));
}

fn streaming(mut body: Value) -> Value {
    body["stream"] = true.into();
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_a_message_states_again_replaces_what_it_stated_before() {
    let server = server(Face::Anthropic).await;
    answer_with(
        &server,
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n\
         event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n\
         event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":15}}\n\n\
         event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );
    let world = World::new(plan(&[("claude", backend(Face::Anthropic, server.address()))])).await;
    world.post("/v1/messages", &streaming(chat(100))).await.text().await.unwrap();
    let line = world.lines(1).await.remove(0);
    assert_eq!((&line["tokens"]["input"], &line["tokens"]["output"]), (&json!(25), &json!(15)), "{line}");
    let counts = world.used()["claude"];
    assert_eq!((counts.input, counts.output, counts.estimated), (25, 15, 0));
}

#[rstest]
#[case::vllm(Face::Vllm)]
#[case::openai(Face::OpenAI)]
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_wants_no_usage_gets_none_and_is_counted_all_the_same(#[case] face: Face) {
    let server = server(face).await;
    let world = World::new(plan(&[("only", backend(face, server.address()))])).await;
    let mut body = streaming(chat(6));
    body["stream_options"] = json!({ "include_usage": false });
    let text = world.post("/v1/chat/completions", &body).await.text().await.unwrap();
    assert!(!text.contains("\"choices\":[]"), "{text}");
    assert_eq!(events(&text).last().unwrap(), "data: [DONE]");
    let line = world.lines(1).await.remove(0);
    assert_eq!((&line["tokens"]["output"], &line["tokens"]["exact"]), (&json!(6), &json!(true)), "{line}");
}

#[rstest]
#[case::fragments_of_a_tool_call(
    Face::OpenAI,
    "/v1/chat/completions",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"tool_calls\":[{\"index\":0,\"id\":\"call_1\",\"type\":\"function\",\"function\":{\"name\":\"read\",\"arguments\":\"\"}}]}}]}\n\n\
     data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"pa\"}}]}}]}\n\n\
     data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"th\\\": \"}}]}}]}\n\n\
     data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"1}\"}}]}}]}\n\n\
     data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n\
     data: [DONE]\n\n"
)]
#[case::reasoning(
    Face::OpenAI,
    "/v1/chat/completions",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning\":\"hm\"}}]}\n\n\
     data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n\
     data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\",\"new_member\":{\"deep\":[1]}}}],\"another\":true}\n\n\
     data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
     data: [DONE]\n\n"
)]
#[case::signature(
    Face::Anthropic,
    "/v1/messages",
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":2,\"output_tokens\":1}}}\n\n\
     event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\"}}\n\n\
     event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}}\n\n\
     event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"c2ln\"}}\n\n\
     event: new_kind\ndata: {\"type\":\"new_kind\",\"unknown\":1}\n\n\
     event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":9}}\n\n\
     event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
)]
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_arrives_byte_for_byte_whatever_it_brings(#[case] face: Face, #[case] path: &str, #[case] body: &str) {
    let server = server(face).await;
    answer_with(&server, body);
    let world = World::new(plan(&[("only", backend(face, server.address()))])).await;
    assert_eq!(world.post(path, &streaming(chat(100))).await.text().await.unwrap(), body);
    assert_eq!(world.lines(1).await[0]["outcome"], "answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reaches_a_backend_of_its_format_with_nothing_changed_but_the_model() {
    let server = server(Face::Anthropic).await;
    let world = World::new(plan(&[("claude", backend(Face::Anthropic, server.address()))])).await;
    let mark = json!({ "type": "ephemeral" });
    let body = json!({
        "model": "smart", "max_tokens": 4, "cache_control": mark,
        "system": [{ "type": "text", "text": "You are careful. ".repeat(20), "cache_control": mark }],
        "tools": [{ "name": "read", "input_schema": { "type": "object" }, "cache_control": mark }],
        "messages": [{ "role": "user", "content": [
            { "type": "text", "text": "smart \u{e9}\u{1f600}", "cache_control": { "type": "ephemeral", "ttl": "1h" } },
        ] }],
    });
    let response = world.post("/v1/messages", &body).await;
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    let sent = body.to_string().replacen("\"model\":\"smart\"", &format!("\"model\":\"{MODEL}\""), 1);
    assert_eq!(server.calls()[0].body_hash, hash(sent.as_bytes()));
    assert!(server.totals().tokens.cache_written > 0, "{:?}", server.totals());
    world.lines(1).await;
    let (counts, truth) = (world.used()["claude"], server.totals().tokens);
    assert_eq!((counts.input, counts.output), (truth.input, truth.output));
}

#[rstest]
#[case::anthropic(Face::Anthropic, "/v1/messages")]
#[case::openai(Face::OpenAI, "/v1/chat/completions")]
#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_backend_that_says_so_in_a_stream_is_unavailable(#[case] face: Face, #[case] path: &str) {
    let (first, second) = (server(face).await, server(face).await);
    let mut plan = plan(&[("first", backend(face, first.address())), ("second", backend(face, second.address()))]);
    fall_back(&mut plan, &["second"], &["Unavailable"]);
    plan["routes"]["smart"]["retries"]["maxRetries"] = 0.into();
    first.add(Match::default(), Fault::ErrorEvent { after: 0, refusal: Refusal::Overloaded });
    let world = World::new(plan).await;
    let response = world.post(path, &streaming(chat(3))).await;
    assert_eq!(response.headers()["x-quartermaster-reason"], "fallback after unavailable");
    let text = response.text().await.unwrap();
    assert!(!text.contains("overloaded"), "{text}");
    assert_eq!((first.totals().calls, second.totals().calls), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_that_close_idle_connections_soon_lose_no_call() {
    let idle = Duration::from_millis(40);
    let vllm = ModelServer::start(Settings { keep_alive: idle, ..Settings::new(Face::Vllm, &[MODEL]) }).await.unwrap();
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    for number in 0..50 {
        assert_eq!(world.chat(1).await.status(), 200, "call {number}");
        // The next call comes as the connection is being closed.
        tokio::time::sleep(idle).await;
    }
    assert!(vllm.totals().connections > 1, "{:?}", vllm.totals());
}
