//! The whole decision about a self-hosted backend, from observation to status.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::facts::{
    DeploymentFacts, Failed, HubFacts, NodeFacts, Observation, PodFacts, SecretFacts, SecretValue, Terminated, Unschedulable,
    Waiting,
};
use super::*;
use crate::api::InferenceBackend;
use crate::decide::decision::{ApplyMode, ChildIdentity, Refusal, RefusalCause};

fn node(name: &str, product: &str, memory_mebibytes: u64, gpus: u64) -> NodeFacts {
    NodeFacts {
        name: name.into(),
        labels: BTreeMap::from([
            ("nvidia.com/gpu.product".into(), product.into()),
            ("nvidia.com/gpu.memory".into(), memory_mebibytes.to_string()),
            ("nvidia.com/gpu.count".into(), gpus.to_string()),
        ]),
        allocatable: BTreeMap::from([("nvidia.com/gpu".into(), gpus)]),
        ..NodeFacts::default()
    }
}

fn h100() -> NodeFacts {
    node("h100-0", "NVIDIA-H100-80GB-HBM3", 81559, 8)
}

pub(super) fn observe(spec: Value) -> Observation {
    let backend: InferenceBackend = serde_json::from_value(json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend",
        "metadata": { "name": "model", "namespace": "team", "uid": "u-1", "generation": 1 }, "spec": spec,
    }))
    .unwrap();
    Observation {
        observed_at: None,
        backend,
        nodes: Arc::new(vec![h100()]),
        settings: Arc::default(),
        hub: HubFacts::NotAsked,
        secrets: BTreeMap::new(),
        deployment: None,
        pods: Vec::new(),
        api_key_exists: false,
        entropy: "ab".repeat(32),
        health: None,
        engines: Vec::new(),
        traffic: Default::default(),
        budgets: Vec::new(),
        refusals: Vec::new(),
        outdated_schema: Arc::default(),
    }
}

fn qwen() -> Observation {
    observe(json!({ "vllm": { "model": "Qwen/Qwen3-32B" } }))
}

pub(super) fn now() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

fn child<'a>(decision: &'a Decision<InferenceBackendStatus>, kind: &str) -> &'a Value {
    let Children::Exactly(children) = &decision.children else { panic!("nothing is made: {:?}", decision.status.conditions) };
    &children.iter().find(|child| child.identity.kind == kind).unwrap().object
}

pub(super) fn template(decision: &Decision<InferenceBackendStatus>) -> &Value {
    &child(decision, "Deployment")["spec"]["template"]
}

pub(super) fn ready(decision: &Decision<InferenceBackendStatus>) -> (String, String) {
    condition(decision, "Ready").unwrap()
}

pub(super) fn condition(decision: &Decision<InferenceBackendStatus>, type_: &str) -> Option<(String, String)> {
    let condition = decision.status.conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((condition.status.clone(), condition.reason.clone()))
}

/// The observation after the decision was carried out, and every pod answers.
pub(super) fn carried_out(mut observation: Observation) -> Observation {
    let decision = decide(&observation, now());
    let deployment = child(&decision, "Deployment");
    let replicas = observation.backend.spec.replicas.unwrap_or(1);
    observation.deployment = Some(DeploymentFacts {
        annotations: serde_json::from_value(deployment["metadata"]["annotations"].clone()).unwrap(),
        generation: 1,
        observed_generation: 1,
        replicas,
        status_replicas: replicas,
        updated_replicas: replicas,
        ready_replicas: replicas,
        available_replicas: replicas,
        ..DeploymentFacts::default()
    });
    observation.pods = (0..replicas)
        .map(|number| PodFacts {
            name: format!("pod-{number}"),
            template_hash: "a".into(),
            ready: true,
            started: true,
            ..PodFacts::default()
        })
        .collect();
    observation.api_key_exists = true;
    observation.backend.status = Some(decision.status);
    observation
}

#[test]
fn one_line_makes_all_children_and_then_becomes_ready() {
    let decision = decide(&qwen(), now());
    let Children::Exactly(children) = &decision.children else { panic!() };
    let kinds: Vec<_> = children.iter().map(|child| child.identity.kind.as_str()).collect();
    assert_eq!(kinds, ["ServiceAccount", "Secret", "NetworkPolicy", "Service", "Deployment"]);
    assert_eq!(ready(&decision), ("False".into(), "Progressing".into()));
    assert_eq!(ready(&decide(&carried_out(qwen()), now())), ("True".into(), "Available".into()));
}

#[test]
fn deciding_again_changes_no_pod_and_no_status() {
    let observation = carried_out(carried_out(qwen()));
    let decision = decide(&observation, now());
    assert_eq!(Some(&decision.status), observation.backend.status.as_ref());
    assert!(decision.events.is_empty(), "{:?}", decision.events);
}

#[test]
fn a_lost_status_changes_no_pod() {
    let observation = carried_out(qwen());
    let before = decide(&observation, now());
    let lost = Observation { backend: InferenceBackend { status: None, ..observation.backend.clone() }, ..observation };
    let after = decide(&lost, now());
    assert_eq!(child(&before, "Deployment"), child(&after, "Deployment"));
    assert_eq!(before.status.sizing, after.status.sizing);
}

#[test]
fn better_nodes_change_no_pod_and_wait_until_the_spec_changes() {
    let mut observation = carried_out(qwen());
    let before = template(&decide(&observation, now())).clone();
    observation.nodes = Arc::new(vec![h100(), node("h200-0", "NVIDIA-H200", 143_771, 8)]);
    let decision = decide(&observation, now());
    assert_eq!(template(&decision), &before);
    assert_eq!(condition(&decision, "UpdateAvailable"), Some(("True".into(), "BetterChoice".into())));
    observation.backend.spec.replicas = Some(3);
    assert_eq!(template(&decide(&observation, now())), &before, "scaling takes no other choice");
    observation.backend.spec.vllm.as_mut().unwrap().extra_args = vec!["--enable-prefix-caching".into()];
    let taken = decide(&observation, now());
    assert_eq!(taken.status.sizing.as_ref().unwrap().summary(), "1xH200 TP1");
    assert_eq!(condition(&taken, "UpdateAvailable").unwrap().0, "False");
}

#[test]
fn a_new_default_image_waits_and_the_annotation_takes_it() {
    let mut observation = carried_out(qwen());
    let settings = facts::Settings {
        vllm: crate::api::configuration::VllmDefaults { image: Some("vllm/vllm-openai:v0.34.0".into()), ..Default::default() },
        ..Default::default()
    };
    observation.settings = Arc::new(settings);
    let decision = decide(&observation, now());
    assert_eq!(condition(&decision, "UpdateAvailable"), Some(("True".into(), "BetterChoice".into())));
    assert_eq!(template(&decision)["spec"]["containers"][0]["image"], "vllm/vllm-openai:v0.33.0");
    let told = |observation: &Observation| {
        let conditions = decide(observation, now()).status.conditions;
        conditions.into_iter().find(|condition| condition.type_ == "UpdateAvailable").unwrap().message
    };
    assert!(told(&observation).contains("with the next change of spec.vllm, or with the annotation quartermaster.dev/upgrade"));
    observation.backend.spec.vllm.as_mut().unwrap().upgrade =
        Some(crate::api::vllm::UpgradeSpec { type_: Some(crate::api::vllm::UpgradeType::Manual) });
    assert!(told(&observation).contains("it is taken only with the annotation quartermaster.dev/upgrade"));
    observation.backend.metadata.annotations = Some(BTreeMap::from([("quartermaster.dev/upgrade".into(), "1".into())]));
    assert_eq!(template(&decide(&observation, now()))["spec"]["containers"][0]["image"], "vllm/vllm-openai:v0.34.0");
}

#[test]
fn arguments_are_judged_by_the_version_that_runs() {
    let of = |image: Option<&str>, settings: Option<&str>| {
        let mut observation = observe(
            json!({ "vllm": { "model": "Qwen/Qwen3-32B", "image": image, "extraArgs": ["--option-of-tomorrow=1", "--max-lora-rank=24"] } }),
        );
        let vllm = crate::api::configuration::VllmDefaults { image: settings.map(str::to_owned), ..Default::default() };
        observation.settings = Arc::new(facts::Settings { vllm, ..Default::default() });
        ready(&decide(&observation, now())).1
    };
    assert_eq!(of(None, None), "InvalidArguments");
    assert_eq!(of(Some("mirror.example/vllm:v0.33.0-cu130"), None), "InvalidArguments");
    assert_eq!(of(Some("vllm/vllm-openai:v0.34.0"), None), "Progressing");
    assert_eq!(of(None, Some("vllm/vllm-openai:v0.34.0")), "Progressing");
    assert_eq!(of(Some("vllm/vllm-openai:v0.33.0"), Some("vllm/vllm-openai:v0.34.0")), "InvalidArguments");
}

#[test]
fn nodes_that_are_gone_for_a_while_change_nothing() {
    let mut observation = carried_out(qwen());
    let before = template(&decide(&observation, now())).clone();
    observation.nodes = Arc::default();
    let decision = decide(&observation, now());
    assert_eq!(template(&decision), &before);
    assert_eq!(ready(&decision), ("True".into(), "Available".into()));
}

#[test]
fn a_mistake_in_the_spec_keeps_what_runs_and_its_sizing() {
    let mut observation = carried_out(qwen());
    let sizing = observation.backend.status.as_ref().unwrap().sizing.clone();
    for (spec, reason) in [
        (json!({ "extraArgs": ["--tensor_parallel_size=2"] }), "InvalidArguments"),
        (json!({ "image": "vllm/vllm-openai" }), "InvalidImage"),
        (json!({ "env": [{ "name": "VLLM_API_KEY", "value": "x" }] }), "InvalidEnvironment"),
        (json!({ "parallelism": { "tensor": 3 } }), "InvalidParallelism"),
        (json!({ "contextLength": 10_000_000 }), "ContextTooLong"),
        (json!({ "cache": { "nodeLocal": {} } }), "InvalidSpec"),
    ] {
        let mut vllm = json!({ "model": "Qwen/Qwen3-32B" });
        vllm.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        observation.backend.spec.vllm = serde_json::from_value(vllm).unwrap();
        let decision = decide(&observation, now());
        assert_eq!(ready(&decision), ("False".into(), reason.into()));
        assert!(condition(&decision, "Stalled").is_some(), "{reason}");
        assert_eq!(decision.children, Children::Keep, "{reason}");
        assert_eq!(
            decision.status.sizing.as_ref().map(|sizing| sizing.summary()),
            sizing.as_ref().map(|sizing| sizing.summary()),
            "{reason}"
        );
        // It serves on, and that is told. Only a choice that was looked for and not found is not there.
        for type_ in ["Available", "ModelLoaded"] {
            assert_eq!(condition(&decision, type_).unwrap().0, "True", "{reason} {type_}");
        }
        let chosen = !["InvalidParallelism", "ContextTooLong"].contains(&reason);
        assert_eq!(condition(&decision, "Sized").unwrap().0, if chosen { "True" } else { "False" }, "{reason}");
        assert!(condition(&decision, "UpdateAvailable").is_some(), "{reason}");
    }
}

#[test]
fn a_mistake_before_anything_exists_tells_nothing_of_pods() {
    for vllm in [
        json!({ "model": "Qwen/Qwen3-32B", "image": "vllm/vllm-openai" }),
        json!({ "model": "Qwen/Qwen3-32B", "contextLength": 10_000_000 }),
        json!({ "model": "Qwen/Qwen3-32B", "cache": { "nodeLocal": {} } }),
    ] {
        let decision = decide(&observe(json!({ "vllm": vllm })), now());
        assert_eq!(condition(&decision, "Available"), None, "{vllm}");
    }
}

#[test]
fn the_cache_and_the_clocks_are_those_of_what_is_downloaded() {
    let of = |vllm: Value| {
        let decision = decide(&observe(json!({ "vllm": vllm })), now());
        let cache = template(&decision)["spec"]["volumes"][0]["emptyDir"]["sizeLimit"].clone();
        let disk = template(&decision)["spec"]["containers"][0]["resources"]["requests"]["ephemeral-storage"].clone();
        assert_eq!(cache, disk);
        let deadline = child(&decision, "Deployment")["spec"]["progressDeadlineSeconds"].clone();
        (cache, deadline, decision.status.sizing.unwrap().weight_bytes.unwrap())
    };
    let llama = json!({ "model": "acme/llama-70b", "architecture": { "weightBytes": 141_107_412_992_u64,
        "layers": 80, "attentionHeads": 64, "keyValueHeads": 8, "headDimension": 128, "hiddenSize": 8192, "intermediateSize": 28672,
        "vocabularySize": 128_256, "contextLength": 131_072, "dtype": "BFloat16" } });
    let plain = of(llama.clone());
    assert_eq!(plain, (json!("158Gi"), json!(2640), 141_107_412_992));
    let mut quantised = llama.clone();
    quantised["quantization"] = json!("FP8");
    let quantised = of(quantised);
    assert_eq!((&quantised.0, &quantised.1), (&plain.0, &plain.1));
    assert!(quantised.2 < 80_000_000_000);
    // 32 bits on disk, 16 in memory.
    let mut full = llama;
    full["architecture"]["dtype"] = json!("Float32");
    let full = of(full);
    assert_eq!((&full.0, full.2), (&plain.0, 141_107_412_992 / 2));
}

#[test]
fn a_pod_that_failed_is_told_with_the_kubelets_words_until_its_version_answers() {
    let at = |second: i64| Some(Timestamp::from_second(1_800_000_000 + second).unwrap());
    let failed = |second: i64, message: &str| PodFacts {
        created: at(second),
        template_hash: "a".into(),
        failed: Some(Failed { reason: "Evicted".into(), message: message.into() }),
        ..PodFacts::default()
    };
    let living = |second: i64| PodFacts { created: at(second), template_hash: "a".into(), ..PodFacts::default() };
    let mut observation = carried_out(qwen());
    observation.deployment.as_mut().unwrap().available_replicas = 0;
    observation.pods =
        vec![failed(2, "Usage of EmptyDir volume \"cache\" exceeds the limit \"81Gi\"."), failed(1, "older"), living(3)];
    let decision = decide(&observation, now());
    assert_eq!(ready(&decision), ("False".into(), "PodFailed".into()));
    assert!(condition(&decision, "Reconciling").is_some());
    let message = &decision.status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap().message;
    assert!(message.contains("Evicted: Usage of EmptyDir volume"), "{message}");
    observation.deployment.as_mut().unwrap().deadline_exceeded = true;
    let decision = decide(&observation, now());
    assert_eq!(ready(&decision).1, "PodFailed");
    assert!(condition(&decision, "Stalled").is_some());
    observation.deployment.as_mut().unwrap().deadline_exceeded = false;
    // What happened to an earlier version, or before a pod of this one answered, is over.
    let earlier = PodFacts { template_hash: "earlier".into(), ..failed(1, "old") };
    let answered = PodFacts { ready: true, started: true, ..living(2) };
    for pods in [vec![earlier, living(3)], vec![failed(1, "old"), answered, living(3)]] {
        observation.pods = pods;
        assert_eq!(ready(&decide(&observation, now())).1, "ModelLoading");
    }
}

#[test]
fn a_failed_pod_has_loaded_no_model() {
    let mut observation = carried_out(qwen());
    observation.pods[0].failed = Some(Failed { reason: "Evicted".into(), message: String::new() });
    assert_eq!(condition(&decide(&observation, now()), "ModelLoaded").unwrap().0, "False");
}

#[test]
fn a_secret_is_waited_for_and_a_wrong_one_stalls() {
    let mut observation = observe(json!({ "vllm": {
        "model": "Qwen/Qwen3-32B", "huggingFace": { "tokenSecretKeyRef": { "name": "hf", "key": "token" } },
    } }));
    let present = |key: &str, value| SecretFacts::Present { keys: BTreeMap::from([(key.to_owned(), value)]), version: "1".into() };
    let unread = |forbidden| SecretFacts::Unreadable { message: "no answer".into(), forbidden };
    for (facts, reason, state, next) in [
        (SecretFacts::Missing, "SecretNotFound", "Reconciling", Some(600)),
        (present("other", SecretValue::Line), "SecretKeyMissing", "Stalled", None),
        (present("token", SecretValue::Empty), "SecretEmpty", "Stalled", None),
        (present("token", SecretValue::Binary), "SecretInvalid", "Stalled", None),
        (unread(false), "ProgressingWithRetry", "Reconciling", Some(5)),
        (unread(true), "Forbidden", "Reconciling", Some(20)),
    ] {
        observation.secrets.insert("hf".into(), facts);
        // The same where the hub has to be asked, which cannot be done without the token.
        let mut unlisted = observation.clone();
        unlisted.backend.spec.vllm.as_mut().unwrap().model = "acme/own-model".into();
        unlisted.hub = HubFacts::Pending;
        for observation in [&observation, &unlisted] {
            let decision = decide(observation, now());
            assert_eq!(ready(&decision), ("False".into(), reason.into()));
            assert!(condition(&decision, state).is_some(), "{reason}");
            assert_eq!(decision.next.map(|next| next.as_secs()), next, "{reason}");
        }
    }
    observation.secrets.insert("hf".into(), present("token", SecretValue::Line));
    assert_eq!(ready(&decide(&observation, now())).1, "Progressing");
}

#[test]
fn suspended_nothing_is_made_and_the_state_is_still_shown() {
    let mut observation = carried_out(qwen());
    observation.backend.spec.suspend = Some(true);
    let decision = decide(&observation, now());
    assert_eq!(decision.children, Children::Keep);
    assert_eq!(condition(&decision, "Suspended"), Some(("True".into(), "Suspended".into())));
    assert_eq!(ready(&decision), ("True".into(), "Available".into()));
}

#[test]
fn an_old_generation_of_the_deployment_is_never_ready() {
    let mut observation = carried_out(qwen());
    observation.backend.spec.vllm.as_mut().unwrap().extra_args = vec!["--enable-prefix-caching".into()];
    assert_eq!(ready(&decide(&observation, now())), ("False".into(), "Progressing".into()));
    let mut observation = carried_out(qwen());
    observation.deployment.as_mut().unwrap().generation = 2;
    assert_eq!(ready(&decide(&observation, now())), ("False".into(), "Progressing".into()));
}

#[test]
fn no_replica_wanted_is_ready() {
    let mut observation = qwen();
    observation.backend.spec.replicas = Some(0);
    assert_eq!(ready(&decide(&carried_out(observation), now())), ("True".into(), "ScaledToZero".into()));
}

#[test]
fn what_keeps_a_pod_from_answering_is_told() {
    let waiting =
        |reason: &str| PodFacts { waiting: Some(Waiting { reason: reason.into(), message: "why".into() }), ..PodFacts::default() };
    let ended = |message: &str, reason: &str, restarts| PodFacts {
        restarts,
        terminated: Some(Terminated { reason: reason.into(), message: message.into(), exit_code: 1, started_at: None }),
        ..waiting("CrashLoopBackOff")
    };
    let unschedulable =
        PodFacts { unschedulable: Some(Unschedulable { since: now(), message: "0/3 nodes".into() }), ..PodFacts::default() };
    for (pod, reason, state) in [
        (PodFacts::default(), "ModelLoading", "Reconciling"),
        (unschedulable, "Unschedulable", "Reconciling"),
        (waiting("ImagePullBackOff"), "ImagePullFailed", "Reconciling"),
        (waiting("CreateContainerConfigError"), "ContainerConfigError", "Reconciling"),
        (ended("", "OOMKilled", 1), "OutOfMemory", "Stalled"),
        (ended("", "Error", 1), "CrashLoop", "Reconciling"),
        (ended("", "Error", 5), "CrashLoop", "Stalled"),
        (ended("torch.OutOfMemoryError: CUDA out of memory.", "Error", 1), "OutOfMemory", "Stalled"),
    ] {
        let mut observation = carried_out(qwen());
        let deployment = observation.deployment.as_mut().unwrap();
        (deployment.available_replicas, deployment.ready_replicas) = (0, 0);
        observation.pods = vec![pod];
        let decision = decide(&observation, now());
        assert_eq!(ready(&decision), ("False".into(), reason.into()));
        assert!(condition(&decision, state).is_some(), "{reason} {state}");
    }
}

#[test]
fn a_refused_child_is_told_and_named() {
    for (cause, reason, state) in [
        (RefusalCause::NameInUse, "NameInUse", "Stalled"),
        (RefusalCause::Leftover, "Progressing", "Reconciling"),
        (RefusalCause::Invalid, "InvalidTemplate", "Stalled"),
        (RefusalCause::Immutable, "ImmutableFieldConflict", "Stalled"),
        (RefusalCause::Forbidden, "Forbidden", "Reconciling"),
        (RefusalCause::QuotaExceeded, "PodCreationFailed", "Reconciling"),
        (RefusalCause::Transient, "ProgressingWithRetry", "Reconciling"),
    ] {
        let mut observation = qwen();
        let child = ChildIdentity { kind: "Deployment".into(), name: "model-backend".into() };
        observation.refusals =
            vec![Refusal { child, intent_hash: String::new(), cause, message: "said so: Deployment model-backend".into() }];
        let decision = decide(&observation, now());
        assert_eq!(ready(&decision), ("False".into(), reason.into()));
        assert!(condition(&decision, state).is_some(), "{reason}");
        let message = &decision.status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap().message;
        assert!(message.contains("model-backend"), "{message}");
    }
}

#[test]
fn nobody_is_blamed_for_pods_that_cannot_be_made_in_a_namespace_that_is_being_deleted() {
    let mut observation = carried_out(qwen());
    let deployment = observation.deployment.as_mut().unwrap();
    deployment.available_replicas = 0;
    let said = "pods is forbidden: unable to create new content in namespace team because it is being terminated";
    deployment.replica_failure = Some(said.into());
    let decision = decide(&observation, now());
    assert_eq!(ready(&decision), ("False".into(), "Progressing".into()));
    assert!(decision.events.iter().all(|event| !event.warning), "{:?}", decision.events);
}

#[test]
fn a_recorded_observation_is_read_back_and_decides_the_same() {
    let observation = carried_out(qwen());
    let recorded = serde_json::to_string(&observation).unwrap();
    assert!(!recorded.contains(&observation.entropy));
    let read: Observation = serde_json::from_str(&recorded).unwrap();
    assert_eq!(decide(&read, now()), decide(&observation, now()));
}

#[test]
fn an_api_key_is_made_of_random_bytes_or_not_at_all() {
    let secret = |observation: &Observation| {
        let Children::Exactly(children) = decide(observation, now()).children else { panic!() };
        children.into_iter().find(|child| child.identity.kind == "Secret").unwrap()
    };
    let made = secret(&qwen());
    assert_eq!(made.mode, ApplyMode::CreateOnce);
    assert!(made.object["data"]["api-key"].is_string());
    // Should it be gone by the time that the decision is carried out, the next decision draws another.
    let kept = secret(&carried_out(qwen()));
    assert_eq!((kept.mode, kept.identity), (ApplyMode::Keep, made.identity));
    assert_eq!(kept.object.get("data"), None);
}

#[test]
fn every_reason_is_in_the_list() {
    let mut seen = std::collections::BTreeSet::new();
    for observation in [qwen(), carried_out(qwen()), observe(json!({ "vllm": { "model": "acme/own" } })), observe(json!({}))] {
        let decision = decide(&observation, now());
        seen.extend(decision.status.conditions.into_iter().map(|condition| condition.reason));
    }
    let unlisted: Vec<_> = seen.iter().filter(|reason| !reasons::ALL.contains(&reason.as_str())).collect();
    assert!(unlisted.is_empty(), "{unlisted:?}");
}
