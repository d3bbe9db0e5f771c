//! What the control plane promises to everything that is tested against it.
//! Each test starts control planes of its own, since they are about starting and stopping.

// clippy.toml allows this in test functions, but not in what they share.
#![allow(clippy::unwrap_used)]
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use quartermaster_dev::{Connection, ControlPlane, Error, Options, PATIENCE, account, nodes, processes, slot};
use serde_json::Value;

const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Waits until `probe` yields something, or fails with what `explain` tells.
fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>, explain: impl Fn() -> String) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}:\n{}", explain());
        thread::sleep(LOOK_AGAIN_AFTER);
    }
}

/// What one control plane has on this machine. Another run may claim its slot as soon as it is free, so neither the
/// directory's name nor a process in it proves that something was left: these processes and this file do, which no other
/// run and no other test has.
struct Traces {
    directory: PathBuf,
    processes: Vec<processes::Process>,
    mark: PathBuf,
}

impl Traces {
    fn of(directory: &Path) -> Self {
        static MARKS: AtomicU32 = AtomicU32::new(0);
        let number = MARKS.fetch_add(1, Ordering::Relaxed);
        let mark = directory.join(format!("mark-of-a-test-{}-{number}", std::process::id()));
        fs::write(&mark, "").unwrap();
        Self { directory: directory.to_owned(), processes: processes::of_directory(directory), mark }
    }

    fn assert_gone(&self) {
        let alive = processes::of_directory(&self.directory);
        let left: Vec<_> = self.processes.iter().filter(|process| alive.contains(process)).collect();
        assert!(left.is_empty(), "left running: {left:?}");
        assert!(!self.mark.exists(), "the directory was left");
    }
}

fn kubectl(connection: &Connection, kubeconfig: &Path, arguments: &[&str]) -> Output {
    Command::new(connection.kubectl()).arg("--kubeconfig").arg(kubeconfig).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)).trim().to_owned()
}

/// Asks as administrator.
fn get(connection: &Connection, arguments: &[&str]) -> String {
    text(&kubectl(connection, connection.kubeconfig(), arguments))
}

fn pod(name: &str, gpus: u32, node_selector: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default}}
spec:
  nodeSelector: {node_selector}
  tolerations: [{{key: nvidia.com/gpu, operator: Exists}}]
  containers:
  - name: engine
    image: example.com/engine:1
    resources: {{limits: {{nvidia.com/gpu: '{gpus}'}}}}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_have_their_own_servers_nodes_and_addresses() {
    let (first, second) = tokio::join!(ControlPlane::start(Options::default()), ControlPlane::start(Options::default()));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_ne!(first.connection().slot(), second.connection().slot());
    nodes::create(first.connection(), &nodes::fleet()).await.unwrap();

    assert_eq!(get(first.connection(), &["get", "nodes", "-o", "name"]).lines().count(), nodes::fleet().len());
    assert_eq!(get(second.connection(), &["get", "nodes"]), "No resources found");

    // The scheduler places, and refuses, by the GPUs of the nodes; kwok gives addresses of the slot's range.
    let connection = first.connection();
    let l4 = "{nvidia.com/gpu.product: NVIDIA-L4}";
    let mut manifests = [pod("fits", 4, l4), pod("too-large", 5, l4)].join("---\n");
    manifests.push_str(&format!("---\n{}", pod("anywhere", 8, "{}")));
    account::apply(connection, &manifests).await.unwrap();

    let describe = || get(connection, &["describe", "pods"]);
    let field = |name: &str, path: &str| get(connection, &["get", "pod", name, "-o", &format!("jsonpath={path}")]);
    let address = eventually(
        "an address of the pod that fits",
        || Some(field("fits", "{.status.podIP}")).filter(|address| !address.is_empty()),
        describe,
    );
    assert_eq!(field("fits", "{.spec.nodeName}"), "l4-0");
    assert!(address.starts_with(&format!("127.{}.", 65 + 2 * connection.slot())), "{address}");
    eventually(
        "the refusal of the pod that is too large",
        || {
            Some(field("too-large", "{.status.conditions[?(@.type=='PodScheduled')].message}"))
                .filter(|message| message.contains("Insufficient nvidia.com/gpu"))
        },
        describe,
    );
    assert_eq!(field("too-large", "{.spec.nodeName}"), "");
    let somewhere = eventually(
        "a node for the pod that fits in several places",
        || Some(field("anywhere", "{.spec.nodeName}")).filter(|node| !node.is_empty()),
        describe,
    );
    assert!(["h100-0", "h100-1", "a100-mig-single"].contains(&somewhere.as_str()), "{somewhere}");

    for control_plane in [first, second] {
        let traces = Traces::of(control_plane.connection().directory());
        assert_eq!(traces.processes.len(), 5);
        control_plane.stop().unwrap();
        traces.assert_gone();
    }
}

const RULES: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: samples.quartermaster.dev}
spec:
  group: quartermaster.dev
  scope: Namespaced
  names: {kind: Sample, plural: samples, singular: sample}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: operator, namespace: tenant}
rules:
- {apiGroups: [''], resources: [secrets], verbs: [get, create, patch]}
- {apiGroups: [quartermaster.dev], resources: [samples], verbs: [get, create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: operator, namespace: tenant}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: operator}
subjects: [{kind: ServiceAccount, name: operator, namespace: tenant}]
";

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_holds_every_request_of_the_account_and_nothing_else() {
    let control_plane = ControlPlane::start(Options::default()).await.unwrap();
    let connection = control_plane.connection();
    let kubeconfig = account::kubeconfig_of_service_account(connection, "tenant", "operator", RULES).await.unwrap();
    eventually(
        "the custom resource to be served",
        || get(connection, &["get", "samples", "-A"]).contains("No resources found").then_some(()),
        || get(connection, &["get", "crd", "-o", "yaml"]),
    );
    // What the administrator does must not appear.
    get(connection, &["create", "secret", "generic", "administrators", "--from-literal=key=hidden"]);

    let as_account = |arguments: &[&str]| text(&kubectl(connection, &kubeconfig, arguments));
    let refused = as_account(&["get", "pods", "-n", "tenant"]);
    assert!(refused.contains("Forbidden") && refused.contains("system:serviceaccount:tenant:operator"), "{refused}");
    assert!(as_account(&["create", "secret", "generic", "ours", "--from-literal=key=hidden"]).contains("created"));
    let manifest = connection.directory().join("sample.yaml");
    let sample =
        "{apiVersion: quartermaster.dev/v1, kind: Sample, metadata: {name: a, namespace: tenant}, spec: {visible: yes-indeed}}";
    fs::write(&manifest, sample).unwrap();
    assert!(as_account(&["apply", "--validate=false", "-f", &manifest.to_string_lossy()]).contains("created"));

    let log = || fs::read_to_string(connection.audit_log()).unwrap();
    // A line is written after the answer, so the last of our requests says when all are there.
    eventually("the last request in the log", || log().contains("\"resource\":\"samples\"").then_some(()), log);
    eventually(
        "the write of the custom resource in the log",
        || log().lines().any(|line| line.contains("\"verb\":\"create\"") && line.contains("yes-indeed")).then_some(()),
        log,
    );
    let events: Vec<Value> = log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in &events {
        assert_eq!(event["user"]["username"], "system:serviceaccount:tenant:operator", "{event}");
        assert_eq!(event["stage"], "ResponseComplete", "{event}");
    }
    let of = |verb: &str, resource: &str| {
        events
            .iter()
            .filter(|event| event["verb"] == verb && event["objectRef"]["resource"] == resource)
            .map(|event| (event["responseStatus"]["code"].clone(), event.get("requestObject").is_some()))
            .collect::<Vec<_>>()
    };
    assert_eq!(of("list", "pods"), [(403.into(), false)]);
    assert_eq!(of("create", "secrets"), [(201.into(), false)]);
    assert_eq!(of("get", "samples"), [(404.into(), false)]);
    assert_eq!(of("create", "samples"), [(201.into(), true)]);
    assert!(!log().contains("hidden") && !log().contains("aGlkZGVu"), "a secret is in the audit log");
    control_plane.stop().unwrap();
}

/// `with-cluster` around a command that leaves a process behind, once both run.
fn with_cluster() -> (Child, Traces) {
    static NOTES: AtomicU32 = AtomicU32::new(0);
    let number = NOTES.fetch_add(1, Ordering::Relaxed);
    let [note, output] = ["note", "output"].map(|name| {
        let path = std::env::temp_dir().join(format!("quartermaster-dev-{}-{name}-{number}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    });
    let script = format!("sleep 600 & echo \"$QUARTERMASTER_DIRECTORY\" > {0}.new; mv {0}.new {0}; wait", note.display());
    // A file is never full, as a pipe is that nobody reads.
    let mut child = Command::new(env!("CARGO_BIN_EXE_quartermaster-dev"))
        .args(["with-cluster", "--ready-within", &PATIENCE.as_secs().to_string(), "--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stderr(fs::File::create(&output).unwrap())
        .process_group(0)
        .spawn()
        .unwrap();
    let told = || fs::read_to_string(&output).unwrap();
    // It says itself why it does not come to the command, after its own patience.
    let deadline = Instant::now() + 2 * PATIENCE;
    let directory = loop {
        if let Ok(directory) = fs::read_to_string(&note) {
            break directory;
        }
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "with-cluster ended before the command ran: {ended:?}\n{}", told());
        assert!(Instant::now() < deadline, "waited in vain for the command to run:\n{}", told());
        thread::sleep(LOOK_AGAIN_AFTER);
    };
    fs::remove_file(note).unwrap();
    let directory = Path::new(directory.trim());
    // Five components, the shell, and what it left in the background, which may still be about to become another program.
    let processes = || processes::of_directory(directory);
    eventually("all processes", || (processes().len() == 7).then_some(()), || format!("{:?}\n{}", processes(), told()));
    fs::remove_file(&output).unwrap();
    (child, Traces::of(directory))
}

fn send(child: &Child, signal: rustix::process::Signal) {
    processes::signal(i32::try_from(child.id()).unwrap(), signal);
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    for (signal, code) in
        [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143), (rustix::process::Signal::HUP, 129)]
    {
        let (mut child, traces) = with_cluster();
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        traces.assert_gone();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_start_cleans_what_a_killed_run_has_left() {
    let (mut child, traces) = with_cluster();
    send(&child, rustix::process::Signal::KILL);
    child.wait().unwrap();

    let control_plane = ControlPlane::start(Options::default()).await.unwrap();
    traces.assert_gone();
    control_plane.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_control_plane_survives_other_starts_until_it_is_stopped_by_number() {
    let kept = ControlPlane::start(Options::default()).await.unwrap().keep().unwrap();
    let traces = Traces::of(kept.directory());
    ControlPlane::start(Options::default()).await.unwrap().stop().unwrap();
    assert_eq!(get(&kept, &["get", "--raw", "/readyz"]), "ok");
    assert!(slot::list().unwrap().contains(&(kept.slot(), slot::State::Kept)));

    let cleaned = slot::clean_where(|_| {}, |number, _| number == kept.slot()).unwrap();
    assert_eq!(cleaned, [kept.slot()]);
    traces.assert_gone();
}

/// Keeps the number of the slot in which a start is under way.
fn note_slot(slot: &OnceLock<u8>, line: &str) {
    if let Some(number) = line.strip_prefix("starting a control plane in slot ") {
        slot.set(number.parse().unwrap()).unwrap();
    }
}

/// Waits until the etcd of a start runs: the one that kwokctl has recorded, and not one that it asks for its version.
async fn etcd_of(slot: &OnceLock<u8>) -> (processes::Process, Traces) {
    loop {
        if let Some(number) = slot.get() {
            let slots = slot::cache_directory().unwrap().join("slots").canonicalize().unwrap();
            let traces = Traces::of(&slots.join(number.to_string()));
            let recorded = traces.directory.join(format!("clusters/quartermaster-{number}/pids/etcd.pid"));
            let recorded = fs::read_to_string(recorded).ok().and_then(|pid| pid.trim().parse().ok());
            let is_it = |process: &&processes::Process| process.program.ends_with("etcd") && Some(process.pid) == recorded;
            if let Some(etcd) = traces.processes.iter().find(is_it) {
                return (etcd.clone(), traces);
            }
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_given_up_leaves_nothing() {
    static SLOT: OnceLock<u8> = OnceLock::new();
    let report = |line: &str| note_slot(&SLOT, line);
    let (_, traces) = tokio::select! {
        started = ControlPlane::start(Options { report, ..Options::default() }) => panic!("not given up: {started:?}"),
        found = etcd_of(&SLOT) => found,
    };
    traces.assert_gone();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_component_has_ended_is_made_anew() {
    static SLOT: OnceLock<u8> = OnceLock::new();
    static STARTS: AtomicU32 = AtomicU32::new(0);
    let report = |line: &str| {
        if line.starts_with("starting a control plane") && STARTS.fetch_add(1, Ordering::SeqCst) == 0 {
            note_slot(&SLOT, line);
        }
    };
    let kill_etcd = async {
        let (etcd, traces) = etcd_of(&SLOT).await;
        processes::signal(etcd.pid, rustix::process::Signal::KILL);
        traces
    };
    let (started, traces) = tokio::join!(ControlPlane::start(Options { report, ..Options::default() }), kill_etcd);
    let started = started.unwrap();
    assert_eq!(STARTS.load(Ordering::SeqCst), 2);
    let alive = processes::of_directory(&traces.directory);
    assert!(traces.processes.iter().all(|process| !alive.contains(process)), "the first attempt runs on: {alive:?}");
    started.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_fails_as_soon_as_a_component_has_ended() {
    static SLOT: OnceLock<u8> = OnceLock::new();
    let report = |line: &str| note_slot(&SLOT, line);
    let kill_etcd = async {
        let (etcd, traces) = etcd_of(&SLOT).await;
        processes::signal(etcd.pid, rustix::process::Signal::KILL);
        traces
    };
    let began = Instant::now();
    let options = Options { report, attempts: 1, ..Options::default() };
    let (started, traces) = tokio::join!(ControlPlane::start(options), kill_etcd);
    let error = started.unwrap_err();
    assert!(matches!(&error, Error::RunComponent { component, .. } if component == "etcd"), "{error:?}");
    assert!(began.elapsed() < PATIENCE, "it has waited for what could not come");
    traces.assert_gone();
}
