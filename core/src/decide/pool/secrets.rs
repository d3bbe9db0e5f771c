//! The Secrets by which queues are read.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::facts::{Failure, FailureCause, QueueFacts};
use crate::api::conditions::reasons;
use crate::api::queue::QueueSpec;
use crate::decide::backend::facts::SecretFacts;
use crate::decide::backend::secrets::{self, Reference};

/// Time until a Secret is looked at again that cannot be used.
const READ_AGAIN: Duration = Duration::from_secs(20);

/// The Secrets that a queue refers to.
pub fn of_queue(queue: &QueueSpec) -> Vec<Reference<'_>> {
    let authority = queue.tls.as_ref().and_then(|tls| tls.ca_secret_key_ref.as_ref());
    let references = [
        ("usernameSecretKeyRef", queue.username_secret_key_ref.as_ref()),
        ("passwordSecretKeyRef", queue.password_secret_key_ref.as_ref()),
        ("tls.caSecretKeyRef", authority),
    ];
    let field = |name: &str| format!("spec.queues[{}].{name}", queue.name);
    let reference =
        |(name, target): (&str, Option<_>)| target.map(|target| Reference { field: field(name), target, in_header: false });
    references.into_iter().filter_map(reference).collect()
}

/// Why a queue cannot be read for want of a Secret, since then.
pub fn failure(queue: &QueueSpec, secrets: &BTreeMap<String, SecretFacts>, since: Timestamp) -> Option<Failure> {
    let problem = secrets::problem(&of_queue(queue), secrets)?;
    let cause = match problem.reason {
        reasons::SECRET_NOT_FOUND => FailureCause::SecretNotFound,
        reasons::SECRET_KEY_MISSING => FailureCause::SecretKeyMissing,
        reasons::SECRET_EMPTY => FailureCause::SecretEmpty,
        reasons::FORBIDDEN => FailureCause::SecretForbidden,
        _ => FailureCause::Secret,
    };
    Some(Failure { cause, message: problem.message, since })
}

/// Whether a Secret of the queue cannot be read for the moment. It is most likely what it was.
pub fn is_unreadable(queue: &QueueSpec, secrets: &BTreeMap<String, SecretFacts>) -> bool {
    let unreadable =
        |reference: &Reference<'_>| matches!(secrets.get(&reference.target.name), Some(SecretFacts::Unreadable { .. }));
    of_queue(queue).iter().any(unreadable)
}

/// When to look again at a Secret that cannot be used: no watch tells when one can be read again.
pub fn read_again(queues: &[QueueFacts]) -> Option<Duration> {
    let of_secret = |failure: &Failure| matches!(failure.cause, FailureCause::SecretForbidden | FailureCause::Secret);
    queues.iter().any(|queue| queue.failure.as_ref().is_some_and(of_secret)).then_some(READ_AGAIN)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::backend::facts::SecretValue;

    fn queue() -> QueueSpec {
        serde_json::from_value(json!({
            "name": "tasks", "redisStream": { "url": "rediss://redis:6379", "stream": "s", "group": "g" },
            "passwordSecretKeyRef": { "name": "redis", "key": "password" },
            "tls": { "caSecretKeyRef": { "name": "ca", "key": "ca.crt" } },
        }))
        .unwrap()
    }

    fn present(key: &str, value: SecretValue) -> SecretFacts {
        SecretFacts::Present { keys: BTreeMap::from([(key.to_owned(), value)]), version: "1".into() }
    }

    fn failing(secrets: &[(&str, SecretFacts)]) -> Option<(FailureCause, String)> {
        let secrets = secrets.iter().map(|(name, facts)| ((*name).to_owned(), facts.clone())).collect();
        failure(&queue(), &secrets, Timestamp::UNIX_EPOCH).map(|failure| (failure.cause, failure.message))
    }

    #[test]
    fn a_secret_that_cannot_be_used_is_named_with_the_field_and_what_to_do() {
        let ca = ("ca", present("ca.crt", SecretValue::Text));
        assert_eq!(failing(&[("redis", present("password", SecretValue::Line)), ca.clone()]), None);
        let (cause, message) = failing(std::slice::from_ref(&ca)).unwrap();
        assert_eq!(cause, FailureCause::SecretNotFound);
        assert!(message.contains("spec.queues[tasks].passwordSecretKeyRef") && message.contains("create it"), "{message}");
        let (cause, message) = failing(&[("redis", present("other", SecretValue::Line)), ca.clone()]).unwrap();
        assert_eq!(cause, FailureCause::SecretKeyMissing);
        assert!(message.contains("no key password"), "{message}");
        let forbidden = SecretFacts::Unreadable { message: "no".into(), forbidden: true };
        assert_eq!(failing(&[("redis", forbidden), ca]).unwrap().0, FailureCause::SecretForbidden);
    }
}
