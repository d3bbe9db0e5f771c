//! The Node object of the local node, and the signs of life that keep it ready.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::error::{Error, Result};
use crate::nodes;

/// The name of the node, in every control plane.
pub const NAME: &str = "local";
/// Keeps pods off the node that do not ask for it. Pods that tolerate GPU nodes are kept off too: there is no GPU.
pub const TAINT: &str = "dev.quartermaster.dev/local-node";
/// The port of the log server on the node's address: that of a kubelet.
pub(super) const LOG_PORT: u16 = 10_250;

const FIELD_MANAGER: &str = "quartermaster-local-node";
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// As the kubelet: a lease of 40 s, renewed every 10 s.
const LEASE_SECONDS: i32 = 40;
const RENEW_AFTER: Duration = Duration::from_secs(10);
/// The status of the node is told again every so many renewals, though it does not change.
const STATUS_EVERY: u32 = 6;

/// What the node offers: ample, since only the machine itself limits what runs.
pub(super) fn capacity() -> BTreeMap<String, Quantity> {
    let gpus = nodes::LOCAL_GPUS.to_string();
    [("cpu", "1000"), ("memory", "8Ti"), ("ephemeral-storage", "8Ti"), ("pods", "1000"), ("nvidia.com/gpu", gpus.as_str())]
        .map(|(name, quantity)| (name.to_owned(), Quantity(quantity.to_owned())))
        .into()
}

/// Creates the node, or takes it over from one that was killed, and tells that it is ready.
///
/// # Errors
///
/// When the API server refuses something.
pub(super) async fn register(client: &Client, address: Ipv4Addr) -> Result<()> {
    let mut labels = nodes::local_gpu_labels();
    for (key, value) in [("kubernetes.io/hostname", NAME), ("kubernetes.io/os", "linux"), ("kubernetes.io/arch", architecture())] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NAME, "labels": labels},
        "spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}]},
    });
    Api::<Node>::all(client.clone())
        .patch(NAME, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&node))
        .await
        .map_err(Error::api("apply the node local"))?;
    renew(client).await?;
    tell(client, address, Told::Begin).await
}

/// Keeps the node ready, for as long as it is polled.
pub(super) async fn stay_ready(client: &Client, address: Ipv4Addr, report: fn(&str)) {
    let mut renewals = 0_u32;
    loop {
        sleep(RENEW_AFTER).await;
        renewals = renewals.wrapping_add(1);
        let done = match renew(client).await {
            Ok(()) if renewals.is_multiple_of(STATUS_EVERY) => tell(client, address, Told::Again).await,
            done => done,
        };
        if let Err(error) = done {
            report(&error.chain());
        }
    }
}

/// Tells that the node has ended, so that its pods count as unready at once.
///
/// # Errors
///
/// When the API server does not take it; then the lease runs out after a while.
pub(super) async fn tell_the_end(client: &Client, address: Ipv4Addr) -> Result<()> {
    tell(client, address, Told::End).await
}

async fn renew(client: &Client) -> Result<()> {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NAME},
        "spec": {
            "holderIdentity": NAME,
            "leaseDurationSeconds": LEASE_SECONDS,
            // In microseconds, of which the type has exactly six digits.
            "renewTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
        },
    });
    Api::<Lease>::namespaced(client.clone(), LEASE_NAMESPACE)
        .patch(NAME, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&lease))
        .await
        .map(|_| ())
        .map_err(Error::api("renew the lease of the node local"))
}

/// When the status is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The node begins to be ready.
    Begin,
    /// It is still ready.
    Again,
    /// It is not ready any more.
    End,
}

async fn tell(client: &Client, address: Ipv4Addr, told: Told) -> Result<()> {
    let version = client.apiserver_version().await.map_err(Error::api("ask for the version of the API server"))?;
    Api::<Node>::all(client.clone())
        .patch_status(NAME, &PatchParams::default(), &Patch::Strategic(&status(address, told, &version)))
        .await
        .map(|_| ())
        .map_err(Error::api("tell the status of the node local"))
}

fn status(address: Ipv4Addr, told: Told, version: &Info) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |type_: &str, status: bool, reason: &str, message: &str| {
        let status = if status { "True" } else { "False" };
        let mut condition =
            json!({"type": type_, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now});
        // What a patch does not name stays.
        if let Some(members) = condition.as_object_mut().filter(|_| told != Told::Again) {
            members.insert("lastTransitionTime".to_owned(), json!(now));
        }
        condition
    };
    let ready = told != Told::End;
    let (reason, message) = if ready { ("KubeletReady", "the local node runs") } else { ("NodeEnded", "the local node has ended") };
    json!({"status": {
        "capacity": capacity(),
        "allocatable": capacity(),
        // No host name: the API server would look it up to fetch logs.
        "addresses": [{"type": "InternalIP", "address": address.to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": LOG_PORT}},
        "conditions": [
            condition("Ready", ready, reason, message),
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "nothing is limited here"),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "nothing is limited here"),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "nothing is limited here"),
        ],
        "nodeInfo": {
            "architecture": architecture(),
            "operatingSystem": "linux",
            "osImage": "this machine",
            "kernelVersion": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "kubeletVersion": version.git_version,
            "kubeProxyVersion": "",
            "containerRuntimeVersion": "processes://1",
            "bootID": "",
            "machineID": "",
            "systemUUID": "",
        },
    }})
}

/// The architecture in the words of Kubernetes.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
