//! The Secret by which the agents of a pool call their namespace's gateway.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{BuildError, labels};
use crate::decide::decision::{ApplyMode, Child, ChildIdentity};
use crate::decide::gateway::children::service;
use crate::decide::owned::{self, Owner};
use crate::decide::pool::caller::{CallerSecret, Key};

/// Hexadecimal digits of the random part of a key: 256 bits.
const DIGITS: usize = 64;
/// What every key begins with, so that one that leaks is recognised.
const PREFIX: &str = "qm-";
/// The entries of the Secret, which are the variables by which the SDKs of OpenAI and Anthropic are told what to call.
pub const ENTRIES: [&str; 4] = ["OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"];

/// The Secret that there should be, and the hash of the key in it.
#[derive(Debug)]
pub struct Made {
    /// The Secret.
    pub child: Child,
    /// SHA-256 of the key that the agents should have.
    pub key_hash: Option<String>,
}

/// Name of the Secret.
pub fn name(pool: &str) -> String {
    format!("{pool}-caller")
}

/// The Secret `<pool>-caller`; none for a pool without a key. `entropy`: random bytes in hexadecimal, of which a new key is made.
///
/// # Errors
///
/// A key is to be made, and `entropy` has fewer than 64 digits, or other characters.
pub fn build(owner: Owner<'_>, key: &Key, entropy: &str) -> Result<Option<Made>, BuildError> {
    let name = name(owner.name);
    let mut metadata = owned::metadata(owner, name.clone(), labels(owner.name));
    let (key_hash, data, mode) = match key {
        Key::None => return Ok(None),
        Key::Unused => (None, None, ApplyMode::Keep),
        Key::Stays { hash, .. } => (Some(hash.clone()), None, ApplyMode::Keep),
        Key::Made(secret) => {
            let given = entropy.bytes().filter(u8::is_ascii_hexdigit).count();
            if given < DIGITS || given != entropy.len() {
                return Err(BuildError::DrawKey { given, needed: DIGITS });
            }
            let key = format!("{PREFIX}{entropy}");
            let key_hash: String = Sha256::digest(&key).iter().map(|byte| format!("{byte:02x}")).collect();
            let secret = CallerSecret { key_hash: key_hash.clone(), ..secret.clone() };
            // The first one is made only where there is none; one that takes its place replaces it.
            let mode = if secret.rotated_at.is_none() { ApplyMode::CreateOnce } else { ApplyMode::Apply };
            metadata.annotations = Some(secret.annotations());
            (Some(key_hash), Some(entries(&key, owner.namespace)), mode)
        }
    };
    let secret = Secret { metadata, type_: Some("Opaque".to_owned()), data, ..Secret::default() };
    let object =
        serde_json::to_value(&secret).map_err(|source| BuildError::Serialize { kind: "Secret", name: name.clone(), source })?;
    Ok(Some(Made { child: Child { identity: ChildIdentity { kind: "Secret".to_owned(), name }, object, mode }, key_hash }))
}

fn entries(key: &str, namespace: &str) -> BTreeMap<String, ByteString> {
    // Anthropic's SDK adds the version itself.
    let anthropic = service::endpoint(namespace);
    let openai = format!("{anthropic}/v1");
    let [openai_key, openai_url, anthropic_key, anthropic_url] = ENTRIES;
    [(openai_key, key), (openai_url, openai.as_str()), (anthropic_key, key), (anthropic_url, anthropic.as_str())]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), ByteString(value.as_bytes().to_vec())))
        .collect()
}

/// The variables of the agents that the Secret holds.
pub fn environment(pool: &str) -> Vec<(&'static str, Value)> {
    let reference = |entry: &'static str| (entry, json!({ "valueFrom": { "secretKeyRef": { "name": name(pool), "key": entry } } }));
    ENTRIES.into_iter().map(reference).collect()
}
