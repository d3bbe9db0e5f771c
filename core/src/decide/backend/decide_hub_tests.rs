//! The whole decision about a self-hosted backend, where it depends on what the hub says of the model.

use std::collections::BTreeMap;

use serde_json::json;

use super::decide_tests::{carried_out, condition, now, observe, ready, template};
use super::facts::{HubFacts, SecretFacts, SecretValue};
use super::*;

/// What the hub says of a small model.
fn found() -> HubFacts {
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128_256,
        "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
    });
    HubFacts::Found { config, weight_bytes: Some(16_060_522_496) }
}

#[test]
fn a_hub_that_fails_later_changes_nothing() {
    let mut observation = observe(json!({ "vllm": { "model": "acme/own-model" } }));
    observation.hub = found();
    let mut observation = carried_out(observation);
    let before = template(&decide(&observation, now())).clone();
    for hub in [HubFacts::Pending, HubFacts::Failed { message: "no answer".into() }, HubFacts::NotFound] {
        observation.hub = hub;
        assert_eq!(template(&decide(&observation, now())), &before, "{:?}", observation.hub);
    }
}

#[test]
fn a_change_that_leaves_new_pods_without_the_model_changes_no_pod() {
    let token = json!({ "tokenSecretKeyRef": { "name": "hf", "key": "token" } });
    let gated = json!({ "vllm": { "model": "meta-llama/Llama-3.1-8B-Instruct", "huggingFace": token } });
    let mut observation = observe(gated);
    let secret = SecretFacts::Present { keys: BTreeMap::from([("token".into(), SecretValue::Line)]), version: "1".into() };
    observation.secrets.insert("hf".into(), secret);
    let observation = carried_out(observation);
    let before = template(&decide(&observation, now())).clone();
    let mut removed = observation.clone();
    removed.backend.spec.vllm.as_mut().unwrap().hugging_face = None;
    let decision = decide(&removed, now());
    assert_eq!(decision.children, Children::Keep);
    assert_eq!(ready(&decision), ("False".into(), "ModelAccessDenied".into()));
    assert!(condition(&decision, "Stalled").is_some());
    assert_eq!(condition(&decision, "Available").unwrap().0, "True");
    assert_eq!(decision.status.sizing, decide(&observation, now()).status.sizing);
    // With the token it goes on as before.
    removed.backend.spec.vllm.as_mut().unwrap().hugging_face = observation.backend.spec.vllm.as_ref().unwrap().hugging_face.clone();
    assert_eq!(template(&decide(&removed, now())), &before);
}

#[test]
fn a_change_waits_for_the_hub_and_is_carried_out_when_it_does_not_answer() {
    let mut observation = observe(json!({ "vllm": { "model": "acme/own-model" } }));
    observation.hub = found();
    let mut observation = carried_out(observation);
    observation.backend.spec.vllm.as_mut().unwrap().extra_args = vec!["--enable-prefix-caching".into()];
    for (hub, reason) in [
        (HubFacts::Pending, "ModelFactsPending"),
        (HubFacts::NotFound, "ModelNotFound"),
        (HubFacts::AccessDenied, "ModelAccessDenied"),
    ] {
        observation.hub = hub;
        let decision = decide(&observation, now());
        assert_eq!((&decision.children, ready(&decision).1.as_str()), (&Children::Keep, reason));
    }
    observation.hub = HubFacts::Failed { message: "no answer".into() };
    assert!(template(&decide(&observation, now())).to_string().contains("--enable-prefix-caching"));
}

#[test]
fn what_the_hub_says_of_an_unknown_model_is_told() {
    for (hub, reason, state) in [
        (HubFacts::Pending, "ModelFactsPending", "Reconciling"),
        (HubFacts::Failed { message: "no answer".into() }, "ModelFactsPending", "Reconciling"),
        (HubFacts::NotFound, "ModelNotFound", "Stalled"),
        (HubFacts::AccessDenied, "ModelAccessDenied", "Stalled"),
        (HubFacts::NotAllowed { message: "a loopback address".into() }, "EndpointNotAllowed", "Stalled"),
    ] {
        let mut observation = observe(json!({ "vllm": { "model": "acme/own-model" } }));
        observation.hub = hub;
        let decision = decide(&observation, now());
        assert_eq!(ready(&decision), ("False".into(), reason.into()));
        assert!(condition(&decision, state).is_some(), "{reason}");
        assert_eq!(condition(&decision, "Sized").unwrap().0, "Unknown", "{reason}");
        assert_eq!(decision.children, Children::Keep);
    }
}

#[test]
fn a_pinned_size_needs_no_hub() {
    for hub in [HubFacts::Failed { message: "no answer".into() }, HubFacts::NotAllowed { message: "a loopback address".into() }] {
        let mut observation = observe(json!({ "vllm": { "model": "acme/own-model", "parallelism": { "tensor": 2 } } }));
        observation.hub = hub;
        let decision = decide(&observation, now());
        assert_eq!(decision.status.sizing.as_ref().unwrap().summary(), "2xH100-80GB TP2");
        assert_eq!(condition(&decision, "Sized"), Some(("Unknown".into(), "ModelUnknown".into())));
        assert_eq!(ready(&decision), ("False".into(), "Progressing".into()));
    }
}

#[test]
fn a_gated_model_that_the_hub_refuses_to_the_token_gets_no_pod_and_loses_none() {
    let spec = json!({ "vllm": {
        "model": "meta-llama/Llama-3.3-70B-Instruct", "huggingFace": { "tokenSecretKeyRef": { "name": "hf", "key": "token" } },
    } });
    let mut observation = observe(spec);
    let token = BTreeMap::from([("token".to_owned(), SecretValue::Line)]);
    observation.secrets.insert("hf".into(), SecretFacts::Present { keys: token, version: "1".into() });
    let message = || "no answer".to_owned();
    for hub in [HubFacts::NotAsked, HubFacts::Failed { message: message() }, HubFacts::NotAllowed { message: message() }] {
        observation.hub = hub;
        let decision = decide(&observation, now());
        assert_eq!(decision.status.sizing.as_ref().unwrap().summary(), "4xH100-80GB TP4", "{:?}", observation.hub);
        assert!(matches!(decision.children, Children::Exactly(_)), "{:?}", observation.hub);
    }
    let running = carried_out(observation.clone());
    let before = decide(&running, now());
    for (hub, reason, state) in [
        (HubFacts::Pending, "ModelFactsPending", "Reconciling"),
        (HubFacts::AccessDenied, "ModelAccessDenied", "Stalled"),
        (HubFacts::Refused, "ModelAccessDenied", "Stalled"),
        (HubFacts::NotFound, "ModelNotFound", "Stalled"),
    ] {
        observation.hub = hub.clone();
        let decision = decide(&observation, now());
        assert_eq!(ready(&decision), ("False".into(), reason.into()));
        assert!(condition(&decision, state).is_some(), "{reason}");
        assert_eq!(decision.children, Children::Keep, "{reason}");
        // What it would get is shown all the same.
        assert_eq!(condition(&decision, "Sized").unwrap().0, "True", "{reason}");

        let mut running = running.clone();
        running.hub = hub.clone();
        let after = decide(&running, now());
        assert_eq!(template(&after), template(&before), "{reason}");
        assert_eq!(ready(&after), ready(&before), "{reason}");
        // Another model is another question, and until it is answered the pods of this one stay.
        running.backend.spec.vllm.as_mut().unwrap().model = "meta-llama/Llama-3.1-8B-Instruct".into();
        let decision = decide(&running, now());
        assert_eq!((ready(&decision).1, decision.children), (reason.into(), Children::Keep));
    }
    // What does not fit is told first: no token helps there.
    observation.backend.spec.vllm.as_mut().unwrap().model = "meta-llama/Llama-3.1-405B-Instruct".into();
    observation.hub = HubFacts::AccessDenied;
    assert_eq!(ready(&decide(&observation, now())).1, "DoesNotFit");
}
