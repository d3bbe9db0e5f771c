//! Ollama's face.

use quartermaster_dev::model_server::{Face, Match, Model, ModelServer, Settings};
use serde_json::{Value, json};

use crate::client::{Connection, call, chat, ended, fault, get, post, read_until, streamed_chat, with};

async fn start() -> ModelServer {
    ModelServer::start(Settings::new(Face::Ollama, &["m"])).await.unwrap()
}

#[tokio::test]
async fn a_model_is_there_once_it_was_pulled_with_progress() {
    let server = start().await;
    server.change(|behaviour| behaviour.pull_milliseconds = 20);
    assert_eq!(get(&server, "/").await.text(), "Ollama is running");
    assert!(get(&server, "/api/version").await.json()["version"].is_string());
    let names = async || -> Vec<String> {
        let tags = get(&server, "/api/tags").await.json();
        tags["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names().await, ["m:latest"]);
    let missing = post(&server, "/api/show", &json!({"model": "qwen3:8b"})).await;
    assert_eq!((missing.status, missing.json()), (404, json!({"error": "model 'qwen3:8b' not found"})));
    let missing = post(&server, "/v1/chat/completions", &chat("a", json!({"model": "qwen3:8b"}))).await;
    assert_eq!((missing.status, &missing.json()["error"]["type"]), (404, &json!("not_found_error")));

    let pulled = post(&server, "/api/pull", &json!({"model": "qwen3:8b"})).await;
    let lines: Vec<Value> = pulled.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["status"], &lines.last().unwrap()["status"]), (&json!("pulling manifest"), &json!("success")));
    let progress: Vec<u64> = lines.iter().filter_map(|line| line["completed"].as_u64()).collect();
    assert!(progress.is_sorted() && *progress.last().unwrap() == lines[1]["total"].as_u64().unwrap());
    assert_eq!(names().await, ["m:latest", "qwen3:8b"]);
    assert!(post(&server, "/api/show", &json!({"model": "qwen3:8b"})).await.json()["model_info"].is_object());
    let whole = post(&server, "/api/pull", &json!({"model": "other", "stream": false})).await;
    assert_eq!(whole.json(), json!({"status": "success"}));
}

#[tokio::test]
async fn what_was_pulled_is_there_in_the_next_server_of_the_same_directory_and_what_does_not_exist_is_nowhere() {
    let directory = std::env::temp_dir().join(format!("quartermaster-ollama-{}", std::process::id()));
    let start = async || {
        let mut settings = Settings::new(Face::Ollama, &[]);
        settings.directory = Some(directory.clone());
        ModelServer::start(settings).await.unwrap()
    };
    let server = start().await;
    for model in ["hf.co/org/m:Q4", "no-such-model"] {
        post(&server, "/api/pull", &json!({"model": model})).await;
    }
    let failed = post(&server, "/api/pull", &json!({"model": "no-such-model"})).await.text();
    let error = json!({"error": "pull model manifest: file does not exist"});
    assert_eq!(serde_json::from_str::<Value>(failed.lines().last().unwrap()).unwrap(), error);
    drop(server);
    let tags = get(&start().await, "/api/tags").await.json();
    assert_eq!(tags["models"].as_array().unwrap().len(), 1, "{tags}");
    assert_eq!(tags["models"][0]["name"], "hf.co/org/m:Q4");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test]
async fn a_model_that_is_deleted_is_gone_from_this_server_and_from_the_next_of_its_directory() {
    let directory = std::env::temp_dir().join(format!("quartermaster-ollama-deleted-{}", std::process::id()));
    let start = async || {
        let mut settings = Settings::new(Face::Ollama, &["m"]);
        settings.directory = Some(directory.clone());
        ModelServer::start(settings).await.unwrap()
    };
    let names = async |server: &ModelServer| -> Vec<String> {
        let tags = get(server, "/api/tags").await.json();
        tags["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
    };
    let server = start().await;
    for model in ["hf.co/org/stays", "hf.co/org/goes"] {
        post(&server, "/api/pull", &json!({"model": model})).await;
    }
    let delete = async |model: &str| call(&server, "DELETE", "/api/delete", &[], &json!({"model": model})).await;
    for model in ["m", "hf.co/org/goes:latest"] {
        let deleted = delete(model).await;
        assert_eq!((deleted.status, deleted.text()), (200, String::new()), "{model}");
    }
    let missing = delete("m").await;
    assert_eq!((missing.status, missing.json()), (404, json!({"error": "model 'm' not found"})));
    assert_eq!(names(&server).await, ["hf.co/org/stays:latest"]);
    assert_eq!(post(&server, "/v1/completions", &json!({"model": "m", "prompt": "."})).await.status, 404);
    drop(server);
    // What it is given at its start is there again.
    assert_eq!(names(&start().await).await, ["m:latest", "hf.co/org/stays:latest"]);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test]
async fn a_pull_that_is_left_leaves_no_model() {
    let server = start().await;
    server.change(|behaviour| behaviour.pull_milliseconds = 36_000_000);
    let mut connection = Connection::open(&server).await;
    let mut response = connection.send("POST", "/api/pull", &[], &json!({"model": "large"})).await.unwrap();
    read_until(&mut response, "pulling manifest").await;
    drop((response, connection));
    ended(&server).await;
    assert_eq!(get(&server, "/api/tags").await.json()["models"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn its_own_chat_is_a_stream_of_lines_with_counts_in_the_last() {
    let server = start().await;
    let request = chat("[[tokens=3]]", json!({"options": {"num_predict": 2}}));
    let reply = post(&server, "/api/chat", &request).await;
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> = reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!(
        (lines.len(), &last["done"], &last["done_reason"], &last["eval_count"]),
        (3, &json!(true), &json!("length"), &json!(2))
    );
    assert_eq!(last["prompt_eval_count"], server.calls()[0].tokens.input);
    let whole = post(&server, "/api/chat", &with(request, json!({"stream": false}))).await.json();
    assert_eq!((&whole["message"]["content"], &whole["eval_count"]), (&json!(" t0 t1"), &json!(2)));
}

#[tokio::test]
async fn below_v1_it_ignores_what_it_does_not_know() {
    let server = start().await;
    let ignored = json!({"n": 3, "max_completion_tokens": 2, "tool_choice": "none", "unknown": 1, "user": "a"});
    let reply = post(&server, "/v1/chat/completions", &chat("[[tokens=5]]", ignored)).await.json();
    assert_eq!(reply["choices"].as_array().unwrap().len(), 1);
    assert_eq!(reply["usage"]["completion_tokens"], 5, "the newer limit does nothing");
    assert_eq!(reply["usage"].as_object().unwrap().len(), 3, "no details");
    let limited = post(&server, "/v1/chat/completions", &chat("[[tokens=5]]", json!({"max_tokens": 2}))).await.json();
    assert_eq!(limited["usage"]["completion_tokens"], 2);
    let stream = post(&server, "/v1/chat/completions", &streamed_chat("[[tokens=2]]")).await;
    assert!(stream.is_done());
    assert_eq!(stream.data().last().unwrap()["choices"], json!([]));
    let list = post(&server, "/v1/completions", &json!({"model": "m", "prompt": ["a"]})).await;
    assert_eq!((list.status, &list.json()["error"]["type"]), (400, &json!("invalid_request_error")));
    let message = json!({"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": "a"}]});
    assert_eq!(post(&server, "/v1/messages", &message).await.json()["usage"]["output_tokens"], 2);
    assert_eq!(post(&server, "/v1/messages/count_tokens", &message).await.status, 404);
}

#[tokio::test]
async fn a_long_prompt_loses_its_beginning_without_a_word() {
    let mut settings = Settings::new(Face::Ollama, &[]);
    settings.models = vec![Model { name: "m".to_owned(), context_length: 50 }];
    let server = ModelServer::start(settings).await.unwrap();
    let reply = post(&server, "/v1/chat/completions", &chat(&"word ".repeat(500), json!({"max_tokens": 1}))).await;
    assert_eq!((reply.status, &reply.json()["usage"]["prompt_tokens"]), (200, &json!(49)));
}

#[tokio::test]
async fn an_error_in_the_middle_looks_like_an_answer_without_content_and_end() {
    let server = start().await;
    server.add(Match::default(), fault(r#"{"errorEvent": {"after": 2, "refusal": "serverError"}}"#));
    let reply = post(&server, "/v1/chat/completions", &streamed_chat("[[tokens=9]]")).await;
    let data = reply.data();
    assert_eq!((data.len(), &data[2]["choices"][0]["delta"]["content"]), (3, &json!("")));
    assert!(!reply.is_done() && data.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()));
    let native = post(&server, "/api/chat", &chat("[[tokens=9]]", json!({}))).await.text();
    assert!(native.lines().last().unwrap().starts_with("{\"error\":"), "{native}");
}

#[tokio::test]
async fn one_call_runs_and_what_finds_no_place_to_wait_is_refused() {
    let mut settings = Settings::new(Face::Ollama, &["m"]);
    settings.queue = Some(0);
    settings.behaviour.token_milliseconds = 3_600_000;
    let server = ModelServer::start(settings).await.unwrap();
    let mut connection = Connection::open(&server).await;
    let mut running = connection.send("POST", "/v1/chat/completions", &[], &streamed_chat("[[tokens=9]]")).await.unwrap();
    read_until(&mut running, " t0").await;
    let refused = post(&server, "/v1/chat/completions", &chat("a", json!({}))).await;
    assert_eq!(refused.status, 503);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("server busy"));
}
