//! Who calls: by the SHA-256 of the key that a request carries.

use std::collections::HashMap;
use std::sync::Arc;

use hyper::{HeaderMap, header};
use quartermaster_core::decide::gateway::plan::Caller;
use sha2::{Digest as _, Sha256};

use super::in_force::PlanError;

/// The header for keys of Anthropic's API.
const API_KEY: &str = "x-api-key";

/// The names of callers by the SHA-256 of their keys. What a request brings is hashed before it is compared, so that the time
/// of a look-up tells nothing of a key.
#[derive(Debug, Default)]
pub struct Callers(HashMap<[u8; 32], Arc<str>>);

impl Callers {
    /// Reads the hashes of a plan.
    ///
    /// # Errors
    ///
    /// When a hash is none, or belongs to two callers.
    pub fn new<'plan>(callers: impl IntoIterator<Item = (&'plan String, &'plan Caller)>) -> Result<Self, PlanError> {
        let mut by_hash: HashMap<[u8; 32], Arc<str>> = HashMap::new();
        for (name, caller) in callers {
            let name: Arc<str> = name.as_str().into();
            for text in &caller.key_hashes {
                let hash = read_hash(text).ok_or_else(|| PlanError::KeyHash { caller: name.to_string() })?;
                if let Some(other) = by_hash.insert(hash, Arc::clone(&name)) {
                    return Err(PlanError::KeyOfTwo { callers: [other.to_string(), name.to_string()] });
                }
            }
        }
        Ok(Self(by_hash))
    }

    /// Who calls. A request may carry two keys, as Anthropic's SDK sends a token beside a key where both are set: one that is
    /// known suffices.
    pub fn caller(&self, headers: &HeaderMap) -> Option<&Arc<str>> {
        let known = |key: &[u8]| self.0.get::<[u8; 32]>(&Sha256::digest(key.trim_ascii()).into());
        let token = headers.get(header::AUTHORIZATION).and_then(|value| known(bearer(value.as_bytes())?));
        token.or_else(|| known(headers.get(API_KEY)?.as_bytes()))
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
}

fn read_hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(hash)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rstest::rstest;

    use super::*;

    fn hash(key: &str) -> String {
        Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn callers(keys: &[(&str, &[&str])]) -> Result<Callers, PlanError> {
        let callers: BTreeMap<String, Caller> = keys
            .iter()
            .map(|(name, keys)| {
                let key_hashes = keys.iter().map(|key| hash(key)).collect();
                ((*name).to_owned(), Caller { key_hashes, ..Caller::default() })
            })
            .collect();
        Callers::new(&callers)
    }

    #[rstest]
    #[case::bearer(&[("authorization", "Bearer qm-1")], Some("coder"))]
    #[case::scheme_in_any_case(&[("authorization", "bEARER qm-1")], Some("coder"))]
    #[case::anthropic(&[("x-api-key", "qm-1")], Some("coder"))]
    #[case::second_key_in_a_rotation(&[("x-api-key", "qm-2")], Some("coder"))]
    #[case::another_caller(&[("x-api-key", "qm-3")], Some("planner"))]
    #[case::one_of_two_is_known(&[("authorization", "Bearer other"), ("x-api-key", "qm-3")], Some("planner"))]
    #[case::none(&[], None)]
    #[case::wrong(&[("authorization", "Bearer qm-4")], None)]
    #[case::another_scheme(&[("authorization", "Basic qm-1")], None)]
    #[case::no_scheme(&[("authorization", "qm-1")], None)]
    #[case::the_hash_is_no_key(&[("x-api-key", "8d0b46a0b2a2c4e2a1b4")], None)]
    fn a_key_says_who_calls(#[case] headers: &[(&'static str, &'static str)], #[case] expected: Option<&str>) {
        let callers = callers(&[("coder", &["qm-1", "qm-2"]), ("planner", &["qm-3"])]).unwrap();
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse::<hyper::header::HeaderValue>().unwrap()))
            .collect();
        assert_eq!(callers.caller(&headers).map(|name| &**name), expected);
    }

    #[test]
    fn a_key_of_two_callers_and_a_hash_that_is_none_are_refused() {
        assert!(matches!(callers(&[("a", &["k"]), ("b", &["k"])]), Err(PlanError::KeyOfTwo { .. })));
        for text in ["", "abc", &"g".repeat(64), &"A".repeat(64)] {
            let caller = Caller { key_hashes: [text.to_owned()].into(), ..Caller::default() };
            let callers = Callers::new([(&"coder".to_owned(), &caller)]);
            assert!(matches!(callers, Err(PlanError::KeyHash { .. })), "{text}");
        }
    }
}
