//! How each provider is called: address, authentication, formats, list of models, the smallest call. Pure data: a new provider
//! is one line in [`facts`] and one in [`formats`].

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::hosted::makes_embeddings;
use crate::api::external::{ExternalSpec, Provider};
use crate::api::format::Format;

/// How a key is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// Name of the header, in lower case.
    pub header: &'static str,
    /// What stands before the key in its value.
    pub prefix: &'static str,
}

const BEARER: Option<Authentication> = Some(Authentication { header: "authorization", prefix: "Bearer " });

const fn header(header: &'static str) -> Option<Authentication> {
    Some(Authentication { header, prefix: "" })
}

/// The form of a provider's API, as far as a check needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Api {
    /// OpenAI's, with the name of the field that limits a chat's output.
    OpenAI(&'static str),
    /// Anthropic's messages.
    Messages,
    /// Gemini's own.
    GenerateContent,
    /// Bedrock's Converse, which all its chat models and its API keys know.
    Converse,
    /// Calls need more than a key.
    Native,
}

/// What is known about a provider.
struct Facts {
    /// Its name in the table of hosted models.
    table_name: Option<&'static str>,
    /// Its own address; none where it depends on a region, a resource or the user.
    base_url: Option<&'static str>,
    /// The path that its API starts with, appended to an address that does not end in a version.
    version: &'static str,
    authentication: Option<Authentication>,
    /// Path of the list of models that a key may call.
    models: Option<&'static str>,
    api: Api,
}

#[rustfmt::skip]
const fn facts(provider: Provider) -> Facts {
    const fn row(table_name: Option<&'static str>, base_url: Option<&'static str>, version: &'static str,
                 authentication: Option<Authentication>, models: Option<&'static str>, api: Api) -> Facts {
        Facts { table_name, base_url, version, authentication, models, api }
    }
    // An Ollama server ignores max_completion_tokens, Mistral's refuses it: OpenAI-compatible ones get max_tokens.
    // Azure lists what the resource could deploy, not what it has deployed. Vertex AI takes no API key but OAuth tokens.
    // OpenRouter's list of all models is public; that of models/user needs the key.
    match provider {
        Provider::OpenAI           => row(Some("openai"),    Some("https://api.openai.com/v1"),                        "v1",        BEARER,                   Some("models"),               Api::OpenAI("max_completion_tokens")),
        Provider::Anthropic        => row(Some("anthropic"), Some("https://api.anthropic.com"),                        "v1",        header("x-api-key"),      Some("models?limit=1000"),    Api::Messages),
        Provider::Gemini           => row(Some("gemini"),    Some("https://generativelanguage.googleapis.com/v1beta"), "v1beta",    header("x-goog-api-key"), Some("models?pageSize=1000"), Api::GenerateContent),
        Provider::Groq             => row(Some("groq"),      Some("https://api.groq.com/openai/v1"),                   "openai/v1", BEARER,                   Some("models"),               Api::OpenAI("max_completion_tokens")),
        Provider::OpenRouter       => row(None,              Some("https://openrouter.ai/api/v1"),                     "api/v1",    BEARER,                   Some("models/user"),          Api::OpenAI("max_tokens")),
        Provider::AzureOpenAI      => row(Some("azure"),     None,                                                     "openai/v1", header("api-key"),        None,                         Api::OpenAI("max_completion_tokens")),
        Provider::Bedrock          => row(Some("bedrock"),   None,                                                     "",          BEARER,                   None,                         Api::Converse),
        Provider::VertexAI         => row(Some("vertex"),    Some("https://aiplatform.googleapis.com"),                "",          None,                     None,                         Api::Native),
        Provider::LMStudio         => row(None,              None,                                                     "v1",        BEARER,                   Some("models"),               Api::OpenAI("max_tokens")),
        Provider::OpenAICompatible => row(None,              None,                                                     "v1",        BEARER,                   Some("models"),               Api::OpenAI("max_tokens")),
    }
}

/// The version of Anthropic's API that calls ask for (platform.claude.com, "Versions"); the newer 2026-10-21 refuses
/// sampling parameters, which a check does not need to know.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// The provider's name in the table of hosted models.
pub(super) fn table_name(provider: Provider) -> Option<&'static str> {
    facts(provider).table_name
}

/// The provider's own address. `None` where only the user knows it: a resource of Azure OpenAI, a region of Bedrock, a
/// server of one's own.
pub fn base_url(provider: Provider) -> Option<&'static str> {
    facts(provider).base_url
}

/// Where an external backend is called: its Service, its baseURL, or the provider's own address.
pub fn endpoint(external: &ExternalSpec, namespace: &str) -> Option<String> {
    match (&external.service_ref, &external.base_url) {
        (Some(service), _) => Some(format!("http://{}.{namespace}.svc:{}", service.name, service.port)),
        (None, Some(base)) => Some(base.clone()),
        (None, None) => base_url(external.provider).map(str::to_owned),
    }
}

/// The formats that a provider speaks itself to whoever has an API key: what the gateway can call without an adapter. Where a
/// provider speaks another one for each maker of models, the model's name tells.
///
/// Not here are layers that lose much (Anthropic's for OpenAI's clients, which its documentation calls one for tests) and calls
/// that need more than a key (Vertex AI). What stands behind OpenAICompatible may speak more: `spec.external.formats` says so.
pub fn formats(provider: Provider, model: &str) -> BTreeSet<Format> {
    use Format::{ChatCompletions, Completions, Embeddings, Messages, Responses};
    let formats: &[Format] = match provider {
        Provider::OpenAI => &[ChatCompletions, Completions, Embeddings, Responses],
        Provider::Anthropic => &[Messages],
        Provider::Gemini => &[ChatCompletions, Embeddings],
        Provider::Groq => &[ChatCompletions, Responses],
        Provider::OpenRouter | Provider::LMStudio => &[ChatCompletions, Completions, Embeddings, Responses, Messages],
        Provider::AzureOpenAI if model.contains("claude") => &[Messages],
        Provider::AzureOpenAI => &[ChatCompletions, Embeddings, Responses],
        Provider::Bedrock if model.contains("anthropic.") => &[Messages],
        Provider::Bedrock if model.contains("openai.") => &[ChatCompletions, Responses],
        // These only know Bedrock's own API.
        Provider::Bedrock if ["amazon.", "meta.", "cohere.", "ai21."].iter().any(|maker| model.contains(maker)) => &[],
        Provider::Bedrock => &[ChatCompletions],
        Provider::VertexAI => &[],
        Provider::OpenAICompatible => &[ChatCompletions, Completions, Embeddings],
    };
    formats.iter().copied().collect()
}

/// The field that limits the output of a chat in OpenAI's format.
pub fn chat_output_limit(provider: Provider) -> &'static str {
    match facts(provider).api {
        Api::OpenAI(field) => field,
        // Bedrock's documentation maps this one. Gemini's layer takes both.
        Api::Converse => "max_completion_tokens",
        Api::Messages | Api::GenerateContent | Api::Native => "max_tokens",
    }
}

/// How a key is sent; `None` for a provider that takes no API key.
pub fn authentication(provider: Provider) -> Option<Authentication> {
    facts(provider).authentication
}

/// Headers that every call to the provider carries besides the key.
pub fn required_headers(provider: Provider) -> &'static [(&'static str, &'static str)] {
    match facts(provider).api {
        Api::Messages => &[("anthropic-version", ANTHROPIC_VERSION)],
        Api::OpenAI(_) | Api::GenerateContent | Api::Converse | Api::Native => &[],
    }
}

/// Whether the provider has a list of the models that a key may call.
pub fn lists_models(provider: Provider) -> bool {
    facts(provider).models.is_some()
}

/// Path and query of the list of models, below the API's version.
pub fn models_path(provider: Provider) -> Option<&'static str> {
    facts(provider).models
}

/// Whether a refusal of a call without content says something about the key. Bedrock answers 403 to a path that the key's
/// policy leaves out, Vertex AI to every call without an OAuth token.
pub fn refusal_is_about_the_key(provider: Provider) -> bool {
    matches!(facts(provider).api, Api::OpenAI(_) | Api::Messages | Api::GenerateContent)
}

/// The smallest call of a model: one token of output.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Path below the API's version.
    pub path: String,
    /// The body, sent as JSON.
    pub body: Value,
}

/// The smallest call of a model; `None` where a call needs more than an API key.
pub fn probe(provider: Provider, model: &str) -> Option<Probe> {
    let embeddings = makes_embeddings(provider, model);
    let (path, body) = match facts(provider).api {
        Api::OpenAI(_) if embeddings => ("embeddings".to_owned(), json!({ "model": model, "input": "." })),
        Api::OpenAI(limit) => {
            let mut body = json!({ "model": model, "messages": [{ "role": "user", "content": "." }] });
            if let Some(fields) = body.as_object_mut() {
                fields.insert(limit.to_owned(), 1.into());
            }
            ("chat/completions".to_owned(), body)
        }
        Api::Messages => {
            let body = json!({ "model": model, "max_tokens": 1, "messages": [{ "role": "user", "content": "." }] });
            ("messages".to_owned(), body)
        }
        Api::GenerateContent => {
            let model = segment(model.strip_prefix("models/").unwrap_or(model));
            let content = json!({ "role": "user", "parts": [{ "text": "." }] });
            if embeddings {
                (format!("models/{model}:embedContent"), json!({ "content": content }))
            } else {
                let body = json!({ "contents": [content], "generationConfig": { "maxOutputTokens": 1 } });
                (format!("models/{model}:generateContent"), body)
            }
        }
        // Bedrock's models for embeddings each have a body of their own.
        Api::Converse if embeddings => return None,
        Api::Converse => {
            let message = json!({ "role": "user", "content": [{ "text": "." }] });
            let body = json!({ "messages": [message], "inferenceConfig": { "maxTokens": 1 } });
            (format!("model/{}/converse", segment(model)), body)
        }
        Api::Native => return None,
    };
    Some(Probe { path, body })
}

/// A model's name as one segment of a path. The schema of the name leaves only the slash to encode.
fn segment(model: &str) -> String {
    model.replace('/', "%2F")
}

/// The address of a call: a path below an address that may or may not end in the API's version already.
///
/// `https://host`, `https://host/` and `https://host/v1` with `models` give `https://host/v1/models`; an address that ends in
/// another version, such as `/api/paas/v4`, keeps it. Gemini's address for OpenAI clients gives that of its own API.
pub fn join(provider: Provider, base: &str, path: &str) -> String {
    let base = base.trim_end_matches('/');
    let base = match facts(provider).api {
        Api::GenerateContent => base.strip_suffix("/openai").unwrap_or(base),
        Api::OpenAI(_) | Api::Messages | Api::Converse | Api::Native => base,
    };
    join_below(base, facts(provider).version, path)
}

/// The address of a call: a path below a version, which the end of the address may have already, or another one in its place.
pub fn join_below(base: &str, version: &str, path: &str) -> String {
    let base = base.trim_end_matches('/');
    let segments: Vec<&str> = base.split_once("://").map_or(base, |(_, rest)| rest).split('/').skip(1).collect();
    let missing = if segments.last().is_some_and(|last| is_version(last)) { "" } else { remainder(&segments, version) };
    [base, missing, path].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

/// What a path lacks of the version's segments, when its end has the beginning of them: `/openai` lacks only the `v1` of
/// `openai/v1`.
fn remainder<'version>(segments: &[&str], version: &'version str) -> &'version str {
    match (segments.last(), version.split_once('/')) {
        (Some(last), Some((first, rest))) if *last == first => rest,
        _ => version,
    }
}

/// `v1`, `v1beta`, `v4`.
fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|rest| {
        rest.starts_with(|first: char| first.is_ascii_digit()) && rest.chars().all(|character| character.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::references::ServiceReference;

    const ALL: [Provider; 10] = [
        Provider::OpenAI,
        Provider::Anthropic,
        Provider::Gemini,
        Provider::Groq,
        Provider::OpenRouter,
        Provider::AzureOpenAI,
        Provider::Bedrock,
        Provider::VertexAI,
        Provider::LMStudio,
        Provider::OpenAICompatible,
    ];

    #[test]
    fn an_address_may_end_in_the_version_or_not() {
        use Provider::*;
        for (provider, base, expected) in [
            (OpenAICompatible, "http://h:8000", "http://h:8000/v1/models"),
            (OpenAICompatible, "http://h:8000/", "http://h:8000/v1/models"),
            (OpenAICompatible, "http://h:8000/v1", "http://h:8000/v1/models"),
            (OpenAICompatible, "http://h:8000/v1/", "http://h:8000/v1/models"),
            (OpenAICompatible, "https://h/api/paas/v4", "https://h/api/paas/v4/models"),
            (OpenAICompatible, "https://h/team/llm", "https://h/team/llm/v1/models"),
            (OpenAICompatible, "https://v1", "https://v1/v1/models"),
            (OpenAICompatible, "http://[::1]:8000", "http://[::1]:8000/v1/models"),
            (OpenAICompatible, "https://h/vllm", "https://h/vllm/v1/models"),
            (Anthropic, "https://api.anthropic.com", "https://api.anthropic.com/v1/models"),
            (Anthropic, "https://r.services.ai.azure.com/anthropic", "https://r.services.ai.azure.com/anthropic/v1/models"),
            (AzureOpenAI, "https://r.openai.azure.com", "https://r.openai.azure.com/openai/v1/models"),
            (AzureOpenAI, "https://r.openai.azure.com/openai/", "https://r.openai.azure.com/openai/v1/models"),
            (AzureOpenAI, "https://r.openai.azure.com/openai/v1/", "https://r.openai.azure.com/openai/v1/models"),
            (Groq, "https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1/models"),
            (Gemini, "https://g.googleapis.com", "https://g.googleapis.com/v1beta/models"),
            (Gemini, "https://g.googleapis.com/v1beta/openai/", "https://g.googleapis.com/v1beta/models"),
            (Bedrock, "https://bedrock-runtime.us-east-1.amazonaws.com/", "https://bedrock-runtime.us-east-1.amazonaws.com/models"),
        ] {
            assert_eq!(join(provider, base, "models"), expected, "{provider:?} {base}");
        }
    }

    #[test]
    fn every_providers_own_address_joins_without_doubling_its_version() {
        for provider in ALL {
            let Some(base) = base_url(provider) else { continue };
            let joined = join(provider, base, "x");
            assert_eq!(joined.matches("/v1").count(), usize::from(!facts(provider).version.is_empty()), "{joined}");
            assert!(base.starts_with("https://"), "{base}");
        }
    }

    #[test]
    fn a_key_goes_into_the_providers_own_header() {
        assert_eq!(authentication(Provider::Anthropic).map(|how| (how.header, how.prefix)), Some(("x-api-key", "")));
        assert_eq!(authentication(Provider::Gemini).map(|how| how.header), Some("x-goog-api-key"));
        assert_eq!(authentication(Provider::AzureOpenAI).map(|how| how.header), Some("api-key"));
        assert_eq!(authentication(Provider::OpenAI), Some(Authentication { header: "authorization", prefix: "Bearer " }));
        assert_eq!(authentication(Provider::VertexAI), None);
        assert_eq!(required_headers(Provider::Anthropic), [("anthropic-version", "2023-06-01")]);
        assert!(ALL.into_iter().filter(|&provider| !required_headers(provider).is_empty()).eq([Provider::Anthropic]));
    }

    #[test]
    fn the_smallest_call_has_the_form_of_the_providers_api_and_one_token() {
        let of = |provider, model| probe(provider, model).unwrap();
        let chat = of(Provider::OpenAI, "gpt-4o");
        assert_eq!((chat.path.as_str(), &chat.body["max_completion_tokens"]), ("chat/completions", &json!(1)));
        assert_eq!(of(Provider::OpenAICompatible, "qwen3:8b").body["max_tokens"], json!(1));
        let messages = of(Provider::Anthropic, "claude-haiku-4-5");
        assert_eq!((messages.path.as_str(), &messages.body["max_tokens"]), ("messages", &json!(1)));
        assert_eq!(of(Provider::Gemini, "models/gemini-2.5-pro").path, "models/gemini-2.5-pro:generateContent");
        assert_eq!(of(Provider::Bedrock, "arn:aws:bedrock:x/y").path, "model/arn:aws:bedrock:x%2Fy/converse");
        assert_eq!(of(Provider::OpenAI, "text-embedding-3-small").path, "embeddings");
        assert_eq!(probe(Provider::VertexAI, "gemini-3.8-flash"), None);
    }

    #[test]
    fn a_service_of_the_namespace_comes_before_every_other_address() {
        let mut external = ExternalSpec {
            provider: Provider::OpenAI,
            model: "m".into(),
            base_url: None,
            service_ref: None,
            api_keys: vec![],
            context_length: None,
            headers: vec![],
            tls: None,
            formats: vec![],
        };
        assert_eq!(endpoint(&external, "team").as_deref(), Some("https://api.openai.com/v1"));
        external.base_url = Some("https://proxy.example.com".into());
        assert_eq!(endpoint(&external, "team").as_deref(), Some("https://proxy.example.com"));
        external.service_ref = Some(ServiceReference { name: "ollama".into(), port: 11434 });
        assert_eq!(endpoint(&external, "team").as_deref(), Some("http://ollama.team.svc:11434"));
        external = ExternalSpec { provider: Provider::Bedrock, base_url: None, service_ref: None, ..external };
        assert_eq!(endpoint(&external, "team"), None);
    }
}
