//! `quartermaster route`.

use serde_json::json;

use super::{Answer, backend, root, run, scratch};

/// A route, three backends and a pool, in one file.
const SETUP: &str = "
apiVersion: quartermaster.dev/v1alpha1
kind: ModelRoute
metadata: {name: smart-router}
spec:
  strategy: LowestCost
  backends: [{name: llama-70b}, {name: claude, tier: Premium}, {name: gone}]
  rules:
  - {name: long-prompts, when: {promptTokens: {atLeast: 3000}}, backends: [{name: claude}]}
  - {name: qa, when: {taskTypes: [qa]}, backends: [{name: llama-8b}, {name: llama-70b}]}
  trustedLabels: [taskType, priority]
  fallback: [{name: claude, causes: [RateLimited, Timeout]}]
---
apiVersion: quartermaster.dev/v1alpha1
kind: InferenceBackend
metadata: {name: llama-70b}
spec: {vllm: {model: meta-llama/Llama-3.3-70B-Instruct}}
---
apiVersion: quartermaster.dev/v1alpha1
kind: InferenceBackend
metadata: {name: llama-8b}
spec: {external: {provider: OpenAICompatible, model: llama-8b, serviceRef: {name: llama, port: 8000}, formats: [ChatCompletions, Messages, Responses]}}
---
apiVersion: quartermaster.dev/v1alpha1
kind: InferenceBackend
metadata: {name: claude}
spec:
  price: {inputPerMillionTokens: \"3\", outputPerMillionTokens: \"15\"}
  external:
    provider: OpenAICompatible
    model: claude
    baseURL: https://models.example/v1
    apiKeys: [{name: first, secretKeyRef: {name: keys, key: first}}]
    formats: [ChatCompletions, Messages, Responses]
---
apiVersion: quartermaster.dev/v1alpha1
kind: AgentPool
metadata: {name: coder}
spec:
  modelRoutes: [{name: smart-router}]
  requestLabels: {priority: P2}
";

/// The answer about a call of a setup on standard input.
fn routed(setup: &str, body: &str, more: &[&str]) -> Answer {
    let file = scratch(body);
    run(&[&["route", "-", "--request", file.to_str().unwrap()][..], more].concat(), setup)
}

const QUESTION: &str = r#"{"model": "smart-router", "messages": [{"role": "user", "content": "Why?"}]}"#;

#[test]
fn a_call_is_explained_candidate_by_candidate() {
    let headers = ["--header", "x-quartermaster-task-type=qa", "--header", "x-quartermaster-priority=P0"];
    let answer = routed(SETUP, QUESTION, &headers);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let (notes, lines): (Vec<&str>, Vec<&str>) = answer.out.lines().map(str::trim).partition(|line| line.starts_with("note: "));
    assert!(notes.len() == 1 && notes[0].contains("the InferenceBackend gone, which does not exist"), "{notes:?}");
    assert_eq!(
        lines,
        [
            "model \"smart-router\" is the route smart-router, called by coder",
            "prompt: about 1 tokens",
            "labels: priority=P2, taskType=qa",
            "priority does not count: a client can only lower its priority",
            "rule long-prompts: no, the prompt has about 1 tokens, and when.promptTokens asks for at least 3000",
            "rule qa: yes",
            "candidates: those of the rule qa, by LowestCost",
            "1.  llama-70b: Standard, about 0.000000",
            "2.  llama-8b: Standard, no price",
            "fallback:",
            "claude: Premium, on RateLimited, Timeout",
            "goes to llama-70b",
        ]
    );
}

#[test]
fn every_example_of_a_route_answers_the_example_requests_it_is_for() {
    let files = |directory: &str| -> Vec<String> {
        let entries = std::fs::read_dir(root().join("examples").join(directory)).unwrap();
        let mut files: Vec<String> = entries.map(|entry| entry.unwrap().path().to_str().unwrap().to_owned()).collect();
        files.sort();
        files
    };
    let manifests = [files("routes"), files("backends")].concat();
    let requests = files("requests");
    assert!(requests.len() >= 2);
    for request in &requests {
        let mut arguments = vec!["route", "--caller", "coder", "--request", request];
        arguments.extend(manifests.iter().map(String::as_str));
        let answer = run(&arguments, "");
        assert_eq!(answer.code, 0, "{request}: {}", answer.err);
        assert!(answer.out.starts_with("model \"agents\" is the route agents, called by coder\n"), "{request}: {}", answer.out);
    }
    // The route whose calls stay in the cluster has no note: its backends speak every format, and all of them may see the calls.
    let question = scratch(r#"{"model": "private", "messages": [{"role": "user", "content": "Why?"}]}"#);
    let mut arguments = vec!["route", "--request", question.to_str().unwrap(), "--output", "json"];
    let without_callers: Vec<&String> = manifests.iter().filter(|file| !file.ends_with("callers.yaml")).collect();
    arguments.extend(without_callers.iter().map(|file| file.as_str()));
    let answer = run(&arguments, "");
    assert_eq!(answer.code, 0, "{}", answer.err);
    let answer = answer.json();
    assert!(answer.get("notes").is_none(), "{answer}");
    assert_eq!(answer["candidates"].as_array().unwrap().len(), 2, "{answer}");
    assert!(answer["candidates"].as_array().unwrap().iter().all(|candidate| candidate.get("out").is_none()), "{answer}");
}

#[test]
fn what_people_read_of_a_call_scripts_read_too() {
    let answer = routed(SETUP, QUESTION, &["-o", "json", "--caller", "coder"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let answer = answer.json();
    assert_eq!(answer["goesTo"], "llama-70b");
    assert_eq!(answer["labels"], json!({ "priority": "P2" }));
    assert_eq!(answer["rules"].as_array().unwrap().len(), 2);
    assert!(answer.get("rule").is_none(), "no rule decides: {answer}");
    let of = |name: &str| answer["candidates"].as_array().unwrap().iter().find(|one| one["backend"] == name).unwrap().clone();
    assert_eq!(of("llama-70b")["place"], 1);
    assert_eq!(of("claude")["place"], 2);
    assert_eq!(of("claude")["cost"], "0.007848");
}

#[test]
fn a_call_that_no_backend_can_answer_is_a_no() {
    let long = json!({ "model": "smart-router", "input": "Why? ".repeat(3000) }).to_string();
    let answer = routed(SETUP, &long, &["--path", "/v1/embeddings"]);
    assert_eq!(answer.code, 3, "{}{}", answer.out, answer.err);
    let unfit = ", it does not speak Embeddings, the format of the call\n";
    assert!(answer.out.lines().filter(|line| line.contains("claude: Premium, ")).count() == 2, "{}", answer.out);
    assert!(answer.out.matches(unfit).count() == 2, "{}", answer.out);
    assert!(answer.out.ends_with("goes nowhere\n"), "{}", answer.out);
    assert!(answer.err.contains("no backend of the route smart-router can answer the call"), "{}", answer.err);
    let answer = routed(SETUP, &QUESTION.replace("smart-router", "gpt-4o"), &[]);
    assert_eq!((answer.code, answer.out.as_str()), (3, ""));
    assert!(answer.err.contains("coder may call: smart-router"), "{}", answer.err);
}

#[test]
fn what_cannot_be_understood_of_a_call_is_wrong_input() {
    let two = format!("{SETUP}---\n{}", SETUP.split("---\n").last().unwrap().replace("coder", "planner"));
    let elsewhere = SETUP
        .replace("{name: coder}", "{name: coder, namespace: other}")
        .replace("{name: claude}\nspec", "{name: claude, namespace: team}\nspec");
    let other = backend("a", json!({ "vllm": { "model": "meta-llama/Llama-3.1-8B" } }));
    let unknown = SETUP.replace("strategy:", "strategies:");
    let rows: [(&str, &str, &[&str], &str); 9] = [
        (SETUP, "{", &[], "valid JSON"),
        (SETUP, "{}", &[], "\"model\" is missing"),
        (SETUP, QUESTION, &["--caller", "nobody"], "the AgentPools of the files are: coder"),
        (SETUP, QUESTION, &["--path", "/v1/models"], "no backend is asked for this path"),
        (SETUP, QUESTION, &["--header", "priority"], "NAME=VALUE"),
        (&two, QUESTION, &[], "say with --caller which of them calls: coder, planner"),
        (&elsewhere, QUESTION, &[], "several namespaces (other, team)"),
        (&other, QUESTION, &[], "no ModelRoute in the files"),
        (&unknown, QUESTION, &[], "spec.strategies"),
    ];
    for (setup, body, more, words) in rows {
        let answer = routed(setup, body, more);
        assert_eq!(answer.code, 2, "{words}: {}{}", answer.out, answer.err);
        assert!(answer.err.contains(words), "{words}: {}", answer.err);
    }
}
