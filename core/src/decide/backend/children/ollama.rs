//! The objects of a model that Ollama serves.
//!
//! The model is pulled by an init container, which runs a server of its own for as long as that takes: Ollama's client pulls
//! through a server, and the image has both. So the container that serves never runs without the model, a pull that fails ends
//! with its cause in the pod's status and is begun again by the kubelet where it stopped, and no probe's patience has to be as
//! long as a download. A hook after the start of the serving container would hold up the kubelet's work on the pod for as long,
//! and its failures say nothing.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, ExecAction, PodSpec, PodTemplateSpec, Probe, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::environment::value;
use super::volumes::CACHE_PATH;
use super::{
    BuildError, PORT, Subject, child_name, deployment, labels, network_policy, placement, pod, pod_disruption_budget, probes,
    resources, service, service_account, volumes,
};
use crate::api::ollama::OllamaSpec;
use crate::decide::backend::choice::Choice;
use crate::decide::backend::clocks::{Clocks, ENDPOINT_REMOVAL_SECONDS};
use crate::decide::backend::engine::Engine;
use crate::decide::backend::facts::Settings;
use crate::decide::decision::Child;

/// Name of the container that serves.
pub const CONTAINER: &str = "ollama";
/// Name of the init container that pulls the model.
pub const PULL_CONTAINER: &str = "pull";

/// Pulls the model that is its first argument, unless the cache has it: a restart asks no registry for what is there, and changes
/// no version. The shell is process 1 of its container, which gets SIGTERM only with a trap; all else ends with it.
const PULL: &str = r#"trap 'exit 143' TERM
ollama serve & server=$!
until ollama list >/dev/null 2>&1; do kill -0 "$server" || exit 1; sleep 1; done
ollama show "$0" >/dev/null 2>&1 && exit
ollama pull "$0" & wait $!
"#;

/// Seconds between two startup probes.
const STARTUP_PERIOD_SECONDS: i32 = 5;
/// Startup probes that may fail: 10 minutes, in which the server looks for accelerators. The model is there already.
const STARTUP_ATTEMPTS: i32 = 120;

/// Everything that the children of one backend with Ollama depend on. Equal plans make equal children.
#[derive(Clone, Debug)]
pub struct OllamaPlan<'a> {
    /// Name of the backend.
    pub name: &'a str,
    /// Namespace of the backend and of its children.
    pub namespace: &'a str,
    /// Uid of the backend, for the owner references.
    pub uid: &'a str,
    /// `spec.ollama` of the backend.
    pub ollama: &'a OllamaSpec,
    /// What was chosen.
    pub choice: &'a Choice,
    /// Replicas that are wanted.
    pub replicas: u32,
    /// Replicas that a rollout may take away before new ones answer. 0: none, and the new pod starts first.
    pub max_unavailable: u32,
    /// The image of the containers.
    pub image: &'a str,
    /// The operator's configuration.
    pub settings: &'a Settings,
}

impl Subject for OllamaPlan<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn namespace(&self) -> &str {
        self.namespace
    }

    fn uid(&self) -> &str {
        self.uid
    }

    fn replicas(&self) -> u32 {
        self.replicas
    }

    fn engine(&self) -> Engine {
        Engine::Ollama
    }

    fn settings(&self) -> &Settings {
        self.settings
    }
}

/// Every child of a backend with Ollama, in the order in which they are applied: who may connect to its pods is settled before there
/// are any. There is no Secret, since Ollama asks for no key.
///
/// # Errors
///
/// A cache that the configuration does not offer.
pub fn all(plan: &OllamaPlan<'_>) -> Result<Vec<Child>, BuildError> {
    let mut children = vec![service_account::build(plan)?];
    children.extend(network_policy::build(plan)?);
    children.extend([service::build(plan)?, build_deployment(plan)?]);
    children.extend(pod_disruption_budget::build(plan)?);
    Ok(children)
}

/// The Deployment `<backend>-backend`.
///
/// # Errors
///
/// A cache that the configuration does not offer.
pub fn build_deployment(plan: &OllamaPlan<'_>) -> Result<Child, BuildError> {
    let clocks = Clocks::of_ollama();
    deployment::of_template(plan, plan.choice, plan.max_unavailable, &clocks, template(plan, &clocks)?)
}

fn template(plan: &OllamaPlan<'_>, clocks: &Clocks) -> Result<PodTemplateSpec, BuildError> {
    let cache = volumes::cache(plan.ollama.cache.as_ref(), Engine::Ollama, plan.settings, || None)?;
    let resources = container_resources(plan, volumes::local_disk(&cache));
    let model = plan.ollama.model.clone();
    let container = |name: &str| Container {
        name: name.to_owned(),
        image: Some(plan.image.to_owned()),
        volume_mounts: Some(vec![volumes::mount("cache", CACHE_PATH), volumes::mount("tmp", "/tmp")]),
        security_context: Some(pod::restricted()),
        // The end of the log is the only trace of why a pull failed that needs no right to read logs.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    };
    let pull = Container {
        command: Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), PULL.to_owned()]),
        args: Some(vec![model.clone()]),
        env: Some(environment(plan, false)),
        resources: Some(without(resources.clone(), &plan.choice.placement.resource_name)),
        ..container(PULL_CONTAINER)
    };
    let server = Container {
        command: Some(vec!["ollama".to_owned(), "serve".to_owned()]),
        env: Some(environment(plan, plan.choice.sizing.gpus_per_replica > 0)),
        ports: Some(vec![pod::port()]),
        resources: Some(resources),
        startup_probe: Some(has_model(model)),
        liveness_probe: Some(probes::probe(plan.engine(), 10, 10, 6)),
        readiness_probe: Some(probes::probe(plan.engine(), 5, 5, 3)),
        // Ollama cuts what runs as soon as it gets SIGTERM: calls have to end before that.
        lifecycle: Some(pod::sleep_before_end(ENDPOINT_REMOVAL_SECONDS + clocks.drain)),
        ..container(CONTAINER)
    };
    let accelerator = plan.ollama.accelerator.as_ref();
    let tolerations = placement::tolerations(&plan.choice.placement, accelerator);
    Ok(PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels(plan.engine().application(), plan.name)), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            init_containers: Some(vec![pull]),
            containers: vec![server],
            volumes: Some(vec![cache, volumes::temporary()]),
            affinity: placement::affinity(&plan.choice.placement),
            node_selector: placement::node_selector(accelerator),
            tolerations: (!tolerations.is_empty()).then_some(tolerations),
            runtime_class_name: accelerator.and_then(|accelerator| accelerator.runtime_class_name.clone()),
            service_account_name: Some(child_name(plan.name)),
            automount_service_account_token: Some(false),
            // A Service's name must not decide which variables there are.
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(i64::try_from(clocks.termination_grace_period()).unwrap_or(i64::MAX)),
            security_context: Some(pod::unprivileged()),
            ..PodSpec::default()
        }),
    })
}

/// Whether the server has the model. It answers long before, and for any other model.
fn has_model(model: String) -> Probe {
    Probe {
        exec: Some(ExecAction { command: Some(vec!["ollama".to_owned(), "show".to_owned(), model]) }),
        period_seconds: Some(STARTUP_PERIOD_SECONDS),
        timeout_seconds: Some(10),
        failure_threshold: Some(STARTUP_ATTEMPTS),
        ..Probe::default()
    }
}

fn environment(plan: &OllamaPlan<'_>, accelerators: bool) -> Vec<EnvVar> {
    let mut environment = vec![
        // Here the server makes a key pair, by which registries know it. It belongs to one pod.
        value("HOME", "/tmp"),
        value("OLLAMA_HOST", &format!("0.0.0.0:{PORT}")),
        value("OLLAMA_MODELS", &format!("{CACHE_PATH}/ollama")),
        // A server that starts would delete what another one has not yet finished to pull into the same cache.
        value("OLLAMA_NOPRUNE", "1"),
        // Nothing that is asked here is answered at ollama.com.
        value("OLLAMA_NO_CLOUD", "1"),
    ];
    environment.extend(plan.ollama.keep_alive.as_ref().map(|time| value("OLLAMA_KEEP_ALIVE", &time.0)));
    environment.extend(plan.ollama.context_length.map(|tokens| value("OLLAMA_CONTEXT_LENGTH", &tokens.to_string())));
    if !accelerators {
        // The image says `all`, which shows every accelerator of the node to a pod that has asked for none.
        environment.push(value("NVIDIA_VISIBLE_DEVICES", "void"));
    }
    environment
}

/// Where the spec is silent: a core, 2 GiB for the server itself, and what an emptyDir with the cache may grow to.
fn container_resources(plan: &OllamaPlan<'_>, local_disk: Option<Quantity>) -> ResourceRequirements {
    let mut defaults = BTreeMap::from([("cpu", Quantity("1".to_owned())), ("memory", Quantity("2Gi".to_owned()))]);
    defaults.extend(local_disk.map(|size| ("ephemeral-storage", size)));
    resources::combined(plan.ollama.resources.as_ref(), defaults, plan.choice)
}

/// The same without the accelerators: a pull needs none. Init containers and others run one after the other, so that what both
/// ask for counts once.
fn without(mut resources: ResourceRequirements, resource_name: &str) -> ResourceRequirements {
    for amounts in [&mut resources.requests, &mut resources.limits].into_iter().flatten() {
        amounts.remove(resource_name);
    }
    resources.limits = resources.limits.filter(|limits| !limits.is_empty());
    resources
}

#[cfg(test)]
#[path = "ollama_tests.rs"]
mod tests;
