//! A spec that cannot work gets an answer that names the field and what to do, makes no pod and disturbs nobody.

use serde_json::{Value, json};

use crate::events::each_is_told_once;
use crate::harness::{Operator, Team, condition, small_model};

/// A small model on a seventh of an A100, of which the cluster has many.
fn small() -> Value {
    small_model(json!({}))
}

/// A model that only the spec describes, split in this way over H100s.
fn described(more: Value, tensor: u32) -> Value {
    let mut architecture = json!({
        "parameters": 8_000_000_000_u64, "layers": 32, "attentionHeads": 40, "keyValueHeads": 8, "headDimension": 128,
        "hiddenSize": 5120, "intermediateSize": 17_920, "vocabularySize": 100_480, "contextLength": 16_384, "dtype": "BFloat16",
    });
    architecture.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({
        "model": "acme/model", "architecture": architecture, "parallelism": { "tensor": tensor },
        "accelerator": { "products": ["NVIDIA-H100-80GB-HBM3"] },
    })
}

/// A bad spec: a name, `spec.vllm`, the reason of the answer, and words of it.
type Case = (&'static str, Value, &'static str, Vec<&'static str>);

/// Applies bad specs beside a good one, and checks every answer, that it was told once, that nothing was made, and that the good
/// one went on.
async fn each_is_answered(team: &Team, operator: &Operator, cases: Vec<Case>) {
    team.apply("innocent", json!({ "vllm": small() })).await;
    let before = team.until_ready("innocent", "True", "Available").await;
    let deployment = team.deployments().get("innocent-backend").await.unwrap().metadata;
    for (name, vllm, _, _) in &cases {
        team.apply(name, json!({ "vllm": vllm })).await;
    }
    let mut wrong = Vec::new();
    for (name, _, reason, words) in &cases {
        let answered = team.until_ready(name, "False", reason).await;
        let stalled = condition(&answered, "Stalled").unwrap_or_else(|| panic!("{name} is not stalled: {answered}"));
        let message = stalled["message"].as_str().unwrap();
        let missing: Vec<_> = words.iter().filter(|word| !message.contains(**word)).collect();
        if !missing.is_empty() {
            wrong.push(format!("{name} lacks {missing:?}: {message}"));
        }
        let label = format!("quartermaster.dev/inference-backend={name}");
        let made = team.kubectl(&["get", "deployments,services,pods,secrets", "-o", "name", "-l", &label]);
        assert!(made.starts_with("No resources found") || made.is_empty(), "{name} made {made}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    each_is_told_once(team, operator, &cases.iter().map(|case| case.0).collect::<Vec<_>>()).await;
    let after = team.until_ready("innocent", "True", "Available").await;
    assert_eq!(condition(&before, "Ready"), condition(&after, "Ready"));
    assert_eq!(team.deployments().get("innocent-backend").await.unwrap().metadata.generation, deployment.generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_cannot_work_is_refused_before_a_pod_exists() {
    let team = Team::new("bad-size").await;
    let operator = team.operator().await;
    let fp8 = json!({
        "attentionHeads": 32, "intermediateSize": 9728, "vocabularySize": 151_936,
        "checkpointQuantization": { "method": "fp8", "blockSize": 128 },
    });
    let mut unsplittable = small_model(json!({ "parallelism": { "tensor": 2 } }));
    unsplittable["accelerator"]["products"] = json!(["Tesla-T4-SHARED"]);
    let mut contradictory = small();
    contradictory["accelerator"] = json!({ "products": ["NVIDIA-L4"], "memory": "80Gi" });
    let mut other_vendor = small();
    other_vendor["accelerator"] = json!({ "resourceName": "amd.com/gpu" });
    let mut other_product = small();
    other_product["accelerator"] = json!({ "resourceName": "amd.com/gpu", "products": ["NVIDIA-L4"] });
    let mut unreadable = small();
    unreadable["accelerator"] = json!({ "products": ["NVIDIA-L4"], "memory": "lots" });
    let huge = json!({
        "model": "meta-llama/Llama-3.1-405B-Instruct",
        "huggingFace": { "tokenSecretKeyRef": { "name": "hub", "key": "token" } },
        "architecture": {
            "parameters": 405_853_388_800_u64, "layers": 126, "attentionHeads": 128, "keyValueHeads": 8, "headDimension": 128,
            "hiddenSize": 16_384, "intermediateSize": 53_248, "vocabularySize": 128_256, "contextLength": 131_072,
            "dtype": "BFloat16",
        },
    });
    let cases: Vec<Case> = vec![
        (
            "heads",
            described(json!({}), 3),
            "InvalidParallelism",
            vec!["40 attention heads are not divisible by tensor-parallel size 3", "parallelism"],
        ),
        (
            "key-value-heads",
            described(json!({}), 5),
            "InvalidParallelism",
            vec!["8 key-value heads can neither be split over nor repeated on 5 ranks", "parallelism"],
        ),
        (
            "blocks",
            described(fp8, 8),
            "InvalidParallelism",
            vec!["1216 columns of the dense layers", "not a multiple of the FP8 blocks of 128", "parallelism"],
        ),
        (
            "vocabulary",
            described(json!({ "keyValueHeads": 40, "vocabularySize": 50_257 }), 5),
            "InvalidParallelism",
            vec!["the vocabulary of 50257, padded to 50304, is not divisible by tensor-parallel size 5", "parallelism"],
        ),
        (
            "mig",
            small_model(json!({ "parallelism": { "tensor": 2 } })),
            "InvalidParallelism",
            vec!["(MIG), which cannot work together"],
        ),
        ("shared", unsplittable, "InvalidParallelism", vec!["cards that pods share"]),
        // Three fixes, each with its number.
        (
            "huge",
            huge,
            "DoesNotFit",
            vec![
                "meta-llama/Llama-3.1-405B-Instruct does not fit",
                "exceed 72.5 GiB by",
                "What would do: ",
                "; or ",
                "quantization: fp8",
                "accelerator: {products: [",
            ],
        ),
        ("context", small_model(json!({ "contextLength": 1_000_000 })), "ContextTooLong", vec!["contextLength", "40960"]),
        (
            "contradictory",
            contradictory,
            "InvalidAccelerator",
            vec!["accelerator.memory is 80.0 GiB, but NVIDIA-L4 has", "What would do: accelerator: {no memory}"],
        ),
        (
            "resource",
            other_vendor,
            "NoAcceleratorMatches",
            vec![
                "spec.vllm.accelerator.resourceName (amd.com/gpu)",
                "accelerator: {resourceName: nvidia.com/gpu} (",
                "4xNVIDIA-L4",
            ],
        ),
        (
            "resource-of-a-product",
            other_product,
            "InvalidAccelerator",
            vec!["accelerator.resourceName is amd.com/gpu, but NVIDIA-L4 is offered as nvidia.com/gpu"],
        ),
        ("unreadable", unreadable, "InvalidAccelerator", vec!["accelerator.memory: `lots`", "write for example 80Gi"]),
    ];
    each_is_answered(&team, &operator, cases).await;
    let huge = team.backends().get("huge").await.unwrap();
    let fixes =
        condition(&serde_json::to_value(huge).unwrap(), "Sized").unwrap()["message"].as_str().unwrap().matches("; or ").count();
    assert_eq!(fixes, 2, "three fixes have two `or` between them");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_manages_or_vllm_would_refuse_is_refused_in_every_spelling() {
    let team = Team::new("bad-spec").await;
    let operator = team.operator().await;
    let argument = |argument: &str| small_model(json!({ "extraArgs": [argument] }));
    let set = |field: &'static str| vec!["spec.vllm.extraArgs", "managed by the operator", field];
    let cases: Vec<Case> = vec![
        ("dashes", argument("--tensor-parallel-size=2"), "InvalidArguments", set("set spec.vllm.parallelism.tensor")),
        ("underscores", argument("--tensor_parallel_size=2"), "InvalidArguments", set("set spec.vllm.parallelism.tensor")),
        ("prefix", argument("--tensor-par=2"), "InvalidArguments", set("(--tensor-parallel-size)")),
        ("short", argument("-tp=2"), "InvalidArguments", set("set spec.vllm.parallelism.tensor")),
        (
            "next-item",
            small_model(json!({ "extraArgs": ["--max-model-len", "4096"] })),
            "InvalidArguments",
            set("set spec.vllm.contextLength"),
        ),
        ("address", argument("--port=8001"), "InvalidArguments", set("remove it")),
        ("unknown", argument("--no-such-flag"), "InvalidArguments", vec!["spec.vllm.extraArgs: --no-such-flag"]),
        ("secret", argument("--api-key=sk-secret"), "InvalidArguments", set("--api-key")),
        (
            "image",
            small_model(json!({ "image": "registry.example:5000/vllm" })),
            "InvalidImage",
            vec!["image registry.example:5000/vllm has neither tag nor digest", "append :<tag> or @sha256:<digest>"],
        ),
        (
            "environment",
            small_model(json!({ "env": [{ "name": "VLLM_API_KEY", "value": "sk-secret" }] })),
            "InvalidEnvironment",
            vec!["spec.vllm.env sets VLLM_API_KEY", "remove it"],
        ),
        (
            "accelerators",
            small_model(json!({ "resources": { "limits": { "nvidia.com/gpu": 2 } } })),
            "InvalidSpec",
            vec!["spec.vllm.resources asks for nvidia.com/gpu", "set spec.vllm.parallelism"],
        ),
        (
            "node-local",
            small_model(json!({ "cache": { "nodeLocal": {} } })),
            "InvalidSpec",
            vec!["spec.vllm.cache.nodeLocal", "use cache.persistentVolumeClaim or cache.ephemeral instead"],
        ),
        (
            "gated",
            small_model(json!({ "model": "meta-llama/Llama-3.1-8B-Instruct" })),
            "ModelAccessDenied",
            vec![
                "meta-llama/Llama-3.1-8B-Instruct is gated",
                "put an access token of that account into a Secret",
                "tokenSecretKeyRef",
            ],
        ),
    ];
    each_is_answered(&team, &operator, cases).await;
    for name in ["secret", "environment"] {
        let shown = serde_json::to_string(&team.backends().get(name).await.unwrap().data["status"]).unwrap();
        assert!(!shown.contains("sk-secret"), "{shown}");
    }
    // The answer goes with its cause.
    team.apply("dashes", json!({ "vllm": small_model(json!({ "extraArgs": ["--seed=1"] })) })).await;
    team.until_ready("dashes", "True", "Available").await;
}
