//! The Secret with the generated API key.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::{API_KEY, BuildError, Plan, child, metadata};
use crate::decide::decision::{ApplyMode, Child};

/// Hexadecimal digits of an API key: 128 bits.
const DIGITS: usize = 32;

/// The Secret `<backend>-backend` with the API key `entropy`, random bytes in hexadecimal. It is made once: another key
/// would lock out every pod that runs. Without entropy it exists already, and is kept.
///
/// # Errors
///
/// `entropy` has fewer than 32 digits, or other characters.
pub fn build(plan: &Plan<'_>, entropy: Option<&str>) -> Result<Child, BuildError> {
    let mut secret = Secret { metadata: metadata(plan), type_: Some("Opaque".to_owned()), ..Secret::default() };
    let Some(entropy) = entropy else { return child(plan, "Secret", &secret, ApplyMode::Keep) };
    let given = entropy.bytes().filter(u8::is_ascii_hexdigit).count();
    if given < DIGITS || given != entropy.len() {
        return Err(BuildError::DrawApiKey { given, needed: DIGITS });
    }
    secret.data = Some(BTreeMap::from([(API_KEY.to_owned(), ByteString(entropy.as_bytes().to_vec()))]));
    child(plan, "Secret", &secret, ApplyMode::CreateOnce)
}
