//! vLLM's face.

use quartermaster_dev::model_server::{Behaviour, Face, Match, Model, ModelServer, Settings};
use serde_json::{Value, json};

use crate::client::{Connection, call, chat, ended, fault, get, post, read_until, streamed_chat, until, with};

async fn start(change: impl FnOnce(&mut Settings)) -> ModelServer {
    let mut settings = Settings::new(Face::Vllm, &["m"]);
    change(&mut settings);
    ModelServer::start(settings).await.unwrap()
}

#[tokio::test]
async fn health_is_503_until_the_model_is_loaded_and_when_the_engine_is_dead() {
    let server = start(|settings| settings.behaviour = Behaviour { load_milliseconds: 3_600_000, ..Behaviour::default() }).await;
    assert_eq!(get(&server, "/health").await.status, 503);
    assert_eq!(post(&server, "/v1/chat/completions", &chat("a", json!({}))).await.status, 503);
    server.change(|behaviour| behaviour.load_milliseconds = 0);
    assert_eq!(get(&server, "/health").await.status, 200);
    server.change(|behaviour| behaviour.healthy = false);
    assert_eq!(get(&server, "/health").await.status, 503);
}

#[tokio::test]
async fn models_tell_their_context_and_only_the_apis_ask_for_the_key() {
    let server = start(|settings| settings.api_keys = vec!["s3cret".to_owned()]).await;
    for (path, status) in [("/health", 200), ("/metrics", 200), ("/version", 200), ("/v1/models", 401), ("/v1/none", 401)] {
        assert_eq!(get(&server, path).await.status, status, "{path}");
    }
    let refused = post(&server, "/v1/messages", &json!({})).await;
    assert_eq!((refused.status, refused.json()), (401, json!({"error": "Unauthorized"})));
    let wrong = call(&server, "GET", "/v1/models", &[("authorization", "Bearer other")], &Value::Null).await;
    assert_eq!(wrong.status, 401);
    let models = call(&server, "GET", "/v1/models", &[("authorization", "Bearer s3cret")], &Value::Null).await.json();
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["max_model_len"]), (&json!("m"), &json!(32768)));
}

#[tokio::test]
async fn a_stream_has_usage_only_where_it_is_asked_for_and_running_usage_only_with_both() {
    let server = start(|_| {}).await;
    for (options, at_end, running) in [
        (json!(null), false, false),
        (json!({"include_usage": true}), true, false),
        (json!({"continuous_usage_stats": true}), false, false),
        (json!({"include_usage": true, "continuous_usage_stats": true}), true, true),
    ] {
        let request = chat("[[tokens=4]]", json!({"stream": true, "stream_options": options}));
        let reply = post(&server, "/v1/chat/completions", &request).await;
        assert_eq!(reply.header("content-type"), "text/event-stream");
        assert!(reply.is_done());
        let data = reply.data();
        let last = data.last().unwrap();
        assert_eq!(last["choices"] == json!([]), at_end, "{options}");
        let with_usage: Vec<&Value> = data.iter().filter(|chunk| !chunk["choices"].as_array().unwrap().is_empty()).collect();
        assert!(with_usage.iter().all(|chunk| chunk["usage"].is_object() == running), "{options}: {data:?}");
        if at_end {
            assert_eq!(last["usage"]["completion_tokens"], 4);
        }
        if running {
            let counts: Vec<u64> = with_usage.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64().unwrap()).collect();
            assert_eq!(counts, [0, 1, 2, 3, 4, 4]);
        }
    }
    let refused = post(&server, "/v1/chat/completions", &chat("a", json!({"stream_options": {"include_usage": true}}))).await;
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (400, &json!("BadRequestError")));
    let forced = start(|settings| settings.force_include_usage = true).await;
    let data = post(&forced, "/v1/chat/completions", &chat("a", json!({"stream": true}))).await.data();
    assert!(data.iter().all(|chunk| chunk["usage"].is_object()), "{data:?}");
}

#[tokio::test]
async fn the_prefix_cache_is_told_only_where_the_server_was_started_so() {
    let prompt = "a long prompt that repeats ".repeat(40);
    for tells in [false, true] {
        let server = start(|settings| settings.prompt_tokens_details = tells).await;
        post(&server, "/v1/chat/completions", &chat(&prompt, json!({}))).await;
        assert_eq!(server.calls()[0].tokens.cached, 0);
        let reply = post(&server, "/v1/chat/completions", &chat(&prompt, json!({}))).await.json();
        let truth = server.calls()[1].tokens;
        assert!(truth.cached > 0 && truth.cached % 16 == 0 && truth.cached < truth.input, "{truth:?}");
        assert_eq!(reply["usage"]["prompt_tokens"], truth.input);
        let details = &reply["usage"]["prompt_tokens_details"];
        assert_eq!(*details, if tells { json!({"cached_tokens": truth.cached}) } else { Value::Null });
        let salted = chat(&prompt, json!({"cache_salt": "tenant"}));
        post(&server, "/v1/chat/completions", &salted).await;
        assert_eq!(server.calls()[2].tokens.cached, 0, "a salt keeps tenants apart");
    }
}

#[tokio::test]
async fn the_newer_limit_wins_the_window_clamps_and_a_long_prompt_is_refused() {
    let context = |settings: &mut Settings| settings.models = vec![Model { name: "m".to_owned(), context_length: 100 }];
    let server = start(context).await;
    let completion = async |more: Value| {
        let reply = post(&server, "/v1/chat/completions", &chat("one two", more)).await.json();
        (reply["usage"]["completion_tokens"].clone(), reply["choices"][0]["finish_reason"].clone())
    };
    assert_eq!(completion(json!({"max_completion_tokens": 5, "max_tokens": 9})).await, (json!(5), json!("length")));
    assert_eq!(completion(json!({"max_tokens": 9})).await, (json!(9), json!("length")));
    let (clamped, _) = completion(json!({"max_tokens": 5000})).await;
    assert_eq!(clamped.as_u64().unwrap() + server.calls()[2].tokens.input, 100);
    let refused = post(&server, "/v1/chat/completions", &chat(&"word ".repeat(200), json!({}))).await;
    let error = &refused.json()["error"];
    assert_eq!((refused.status, &error["param"], &error["code"]), (400, &json!("input_tokens"), &json!(400)));
    assert!(error["message"].as_str().unwrap().contains("maximum context length"), "{error}");
    assert_eq!(ended(&server).await.tokens.input, 0, "a refused prompt is not read");
    for wrong in [json!({"max_tokens": -1}), json!({"max_tokens": "9"}), json!({"n": 0}), json!({"messages": []})] {
        assert_eq!(post(&server, "/v1/chat/completions", &chat("a", wrong.clone())).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn every_choice_is_made_and_counted() {
    let server = start(|_| {}).await;
    let reply = post(&server, "/v1/chat/completions", &chat("[[tokens=3]]", json!({"n": 4}))).await.json();
    assert_eq!(reply["choices"].as_array().unwrap().len(), 4);
    assert_eq!((&reply["usage"]["completion_tokens"], server.totals().tokens.output), (&json!(12), 12));
    let prompts = json!({"model": "m", "prompt": ["one", "two"], "max_tokens": 3, "stream": true});
    let reply = post(&server, "/v1/completions", &prompts).await;
    let mut texts = [String::new(), String::new()];
    for chunk in reply.data() {
        let choice = &chunk["choices"][0];
        texts[usize::try_from(choice["index"].as_u64().unwrap()).unwrap()].push_str(choice["text"].as_str().unwrap());
    }
    assert_eq!(texts, [" t0 t1 t2", " t0 t1 t2"]);
    let tokens = post(&server, "/v1/completions", &json!({"model": "m", "prompt": [1, 2, 3]})).await.json();
    assert_eq!((&tokens["usage"]["prompt_tokens"], &tokens["usage"]["completion_tokens"]), (&json!(3), &json!(16)));
}

#[tokio::test]
async fn it_speaks_messages_with_usage_at_both_ends_and_counts_tokens() {
    let server = start(|_| {}).await;
    let request = json!({"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}], "stream": true});
    let reply = post(&server, "/v1/messages", &request).await;
    let data = reply.data();
    assert_eq!((&data[0]["type"], &data[0]["message"]["usage"]["output_tokens"]), (&json!("message_start"), &json!(0)));
    let delta = data.iter().find(|data| data["type"] == "message_delta").unwrap();
    assert_eq!(delta["usage"]["output_tokens"], 3);
    let truth = server.calls()[0].tokens.input;
    assert_eq!((&data[0]["message"]["usage"]["input_tokens"], &delta["usage"]["input_tokens"]), (&json!(truth), &json!(truth)));
    let counted = post(&server, "/v1/messages/count_tokens", &request).await.json();
    assert_eq!(counted, json!({ "input_tokens": truth }));
    let gone = post(&server, "/v1/messages", &with(request, json!({"model": "other"}))).await;
    assert_eq!((gone.status, &gone.json()["error"]["type"]), (404, &json!("not_found_error")));
}

#[tokio::test]
async fn responses_and_embeddings_have_their_usage() {
    let server = start(|_| {}).await;
    let reply = post(&server, "/v1/responses", &json!({"model": "m", "input": "hi [[tokens=2]]"})).await.json();
    assert_eq!((&reply["status"], &reply["usage"]["output_tokens"]), (&json!("completed"), &json!(2)));
    let reply = post(&server, "/v1/embeddings", &json!({"model": "m", "input": ["one", "two"]})).await.json();
    assert_eq!(reply["data"].as_array().unwrap().len(), 2);
    assert_eq!((&reply["usage"]["total_tokens"], ended(&server).await.tokens.input), (&json!(2), 2));
}

#[tokio::test]
async fn calls_beyond_its_slots_wait_and_those_beyond_its_queue_are_refused() {
    let server = start(|settings| {
        settings.slots = 1;
        settings.queue = Some(1);
        settings.behaviour.token_milliseconds = 3_600_000;
    })
    .await;
    let request = streamed_chat("[[tokens=9]]");
    let (mut first, mut second) = (Connection::open(&server).await, Connection::open(&server).await);
    let mut running = first.send("POST", "/v1/chat/completions", &[], &request).await.unwrap();
    read_until(&mut running, " t0").await;
    let _waiting = second.send("POST", "/v1/chat/completions", &[], &request).await.unwrap();
    let metric = async |name: &str| {
        let metrics = get(&server, "/metrics").await.text();
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {metrics}")).to_owned();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    while metric("vllm:num_requests_waiting").await != "1" {
        tokio::task::yield_now().await;
    }
    assert_eq!(metric("vllm:num_requests_running").await, "1");
    let refused = post(&server, "/v1/chat/completions", &request).await;
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (503, &json!("ServiceUnavailableError")));
    assert!(refused.header("retry-after").is_empty());
    drop((running, first));
    server.change(|behaviour| behaviour.token_milliseconds = 0);
    until("the end of the one that waited", || server.calls()[1].end).await;
    let truth = server.totals().tokens;
    assert_eq!(metric("vllm:prompt_tokens_total").await, truth.input.to_string());
    assert_eq!((metric("vllm:generation_tokens_total").await, truth.output), ("10".to_owned(), 10));
    assert_eq!(metric("vllm:kv_cache_usage_perc").await, "0.000000");
    assert!(get(&server, "/metrics").await.text().contains("vllm:cache_config_info{block_size=\"16\""));
}

#[tokio::test]
async fn an_error_in_the_middle_is_followed_by_done() {
    let server = start(|_| {}).await;
    server.add(Match::default(), fault(r#"{"errorEvent": {"after": 3, "refusal": "serverError"}}"#));
    let reply = post(&server, "/v1/chat/completions", &streamed_chat("[[tokens=9]]")).await;
    let data = reply.data();
    assert_eq!((reply.status, data.len(), &data[3]["error"]["code"]), (200, 4, &json!(500)));
    assert!(reply.is_done());
    assert_eq!(ended(&server).await.tokens.output, 3);
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = start(|settings| settings.keep_alive = std::time::Duration::from_millis(100)).await;
    let mut connection = Connection::open(&server).await;
    assert_eq!(connection.call("GET", "/health", &[], &Value::Null).await.unwrap().status, 200);
    until("the server to close it", || connection.is_closed().then_some(())).await;
    assert_eq!(server.totals().open_connections, 0);
}
