//! What kubectl shows, waits for and scales.

use serde_json::{Value, json};

use crate::harness::{Team, condition, small_model};

/// A small model on a seventh of an A100, of which the cluster has many.
fn small() -> Value {
    small_model(json!({}))
}

/// The cells of the only row of a table, by the name of their column.
pub fn row(table: &str) -> Vec<(String, String)> {
    let mut lines = table.lines();
    let header = lines.next().unwrap();
    let line = lines.next().unwrap_or_else(|| panic!("no row in {table}"));
    // Columns start where their heading does.
    let starts: Vec<usize> =
        (0..header.len()).filter(|&at| !header[at..].starts_with(' ') && (at == 0 || header[..at].ends_with(' '))).collect();
    let ends = starts.iter().skip(1).copied().map(Some).chain([None]);
    let cut = |line: &str, start: usize, end: Option<usize>| -> String {
        let end = end.unwrap_or(line.len()).min(line.len());
        line.get(start..end).unwrap_or_default().trim().to_owned()
    };
    starts.iter().zip(ends).map(|(&start, end)| (cut(header, start, end), cut(line, start, end))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_columns_say_what_was_chosen_and_whether_it_answers() {
    let team = Team::new("columns").await;
    team.apply("small", json!({ "vllm": small() })).await;
    // Before the operator has seen it, nothing is claimed.
    let cells = row(&team.kubectl(&["get", "ib"]));
    let names: Vec<&str> = cells.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["NAME", "READY", "MODEL", "ENGINE", "GPUS", "REPLICAS", "AGE"]);
    assert!(cells[1..6].iter().all(|(_, cell)| cell.is_empty()), "{cells:?}");

    let _operator = team.operator().await;
    let ready = team.until_ready("small", "True", "Available").await;
    let cells = row(&team.kubectl(&["get", "ib", "-o", "wide"]));
    let cell = |name: &str| cells.iter().find(|(column, _)| column == name).map(|(_, cell)| cell.as_str());
    assert_eq!(cell("READY"), Some("True"));
    assert_eq!(cell("MODEL"), Some("Qwen/Qwen3-0.6B"));
    assert_eq!(cell("ENGINE"), Some("vLLM"));
    assert_eq!(cell("GPUS"), ready.pointer("/status/summary/gpus").and_then(Value::as_str));
    assert!(cell("GPUS").unwrap().starts_with("1xA100-80GB-MIG-1g.10gb TP1"), "{cells:?}");
    assert_eq!(cell("REPLICAS"), Some("1/1"));
    assert!(cell("AGE").unwrap().ends_with('s'), "{cells:?}");
    assert_eq!(cell("CONTEXT").map(str::to_owned), ready.pointer("/status/sizing/contextLength").map(Value::to_string));
    assert_eq!(cell("KV-TOKENS").map(str::to_owned), ready.pointer("/status/sizing/kvCacheTokens").map(Value::to_string));
    assert_eq!(cell("REASON"), Some("Available"));
    let claude = json!({
        "provider": "Anthropic", "model": "claude-haiku-4-5",
        "apiKeys": [{ "name": "a", "secretKeyRef": { "name": "absent", "key": "key" } }],
    });
    team.apply("claude", json!({ "external": claude })).await;
    team.until_ready("claude", "False", "SecretNotFound").await;
    let cells = row(&team.kubectl(&["get", "ib", "claude", "-o", "wide"]));
    let cell = |name: &str| cells.iter().find(|(column, _)| column == name).map(|(_, cell)| cell.as_str());
    assert_eq!((cell("ENGINE"), cell("CONTEXT")), (Some("Anthropic"), Some("200000")));
    for name in ["inferencebackends", "inferencebackend", "quartermaster"] {
        assert!(team.kubectl(&["get", name]).contains("small"), "{name}");
    }
    assert!(!team.kubectl(&["get", "all"]).contains("inferencebackend.quartermaster.dev"));
    let described = team.kubectl(&["describe", "ib", "small"]);
    assert!(described.contains("Sized") && described.contains("Events:"), "{described}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_ready_never_ends_before_the_newest_generation_is() {
    let team = Team::new("wait").await;
    let wait = |timeout: &str| {
        team.kubectl_with_input(&["wait", "--for=condition=Ready", "ib/small", &format!("--timeout={timeout}")], "")
    };
    let created = team.apply("small", json!({ "vllm": small() })).await;
    assert_eq!(created.data["status"], json!({ "observedGeneration": -1 }));
    let (code, said) = wait("1s");
    assert!(code != 0 && said.contains("timed out"), "{said}");

    let mut operator = team.operator().await;
    let (code, said) = wait("60s");
    assert_eq!(code, 0, "{said}");
    operator.kill();

    // The status still says Ready=True, of the generation before.
    let mut changed = small();
    changed["contextLength"] = json!(4096);
    team.apply("small", json!({ "vllm": changed })).await;
    let (code, said) = wait("1s");
    assert!(code != 0 && said.contains("timed out"), "{said}");
    let _operator = team.operator().await;
    let (code, said) = wait("60s");
    assert_eq!(code, 0, "{said}");
    let ready = serde_json::to_value(team.backends().get("small").await.unwrap()).unwrap();
    assert_eq!(condition(&ready, "Ready").unwrap()["observedGeneration"], 2);
    assert_eq!(ready.pointer("/status/observedGeneration"), Some(&json!(2)));
    assert_eq!(ready.pointer("/status/sizing/contextLength"), Some(&json!(4096)));
}

#[tokio::test(flavor = "multi_thread")]
async fn scale_is_read_and_written_by_kubectl_and_by_an_autoscaler_once_the_replicas_have_been_set() {
    let team = Team::new("scale").await;
    let _operator = team.operator().await;
    team.apply("small", json!({ "vllm": small() })).await;
    team.until_ready("small", "True", "Available").await;

    let path = format!("/apis/quartermaster.dev/v1alpha1/namespaces/{}/inferencebackends/small/scale", team.namespace);
    // An autoscaler begins with this question, and so cannot begin before the replicas have been set once.
    let (code, said) = team.kubectl_with_input(&["get", "--raw", &path], "");
    assert!(code != 0 && said.contains(".spec.replicas"), "{said}");

    let said = team.kubectl(&["scale", "ib/small", "--replicas=2"]);
    assert!(said.contains("scaled"), "{said}");
    let ready = team.until_ready("small", "True", "Available").await;
    assert_eq!(ready.pointer("/status/summary/replicas"), Some(&json!("2/2")));
    let scale: Value = serde_json::from_str(&team.kubectl(&["get", "--raw", &path])).unwrap();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(2), &json!(2)));
    let selector = scale["status"]["selector"].as_str().unwrap();
    let pods = team.kubectl(&["get", "pods", "--selector", selector, "-o", "name"]);
    assert_eq!(pods.lines().count(), 2, "{pods}");

    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "small" },
        "spec": {
            "scaleTargetRef": { "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "name": "small" },
            "minReplicas": 3, "maxReplicas": 4,
            "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 } } }],
        },
    });
    let (code, said) = team.kubectl_with_input(&["apply", "-f", "-"], &autoscaler.to_string());
    assert_eq!(code, 0, "{said}");
    let scaled =
        team.until("small", "three replicas", |backend| backend.pointer("/status/summary/replicas") == Some(&json!("3/3"))).await;
    assert_eq!(scaled["spec"]["replicas"], 3);
    let autoscalers =
        team.api(&crate::harness::resource("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"));
    let read = team
        .until_in(&autoscalers, "small", "a verdict on its metrics", |autoscaler| condition(autoscaler, "ScalingActive").is_some())
        .await;
    assert_eq!(condition(&read, "AbleToScale").unwrap()["status"], "True");
    // No metrics are served here; a selector that it cannot read would be another reason.
    assert_eq!(condition(&read, "ScalingActive").unwrap()["reason"], "FailedGetResourceMetric");
    team.kubectl(&["delete", "hpa", "small"]);

    team.kubectl(&["scale", "ib/small", "--replicas=0"]);
    let idle = team.until_ready("small", "True", "ScaledToZero").await;
    assert_eq!(idle.pointer("/status/summary/replicas"), Some(&json!("0/0")));
    let (code, said) = team.kubectl_with_input(&["wait", "--for=condition=Ready", "ib/small", "--timeout=5s"], "");
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_are_selected_by_their_model_and_by_their_provider() {
    let team = Team::new("selected").await;
    team.apply("small", json!({ "vllm": small() })).await;
    team.apply("other", json!({ "vllm": small_model(json!({ "model": "Qwen/Qwen3-4B" })) })).await;
    let keys = json!([{ "name": "a", "secretKeyRef": { "name": "key", "key": "key" } }]);
    for (name, provider) in [("claude", "Anthropic"), ("gpt", "OpenAI")] {
        team.apply(name, json!({ "external": { "provider": provider, "model": "m", "apiKeys": keys } })).await;
    }
    for (selector, found) in [
        ("spec.vllm.model=Qwen/Qwen3-0.6B", "small"),
        ("spec.external.provider=Anthropic", "claude"),
        ("spec.external.provider!=Anthropic,spec.vllm.model=", "gpt"),
    ] {
        let said = team.kubectl(&["get", "ib", "-o", "name", "--field-selector", selector]);
        assert_eq!(said.trim(), format!("inferencebackend.quartermaster.dev/{found}"), "{selector}");
    }
}
