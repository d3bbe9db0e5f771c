//! What is installed runs: as pods of the local node, under its own ServiceAccount and its own rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use quartermaster_dev::local_node::start::LocalNode;
use quartermaster_dev::{Connection, ControlPlane, Options, PATIENCE, account, nodes};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::helm::{DEFINITIONS, Helm, OPERATOR, read, root};
use crate::plain_http;
use crate::values::operator;

const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);
const NAMESPACE: &str = "quartermaster-system";
/// A namespace of people.
const TEAM: &str = "team";

/// A control plane with one node that has GPUs, and the local node.
async fn start() -> (LocalNode, ControlPlane) {
    operator();
    let control_plane = ControlPlane::start(Options::default()).await.unwrap();
    let fleet: Vec<_> = nodes::fleet().into_iter().filter(|node| node.name == "l4-0").collect();
    nodes::create(control_plane.connection(), &fleet).await.unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_quartermaster-dev"));
    let node = LocalNode::start(control_plane.connection(), program, &[]).await.unwrap();
    (node, control_plane)
}

struct Cluster<'a>(&'a Connection);

impl Cluster<'_> {
    fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(self.0.kubectl());
        let output = command.arg("--kubeconfig").arg(self.0.kubeconfig()).args(arguments).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// An object, or null.
    fn get(&self, namespace: &str, what: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["--namespace", namespace, "get", what, "--output=json"])).unwrap_or_default()
    }

    /// Waits until `probe` yields something, or fails with all that is known of the operator.
    async fn eventually<T>(&self, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = probe() {
                return found;
            }
            if Instant::now() > deadline {
                panic!("waited in vain for {what}:\n{}", self.state());
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    fn state(&self) -> String {
        let of = |arguments: &[&str]| self.kubectl(&[&["--namespace", NAMESPACE], arguments].concat());
        let logs = of(&["logs", "--selector=app.kubernetes.io/name=quartermaster", "--prefix"]);
        format!("{}\n{}\n{logs}", of(&["get", "pods", "--output=yaml"]), of(&["get", "events"]))
    }

    async fn namespace(&self, name: &str, labels: Value) {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        account::apply(self.0, &namespace.to_string()).await.unwrap();
    }

    /// Makes the backend of examples/backends/small-model.yaml in a namespace.
    async fn apply_backend(&self, namespace: &str) {
        let backend = read("examples/backends/small-model.yaml");
        let backend = backend.replace("metadata:", &format!("metadata:\n  namespace: {namespace}"));
        account::apply(self.0, &backend).await.unwrap();
    }

    /// What a user has asked of the API server.
    fn requests(&self, user: &str) -> Vec<Value> {
        let log = fs::read_to_string(self.0.audit_log()).unwrap();
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        entries.filter(|entry| entry["user"]["username"] == user).collect()
    }

    /// The pods of the operator.
    fn pods(&self) -> Vec<Value> {
        self.get(NAMESPACE, "pods")["items"].as_array().cloned().unwrap_or_default()
    }

    /// The pods whose metrics say that they lead.
    fn leaders(&self) -> Vec<String> {
        let leads = |pod: &Value| {
            ask(pod, "/metrics").is_some_and(|(_, metrics)| metrics.lines().any(|line| line == "quartermaster_leader 1"))
        };
        self.pods().iter().filter(|pod| leads(pod)).map(name).collect()
    }

    /// Kind, namespace and name of everything that there is, save for what belongs to the team, and events.
    fn everything(&self) -> BTreeSet<String> {
        let kinds = self.kubectl(&["api-resources", "--cached=false", "--verbs=list", "--output=name"]);
        let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
        let each = r#"jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name}{"\n"}{end}"#;
        let all = self.kubectl(&["get", &kinds.join(","), "--all-namespaces", "--output", each]);
        let of_team = |line: &&str| line.contains("/team/") || line.starts_with("IPAddress/");
        all.lines().filter(|line| line.contains('/') && !of_team(line)).map(str::to_owned).collect()
    }
}

fn refused(requests: &[Value]) -> Vec<Value> {
    requests.iter().filter(|entry| entry["responseStatus"]["code"] == 403).cloned().collect()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Asks the admin server of a pod. Status and body.
fn ask(pod: &Value, path: &str) -> Option<(u16, String)> {
    plain_http::ask(&format!("{}:8080", pod["status"]["podIP"].as_str()?), "GET", path)
}

/// The chart of the definitions as an earlier version could have been: without the short name.
fn earlier_definitions(helm: &Helm) -> String {
    let chart = helm.directory.join("earlier");
    fs::create_dir_all(chart.join("files")).unwrap();
    fs::create_dir_all(chart.join("templates")).unwrap();
    for file in ["Chart.yaml", "values.yaml", "templates/definitions.yaml"] {
        fs::write(chart.join(file), read(&format!("{DEFINITIONS}/{file}"))).unwrap();
    }
    for entry in fs::read_dir(root().join("crds")).unwrap() {
        let entry = entry.unwrap();
        let text = fs::read_to_string(entry.path()).unwrap().replace("    shortNames:\n    - ib\n", "");
        fs::write(chart.join("files").join(entry.file_name()), text).unwrap();
    }
    chart.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_run_as_pods_one_leads_and_uninstalling_leaves_the_definitions_and_what_backends_run() {
    let (node, control_plane) = start().await;
    let connection = control_plane.connection();
    let cluster = Cluster(connection);
    // Pods that the level forbids are not admitted.
    cluster.namespace(NAMESPACE, json!({"pod-security.kubernetes.io/enforce": "restricted"})).await;
    cluster.namespace(TEAM, json!({})).await;
    for what in ["serviceaccount/default", "configmap/kube-root-ca.crt"] {
        cluster.eventually(what, || cluster.get(NAMESPACE, what).is_object().then_some(())).await;
    }
    let before = cluster.everything();
    let helm = Helm::of(connection);
    let install = |arguments: &[&str]| {
        helm.run(&[arguments, &["--namespace", NAMESPACE, "--wait", "--timeout", "180s"]].concat());
    };

    let short_names = || cluster.get("", "crd/inferencebackends.quartermaster.dev")["spec"]["names"]["shortNames"].clone();
    install(&["install", "quartermaster-crds", &earlier_definitions(&helm)]);
    assert_eq!(short_names(), Value::Null);
    install(&["upgrade", "quartermaster-crds", DEFINITIONS]);
    assert_eq!(short_names(), json!(["ib"]), "an upgrade of the chart updates the definitions");

    install(&["install", "quartermaster", OPERATOR, "--values", "dev/chart-values.yaml"]);
    let first = cluster.pods();
    assert_eq!(first.len(), 2, "{}", cluster.state());
    for pod in &first {
        assert!(is_ready(pod), "helm waits for it: {}", cluster.state());
        assert_eq!(pod["spec"]["nodeName"], "local");
        assert_eq!(pod["spec"]["serviceAccountName"], "quartermaster");
    }
    let leader = cluster.eventually("a leader", || cluster.leaders().pop()).await;
    assert_eq!(cluster.leaders(), [leader.as_str()]);
    let holder = cluster.get(NAMESPACE, "lease/quartermaster")["spec"]["holderIdentity"].clone();
    assert!(holder.as_str().unwrap().starts_with(&format!("{leader}_")), "{holder}");

    cluster.apply_backend(TEAM).await;
    let ready = || Some(cluster.get(TEAM, "inferencebackend/qwen3-4b")).filter(is_ready);
    let ready = cluster.eventually("the backend to be ready", ready).await;
    assert_eq!(ready["status"]["summary"]["gpus"], "1xL4 TP1");

    // Another configuration makes new pods, which go on where the earlier ones stopped.
    let observations = ["--set", "configuration.admin.observations=true"];
    install(&[&["upgrade", "quartermaster", OPERATOR, "--values", "dev/chart-values.yaml"], &observations as &[&str]].concat());
    let names: BTreeSet<String> = first.iter().map(name).collect();
    let shown = || {
        let mut later = cluster.pods();
        later.retain(|pod| !names.contains(&name(pod)));
        let path = "/debug/observations/InferenceBackend/team/qwen3-4b";
        later.iter().find_map(|pod| ask(pod, path).filter(|(status, _)| *status == 200))
    };
    cluster.eventually("an observation, which only the new configuration shows", shown).await;

    let requests = cluster.requests("system:serviceaccount:quartermaster-system:quartermaster");
    let is_deployment = |entry: &&Value| entry["objectRef"]["resource"] == "deployments" && entry["responseStatus"]["code"] == 201;
    assert_eq!(requests.iter().filter(is_deployment).count(), 1, "the Deployment was made by the operator's account");
    assert_eq!(refused(&requests), Vec::<Value>::new());

    for release in ["quartermaster", "quartermaster-crds"] {
        helm.run(&["uninstall", release, "--namespace", NAMESPACE, "--wait", "--timeout", "180s"]);
    }
    // The operator made the Lease, so no release has it.
    let is_expected = |object: &&String| {
        object.starts_with("CustomResourceDefinition//")
            || object.starts_with("APIService//")
            || *object == "Lease/quartermaster-system/quartermaster"
    };
    let left = || cluster.everything().difference(&before).filter(|object| !is_expected(object)).cloned().collect::<Vec<_>>();
    let deadline = Instant::now() + PATIENCE;
    while !left().is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", left());
        sleep(LOOK_AGAIN_AFTER).await;
    }
    assert_eq!(short_names(), json!(["ib"]));
    assert!(is_ready(&cluster.get(TEAM, "inferencebackend/qwen3-4b")));
    assert_eq!(cluster.get(TEAM, "deployment/qwen3-4b-backend")["status"]["availableReplicas"], 1);
    node.stop().await;
    control_plane.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_watches_some_namespaces_works_there_and_has_no_right_on_others() {
    let (node, control_plane) = start().await;
    let cluster = Cluster(control_plane.connection());
    for name in [TEAM, "others"] {
        cluster.namespace(name, json!({})).await;
    }
    let helm = Helm::of(control_plane.connection());
    let wait = ["--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "180s"];
    helm.run(&[&["install", "quartermaster-crds", DEFINITIONS], &wait as &[&str]].concat());
    let values = ["--values", "dev/chart-values.yaml", "--set", "configuration.watchNamespaces={team},replicas=1"];
    helm.run(&[&["install", "blue", OPERATOR], &values as &[&str], &wait].concat());
    for namespace in ["others", TEAM] {
        cluster.apply_backend(namespace).await;
    }
    let ready = || Some(cluster.get(TEAM, "inferencebackend/qwen3-4b")).filter(is_ready).map(drop);
    cluster.eventually("the backend of the team to be ready", ready).await;
    let account = format!("system:serviceaccount:{NAMESPACE}:blue-quartermaster");
    let requests = cluster.requests(&account);
    assert!(!requests.is_empty());
    assert_eq!(refused(&requests), Vec::<Value>::new());
    // What nobody has looked at has the generation of the default.
    assert_eq!(cluster.get("others", "inferencebackend/qwen3-4b")["status"], json!({"observedGeneration": -1}));
    let user = format!("--as={account}");
    for (namespace, answer) in [(TEAM, "yes"), ("others", "no"), (NAMESPACE, "no")] {
        let may = cluster.kubectl(&["--namespace", namespace, "auth", "can-i", "list", "secrets", &user]);
        assert_eq!(may.trim(), answer, "{namespace}");
    }
    node.stop().await;
    control_plane.stop().unwrap();
}
