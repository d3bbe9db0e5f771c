use serde_json::json;

use super::super::testing;
use super::*;
use crate::api::external::Provider;

fn made(spec: serde_json::Value) -> Result<Entry, Problem> {
    entry(&testing::backend("it", spec), "team")
}

#[test]
fn a_vllm_backend_is_called_at_its_service_with_its_generated_key_and_costs_nothing() {
    let entry = made(json!({ "vllm": { "model": "meta-llama/Llama-3.3-70B-Instruct", "contextLength": 8192 } })).unwrap();
    let backend = entry.backend;
    assert_eq!(backend.server, Server::Vllm);
    assert_eq!(backend.model, "it");
    assert_eq!(backend.base_url, "http://it-backend.team.svc:8000");
    assert_eq!(backend.keys, ["api-key"]);
    assert_eq!(backend.context_length, Some(8192));
    assert_eq!(backend.price, Some(Price::default()));
    assert!(backend.self_hosted);
    let generated = SecretKeyReference { name: "it-backend".into(), key: "api-key".into() };
    assert_eq!(entry.secret_entries, BTreeMap::from([("it.api-key".to_owned(), generated)]));
}

#[test]
fn the_context_of_a_vllm_backend_is_the_one_that_was_chosen() {
    let mut facts = testing::backend("it", json!({ "vllm": { "model": "a/b", "contextLength": 8192, "servedModelName": "b" } }));
    let sizing = crate::api::status::SizingStatus { context_length: Some(4096), ..Default::default() };
    facts.backend.status = Some(crate::api::InferenceBackendStatus { sizing: Some(sizing), ..Default::default() });
    let backend = entry(&facts, "team").unwrap().backend;
    assert_eq!((backend.context_length, backend.model.as_str()), (Some(4096), "b"));
}

#[test]
fn an_ollama_backend_is_called_without_a_key_by_the_name_of_its_model_and_costs_nothing() {
    let entry = made(json!({ "ollama": { "model": "qwen3:8b", "contextLength": 8192 } })).unwrap();
    let backend = entry.backend;
    assert_eq!((backend.server, backend.model.as_str()), (Server::Ollama, "qwen3:8b"));
    assert_eq!(backend.base_url, "http://it-backend.team.svc:8000");
    assert_eq!(backend.formats, upstream::formats(Server::Vllm, "any"), "it speaks all formats");
    assert_eq!((backend.keys.is_empty(), entry.secret_entries.is_empty()), (true, true));
    assert_eq!((backend.context_length, backend.price, backend.self_hosted), (Some(8192), Some(Price::default()), true));
    let unknown = made(json!({ "ollama": { "model": "qwen3:8b" } })).unwrap().backend;
    assert_eq!(unknown.context_length, None, "Ollama's own default depends on its machine");
    let price = json!({ "inputPerMillionTokens": "1", "outputPerMillionTokens": "1" });
    let priced = made(json!({ "ollama": { "model": "qwen3:8b" }, "price": price })).unwrap().backend;
    assert_eq!(priced.price.map(|price| price.output), Some(1_000_000));
}

#[test]
fn a_hosted_model_has_its_providers_address_and_what_the_table_knows() {
    let keys = json!([
        { "name": "first", "secretKeyRef": { "name": "anthropic", "key": "api-key" } },
        { "name": "second", "secretKeyRef": { "name": "anthropic", "key": "other" } },
    ]);
    let entry =
        made(json!({ "external": { "provider": "Anthropic", "model": "claude-haiku-4-5", "apiKeys": keys }, "region": "eu" }))
            .unwrap();
    let backend = entry.backend;
    assert_eq!(backend.server, Server::Provider(Provider::Anthropic));
    assert_eq!(backend.base_url, "https://api.anthropic.com");
    assert_eq!(backend.context_length, Some(200_000));
    assert_eq!(backend.max_output_tokens, hosted::max_output_tokens(Provider::Anthropic, "claude-haiku-4-5"));
    assert!(backend.max_output_tokens.is_some());
    assert_eq!(backend.keys, ["first", "second"]);
    assert_eq!(backend.price, None, "an unknown price is not free");
    assert_eq!(backend.region.as_deref(), Some("eu"));
    assert!(!backend.self_hosted);
    assert_eq!(entry.secret_entries.keys().collect::<Vec<_>>(), ["it.first", "it.second"]);
}

#[test]
fn a_service_of_the_namespace_counts_as_ones_own() {
    let backend = testing::own("it", &["ChatCompletions"]);
    let backend = entry(&backend, "team").unwrap().backend;
    assert!(backend.self_hosted);
    assert_eq!(backend.base_url, "http://it.team.svc:8000");
    assert_eq!(backend.formats, [Format::ChatCompletions].into());
    assert!(backend.keys.is_empty());
}

#[test]
fn secret_values_of_headers_have_entries_that_no_key_can_have() {
    let headers = json!([
        { "name": "OpenAI-Organization", "value": "org-1" },
        { "name": "X-Team!", "secretKeyRef": { "name": "corp", "key": "team" } },
        { "name": "X_Team", "secretKeyRef": { "name": "corp", "key": "other" } },
    ]);
    let entry = made(json!({ "external": {
        "provider": "OpenAICompatible", "baseURL": "https://llm.example/v1/", "model": "m", "headers": headers,
        "tls": { "caSecretKeyRef": { "name": "ca", "key": "ca.crt" } },
    } }))
    .unwrap();
    assert_eq!(entry.backend.base_url, "https://llm.example/v1");
    assert_eq!(entry.backend.headers[0].value, HeaderValue::Plain("org-1".into()));
    assert_eq!(entry.backend.headers[1].value, HeaderValue::SecretEntry("it.header.x-team_21".into()));
    let entries: Vec<_> = entry.secret_entries.iter().map(|(entry, reference)| (entry.as_str(), reference.key.as_str())).collect();
    assert_eq!(entries, [("it.header.x-team_21", "team"), ("it.header.x_5fteam", "other")]);
    let allowed = |entry: &str| entry.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    assert!(entry.secret_entries.keys().all(|entry| allowed(entry)), "Kubernetes allows these names");
}

#[test]
fn certificates_of_a_private_authority_are_part_of_the_plan() {
    let mut facts = testing::hosted("it", &["Messages"]);
    facts.certificate_authority = Some("-----BEGIN CERTIFICATE-----".into());
    assert_eq!(entry(&facts, "team").unwrap().backend.certificate_authority, facts.certificate_authority);
}

#[test]
fn what_cached_input_costs_is_what_other_input_costs_unless_it_is_said() {
    let of = |price: serde_json::Value| {
        let external = json!({ "provider": "OpenAICompatible", "baseURL": "https://llm.example", "model": "m" });
        made(json!({ "external": external, "price": price }))
    };
    let prices = of(json!({ "inputPerMillionTokens": "0.20", "outputPerMillionTokens": "0.60" })).unwrap().backend.price;
    assert_eq!(prices, Some(Price { input: 200_000, output: 600_000, cached_input: 200_000, cache_write: 200_000 }));
    let prices = of(json!({
        "inputPerMillionTokens": "0.20", "outputPerMillionTokens": "0.60", "cachedInputPerMillionTokens": "0.02",
        "cacheWritePerMillionTokens": "0.25",
    }));
    let prices = prices.unwrap().backend.price;
    assert_eq!(prices, Some(Price { input: 200_000, output: 600_000, cached_input: 20_000, cache_write: 250_000 }));
    let problem = of(json!({ "inputPerMillionTokens": "a lot", "outputPerMillionTokens": "1" })).unwrap_err();
    assert!(problem.to_string().contains("a lot") && problem.to_string().contains("it"), "{problem}");
}

#[test]
fn a_backend_that_cannot_be_called_says_why() {
    let azure = json!({ "external": { "provider": "AzureOpenAI", "model": "m" } });
    assert!(made(azure).unwrap_err().to_string().contains("spec.external.baseURL"));
    let no_url = json!({ "external": { "provider": "OpenAICompatible", "model": "m", "baseURL": "http://[" } });
    assert!(made(no_url).unwrap_err().to_string().contains("no URL"));
    assert!(made(json!({})).is_err());
}

#[test]
fn a_format_for_which_the_provider_has_no_path_is_refused() {
    let keys = json!([{ "name": "first", "secretKeyRef": { "name": "anthropic", "key": "api-key" } }]);
    let external = json!({ "provider": "Anthropic", "model": "m", "apiKeys": keys, "formats": ["Messages", "ChatCompletions"] });
    let problem = made(json!({ "external": external })).unwrap_err().to_string();
    assert!(problem.contains("ChatCompletions") && problem.contains("spec.external.formats"), "{problem}");
}
