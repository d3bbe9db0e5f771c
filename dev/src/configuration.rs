//! What kwokctl and the API server are told.

use serde_json::{Value, json};

use crate::binaries::Binaries;
use crate::error::{Error, Result};
use crate::slot::Slot;

/// Our API group: of its objects the audit log keeps the bodies of writes.
const GROUP: &str = "quartermaster.dev";

/// The label of nodes that kwok plays. A node without it is left to whoever posts its status.
pub const KWOK_NODE_LABEL: (&str, &str) = ("type", "kwok");

/// An address for documentation (RFC 5737), which the API server advertises in the Endpoints of the Service
/// `kubernetes`. It listens on loopback alone, and Endpoints refuse loopback addresses; without an address given, it
/// would take that of the machine's default route, and refuse to start on a machine that has none.
const ADVERTISED_ADDRESS: &str = "192.0.2.1";

/// Which requests the audit log keeps: every request, reads too, of every ServiceAccount outside `kube-system`, and
/// nothing else. Bodies only for writes of our own group, since others may hold secrets.
pub fn audit_policy() -> Result<String> {
    render(
        "the audit policy",
        &json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            // One line a request: when it was answered (and for a watch also when it began to be).
            "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
                {
                    "level": "RequestResponse",
                    "userGroups": ["system:serviceaccounts"],
                    "verbs": ["create", "update", "patch", "delete", "deletecollection"],
                    "resources": [{"group": GROUP}],
                },
                {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
            ],
        }),
    )
}

/// The configuration of kwokctl for one slot.
pub fn kwokctl(slot: &Slot, binaries: &Binaries) -> Result<String> {
    let ports = slot.ports();
    let argument = |key: &str, value: &str| json!({"key": key, "value": value});
    let replaced = |key: &str, value: &str| json!({"key": key, "value": value, "override": true});
    render(
        "the configuration of kwokctl",
        &json!({
            "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
            "kind": "KwokctlConfiguration",
            "options": {
                "runtime": "binary",
                "bindAddress": "127.0.0.1",
                "etcdBinary": binaries.path("etcd")?,
                "kubeApiserverBinary": binaries.path("kube-apiserver")?,
                "kubeControllerManagerBinary": binaries.path("kube-controller-manager")?,
                "kubeSchedulerBinary": binaries.path("kube-scheduler")?,
                "kwokControllerBinary": binaries.path("kwok")?,
                "kubectlBinary": binaries.path("kubectl")?,
                "kubeAuditPolicy": slot.directory().join("audit-policy.yaml"),
                "etcdPort": ports.etcd,
                "etcdPeerPort": ports.etcd_peer,
                "kubeApiserverPort": ports.api_server,
                "kubeControllerManagerPort": ports.controller_manager,
                "kubeSchedulerPort": ports.scheduler,
                "kwokControllerPort": ports.kwok,
            },
            "componentsPatches": [
                // The data lives as long as a test run: waiting for the disk would buy nothing.
                {"name": "etcd", "extraArgs": [argument("unsafe-no-fsync", "true")]},
                {"name": "kube-apiserver", "extraArgs": [
                    // Off by default, on in OpenShift: stricter, so that we learn of missing rights here.
                    argument("enable-admission-plugins", "OwnerReferencesPermissionEnforcement"),
                    argument("advertise-address", ADVERTISED_ADDRESS),
                    // As kubeadm has it. The API server's own default of 10.0.0.0/24 has no room for 255 Services.
                    argument("service-cluster-ip-range", "10.96.0.0/12"),
                    // 0: one file that is never rotated.
                    argument("audit-log-maxsize", "0"),
                ]},
                // The defaults of 20 and 30 requests per second only slow down tests with many objects.
                {"name": "kube-controller-manager", "extraArgs": [
                    argument("kube-api-qps", "500"),
                    argument("kube-api-burst", "1000"),
                ]},
                {"name": "kube-scheduler", "extraArgs": [
                    argument("kube-api-qps", "500"),
                    argument("kube-api-burst", "1000"),
                ]},
                {"name": "kwok-controller", "extraArgs": [
                    // kwokctl passes true; both at once make kwok exit while kwokctl reports success.
                    replaced("manage-all-nodes", "false"),
                    argument("manage-nodes-with-label-selector", &format!("{}={}", KWOK_NODE_LABEL.0, KWOK_NODE_LABEL.1)),
                    argument("cidr", &format!("{}/16", slot.kwok_pod_network_gateway())),
                ]},
            ],
        }),
    )
}

fn render(what: &'static str, value: &Value) -> Result<String> {
    serde_saphyr::to_string(value).map_err(|source| Error::Render { what, source: Box::new(source) })
}
