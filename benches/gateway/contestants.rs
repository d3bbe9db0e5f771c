//! What is measured: the gateway, and others beside it, each as a process of its own before the same backend.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quartermaster_core::decide::gateway::exchange::documents::Secrets;
use quartermaster_core::decide::gateway::plan::Plan;
use secrecy::SecretString;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::backend::{BURST, BURST_HOSTED, PACED, PLAIN};
use crate::budgeted::{self, Operator};
use crate::load::{self, KEY, Load, SHORT};
use crate::process::{self, Memory};

/// The names, as they stand in the table.
pub const DIRECT: &str = "backend alone";
pub const GATEWAY: &str = "gateway";
pub const BUDGETED: &str = "gateway, with a budget";
pub const ENVOY: &str = "Envoy";
pub const LITELLM: &str = "LiteLLM";

/// How long one may take until it answers. LiteLLM imports for half a minute on a busy machine.
const DEADLINE: Duration = Duration::from_secs(180);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// AgentPools with a key each in the gateway's plan.
const CALLERS: usize = 100;
/// ModelRoutes in the plan beside those that are called.
const OTHER_ROUTES: usize = 50;
/// The one that calls.
const CALLER: &str = "caller-0";
/// The backend that would answer if the others failed.
const SPARE: &str = "spare";
/// The key of a provider.
const PROVIDER_KEY: &str = "sk-of-the-provider";
/// The namespace.
const NAMESPACE: &str = "bench";
/// Variables that would send calls to loopback addresses elsewhere.
const PROXIES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Which processors processes run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processors {
    /// All on all of them, as the system sees fit.
    Shared,
    /// A gateway alone on the first; callers and the backend on the second.
    Apart,
}

impl Processors {
    /// How many a gateway has.
    pub fn of_gateway(self) -> usize {
        match self {
            Self::Shared => std::thread::available_parallelism().unwrap().get(),
            Self::Apart => 1,
        }
    }

    /// Keeps this process, and what it starts from now on, off the processor of the gateways. It must have no other thread yet.
    pub fn keep_apart(self) {
        if self == Self::Apart {
            let own = std::process::id().to_string();
            let kept = Command::new("taskset").args(["--pid", "--cpu-list", "1", &own]).stdout(Stdio::null()).status();
            assert!(kept.expect("taskset is missing").success(), "two processors are needed");
        }
    }

    fn command(self, program: &Path) -> Command {
        match self {
            Self::Shared => Command::new(program),
            Self::Apart => {
                // It becomes the program: the process is the same.
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", "0"]).arg(program);
                command
            }
        }
    }
}

/// One that answers.
pub struct Contestant {
    /// What it is called.
    pub name: &'static str,
    /// Where it answers.
    pub address: SocketAddr,
    /// Its memory before it was called.
    pub idle: Option<Memory>,
    process: Option<Process>,
    /// Who tells it of budgets.
    operator: Option<Operator>,
}

/// Ends with its owner.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Files of the processes. They go with their owner.
pub struct Directory(PathBuf);

impl Directory {
    /// A new one.
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("quartermaster-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

impl Contestant {
    /// The backend alone.
    pub fn direct(backend: SocketAddr) -> Self {
        Self { name: DIRECT, address: backend, idle: None, process: None, operator: None }
    }

    /// Whether it is measured with a load. What a budget costs shows where a call costs least.
    pub fn is_called_with(&self, load: &Load) -> bool {
        self.operator.is_none() || load.model == PLAIN && load.prompt == SHORT && load.callers > 1
    }

    /// Its process, where it has one.
    pub fn process(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }

    /// Our gateway, with everything on: authentication among many keys, rules, retries and fallback, metrics, and a routing log
    /// that is read.
    pub async fn gateway(directory: &Directory, backend: SocketAddr, processors: Processors) -> Self {
        let address = free();
        let command = gateway(directory, GATEWAY, address, backend, processors);
        Self::when_it_answers(GATEWAY, address, logged(command, directory, GATEWAY))
            .await
            .unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// The same, whose calls count for a budget: each reserves and settles, and an operator hears of it.
    pub async fn budgeted(directory: &Directory, backend: SocketAddr, processors: Processors) -> Self {
        let (address, exchange, certificate) = (free(), free(), directory.0.join("certificate"));
        let authority = budgeted::certify(NAMESPACE, &certificate);
        let mut command = gateway(directory, BUDGETED, address, backend, processors);
        command.arg("--certificate").arg(certificate).args(["--exchange-listen", &exchange.to_string()]);
        let process = logged(command, directory, BUDGETED);
        let mut started = Self::when_it_answers(BUDGETED, address, process).await.unwrap_or_else(|problem| panic!("{problem}"));
        let plan: Plan = serde_json::from_value(plan(backend)).unwrap();
        let secrets = Secrets(secrets().map(|(entry, key)| (entry, SecretString::from(key))).into());
        let operator = Operator::start(&authority, exchange, &plan, &secrets, CALLER);
        let begun = Instant::now();
        while operator.used() == 0 {
            assert!(begun.elapsed() < DEADLINE, "{BUDGETED} does not go by it");
            // Until it does, and while the first allowance is granted, some are answered and some are not.
            let _answered = load::is_answered(address).await;
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
        started.idle = started.process().map(process::memory);
        started.operator = Some(operator);
        started
    }

    /// Envoy with one route that reads no body.
    ///
    /// # Errors
    ///
    /// Why it is not there.
    pub async fn envoy(directory: &Directory, backend: SocketAddr, processors: Processors) -> Result<Self, String> {
        let program = prepare("envoy")?;
        let address = free();
        let configuration = directory.write("envoy.json", &envoy(address, backend).to_string());
        let mut command = processors.command(&program);
        command.arg("--config-path").arg(configuration).args(["--concurrency", &processors.of_gateway().to_string()]);
        command.args(["--disable-hot-restart", "--log-level", "warning"]);
        let process = start(command, directory, ENVOY, Stdio::null());
        Self::when_it_answers(ENVOY, address, process).await
    }

    /// LiteLLM's proxy without a database: one process, as it recommends for each replica.
    ///
    /// # Errors
    ///
    /// Why it is not there.
    pub async fn litellm(directory: &Directory, backend: SocketAddr, processors: Processors) -> Result<Self, String> {
        let program = prepare("litellm")?;
        let address = free();
        let configuration = directory.write("litellm.yaml", &litellm(backend).to_string());
        let mut command = processors.command(&program);
        command.arg("--config").arg(configuration).args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
        // It would ask the network for prices and tokenizers, and hold up calls while nothing answers.
        command.env("HF_HUB_OFFLINE", "1").env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
        command.env("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True").env("LITELLM_TELEMETRY", "False");
        let process = start(command, directory, LITELLM, Stdio::null());
        Self::when_it_answers(LITELLM, address, process).await
    }

    async fn when_it_answers(name: &'static str, address: SocketAddr, mut process: Process) -> Result<Self, String> {
        let started = Instant::now();
        while !load::is_answered(address).await {
            let ended = process.child.try_wait().unwrap();
            if ended.is_some() || started.elapsed() > DEADLINE {
                let log = std::fs::read_to_string(&process.log).unwrap_or_default();
                return Err(format!("{name} does not answer ({ended:?}):\n{log}"));
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
        Ok(Self { name, address, idle: Some(process::memory(process.child.id())), process: Some(process), operator: None })
    }
}

/// How our gateway is started.
fn gateway(directory: &Directory, name: &str, address: SocketAddr, backend: SocketAddr, processors: Processors) -> Command {
    // Each has files of its own: they are looked at again and again.
    let plan = directory.write(&format!("{name}.json"), &plan(backend).to_string());
    let mounted = directory.0.join(format!("{name}.secrets"));
    std::fs::create_dir_all(&mounted).unwrap();
    for (entry, key) in secrets() {
        std::fs::write(mounted.join(entry), key).unwrap();
    }
    let configuration = directory.write(&format!("{name}.yaml"), "destinations:\n  allowLoopback: true\n");
    let program = std::env::var_os("QUARTERMASTER").map_or_else(|| env!("CARGO_BIN_EXE_quartermaster").into(), PathBuf::from);
    let mut command = processors.command(&program);
    command.arg("gateway").arg("--plan").arg(plan).arg("--secrets").arg(mounted);
    command.arg("--configuration").arg(configuration).args(["--log-format", "json"]);
    command.args(["--listen", &address.to_string(), "--admin-listen", &free().to_string()]).env_remove("RUST_LOG");
    command
}

/// The entries of the Secret.
fn secrets() -> [(String, &'static str); 2] {
    [BURST_HOSTED, SPARE].map(|backend| (format!("{backend}.first"), PROVIDER_KEY))
}

/// Starts our gateway, whose log is read as a container's runtime does, but for keeping it.
fn logged(command: Command, directory: &Directory, name: &str) -> Process {
    let mut process = start(command, directory, name, Stdio::piped());
    let mut log = process.child.stdout.take().unwrap();
    std::thread::spawn(move || io::copy(&mut log, &mut io::sink()));
    process
}

fn start(mut command: Command, directory: &Directory, name: &str, output: Stdio) -> Process {
    let log = directory.0.join(format!("{name}.log"));
    for proxy in PROXIES {
        command.env_remove(proxy);
    }
    let child = command.stdin(Stdio::null()).stdout(output).stderr(File::create(&log).unwrap()).spawn();
    Process { child: child.unwrap_or_else(|error| panic!("{name} cannot be started: {error}")), log }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Brings another gateway, and tells where its program is.
fn prepare(name: &str) -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/gateways/prepare.sh");
    let output = Command::new(script).arg(name).stderr(Stdio::inherit()).output().map_err(|error| error.to_string())?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() { Ok(path.into()) } else { Err(format!("{name} cannot be brought: the lines above say why")) }
}

/// The plan of a namespace of some size, of which one caller and four routes are called.
fn plan(backend: SocketAddr) -> Value {
    let hash = |key: &str| Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut backends: BTreeMap<&str, Value> =
        [PLAIN, BURST, PACED].map(|model| (model, served(json!("Vllm"), model, format!("http://{backend}"), &[]))).into();
    for name in [BURST_HOSTED, SPARE] {
        backends.insert(name, served(json!({ "Provider": "OpenAI" }), name, format!("http://{backend}/v1"), &["first"]));
    }
    let mut routes: BTreeMap<String, Value> =
        [PLAIN, BURST, BURST_HOSTED, PACED].map(|model| (model.to_owned(), route(model, model))).into();
    for number in 0..OTHER_ROUTES {
        let name = format!("other-{number}");
        routes.insert(name.clone(), route(&name, PLAIN));
    }
    let names: Vec<&String> = routes.keys().collect();
    let caller = |number: usize| {
        let key = if number == 0 { KEY.to_owned() } else { format!("{KEY}-{number}") };
        json!({ "keyHashes": [hash(&key)], "routes": names, "labels": { "project": "bench" } })
    };
    let callers: BTreeMap<String, Value> = (0..CALLERS).map(|number| (format!("caller-{number}"), caller(number))).collect();
    json!({ "schema": 1, "namespace": NAMESPACE, "callers": callers, "routes": routes, "backends": backends })
}

fn served(server: Value, model: &str, base_url: String, keys: &[&str]) -> Value {
    json!({
        "server": server, "formats": ["ChatCompletions"], "model": model, "baseUrl": base_url, "keys": keys,
        "selfHosted": keys.is_empty(), "contextLength": 262_144,
        "price": { "input": 200_000, "output": 600_000, "cachedInput": 20_000, "cacheWrite": 200_000 },
    })
}

/// A route whose rules look at all that a rule can look at. The last one matches.
fn route(name: &str, backend: &str) -> Value {
    let candidates = json!([{ "backend": backend, "tier": "Standard", "weight": 1 }]);
    let rule = |name: &str, when: Value| json!({ "name": name, "when": when, "strategy": "Priority", "backends": candidates });
    json!({
        "modelName": name, "strategy": "Priority", "backends": candidates,
        "rules": [
            rule("longest", json!({ "promptTokens": { "atLeast": 200_000 } })),
            rule("urgent", json!({ "priorities": ["P0"], "userTiers": ["gold"] })),
            rule("labelled", json!({ "labels": { "project": ["another", "a-third"] } })),
            rule("coding", json!({ "taskTypes": ["coding"], "agentPools": [CALLER] })),
        ],
        "trustedLabels": ["taskType", "priority", "userTier"],
        "fallback": [{ "backend": SPARE, "tier": "Standard", "causes": ["Unavailable", "Timeout", "RateLimited"] }],
        "timeouts": { "request": 600_000, "backendRequest": 120_000, "streamIdle": 60_000 },
        "retries": { "maxRetries": 2, "initial": 100, "max": 1000, "budgetPercent": 20 },
        "circuitBreaker": { "failures": 5, "window": 30_000, "cooldown": 30_000 },
        "dataPolicy": "Any",
    })
}

fn envoy(address: SocketAddr, backend: SocketAddr) -> Value {
    let socket =
        |address: SocketAddr| json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    let of = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.{name}");
    json!({ "static_resources": {
        "listeners": [{
            "name": "calls", "address": socket(address),
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": of("network.http_connection_manager.v3.HttpConnectionManager"),
                    "stat_prefix": "calls", "codec_type": "HTTP1",
                    "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
                        { "match": { "prefix": "/" }, "route": { "cluster": "backend", "timeout": "0s" } },
                    ] }] },
                    "http_filters": [{
                        "name": "envoy.filters.http.router",
                        "typed_config": { "@type": of("http.router.v3.Router") },
                    }],
                },
            }] }],
        }],
        "clusters": [{
            "name": "backend", "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": { "cluster_name": "backend", "endpoints": [{ "lb_endpoints": [
                { "endpoint": { "address": socket(backend) } },
            ] }] },
        }],
    } })
}

/// In JSON, which is YAML.
fn litellm(backend: SocketAddr) -> Value {
    let models: Vec<Value> = [PLAIN, BURST, BURST_HOSTED, PACED]
        .iter()
        .map(|model| {
            json!({ "model_name": model, "litellm_params": {
                "model": format!("openai/{model}"), "api_base": format!("http://{backend}/v1"), "api_key": "none", "max_retries": 0,
            } })
        })
        .collect();
    json!({
        "model_list": models,
        "router_settings": { "num_retries": 0, "disable_cooldowns": true },
        "litellm_settings": { "num_retries": 0, "drop_params": true, "disable_hf_tokenizer_download": true },
        "general_settings": { "master_key": KEY },
    })
}
