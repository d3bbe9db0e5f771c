//! What every test stands on: a namespace of its own, and an operator of its own that watches only that namespace, under a
//! ServiceAccount of its own with the rules of deploy/rbac.yaml, so that the audit log tells what this operator did.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use quartermaster_dev::{Connection, account};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::contract::Versions;
pub use crate::operator::Operator;
use crate::rules::rules;

/// Longest time that a condition is waited for. Ten times what the slowest of them takes.
pub const DEADLINE: Duration = quartermaster_dev::PATIENCE;

/// The account of a namespace's operators.
const ACCOUNT: &str = "quartermaster";

/// The definition of InferenceBackends of this version.
pub const DEFINITION: &str = include_str!("../../crds/quartermaster.dev_inferencebackends.yaml");
/// The same of ModelRoutes.
pub const ROUTE_DEFINITION: &str = include_str!("../../crds/quartermaster.dev_modelroutes.yaml");
/// The same of TokenBudgets.
pub const BUDGET_DEFINITION: &str = include_str!("../../crds/quartermaster.dev_tokenbudgets.yaml");
/// The same of AgentPools.
pub const POOL_DEFINITION: &str = include_str!("../../crds/quartermaster.dev_agentpools.yaml");

static INSTALLED: OnceCell<()> = OnceCell::const_new();

/// A namespace of its own in the control plane of this run.
pub struct Team {
    pub namespace: String,
    pub connection: Connection,
    pub client: Client,
    kubeconfig: PathBuf,
    /// None while nobody checks them.
    versions: Mutex<Option<Versions>>,
}

impl Drop for Team {
    fn drop(&mut self) {
        // The accelerators of the fake nodes are for all tests: those that a test has used are free again after it.
        self.kubectl(&["delete", "inferencebackends,modelroutes,tokenbudgets,agentpools", "--all", "--wait=false"]);
        self.check_contract();
    }
}

impl Team {
    /// A fresh namespace, with the definitions installed. `name` is the test's, in few words, valid as a DNS label.
    pub async fn new(name: &str) -> Self {
        let connection = Connection::from_environment().expect("run by `make test`, or under quartermaster-dev with-cluster");
        INSTALLED.get_or_init(|| install(&connection, DEFINITION)).await;
        Self::within(connection, name).await
    }

    /// The same on another control plane, whose definitions are the test's own business.
    pub async fn within(connection: Connection, name: &str) -> Self {
        let client = connection.client().await.unwrap();
        let namespace = format!("{name}-{:06x}", fastrand::u32(..1 << 24));
        let mut team = Self { namespace, connection, client, kubeconfig: PathBuf::new(), versions: Mutex::default() };
        team.kubeconfig = team.account(ACCOUNT).await;
        team.versions = Mutex::new(Some(Versions::watch([team.backends(), team.pools(), team.routes(), team.budgets()]).await));
        team
    }

    /// The statuses of this test are not checked when it ends: it writes some itself, or has the contract broken on purpose.
    pub fn excuse_statuses(&self) {
        self.versions.lock().unwrap().take();
    }

    /// Every version of a backend so far, in their order.
    pub fn versions_of(&self, name: &str) -> Vec<Value> {
        self.versions.lock().unwrap().as_ref().unwrap().of("InferenceBackend", name)
    }

    /// Every version of a pool so far, in their order.
    pub fn pool_versions_of(&self, name: &str) -> Vec<Value> {
        self.versions.lock().unwrap().as_ref().unwrap().of("AgentPool", name)
    }

    /// Every version of a route so far, in their order.
    pub fn route_versions_of(&self, name: &str) -> Vec<Value> {
        self.versions.lock().unwrap().as_ref().unwrap().of("ModelRoute", name)
    }

    /// Fails where a status that anybody could see broke the contract; those after this are not checked. The end of a test does
    /// so by itself.
    pub fn check_contract(&self) {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(versions) = versions.filter(|_| !std::thread::panicking()) {
            let broken = versions.broken();
            assert!(broken.is_empty(), "{}", broken.join("\n"));
        }
    }

    /// Makes an account with the rules of deploy/rbac.yaml; returns its kubeconfig. It lives beside the objects, where a Role
    /// for its lease is as good as anywhere.
    pub async fn account(&self, name: &str) -> PathBuf {
        let rules = rules(&self.namespace, name);
        account::kubeconfig_of_service_account(&self.connection, &self.namespace, name, &rules).await.unwrap()
    }

    /// The user as whom the operators of this namespace call.
    pub fn user(&self) -> String {
        self.user_of(ACCOUNT)
    }

    /// The user of another account of this namespace.
    pub fn user_of(&self, account: &str) -> String {
        format!("system:serviceaccount:{}:{account}", self.namespace)
    }

    /// Starts an operator for this namespace and waits until it is ready.
    pub async fn operator(&self) -> Operator {
        self.operator_with("", &[]).await
    }

    /// The same with more configuration (YAML) and environment.
    pub async fn operator_with(&self, configuration: &str, environment: &[(&str, &str)]) -> Operator {
        let operator = self.start(configuration, environment);
        operator.ready().await;
        operator
    }

    /// Starts an operator and does not wait.
    pub fn start(&self, configuration: &str, environment: &[(&str, &str)]) -> Operator {
        self.start_as(&self.kubeconfig, configuration, environment)
    }

    /// The same under another account. RUST_LOG in the environment chooses another filter of the log.
    pub fn start_as(&self, kubeconfig: &Path, configuration: &str, environment: &[(&str, &str)]) -> Operator {
        let configuration = format!("watchNamespaces: [{}]\n{configuration}", self.namespace);
        let arguments = ["--namespace", &self.namespace];
        Operator::start(kubeconfig, &arguments, &configuration, environment)
    }

    /// The kubeconfig of the operators' account.
    pub fn operator_kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The API of a kind in this namespace.
    pub fn api(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, resource)
    }

    /// The InferenceBackends.
    pub fn backends(&self) -> Api<DynamicObject> {
        self.api(&resource("quartermaster.dev", "v1alpha1", "InferenceBackend", "inferencebackends"))
    }

    /// The AgentPools.
    pub fn pools(&self) -> Api<DynamicObject> {
        self.api(&resource("quartermaster.dev", "v1alpha1", "AgentPool", "agentpools"))
    }

    /// The ModelRoutes.
    pub fn routes(&self) -> Api<DynamicObject> {
        self.api(&resource("quartermaster.dev", "v1alpha1", "ModelRoute", "modelroutes"))
    }

    /// The TokenBudgets.
    pub fn budgets(&self) -> Api<DynamicObject> {
        self.api(&resource("quartermaster.dev", "v1alpha1", "TokenBudget", "tokenbudgets"))
    }

    /// The Deployments.
    pub fn deployments(&self) -> Api<DynamicObject> {
        self.api(&resource("apps", "v1", "Deployment", "deployments"))
    }

    /// Creates or changes a backend.
    pub async fn apply(&self, name: &str, spec: Value) -> DynamicObject {
        self.try_apply(name, spec).await.unwrap()
    }

    /// The same, with the API server's refusal.
    pub async fn try_apply(&self, name: &str, spec: Value) -> Result<DynamicObject, kube::Error> {
        let object = json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend",
            "metadata": { "name": name }, "spec": spec,
        });
        let parameters = PatchParams::apply("test").force();
        self.backends().patch(name, &parameters, &Patch::Apply(&object)).await
    }

    /// Waits until a backend's state holds; prints the object and its events when it does not.
    pub async fn until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.until_in(&self.backends(), name, what, holds).await
    }

    /// Waits until the state of an object of any kind holds.
    pub async fn until_in(&self, api: &Api<DynamicObject>, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let object = api.get_opt(name).await.unwrap().map(|object| serde_json::to_value(object).unwrap()).unwrap_or_default();
            if holds(&object) {
                return object;
            }
            if started.elapsed() > DEADLINE {
                let events = self.kubectl(&["get", "events", "--sort-by=.lastTimestamp"]);
                panic!("{name} never came to: {what}\n{}\n{events}", serde_json::to_string_pretty(&object).unwrap());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the condition Ready of a backend has this status and reason for its newest generation.
    pub async fn until_ready(&self, name: &str, status: &str, reason: &str) -> Value {
        self.until(name, &format!("Ready={status} reason={reason}"), |backend| {
            let generation = backend.pointer("/metadata/generation");
            let ready = condition(backend, "Ready");
            ready.is_some_and(|ready| {
                ready["status"] == status && ready["reason"] == reason && Some(&ready["observedGeneration"]) == generation
            })
        })
        .await
    }

    /// Runs kubectl in this namespace and returns what it says.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let output = Command::new(self.connection.kubectl())
            .arg("--kubeconfig")
            .arg(self.connection.kubeconfig())
            .args(["--namespace", &self.namespace])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Runs kubectl in this namespace with an input, and returns its exit code and what it says.
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> (i32, String) {
        let mut child = Command::new(self.connection.kubectl())
            .arg("--kubeconfig")
            .arg(self.connection.kubeconfig())
            .args(["--namespace", &self.namespace])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap_or(-1), said)
    }

    /// The requests of this namespace's operators in the audit log, in their order: each as the API server wrote it.
    pub fn requests(&self) -> Vec<Value> {
        self.audited().into_iter().filter(|entry| entry["stage"] == "ResponseComplete").collect()
    }

    /// All that the audit log says of this namespace's operators: watches that still run have only begun.
    pub fn audited(&self) -> Vec<Value> {
        self.audited_as(&self.user())
    }

    /// The same of one user.
    pub fn audited_as(&self, user: &str) -> Vec<Value> {
        let log = std::fs::read_to_string(self.connection.audit_log()).unwrap_or_default();
        log.lines()
            .filter(|line| line.contains(user))
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|entry| entry["user"]["username"] == user)
            .collect()
    }

    /// Waits until the operators ask nothing but for the lease for that long; returns how much they have asked.
    pub async fn until_quiet(&self, window: Duration) -> usize {
        self.until_quiet_but(window, |_| false).await
    }

    /// The same, with more requests that do not count.
    pub async fn until_quiet_but(&self, window: Duration, ignored: impl Fn(&Value) -> bool) -> usize {
        let asked = || {
            let requests = self.requests();
            let counts = |entry: &&Value| entry["objectRef"]["resource"] != "leases" && entry["verb"] != "watch" && !ignored(entry);
            requests.iter().filter(counts).count()
        };
        let started = Instant::now();
        let (mut count, mut since) = (asked(), Instant::now());
        while since.elapsed() < window {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = asked();
            if now != count {
                (count, since) = (now, Instant::now());
            }
            assert!(
                started.elapsed() < DEADLINE + window,
                "it never gets quiet: {:?}",
                self.writes().iter().rev().take(10).collect::<Vec<_>>()
            );
        }
        count
    }

    /// The writes among [`Team::requests`], without the lease and events: `patch deployments/name`.
    pub fn writes(&self) -> Vec<String> {
        writes_among(&self.requests())
    }
}

/// The writes among requests, without the lease and events.
pub fn writes_among(requests: &[Value]) -> Vec<String> {
    let is_write = |entry: &&Value| ["create", "update", "patch", "delete"].iter().any(|verb| entry["verb"] == *verb);
    let about = |entry: &Value| {
        let part = |name: &str| entry["objectRef"][name].as_str().unwrap_or_default().to_owned();
        let subresource = if part("subresource").is_empty() { String::new() } else { format!("/{}", part("subresource")) };
        format!("{} {}{subresource} {}", entry["verb"].as_str().unwrap_or_default(), part("resource"), part("name"))
    };
    let writes = requests.iter().filter(is_write).map(about);
    writes.filter(|write| !write.contains(" leases ") && !write.contains(" events ")).collect()
}

/// A condition of an object.
pub fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    object.pointer("/status/conditions")?.as_array()?.iter().find(|condition| condition["type"] == type_)
}

/// A kind for calls with dynamic types.
pub fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    ApiResource { group: group.into(), version: version.into(), api_version, kind: kind.into(), plural: plural.into() }
}

/// Installs a definition of InferenceBackends, and those of the other kinds of this version, and waits until they are served.
pub async fn install(connection: &Connection, definition: &str) {
    account::apply(connection, &[definition, ROUTE_DEFINITION, BUDGET_DEFINITION, POOL_DEFINITION].join("\n")).await.unwrap();
    let client = connection.client().await.unwrap();
    let started = Instant::now();
    for (kind, plural) in [
        ("InferenceBackend", "inferencebackends"),
        ("ModelRoute", "modelroutes"),
        ("TokenBudget", "tokenbudgets"),
        ("AgentPool", "agentpools"),
    ] {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource("quartermaster.dev", "v1alpha1", kind, plural));
        while api.list(&ListParams::default()).await.is_err() {
            assert!(started.elapsed() < DEADLINE, "the definitions are never served");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// `spec.vllm` of a model that fits the smallest slice of the fleet, with other fields.
pub fn small_model(more: Value) -> Value {
    let mut vllm = json!({
        "model": "Qwen/Qwen3-0.6B",
        "accelerator": { "products": ["NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"] },
        "resources": { "requests": { "cpu": "100m", "memory": "1Gi" } },
    });
    vllm.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    vllm
}
