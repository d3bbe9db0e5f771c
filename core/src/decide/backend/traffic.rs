//! What the calls of the gateway say of the keys of a backend.

use std::collections::BTreeMap;

use super::facts::{SetAside, TrafficFacts};
use crate::api::InferenceBackend;
use crate::api::conditions::reasons;
use crate::api::status::KeyHealth;
use crate::decide::gateway::exchange::message::{KeyHealth as Reported, KeyState};
use crate::decide::readiness::Readiness;
use crate::decide::request::failure::FailureKind;

/// What several replicas say of the keys of one backend. A key is the same for all of them: one that has found it out tells what the
/// others have yet to find out. A key that waits because its rate was exceeded works.
pub fn heard(reports: &[BTreeMap<String, Reported>]) -> TrafficFacts {
    let mut set_aside: BTreeMap<String, SetAside> = BTreeMap::new();
    for (key, health) in reports.iter().flatten().filter(|(_, health)| health.state == KeyState::SetAside) {
        let why = match health.last_error {
            Some(FailureKind::QuotaExhausted) => SetAside::QuotaExhausted,
            Some(FailureKind::KeyRejected) => SetAside::KeyRejected,
            // For a reason that only a later version knows.
            _ => continue,
        };
        let worst = set_aside.entry(key.clone()).or_insert(why);
        *worst = why.max(*worst);
    }
    TrafficFacts::Heard { set_aside }
}

/// Why no calls are made with a key; none where they are, or nothing is known. While no replica is heard, what the status says of the
/// same generation goes on: it was the last that was heard.
pub fn set_aside(traffic: &TrafficFacts, backend: &InferenceBackend, key: &str) -> Option<SetAside> {
    match traffic {
        TrafficFacts::NoGateway => None,
        TrafficFacts::Heard { set_aside } => set_aside.get(key).copied(),
        TrafficFacts::Silent => {
            let status = backend.status.as_ref().filter(|status| status.observed_generation == backend.metadata.generation)?;
            let known = status.health.as_ref()?.keys.iter().find(|known| known.name == key)?;
            let reason = known.reason.as_deref()?;
            [SetAside::QuotaExhausted, SetAside::KeyRejected].into_iter().find(|why| reason_of(*why) == reason)
        }
    }
}

/// What `status.health.keys` says of a key that is set aside.
pub fn shown(key: &str, why: SetAside) -> KeyHealth {
    KeyHealth { name: key.to_owned(), healthy: false, reason: Some(reason_of(why).to_owned()) }
}

/// The reason, in conditions and in `status.health.keys`.
pub fn reason_of(why: SetAside) -> &'static str {
    match why {
        SetAside::QuotaExhausted => reasons::QUOTA_EXHAUSTED,
        SetAside::KeyRejected => reasons::KEY_REJECTED,
    }
}

/// What an external backend would be with this key alone.
pub fn readiness(key: &str, why: SetAside) -> Readiness {
    let about = |message: &str| match key {
        "" => message.to_owned(),
        key => format!("spec.external.apiKeys[{key}]: {message}"),
    };
    match (why, key) {
        (SetAside::QuotaExhausted, _) => Readiness::waiting(
            reasons::QUOTA_EXHAUSTED,
            about(
                "the provider answers calls of the gateway that the quota is used up: raise it, or pay; the gateway tries the key again \
                 by itself, after 5 minutes at first and at most 1 hour",
            ),
        ),
        (SetAside::KeyRejected, "") => Readiness::stalled(
            reasons::KEY_REJECTED,
            "the server answers calls of the gateway that it wants a key: name one in spec.external.apiKeys",
        ),
        (SetAside::KeyRejected, _) => Readiness::stalled(
            reasons::KEY_REJECTED,
            about("the provider refuses the key in calls of the gateway: put a valid one into the Secret"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn report(keys: &[(&str, KeyState, Option<FailureKind>)]) -> BTreeMap<String, Reported> {
        keys.iter()
            .map(|(name, state, last_error)| ((*name).to_owned(), Reported { state: *state, last_error: *last_error }))
            .collect()
    }

    #[test]
    fn one_replica_that_set_a_key_aside_speaks_for_all_and_a_refusal_for_good_wins() {
        use FailureKind::{KeyRejected, QuotaExhausted, RateLimited};
        let reports = [
            report(&[
                ("spent", KeyState::Usable, None),
                ("bad", KeyState::SetAside, Some(QuotaExhausted)),
                ("limited", KeyState::Waiting, Some(RateLimited)),
                ("later", KeyState::SetAside, None),
            ]),
            report(&[
                ("spent", KeyState::SetAside, Some(QuotaExhausted)),
                ("bad", KeyState::SetAside, Some(KeyRejected)),
                ("new", KeyState::Unknown, None),
            ]),
        ];
        let expected = [("spent", SetAside::QuotaExhausted), ("bad", SetAside::KeyRejected)];
        let set_aside = expected.into_iter().map(|(name, why)| (name.to_owned(), why)).collect();
        assert_eq!(heard(&reports), TrafficFacts::Heard { set_aside });
        assert_eq!(heard(&[]), TrafficFacts::Heard { set_aside: BTreeMap::new() });
    }

    fn heard_of(why: SetAside) -> TrafficFacts {
        TrafficFacts::Heard { set_aside: BTreeMap::from([("first".to_owned(), why)]) }
    }

    #[rstest]
    #[case::of_the_same_spec(TrafficFacts::Silent, 1, Some(SetAside::QuotaExhausted))]
    #[case::of_another_spec(TrafficFacts::Silent, 2, None)]
    #[case::the_gateway_is_gone(TrafficFacts::NoGateway, 1, None)]
    #[case::it_works_again(TrafficFacts::Heard { set_aside: BTreeMap::new() }, 1, None)]
    #[case::it_is_refused_now(heard_of(SetAside::KeyRejected), 1, Some(SetAside::KeyRejected))]
    fn what_was_heard_last_holds_while_a_gateway_is_silent(
        #[case] traffic: TrafficFacts,
        #[case] generation: i64,
        #[case] expected: Option<SetAside>,
    ) {
        let backend: InferenceBackend = serde_json::from_value(json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend",
            "metadata": { "name": "hosted", "generation": generation }, "spec": {},
            "status": {
                "observedGeneration": 1,
                "health": {
                    "state": "Healthy",
                    "keys": [
                        { "name": "first", "healthy": false, "reason": "QuotaExhausted" },
                        { "name": "second", "healthy": false, "reason": "Unauthorized" },
                    ],
                },
            },
        }))
        .unwrap();
        assert_eq!(set_aside(&traffic, &backend, "first"), expected);
        assert_eq!(set_aside(&traffic, &backend, "second"), None, "that is what a check found");
    }
}
