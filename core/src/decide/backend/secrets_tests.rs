use rstest::rstest;
use serde_json::json;

use super::*;
use crate::decide::readiness::State;

#[rstest]
#[case(b"", SecretValue::Empty)]
#[case(b" \n\t", SecretValue::Empty)]
#[case(b"sk-1\n", SecretValue::Line)]
#[case(b"two words\tand a tab", SecretValue::Line)]
#[case(b"sk-1\nsk-2", SecretValue::Text)]
#[case(b"sk-\x01", SecretValue::Text)]
#[case(b"sk-\x7f", SecretValue::Text)]
#[case("clé".as_bytes(), SecretValue::Text)]
#[case(b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", SecretValue::Text)]
#[case(b"\xff\xfe", SecretValue::Binary)]
fn a_value_is_fit_for_what_its_bytes_are(#[case] value: &[u8], #[case] expected: SecretValue) {
    assert_eq!(SecretValue::of(value), expected);
}

fn token() -> VllmSpec {
    serde_json::from_value(json!({ "model": "a/b", "huggingFace": { "tokenSecretKeyRef": { "name": "hub", "key": "token" } } }))
        .unwrap()
}

#[rstest]
#[case(SecretFacts::Missing, State::Waiting, reasons::SECRET_NOT_FOUND, "create it with the key token", None)]
#[case(unreadable(false), State::Progressing, reasons::PROGRESSING_WITH_RETRY, "why", Some(READ_AGAIN))]
#[case(unreadable(true), State::Waiting, reasons::FORBIDDEN, "deploy/rbac.yaml", Some(READ_AGAIN_FORBIDDEN))]
#[case(holding("other", SecretValue::Line), State::Stalled, reasons::SECRET_KEY_MISSING, "has no key token", None)]
#[case(holding("token", SecretValue::Empty), State::Stalled, reasons::SECRET_EMPTY, "give it a value", None)]
#[case(holding("token", SecretValue::Binary), State::Stalled, reasons::SECRET_INVALID, "give it plain text", None)]
#[case(holding("token", SecretValue::Text), State::Stalled, reasons::SECRET_INVALID, "give it one line", None)]
fn what_is_wrong_with_a_secret_names_the_field_and_the_fix(
    #[case] facts: SecretFacts,
    #[case] state: State,
    #[case] reason: &str,
    #[case] words: &str,
    #[case] again: Option<Duration>,
) {
    let secrets = BTreeMap::from([("hub".to_owned(), facts)]);
    let problem = problem(&of_vllm(&token()), &secrets).unwrap();
    assert_eq!((problem.state, problem.reason), (state, reason));
    assert!(problem.message.contains("spec.vllm.huggingFace.tokenSecretKeyRef"), "{}", problem.message);
    assert!(problem.message.contains(words), "{}", problem.message);
    assert_eq!(read_again(&secrets), again);
}

fn unreadable(forbidden: bool) -> SecretFacts {
    SecretFacts::Unreadable { message: "why".into(), forbidden }
}

fn holding(key: &str, value: SecretValue) -> SecretFacts {
    SecretFacts::Present { keys: BTreeMap::from([(key.to_owned(), value)]), version: "1".into() }
}
