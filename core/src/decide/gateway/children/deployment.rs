//! The Deployment of a gateway.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, KeyToPath,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::config_map::{self, CONFIGURATION_KEY, PLAN_KEY};
use super::{
    ADMIN_PORT, BuildError, CERTIFICATE_NAME, EXCHANGE_PORT, Gateway, NAME, PLAN_NAME, PORT, child, labels, metadata, selector,
};
use crate::decide::decision::Child;

/// Name of the container.
pub const CONTAINER: &str = "gateway";
/// Name of the port on which calls are answered, and of the Service's.
pub const PORT_NAME: &str = "http";
const EXCHANGE_PORT_NAME: &str = "exchange";
const ADMIN_PORT_NAME: &str = "admin";
/// Seconds between SIGTERM and the end: a stream may take as long, and has 10 s less.
pub const GRACE_PERIOD_SECONDS: i64 = 630;
/// The annotation of the pods by which another configuration makes new ones.
const CONFIGURATION_HASH: &str = "quartermaster.dev/configuration-hash";
/// Old ReplicaSets that are kept for `kubectl rollout undo`.
const REVISION_HISTORY_LIMIT: i32 = 3;
/// User and group of the process: those of the operator's pods, which run the same image.
const USER_ID: i64 = 65_532;

const PLAN_PATH: &str = "/etc/quartermaster/gateway";
const SECRETS_PATH: &str = "/etc/quartermaster/secrets";
const CERTIFICATE_PATH: &str = "/etc/quartermaster/certificate";

/// The Deployment `quartermaster-gateway`.
///
/// # Errors
///
/// None that depends on the gateway.
pub fn build(gateway: &Gateway<'_>) -> Result<Child, BuildError> {
    let deployment = Deployment {
        metadata: metadata(gateway, NAME),
        spec: DeploymentSpec {
            replicas: Some(i32::try_from(gateway.settings.replicas).unwrap_or(i32::MAX)),
            selector: LabelSelector { match_labels: Some(selector()), ..LabelSelector::default() },
            // No pod ends before another one answers.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            revision_history_limit: Some(REVISION_HISTORY_LIMIT),
            template: template(gateway)?,
            ..DeploymentSpec::default()
        },
        status: None,
    };
    child("Deployment", NAME, &deployment)
}

fn template(gateway: &Gateway<'_>) -> Result<PodTemplateSpec, BuildError> {
    let settings = gateway.settings;
    let mut annotations = settings.pod_annotations.clone();
    annotations.insert(CONFIGURATION_HASH.to_owned(), config_map::configuration_hash(gateway)?);
    Ok(PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels()), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            containers: vec![container(gateway)],
            volumes: Some(volumes()),
            image_pull_secrets: stated(&settings.image_pull_secrets),
            node_selector: (!settings.node_selector.is_empty()).then(|| settings.node_selector.clone()),
            tolerations: stated(&settings.tolerations),
            topology_spread_constraints: Some(vec![spread("topology.kubernetes.io/zone"), spread("kubernetes.io/hostname")]),
            service_account_name: Some(NAME.to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_PERIOD_SECONDS),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER_ID),
                run_as_group: Some(USER_ID),
                // The files of the Secrets are readable for this group only.
                fs_group: Some(USER_ID),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            ..PodSpec::default()
        }),
    })
}

/// A list that says something.
fn stated<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn container(gateway: &Gateway<'_>) -> Container {
    let args = [
        "gateway".to_owned(),
        format!("--plan={PLAN_PATH}/{PLAN_KEY}"),
        format!("--secrets={SECRETS_PATH}"),
        format!("--certificate={CERTIFICATE_PATH}"),
        format!("--configuration={PLAN_PATH}/{CONFIGURATION_KEY}"),
        "--log-format=json".to_owned(),
    ];
    Container {
        name: CONTAINER.to_owned(),
        image: Some(gateway.image.to_owned()),
        args: Some(args.into()),
        env: Some(vec![of_pod("POD_NAME", "metadata.name"), of_pod("POD_IP", "status.podIPs")]),
        ports: Some(vec![port(PORT_NAME, PORT), port(EXCHANGE_PORT_NAME, EXCHANGE_PORT), port(ADMIN_PORT_NAME, ADMIN_PORT)]),
        resources: Some(gateway.settings.resources.clone().unwrap_or_else(resources)),
        volume_mounts: Some(vec![mount("plan", PLAN_PATH), mount("secrets", SECRETS_PATH), mount("certificate", CERTIFICATE_PATH)]),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        readiness_probe: Some(probe("/readyz", 5, 3)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        // Why it ended can be read without a right to read logs. Its last lines are no calls: those go to standard output, too, but
        // hold no prompt.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// What a replica asks of its node where its users set nothing. It takes 25 MiB, and at most 32 MiB more for each large prompt; there
/// is no limit, for its own bounds are known better than a killed process helps anybody.
fn resources() -> ResourceRequirements {
    let requests =
        BTreeMap::from([("cpu".to_owned(), Quantity("100m".to_owned())), ("memory".to_owned(), Quantity("128Mi".to_owned()))]);
    ResourceRequirements { requests: Some(requests), ..ResourceRequirements::default() }
}

fn of_pod(name: &str, field: &str) -> EnvVar {
    let field = ObjectFieldSelector { field_path: field.to_owned(), api_version: None };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}

fn port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(ADMIN_PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), read_only: Some(true), ..VolumeMount::default() }
}

fn volumes() -> Vec<Volume> {
    let item = |key: &str| KeyToPath { key: key.to_owned(), path: key.to_owned(), ..KeyToPath::default() };
    let plan = ConfigMapVolumeSource {
        name: PLAN_NAME.to_owned(),
        items: Some(vec![item(PLAN_KEY), item(CONFIGURATION_KEY)]),
        ..ConfigMapVolumeSource::default()
    };
    let secret = |name: &str| SecretVolumeSource {
        secret_name: Some(name.to_owned()),
        // For the group: 0440.
        default_mode: Some(0o440),
        ..SecretVolumeSource::default()
    };
    vec![
        Volume { name: "plan".to_owned(), config_map: Some(plan), ..Volume::default() },
        Volume { name: "secrets".to_owned(), secret: Some(secret(NAME)), ..Volume::default() },
        Volume { name: "certificate".to_owned(), secret: Some(secret(CERTIFICATE_NAME)), ..Volume::default() },
    ]
}

/// Replicas of the same template stand apart, as far as there is room.
fn spread(topology: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: topology.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector { match_labels: Some(selector()), ..LabelSelector::default() }),
        match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
        ..TopologySpreadConstraint::default()
    }
}
