//! The whole decision about a model that Ollama serves, from observation to status.

use std::sync::Arc;

use rstest::rstest;
use serde_json::{Value, json};

use super::super::decide_tests::{carried_out, condition, now, observe, ready, template};
use super::super::facts::{CheckOutcome, EngineFacts, KeyFacts, PodFacts, SetAside, Terminated, TrafficFacts, Waiting};
use super::super::{decide as decide_backend, facts};
use super::*;
use crate::api::configuration::{AcceleratorProfile, OllamaDefaults};

/// A backend in a cluster with eight H100, with further fields of `spec.ollama`.
fn ollama(fields: Value) -> Observation {
    let mut spec = json!({ "model": "qwen3:8b" });
    spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    observe(json!({ "ollama": spec }))
}

fn message(observation: &Observation, type_: &str) -> String {
    let decision = decide_backend(observation, now());
    decision.status.conditions.iter().find(|condition| condition.type_ == type_).unwrap().message.clone()
}

fn summary(observation: &Observation) -> (Option<String>, Option<String>, Option<String>) {
    let summary = decide_backend(observation, now()).status.summary.unwrap();
    (summary.engine, summary.model, summary.gpus)
}

#[test]
fn one_line_makes_all_children_and_becomes_ready_once_the_pod_has_started() {
    let observation = ollama(json!({}));
    let decision = decide_backend(&observation, now());
    let Children::Exactly(children) = &decision.children else { panic!("{:?}", decision.status) };
    let kinds: Vec<_> = children.iter().map(|child| child.identity.kind.as_str()).collect();
    assert_eq!(kinds, ["ServiceAccount", "NetworkPolicy", "Service", "Deployment"]);
    assert_eq!(ready(&decision), ("False".into(), "Progressing".into()));
    assert_eq!(condition(&decision, "ModelLoaded"), Some(("False".into(), "ModelLoading".into())));
    assert_eq!(decision.status.endpoint.as_deref(), Some("http://model-backend.team.svc:8000"));

    let mut pulling = carried_out(observation);
    let deployment = pulling.deployment.as_mut().unwrap();
    (deployment.ready_replicas, deployment.available_replicas) = (0, 0);
    let pod = pulling.pods.first_mut().unwrap();
    (pod.ready, pod.started) = (false, false);
    let waiting = decide_backend(&pulling, now());
    assert_eq!(ready(&waiting), ("False".into(), "ModelLoading".into()));
    assert_eq!(message(&pulling, "Ready"), "the model is being pulled");

    let answers = carried_out(ollama(json!({})));
    let decision = decide_backend(&answers, now());
    assert_eq!(ready(&decision), ("True".into(), "Available".into()));
    for type_ in ["Available", "ModelLoaded", "Sized"] {
        assert_eq!(condition(&decision, type_).unwrap().0, "True", "{type_}");
    }
    assert_eq!(condition(&decision, "UpdateAvailable"), Some(("False".into(), "UpToDate".into())));
    assert!(message(&answers, "ModelLoaded").starts_with("every replica has pulled the model"));
    assert_eq!(decision.status.summary.unwrap().replicas.as_deref(), Some("1/1"));
}

#[test]
fn without_an_accelerator_it_runs_on_cpus_whatever_the_nodes_have() {
    let mut observation = ollama(json!({}));
    assert_eq!(summary(&observation), (Some("Ollama".into()), Some("qwen3:8b".into()), Some("CPU".into())));
    assert_eq!(message(&observation, "Sized"), "no accelerator is asked for: the model runs on the CPUs of any node");
    let with_nodes = template(&decide_backend(&observation, now())).clone();
    observation.nodes = Arc::default();
    assert_eq!(template(&decide_backend(&observation, now())), &with_nodes);
    assert!(!with_nodes.to_string().contains("nvidia.com/gpu"));
}

#[test]
fn an_accelerator_is_one_of_any_kind_unless_the_spec_says_more() {
    let any = ollama(json!({ "accelerator": {} }));
    assert_eq!(summary(&any).2.as_deref(), Some("1xH100-80GB"), "all nodes have the same product");
    let pod = template(&decide_backend(&any, now()))["spec"].clone();
    assert_eq!(pod["containers"][0]["resources"]["limits"], json!({ "nvidia.com/gpu": "1" }));
    assert_eq!(pod.get("affinity"), None);

    let named = ollama(json!({ "accelerator": { "products": ["NVIDIA-H100-80GB-HBM3"] } }));
    assert_eq!(summary(&named).2.as_deref(), Some("1xH100-80GB"));
    assert!(message(&named, "Sized").starts_with("1 of NVIDIA-H100-80GB-HBM3 a replica, as the spec asks"));

    let two = ollama(json!({ "accelerator": {}, "resources": { "limits": { "nvidia.com/gpu": "2" } } }));
    assert_eq!(summary(&two).2.as_deref(), Some("2xH100-80GB"));
    let limits = template(&decide_backend(&two, now()))["spec"]["containers"][0]["resources"]["limits"].clone();
    assert_eq!(limits, json!({ "nvidia.com/gpu": "2" }));
}

#[test]
fn of_several_products_none_is_preferred_that_the_spec_does_not_name() {
    let mut observation = ollama(json!({ "accelerator": {} }));
    let l4 = AcceleratorProfile {
        name: "l4".into(),
        product: "NVIDIA-L4".into(),
        resource_name: None,
        memory: None,
        gpus_per_node: 1,
        node_selector: BTreeMap::from([("pool".into(), "l4".into())]),
    };
    observation.settings = Arc::new(facts::Settings { accelerator_profiles: vec![l4], ..Default::default() });
    assert_eq!(summary(&observation).2.as_deref(), Some("1xGPU"));
    observation.backend.spec.ollama.as_mut().unwrap().accelerator.as_mut().unwrap().products = vec!["NVIDIA-L4".into()];
    assert_eq!(summary(&observation).2.as_deref(), Some("1xL4"));
    assert!(template(&decide_backend(&observation, now()))["spec"]["affinity"].to_string().contains("pool"));
}

#[rstest]
#[case(json!({ "image": "ollama/ollama" }), "InvalidImage", "append :<tag>")]
#[case(json!({ "keepAlive": "-1" }), "InvalidSpec", "spec.ollama.keepAlive: `-1` is not a duration")]
#[case(json!({ "cache": { "nodeLocal": {} } }), "InvalidSpec", "spec.ollama.cache.nodeLocal")]
#[case(json!({ "resources": { "limits": { "nvidia.com/gpu": "1" } } }), "InvalidAccelerator", "spec.ollama.accelerator is not set")]
#[case(
    json!({ "accelerator": {}, "resources": { "limits": { "nvidia.com/gpu": "lots" } } }),
    "InvalidAccelerator",
    "write a whole number"
)]
#[case(json!({ "accelerator": {}, "resources": { "limits": { "nvidia.com/gpu": "0" } } }), "InvalidAccelerator", "write a whole number")]
#[case(json!({ "accelerator": { "resourceName": "amd.com/gpu" } }), "NoAcceleratorMatches", "spec.ollama.accelerator.resourceName")]
fn what_cannot_be_is_refused_before_a_pod_exists(#[case] fields: Value, #[case] reason: &str, #[case] words: &str) {
    let observation = ollama(fields);
    let decision = decide_backend(&observation, now());
    assert_eq!(ready(&decision), ("False".into(), reason.into()));
    assert_eq!(condition(&decision, "Stalled"), Some(("True".into(), reason.into())));
    assert!(matches!(decision.children, Children::Keep));
    let message = message(&observation, "Ready");
    assert!(message.contains(words), "{message}");
}

#[test]
fn no_accelerator_yet_is_waited_for_and_those_that_run_stay_when_the_last_node_goes() {
    let mut observation = ollama(json!({ "accelerator": {} }));
    let mut running = carried_out(observation.clone());
    observation.nodes = Arc::default();
    let decision = decide_backend(&observation, now());
    assert_eq!(condition(&decision, "Sized"), Some(("False".into(), "NoAcceleratorKnown".into())));
    assert_eq!(condition(&decision, "Stalled"), None, "a node may come");
    running.nodes = Arc::default();
    let decision = decide_backend(&running, now());
    assert_eq!(ready(&decision), ("True".into(), "Available".into()));
    assert_eq!(condition(&decision, "Sized").unwrap().0, "True");
}

#[test]
fn a_new_default_image_waits_for_the_next_change_of_the_spec_or_the_annotation() {
    let mut observation = carried_out(ollama(json!({})));
    let defaults = OllamaDefaults { image: Some("registry.example/ollama:1".into()) };
    observation.settings = Arc::new(facts::Settings { ollama: defaults, ..Default::default() });
    let image = |observation: &Observation| template(&decide_backend(observation, now()))["spec"]["containers"][0]["image"].clone();
    assert_eq!(image(&observation), DEFAULT_IMAGE);
    let waits = message(&observation, "UpdateAvailable");
    assert!(waits.contains("registry.example/ollama:1") && waits.contains("next change of spec.ollama"), "{waits}");

    let mut asked = observation.clone();
    asked.backend.metadata.annotations = Some(BTreeMap::from([("quartermaster.dev/upgrade".into(), "1".into())]));
    assert_eq!(image(&asked), "registry.example/ollama:1");
    let mut changed = observation.clone();
    changed.backend.spec.ollama.as_mut().unwrap().context_length = Some(4096);
    assert_eq!(image(&changed), "registry.example/ollama:1");
    observation.backend.spec.ollama.as_mut().unwrap().image = Some("ollama/ollama:0.40.0".into());
    assert_eq!(image(&observation), "ollama/ollama:0.40.0");
}

#[test]
fn the_context_is_shown_where_the_spec_says_it_and_unknown_otherwise() {
    let context = |observation: &Observation| decide_backend(observation, now()).status.summary.unwrap().context_length;
    assert_eq!(context(&ollama(json!({}))), None);
    let mut observation = carried_out(ollama(json!({ "contextLength": 4096, "accelerator": {} })));
    assert_eq!(context(&observation), Some(4096));
    // The choice in force stays where no other can be made; what the spec says holds all the same.
    observation.nodes = Arc::default();
    observation.backend.spec.ollama.as_mut().unwrap().context_length = Some(8192);
    assert_eq!(context(&observation), Some(8192));
}

#[test]
fn a_pull_that_fails_says_why() {
    let failing = |message: &str, restarts: u32| {
        let mut observation = carried_out(ollama(json!({})));
        let deployment = observation.deployment.as_mut().unwrap();
        (deployment.ready_replicas, deployment.available_replicas) = (0, 0);
        let ended = Terminated { reason: "Error".into(), message: message.into(), exit_code: 1, started_at: None };
        let waiting = Waiting { reason: "CrashLoopBackOff".into(), message: String::new() };
        observation.pods = vec![PodFacts {
            name: "pod-0".into(),
            template_hash: "a".into(),
            restarts,
            waiting: Some(waiting),
            terminated: Some(ended),
            ..PodFacts::default()
        }];
        observation
    };
    let missing = failing("pulling manifest\nError: pull model manifest: file does not exist", 1);
    let decision = decide_backend(&missing, now());
    assert_eq!(ready(&decision), ("False".into(), "ModelNotFound".into()));
    assert_eq!(condition(&decision, "Stalled"), Some(("True".into(), "ModelNotFound".into())));
    assert!(message(&missing, "Ready").contains("correct spec.ollama.model"));
    let unknown = failing("Error: max retries exceeded", 1);
    assert_eq!(ready(&decide_backend(&unknown, now())), ("False".into(), "CrashLoop".into()));
}

/// A backend all of whose pods answer the kubelet, and this is what checks of the only one found.
fn checked(outcome: CheckOutcome, failures: u32) -> Observation {
    let mut observation = carried_out(carried_out(ollama(json!({}))));
    let checks = KeyFacts { name: "pod-0".into(), outcome: Some(outcome), failures, succeeded_before: true };
    observation.engines = vec![EngineFacts { checks, kv_cache_tokens: None }];
    observation
}

#[rstest]
#[case::well(CheckOutcome::Healthy, 0, "Healthy", "Available", "ModelLoaded")]
#[case::its_queue_is_full(CheckOutcome::RateLimited, 0, "Healthy", "Available", "ModelLoaded")]
#[case::gone_once(CheckOutcome::ModelNotListed, 1, "Healthy", "Available", "ModelLoaded")]
#[case::gone(CheckOutcome::ModelNotListed, 2, "Unhealthy", "ModelNotListed", "ModelNotListed")]
#[case::one_failure(CheckOutcome::Failed { message: "500".into() }, 1, "Healthy", "Available", "ModelLoaded")]
#[case::failures(CheckOutcome::Failed { message: "500".into() }, 3, "Unhealthy", "EngineUnhealthy", "ModelLoaded")]
#[case::silence(CheckOutcome::Unreachable { message: "no answer in 5 s".into() }, 3, "Unhealthy", "Unreachable", "ModelLoaded")]
fn what_the_pods_answer_is_shown_where_it_counts(
    #[case] outcome: CheckOutcome,
    #[case] failures: u32,
    #[case] state: &str,
    #[case] reason: &str,
    #[case] loaded: &str,
) {
    let observation = checked(outcome, failures);
    let decision = decide_backend(&observation, now());
    let status = |holds: bool| String::from(if holds { "True" } else { "False" });
    let well = state == "Healthy";
    assert_eq!(serde_json::to_value(&decision.status.health).unwrap(), json!({ "state": state }));
    assert_eq!(ready(&decision), (status(well), reason.into()));
    assert_eq!(condition(&decision, "Available"), Some((status(well), reason.into())));
    assert_eq!(condition(&decision, "ModelLoaded"), Some((status(loaded == "ModelLoaded"), loaded.into())));
    assert_eq!(decision.status.observed_kv_cache_tokens, None);
    assert!(!matches!(decision.children, Children::Keep), "health keeps nothing from being made");
}

#[test]
fn a_model_that_is_gone_is_told_with_the_pod_to_delete() {
    let message = message(&checked(CheckOutcome::ModelNotListed, 2), "Ready");
    assert!(message.contains("pod-0") && message.contains("qwen3:8b") && message.contains("delete the pod"), "{message}");
    assert!(!message.contains("spec.vllm"), "{message}");
}

#[test]
fn health_is_shown_beside_a_spec_that_cannot_be_carried_out() {
    let mut observation = checked(CheckOutcome::ModelNotListed, 2);
    observation.backend.spec.ollama.as_mut().unwrap().image = Some("ollama/ollama".into());
    let decision = decide_backend(&observation, now());
    assert_eq!(ready(&decision), ("False".into(), "InvalidImage".into()));
    assert_eq!(serde_json::to_value(&decision.status.health).unwrap(), json!({ "state": "Unhealthy" }));
    for type_ in ["Available", "ModelLoaded"] {
        assert_eq!(condition(&decision, type_), Some(("False".into(), "ModelNotListed".into())), "{type_}");
    }
}

#[test]
fn a_duration_that_cannot_be_read_stalls_and_keeps_what_runs() {
    let mut observation = checked(CheckOutcome::Healthy, 0);
    let interval = Some(crate::api::duration::Duration("soon".into()));
    observation.backend.spec.health_check = Some(crate::api::external::HealthCheck { interval, ..Default::default() });
    let decision = decide_backend(&observation, now());
    assert_eq!(ready(&decision), ("False".into(), "InvalidSpec".into()));
    assert!(matches!(decision.children, Children::Keep));
    assert!(decision.status.sizing.is_some());
    assert!(message(&observation, "Ready").starts_with("spec.healthCheck: `soon`"));
}

#[test]
fn there_is_no_key_that_calls_could_find_refused() {
    let mut observation = checked(CheckOutcome::Healthy, 0);
    let set_aside = BTreeMap::from([("api-key".to_owned(), SetAside::KeyRejected)]);
    observation.traffic = TrafficFacts::Heard { set_aside };
    let decision = decide_backend(&observation, now());
    assert_eq!(ready(&decision), ("True".into(), "Available".into()));
    assert_eq!(serde_json::to_value(&decision.status.health).unwrap(), json!({ "state": "Healthy" }));
}

#[test]
fn the_same_facts_again_write_no_status() {
    let mut observation = checked(CheckOutcome::ModelNotListed, 2);
    observation.backend.status = Some(decide_backend(&observation, now()).status);
    let decision = decide_backend(&observation, now());
    assert_eq!(Some(decision.status), observation.backend.status);
    assert!(decision.events.is_empty(), "{:?}", decision.events);
}

#[test]
fn zero_replicas_are_ready_and_no_pod_is_asked_for() {
    let mut observation = ollama(json!({}));
    observation.backend.spec.replicas = Some(0);
    let decision = decide_backend(&carried_out(observation), now());
    assert_eq!(ready(&decision), ("True".into(), "ScaledToZero".into()));
    assert_eq!(condition(&decision, "ModelLoaded"), Some(("False".into(), "ScaledToZero".into())));
}
