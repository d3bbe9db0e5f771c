//! What the local node promises to everything that is to run really: what a kubelet would do with the same pods.
//!
//! The tests share a control plane with a local node, which ends with the last of them. The one about ends has its own.

// clippy.toml allows this in test functions, but not in what they share.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod plain_http;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use quartermaster_dev::local_node::start::LocalNode;
use quartermaster_dev::local_node::{logs, node};
use quartermaster_dev::{Connection, ControlPlane, Options, PATIENCE, account, nodes, processes};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::plain_http::ask;

const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What stands for the images of these tests.
const IMAGES: &str = "images:
  sample-server: {command: ['{binaries}/quartermaster-dev', sample-server, --host, '{podIP}', '{args}']}
  shell: {command: ['{command}', '{args}'], environment: {FROM_IMAGE: 'on {nodeIP}'}}
";

/// A control plane with a local node. The node ends first.
struct Cluster {
    node: LocalNode,
    control_plane: ControlPlane,
}

impl Cluster {
    async fn start() -> Self {
        let control_plane = ControlPlane::start(Options::default()).await.unwrap();
        let node = start_node(control_plane.connection()).await;
        Self { node, control_plane }
    }

    /// The one that tests share.
    async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(cluster) = shared.upgrade() {
            return cluster;
        }
        let cluster = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&cluster);
        cluster
    }

    fn connection(&self) -> &Connection {
        self.control_plane.connection()
    }
}

async fn start_node(connection: &Connection) -> LocalNode {
    let images = connection.directory().join("test-images.yaml");
    fs::write(&images, IMAGES).unwrap();
    let options = ["--images", &images.display().to_string(), "--back-off", "300"].map(str::to_owned);
    LocalNode::start(connection, Path::new(env!("CARGO_BIN_EXE_quartermaster-dev")), &options).await.unwrap()
}

/// A namespace of a test's own.
struct Team<'a> {
    connection: &'a Connection,
    namespace: &'static str,
}

impl<'a> Team<'a> {
    async fn new(connection: &'a Connection, namespace: &'static str) -> Self {
        let team = Self { connection, namespace };
        team.apply(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})]).await;
        team.eventually("the ServiceAccount default", || {
            (team.get("serviceaccount/default")["metadata"]["name"] == "default").then_some(())
        })
        .await;
        team
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.connection.kubectl());
        command.arg("--kubeconfig").arg(self.connection.kubeconfig()).args(["--namespace", self.namespace]).args(arguments);
        command.output().unwrap()
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// An object, or null.
    fn get(&self, what: &str) -> Value {
        serde_json::from_slice(&self.run(&["get", what, "--output", "json"]).stdout).unwrap_or_default()
    }

    /// Applies objects in this namespace.
    async fn apply(&self, objects: &[Value]) {
        let mut text = String::new();
        for object in objects {
            let mut object = object.clone();
            if object["kind"] != "Namespace" {
                object["metadata"]["namespace"] = json!(self.namespace);
            }
            text.push_str(&format!("---\n{object}\n"));
        }
        account::apply(self.connection, &text).await.unwrap();
    }

    /// Waits until `probe` yields something, or fails with all that is known of the pods.
    async fn eventually<T>(&self, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = probe() {
                return found;
            }
            if Instant::now() > deadline {
                let node = fs::read_to_string(self.connection.directory().join("local-node/node.log")).unwrap_or_default();
                let pods = self.kubectl(&["get", "pods", "--output", "yaml"]);
                let events = self.kubectl(&["get", "events"]);
                panic!("waited in vain for {what}:\n{pods}\n{events}\nthe node's log:\n{node}");
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    async fn phase(&self, pod: &str, phase: &str) -> Value {
        self.eventually(&format!("{pod} to be {phase}"), || Some(self.get(pod)).filter(|pod| pod["status"]["phase"] == phase)).await
    }

    async fn ready(&self, pod: &str) -> Value {
        self.eventually(&format!("{pod} to be ready"), || Some(self.get(pod)).filter(is_ready)).await
    }

    async fn event(&self, words: &str) {
        self.eventually(&format!("an event that says {words}"), || self.kubectl(&["get", "events"]).contains(words).then_some(()))
            .await;
    }

    async fn gone(&self, pod: &str) {
        self.eventually(&format!("{pod} to be gone"), || self.get(pod).is_null().then_some(())).await;
    }

    fn logs(&self, pod: &str) -> String {
        self.kubectl(&["logs", pod])
    }

    /// What the logs hold that stay when a pod has gone.
    fn kept_logs(&self, pod: &str) -> String {
        let logs = logs::of_pod(self.connection, self.namespace, pod).unwrap();
        logs.iter().map(|log| fs::read_to_string(log).unwrap()).collect()
    }
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True"
}

fn condition(pod: &Value, type_: &str) -> Value {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or_default()
}

/// A pod on the local node.
fn pod(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": placed(spec)})
}

/// A spec of a pod that goes to the local node.
fn placed(mut spec: Value) -> Value {
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": node::NAME});
    spec["tolerations"] = json!([{"key": node::TAINT, "operator": "Exists"}]);
    spec
}

fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "shell", "command": ["sh", "-c", script]})
}

fn proxy(connection: &Connection) -> String {
    format!("127.{}.0.1:3128", 64 + 2 * connection.slot())
}

/// The command lines of this machine's processes that begin with a text.
fn processes_with(text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.starts_with(text)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_becomes_ready_and_its_service_leads_to_its_pods_by_name() {
    let cluster = Cluster::shared().await;
    let team = Team::new(cluster.connection(), "serving").await;
    let container = json!({
        "name": "server",
        "image": "sample-server:1",
        "ports": [{"name": "http", "containerPort": 8000}],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1},
    });
    let labels = json!({"app": "web"});
    team.apply(&[
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": placed(json!({"containers": [container]}))},
            },
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": "http"}]},
        }),
    ])
    .await;
    team.eventually("two available replicas", || (team.get("deployment/web")["status"]["availableReplicas"] == 2).then_some(()))
        .await;

    let pods = team.get("pods")["items"].as_array().cloned().unwrap();
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
    let address = |pod: &Value| pod["status"]["podIP"].as_str().unwrap().to_owned();
    assert_ne!(address(&pods[0]), address(&pods[1]));
    let range = format!("127.{}.", 64 + 2 * cluster.connection().slot());
    for pod in &pods {
        assert!(address(pod).starts_with(&range), "{}", address(pod));
        let direct = ask(&format!("{}:8000", address(pod)), "GET", "/direct").unwrap();
        assert_eq!(direct, (200, format!("{} /direct\n", name(pod))));
        let log = team.logs(&name(pod));
        assert!(log.contains("listens on"), "{log}");
        assert!(team.kubectl(&["get", "pod", &name(pod), "--output", "wide"]).contains(&address(pod)));
    }
    let through = |host: &str| ask(&proxy(cluster.connection()), "GET", &format!("http://{host}/through")).unwrap();
    let mut answered: Vec<String> = Vec::new();
    for host in ["web.serving.svc", "web.serving.svc.cluster.local:80"] {
        let (status, body) = through(host);
        assert_eq!(status, 200, "{body}");
        answered.push(body);
    }
    let mut expected: Vec<String> = pods.iter().map(|pod| format!("{} /through\n", name(pod))).collect();
    answered.sort();
    expected.sort();
    assert_eq!(answered, expected, "both pods take their turns");
    let (status, body) = through("nobody.serving.svc");
    assert!(status == 502 && body.contains("the Service serving/nobody does not exist"), "{status} {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_volumes_and_token_stand_where_the_manifest_says() {
    let cluster = Cluster::shared().await;
    let team = Team::new(cluster.connection(), "contents").await;
    let script = r#"
echo "plain=$PLAIN expanded=$EXPANDED secret=$SECRET all=$ALL_a,$ALL_b image=$FROM_IMAGE optional=${OPTIONAL-unset}"
echo "pod=$POD_NAME ip=$POD_IP node=$NODE cpu=$CPU hostname=$(hostname) arguments=$0,$1"
echo "file=$(cat /etc/settings/deep/file) one=$(cat /etc/one/a) labels=$(cat /etc/pod/labels) shared=$(cat /shared/note)"
echo "api=$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT proxy=$http_proxy"
echo "token=$(cat /var/run/secrets/kubernetes.io/serviceaccount/token)"
echo "namespace=$(cat /var/run/secrets/kubernetes.io/serviceaccount/namespace)"
grep -c 'BEGIN CERTIFICATE' /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
echo done > /dev/termination-log
"#;
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let variable = |name: &str, source: Value| json!({"name": name, "valueFrom": source});
    let mut main = shell("main", script);
    main["command"] = json!(["sh", "-c", script, "$(PLAIN)", "$$(PLAIN)"]);
    main["resources"] = json!({"limits": {"cpu": "1500m"}});
    main["envFrom"] =
        json!([{"prefix": "ALL_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "none", "optional": true}}]);
    main["env"] = json!([
        {"name": "PLAIN", "value": "text"},
        {"name": "EXPANDED", "value": "<$(PLAIN)>"},
        variable("SECRET", json!({"secretKeyRef": {"name": "hidden", "key": "password"}})),
        variable("OPTIONAL", json!({"secretKeyRef": {"name": "hidden", "key": "none", "optional": true}})),
        variable("POD_NAME", field("metadata.name")),
        variable("POD_IP", field("status.podIP")),
        variable("NODE", field("spec.nodeName")),
        variable("CPU", json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}})),
    ]);
    main["volumeMounts"] = json!([
        {"name": "settings", "mountPath": "/etc/settings"},
        {"name": "all", "mountPath": "/etc/one/a", "subPath": "a"},
        {"name": "pod", "mountPath": "/etc/pod"},
        {"name": "shared", "mountPath": "/shared"},
    ]);
    let mut first = shell("first", "echo written first > /shared/note");
    first["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
    team.apply(&[
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "1", "b": "2"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"password": "s3cret"}}),
        pod(
            "contents",
            json!({
                "restartPolicy": "Never",
                "initContainers": [first],
                "containers": [main],
                "volumes": [
                    {"name": "settings", "configMap": {"name": "settings", "items": [{"key": "b", "path": "deep/file"}]}},
                    {"name": "all", "configMap": {"name": "settings"}},
                    {"name": "pod", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                    {"name": "shared", "emptyDir": {}},
                ],
            }),
        ),
    ])
    .await;

    let pod = team.phase("pod/contents", "Succeeded").await;
    let log = team.logs("contents");
    let ip = pod["status"]["podIP"].as_str().unwrap();
    let node = format!("127.{}.0.1", 64 + 2 * cluster.connection().slot());
    for line in [
        format!("plain=text expanded=<text> secret=s3cret all=1,2 image=on {node} optional=unset\n"),
        format!("pod=contents ip={ip} node=local cpu=1500 hostname=contents arguments=text,$(PLAIN)\n"),
        "file=2 one=1 labels=app=\"contents\" shared=written first\n".to_owned(),
        format!("proxy=http://{node}:3128\n"),
        "namespace=contents\n1\n".to_owned(),
    ] {
        assert!(log.contains(&line), "{line} is not in\n{log}");
    }
    let terminated = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&terminated["reason"], &terminated["message"]), (&json!("Completed"), &json!("done\n")));
    assert!(!Path::new("/etc/settings").exists() && !Path::new("/shared").exists(), "the machine has mount points of a pod");

    // The token is the account's, and says which pod it is of.
    let token = log.lines().find_map(|line| line.strip_prefix("token=")).unwrap();
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let file = cluster.connection().directory().join("review.json");
    fs::write(&file, review.to_string()).unwrap();
    let review = team.kubectl(&["create", "--output", "json", "-f", &file.display().to_string()]);
    let review: Value = serde_json::from_str(&review).unwrap();
    let user = &review["status"]["user"];
    assert_eq!(user["username"], "system:serviceaccount:contents:default");
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["contents"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_ends_by_its_hook_then_sigterm_and_only_then_sigkill() {
    let cluster = Cluster::shared().await;
    let team = Team::new(cluster.connection(), "ending").await;
    let mut polite = shell("main", "trap 'cat /notes/hook; echo goodbye; exit 0' TERM; echo started; while :; do sleep 0.05; done");
    polite["lifecycle"] = json!({"preStop": {"exec": {"command": ["sh", "-c", "echo hooked > /notes/hook"]}}});
    polite["volumeMounts"] = json!([{"name": "notes", "mountPath": "/notes"}]);
    // The child has no business with the signal, and ends with the container all the same.
    let stubborn = shell("main", "trap '' TERM; setsid sleep 4711.25 & echo started; while :; do sleep 0.05; done");
    team.apply(&[
        pod("polite", json!({"containers": [polite], "volumes": [{"name": "notes", "emptyDir": {}}]})),
        pod("stubborn", json!({"containers": [stubborn], "terminationGracePeriodSeconds": 1})),
    ])
    .await;
    for pod in ["polite", "stubborn"] {
        team.ready(&format!("pod/{pod}")).await;
        team.eventually("its first line", || team.logs(pod).contains("started").then_some(())).await;
    }
    assert_eq!(processes_with("sleep 4711.25").len(), 1);

    team.kubectl(&["delete", "pod", "polite", "stubborn", "--wait=false"]);
    // While it is being ended it is still there, and says how it ends.
    let ended = team
        .eventually("the end of the stubborn one", || {
            let pod = team.get("pod/stubborn");
            let gone = pod.is_null();
            let code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].clone();
            (gone || !code.is_null()).then_some(code)
        })
        .await;
    assert!(ended.is_null() || ended == 137, "{ended}");
    team.gone("pod/polite").await;
    team.gone("pod/stubborn").await;
    assert_eq!(team.kept_logs("polite"), "started\nhooked\ngoodbye\n");
    assert!(processes_with("sleep 4711.25").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_crashes_is_started_again_ever_later_and_says_why() {
    let cluster = Cluster::shared().await;
    let team = Team::new(cluster.connection(), "crashing").await;
    let mut main = shell("main", "echo no model; exit 3");
    main["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    team.apply(&[pod("crashing", json!({"containers": [main]}))]).await;
    let status = team
        .eventually("two restarts and a back-off", || {
            let status = team.get("pod/crashing")["status"]["containerStatuses"][0].clone();
            let waits = status["state"]["waiting"]["reason"] == "CrashLoopBackOff";
            (waits && status["restartCount"].as_u64() >= Some(2)).then_some(status)
        })
        .await;
    let last = &status["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"], &last["message"]), (&json!(3), &json!("Error"), &json!("no model")));
    let message = status["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.contains("restarting failed container=main pod=crashing_crashing"), "{message}");
    assert_eq!(team.get("pod/crashing")["status"]["phase"], "Running");
    team.event("BackOff").await;
    assert!(team.kubectl(&["logs", "--previous", "crashing"]).contains("no model"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_image_or_a_missing_secret_keeps_a_pod_pending_and_is_named() {
    let cluster = Cluster::shared().await;
    let team = Team::new(cluster.connection(), "refused").await;
    let mut lacking = shell("main", "echo $KEY");
    lacking["env"] = json!([{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "later", "key": "key"}}}]);
    team.apply(&[
        pod("unknown", json!({"containers": [{"name": "main", "image": "example.com/unknown:1"}]})),
        pod("lacking", json!({"containers": [lacking], "restartPolicy": "Never"})),
    ])
    .await;
    let waits = async |pod: &str, reason: &str| {
        team.eventually(reason, || {
            let pod = team.get(pod);
            let waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
            (waiting["reason"] == reason && pod["status"]["phase"] == "Pending").then(|| waiting["message"].to_string())
        })
        .await
    };
    let message = waits("pod/unknown", "ErrImageNeverPull").await;
    assert!(message.contains("example.com/unknown:1") && message.contains("image map"), "{message}");
    let message = waits("pod/lacking", "CreateContainerConfigError").await;
    assert!(message.contains("later"), "{message}");

    team.apply(&[json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later"}, "stringData": {"key": "there"}})])
        .await;
    team.phase("pod/lacking", "Succeeded").await;
    assert_eq!(team.logs("lacking"), "there\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_fails_its_liveness_probe_is_started_again() {
    let cluster = Cluster::shared().await;
    let team = Team::new(cluster.connection(), "liveness").await;
    let probe = json!({"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1, "failureThreshold": 2});
    let container = json!({
        "name": "server",
        "image": "sample-server",
        "startupProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "livenessProbe": probe,
        "readinessProbe": probe,
    });
    team.apply(&[pod("sick", json!({"containers": [container]}))]).await;
    let pod = team.ready("pod/sick").await;
    let address = format!("{}:8000", pod["status"]["podIP"].as_str().unwrap());
    assert_eq!(ask(&address, "POST", "/fail").unwrap().0, 503);
    let pod = team
        .eventually("a restart after which it is ready", || {
            let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].clone();
            Some(team.get("pod/sick")).filter(|pod| is_ready(pod) && restarts(pod) == 1)
        })
        .await;
    // The server handles SIGTERM, so it ends well; it was the probe that ended it.
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 0);
    team.event("Liveness probe failed").await;
    assert_eq!(ask(&address, "GET", "/").unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_stands_beside_fake_ones_and_takes_only_pods_that_ask_for_it() {
    let cluster = Cluster::shared().await;
    let team = Team::new(cluster.connection(), "beside").await;
    nodes::create(cluster.connection(), &nodes::fleet()).await.unwrap();
    let gpu = json!({"limits": {"nvidia.com/gpu": "1"}});
    let container = |image: &str| json!({"name": "main", "image": image, "resources": gpu});
    let tolerates_gpus = json!([{"key": "nvidia.com/gpu", "operator": "Exists"}]);
    team.apply(&[
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pictured"},
            "spec": {"containers": [container("example.com/any")], "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"},
                "tolerations": tolerates_gpus},
        }),
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kept-off"},
            "spec": {"containers": [container("shell")], "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-Local"},
                "tolerations": tolerates_gpus},
        }),
        pod("real", json!({"containers": [{"name": "main", "image": "sample-server", "resources": gpu}]})),
    ])
    .await;
    let pictured = team.ready("pod/pictured").await;
    let real = team.ready("pod/real").await;
    let second = |pod: &Value| pod["status"]["podIP"].as_str().unwrap().split('.').nth(1).unwrap().to_owned();
    let slot = cluster.connection().slot();
    assert_eq!((second(&pictured), second(&real)), ((65 + 2 * slot).to_string(), (64 + 2 * slot).to_string()));
    assert_eq!(real["spec"]["nodeName"], "local");
    let refusal = team
        .eventually("the refusal of the pod without toleration", || {
            let scheduled = condition(&team.get("pod/kept-off"), "PodScheduled");
            (scheduled["status"] == "False").then(|| scheduled["message"].to_string())
        })
        .await;
    assert!(refusal.contains("untolerated taint"), "{refusal}");
    let node = team.get("node/local");
    assert!(is_ready(&node), "{node}");
    assert_eq!(node["status"]["allocatable"]["nvidia.com/gpu"], "64");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_ends_with_the_node_and_the_next_one_goes_on() {
    let Cluster { node, control_plane } = Cluster::start().await;
    let connection = control_plane.connection();
    let team = Team::new(connection, "ends").await;
    let main = shell("main", "setsid sleep 4711.75 & echo started; exec sleep 4711.5");
    team.apply(&[pod("sleeper", json!({"containers": [main]}))]).await;
    team.ready("pod/sleeper").await;
    team.eventually("both processes", || (processes_with("sleep 4711.").len() == 2).then_some(())).await;

    processes::signal(node.pid().unwrap(), Signal::KILL);
    team.eventually("the end of both processes", || processes_with("sleep 4711.").is_empty().then_some(())).await;
    drop(node);

    let node = start_node(connection).await;
    let pod = team
        .eventually("the pod to run again", || {
            Some(team.get("pod/sleeper")).filter(|pod| is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1)
        })
        .await;
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"], "ContainerStatusUnknown");
    team.eventually("both processes", || (processes_with("sleep 4711.").len() == 2).then_some(())).await;

    node.stop().await;
    assert!(processes_with("sleep 4711.").is_empty(), "{:?}", processes_with("sleep 4711."));
    let directory = connection.directory().to_owned();
    control_plane.stop().unwrap();
    assert!(processes_with(&directory.join("local-node").display().to_string()).is_empty());
}
