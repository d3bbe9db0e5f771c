//! Whether the Secrets that a spec refers to can be used.

use std::collections::BTreeMap;
use std::time::Duration;

use super::facts::{SecretFacts, SecretValue};
use crate::api::conditions::reasons;
use crate::api::external::ExternalSpec;
use crate::api::references::SecretKeyReference;
use crate::api::vllm::VllmSpec;
use crate::decide::readiness::Readiness;

/// Time until a Secret is read again that could not be read.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// The same where the account lacks the right to it: as long as a child waits that is refused for lack of a right.
const READ_AGAIN_FORBIDDEN: Duration = Duration::from_secs(20);

/// A reference to a Secret, and the field that makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// The field, for messages.
    pub field: String,
    /// What it refers to.
    pub target: &'a SecretKeyReference,
    /// Whether the value is sent in a header.
    pub in_header: bool,
}

/// The Secrets that a self-hosted backend refers to.
pub fn of_vllm(spec: &VllmSpec) -> Vec<Reference<'_>> {
    let token = spec.hugging_face.as_ref().and_then(|hub| hub.token_secret_key_ref.as_ref());
    let field = || "spec.vllm.huggingFace.tokenSecretKeyRef".to_owned();
    token.map(|target| Reference { field: field(), target, in_header: true }).into_iter().collect()
}

/// The Secrets that an external backend refers to.
pub fn of_external(spec: &ExternalSpec) -> Vec<Reference<'_>> {
    of_keys(spec).into_iter().chain(of_every_call(spec)).collect()
}

/// The Secrets of the keys of an external backend, in the order of its keys. One that cannot be used costs only its key.
pub fn of_keys(spec: &ExternalSpec) -> Vec<Reference<'_>> {
    let field = |name: &str| format!("spec.external.apiKeys[{name}].secretKeyRef");
    let keys = spec.api_keys.iter();
    keys.map(|key| Reference { field: field(&key.name), target: &key.secret_key_ref, in_header: true }).collect()
}

/// The Secrets that every call of an external backend needs, whatever its key.
pub fn of_every_call(spec: &ExternalSpec) -> Vec<Reference<'_>> {
    let headers = spec.headers.iter().filter_map(|header| {
        let target = header.secret_key_ref.as_ref()?;
        Some(Reference { field: format!("spec.external.headers[{}].secretKeyRef", header.name), target, in_header: true })
    });
    let authority = spec.tls.as_ref().and_then(|tls| tls.ca_secret_key_ref.as_ref());
    let field = || "spec.external.tls.caSecretKeyRef".to_owned();
    headers.chain(authority.map(|target| Reference { field: field(), target, in_header: false })).collect()
}

/// The first reference that cannot be used, as a state of readiness.
pub fn problem(references: &[Reference<'_>], secrets: &BTreeMap<String, SecretFacts>) -> Option<Readiness> {
    references.iter().find_map(|reference| problem_of(reference, secrets))
}

/// Why a reference cannot be used, as a state of readiness. A Secret that does not exist yet, or cannot be read, is waited
/// for; one that lacks the key, or has what is of no use there, wants somebody to change it.
pub fn problem_of(reference: &Reference<'_>, secrets: &BTreeMap<String, SecretFacts>) -> Option<Readiness> {
    let Reference { field, target: SecretKeyReference { name, key }, in_header } = reference;
    let keys = match secrets.get(name) {
        None | Some(SecretFacts::Missing) => {
            return Some(Readiness::waiting(
                reasons::SECRET_NOT_FOUND,
                format!("{field} names the Secret {name}, which does not exist: create it with the key {key}"),
            ));
        }
        Some(SecretFacts::Unreadable { message, forbidden: false }) => {
            return Some(Readiness::progressing(
                reasons::PROGRESSING_WITH_RETRY,
                format!("{field} names the Secret {name}, which cannot be read and is tried again: {message}"),
            ));
        }
        Some(SecretFacts::Unreadable { message, forbidden: true }) => {
            return Some(Readiness::waiting(
                reasons::FORBIDDEN,
                format!(
                    "{field} names the Secret {name}, which the operator's account may not read: {message}; grant it, see \
                     deploy/rbac.yaml"
                ),
            ));
        }
        Some(SecretFacts::Present { keys, .. }) => keys,
    };
    let stalled = |reason, message| Some(Readiness::stalled(reason, message));
    match keys.get(key) {
        None => stalled(
            reasons::SECRET_KEY_MISSING,
            format!("{field}: the Secret {name} has no key {key}: add it, or name another key"),
        ),
        Some(SecretValue::Empty) => {
            stalled(reasons::SECRET_EMPTY, format!("{field}: the key {key} of the Secret {name} is empty: give it a value"))
        }
        Some(SecretValue::Binary) => stalled(
            reasons::SECRET_INVALID,
            format!("{field}: the key {key} of the Secret {name} holds no text: give it plain text, certificates as PEM"),
        ),
        Some(SecretValue::Text) if *in_header => stalled(
            reasons::SECRET_INVALID,
            format!(
                "{field}: the key {key} of the Secret {name} holds characters that no header may have: give it one line of \
                 printable ASCII characters"
            ),
        ),
        Some(SecretValue::Text | SecretValue::Line) => None,
    }
}

/// When to read those Secrets again that could not be read; `None` where all were.
pub fn read_again(secrets: &BTreeMap<String, SecretFacts>) -> Option<Duration> {
    let wait = |facts: &SecretFacts| match facts {
        SecretFacts::Unreadable { forbidden, .. } => Some(if *forbidden { READ_AGAIN_FORBIDDEN } else { READ_AGAIN }),
        SecretFacts::Missing | SecretFacts::Present { .. } => None,
    };
    secrets.values().filter_map(wait).min()
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
