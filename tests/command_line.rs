//! The command line as people and scripts use it, without a cluster: answers in every form, exit codes, and what is said of
//! input that cannot work.

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "command_line/budget.rs"]
mod budget;
#[path = "command_line/replay.rs"]
mod replay;
#[path = "command_line/route.rs"]
mod route;
#[path = "command_line/simulate.rs"]
mod simulate;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_quartermaster");
const NODES: &[&str] = &["--nodes", "examples/nodes.yaml"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What came of a command.
struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

fn run(arguments: &[&str], input: &str) -> Answer {
    let mut child = Command::new(BINARY)
        .args(arguments)
        .current_dir(root())
        .env_remove("QUARTERMASTER_CONFIGURATION")
        .env("KUBECONFIG", "/nowhere/kubeconfig")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Answer {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A command about backends on standard input, with the example's nodes.
fn about(command: &str, form: &str, backends: &str) -> Answer {
    run(&[&[command, "--output", form][..], NODES, &["-"]].concat(), backends)
}

/// A self-hosted backend with these fields of `spec.vllm`.
fn vllm(fields: Value) -> String {
    backend("model", json!({ "vllm": fields }))
}

fn backend(name: &str, spec: Value) -> String {
    let metadata = json!({ "name": name });
    json!({ "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "metadata": metadata, "spec": spec })
        .to_string()
}

/// A file with this text, in the directory that Cargo has for tests.
fn scratch(text: &str) -> PathBuf {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("request-{}-{number}.json", std::process::id()));
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn every_example_is_answered_in_every_form() {
    let mut examples: Vec<PathBuf> =
        std::fs::read_dir(root().join("examples/backends")).unwrap().map(|entry| entry.unwrap().path()).collect();
    examples.sort();
    assert!(examples.len() >= 4);
    for example in &examples {
        let hosted = example.ends_with("hosted-provider.yaml");
        let sized = !hosted && !example.ends_with("ollama.yaml");
        for command in ["plan", "size"] {
            let answer = |form| run(&[&[command, "--output", form, example.to_str().unwrap()][..], NODES].concat(), "");
            let (text, json, yaml) = (answer("text"), answer("json"), answer("yaml"));
            let code = if command == "size" && !sized { 2 } else { 0 };
            for answer in [&text, &json, &yaml] {
                assert_eq!(answer.code, code, "{command} {}: {}", example.display(), answer.err);
                assert_eq!(answer.err.is_empty(), code == 0, "{}", answer.err);
            }
            if code != 0 {
                assert!(json.err.contains("no InferenceBackend with spec.vllm"), "{}", json.err);
                continue;
            }
            let documents: Vec<Value> = serde_saphyr::from_multiple(&yaml.out).unwrap();
            let answered = json.json();
            assert_eq!(if command == "plan" { &answered["items"] } else { &answered }, &json!(documents), "{command}");
            assert_eq!(documents.is_empty(), hosted, "{command} {}", example.display());
            assert!(text.out.lines().count() >= documents.len());
        }
    }
}

#[test]
fn a_plan_has_every_object_and_no_key() {
    let plan = about("plan", "json", &vllm(json!({ "model": "Qwen/Qwen3-4B" }))).json();
    let items = plan["items"].as_array().unwrap();
    let kinds: Vec<_> = items.iter().map(|item| item["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ServiceAccount", "Secret", "NetworkPolicy", "Service", "Deployment"]);
    assert_eq!(items[1]["stringData"], json!({ "api-key": "<generated>" }));
    assert_eq!(items[1].get("data"), None);
    assert_eq!((&plan["kind"], &plan["apiVersion"], &plan["refused"]), (&json!("List"), &json!("v1"), &json!([])));
}

#[test]
fn a_plan_of_an_ollama_backend_has_no_key_and_the_image_of_the_configuration() {
    let backends = backend("small", json!({ "ollama": { "model": "qwen3:0.6b" } }));
    let plan = about("plan", "json", &backends).json();
    let items = plan["items"].as_array().unwrap();
    let kinds: Vec<_> = items.iter().map(|item| item["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ServiceAccount", "NetworkPolicy", "Service", "Deployment"]);
    let configuration = root().join("examples/operator-configuration.yaml");
    let arguments = ["plan", "--output", "json", "--configuration", configuration.to_str().unwrap(), "-"];
    let plan = run(&arguments, &backends).json();
    let container = &plan["items"][3]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example.com/ollama/ollama:0.32.15");
}

#[test]
fn what_a_plan_refuses_is_data_beside_what_it_makes() {
    let backends = [
        backend("good", json!({ "vllm": { "model": "Qwen/Qwen3-4B" } })),
        backend("large", json!({ "vllm": { "model": "Qwen/Qwen3-4B", "parallelism": { "tensor": 5 } } })),
    ];
    let answer = about("plan", "json", &backends.join("\n---\n"));
    assert_eq!(answer.code, 3);
    let plan = answer.json();
    assert_eq!(plan["items"].as_array().unwrap().len(), 5);
    let [refused] = plan["refused"].as_array().unwrap().as_slice() else { panic!("{plan}") };
    assert_eq!((&refused["name"], &refused["reason"]), (&json!("large"), &json!("InvalidParallelism")));
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains('5') && answer.err.contains(message), "{message}\n{}", answer.err);
}

#[test]
fn sizes_have_the_fields_of_the_status_that_the_operator_writes() {
    let size = about("size", "json", &vllm(json!({ "model": "Qwen/Qwen3-4B", "image": "vllm/vllm-openai:v0.33.0" }))).json();
    let plan = about("plan", "json", &vllm(json!({ "model": "Qwen/Qwen3-4B", "image": "vllm/vllm-openai:v0.33.0" }))).json();
    let choice = plan["items"][4]["metadata"]["annotations"]["quartermaster.dev/choice"].as_str().unwrap();
    let choice: Value = serde_json::from_str(choice).unwrap();
    let sizing = choice["sizing"].as_object().unwrap();
    assert_eq!(sizing["image"], "vllm/vllm-openai:v0.33.0");
    for (field, value) in sizing {
        assert_eq!(&size[0][field], value, "{field}");
    }
    assert_eq!((&size[0]["reason"], &size[0]["message"]), (&json!("Sized"), &sizing["derivation"]));
    // Without an image of its own, a backend runs that of the version.
    let size = about("size", "json", &vllm(json!({ "model": "Qwen/Qwen3-4B" }))).json();
    assert!(size[0]["image"].as_str().unwrap().starts_with("vllm/vllm-openai:v"), "{size}");
}

/// Specs of a self-hosted backend that come to nothing, the reason, and words of the message.
fn refused() -> Vec<(Value, &'static str, &'static str)> {
    let gated = "meta-llama/Llama-3.3-70B-Instruct";
    let tensor = json!({ "tensor": 4 });
    vec![
        (json!({ "model": gated }), "ModelAccessDenied", "huggingFace.tokenSecretKeyRef"),
        (json!({ "model": gated, "parallelism": tensor }), "ModelAccessDenied", "huggingFace.tokenSecretKeyRef"),
        (json!({ "model": "a/b", "image": "vllm/vllm-openai" }), "InvalidImage", "neither tag nor digest"),
        (json!({ "model": "a/b", "env": [{ "name": "VLLM_API_KEY", "value": "a" }] }), "InvalidEnvironment", "VLLM_API_KEY"),
        (json!({ "model": "a/b", "extraArgs": ["--port=1"] }), "InvalidArguments", "--port"),
        (json!({ "model": "a/b" }), "ModelFactsPending", "does not ask the hub: set attentionHeads, layers"),
        // What is stated is not asked for again.
        (
            json!({ "model": "a/b", "architecture": { "attentionHeads": 32, "hiddenSize": 4096 } }),
            "ModelFactsPending",
            "set layers, weightBytes or parameters in spec.vllm.architecture",
        ),
        (json!({ "model": "pvc://models/a" }), "ModelUnknown", "set attentionHeads"),
        (json!({ "model": "Qwen/Qwen3-4B", "parallelism": { "tensor": 5 } }), "InvalidParallelism", "5"),
        (json!({ "model": "Qwen/Qwen3-4B", "accelerator": { "products": ["NVIDIA-T4000"] } }), "NoAcceleratorMatches", "NVIDIA-L4"),
        (json!({ "model": "Qwen/Qwen3-4B", "contextLength": 99_999_999 }), "ContextTooLong", "40960"),
    ]
}

#[test]
fn sizes_and_plans_are_refused_for_the_operators_reason_in_its_words() {
    for (spec, reason, words) in refused() {
        let (size, plan) = (about("size", "json", &vllm(spec.clone())), about("plan", "json", &vllm(spec.clone())));
        assert_eq!((size.code, plan.code), (3, 3), "{spec}: {}{}", size.err, plan.err);
        let (size, plan) = (size.json(), plan.json());
        let said = |answer: &Value| (answer["reason"].clone(), answer["message"].clone());
        assert_eq!(said(&size[0]).0, reason, "{spec}: {size:#}");
        assert!(size[0]["message"].as_str().unwrap().contains(words), "{spec}: {size:#}");
        assert_eq!(said(&size[0]), said(&plan["refused"][0]), "{spec}");
        assert_eq!(plan["items"], json!([]), "{spec}");
    }
}

#[test]
fn what_a_spec_states_is_judged_before_the_hub_would_be_asked() {
    let stated = json!({ "model": "a/b", "architecture": { "attentionHeads": 32 }, "parallelism": { "tensor": 5 } });
    let size = about("size", "json", &vllm(stated)).json();
    assert_eq!(size[0]["reason"], "InvalidParallelism", "{size:#}");
    let text = about("size", "text", &vllm(json!({ "model": "a/b", "architecture": { "layers": 32 } })));
    assert!(text.out.contains("facts from: spec\n"), "{}", text.out);
}

#[test]
fn sizes_taken_from_the_spec_without_a_computation_say_that_nothing_is_known() {
    let pinned = vllm(json!({ "model": "pvc://models/a", "parallelism": { "tensor": 2 } }));
    let (json, text) = (about("size", "json", &pinned), about("size", "text", &pinned));
    assert_eq!((json.code, text.code), (0, 0), "{}", json.err);
    let size = json.json();
    assert_eq!((&size[0]["tensorParallelSize"], &size[0]["reason"]), (&json!(2), &json!("ModelUnknown")));
    let message = size[0]["message"].as_str().unwrap();
    assert!(message.contains("is not known") && text.out.contains(message), "{}", text.out);
}

#[test]
fn without_nodes_the_flags_that_name_some_are_named() {
    for command in ["size", "plan"] {
        let answer = run(&[command, "--output=json", "examples/backends/small-model.yaml"], "");
        assert_eq!(answer.code, 3);
        assert!(answer.out.contains("NoAcceleratorKnown"), "{}", answer.out);
        for flag in ["--nodes FILE", "--context NAME", "--current-context"] {
            assert!(answer.out.contains(flag), "{}", answer.out);
        }
    }
    // With nodes that offer nothing, no flag would help.
    let nodes = std::env::temp_dir().join(format!("quartermaster-nodes-{}.yaml", std::process::id()));
    std::fs::write(&nodes, "{apiVersion: v1, kind: List, items: []}").unwrap();
    let answer = run(&["size", "--output=json", "--nodes", nodes.to_str().unwrap(), "examples/backends/small-model.yaml"], "");
    std::fs::remove_file(nodes).unwrap();
    assert!(answer.out.contains("NoAcceleratorKnown") && !answer.out.contains("--nodes"), "{}", answer.out);
}

/// What the API server would refuse, and what is said of it.
fn invalid() -> Vec<(String, &'static str)> {
    let model = json!({ "model": "Qwen/Qwen3-4B" });
    let with = |pointer: &str, name: &str, value: Value| {
        let mut object: Value = serde_json::from_str(&vllm(model.clone())).unwrap();
        object.pointer_mut(pointer).unwrap().as_object_mut().unwrap().insert(name.to_owned(), value);
        object.to_string()
    };
    vec![
        (vllm(json!({ "modle": "a" })), "spec.vllm.modle: there is no such field; did you mean model?"),
        (vllm(json!({})), "InferenceBackend model of -: spec.vllm.model: is required"),
        (with("", "speck", json!({})), "speck: there is no such field; did you mean spec?"),
        (with("/metadata", "label", json!({ "a": "b" })), "metadata.label: there is no such field; did you mean labels?"),
        (with("/metadata", "labels", json!("a")), "metadata: invalid type"),
        (with("/metadata", "name", Value::Null), "metadata.name: is required"),
        (with("/metadata", "name", json!("a".repeat(60))), "metadata.name must have at most 52 characters"),
        (with("/metadata", "name", json!("a.b")), "metadata.name must be a DNS label"),
        (with("", "apiVersion", json!("quartermaster.dev/v1")), "apiVersion: must be quartermaster.dev/v1alpha1"),
        (
            with("/spec", "external", json!({ "provider": "OpenAI", "model": "a" })),
            "exactly one of spec.vllm, spec.ollama, spec.external must be set",
        ),
        (with("/spec", "replicas", json!(-1)), "spec.replicas: -1 is less than 0"),
        (with("/spec", "healthCheck", json!({ "failureThreshold": 0 })), "spec.healthCheck.failureThreshold: 0 is less than 1"),
        (with("", "spec", Value::Null), "spec: is required"),
    ]
}

#[test]
fn what_the_api_server_would_refuse_is_refused_with_its_path() {
    for (object, words) in invalid() {
        for command in ["plan", "size"] {
            let answer = about(command, "json", &object);
            assert_eq!((answer.code, answer.out.as_str()), (2, ""), "{object}");
            assert!(answer.err.contains(words), "{object}\n{}", answer.err);
        }
    }
    // All of it at once, of all objects.
    let both = format!("{}\n---\n{}", vllm(json!({})), backend("other", json!({ "vllm": { "model": "a", "dtype": "FP4" } })));
    let answer = about("plan", "yaml", &both);
    assert!(answer.err.contains("InferenceBackend model of") && answer.err.contains("InferenceBackend other of"), "{}", answer.err);
}

#[test]
fn lists_are_unfolded_and_other_kinds_are_passed_over() {
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "a" } });
    let of_somebody_else = json!({ "apiVersion": "example.com/v1", "kind": "InferenceBackend", "metadata": { "name": "a" } });
    let item =
        |name: &str| -> Value { serde_json::from_str(&backend(name, json!({ "vllm": { "model": "Qwen/Qwen3-4B" } }))).unwrap() };
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [item("one"), secret, of_somebody_else, item("two")] });
    let answer = about("size", "json", &list.to_string());
    assert_eq!(answer.code, 0, "{}", answer.err);
    let names: Vec<Value> = answer.json().as_array().unwrap().iter().map(|size| size["name"].clone()).collect();
    assert_eq!(names, ["one", "two"]);
    let answer = about("size", "json", &secret.to_string());
    assert_eq!((answer.code, answer.err.as_str()), (2, "error: no InferenceBackend in the files\n"));
}

#[test]
fn the_exit_code_tells_a_failure_from_wrong_input_and_from_a_no() {
    let small = "examples/backends/small-model.yaml";
    for (code, arguments, words) in [
        (0, vec!["size", "--nodes", "examples/nodes.yaml", small], ""),
        (1, vec!["size", "--current-context", small], "failed to find the API server"),
        (1, vec!["plan", "--context=somewhere", small], "failed to find the API server"),
        (2, vec!["size", "nowhere.yaml"], "failed to read nowhere.yaml"),
        (2, vec!["size", "--nodes", "nowhere.yaml", small], "failed to read nowhere.yaml"),
        (2, vec!["size", "--nodes", small, small], "failed to read a node"),
        (2, vec!["size", "--nodes=a", "--context=b", small], "cannot be used with"),
        (2, vec!["plan"], "FILE"),
        (2, vec!["route"], "--request <FILE>"),
        (2, vec!["run", "--admin-listen", "8080"], "--admin-listen"),
        (2, vec!["plan", "--configuration", small, small], "failed to understand the configuration file"),
        (2, vec!["replay", small], "failed to understand"),
        (3, vec!["size", small], "1 of 1 models cannot be sized"),
    ] {
        let answer = run(&arguments, "");
        assert_eq!(answer.code, code, "{arguments:?}: {}", answer.err);
        assert!(answer.err.contains(words), "{arguments:?}: {}", answer.err);
    }
}

#[test]
fn rules_definitions_completion_and_help_are_printed() {
    let rules = run(&["rules"], "");
    assert_eq!(rules.out, std::fs::read_to_string(root().join("deploy/rbac.yaml")).unwrap());
    let definitions = run(&["crds", "--output=json"], "").json();
    for (number, plural) in ["inferencebackends", "modelroutes", "tokenbudgets", "agentpools"].into_iter().enumerate() {
        assert_eq!(definitions[number]["metadata"]["name"], format!("{plural}.quartermaster.dev"));
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completion", shell], "");
        assert!(script.code == 0 && script.out.contains("current-context"), "{shell}: {}", script.err);
    }
    let help = run(&["--help"], "");
    for command in ["run", "gateway", "crds", "rules", "plan", "size", "route", "replay", "budget", "simulate", "completion"] {
        assert!(help.out.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {}", help.out);
    }
    assert_eq!(run(&["--version"], "").out, format!("quartermaster {}\n", env!("CARGO_PKG_VERSION")));
}

/// The commands of `console` blocks, each with what the page shows of it.
fn shown(page: &str) -> Vec<(String, String)> {
    let blocks = page.split("\n```console\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    let commands = blocks.flat_map(|block| format!("\n{block}").split("\n$ ").skip(1).map(str::to_owned).collect::<Vec<_>>());
    commands
        .map(|shown| {
            let (command, output) = shown.split_once('\n').unwrap_or((&shown, ""));
            (command.to_owned(), format!("{output}\n"))
        })
        .filter(|(command, _)| command.starts_with("quartermaster "))
        .collect()
}

#[test]
fn what_the_documentation_shows_of_a_command_is_what_it_prints() {
    // Files that only the documentation speaks of, beside the examples.
    let directory = std::env::temp_dir().join(format!("quartermaster-console-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    std::os::unix::fs::symlink(root().join("examples"), directory.join("examples")).unwrap();
    let token = json!({ "tokenSecretKeyRef": { "name": "hugging-face", "key": "token" } });
    let large = json!({ "vllm": { "model": "meta-llama/Llama-3.1-405B-Instruct", "huggingFace": token } });
    std::fs::write(directory.join("llama-405b.yaml"), backend("llama-405b", large)).unwrap();
    std::fs::write(directory.join("history.json"), budget::history()).unwrap();
    let path = format!("{}:{}", Path::new(BINARY).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut compared = 0;
    for page in ["README.md", "docs/inference-backends.md", "docs/model-routes.md", "docs/token-budgets.md"] {
        for (command, expected) in shown(&std::fs::read_to_string(root().join(page)).unwrap()) {
            let output = Command::new("sh").args(["-c", &command]).current_dir(&directory).env("PATH", &path).output().unwrap();
            let printed = String::from_utf8(output.stdout).unwrap();
            assert!(printed == expected, "{page}: {command} prints\n{printed}{}", String::from_utf8_lossy(&output.stderr));
            compared += 1;
        }
    }
    std::fs::remove_dir_all(directory).unwrap();
    assert!(compared >= 6, "{compared} commands");
}
