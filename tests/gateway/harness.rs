//! A gateway of this process on a port of its own, simulated model servers, and clients.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quartermaster::gateway::in_force::Secrets;
use quartermaster::gateway::listener::{self, Bounds};
use quartermaster::gateway::metrics::Metrics;
use quartermaster::gateway::request_body::{Room, TOGETHER};
use quartermaster::gateway::routing_log::RoutingLog;
use quartermaster::gateway::state::Gateway;
use quartermaster::operate::metrics::Exposition as _;
use quartermaster::sources::connect::Connector;
use quartermaster_core::api::configuration::EgressProxy;
use quartermaster_core::decide::backend::destination::{ApiServer, Rules};
use quartermaster_core::decide::gateway::exchange::usage::Counts;
use quartermaster_core::decide::gateway::plan::{Endpoints, Plan, SCHEMA};
use quartermaster_dev::model_server::{Face, ModelServer, Settings};
use reqwest::{Client, Response};
use secrecy::SecretString;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The longest that a test waits for what must come.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The key of the caller `coder`.
pub const KEY: &str = "qm-key-of-coder";

/// The model that every server of a test has.
pub const MODEL: &str = "llama-70b";

/// Ends a test that would wait for ever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("not within the deadline")
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// What was written into it.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A simulated server with the one model.
pub async fn server(face: Face) -> ModelServer {
    ModelServer::start(Settings::new(face, &[MODEL])).await.unwrap()
}

/// The SHA-256 of a key, as a plan has it.
pub fn hash(key: &str) -> String {
    Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A backend of a plan.
pub fn backend(face: Face, address: SocketAddr) -> Value {
    let (server, formats, path) = match face {
        Face::Vllm => (json!("Vllm"), json!(["ChatCompletions", "Completions", "Embeddings", "Responses", "Messages"]), ""),
        Face::Ollama => (json!("Ollama"), json!(["ChatCompletions", "Completions", "Embeddings", "Responses", "Messages"]), ""),
        Face::Anthropic => (json!({ "Provider": "Anthropic" }), json!(["Messages"]), ""),
        Face::OpenAI => {
            (json!({ "Provider": "OpenAI" }), json!(["ChatCompletions", "Completions", "Embeddings", "Responses"]), "/v1")
        }
    };
    json!({
        "server": server, "formats": formats, "model": MODEL, "baseUrl": format!("http://{address}{path}"),
        "selfHosted": true, "contextLength": 32768,
    })
}

/// A plan with one caller and one route, `smart`, over these backends in their order. Retries wait for no time.
pub fn plan(backends: &[(&str, Value)]) -> Value {
    let candidates: Vec<Value> =
        backends.iter().map(|(name, _)| json!({ "backend": name, "tier": "Standard", "weight": 1 })).collect();
    let backends: BTreeMap<&str, &Value> = backends.iter().map(|(name, backend)| (*name, backend)).collect();
    json!({
        "schema": SCHEMA,
        "namespace": "team",
        "callers": { "coder": { "keyHashes": [hash(KEY)], "routes": ["smart"] } },
        "routes": { "smart": {
            "modelName": "smart",
            "aliases": ["gpt-4o"],
            "strategy": "Priority",
            "backends": candidates,
            "timeouts": { "request": 60_000, "backendRequest": 30_000, "streamIdle": 30_000 },
            "retries": { "maxRetries": 2, "initial": 0, "max": 0, "budgetPercent": 100 },
            "circuitBreaker": { "failures": 1000, "window": 60_000, "cooldown": 30_000 },
            "dataPolicy": "Any",
        } },
        "backends": backends,
    })
}

/// Makes the last backends of a plan's route its fallback.
pub fn fall_back(plan: &mut Value, names: &[&str], causes: &[&str]) {
    let route = &mut plan["routes"]["smart"];
    route["backends"].as_array_mut().unwrap().retain(|one| !names.contains(&one["backend"].as_str().unwrap()));
    route["fallback"] =
        names.iter().map(|name| json!({ "backend": name, "tier": "Standard", "causes": causes })).collect::<Vec<_>>().into();
}

/// A gateway.
pub struct World {
    pub gateway: Arc<Gateway>,
    pub address: SocketAddr,
    pub client: Client,
    pub closing: CancellationToken,
    pub serving: Option<JoinHandle<()>>,
    log: Lines,
}

impl World {
    /// A gateway with a plan in force.
    pub async fn new(plan: Value) -> Self {
        Self::with_secrets(plan, &[]).await
    }

    pub async fn with_secrets(plan: Value, secrets: &[(&str, &str)]) -> Self {
        let world = Self::without_plan(Room::new(TOGETHER)).await;
        world.apply_with(plan, secrets);
        world
    }

    pub async fn without_plan(room: Room) -> Self {
        Self::behind(None, room).await
    }

    /// A gateway without a plan that calls what is outside of the cluster through a proxy.
    pub async fn behind(proxy: Option<EgressProxy>, room: Room) -> Self {
        quartermaster::sources::connect::install_cryptography();
        let rules = Rules { allow_loopback: true, api_server: ApiServer::At(Vec::new()), ..Rules::default() };
        let metrics = Metrics::new("test", room.clone()).unwrap();
        let log = Lines::default();
        let (routing_log, _writing) = RoutingLog::new(log.clone());
        let gateway = Arc::new(Gateway::new(Arc::new(Connector::new(rules, proxy)), metrics, room, routing_log));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closing = CancellationToken::new();
        let serving = tokio::spawn(listener::serve(listener, gateway.clone(), Bounds::default(), closing.clone()));
        let client = Client::builder().no_proxy().build().unwrap();
        Self { gateway, address, client, closing, serving: Some(serving), log }
    }

    pub fn apply(&self, plan: Value) -> String {
        self.apply_with(plan, &[])
    }

    pub fn apply_with(&self, plan: Value, secrets: &[(&str, &str)]) -> String {
        let plan: Plan = serde_json::from_value(plan).unwrap();
        let secrets: Secrets = secrets.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect();
        self.gateway.apply(plan, &secrets, Endpoints::new()).unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Posts a body with the caller's key.
    pub async fn post(&self, path: &str, body: &Value) -> Response {
        within(self.client.post(self.url(path)).bearer_auth(KEY).json(body).send()).await.unwrap()
    }

    /// A chat of `tokens` tokens.
    pub async fn chat(&self, tokens: u64) -> Response {
        self.post("/v1/chat/completions", &chat(tokens)).await
    }

    /// The same as a stream.
    pub async fn stream(&self, tokens: u64) -> Response {
        let mut body = chat(tokens);
        body["stream"] = true.into();
        self.post("/v1/chat/completions", &body).await
    }

    /// The routing log, once it has this many lines.
    pub async fn lines(&self, number: usize) -> Vec<Value> {
        until(&format!("{number} lines in\n{}", self.log.text()), || self.log.text().lines().count() >= number).await;
        self.log.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn log(&self) -> String {
        self.log.text()
    }

    /// What was counted of each backend's calls.
    pub fn used(&self) -> BTreeMap<String, Counts> {
        let mut used: BTreeMap<String, Counts> = BTreeMap::new();
        for (_, series, counts) in self.gateway.usage_since(0).0.rows() {
            used.entry(series.backend.clone()).or_default().add(counts);
        }
        used
    }

    /// Everything that `/metrics` shows.
    pub fn metrics(&self) -> String {
        String::from_utf8(self.gateway.metrics.text().unwrap()).unwrap()
    }
}

/// The body of a chat whose answer has this many tokens.
pub fn chat(tokens: u64) -> Value {
    json!({ "model": "smart", "max_tokens": tokens, "messages": [{ "role": "user", "content": format!("hello [[tokens={tokens}]]") }] })
}

/// OpenAI's shape of an error, or Anthropic's, as the path has it.
pub fn check_shape(path: &str, body: &Value) {
    let error = &body["error"];
    assert!(error["message"].is_string() && error["type"].is_string(), "{body}");
    if path.starts_with("/v1/messages") {
        assert_eq!(body["type"], "error", "{body}");
    } else {
        assert!(error.get("code").is_some() && error.get("param").is_some(), "{body}");
    }
}

/// The events of a stream that were read to its end, without comments.
pub fn events(text: &str) -> Vec<String> {
    text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':')).map(str::to_owned).collect()
}

/// Reads a stream until a text has come.
pub async fn read_until(response: &mut Response, text: &str) -> String {
    let mut read = String::new();
    while !read.contains(text) {
        let chunk = within(response.chunk()).await.unwrap().unwrap_or_else(|| panic!("{text} never came in {read}"));
        read.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    read
}
