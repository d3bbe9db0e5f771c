//! On the local node: what the operator makes for a self-hosted backend becomes ready through its own probes.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use quartermaster_core::api::status::SizingStatus;
use quartermaster_core::api::vllm::VllmSpec;
use quartermaster_core::decide::backend::accelerator::{LabelOperator, LabelRequirement};
use quartermaster_core::decide::backend::children::{self, Placement, Plan};
use quartermaster_core::decide::backend::choice::{Choice, DEFAULT_IMAGE};
use quartermaster_core::decide::backend::facts::Settings;
use quartermaster_dev::local_node::node;
use quartermaster_dev::local_node::start::LocalNode;
use quartermaster_dev::{Connection, ControlPlane, Options, PATIENCE, account};
use serde_json::{Value, json};

use crate::client;

const NAMESPACE: &str = "models";
/// The generated key.
const KEY: &str = "0123456789abcdef0123456789abcdef";
const TEAM: &str = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: models}}\n";

/// An object, or null.
fn get(connection: &Connection, what: &[&str]) -> Value {
    let mut command = Command::new(connection.kubectl());
    command.arg("--kubeconfig").arg(connection.kubeconfig()).args(["--namespace", NAMESPACE, "get", "--output", "json"]);
    serde_json::from_slice(&command.args(what).output().unwrap().stdout).unwrap_or_default()
}

async fn eventually<T>(connection: &Connection, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        if Instant::now() > deadline {
            let log = fs::read_to_string(connection.directory().join("local-node/node.log")).unwrap_or_default();
            panic!("waited in vain for {what}:\n{}\n{}\n{log}", get(connection, &["pods"]), get(connection, &["events"]));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the operator makes for a backend on the local node.
fn backend() -> Vec<Value> {
    let vllm = VllmSpec {
        model: "Qwen/Qwen3-8B".into(),
        extra_args: vec!["--enable-prompt-tokens-details".into()],
        ..VllmSpec::default()
    };
    let choice = Choice {
        sizing: SizingStatus {
            gpus_per_replica: 2,
            tensor_parallel_size: 2,
            pipeline_parallel_size: 1,
            data_parallel_size: 1,
            context_length: Some(8192),
            ..SizingStatus::default()
        },
        placement: Placement {
            resource_name: "nvidia.com/gpu".into(),
            affinity: vec![LabelRequirement {
                key: "nvidia.com/gpu.product".into(),
                operator: LabelOperator::In,
                values: vec!["NVIDIA-Local".into()],
            }],
            tolerate_keys: vec![node::TAINT.into()],
        },
        spec_hash: "any".into(),
    };
    let settings = Settings::default();
    let plan = Plan {
        name: "qwen",
        namespace: NAMESPACE,
        uid: "0b0f6e0c-7a44-4f5e-9c4b-0d6b6b1f2a11",
        vllm: &vllm,
        choice: &choice,
        replicas: 2,
        max_unavailable: 0,
        image: DEFAULT_IMAGE,
        settings: &settings,
    };
    let children = children::all(&plan, Some(KEY)).unwrap();
    let without_owner = |child: quartermaster_core::decide::decision::Child| {
        let mut object = child.object;
        // The backend itself does not exist here, and the garbage collector would take its children with it.
        object["metadata"].as_object_mut().unwrap().remove("ownerReferences");
        object
    };
    children.into_iter().map(without_owner).collect()
}

/// An Ollama server, with the probes that it would have.
fn ollama() -> Value {
    let labels = json!({"app": "ollama"});
    let container = json!({
        "name": "ollama",
        "image": "ollama/ollama:0.32.15",
        "command": ["ollama", "serve"],
        "ports": [{"name": "http", "containerPort": 11434}],
        "readinessProbe": {"httpGet": {"path": "/api/version", "port": "http"}, "periodSeconds": 1},
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "ollama", "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "containers": [container],
                "nodeSelector": {"kubernetes.io/hostname": node::NAME},
                "tolerations": [{"key": node::TAINT, "operator": "Exists"}],
            }},
        },
    })
}

async fn ask(address: SocketAddr, path: &str, key: &str) -> (u16, Value) {
    let key = format!("Bearer {key}");
    let reply = client::Connection::to(address).await.call("GET", path, &[("authorization", &key)], &Value::Null).await.unwrap();
    (reply.status, reply.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_makes_for_vllm_becomes_ready_through_its_own_probes_and_so_does_ollama() {
    let control_plane = ControlPlane::start(Options::default()).await.unwrap();
    let connection = control_plane.connection();
    let program = Path::new(env!("CARGO_BIN_EXE_quartermaster-dev"));
    let node = LocalNode::start(connection, program, &[]).await.unwrap();
    account::apply(connection, TEAM).await.unwrap();
    let text: String = backend().into_iter().chain([ollama()]).map(|object| format!("---\n{object}\n")).collect();
    account::apply(connection, &text).await.unwrap();

    for (name, replicas) in [("qwen-backend", 2), ("ollama", 1)] {
        eventually(connection, &format!("{name} to be available"), || {
            let deployment = get(connection, &["deployment", name]);
            (deployment["status"]["availableReplicas"] == replicas).then_some(())
        })
        .await;
    }
    let address = |selector: &str, port: u16| {
        let pods = get(connection, &["pods", "--selector", selector]);
        SocketAddr::new(pods["items"][0]["status"]["podIP"].as_str().unwrap().parse().unwrap(), port)
    };
    let vllm = address("quartermaster.dev/inference-backend=qwen", 8000);
    let (status, models) = ask(vllm, "/v1/models", KEY).await;
    let model = &models["data"][0];
    assert_eq!((status, &model["id"], &model["max_model_len"]), (200, &json!("qwen"), &json!(8192)));
    assert_eq!(ask(vllm, "/v1/models", "other").await.0, 401, "the generated key is asked for");
    let (status, version) = ask(address("app=ollama", 11434), "/api/version", "").await;
    assert_eq!((status, version["version"].is_string()), (200, true));

    node.stop().await;
    control_plane.stop().unwrap();
}
