//! A model served by vLLM: from the spec and the cluster to its children and its status. What holds for a model that Ollama serves
//! too stands here as well.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::accelerator::{self, Accelerator};
use super::arguments::extra;
use super::children::{self, Placement, Plan, deployment::INTENT_ANNOTATION};
use super::choice::{self, Choice, DEFAULT_IMAGE, Question, UPGRADE_ANNOTATION};
use super::clocks::Clocks;
use super::engine::{Engine, ServedModel};
use super::engine_health::{self, EngineHealth};
use super::facts::{Observation, Settings};
use super::model::resolve::{self, Resolution};
use super::model_source::ModelSource;
use super::outcome::Outcome;
use super::rollout::{self, Rollout};
use super::secrets;
use super::serving::Serving;
use super::sizing::{self, Cluster, Refusal, Request};
use crate::api::architecture::ModelArchitecture;
use crate::api::conditions::{reasons, types};
use crate::api::status::{InferenceBackendStatus, SizingStatus, Summary};
use crate::api::vllm::{UpgradeType, VllmSpec};
use crate::decide::conditions::Verdict;
use crate::decide::decision::{Child, Children};
use crate::decide::readiness::Readiness;
use crate::decide::short_hash;

/// What should exist for a self-hosted model.
pub fn decide(observation: &Observation, spec: &VllmSpec, now: Timestamp) -> Outcome {
    let name = observation.backend.metadata.name.as_deref().unwrap_or_default();
    let replicas = observation.backend.spec.replicas.unwrap_or(1);
    let status = shown(observation, Engine::Vllm, &spec.model, replicas);
    let mut outcome = Outcome::keep(Readiness::progressing(reasons::PROGRESSING, ""), status);
    let in_force = in_force(observation);
    let health = EngineHealth::of(observation, ServedModel::of_vllm(spec, name));
    let unreadable = health.as_ref().err().cloned();
    let health = health.unwrap_or_default();
    outcome.status.health.clone_from(&health.status);
    if let Some(problem) = problem_of_spec(spec, &observation.settings, in_force.as_ref()).or(unreadable) {
        outcome.verdicts.extend(in_force.as_ref().map(sized_as));
        outcome.verdicts.extend(served(observation, Engine::Vllm, replicas, &problem, &health));
        return with_choice(outcome, observation, problem, in_force.as_ref());
    }
    let secret = secrets::problem(&secrets::of_vllm(spec), &observation.secrets);
    let sized = match size(observation, spec, in_force.as_ref()) {
        Ok(sized) => sized,
        Err(mut not_chosen) => {
            // The hub is not asked without the token that the spec names: it is the Secret that is waited for.
            if let Some(problem) = secret.filter(|_| not_chosen.ready.reason == reasons::MODEL_FACTS_PENDING) {
                not_chosen = NotChosen::of(problem, false);
            }
            outcome.verdicts.push(not_chosen.verdict());
            outcome.verdicts.extend(served(observation, Engine::Vllm, replicas, &not_chosen.ready, &health));
            return with_choice(outcome, observation, not_chosen.ready, in_force.as_ref());
        }
    };
    outcome.verdicts.extend(sized.verdicts);
    let choice = sized.choice;
    outcome.status.sizing = Some(choice.sizing.clone());
    summarise(&mut outcome.status, &choice.sizing);
    // What the pods that run say of their caches is about the choice that they were made from.
    engine_health::observe_cache(&mut outcome.status, observation, &choice.sizing, in_force.as_ref() == Some(&choice));
    // The hub has handed out what runs: it is asked before other pods exist.
    let runs = in_force.as_ref().is_some_and(|running| running.sizing.inputs_hash == choice.sizing.inputs_hash);
    let access = resolve::refused_access(spec, &observation.hub).filter(|_| !runs);
    if let Some(problem) = secret.or_else(|| access.as_ref().and_then(problem_of_model)) {
        outcome.verdicts.extend(health.verdicts(serving(observation, Engine::Vllm, replicas, true).verdicts()));
        outcome.ready = problem;
        return outcome;
    }
    let made = match make(observation, spec, name, &choice, replicas, now) {
        Ok(made) => made,
        Err(error) => {
            if observation.deployment.is_some() {
                outcome.verdicts.extend(health.verdicts(serving(observation, Engine::Vllm, replicas, true).verdicts()));
            }
            outcome.ready = Readiness::stalled(reasons::INVALID_SPEC, error.to_string());
            return outcome;
        }
    };
    let serving = serving(observation, Engine::Vllm, replicas, made.current);
    outcome.verdicts.extend(health.verdicts(serving.verdicts()));
    outcome.ready = health.readiness(serving.readiness(made.progress_deadline));
    outcome.children = Children::Exactly(made.children);
    outcome.next = made.next;
    outcome
}

/// The status that does not depend on the choice.
pub(super) fn shown(observation: &Observation, engine: Engine, model: &str, replicas: u32) -> InferenceBackendStatus {
    let metadata = &observation.backend.metadata;
    let (name, namespace) = (metadata.name.as_deref().unwrap_or_default(), metadata.namespace.as_deref().unwrap_or_default());
    let deployment = observation.deployment.clone().unwrap_or_default();
    InferenceBackendStatus {
        replicas: Some(deployment.status_replicas),
        ready_replicas: Some(deployment.ready_replicas),
        selector: Some(children::selector_text(name)),
        endpoint: Some(children::service::endpoint(name, namespace)),
        summary: Some(Summary {
            model: Some(model.to_owned()),
            engine: Some(engine.name().to_owned()),
            gpus: None,
            replicas: Some(format!("{}/{replicas}", deployment.ready_replicas)),
            context_length: None,
            kv_cache_tokens: None,
        }),
        ..InferenceBackendStatus::default()
    }
}

/// The choice that the Deployment was made from.
pub(super) fn in_force(observation: &Observation) -> Option<Choice> {
    observation.deployment.as_ref().and_then(|deployment| children::deployment::choice_in_force(&deployment.annotations))
}

/// What exists stays, and the status goes on showing the choice that it was made from.
pub(super) fn with_choice(mut outcome: Outcome, observation: &Observation, ready: Readiness, in_force: Option<&Choice>) -> Outcome {
    if let Some(choice) = in_force {
        outcome.status.sizing = Some(choice.sizing.clone());
        summarise(&mut outcome.status, &choice.sizing);
        engine_health::observe_cache(&mut outcome.status, observation, &choice.sizing, true);
    }
    outcome.ready = ready;
    outcome
}

/// The conditions of a Deployment that goes on serving although nothing can be chosen for the spec as it is now.
pub(super) fn served(
    observation: &Observation,
    engine: Engine,
    replicas: u32,
    problem: &Readiness,
    health: &EngineHealth,
) -> Vec<Verdict> {
    if observation.deployment.is_none() {
        return Vec::new();
    }
    let mut verdicts = health.verdicts(serving(observation, engine, replicas, true).verdicts());
    verdicts.push(Verdict::unknown(types::UPDATE_AVAILABLE, problem.reason, "what would be chosen now is not known"));
    verdicts
}

/// The condition Sized for a choice.
pub(super) fn sized_as(choice: &Choice) -> Verdict {
    let derivation = choice.sizing.derivation.clone().unwrap_or_else(|| choice.sizing.summary());
    Verdict::holds(types::SIZED, reasons::SIZED, derivation)
}

pub(super) fn summarise(status: &mut InferenceBackendStatus, sizing: &SizingStatus) {
    if let Some(summary) = &mut status.summary {
        summary.gpus = Some(sizing.summary());
        summary.context_length = sizing.context_length;
        summary.kv_cache_tokens = sizing.kv_cache_tokens;
    }
}

/// What is wrong with the spec whatever the cluster: image, arguments, environment, resources, durations.
pub fn problem_of_spec(spec: &VllmSpec, settings: &Settings, in_force: Option<&Choice>) -> Option<Readiness> {
    if let Some(Err(error)) = spec.image.as_deref().map(children::image::check_image) {
        return Some(Readiness::stalled(reasons::INVALID_IMAGE, error.to_string()));
    }
    // Without an image in the spec, the one in force or the configured one will run, as the choice turns out.
    let images = match &spec.image {
        Some(image) => vec![image.as_str()],
        None => {
            let configured = settings.vllm.image.as_deref().unwrap_or(DEFAULT_IMAGE);
            in_force.and_then(|choice| choice.sizing.image.as_deref()).into_iter().chain([configured]).collect()
        }
    };
    if let Err(errors) = extra::check(&spec.extra_args, &images) {
        return Some(Readiness::stalled(reasons::INVALID_ARGUMENTS, joined(errors)));
    }
    if let Err(errors) = children::environment::check_environment(&spec.env) {
        return Some(Readiness::stalled(reasons::INVALID_ENVIRONMENT, joined(errors)));
    }
    Clocks::of(spec, &SizingStatus::default()).err().map(|error| Readiness::stalled(reasons::INVALID_SPEC, error.to_string()))
}

/// The image of a new choice: the spec's, else the configuration's, else that of this version.
pub fn image(spec: &VllmSpec, settings: &Settings) -> String {
    spec.image.clone().or_else(|| settings.vllm.image.clone()).unwrap_or_else(|| DEFAULT_IMAGE.to_owned())
}

fn joined(errors: Vec<impl ToString>) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A choice, with the conditions Sized and UpdateAvailable.
struct Chosen {
    choice: Choice,
    verdicts: Vec<Verdict>,
}

/// Why there is no choice.
struct NotChosen {
    ready: Readiness,
    /// Whether the model is known, so that it is certain that there is none.
    known: bool,
}

impl NotChosen {
    fn of(ready: Readiness, known: bool) -> Self {
        Self { ready, known }
    }

    /// The condition Sized.
    fn verdict(&self) -> Verdict {
        let ready = &self.ready;
        match self.known {
            true => Verdict::fails(types::SIZED, ready.reason, ready.message.clone()),
            false => Verdict::unknown(types::SIZED, ready.reason, ready.message.clone()),
        }
    }
}

/// Chooses, or keeps the choice in force.
fn size(observation: &Observation, spec: &VllmSpec, in_force: Option<&Choice>) -> Result<Chosen, NotChosen> {
    let resolution = resolve::resolve(spec, &observation.hub);
    let architecture = match &resolution {
        Resolution::Known { architecture, .. } | Resolution::Unknown { architecture, .. } => {
            Some(ModelArchitecture::clone(architecture))
        }
        _ => None,
    };
    let accelerators =
        accelerator::candidates(spec.accelerator.as_ref(), &observation.nodes, &observation.settings.accelerator_profiles);
    let empty = ModelArchitecture::default();
    let request = Request {
        architecture: architecture.as_ref().unwrap_or(&empty),
        spec,
        accelerators: accelerators.as_deref().unwrap_or_default(),
        cluster: Cluster { nodes: &observation.nodes, profiles: &observation.settings.accelerator_profiles },
    };
    let spec_hash = choice::spec_hash(spec).map_err(|error| {
        NotChosen::of(Readiness::stalled(reasons::INTERNAL_ERROR, format!("failed to hash the spec: {error}")), false)
    })?;
    // New pods would fail where the hub refuses the model, while those of the last good configuration serve on. Pods that are
    // the same as before stay what they are, whatever the hub says.
    if in_force.is_some_and(|choice| choice.spec_hash != spec_hash)
        && matches!(resolution, Resolution::AccessDenied { .. } | Resolution::NotFound { .. } | Resolution::Pending)
        && let Some(problem) = problem_of_model(&resolution)
    {
        return Err(NotChosen::of(problem, false));
    }
    let inputs_hash = sizing::inputs_hash(&request);
    let image = image(spec, &observation.settings);
    let fresh = fresh(&resolution, &accelerators, &request).map(|sizing| {
        let placement = placement(&sizing.accelerator);
        let sizing = SizingStatus { image: Some(image.clone()), ..sizing.to_status(inputs_hash.clone()) };
        Choice { sizing, placement, spec_hash: spec_hash.clone() }
    });
    let legal = in_force.is_some_and(|choice| {
        let same_inputs = choice.sizing.inputs_hash.as_deref() == Some(inputs_hash.as_str());
        same_inputs && (architecture.is_none() || sizing::still_legal(&choice.sizing, &request))
    });
    let asked = asks_for_upgrade(observation);
    let upgrade = spec.upgrade.as_ref().and_then(|upgrade| upgrade.type_).unwrap_or_default();
    let answer = choice::decide(Question { in_force, legal, fresh: fresh.as_ref().ok(), upgrade, asked });
    let Some(answer) = answer else {
        return Err(fresh
            .err()
            .unwrap_or_else(|| NotChosen::of(Readiness::progressing(reasons::PROGRESSING, "nothing is chosen yet"), false)));
    };
    let mut choice = answer.choice.clone();
    if let Some(image) = &spec.image {
        choice.sizing.image = Some(image.clone());
    }
    choice.spec_hash = spec_hash;
    let verdicts = vec![sized_verdict(&resolution, &choice), update_verdict(answer.waiting, upgrade, Engine::Vllm)];
    Ok(Chosen { choice, verdicts })
}

/// Whether the user asks for the better choice by annotation.
pub(super) fn asks_for_upgrade(observation: &Observation) -> bool {
    let metadata = &observation.backend.metadata;
    let annotation = metadata.annotations.as_ref().and_then(|annotations| annotations.get(UPGRADE_ANNOTATION));
    annotation.is_some_and(|value| metadata.generation.is_some_and(|generation| *value == generation.to_string()))
}

/// Why nothing can be chosen for a model of which this is known. None: what is known is to be sized, and may not suffice.
pub fn problem_of_model(resolution: &Resolution) -> Option<Readiness> {
    match resolution {
        Resolution::Known { .. } | Resolution::Unknown { .. } => None,
        Resolution::Pending => {
            Some(Readiness::progressing(reasons::MODEL_FACTS_PENDING, "the hub is being asked for the model's config.json"))
        }
        Resolution::AccessDenied { message } => Some(Readiness::stalled(reasons::MODEL_ACCESS_DENIED, message.clone())),
        Resolution::NotFound { message } => Some(Readiness::stalled(reasons::MODEL_NOT_FOUND, message.clone())),
        Resolution::NotAllowed { message } => Some(Readiness::stalled(reasons::ENDPOINT_NOT_ALLOWED, message.clone())),
        Resolution::Failed { message } => Some(Readiness::waiting(reasons::MODEL_FACTS_PENDING, message.clone())),
    }
}

/// What would be chosen now.
fn fresh(
    resolution: &Resolution,
    accelerators: &Result<Vec<Accelerator>, Refusal>,
    request: &Request<'_>,
) -> Result<sizing::Sizing, NotChosen> {
    if let Some(problem) = problem_of_model(resolution) {
        return Err(NotChosen::of(problem, false));
    }
    let stalled = |refusal: &Refusal| {
        NotChosen::of(refused(refusal), matches!(resolution, Resolution::Known { .. }) || refusal.reason != reasons::MODEL_UNKNOWN)
    };
    if let Err(refusal) = accelerators {
        return Err(stalled(refusal));
    }
    sizing::size(request).map_err(|refusal| match resolution {
        Resolution::Unknown { message, .. } if refusal.reason == reasons::MODEL_UNKNOWN => {
            NotChosen::of(Readiness::stalled(reasons::MODEL_UNKNOWN, message.clone()), false)
        }
        _ => stalled(&refusal),
    })
}

/// What it means that no accelerator can be chosen. Nodes come and go: what only a node can help with is waited for, the rest wants
/// another spec.
pub(super) fn refused(refusal: &Refusal) -> Readiness {
    match refusal.reason {
        reasons::NO_ACCELERATOR_KNOWN => Readiness::waiting(refusal.reason, refusal.message.clone()),
        _ => Readiness::stalled(refusal.reason, refusal.message.clone()),
    }
}

fn sized_verdict(resolution: &Resolution, choice: &Choice) -> Verdict {
    match resolution {
        Resolution::Unknown { message, .. } => Verdict::unknown(types::SIZED, reasons::MODEL_UNKNOWN, message.clone()),
        _ => sized_as(choice),
    }
}

pub(super) fn update_verdict(waiting: Option<&Choice>, upgrade: UpgradeType, engine: Engine) -> Verdict {
    let taken = match upgrade {
        UpgradeType::Manual => "it is taken only with".to_owned(),
        UpgradeType::OnSpecChange | UpgradeType::Automatic => {
            format!("it is taken with the next change of {}, or with", engine.field())
        }
    };
    match waiting {
        Some(better) => Verdict::holds(
            types::UPDATE_AVAILABLE,
            reasons::BETTER_CHOICE,
            format!(
                "{} with {} would be chosen now; {taken} the annotation {UPGRADE_ANNOTATION}: \"<metadata.generation>\"",
                better.sizing.summary(),
                better.sizing.image.as_deref().unwrap_or("the same image"),
            ),
        ),
        None => Verdict::fails(types::UPDATE_AVAILABLE, reasons::UP_TO_DATE, "the choice in force is the best that is known"),
    }
}

/// Where pods of this choice may run.
pub fn placement(accelerator: &Accelerator) -> Placement {
    Placement {
        resource_name: accelerator.resource_name.clone(),
        affinity: accelerator.node_affinity.clone(),
        tolerate_keys: accelerator.tolerated_taints.clone(),
    }
}

/// The children, and whether the Deployment that exists is the wanted one.
pub(super) struct Made {
    pub children: Vec<Child>,
    pub current: bool,
    /// How long a rollout of the Deployment may take.
    pub progress_deadline: Duration,
    pub next: Option<Duration>,
}

fn make(
    observation: &Observation,
    spec: &VllmSpec,
    name: &str,
    choice: &Choice,
    replicas: u32,
    now: Timestamp,
) -> Result<Made, children::BuildError> {
    children::resources::check(spec.resources.as_ref(), &choice.placement.resource_name)?;
    let metadata = &observation.backend.metadata;
    let plan = Plan {
        name,
        namespace: metadata.namespace.as_deref().unwrap_or_default(),
        uid: metadata.uid.as_deref().unwrap_or_default(),
        vllm: spec,
        choice,
        replicas,
        max_unavailable: 0,
        image: choice.sizing.image.as_deref().unwrap_or(DEFAULT_IMAGE),
        settings: &observation.settings,
    };
    let entropy = (!observation.api_key_exists).then_some(observation.entropy.as_str());
    let children = children::all(&plan, entropy)?;
    let clocks = Clocks::of(spec, &choice.sizing)?;
    roll_out(
        observation,
        children,
        &clocks,
        |current| proceed(observation, spec, choice, &clocks, current, now),
        |max_unavailable| children::deployment::build(&Plan { max_unavailable, ..plan.clone() }),
    )
}

/// The children, of which the Deployment says how its rollout proceeds and what it is meant to be. `proceed` is told whether the
/// Deployment that exists is the wanted one; `in_place` makes one of which so many replicas may be missing.
///
/// # Errors
///
/// Those of `in_place`.
pub(super) fn roll_out(
    observation: &Observation,
    mut children: Vec<Child>,
    clocks: &Clocks,
    proceed: impl FnOnce(bool) -> Rollout,
    in_place: impl FnOnce(u32) -> Result<Child, children::BuildError>,
) -> Result<Made, children::BuildError> {
    let intent = deployment_of(&mut children).map(|deployment| intent(deployment)).unwrap_or_default();
    let stored = observation.deployment.as_ref().and_then(|deployment| deployment.annotations.get(INTENT_ANNOTATION));
    let current = stored == Some(&intent);
    let rollout = proceed(current);
    if rollout.max_unavailable > 0 {
        let in_place = in_place(rollout.max_unavailable)?.object;
        if let Some(deployment) = deployment_of(&mut children) {
            *deployment = in_place;
        }
    }
    if let Some(Value::Object(annotations)) =
        deployment_of(&mut children).and_then(|deployment| deployment.pointer_mut("/metadata/annotations"))
    {
        annotations.insert(INTENT_ANNOTATION.to_owned(), json!(intent));
    }
    let progress_deadline = Duration::from_secs(clocks.progress_deadline());
    Ok(Made { children, current, progress_deadline, next: rollout.next })
}

fn deployment_of(children: &mut [Child]) -> Option<&mut Value> {
    children.iter_mut().find(|child| child.identity.kind == "Deployment").map(|child| &mut child.object)
}

/// How the next rollout begins, or the one that is going on proceeds.
fn proceed(observation: &Observation, spec: &VllmSpec, choice: &Choice, clocks: &Clocks, current: bool, now: Timestamp) -> Rollout {
    let cache = spec.cache.as_ref().is_some_and(|cache| cache.persistent_volume_claim.is_some());
    let none = BTreeMap::new();
    let question = rollout::Question {
        rollout_type: spec.rollout.as_ref().and_then(|rollout| rollout.type_).unwrap_or_default(),
        deployment: observation.deployment.as_ref(),
        current,
        pods: &observation.pods,
        nodes: &observation.nodes,
        placement: &choice.placement,
        node_selector: spec.accelerator.as_ref().map_or(&none, |accelerator| &accelerator.node_selector),
        shared_claim: cache || matches!(ModelSource::of(&spec.model), ModelSource::Claim { .. }),
        termination_grace_period: Duration::from_secs(clocks.termination_grace_period()),
    };
    rollout::decide(&question, now)
}

/// Tells one wanted Deployment from another, without what changes no pod: the strategy of a rollout and annotations.
fn intent(deployment: &Value) -> String {
    let relevant = json!([deployment.pointer("/spec/replicas"), deployment.pointer("/spec/template")]);
    short_hash::of(relevant.to_string())
}

pub(super) fn serving(observation: &Observation, engine: Engine, replicas: u32, current: bool) -> Serving<'_> {
    Serving {
        engine,
        deployment: observation.deployment.as_ref(),
        current,
        pods: &observation.pods,
        replicas,
        refusals: &observation.refusals,
    }
}
