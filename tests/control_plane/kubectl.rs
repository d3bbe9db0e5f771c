//! kubectl applies, explains and compares what users write, and nothing of it gets lost on the way.

use std::collections::BTreeSet;

use kube::api::{Api, DynamicObject, PostParams};
use quartermaster_core::api::agent_pool::AgentPoolSpec;
use quartermaster_core::api::inference_backend::InferenceBackendSpec;
use quartermaster_core::api::model_route::ModelRouteSpec;
use quartermaster_core::api::token_budget::TokenBudgetSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::harness::{BUDGET_DEFINITION, DEFINITION, POOL_DEFINITION, ROUTE_DEFINITION, Team};

const EXAMPLES: [(&str, &str); 18] = [
    ("hosted-provider", include_str!("../../examples/backends/hosted-provider.yaml")),
    ("llama-70b", include_str!("../../examples/backends/llama-70b.yaml")),
    ("mixture-of-experts", include_str!("../../examples/backends/mixture-of-experts.yaml")),
    ("ollama", include_str!("../../examples/backends/ollama.yaml")),
    ("small-model", include_str!("../../examples/backends/small-model.yaml")),
    ("daily", include_str!("../../examples/budgets/daily.yaml")),
    ("full budget", include_str!("../../examples/budgets/full.yaml")),
    ("sprint", include_str!("../../examples/budgets/sprint.yaml")),
    ("coder", include_str!("../../examples/pools/coder.yaml")),
    ("interactive-and-batch", include_str!("../../examples/pools/interactive-and-batch.yaml")),
    ("backends of the quickstart", include_str!("../../examples/quickstart/backends.yaml")),
    ("budget of the quickstart", include_str!("../../examples/quickstart/budget.yaml")),
    ("pools of the quickstart", include_str!("../../examples/quickstart/pools.yaml")),
    ("route of the quickstart", include_str!("../../examples/quickstart/route.yaml")),
    ("callers", include_str!("../../examples/routes/callers.yaml")),
    ("full", include_str!("../../examples/routes/full.yaml")),
    ("minimal", include_str!("../../examples/routes/minimal.yaml")),
    ("self-hosted-only", include_str!("../../examples/routes/self-hosted-only.yaml")),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_field_can_be_explained() {
    let team = Team::new("explain").await;
    // This is what `kubectl explain` reads.
    let document = team.kubectl(&["get", "--raw", "/openapi/v3/apis/quartermaster.dev/v1alpha1"]);
    let document: Value = serde_json::from_str(&document).unwrap();
    let served = document.pointer("/components/schemas/dev.quartermaster.v1alpha1.InferenceBackend").unwrap();
    let compiled: Value = serde_saphyr::from_str(DEFINITION).unwrap();
    let compiled = compiled.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
    for part in ["spec", "status"] {
        let (mut expected, mut fields) = (Vec::new(), Vec::new());
        collect(&compiled["properties"][part], part, &mut expected);
        collect(&served["properties"][part], part, &mut fields);
        let silent: Vec<_> = fields.iter().filter(|(_, description)| description.is_empty()).collect();
        assert!(silent.is_empty(), "without a description: {silent:?}");
        assert_eq!(fields, expected);
    }
    for (path, words) in [
        ("ib", "Where tokens are made"),
        ("inferencebackend.spec.vllm.contextLength", "Default: the largest that fits"),
        ("ib.spec.vllm.rollout.type", "Surge: the new pod first"),
        ("ib.spec.vllm.accelerator.products", "in order of preference"),
        ("ib.spec.ollama.keepAlive", "Time that the model stays in memory"),
        ("ib.spec.external.apiKeys.secretKeyRef.key", "Key within the Secret's data."),
        ("ib.status.sizing.derivation", "The arithmetic in one line."),
    ] {
        let said = team.kubectl(&["explain", path]).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(words), "{path}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_definitions_can_be_applied_by_the_client_too() {
    let team = Team::new("client-side").await;
    // A dry run: the server checks annotation and schema, and the other tests keep their definition.
    let (code, said) = team.kubectl_with_input(&["apply", "--dry-run=server", "--warnings-as-errors", "-f", "-"], DEFINITION);
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_accepted_strictly_and_unchanged() {
    let team = Team::new("examples").await;
    for (name, text) in EXAMPLES {
        let (code, said) = team.kubectl_with_input(
            &["apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-o", "json", "-f", "-"],
            text,
        );
        assert_eq!(code, 0, "{name}: {said}");
        let written: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        let answer: Value = serde_json::from_str(&said).unwrap();
        let answers = answer["items"].as_array().cloned().unwrap_or_else(|| vec![answer.clone()]);
        assert_eq!(written.len(), answers.len(), "{name}");
        let ours = |(written, _): &(&Value, &Value)| written["apiVersion"] == "quartermaster.dev/v1alpha1";
        for (written, answer) in written.iter().zip(&answers).filter(ours) {
            assert_eq!(written["spec"], answer["spec"], "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_convergence_nothing_differs_from_what_was_applied() {
    let team = Team::new("diff").await;
    let _operator = team.operator().await;
    let object = json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "metadata": { "name": "small" },
        "spec": { "vllm": {
            "model": "Qwen/Qwen3-0.6B",
            "accelerator": { "products": ["NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"] },
            "startupTimeout": "1h30m",
            // Quantities, whole numbers and text alike, are kept as they are written.
            "resources": { "requests": { "cpu": 1, "memory": "1024Mi" } },
        } },
    })
    .to_string();
    for (arguments, dry_run) in [
        (&["apply", "-f", "-"][..], "unchanged (server dry run)"),
        (&["apply", "--server-side", "--force-conflicts", "-f", "-"], "serverside-applied (server dry run)"),
    ] {
        let (code, said) = team.kubectl_with_input(arguments, &object);
        assert_eq!(code, 0, "{said}");
        team.until_ready("small", "True", "Available").await;
        let (code, said) = team.kubectl_with_input(&[arguments, &["--dry-run=server"]].concat(), &object);
        assert!(code == 0 && said.contains(dry_run), "{said}");
        let (code, said) = team.kubectl_with_input(&["diff", "-f", "-"], &object);
        assert_eq!((code, said.as_str()), (0, ""));
    }
    let changed = object.replace("1h30m", "2h");
    let (code, said) = team.kubectl_with_input(&["diff", "-f", "-"], &changed);
    assert!(code == 1 && said.contains("+    startupTimeout: 2h"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_a_spec_survives_the_api_server_and_the_operators_own_types() {
    let team = Team::new("round-trip").await;
    survive::<InferenceBackendSpec>("InferenceBackend", &team.backends(), DEFINITION, &full_backends()).await;
    survive::<AgentPoolSpec>("AgentPool", &team.pools(), POOL_DEFINITION, &full_pools()).await;
    survive::<ModelRouteSpec>("ModelRoute", &team.routes(), ROUTE_DEFINITION, &full_routes()).await;
    survive::<TokenBudgetSpec>("TokenBudget", &team.budgets(), BUDGET_DEFINITION, &full_budgets()).await;
}

/// Stores these specs and decodes them: they stay what they are. Together they have every field that the definition declares.
async fn survive<Spec: DeserializeOwned + Serialize>(kind: &str, api: &Api<DynamicObject>, definition: &str, specs: &[Value]) {
    for (index, spec) in specs.iter().enumerate() {
        let object = json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": kind,
            "metadata": { "name": format!("full-{index}") }, "spec": spec,
        });
        let stored = api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        assert_eq!(stored.data["spec"], *spec, "{kind}");
        let decoded: Spec = serde_json::from_value(spec.clone()).unwrap();
        assert_eq!(serde_json::to_value(decoded).unwrap(), *spec, "{kind}");
    }
    let schema: Value = serde_saphyr::from_str(definition).unwrap();
    let mut declared = Vec::new();
    collect(schema.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap(), "spec", &mut declared);
    let mut used = BTreeSet::new();
    specs.iter().for_each(|spec| paths(spec, "spec", &mut used));
    let unused: Vec<_> = declared.into_iter().map(|(path, _)| path).filter(|path| !used.contains(path)).collect();
    assert!(unused.is_empty(), "no spec of {kind} in this test has {unused:?}");
}

/// Every field of a schema with its description.
fn collect(schema: &Value, path: &str, fields: &mut Vec<(String, String)>) {
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.{name}");
        fields.push((path.clone(), field["description"].as_str().unwrap_or_default().to_owned()));
        collect(field, &path, fields);
    }
    if let Some(items) = schema.get("items") {
        collect(items, &format!("{path}[]"), fields);
    }
}

/// Every path that a value has.
fn paths(value: &Value, path: &str, used: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, member) in object {
                let path = format!("{path}.{name}");
                used.insert(path.clone());
                paths(member, &path, used);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| paths(item, &format!("{path}[]"), used)),
        _ => {}
    }
}

/// Specs of InferenceBackends that together have every field.
fn full_backends() -> Vec<Value> {
    let secret = json!({ "name": "secret", "key": "key" });
    let vllm = json!({
        "vllm": {
            "model": "acme/model", "revision": "main", "servedModelName": "model", "task": "Generate",
            "architecture": {
                "modelType": "llama", "architecture": "LlamaForCausalLM", "parameters": 9_007_199_254_740_993_u64, "layers": 32,
                "attentionHeads": 32, "keyValueHeads": 8, "headDimension": 128, "hiddenSize": 4096, "intermediateSize": 14336,
                "vocabularySize": 128_256, "contextLength": 131_072, "dtype": "BFloat16", "experts": 0,
                "expertIntermediateSize": 1024, "sharedExpertIntermediateSize": 2048, "kvLoraRank": 512,
                "qkRopeHeadDimension": 64, "fullAttentionLayers": 16, "slidingWindowLayers": 16, "slidingWindow": 4096,
                "linearAttentionLayers": 0, "visionAttentionHeads": 16, "weightBytes": 16_060_522_496_u64,
                "checkpointQuantization": { "method": "fp8", "bits": 8, "groupSize": 128, "blockSize": 128 },
            },
            "dtype": "Auto", "quantization": "fp8", "kvCacheDtype": "FP8", "contextLength": 32_768,
            "gpuMemoryUtilizationPercent": 90,
            "parallelism": { "policy": "Minimum", "tensor": 4, "pipeline": 2, "data": 1, "expert": false },
            "accelerator": {
                "resourceName": "nvidia.com/gpu", "products": ["NVIDIA-H100-80GB-HBM3"], "memory": "80Gi", "gpusPerNode": 8,
                "nodeSelector": { "pool": "large" },
                "tolerations": [{ "key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 60 }],
                "runtimeClassName": "nvidia",
            },
            "loraAdapters": [{ "name": "sql", "source": "hf://org/adapter" }],
            "image": "vllm/vllm-openai:v0.33.0", "trustRemoteCode": false, "extraArgs": ["--seed=1"],
            "env": [
                { "name": "A", "value": "a" },
                { "name": "B", "valueFrom": { "configMapKeyRef": { "name": "a", "key": "b", "optional": true } } },
                { "name": "C", "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.name" } } },
                { "name": "D", "valueFrom": { "resourceFieldRef": { "containerName": "vllm", "divisor": "1", "resource": "limits.cpu" } } },
                { "name": "E", "valueFrom": { "secretKeyRef": { "name": "a", "key": "b", "optional": false } } },
                { "name": "F", "valueFrom": { "fileKeyRef": { "volumeName": "v", "path": "p", "key": "k", "optional": true } } },
            ],
            "resources": {
                "limits": { "memory": "64Gi" }, "requests": { "cpu": "8" }, "claims": [{ "name": "claim", "request": "one" }],
            },
            "cache": { "persistentVolumeClaim": { "claimName": "models" } },
            "huggingFace": { "tokenSecretKeyRef": secret, "endpoint": "https://hub.example/mirror" },
            "startupTimeout": "1h30m", "drainTimeout": "60s", "rollout": { "type": "Surge" }, "upgrade": { "type": "Manual" },
            "podTemplatePatch": { "spec": { "priorityClassName": "high", "terminationGracePeriodSeconds": 30 } },
        },
        "replicas": 2, "suspend": true,
    });
    let ephemeral = json!({ "vllm": { "model": "a/b", "cache": { "ephemeral": { "sizeLimit": "100Gi" } } }, "replicas": 0 });
    let node_local = json!({ "vllm": { "model": "a/b", "cache": { "nodeLocal": {} } } });
    let ollama = json!({
        "ollama": {
            "model": "hf.co/acme/model:Q4_K_M", "image": "ollama/ollama:0.32.15",
            "accelerator": {
                "resourceName": "nvidia.com/gpu", "products": ["NVIDIA-L4"], "memory": "24Gi", "gpusPerNode": 1,
                "nodeSelector": { "pool": "small" },
                "tolerations": [{ "key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 60 }],
                "runtimeClassName": "nvidia",
            },
            "cache": { "persistentVolumeClaim": { "claimName": "models" } },
            "contextLength": 8192, "keepAlive": "1h30m",
            "resources": {
                "limits": { "memory": "16Gi" }, "requests": { "cpu": "4" }, "claims": [{ "name": "claim", "request": "one" }],
            },
        },
        "replicas": 2,
    });
    let ollama_ephemeral = json!({ "ollama": { "model": "qwen3:8b", "cache": { "ephemeral": { "sizeLimit": "20Gi" } } } });
    let ollama_node_local = json!({ "ollama": { "model": "qwen3:8b", "cache": { "nodeLocal": {} } } });
    let external = json!({
        "external": {
            "provider": "OpenAICompatible", "model": "model", "baseURL": "https://llm.example/v1",
            "apiKeys": [{ "name": "first", "secretKeyRef": secret }, { "name": "second", "secretKeyRef": secret }],
            "contextLength": 200_000,
            "headers": [{ "name": "X-Team", "value": "a" }, { "name": "X-Token", "secretKeyRef": secret }],
            "tls": { "caSecretKeyRef": secret },
            "formats": ["Responses", "ChatCompletions", "Completions", "Messages", "Embeddings"],
        },
        "region": "eu-west-1",
        "price": {
            "inputPerMillionTokens": "0.20", "outputPerMillionTokens": "999999999.999999", "cachedInputPerMillionTokens": "0.02",
            "cacheWritePerMillionTokens": "0",
        },
        "healthCheck": { "type": "Inference", "interval": "10m", "timeout": "30s", "failureThreshold": 3 },
        "suspend": false,
    });
    let service = json!({
        "external": { "provider": "LMStudio", "model": "model", "serviceRef": { "name": "studio", "port": 1234 } },
    });
    vec![vllm, ephemeral, node_local, ollama, ollama_ephemeral, ollama_node_local, external, service]
}

/// Specs of AgentPools that together have every field.
fn full_pools() -> Vec<Value> {
    let secret = json!({ "name": "secret", "key": "key" });
    let behavior = json!({
        "stabilizationWindowSeconds": 60, "selectPolicy": "Min", "tolerance": "0.1",
        "policies": [{ "type": "Pods", "value": 4, "periodSeconds": 15 }, { "type": "Percent", "value": 100, "periodSeconds": 60 }],
    });
    let template = json!({
        "template": {
            "metadata": { "labels": { "team": "a" }, "annotations": { "example.com/note": "b" } },
            "spec": { "containers": [{ "name": "agent", "image": "agent:1", "args": ["--verbose"] }] },
        },
        "criticality": "Critical", "modelRoutes": [{ "name": "chat" }, { "name": "embed" }],
        "requestLabels": { "taskType": "code", "priority": "P1", "team": "a" },
        "replicas": 2, "minReplicas": 1, "maxReplicas": 20,
        "queues": [{
            "name": "stream",
            "redisStream": { "url": "rediss://redis:6380/2", "stream": "tasks", "group": "agents" },
            "usernameSecretKeyRef": secret, "passwordSecretKeyRef": secret, "tls": { "caSecretKeyRef": secret },
        }],
        "scaling": {
            "age": { "maxTaskAge": "1m30s" }, "combine": "Sum", "behavior": { "scaleUp": behavior, "scaleDown": behavior },
            "pollInterval": "2s", "cooldown": "5m", "onMetricFailure": { "hold": "3m", "thenReplicas": 1 },
        },
        "batch": { "maxTasks": 4 }, "scaleIn": { "prefer": "Any", "waitForIdle": "10m" },
        "taskLimits": {
            "maxTokensPerRequest": 8000, "maxTokensPerTask": 200_000, "maxCostPerTask": "2.00", "maxIdenticalRequests": 20,
            "maxSteps": 50, "maxToolCalls": 100, "maxRetriesPerTool": 0, "timeout": "15m",
        },
        "suspend": true,
    });
    let target = json!({
        "targetRef": { "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "agents" },
        "queues": [
            { "name": "lists", "redisList": { "url": "redis://redis:6379", "keys": ["a", "b"], "processingKeys": ["c"] } },
            {
                "name": "number", "tls": { "insecureSkipVerify": true },
                "prometheus": { "url": "https://prometheus:9090", "query": "sum(tasks)", "whenEmpty": "Zero" },
            },
        ],
        "scaling": { "step": { "high": 10, "low": 2, "size": 3 } },
    });
    let callers = json!({ "modelRoutes": [{ "name": "chat" }], "scaling": { "proportional": { "tasksPerReplica": 5 } } });
    vec![template, target, callers]
}

/// Specs of ModelRoutes that together have every field.
fn full_routes() -> Vec<Value> {
    let whole = json!({
        "modelName": "openai/gpt-4o:latest", "aliases": ["gpt-4o", "*"], "strategy": "Weighted",
        "backends": [{ "name": "large", "tier": "Premium", "weight": 3 }, { "name": "small", "tier": "Economy", "weight": 0 }],
        "rules": [{
            "name": "long",
            "when": {
                "promptTokens": { "atLeast": 8000, "atMost": 1_000_000_000 }, "budgetUsedPercent": { "atLeast": 80, "atMost": 1000 },
                "taskTypes": ["code"], "priorities": ["P0", "P4"],
                "userTiers": ["gold"], "complexity": ["high"], "agentPools": ["coder"], "labels": { "team": ["a", "b"] },
            },
            "strategy": "LowestCost", "backends": [{ "name": "large", "tier": "Standard", "weight": 1 }],
        }],
        "trustedLabels": ["taskType", "x-team"],
        "fallback": [{
            "name": "hosted", "tier": "Standard",
            "causes": ["RateLimited", "Timeout", "Unavailable", "NotFound", "ContextLengthExceeded"],
        }],
        "timeouts": { "request": "10m", "backendRequest": "2m", "streamIdle": "1m30s" },
        "retries": { "maxRetries": 0, "backoff": { "initial": "500ms", "max": "10s" }, "budgetPercent": 100 },
        "circuitBreaker": { "failures": 3, "window": "60s", "cooldown": "30s" },
        "dataPolicy": "SelfHostedOnly", "regionPreference": ["eu-west-1", "eu-central-1"], "suspend": false,
    });
    let least = json!({ "backends": [{ "name": "large" }] });
    vec![whole, least]
}

/// Specs of TokenBudgets that together have every field.
fn full_budgets() -> Vec<Value> {
    let sprint = json!({
        "tokens": 9_007_199_254_740_992_u64, "cost": "250.00",
        "period": { "type": "Sprint", "start": "2026-11-16T09:00", "lengthDays": 14, "timeZone": "Europe/Madrid" },
        "appliesTo": {
            "agentPoolSelector": {
                "matchLabels": { "team": "dev" },
                "matchExpressions": [
                    { "key": "example.com/stage", "operator": "NotIn", "values": ["trial", "experiment"] },
                    { "key": "legacy", "operator": "DoesNotExist" },
                ],
            },
            "modelRoutes": [{ "name": "smart-router" }, { "name": "embed" }],
        },
        "enforcement": "Block",
        "thresholds": [
            { "atPercent": 80, "action": "Alert", "severity": "Critical" }, { "atPercent": 80, "action": "Redistribute" },
            { "atPercent": 90, "action": "Downgrade", "tier": "Economy" },
            { "atPercent": 100, "action": "PausePools", "belowCriticality": "Critical" },
        ],
        "counting": { "cachedInputPercent": 0 }, "message": "Ask #platform for an extension.",
        "share": { "type": "Weighted", "weights": { "planner": 3, "coder": 5 } }, "carryOver": { "maxPercent": 20 },
        "extensions": [
            { "tokens": 500_000, "until": "2026-11-28T00:00:00Z", "reason": "incident 4711" },
            { "cost": "25.00", "until": "2026-11-30T08:00:00Z" },
        ],
        "whenUsageUnknown": "Allow", "suspend": true,
    });
    let weekly = json!({
        "tokens": 1, "period": { "type": "Weekly", "weekStart": "Sunday" }, "appliesTo": {}, "enforcement": "DryRun", "thresholds": [],
        "share": { "type": "Equal" }, "whenUsageUnknown": "Hold",
    });
    let monthly = json!({
        "cost": "0.000001", "period": { "type": "Monthly", "dayOfMonth": 31 }, "appliesTo": { "agentPoolSelector": {} },
        "enforcement": "Alert", "share": { "type": "None" }, "whenUsageUnknown": "Block", "suspend": false,
    });
    let once = json!({
        "tokens": 1000, "appliesTo": {},
        "period": { "type": "Once", "start": "2026-11-16T09:00", "end": "2026-11-30T18:00:00", "timeZone": "UTC" },
    });
    vec![sprint, weekly, monthly, once]
}
