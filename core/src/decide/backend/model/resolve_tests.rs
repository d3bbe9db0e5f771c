use serde_json::json;

use super::*;

fn spec(yaml: &str) -> VllmSpec {
    serde_saphyr::from_str(yaml).unwrap()
}

fn found() -> HubFacts {
    HubFacts::Found {
        config: json!({"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096, "max_position_embeddings": 8192}),
        weight_bytes: Some(16 << 30),
    }
}

#[test]
fn a_model_of_the_catalogue_needs_nobody_else() {
    let spec = spec("model: QWEN/qwen2.5-7b-instruct");
    assert!(!needs_hub(&spec));
    let Resolution::Known { architecture, sources, gated } = resolve(&spec, &HubFacts::NotAsked) else { panic!() };
    assert_eq!((architecture.attention_heads, architecture.key_value_heads), (Some(28), Some(4)));
    assert_eq!((sources, gated), (vec![Source::Catalogue], false));
}

#[test]
fn stated_fields_override_the_catalogue() {
    let spec = spec("{model: Qwen/Qwen2.5-7B-Instruct, architecture: {contextLength: 131072, parameters: 9000000000}}");
    let Resolution::Known { architecture, sources, .. } = resolve(&spec, &HubFacts::NotAsked) else { panic!() };
    assert_eq!(architecture.context_length, Some(131_072));
    assert_eq!((architecture.parameters, architecture.weight_bytes), (Some(9_000_000_000), None));
    assert_eq!(architecture.layers, Some(28));
    assert_eq!(sources, [Source::Spec, Source::Catalogue]);
}

#[test]
fn an_unknown_model_is_asked_of_the_hub() {
    let spec = spec("{model: somebody/new-model, architecture: {contextLength: 4096}}");
    assert!(needs_hub(&spec));
    assert_eq!(resolve(&spec, &HubFacts::NotAsked), Resolution::Pending);
    assert_eq!(resolve(&spec, &HubFacts::Pending), Resolution::Pending);
    let Resolution::Known { architecture, sources, .. } = resolve(&spec, &found()) else { panic!() };
    assert_eq!((architecture.context_length, architecture.layers), (Some(4096), Some(32)));
    assert_eq!(sources, [Source::Spec, Source::Hub]);
}

#[test]
fn a_stated_architecture_that_suffices_asks_nobody() {
    let spec = spec(
        "{model: somebody/new-model, architecture: {attentionHeads: 32, layers: 32, hiddenSize: 4096, parameters: 8000000000}}",
    );
    assert!(!needs_hub(&spec));
    assert!(matches!(resolve(&spec, &HubFacts::NotAsked), Resolution::Known { sources, .. } if sources == [Source::Spec]));
}

#[test]
fn a_model_of_a_volume_is_not_looked_up_by_its_name() {
    let spec = spec("model: pvc://models/Qwen");
    assert!(!needs_hub(&spec));
    let Resolution::Unknown { message, .. } = resolve(&spec, &HubFacts::NotAsked) else { panic!() };
    assert!(message.contains("attentionHeads, layers") && message.contains("parallelism.tensor"), "{message}");
}

#[test]
fn a_config_without_weights_says_which_field_helps() {
    let spec = spec("model: somebody/new-model");
    let hub = HubFacts::Found {
        config: json!({"num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 64}),
        weight_bytes: None,
    };
    let Resolution::Unknown { message, architecture } = resolve(&spec, &hub) else { panic!() };
    assert!(message.contains("weightBytes or parameters"), "{message}");
    assert_eq!(architecture.attention_heads, Some(8));
}

#[test]
fn a_gated_model_without_a_token_is_denied_before_a_pod_exists() {
    let gated = spec("model: meta-llama/Llama-3.3-70B-Instruct");
    let Resolution::AccessDenied { message } = resolve(&gated, &HubFacts::NotAsked) else { panic!() };
    assert!(message.contains("tokenSecretKeyRef"));
    let with_token = spec("{model: meta-llama/Llama-3.3-70B-Instruct, huggingFace: {tokenSecretKeyRef: {name: hf, key: token}}}");
    assert!(matches!(resolve(&with_token, &HubFacts::NotAsked), Resolution::Known { gated: true, .. }));
    let mirror = spec("{model: meta-llama/Llama-3.3-70B-Instruct, huggingFace: {endpoint: 'https://hub.example'}}");
    assert!(matches!(resolve(&mirror, &HubFacts::NotAsked), Resolution::Known { .. }));
}

#[test]
fn a_gated_model_of_the_catalogue_is_asked_for_with_its_token_and_only_a_clear_refusal_counts() {
    let of = |model: &str| spec(&format!("{{model: {model}, huggingFace: {{tokenSecretKeyRef: {{name: hf, key: token}}}}}}"));
    let gated = of("meta-llama/Llama-3.3-70B-Instruct");
    assert!(needs_access(&gated) && !needs_hub(&gated));
    assert!(!needs_access(&of("Qwen/Qwen2.5-7B-Instruct")) && !needs_access(&spec("model: meta-llama/Llama-3.3-70B-Instruct")));
    for denied in [HubFacts::AccessDenied, HubFacts::Refused] {
        assert!(matches!(refused_access(&gated, &denied), Some(Resolution::AccessDenied { .. })), "{denied:?}");
        assert_eq!(refused_access(&of("Qwen/Qwen2.5-7B-Instruct"), &denied), None);
    }
    assert!(matches!(refused_access(&gated, &HubFacts::NotFound), Some(Resolution::NotFound { .. })));
    assert_eq!(refused_access(&gated, &HubFacts::Pending), Some(Resolution::Pending));
    let message = || "no answer".to_owned();
    let goes_on =
        [HubFacts::NotAsked, found(), HubFacts::Failed { message: message() }, HubFacts::NotAllowed { message: message() }];
    for hub in goes_on {
        assert_eq!(refused_access(&gated, &hub), None, "{hub:?}");
        assert!(matches!(resolve(&gated, &hub), Resolution::Known { .. }), "{hub:?}");
    }
}

#[test]
fn a_refusal_that_does_not_speak_of_terms_is_most_likely_a_mistyped_name_and_with_a_token_a_wrong_token() {
    let mistyped = spec("model: somebody/new-modle");
    let Resolution::NotFound { message } = resolve(&mistyped, &HubFacts::Refused) else { panic!() };
    for words in ["does not exist, is private or gated", "spec.vllm.model", "spec.vllm.huggingFace.tokenSecretKeyRef"] {
        assert!(message.contains(words), "{message}");
    }
    let with_token = spec("{model: somebody/new-model, huggingFace: {tokenSecretKeyRef: {name: hf, key: token}}}");
    let Resolution::AccessDenied { message } = resolve(&with_token, &HubFacts::Refused) else { panic!() };
    assert!(message.contains("refuses the token of spec.vllm.huggingFace.tokenSecretKeyRef"), "{message}");
    let Resolution::NotFound { message } = resolve(&with_token, &HubFacts::NotFound) else { panic!() };
    assert!(message.contains("to the token of") && message.contains("spec.vllm.model"), "{message}");
}

#[test]
fn what_the_hub_refuses_or_lacks_is_told_apart() {
    let spec = spec("model: somebody/new-model");
    assert!(matches!(resolve(&spec, &HubFacts::AccessDenied), Resolution::AccessDenied { .. }));
    assert!(matches!(resolve(&spec, &HubFacts::NotFound), Resolution::NotFound { .. }));
    let Resolution::Failed { message } = resolve(&spec, &HubFacts::Failed { message: "timed out".into() }) else { panic!() };
    let Resolution::NotAllowed { message: refused } = resolve(&spec, &HubFacts::NotAllowed { message: "not there".into() }) else {
        panic!()
    };
    for (message, what) in [(message, "timed out"), (refused, "not there")] {
        for words in [what, "spec.vllm.huggingFace.endpoint", "spec.vllm.architecture", "spec.vllm.parallelism.tensor"] {
            assert!(message.contains(words), "{message}");
        }
    }
}
