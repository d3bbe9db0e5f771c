//! From an InferenceBackend to its entry in the plan.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};
use url::Url;

use super::plan::{Backend, Header, HeaderValue, Price, Server};
use super::route_problem::Problem;
use crate::api::InferenceBackend;
use crate::api::external::ExternalSpec;
use crate::api::format::Format;
use crate::api::ollama::OllamaSpec;
use crate::api::price::{Amount, ParsePriceError, PriceSpec};
use crate::api::references::SecretKeyReference;
use crate::api::vllm::VllmSpec;
use crate::decide::backend::children::{self, service};
use crate::decide::backend::{hosted, provider};
use crate::decide::request::operation::Operation;
use crate::decide::request::upstream;

/// An InferenceBackend and what of its Secrets is no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendFacts {
    /// The object, with its status.
    pub backend: InferenceBackend,
    /// What `external.tls.caSecretKeyRef` refers to (PEM), where it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
}

/// The entry of a backend, and what of the gateway's Secret it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the plan says of it.
    pub backend: Backend,
    /// By name of an entry of the gateway's Secret: the key of a Secret that it is a copy of.
    pub secret_entries: BTreeMap<String, SecretKeyReference>,
}

/// The entry of a backend in the plan of its namespace.
///
/// # Errors
///
/// Why no call can be sent to it.
pub fn entry(facts: &BackendFacts, namespace: &str) -> Result<Entry, Problem> {
    let name = facts.backend.name_any();
    let spec = &facts.backend.spec;
    let mut entry = match (&spec.vllm, &spec.ollama, &spec.external) {
        (Some(vllm), ..) => of_vllm(&facts.backend, vllm, &name, namespace),
        (None, Some(ollama), _) => of_ollama(ollama, &name, namespace),
        (None, None, Some(external)) => of_external(external, facts.certificate_authority.as_ref(), &name, namespace)?,
        (None, None, None) => return Err(unusable(&name, "has none of spec.vllm, spec.ollama, spec.external")),
    };
    if let Some(stated) = &spec.price {
        entry.backend.price = Some(price(stated).map_err(|error| unusable(&name, &format!("cannot be priced: {error}")))?);
    }
    entry.backend.region.clone_from(&spec.region);
    Ok(entry)
}

fn unusable(backend: &str, problem: &str) -> Problem {
    Problem::BackendUnusable { backend: backend.to_owned(), problem: problem.to_owned() }
}

fn of_vllm(backend: &InferenceBackend, vllm: &VllmSpec, name: &str, namespace: &str) -> Entry {
    let sizing = backend.status.as_ref().and_then(|status| status.sizing.as_ref());
    let key = SecretKeyReference { name: children::child_name(name), key: children::API_KEY.to_owned() };
    Entry {
        backend: Backend {
            server: Server::Vllm,
            formats: upstream::formats(Server::Vllm, &vllm.model),
            model: vllm.served_model_name.clone().unwrap_or_else(|| name.to_owned()),
            base_url: service::endpoint(name, namespace),
            self_hosted: true,
            keys: vec![children::API_KEY.to_owned()],
            headers: Vec::new(),
            certificate_authority: None,
            context_length: sizing.and_then(|sizing| sizing.context_length).or(vllm.context_length),
            max_output_tokens: None,
            // One's own accelerators are paid for whether they answer or not.
            price: Some(Price::default()),
            region: None,
        },
        secret_entries: BTreeMap::from([(secret_entry(name, children::API_KEY), key)]),
    }
}

/// Ollama knows a model by the name that it was pulled by, and asks for no key.
fn of_ollama(ollama: &OllamaSpec, name: &str, namespace: &str) -> Entry {
    Entry {
        backend: Backend {
            server: Server::Ollama,
            formats: upstream::formats(Server::Ollama, &ollama.model),
            model: ollama.model.clone(),
            base_url: service::endpoint(name, namespace),
            self_hosted: true,
            keys: Vec::new(),
            headers: Vec::new(),
            certificate_authority: None,
            // Ollama's own default follows from the memory that it finds, which nobody tells.
            context_length: ollama.context_length,
            max_output_tokens: None,
            price: Some(Price::default()),
            region: None,
        },
        secret_entries: BTreeMap::new(),
    }
}

fn of_external(spec: &ExternalSpec, authority: Option<&String>, name: &str, namespace: &str) -> Result<Entry, Problem> {
    let endpoint = provider::endpoint(spec, namespace)
        .ok_or_else(|| unusable(name, "has no address: set spec.external.baseURL or spec.external.serviceRef"))?;
    if !endpoint.parse::<Url>().is_ok_and(|url| url.has_host()) {
        return Err(unusable(name, "has an address that is no URL: correct spec.external.baseURL"));
    }
    let server = Server::Provider(spec.provider);
    let base_url = endpoint.trim_end_matches('/').to_owned();
    let no_path = |format: &&Format| upstream::url(server, &base_url, operation(**format)).is_none();
    if let Some(format) = spec.formats.iter().find(no_path) {
        let problem = format!(
            "cannot be called in the format {format}, for which its provider has no path: remove it from spec.external.formats, or \
             set spec.external.provider to OpenAICompatible"
        );
        return Err(unusable(name, &problem));
    }
    let mut secret_entries = BTreeMap::new();
    for key in &spec.api_keys {
        secret_entries.insert(secret_entry(name, &key.name), key.secret_key_ref.clone());
    }
    let mut headers = Vec::new();
    for header in &spec.headers {
        let value = match (&header.value, &header.secret_key_ref) {
            (Some(value), _) => HeaderValue::Plain(value.clone()),
            (None, Some(reference)) => {
                let entry = header_entry(name, &header.name);
                secret_entries.insert(entry.clone(), reference.clone());
                HeaderValue::SecretEntry(entry)
            }
            (None, None) => continue,
        };
        headers.push(Header { name: header.name.clone(), value });
    }
    let backend = Backend {
        server,
        formats: if spec.formats.is_empty() {
            upstream::formats(server, &spec.model)
        } else {
            spec.formats.iter().copied().collect()
        },
        model: spec.model.clone(),
        base_url,
        self_hosted: spec.service_ref.is_some(),
        keys: spec.api_keys.iter().map(|key| key.name.clone()).collect(),
        headers,
        certificate_authority: authority.cloned(),
        context_length: spec.context_length.or_else(|| hosted::context_length(spec.provider, &spec.model)),
        max_output_tokens: hosted::max_output_tokens(spec.provider, &spec.model),
        price: None,
        region: None,
    };
    Ok(Entry { backend, secret_entries })
}

/// What is asked of a server most in a format.
fn operation(format: Format) -> Operation {
    match format {
        Format::ChatCompletions => Operation::ChatCompletions,
        Format::Responses => Operation::Responses,
        Format::Messages => Operation::Messages,
        Format::Embeddings => Operation::Embeddings,
        Format::Completions => Operation::Completions,
    }
}

/// The entry of the gateway's Secret that holds a key of a backend.
pub fn secret_entry(backend: &str, key: &str) -> String {
    format!("{backend}.{key}")
}

/// The entry of the gateway's Secret that holds the value of a header. Names of backends and keys have no dot, so that no key
/// has the same; what a Secret's entry may not have in its name is written as its code.
fn header_entry(backend: &str, header: &str) -> String {
    let mut entry = format!("{backend}.header.");
    for byte in header.to_ascii_lowercase().bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => entry.push(char::from(byte)),
            _ => entry.push_str(&format!("_{byte:02x}")),
        }
    }
    entry
}

/// Prices as the plan has them. Cached input costs what other input costs where nothing is said of it, and so does what is
/// written into a cache.
fn price(spec: &PriceSpec) -> Result<Price, ParsePriceError> {
    let input = spec.input_per_million_tokens.millionths()?;
    let or_input = |amount: Option<&Amount>| amount.map_or(Ok(input), |amount| amount.millionths());
    Ok(Price {
        input,
        output: spec.output_per_million_tokens.millionths()?,
        cached_input: or_input(spec.cached_input_per_million_tokens.as_ref())?,
        cache_write: or_input(spec.cache_write_per_million_tokens.as_ref())?,
    })
}

#[cfg(test)]
#[path = "backend_tests.rs"]
mod tests;
