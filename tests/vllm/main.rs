//! Every command line that we write is accepted by vLLM 0.33's own parser and configuration classes. They run without a GPU
//! in an environment that takes gigabytes, so this is a soak test: `make soak`.

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod model_configuration;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use jiff::Timestamp;
use quartermaster::controllers::cut;
use quartermaster_core::api::architecture::ModelArchitecture;
use quartermaster_core::decide::backend;
use quartermaster_core::decide::backend::facts::{NodeFacts, Observation};
use quartermaster_core::decide::backend::model::catalogue;
use quartermaster_core::decide::decision::Children;
use quartermaster_dev::nodes::{self, FakeNode};
use serde_json::{Value, json};

/// Fewer than this many checkpoints tried means that the test has lost its subject. The catalogue has more; those with a
/// vision tower, which a plain config.json does not describe, are left out.
const CHECKPOINTS_MIN: usize = 80;

/// Which row of the catalogue tells the facts of the models in the golden files.
const MODELS_OF_GOLDEN_FILES: &[(&str, &str)] =
    &[("/models/llama/8b", "meta-llama/Llama-3.1-8B-Instruct"), ("/models", "Qwen/Qwen3-8B")];

#[test]
#[ignore = "soak: vLLM's own parser and configuration, a few minutes, and 4 GB on disk the first time"]
fn vllm_accepts_every_command_line_of_the_golden_files_and_of_the_catalogue() {
    let mut commands = golden_commands();
    let golden = commands.len();
    assert!(golden >= 5, "only {golden} golden files with a command line");
    let catalogue = Catalogue::sized();
    assert!(catalogue.commands.len() >= CHECKPOINTS_MIN, "only {} checkpoints", catalogue.commands.len());
    commands.extend(catalogue.commands.iter().cloned());
    let (tried, spoilt) = (commands.len(), spoilt(&commands[0]));
    commands.extend(spoilt);

    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = directory.join("vllm-commands.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&commands).unwrap()).unwrap();
    let output = Command::new(root().join("dev/vllm/soak.sh")).arg(&file).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let answers: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let complaints: Vec<String> = answers
        .iter()
        .filter(|answer| answer.get("expected").is_some())
        .map(|answer| format!("{} at {}: {}", answer["name"], answer["stage"], answer["message"]))
        .collect();
    println!(
        "{golden} golden command lines and {} checkpoints of the catalogue; not tried: {} without a plain config.json, {} that fit no node here",
        catalogue.commands.len(),
        catalogue.without_configuration.len(),
        catalogue.refused.len()
    );
    println!("without a plain config.json: {}", catalogue.without_configuration.join(", "));
    println!("fit no node: {}", catalogue.refused.join("; "));
    assert_eq!(complaints, Vec::<String>::new());
    assert_eq!(answers.len(), commands.len(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (command, answer) in commands.iter().zip(&answers).take(tried) {
        agrees(command, answer);
    }
}

/// Command lines that vLLM refuses, one at each of its stages: were they accepted, so would be anything.
fn spoilt(sound: &Value) -> Vec<Value> {
    let spoil = |name: &str, argument: &str| {
        let mut command = sound.clone();
        command["name"] = json!(name);
        command["expect"] = json!("refused");
        command["args"].as_array_mut().unwrap().push(json!(argument));
        command
    };
    vec![
        spoil("an option that does not exist", "--tensor-parallel-sizes=2"),
        spoil("an option without the one that it needs", "--enable-auto-tool-choice"),
        spoil("a size that the heads cannot be divided by", "--tensor-parallel-size=3"),
        spoil("a context beyond the model's", "--max-model-len=10000000"),
    ]
}

/// vLLM has made of the command line what sizing computed with.
fn agrees(command: &Value, answer: &Value) {
    let option = |name: &str| {
        let arguments = command["args"].as_array().unwrap().iter().filter_map(Value::as_str);
        arguments.filter_map(|argument| argument.strip_prefix(name)?.strip_prefix('=')).next_back().map(str::to_owned)
    };
    for (name, field) in [
        ("--tensor-parallel-size", "tensor_parallel_size"),
        ("--pipeline-parallel-size", "pipeline_parallel_size"),
        ("--max-model-len", "max_model_len"),
    ] {
        if let Some(value) = option(name).filter(|value| value != "auto") {
            assert_eq!(answer["resolved"][field].to_string(), value, "{} {name}", command["name"]);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn command(name: &str, args: &[Value], architecture: &ModelArchitecture, gpu: Option<Value>) -> Option<Value> {
    let configuration = model_configuration::of(architecture)?;
    let mut arguments = vec![json!("serve")];
    arguments.extend_from_slice(args);
    let mut command = json!({ "name": name, "model_config": configuration, "args": arguments, "expect": "accepted" });
    if let Some(gpu) = gpu {
        command["gpu"] = gpu;
    }
    Some(command)
}

/// The container's arguments in a Deployment.
fn arguments(deployment: &Value) -> &[Value] {
    deployment.pointer("/spec/template/spec/containers/0/args").and_then(Value::as_array).unwrap()
}

/// The command line of every Deployment in the golden files of core.
fn golden_commands() -> Vec<Value> {
    let directory = root().join("core/src/decide/backend/children/snapshots");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut commands = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // insta's own header stands between two lines of ---.
        let (_, body) = text.trim_start_matches("---\n").split_once("\n---\n").unwrap();
        let content: Value = serde_saphyr::from_str(body).unwrap();
        let objects = match &content {
            Value::Array(children) => children.iter().map(|child| &child["object"]).collect(),
            _ => vec![&content],
        };
        for deployment in objects.into_iter().filter(|object| object["kind"] == "Deployment") {
            let arguments = arguments(deployment);
            let model = arguments[0].as_str().unwrap();
            let known = MODELS_OF_GOLDEN_FILES.iter().find(|(path, _)| *path == model).map_or(model, |(_, id)| id);
            let row = catalogue::find(known).unwrap_or_else(|| panic!("{}: {model}", file.display()));
            let name = format!("golden {}", deployment["metadata"]["name"].as_str().unwrap());
            commands.push(command(&name, arguments, &row.architecture, None).unwrap());
        }
    }
    commands
}

/// What became of the checkpoints of the catalogue.
#[derive(Default)]
struct Catalogue {
    commands: Vec<Value>,
    without_configuration: Vec<String>,
    refused: Vec<String>,
}

impl Catalogue {
    /// Decides a backend for each checkpoint on the fake fleet, and takes the command line of its Deployment.
    fn sized() -> Self {
        let fleet = fleet();
        let facts: Arc<Vec<NodeFacts>> =
            Arc::new(fleet.iter().filter_map(|node| cut::node(nodes::manifest(node))).map(|node| node.0).collect());
        let mut all: Vec<_> = catalogue::all().collect();
        all.sort_by_key(|(id, _)| *id);
        let mut result = Self::default();
        for (id, row) in all {
            let model = row.names.iter().find(|name| name.to_lowercase() == id).unwrap();
            let mut spec = json!({ "vllm": { "model": model } });
            // What is gated wants a token, which a Secret is taken to hold.
            if row.gated {
                spec["vllm"]["huggingFace"] = json!({ "tokenSecretKeyRef": { "name": "hub", "key": "token" } });
            }
            if matches!(row.architecture.model_type.as_deref(), Some("bert" | "xlm-roberta")) {
                spec["vllm"]["task"] = json!("Embed");
            }
            let object = json!({
                "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "spec": spec,
                "metadata": { "name": "model", "namespace": "models", "uid": "0b0f6e0c-7a44-4f5e-9c4b-0d6b6b1f2a11" },
            });
            let secret = json!({ "state": "present", "keys": { "token": "line" }, "version": "1" });
            let mut observation: Observation =
                serde_json::from_value(json!({ "backend": object, "secrets": { "hub": secret } })).unwrap();
            observation.nodes = facts.clone();
            observation.entropy = "0".repeat(64);
            let decision = backend::decide(&observation, Timestamp::UNIX_EPOCH);
            let deployment = match &decision.children {
                Children::Exactly(children) => children.iter().find(|child| child.identity.kind == "Deployment"),
                Children::Keep => None,
            };
            let Some(deployment) = deployment else {
                let ready = decision.status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
                result.refused.push(format!("{model}: {} {}", ready.reason, ready.message));
                continue;
            };
            let sizing = decision.status.sizing.as_ref().unwrap();
            let gpu = gpu(&facts, sizing.accelerator_product.as_deref().unwrap(), sizing.resource_name.as_deref().unwrap());
            match command(model, arguments(&deployment.object), &row.architecture, Some(gpu)) {
                Some(command) => result.commands.push(command),
                None => result.without_configuration.push(model.clone()),
            }
        }
        result
    }
}

/// The development fleet, and one node that the largest models of one node fit on.
fn fleet() -> Vec<FakeNode> {
    let mut fleet = nodes::fleet();
    let mut large = fleet.iter().find(|node| node.name == "h100-0").unwrap().clone();
    large.name = "b200-0".to_owned();
    for (key, value) in [("product", "NVIDIA-B200"), ("memory", "183359"), ("family", "blackwell"), ("compute.major", "10")] {
        large.labels.insert(format!("nvidia.com/gpu.{key}"), value.to_owned());
    }
    fleet.push(large);
    fleet
}

/// What vLLM would find on the node that was chosen: the name of the device as NVIDIA's driver spells it, its memory, and
/// how many a node has.
fn gpu(nodes: &[NodeFacts], product: &str, resource: &str) -> Value {
    let label = |node: &NodeFacts, name: &str| node.labels.get(&format!("nvidia.com/gpu.{name}")).cloned().unwrap_or_default();
    let of_product =
        |node: &&NodeFacts| product.starts_with(&label(node, "product")) || label(node, "product").starts_with(product);
    let node = nodes
        .iter()
        .filter(|node| node.allocatable.contains_key(resource))
        .filter(of_product)
        .max_by_key(|node| node.allocatable[resource])
        .unwrap_or_else(|| panic!("no node with {product} as {resource}"));
    let mebibytes: u32 = label(node, "memory").parse().unwrap();
    json!({ "name": product.replace('-', " "), "memory_gib": f64::from(mebibytes) / 1024.0, "count": node.allocatable[resource] })
}
