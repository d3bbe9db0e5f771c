//! Whether the Secrets that a spec refers to can be used.

use std::collections::BTreeMap;

use super::facts::SecretFacts;
use super::verdicts::Readiness;
use crate::api::conditions::reasons;
use crate::api::external::ExternalSpec;
use crate::api::references::SecretKeyReference;
use crate::api::vllm::VllmSpec;

/// A reference to a Secret, and the field that makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// The field, for messages.
    pub field: String,
    /// What it refers to.
    pub target: &'a SecretKeyReference,
}

/// The Secrets that a self-hosted backend refers to.
pub fn of_vllm(spec: &VllmSpec) -> Vec<Reference<'_>> {
    let token = spec.hugging_face.as_ref().and_then(|hub| hub.token_secret_key_ref.as_ref());
    token.map(|target| Reference { field: "spec.vllm.huggingFace.tokenSecretKeyRef".to_owned(), target }).into_iter().collect()
}

/// The Secrets that an external backend refers to.
pub fn of_external(spec: &ExternalSpec) -> Vec<Reference<'_>> {
    let keys = spec
        .api_keys
        .iter()
        .map(|key| Reference { field: format!("spec.external.apiKeys[{}].secretKeyRef", key.name), target: &key.secret_key_ref });
    let headers = spec.headers.iter().filter_map(|header| {
        let target = header.secret_key_ref.as_ref()?;
        Some(Reference { field: format!("spec.external.headers[{}].secretKeyRef", header.name), target })
    });
    let authority = spec.tls.as_ref().and_then(|tls| tls.ca_secret_key_ref.as_ref());
    let authority = authority.map(|target| Reference { field: "spec.external.tls.caSecretKeyRef".to_owned(), target });
    keys.chain(headers).chain(authority).collect()
}

/// The first reference that cannot be used, as a state of readiness. A Secret that does not exist yet is waited for; one that
/// lacks the key, or has it empty, wants somebody to change it.
pub fn problem(references: &[Reference<'_>], secrets: &BTreeMap<String, SecretFacts>) -> Option<Readiness> {
    references.iter().find_map(|Reference { field, target }| {
        let SecretKeyReference { name, key } = target;
        match secrets.get(name) {
            None | Some(SecretFacts::Missing) => Some(Readiness::waiting(
                reasons::SECRET_NOT_FOUND,
                format!("{field} names the Secret {name}, which does not exist: create it with the key {key}"),
            )),
            Some(SecretFacts::Unreadable { message }) => Some(Readiness::progressing(
                reasons::PROGRESSING_WITH_RETRY,
                format!("{field} names the Secret {name}, which cannot be read: {message}"),
            )),
            Some(SecretFacts::Present { keys, .. }) => match keys.get(key) {
                Some(true) => None,
                Some(false) => Some(Readiness::stalled(
                    reasons::SECRET_EMPTY,
                    format!("{field}: the key {key} of the Secret {name} is empty: give it a value"),
                )),
                None => Some(Readiness::stalled(
                    reasons::SECRET_KEY_MISSING,
                    format!("{field}: the Secret {name} has no key {key}: add it, or name another key"),
                )),
            },
        }
    })
}
