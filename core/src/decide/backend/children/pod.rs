//! The pod template of a self-hosted model.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, Lifecycle, LifecycleHandler, PodSecurityContext, PodSpec, PodTemplateSpec,
    SeccompProfile, SecurityContext, SleepAction,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    BuildError, CONTAINER, PORT, PORT_NAME, Plan, Subject as _, child_name, environment, labels, placement, probes, resources,
    volumes,
};
use crate::decide::backend::arguments::command;
use crate::decide::backend::clocks::{Clocks, ENDPOINT_REMOVAL_SECONDS};

/// User of the process: the number that vLLM's own image gives to its user without root's rights (docker/Dockerfile,
/// uid 2000 in group 0; vllm-project/vllm#40275). Images without that user work too: `USER` and `HOME` are set.
const USER_ID: i64 = 2000;

/// The pod template, before any patch.
pub(super) fn template(plan: &Plan<'_>, clocks: &Clocks) -> Result<PodTemplateSpec, BuildError> {
    let volumes = volumes::of(plan)?;
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(plan.image.to_owned()),
        command: Some(vec!["vllm".to_owned(), "serve".to_owned()]),
        args: Some(command::command(plan.vllm, plan.name, &plan.choice.sizing)?),
        env: Some(environment::of(plan, clocks)),
        ports: Some(vec![port()]),
        resources: Some(resources::of(plan, volumes.local_disk)),
        volume_mounts: Some(volumes.mounts),
        startup_probe: Some(probes::startup(clocks)),
        liveness_probe: Some(probes::liveness()),
        readiness_probe: Some(probes::readiness()),
        // vLLM drains by itself after SIGTERM, but the endpoint is removed at the same moment as SIGTERM is sent: the
        // sleep lets requests that are still routed here find a server that accepts them.
        lifecycle: Some(sleep_before_end(ENDPOINT_REMOVAL_SECONDS)),
        // All that vLLM, PyTorch, Triton and FlashInfer write is below HOME, /tmp and /dev/shm, which are volumes.
        security_context: Some(restricted()),
        // The end of the log is the only trace of why an engine did not start that needs no right to read logs.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    };
    let accelerator = plan.vllm.accelerator.as_ref();
    Ok(PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels(plan.engine().application(), plan.name)), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            containers: vec![container],
            volumes: Some(volumes.volumes),
            affinity: placement::affinity(&plan.choice.placement),
            node_selector: placement::node_selector(accelerator),
            tolerations: Some(placement::tolerations(&plan.choice.placement, accelerator)),
            runtime_class_name: accelerator.and_then(|accelerator| accelerator.runtime_class_name.clone()),
            service_account_name: Some(child_name(plan.name)),
            automount_service_account_token: Some(false),
            // A Service named `vllm` would set VLLM_PORT to a URI, which ends vLLM at once (vllm-project/vllm#34199).
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(i64::try_from(clocks.termination_grace_period()).unwrap_or(i64::MAX)),
            security_context: Some(unprivileged()),
            ..PodSpec::default()
        }),
    })
}

/// The port that the Service and the probes find by its name.
pub(super) fn port() -> ContainerPort {
    ContainerPort {
        name: Some(PORT_NAME.to_owned()),
        container_port: i32::from(PORT),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

/// Seconds between the decision to end a container and SIGTERM.
pub(super) fn sleep_before_end(seconds: u64) -> Lifecycle {
    let sleep = SleepAction { seconds: i64::try_from(seconds).unwrap_or(i64::MAX) };
    Lifecycle { pre_stop: Some(LifecycleHandler { sleep: Some(sleep), ..LifecycleHandler::default() }), ..Lifecycle::default() }
}

/// What a container may do: nothing that Pod Security's level `restricted` forbids, and it writes to volumes alone.
pub(super) fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

/// Who the processes of a pod are.
pub(super) fn unprivileged() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER_ID),
        fs_group: Some(USER_ID),
        // Without it the kubelet changes the owner of every file of a large cache before each start.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}
