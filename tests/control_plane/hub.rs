//! Models that only a hub knows: sized from its config.json, refused, mistyped, or hidden behind a hub that cannot be asked.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::harness::{Team, condition, small_model};

/// A hub on loopback: `acme/unlisted` is anybody's, `acme/gated` is for the token `hf_good`, `acme/broken` is out of order, and
/// `acme/mistyped` does not exist, which Hugging Face tells nobody who sends no token. It knows no token `hf_expired`. What the
/// catalogue has of `meta-llama` is for `hf_good`, too.
async fn serve() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(|request: Request| async move { answer(&request) });
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn answer(request: &Request) -> Response {
    let token = request.headers().get("authorization").map(|value| value.to_str().unwrap());
    let path = request.uri().path();
    let gated = |path: &str| path.starts_with("/acme/gated/") || path.starts_with("/meta-llama/");
    let refusal = match (path, token) {
        (_, Some("Bearer hf_expired")) => Some((StatusCode::UNAUTHORIZED, "")),
        (path, _) if path.starts_with("/acme/broken/") => Some((StatusCode::BAD_GATEWAY, "")),
        (path, None) if path.starts_with("/acme/mistyped/") => Some((StatusCode::UNAUTHORIZED, "RepoNotFound")),
        (path, None) if gated(path) => Some((StatusCode::UNAUTHORIZED, "GatedRepo")),
        (path, Some(token)) if gated(path) && token != "Bearer hf_good" => Some((StatusCode::FORBIDDEN, "GatedRepo")),
        _ => None,
    };
    if let Some((status, code)) = refusal {
        return (status, [("x-error-code", code)]).into_response();
    }
    match path.rsplit('/').next() {
        Some("config.json") => Json(json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 16, "num_attention_heads": 16,
            "num_key_value_heads": 8, "hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 32_000,
            "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
        }))
        .into_response(),
        Some("model.safetensors.index.json") => Json(json!({ "metadata": { "total_size": 1_234_567_168 } })).into_response(),
        _ => (StatusCode::NOT_FOUND, [("x-error-code", "EntryNotFound")]).into_response(),
    }
}

fn of_hub(endpoint: &str, model: &str, secret: Option<&str>) -> Value {
    let mut hub = json!({ "endpoint": endpoint });
    if let Some(name) = secret {
        hub["tokenSecretKeyRef"] = json!({ "name": name, "key": "token" });
    }
    json!({ "vllm": small_model(json!({ "model": model, "huggingFace": hub })) })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlisted_model_is_sized_from_its_configuration_and_each_hindrance_is_named() {
    let team = Team::new("hub").await;
    let hub = serve().await;
    let operator = team.operator_with("destinations: {allowLoopback: true}", &[]).await;
    team.kubectl(&["create", "secret", "generic", "poor", "--from-literal=token=hf_poor_secret"]);
    team.kubectl(&["create", "secret", "generic", "expired", "--from-literal=token=hf_expired"]);
    team.apply("unlisted", of_hub(&hub, "acme/unlisted", None)).await;
    for (name, spec, reason, progress, words) in [
        ("gated", of_hub(&hub, "acme/gated", None), "ModelAccessDenied", "Stalled", vec!["accept its terms", "tokenSecretKeyRef"]),
        (
            "poor",
            of_hub(&hub, "acme/gated", Some("poor")),
            "ModelAccessDenied",
            "Stalled",
            vec!["to the token of", "accept the model's terms"],
        ),
        (
            "mistyped",
            of_hub(&hub, "acme/mistyped", None),
            "ModelNotFound",
            "Stalled",
            vec!["does not exist, is private or gated", "correct spec.vllm.model", "spec.vllm.huggingFace.tokenSecretKeyRef"],
        ),
        (
            "expired",
            of_hub(&hub, "acme/unlisted", Some("expired")),
            "ModelAccessDenied",
            "Stalled",
            vec!["the hub refuses the token of spec.vllm.huggingFace.tokenSecretKeyRef", "put a valid token into the Secret"],
        ),
        (
            "waits",
            of_hub(&hub, "acme/gated", Some("absent")),
            "SecretNotFound",
            "Reconciling",
            vec!["spec.vllm.huggingFace.tokenSecretKeyRef", "create it with the key token"],
        ),
        (
            "broken",
            of_hub(&hub, "acme/broken", None),
            "ModelFactsPending",
            "Reconciling",
            vec!["502", "spec.vllm.huggingFace.endpoint", "spec.vllm.architecture", "spec.vllm.parallelism.tensor"],
        ),
        (
            "forbidden",
            of_hub("http://169.254.169.254", "acme/unlisted", None),
            "EndpointNotAllowed",
            "Stalled",
            vec!["a metadata service's address", "spec.vllm.huggingFace.endpoint", "spec.vllm.architecture"],
        ),
    ] {
        team.apply(name, spec).await;
        // While the hub is being asked, the reason may be the same already.
        let says = |backend: &Value| {
            let because = condition(backend, "Ready").is_some_and(|ready| ready["status"] == "False" && ready["reason"] == reason);
            let message = condition(backend, progress).and_then(|told| told["message"].as_str()).unwrap_or_default();
            because && words.iter().all(|word| message.contains(word))
        };
        let answered = team.until(name, &format!("{reason}, {progress} with {words:?}"), says).await;
        assert_eq!(condition(&answered, "Sized").unwrap()["status"], "Unknown", "{name}");
        assert!(!answered.to_string().contains("hf_poor_secret"));
    }
    let sized = team.until_ready("unlisted", "True", "Available").await;
    assert_eq!(condition(&sized, "Sized").unwrap()["status"], "True");
    assert_eq!(sized.pointer("/status/sizing/weightBytes"), Some(&json!(1_234_567_168)));

    // The Secret comes, and the model is known at once.
    team.kubectl(&["create", "secret", "generic", "absent", "--from-literal=token=hf_good"]);
    team.until_ready("waits", "True", "Available").await;
    // Where the hub cannot be asked, the size that the user sets is taken.
    let mut pinned = of_hub(&hub, "acme/broken", None);
    pinned["vllm"]["parallelism"] = json!({ "tensor": 1 });
    team.apply("broken", pinned).await;
    let sized = team.until_ready("broken", "True", "Available").await;
    assert_eq!(condition(&sized, "Sized").unwrap()["status"], "Unknown");
    assert!(!operator.log().contains("hf_poor_secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gated_model_of_the_catalogue_is_refused_to_a_token_that_may_not_read_it_and_needs_no_hub_that_is_silent() {
    let team = Team::new("gated").await;
    let hub = serve().await;
    let operator = team.operator_with("destinations: {allowLoopback: true}", &[]).await;
    for (name, token) in [("poor", "hf_poor_secret"), ("good", "hf_good")] {
        team.kubectl(&["create", "secret", "generic", name, &format!("--from-literal=token={token}")]);
    }
    let gated = |endpoint: &str, secret: &str| {
        let mut spec = of_hub(endpoint, "meta-llama/Llama-3.3-70B-Instruct", Some(secret));
        spec["vllm"]["accelerator"] = json!({ "products": ["NVIDIA-H100-80GB-HBM3"] });
        spec["replicas"] = json!(0);
        spec
    };
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    team.apply("poor", gated(&hub, "poor")).await;
    team.apply("good", gated(&hub, "good")).await;
    team.apply("silent", gated(&format!("http://{silent}"), "poor")).await;
    let refused = team.until_ready("poor", "False", "ModelAccessDenied").await;
    let message = condition(&refused, "Stalled").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("to the token of spec.vllm.huggingFace.tokenSecretKeyRef"), "{message}");
    for name in ["good", "silent"] {
        let made = team.until_ready(name, "True", "ScaledToZero").await;
        assert_eq!(made.pointer("/status/sizing/tensorParallelSize"), Some(&json!(4)), "{name}");
    }
    assert!(team.deployments().get_opt("poor-backend").await.unwrap().is_none());
    // Another token is tried at once.
    team.apply("poor", gated(&hub, "good")).await;
    team.until_ready("poor", "True", "ScaledToZero").await;
    assert!(!operator.log().contains("hf_poor_secret"));
}
