//! What agents' code sees of the gateway: SDKs and frameworks in Python, with the two environment variables that a pool gives its
//! agents, against the real process. `check_*.py` beside this file assert; the files of examples/sdks/ are what the documentation
//! shows.

use std::path::{Path, PathBuf};
use std::process::Command;

use quartermaster_dev::model_server::{Break, Face, Fault, Match, ModelServer, Place, Refusal, Scripted, Settings, Tokens};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{KEY, backend, hash, plan, server};
use crate::process::Process;

/// Routes that are named after what their backends do with every call.
const FAILURES: [(&str, Refusal); 8] = [
    ("wrong-request", Refusal::InvalidRequest),
    ("too-long", Refusal::ContextLength),
    ("gone", Refusal::ModelGone),
    ("rate-limited", Refusal::RateLimited(60)),
    ("quota-exhausted", Refusal::QuotaExhausted),
    ("overloaded", Refusal::Overloaded),
    ("timeout", Refusal::Timeout),
    ("key-rejected", Refusal::KeyRejected),
];

/// What a tool is called with, in both APIs.
const ARGUMENTS: &str = r#"{"city": "Zürich"}"#;

/// A gateway with the routes that the checks name: `smart-router` with vLLM behind it, and for each failure, for tools and for a
/// stream that breaks one with a provider that has this face.
struct World {
    process: Process,
    _vllm: ModelServer,
    provider: ModelServer,
}

impl World {
    async fn start(name: &str, face: Face) -> Self {
        let vllm = server(Face::Vllm).await;
        let mut names: Vec<&str> = FAILURES.iter().map(|(name, _)| *name).collect();
        names.extend(["tools", "breaks", "comes-back"]);
        let provider = ModelServer::start(Settings::new(face, &names)).await.unwrap();
        let of = |model: &str| Match { model: Some(model.to_owned()), ..Match::default() };
        for (name, refusal) in FAILURES {
            provider.add(of(name), Fault::Refuse(refusal));
        }
        provider.add(Match { times: Some(1), ..of("comes-back") }, Fault::Refuse(Refusal::RateLimited(2)));
        provider.add(of("breaks"), Fault::Break { at: Place::Events(5), how: Break::Reset });
        for stream in [false, true] {
            provider.add(Match { stream: Some(stream), ..of("tools") }, Fault::Answer(tool_call(face, stream)));
        }
        let process = Process::start(name, &planned(face, &vllm, &provider, &names), &[("key-rejected.only", "sk-1")]);
        process.until_admin("/readyz", |status, _| status == 200).await;
        Self { process, _vllm: vllm, provider }
    }

    /// Runs a file as an agent, and returns what it printed.
    fn run(&self, environment: &str, file: &Path) -> String {
        let address = self.process.address;
        let home = self.process.directory.join("home");
        std::fs::create_dir_all(&home).unwrap();
        let output = Command::new(python(environment))
            .arg(file)
            .env("OPENAI_BASE_URL", format!("http://{address}/v1"))
            .env("ANTHROPIC_BASE_URL", format!("http://{address}"))
            .envs([("OPENAI_API_KEY", KEY), ("ANTHROPIC_API_KEY", KEY)])
            // No proxy is between, nobody is told that this ran, and nothing is left in the home directory.
            .envs([("NO_PROXY", "*"), ("no_proxy", "*"), ("OTEL_SDK_DISABLED", "true"), ("CREWAI_DISABLE_TELEMETRY", "true")])
            .env("HOME", home)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}: {said}{}", file.display(), String::from_utf8_lossy(&output.stderr));
        said
    }

    /// How many calls the provider had for a model.
    fn calls(&self, model: &str) -> usize {
        self.provider.calls().iter().filter(|call| call.model.as_deref() == Some(model)).count()
    }
}

/// The plan: each route has one backend, of its own name but for `smart-router`, and no retries.
fn planned(face: Face, vllm: &ModelServer, provider: &ModelServer, names: &[&str]) -> Value {
    let mut plan = plan(&[("own", backend(Face::Vllm, vllm.address()))]);
    let mut route = plan["routes"]["smart"].take();
    route["aliases"] = json!([]);
    route["retries"]["maxRetries"] = 0.into();
    let named = |name: &str, backend: &str| {
        let mut route = route.clone();
        route["modelName"] = name.into();
        route["backends"][0]["backend"] = backend.into();
        (name.to_owned(), route)
    };
    let mut routes: Vec<(String, Value)> = names.iter().map(|name| named(name, name)).collect();
    routes.push(named("smart-router", "own"));
    let of_caller: Vec<String> = routes.iter().map(|(name, _)| name.clone()).collect();
    routes.push(named("not-for-this-caller", "own"));
    plan["routes"] = Value::Object(routes.into_iter().collect());
    plan["callers"] = json!({ "coder": { "keyHashes": [hash(KEY)], "routes": of_caller } });
    for name in names {
        let mut entry = backend(face, provider.address());
        entry["model"] = (*name).into();
        plan["backends"][*name] = entry;
    }
    plan["backends"]["key-rejected"]["keys"] = json!(["only"]);
    plan
}

/// An answer that calls a tool: the simulated servers make text alone. A stream brings the arguments in two pieces.
fn tool_call(face: Face, stream: bool) -> Scripted {
    let body = match (face, stream) {
        (Face::Anthropic, false) => anthropic_message(),
        (Face::Anthropic, true) => anthropic_events(),
        (_, false) => openai_completion(),
        (_, true) => openai_chunks(),
    };
    let form = if stream { "text/event-stream" } else { "application/json" };
    Scripted { status: 200, headers: [("content-type".to_owned(), form.to_owned())].into(), body, tokens: Tokens::default() }
}

fn openai_completion() -> String {
    let call = json!({ "id": "call-1", "type": "function", "function": { "name": "weather", "arguments": ARGUMENTS } });
    let message = json!({ "role": "assistant", "content": null, "tool_calls": [call] });
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "tools",
        "choices": [{ "index": 0, "finish_reason": "tool_calls", "message": message }],
        "usage": { "prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13 },
    })
    .to_string()
}

fn openai_chunks() -> String {
    let (first, second) = ARGUMENTS.split_at(9);
    let function = |function: Value| json!({ "tool_calls": [{ "index": 0, "function": function }] });
    let begins = json!({ "index": 0, "id": "call-1", "type": "function", "function": { "name": "weather", "arguments": "" } });
    let deltas = [
        (json!({ "role": "assistant", "content": null }), Value::Null),
        (json!({ "tool_calls": [begins] }), Value::Null),
        (function(json!({ "arguments": first })), Value::Null),
        (function(json!({ "arguments": second })), Value::Null),
        (json!({}), json!("tool_calls")),
    ];
    let chunk = |(delta, finish): (Value, Value)| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        let chunk =
            json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tools", "choices": [choice] });
        format!("data: {chunk}\n\n")
    };
    deltas.map(chunk).concat() + "data: [DONE]\n\n"
}

fn anthropic_message() -> String {
    let input: Value = serde_json::from_str(ARGUMENTS).unwrap();
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "tools", "stop_sequence": null,
        "content": [{ "type": "tool_use", "id": "call-1", "name": "weather", "input": input }],
        "stop_reason": "tool_use", "usage": { "input_tokens": 9, "output_tokens": 4 },
    })
    .to_string()
}

fn anthropic_events() -> String {
    let (first, second) = ARGUMENTS.split_at(9);
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "tools", "content": [], "stop_reason": null,
        "stop_sequence": null, "usage": { "input_tokens": 9, "output_tokens": 1 },
    });
    let piece = |text: &str| json!({ "index": 0, "delta": { "type": "input_json_delta", "partial_json": text } });
    let block = json!({ "type": "tool_use", "id": "call-1", "name": "weather", "input": {} });
    let stops = json!({ "stop_reason": "tool_use", "stop_sequence": null });
    let events = [
        ("message_start", json!({ "message": message })),
        ("content_block_start", json!({ "index": 0, "content_block": block })),
        ("content_block_delta", piece(first)),
        ("content_block_delta", piece(second)),
        ("content_block_stop", json!({ "index": 0 })),
        ("message_delta", json!({ "delta": stops, "usage": { "output_tokens": 4 } })),
        ("message_stop", json!({})),
    ];
    let event = |(name, mut data): (&str, Value)| {
        data["type"] = name.into();
        format!("event: {name}\ndata: {data}\n\n")
    };
    events.map(event).concat()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Python of an environment, which is made if it is not there.
fn python(environment: &str) -> PathBuf {
    let output = Command::new(root().join("dev/sdks/prepare.sh")).arg(environment).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
}

#[rstest]
#[case::openai(Face::OpenAI, "openai")]
#[case::anthropic(Face::Anthropic, "anthropic")]
#[tokio::test(flavor = "multi_thread")]
async fn an_sdk_gets_answers_streams_tools_and_its_own_exceptions(#[case] face: Face, #[case] name: &str) {
    let world = World::start(&format!("sdk-{name}"), face).await;
    let check = root().join(format!("tests/gateway/sdks/check_{name}.py"));
    let said = tokio::task::block_in_place(|| world.run("sdks", &check));
    assert_eq!(said, "ok\n");
    // The SDK repeated the call that it was told to repeat, and not the one that it was told not to.
    assert_eq!((world.calls("comes-back"), world.calls("key-rejected")), (2, 1));
}

#[rstest]
#[case("openai_sdk.py")]
#[case("anthropic_sdk.py")]
#[tokio::test(flavor = "multi_thread")]
async fn what_the_documentation_shows_of_an_sdk_works(#[case] file: &str) {
    let world = World::start(file, Face::OpenAI).await;
    let said = tokio::task::block_in_place(|| world.run("sdks", &root().join("examples/sdks").join(file)));
    // What the simulated model says begins so.
    assert!(said.contains("t0 t1 t2"), "{said}");
}

#[rstest]
#[case::langgraph("langgraph", "langgraph_agent.py")]
#[case::autogen("autogen", "autogen_agent.py")]
#[case::crewai("crewai", "crewai_crew.py")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: installs a framework of agents, up to 1 GB"]
async fn what_the_documentation_shows_of_a_framework_works(#[case] environment: &str, #[case] file: &str) {
    let world = World::start(environment, Face::OpenAI).await;
    let said = tokio::task::block_in_place(|| world.run(environment, &root().join("examples/sdks").join(file)));
    assert!(said.contains("t0 t1 t2"), "{said}");
}
