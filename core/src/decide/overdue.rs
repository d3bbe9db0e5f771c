//! What is waited for too long: after a while, somebody has to be told to act, as Flux and Helm do when they read Stalled.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::readiness::{Readiness, State};
use crate::api::conditions::types;

/// How long something is waited for that somebody else has to provide: `progressDeadlineSeconds` of a Deployment that does
/// not state it.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// A state of readiness with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Stalled where it was Waiting for too long, else unchanged.
    pub ready: Readiness,
    /// Since when this is waited for: what the status should remember.
    pub since: Option<Time>,
    /// When it will have been waited for too long.
    pub next: Option<Duration>,
}

/// What a status remembers of a wait.
#[derive(Clone, Copy, Debug)]
pub struct Previous<'a> {
    /// Its conditions.
    pub conditions: &'a [Condition],
    /// The generation of the spec that it describes.
    pub observed_generation: Option<i64>,
    /// Since when something is waited for.
    pub waiting_since: Option<&'a Time>,
}

/// Judges how long something has been waited for by what the status remembers. A new reason and a new generation of the spec
/// begin anew; another message does not, because it tells the same wait in the words of the moment.
pub fn judge(ready: Readiness, previous: Previous<'_>, generation: Option<i64>, now: Timestamp) -> Judged {
    let Some(patience) = ready.patience else { return Judged { ready, since: None, next: None } };
    let before = previous.conditions.iter().find(|condition| condition.type_ == types::READY);
    let same = before.is_some_and(|before| before.reason == ready.reason) && previous.observed_generation == generation;
    let since = previous.waiting_since.filter(|_| same).cloned().unwrap_or(Time(now));
    // A time of the future was written by another clock: as far as this one knows, the wait begins now.
    let waited = Duration::try_from(now.duration_since(since.0)).unwrap_or_default();
    match patience.checked_sub(waited).filter(|left| !left.is_zero()) {
        Some(left) => Judged { ready, since: Some(since), next: Some(left) },
        None => Judged { ready: Readiness { state: State::Stalled, ..ready }, since: Some(since), next: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::reasons;
    use crate::decide::conditions::{Verdict, merge};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn missing() -> Readiness {
        Readiness::waiting(reasons::SECRET_NOT_FOUND, "create it")
    }

    /// A status that was written at some times.
    #[derive(Default)]
    struct Written {
        conditions: Vec<Condition>,
        generation: Option<i64>,
        since: Option<Time>,
    }

    impl Written {
        fn previous(&self) -> Previous<'_> {
            Previous { conditions: &self.conditions, observed_generation: self.generation, waiting_since: self.since.as_ref() }
        }
    }

    /// The status after it was found `ready` at these seconds, for a generation.
    fn after(ready: &Readiness, seconds: &[i64], generation: i64) -> Written {
        seconds.iter().fold(Written::default(), |written, second| {
            let judged = judge(ready.clone(), written.previous(), Some(generation), at(*second));
            let verdicts = vec![Verdict::fails(types::READY, judged.ready.reason, judged.ready.message)];
            let conditions = merge(&written.conditions, verdicts, &[types::READY], Some(generation), at(*second));
            Written { conditions, generation: Some(generation), since: judged.since }
        })
    }

    #[test]
    fn what_is_waited_for_too_long_is_stalled_and_looked_at_when_that_is_the_case() {
        let previous = after(&missing(), &[1000, 1300], 1);
        assert_eq!(previous.since, Some(Time(at(1000))), "another look does not begin the wait anew");
        let early = judge(missing(), previous.previous(), Some(1), at(1599));
        assert_eq!((early.ready.state, early.next), (State::Waiting, Some(Duration::from_secs(1))));
        let late = judge(missing(), previous.previous(), Some(1), at(1600));
        assert_eq!((late.ready.state, late.next), (State::Stalled, None));
        assert_eq!((late.ready.reason, late.ready.message), (missing().reason, missing().message));
        assert_eq!(late.since, previous.since);
    }

    #[test]
    fn a_new_reason_a_new_generation_and_a_good_moment_begin_the_wait_anew() {
        let previous = after(&missing(), &[1000, 1700], 1);
        let forbidden = Readiness::waiting(reasons::FORBIDDEN, "grant it");
        assert_eq!(judge(forbidden, previous.previous(), Some(1), at(1800)).since, Some(Time(at(1800))));
        assert_eq!(judge(missing(), previous.previous(), Some(2), at(1800)).ready.state, State::Waiting);
        let loading = Readiness::progressing(reasons::MODEL_LOADING, "loads");
        assert_eq!(judge(loading, previous.previous(), Some(1), at(1800)).since, None);
    }

    #[test]
    fn another_message_of_the_same_wait_does_not_begin_it_anew() {
        let other = Readiness::waiting(reasons::SECRET_NOT_FOUND, "create the other one");
        assert_eq!(judge(other, after(&missing(), &[1000], 1).previous(), Some(1), at(1600)).ready.state, State::Stalled);
    }

    #[test]
    fn a_clock_that_went_back_waits_no_longer_than_from_now() {
        assert_eq!(judge(missing(), after(&missing(), &[9000], 1).previous(), Some(1), at(1000)).next, Some(PATIENCE));
    }
}
