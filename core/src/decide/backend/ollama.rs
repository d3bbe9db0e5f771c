//! A model served by Ollama: from the spec and the cluster to its children and its status.
//!
//! Nothing is sized: what a model needs is not known before it is pulled, and Ollama itself decides how much of it goes onto the
//! accelerators and what runs on the CPUs. What is chosen is where the pods run and with which image, and that stays as any choice does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::accelerator::{self, Accelerator};
use super::children::image;
use super::children::ollama::{self as children, OllamaPlan};
use super::children::{BuildError, Placement};
use super::choice::{self, Choice, Question};
use super::clocks::Clocks;
use super::engine::{Engine, ServedModel};
use super::engine_health::EngineHealth;
use super::facts::{Observation, Settings};
use super::outcome::Outcome;
use super::rollout;
use super::self_hosted::{self, Made};
use super::sizing::Refusal;
use crate::api::accelerator::AcceleratorSpec;
use crate::api::conditions::{reasons, types};
use crate::api::ollama::OllamaSpec;
use crate::api::quantity;
use crate::api::status::SizingStatus;
use crate::api::vllm::{RolloutType, UpgradeType};
use crate::decide::conditions::Verdict;
use crate::decide::decision::Children;
use crate::decide::readiness::Readiness;
use crate::decide::short_hash;

/// The Ollama release that this operator was tested with.
pub const DEFAULT_IMAGE: &str = "ollama/ollama:0.32.15";

/// What should exist for a model that Ollama serves.
pub fn decide(observation: &Observation, spec: &OllamaSpec, now: Timestamp) -> Outcome {
    let replicas = observation.backend.spec.replicas.unwrap_or(1);
    let mut status = self_hosted::shown(observation, Engine::Ollama, &spec.model, replicas);
    if let Some(summary) = &mut status.summary {
        summary.context_length = spec.context_length;
    }
    let mut outcome = Outcome::keep(Readiness::progressing(reasons::PROGRESSING, ""), status);
    let in_force = self_hosted::in_force(observation);
    let health = EngineHealth::of(observation, ServedModel::of_ollama(spec));
    let unreadable = health.as_ref().err().cloned();
    let health = health.unwrap_or_default();
    outcome.status.health.clone_from(&health.status);
    let chosen = match problem_of_spec(spec).or(unreadable) {
        Some(problem) => Err((in_force.as_ref().map(self_hosted::sized_as), problem)),
        None => choose(observation, spec, in_force.as_ref()).map_err(|problem| {
            let verdict = Verdict::fails(types::SIZED, problem.reason, problem.message.clone());
            (Some(verdict), problem)
        }),
    };
    let (choice, verdicts) = match chosen {
        Ok(chosen) => chosen,
        Err((sized, problem)) => {
            outcome.verdicts.extend(sized);
            outcome.verdicts.extend(self_hosted::served(observation, Engine::Ollama, replicas, &problem, &health));
            return self_hosted::with_choice(outcome, observation, problem, in_force.as_ref());
        }
    };
    outcome.verdicts.extend(verdicts);
    outcome.status.sizing = Some(choice.sizing.clone());
    self_hosted::summarise(&mut outcome.status, &choice.sizing);
    let made = match make(observation, spec, &choice, replicas, now) {
        Ok(made) => made,
        Err(error) => {
            if observation.deployment.is_some() {
                let serving = self_hosted::serving(observation, Engine::Ollama, replicas, true);
                outcome.verdicts.extend(health.verdicts(serving.verdicts()));
            }
            outcome.ready = Readiness::stalled(reasons::INVALID_SPEC, error.to_string());
            return outcome;
        }
    };
    let serving = self_hosted::serving(observation, Engine::Ollama, replicas, made.current);
    outcome.verdicts.extend(health.verdicts(serving.verdicts()));
    outcome.ready = health.readiness(serving.readiness(made.progress_deadline));
    outcome.children = Children::Exactly(made.children);
    outcome.next = made.next;
    outcome
}

/// What is wrong with the spec whatever the cluster.
fn problem_of_spec(spec: &OllamaSpec) -> Option<Readiness> {
    if let Some(Err(error)) = spec.image.as_deref().map(image::check_image) {
        return Some(Readiness::stalled(reasons::INVALID_IMAGE, error.to_string()));
    }
    if let Some(Err(error)) = spec.keep_alive.as_ref().map(|time| time.to_std()) {
        return Some(Readiness::stalled(reasons::INVALID_SPEC, format!("spec.ollama.keepAlive: {error}")));
    }
    if spec.accelerator.is_none()
        && let Some(name) = stated(spec).find(|name| accelerator::is_accelerator(name))
    {
        let message = format!(
            "spec.ollama.resources asks for {name}, and spec.ollama.accelerator is not set: set it too, to {{}} for one of any kind"
        );
        return Some(Readiness::stalled(reasons::INVALID_ACCELERATOR, message));
    }
    None
}

/// Names of the resources that the spec states an amount of.
fn stated(spec: &OllamaSpec) -> impl Iterator<Item = &str> {
    let resources = spec.resources.iter().flat_map(|resources| [&resources.requests, &resources.limits]);
    resources.flatten().flat_map(|amounts| amounts.keys().map(String::as_str))
}

/// The image of a new choice: the spec's, else the configuration's, else that of this version.
fn image(spec: &OllamaSpec, settings: &Settings) -> String {
    spec.image.clone().or_else(|| settings.ollama.image.clone()).unwrap_or_else(|| DEFAULT_IMAGE.to_owned())
}

/// Chooses, or keeps the choice in force; with the conditions Sized and UpdateAvailable.
fn choose(observation: &Observation, spec: &OllamaSpec, in_force: Option<&Choice>) -> Result<(Choice, Vec<Verdict>), Readiness> {
    let spec_hash = short_hash::of(json!(spec).to_string());
    let fresh = fresh(observation, spec, spec_hash.clone());
    let inputs_hash = inputs_hash(spec);
    let legal = in_force.is_some_and(|choice| choice.sizing.inputs_hash.as_deref() == Some(inputs_hash.as_str()));
    let upgrade = UpgradeType::OnSpecChange;
    let asked = self_hosted::asks_for_upgrade(observation);
    let answer = choice::decide(Question { in_force, legal, fresh: fresh.as_ref().ok(), upgrade, asked });
    let Some(answer) = answer else {
        return Err(fresh.err().unwrap_or_else(|| Readiness::progressing(reasons::PROGRESSING, "nothing is chosen yet")));
    };
    let mut choice = answer.choice.clone();
    if let Some(image) = &spec.image {
        choice.sizing.image = Some(image.clone());
    }
    choice.sizing.context_length = spec.context_length;
    choice.spec_hash = spec_hash;
    let update = self_hosted::update_verdict(answer.waiting, upgrade, Engine::Ollama);
    let verdicts = vec![self_hosted::sized_as(&choice), update];
    Ok((choice, verdicts))
}

/// Hash of what the user says and the placement depends on.
fn inputs_hash(spec: &OllamaSpec) -> String {
    let accelerators: BTreeMap<&str, _> = spec
        .resources
        .iter()
        .flat_map(|resources| [&resources.requests, &resources.limits])
        .flatten()
        .flatten()
        .filter(|(name, _)| accelerator::is_accelerator(name) || is_named(spec, name))
        .map(|(name, amount)| (name.as_str(), amount))
        .collect();
    short_hash::of(json!([spec.accelerator, accelerators]).to_string())
}

fn is_named(spec: &OllamaSpec, resource: &str) -> bool {
    spec.accelerator.as_ref().and_then(|accelerator| accelerator.resource_name.as_deref()) == Some(resource)
}

/// What would be chosen now.
fn fresh(observation: &Observation, spec: &OllamaSpec, spec_hash: String) -> Result<Choice, Readiness> {
    let sizing = SizingStatus {
        // Ollama spreads a model over what it is given by itself.
        tensor_parallel_size: 0,
        pipeline_parallel_size: 0,
        data_parallel_size: 0,
        context_length: spec.context_length,
        image: Some(image(spec, &observation.settings)),
        inputs_hash: Some(inputs_hash(spec)),
        ..SizingStatus::default()
    };
    let Some(asked) = &spec.accelerator else {
        let derivation = Some("no accelerator is asked for: the model runs on the CPUs of any node".to_owned());
        return Ok(Choice { sizing: SizingStatus { derivation, ..sizing }, placement: Placement::default(), spec_hash });
    };
    let candidates = accelerator::candidates(Some(asked), &observation.nodes, &observation.settings.accelerator_profiles)
        .map_err(|refusal| refused(&refusal))?;
    let Some(found) = place(asked, &candidates) else {
        return Err(refused(&Refusal::new(reasons::NO_ACCELERATOR_KNOWN, "no accelerator is known")));
    };
    let number = number(spec, &found.placement.resource_name)?;
    let of_what = found.product.as_deref().unwrap_or(&found.placement.resource_name);
    let derivation = format!("{number} of {of_what} a replica, as the spec asks: Ollama decides what of the model goes onto it");
    let sizing = SizingStatus {
        accelerator_product: found.product.clone(),
        resource_name: Some(found.placement.resource_name.clone()),
        gpus_per_replica: number,
        derivation: Some(derivation),
        ..sizing
    };
    Ok(Choice { sizing, placement: found.placement, spec_hash })
}

/// Why there is no accelerator to choose from. The fields have the same names in both members of the spec, and an explanation names
/// those of vLLM's.
fn refused(refusal: &Refusal) -> Readiness {
    let mut ready = self_hosted::refused(refusal);
    ready.message = ready.message.replace("spec.vllm.accelerator", "spec.ollama.accelerator");
    ready
}

/// Where pods get their accelerator.
struct Found {
    /// None: one of several.
    product: Option<String>,
    placement: Placement,
}

/// The first of the candidates where the spec says something of what it wants; otherwise any that has the resource.
fn place(asked: &AcceleratorSpec, candidates: &[Accelerator]) -> Option<Found> {
    let first = candidates.first()?;
    let particular = !asked.products.is_empty() || asked.memory.is_some() || asked.gpus_per_node.is_some();
    if particular {
        return Some(Found { product: first.product.clone(), placement: self_hosted::placement(first) });
    }
    let alike = || candidates.iter().filter(|candidate| candidate.resource_name == first.resource_name);
    let products: BTreeSet<Option<&str>> = alike().map(|candidate| candidate.product.as_deref()).collect();
    let taints: BTreeSet<String> = alike().flat_map(|candidate| candidate.tolerated_taints.clone()).collect();
    let placement =
        Placement { resource_name: first.resource_name.clone(), affinity: Vec::new(), tolerate_keys: taints.into_iter().collect() };
    Some(Found { product: first.product.clone().filter(|_| products.len() == 1), placement })
}

/// Accelerators of a replica: what `resources` says, else one.
fn number(spec: &OllamaSpec, resource: &str) -> Result<u32, Readiness> {
    let resources = spec.resources.iter().flat_map(|resources| [&resources.limits, &resources.requests]).flatten();
    let Some(amount) = resources.filter_map(|amounts| amounts.get(resource)).next() else { return Ok(1) };
    let number = quantity::to_u64(amount).ok().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
    number.ok_or_else(|| {
        let message = format!("spec.ollama.resources asks for `{}` of {resource}: write a whole number of 1 or more", amount.0);
        Readiness::stalled(reasons::INVALID_ACCELERATOR, message)
    })
}

fn make(observation: &Observation, spec: &OllamaSpec, choice: &Choice, replicas: u32, now: Timestamp) -> Result<Made, BuildError> {
    let metadata = &observation.backend.metadata;
    let plan = OllamaPlan {
        name: metadata.name.as_deref().unwrap_or_default(),
        namespace: metadata.namespace.as_deref().unwrap_or_default(),
        uid: metadata.uid.as_deref().unwrap_or_default(),
        ollama: spec,
        choice,
        replicas,
        max_unavailable: 0,
        image: choice.sizing.image.as_deref().unwrap_or(DEFAULT_IMAGE),
        settings: &observation.settings,
    };
    let clocks = Clocks::of_ollama();
    let none = BTreeMap::new();
    let proceed = |current| {
        let question = rollout::Question {
            rollout_type: RolloutType::Auto,
            deployment: observation.deployment.as_ref(),
            current,
            pods: &observation.pods,
            nodes: &observation.nodes,
            placement: &choice.placement,
            node_selector: spec.accelerator.as_ref().map_or(&none, |accelerator| &accelerator.node_selector),
            shared_claim: spec.cache.as_ref().is_some_and(|cache| cache.persistent_volume_claim.is_some()),
            termination_grace_period: Duration::from_secs(clocks.termination_grace_period()),
        };
        rollout::decide(&question, now)
    };
    self_hosted::roll_out(observation, children::all(&plan)?, &clocks, proceed, |max_unavailable| {
        children::build_deployment(&OllamaPlan { max_unavailable, ..plan.clone() })
    })
}

#[cfg(test)]
#[path = "ollama_tests.rs"]
mod tests;
