//! Conditions as kstatus, Argo CD, Flux and Helm read them.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Longest message of a condition, in bytes.
const MESSAGE_MAX_LENGTH: usize = 1024;

/// A condition without its time, as a decision states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// One of [`crate::api::conditions::types`].
    pub type_: &'static str,
    /// True, False or Unknown.
    pub status: Status,
    /// One of [`crate::api::conditions::reasons`].
    pub reason: &'static str,
    /// A sentence without times and counters.
    pub message: String,
}

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It is not known whether it holds.
    Unknown,
}

impl Status {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Verdict {
    /// A condition that holds.
    pub fn holds(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, status: Status::True, reason, message: message.into() }
    }

    /// A condition that does not hold.
    pub fn fails(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, status: Status::False, reason, message: message.into() }
    }

    /// A condition of which nothing is known.
    pub fn unknown(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, status: Status::Unknown, reason, message: message.into() }
    }
}

/// The conditions to write: the verdicts, each with the time of its last transition, followed by the conditions of `previous`
/// that are none of ours.
///
/// A condition whose status is the same as before keeps its time, whatever its reason and message say now.
pub fn merge(
    previous: &[Condition],
    verdicts: Vec<Verdict>,
    ours: &[&str],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut merged: Vec<Condition> = verdicts
        .into_iter()
        .map(|verdict| {
            let status = verdict.status.as_str();
            let unchanged = previous.iter().find(|condition| condition.type_ == verdict.type_ && condition.status == status);
            Condition {
                type_: verdict.type_.to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.to_owned(),
                message: truncated(verdict.message),
                observed_generation: generation,
                last_transition_time: unchanged.map_or(Time(now), |condition| condition.last_transition_time.clone()),
            }
        })
        .collect();
    let foreign = previous.iter().filter(|condition| !ours.contains(&condition.type_.as_str()));
    merged.extend(foreign.cloned());
    merged
}

/// The message, cut at a character boundary to what the API allows.
pub(crate) fn truncated(mut message: String) -> String {
    if message.len() > MESSAGE_MAX_LENGTH {
        message.truncate(message.floor_char_boundary(MESSAGE_MAX_LENGTH - '…'.len_utf8()));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::{reasons, types};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_time_of_a_condition_moves_only_with_its_status() {
        let first = merge(&[], vec![Verdict::fails(types::READY, reasons::PROGRESSING, "waits")], &[types::READY], Some(1), at(10));
        let second =
            merge(&first, vec![Verdict::fails(types::READY, reasons::MODEL_LOADING, "loads")], &[types::READY], Some(2), at(20));
        assert_eq!(second[0].last_transition_time, Time(at(10)));
        assert_eq!(second[0].observed_generation, Some(2));
        let third =
            merge(&second, vec![Verdict::holds(types::READY, reasons::AVAILABLE, "answers")], &[types::READY], Some(2), at(30));
        assert_eq!(third[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn conditions_of_other_writers_stay_and_our_absent_ones_go() {
        let mut previous = merge(
            &[],
            vec![Verdict::holds(types::STALLED, reasons::DOES_NOT_FIT, "too large")],
            &[types::STALLED],
            Some(1),
            at(10),
        );
        previous.push(Condition {
            type_: "example.com/Audited".into(),
            status: "True".into(),
            reason: "Audited".into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(at(5)),
        });
        let merged = merge(&previous, vec![], &[types::STALLED], Some(2), at(20));
        assert_eq!(merged.iter().map(|condition| condition.type_.as_str()).collect::<Vec<_>>(), ["example.com/Audited"]);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character_boundary() {
        let merged = merge(&[], vec![Verdict::holds(types::READY, reasons::AVAILABLE, "é".repeat(2000))], &[], None, at(1));
        assert!(merged[0].message.len() <= MESSAGE_MAX_LENGTH && merged[0].message.ends_with('…'));
    }
}
