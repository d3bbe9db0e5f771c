//! The whole decision about a route.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use super::observation::{BackendState, GatewayFacts};
use super::*;
use crate::api::InferenceBackend;
use crate::api::conditions::reasons;
use crate::api::model_route::{Role, Strategy};
use crate::decide::backend::facts::DeploymentFacts;
use crate::decide::decision::{ChildIdentity, Refusal, RefusalCause};
use crate::decide::gateway::assemble::Finding;
use crate::decide::gateway::route_problem::Problem;

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn state(available: bool, stalled: bool, reason: &str) -> BackendState {
    BackendState { available, stalled, reason: reason.into(), self_hosted: true }
}

/// A route in its third generation with two backends and a fallback, all of which answer, and that a gateway of two replicas goes by.
pub(super) fn observe() -> Observation {
    let route = serde_json::from_value(json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "ModelRoute",
        "metadata": { "name": "router", "namespace": "team", "uid": "u-1", "generation": 3 },
        "spec": {
            "backends": [{ "name": "small" }, { "name": "large" }],
            "rules": [{ "name": "long", "when": { "taskTypes": ["a"] }, "backends": [{ "name": "large" }, { "name": "claude" }] }],
            "fallback": [{ "name": "claude" }],
        },
    }))
    .unwrap();
    let answers = || state(true, false, reasons::AVAILABLE);
    let backends = ["small", "large", "claude"].map(|name| (name.to_owned(), answers()));
    Observation {
        observed_at: None,
        route,
        finding: Finding { in_force: Some(3), ..Finding::default() },
        pending: false,
        backends: backends.into(),
        callers: Vec::new(),
        gateway: GatewayFacts { ready: running(&[Some(3), Some(3)]), ..GatewayFacts::default() },
        outdated_schema: Arc::default(),
    }
}

fn running(generations: &[Option<i64>]) -> BTreeMap<String, Option<i64>> {
    generations.iter().enumerate().map(|(number, generation)| (format!("pod-{number}"), *generation)).collect()
}

fn status(observation: &Observation) -> ModelRouteStatus {
    decide(observation, at(0)).status
}

pub(super) fn condition(status: &ModelRouteStatus, type_: &str) -> Condition {
    status.conditions.iter().find(|condition| condition.type_ == type_).cloned().unwrap_or_else(|| panic!("no {type_}"))
}

/// Status and reason of the conditions Ready, Accepted, ResolvedRefs and Programmed.
fn told(status: &ModelRouteStatus) -> [(String, String); 4] {
    [types::READY, types::ACCEPTED, types::RESOLVED_REFS, types::PROGRAMMED].map(|type_| {
        let condition = condition(status, type_);
        (condition.status, condition.reason)
    })
}

fn expect(ready: (&str, &str), accepted: (&str, &str), resolved: (&str, &str), programmed: (&str, &str)) -> [(String, String); 4] {
    [ready, accepted, resolved, programmed].map(|(status, reason)| (status.to_owned(), reason.to_owned()))
}

const ACCEPTED: (&str, &str) = ("True", reasons::ACCEPTED);
const RESOLVED: (&str, &str) = ("True", reasons::RESOLVED_REFS);
const PROGRAMMED: (&str, &str) = ("True", reasons::PROGRAMMED);

fn missing(backend: &str) -> Problem {
    Problem::BackendNotFound { field: format!("spec.backends[{backend}]"), backend: backend.into() }
}

#[test]
fn a_route_that_every_replica_goes_by_is_ready_and_shows_where_it_answers() {
    let decision = decide(&observe(), at(0));
    let status = decision.status;
    assert_eq!(told(&status), expect(("True", reasons::AVAILABLE), ACCEPTED, RESOLVED, PROGRAMMED));
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(status.model_name.as_deref(), Some("router"));
    assert_eq!(status.strategy, Some(Strategy::RoundRobin));
    assert_eq!(status.endpoint.as_deref(), Some("http://quartermaster-gateway.team.svc:4000"));
    assert_eq!(status.ready_backends.as_deref(), Some("3/3"));
    let roles: Vec<_> = status.backends.iter().map(|backend| (backend.name.as_str(), backend.role)).collect();
    assert_eq!(roles, [("small", Role::Backend), ("large", Role::Backend), ("claude", Role::Rule)], "the first role of each");
    assert_eq!(condition(&status, types::SUSPENDED).status, "False");
    assert_eq!(decision.children, Children::Keep);
    assert_eq!(decision.events.len(), 1);
}

#[test]
fn the_same_again_writes_the_same_status_and_tells_nothing() {
    let mut observation = observe();
    let first = decide(&observation, at(0));
    observation.route.status = Some(first.status.clone());
    let second = decide(&observation, at(100));
    assert_eq!(second.status, first.status);
    assert_eq!((second.events, second.next), (vec![], None));
}

#[test]
fn of_a_generation_that_no_plan_has_taken_in_yet_nothing_new_is_said() {
    let mut observation = observe();
    observation.route.status = Some(decide(&observation, at(0)).status);
    observation.route.metadata.generation = Some(4);
    (observation.finding, observation.pending) = (Finding::default(), true);
    let waiting = decide(&observation, at(1));
    assert_eq!(Some(&waiting.status), observation.route.status.as_ref());
    assert_eq!(waiting.events, vec![]);
    assert!(waiting.next.is_some());
}

#[test]
fn what_was_said_stands_until_replicas_had_time_to_say_what_they_go_by_and_an_edit_waits_for_nothing() {
    let mut observation = observe();
    let said = decide(&observation, at(0)).status;
    (observation.gateway.ready, observation.gateway.unheard) = (running(&[None, Some(3)]), true);
    let new = status(&observation);
    assert_eq!(told(&new)[3], ("False".to_owned(), reasons::PROGRESSING.to_owned()), "nothing was said before");
    observation.route.status = Some(said.clone());
    let waiting = decide(&observation, at(1));
    assert_eq!((&waiting.status, &waiting.events), (&said, &vec![]));
    assert!(waiting.next.is_some());
    observation.gateway.unheard = false;
    assert_eq!(told(&status(&observation)), told(&new), "not for ever");
    observation.gateway.unheard = true;
    observation.route.metadata.generation = Some(4);
    assert_eq!(status(&observation).observed_generation, Some(4));
}

#[test]
fn an_edit_that_is_refused_is_stalled_and_says_what_stays_in_force() {
    let mut observation = observe();
    let problem = Problem::InvalidField { field: "spec.backends".into(), problem: "names small twice: keep one".into() };
    observation.finding = Finding { refused: Some(problem), in_force: Some(2), ..Finding::default() };
    observation.gateway.ready = running(&[Some(2), Some(2)]);
    let status = status(&observation);
    let no = ("False", reasons::INVALID_SPEC);
    assert_eq!(told(&status), expect(no, no, RESOLVED, ("False", reasons::NOT_ACCEPTED)));
    let stalled = condition(&status, types::STALLED);
    assert_eq!(stalled.message, "spec.backends names small twice: keep one; generation 2 stays in force");
    assert!(status.endpoint.is_some(), "it still answers");
}

#[test]
fn a_route_without_any_backend_waits_for_one_and_is_stalled_after_a_while() {
    let mut observation = observe();
    observation.backends.clear();
    let first = missing("small").to_string();
    observation.finding = Finding {
        refused: Some(Problem::NoBackend { first }),
        unresolved: vec![missing("small"), missing("large")],
        ..Finding::default()
    };
    let decision = decide(&observation, at(0));
    let no = ("False", reasons::BACKEND_NOT_FOUND);
    assert_eq!(told(&decision.status), expect(no, no, no, ("False", reasons::NOT_ACCEPTED)));
    assert_eq!(condition(&decision.status, types::RECONCILING).status, "True");
    assert_eq!(decision.next, Some(overdue::PATIENCE));
    assert_eq!(decision.status.ready_backends.as_deref(), Some("0/3"));
    assert_eq!(decision.status.endpoint, None);
    observation.route.status = Some(decision.status);
    assert_eq!(condition(&decide(&observation, at(601)).status, types::STALLED).reason, reasons::BACKEND_NOT_FOUND);
}

#[test]
fn backends_that_do_not_exist_are_named_and_the_others_answer() {
    let mut observation = observe();
    observation.backends.remove("small");
    observation.finding.unresolved = vec![missing("small")];
    let status = status(&observation);
    let ready = ("True", reasons::PARTIALLY_AVAILABLE);
    assert_eq!(told(&status), expect(ready, ACCEPTED, ("False", reasons::BACKEND_NOT_FOUND), PROGRAMMED));
    assert_eq!(status.ready_backends.as_deref(), Some("2/3"));
    assert_eq!(status.backends[0].reason, reasons::BACKEND_NOT_FOUND);
    assert!(condition(&status, types::READY).message.ends_with("small (BackendNotFound)"));
    assert!(condition(&status, types::RESOLVED_REFS).message.starts_with("spec.backends[small] names"));
}

#[test]
fn what_is_limited_is_told_although_the_route_is_accepted() {
    let mut observation = observe();
    let lost = Problem::NameTaken { field: "spec.aliases".into(), name: "*".into(), by: "older".into() };
    let limited = Problem::FormatLimited { backend: "claude".into(), speaks: "Messages".into() };
    observation.finding.limited = vec![lost, limited];
    let status = status(&observation);
    let accepted = condition(&status, types::ACCEPTED);
    assert_eq!((accepted.status.as_str(), accepted.reason.as_str()), ("True", reasons::MODEL_NAME_CONFLICT));
    assert!(accepted.message.contains("older") && accepted.message.contains("claude speaks Messages only"), "{}", accepted.message);
    assert_eq!(condition(&status, types::READY).status, "True");
}

#[test]
fn a_route_is_programmed_when_every_ready_replica_reports_its_generation() {
    for (generations, programmed, ready) in [
        (&[][..], ("False", reasons::GATEWAY_NOT_READY), ("False", reasons::GATEWAY_NOT_READY)),
        (&[Some(3)], PROGRAMMED, ("True", reasons::AVAILABLE)),
        (&[Some(3), Some(2)], ("False", reasons::PROGRESSING), ("False", reasons::PROGRESSING)),
        (&[Some(3), None], ("False", reasons::PROGRESSING), ("False", reasons::PROGRESSING)),
        (&[None], ("False", reasons::PROGRESSING), ("False", reasons::PROGRESSING)),
    ] {
        let mut observation = observe();
        observation.gateway.ready = running(generations);
        assert_eq!(told(&status(&observation)), expect(ready, ACCEPTED, RESOLVED, programmed), "{generations:?}");
    }
}

#[test]
fn a_plan_without_room_says_so_and_what_stays_in_force() {
    let mut observation = observe();
    observation.finding =
        Finding { too_large: Some(Problem::PlanTooLarge { limit: 1000 }), in_force: Some(2), ..Finding::default() };
    let status = status(&observation);
    let no = ("False", reasons::PLAN_TOO_LARGE);
    assert_eq!(told(&status), expect(no, ACCEPTED, RESOLVED, no));
    assert!(condition(&status, types::STALLED).message.ends_with("; generation 2 stays in force"));
}

#[test]
fn a_suspended_route_goes_on_in_the_form_that_it_has() {
    let mut observation = observe();
    observation.route.spec.suspend = Some(true);
    observation.finding.in_force = Some(2);
    observation.gateway.ready = running(&[Some(2)]);
    let going_on = status(&observation);
    assert_eq!(told(&going_on), expect(("True", reasons::AVAILABLE), ACCEPTED, RESOLVED, ("False", reasons::SUSPENDED)));
    assert_eq!(condition(&going_on, types::SUSPENDED).status, "True");
    observation.finding.in_force = None;
    let never = status(&observation);
    assert_eq!(told(&never)[0], ("False".to_owned(), reasons::SUSPENDED.to_owned()));
    assert_eq!(never.endpoint, None);
}

#[test]
fn why_the_gateway_is_not_ready_is_told() {
    let refusal = Refusal {
        child: ChildIdentity { kind: "Deployment".into(), name: "quartermaster-gateway".into() },
        intent_hash: String::new(),
        cause: RefusalCause::NameInUse,
        message: "it is somebody else's".into(),
    };
    let deployment = |facts: DeploymentFacts| GatewayFacts { deployment: Some(facts), ..GatewayFacts::default() };
    for (gateway, reason, stalled) in [
        (GatewayFacts { refusals: vec![refusal], ..GatewayFacts::default() }, reasons::NAME_IN_USE, true),
        (
            GatewayFacts { settings_problem: Some("data.replicas x".into()), ..GatewayFacts::default() },
            reasons::INVALID_GATEWAY_SETTINGS,
            true,
        ),
        (
            deployment(DeploymentFacts { replica_failure: Some("quota".into()), ..Default::default() }),
            reasons::POD_CREATION_FAILED,
            false,
        ),
        (deployment(DeploymentFacts { deadline_exceeded: true, ..Default::default() }), reasons::START_TIMEOUT, true),
        (deployment(DeploymentFacts::default()), reasons::GATEWAY_NOT_READY, false),
    ] {
        let mut observation = observe();
        observation.gateway = gateway;
        let status = status(&observation);
        assert_eq!(condition(&status, types::READY).reason, reason);
        assert_eq!(condition(&status, if stalled { types::STALLED } else { types::RECONCILING }).reason, reason);
    }
}

#[test]
fn an_object_that_is_refused_for_long_is_told_although_replicas_answer_and_a_failure_that_passes_is_not() {
    for (cause, ready) in [
        (RefusalCause::Forbidden, ("False", reasons::FORBIDDEN)),
        (RefusalCause::NameInUse, ("False", reasons::NAME_IN_USE)),
        (RefusalCause::Transient, ("True", reasons::AVAILABLE)),
        (RefusalCause::Leftover, ("True", reasons::AVAILABLE)),
    ] {
        let mut observation = observe();
        let child = ChildIdentity { kind: "NetworkPolicy".into(), name: "quartermaster-gateway".into() };
        let message = "no".to_owned();
        observation.gateway.refusals = vec![Refusal { child, intent_hash: String::new(), cause, message }];
        assert_eq!(told(&status(&observation)), expect(ready, ACCEPTED, RESOLVED, PROGRAMMED), "{cause:?}");
    }
}

#[test]
fn settings_that_cannot_be_read_are_told_while_the_last_good_ones_run() {
    let mut observation = observe();
    observation.gateway.settings_problem = Some("data.replicas is no number of replicas".into());
    let status = status(&observation);
    assert_eq!(condition(&status, types::READY).status, "True");
    let programmed = condition(&status, types::PROGRAMMED);
    assert_eq!((programmed.status.as_str(), programmed.reason.as_str()), ("True", reasons::INVALID_GATEWAY_SETTINGS));
    assert!(programmed.message.contains("data.replicas"), "{}", programmed.message);
}

#[test]
fn an_image_that_the_operator_lacks_is_said_to_be_of_its_configuration() {
    let mut observation = observe();
    observation.gateway.no_image = true;
    let running = status(&observation);
    assert_eq!(condition(&running, types::READY).status, "True", "what is there goes on");
    let programmed = condition(&running, types::PROGRAMMED);
    assert_eq!((programmed.status.as_str(), programmed.reason.as_str()), ("True", reasons::INVALID_GATEWAY_SETTINGS));
    observation.gateway.ready.clear();
    let none = status(&observation);
    let ready = condition(&none, types::READY);
    assert_eq!(ready.reason, reasons::INVALID_GATEWAY_SETTINGS);
    for message in [&programmed.message, &ready.message] {
        assert!(message.contains("gateway.image of the operator's configuration is not set"), "{message}");
        assert!(!message.contains("ConfigMap"), "{message}");
    }
    assert_eq!(condition(&none, types::STALLED).status, "True");
}

#[test]
fn a_route_none_of_whose_backends_answers_is_not_ready_and_stalled_only_when_none_will() {
    let mut observation = observe();
    for name in ["small", "large", "claude"] {
        observation.backends.insert(name.into(), state(false, true, reasons::UNAUTHORIZED));
    }
    let none_will = status(&observation);
    assert_eq!(condition(&none_will, types::STALLED).reason, reasons::NO_BACKEND_READY);
    assert_eq!(none_will.ready_backends.as_deref(), Some("0/3"));
    observation.backends.insert("small".into(), state(false, false, reasons::MODEL_LOADING));
    let one_will = status(&observation);
    assert_eq!(condition(&one_will, types::RECONCILING).reason, reasons::NO_BACKEND_READY);
    assert!(condition(&one_will, types::READY).message.contains("small (ModelLoading), large (Unauthorized)"));
}

#[test]
fn what_a_backends_status_says_decides_whether_it_can_answer() {
    let of = |conditions: Value| {
        let backend: InferenceBackend = serde_json::from_value(json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "metadata": { "name": "b" },
            "spec": { "vllm": { "model": "a/b" } }, "status": { "conditions": conditions },
        }))
        .unwrap();
        BackendState::of(&backend)
    };
    let condition = |type_: &str, status: &str, reason: &str| json!({ "type": type_, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let available = condition("Available", "True", "Available");
    assert_eq!(of(json!([])), state(false, false, reasons::PROGRESSING));
    assert_eq!(of(json!([available, condition("Ready", "False", "PartiallyAvailable")])), state(true, false, "Available"));
    let no = condition("Available", "False", "Progressing");
    assert_eq!(of(json!([no, condition("Ready", "False", "ModelLoading")])), state(false, false, "ModelLoading"));
    let zero = condition("Available", "False", "ScaledToZero");
    assert_eq!(of(json!([zero, condition("Ready", "True", "ScaledToZero")])), state(false, false, "ScaledToZero"));
    let stalled = condition("Stalled", "True", "CrashLoop");
    assert_eq!(of(json!([no, condition("Ready", "False", "CrashLoop"), stalled])), state(false, true, "CrashLoop"));
}
