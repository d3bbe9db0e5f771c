//! The labels of a call: what rules ask about, and nothing else.
//!
//! They come from the caller's key, and for the route's trusted labels from the call itself: a header
//! `x-quartermaster-label-<name>`, its short forms, or a member of the body's `metadata`. What a client may not set is passed over
//! and not refused: `metadata` belongs to the client, which puts things of its own into it, and a call must mean the same on a
//! route that trusts fewer labels. [`judge`] says why for those who ask.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::model_route::Priority;
use crate::decide::gateway::plan::Caller;

/// The labels of a call, by name.
pub type Labels<'a> = BTreeMap<&'a str, &'a str>;

/// The label that `when.taskTypes` of a rule asks about.
pub const TASK_TYPE: &str = "taskType";
/// The label that `when.priorities` asks about.
pub const PRIORITY: &str = "priority";
/// The label that `when.userTiers` asks about.
pub const USER_TIER: &str = "userTier";
/// The label that `when.complexity` asks about.
pub const COMPLEXITY: &str = "complexity";

/// What the names of all headers begin with that state a label, in lower case.
pub const HEADERS: &str = "x-quartermaster-";
/// A header whose name begins so states the label that follows, whatever the case of its letters.
pub const HEADER_PREFIX: &str = "x-quartermaster-label-";
/// Headers that stand for a label of another name.
const SHORT_HEADERS: [(&str, &str); 2] = [("x-quartermaster-task-type", TASK_TYPE), ("x-quartermaster-priority", PRIORITY)];

/// The longest value in bytes: as long as the longest name in Kubernetes, and so that no call carries much of them.
const LONGEST_VALUE: usize = 253;
/// What a call counts as whose key has no priority: a client may lower its calls from here.
const USUAL_PRIORITY: Priority = Priority::P2;

/// Why a label that a client states does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// It is not among the trusted labels of the route.
    #[error("the route's trustedLabels do not name it")]
    NotTrusted,
    /// The key has another value.
    #[error("the caller's key has it, and a client cannot change that")]
    BoundToKey,
    /// It would raise the priority.
    #[error("a client can only lower its priority")]
    RaisesPriority,
    /// The value is no priority.
    #[error("a priority is one of P0 to P4")]
    NoPriority,
    /// The value is empty, too long, or has control characters.
    #[error("a value has 1 to 253 bytes and no control characters")]
    NoValue,
}

/// The labels of a call. Headers and metadata come as pairs of name and value; a header counts before metadata, and of several that
/// state the same label the first.
pub fn of_call<'a>(
    caller: &'a Caller,
    trusted: &'a BTreeSet<String>,
    headers: impl IntoIterator<Item = (&'a str, &'a str)>,
    metadata: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Labels<'a> {
    let mut labels = Labels::new();
    labels.extend(caller.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    if trusted.is_empty() {
        return labels;
    }
    let mut stated = Vec::new();
    let headers = headers.into_iter().filter_map(|(header, value)| Some((name_in_header(header, trusted)?, value)));
    for (name, value) in headers.chain(metadata) {
        if !stated.contains(&name) && judge(caller, trusted, name, value).is_ok() {
            stated.push(name);
            labels.insert(name, value);
        }
    }
    labels
}

/// The label that a header states: as the route's trusted labels spell it, or as the header does where they do not name it. `None`
/// for a header that states no label.
pub fn name_in_header<'a>(header: &'a str, trusted: &'a BTreeSet<String>) -> Option<&'a str> {
    let short = SHORT_HEADERS.iter().find(|(short, _)| short.eq_ignore_ascii_case(header));
    if let Some((_, name)) = short {
        return Some(name);
    }
    let (prefix, name) = header.split_at_checked(HEADER_PREFIX.len())?;
    if !prefix.eq_ignore_ascii_case(HEADER_PREFIX) || name.is_empty() {
        return None;
    }
    Some(trusted.iter().find(|trusted| trusted.eq_ignore_ascii_case(name)).map_or(name, String::as_str))
}

/// Whether a label that a client states counts.
///
/// # Errors
///
/// Why it does not.
pub fn judge(caller: &Caller, trusted: &BTreeSet<String>, name: &str, value: &str) -> Result<(), Ignored> {
    if !trusted.contains(name) {
        return Err(Ignored::NotTrusted);
    }
    if value.is_empty() || value.len() > LONGEST_VALUE || value.chars().any(char::is_control) {
        return Err(Ignored::NoValue);
    }
    let bound = caller.labels.get(name);
    if name != PRIORITY {
        return if bound.is_some_and(|bound| bound != value) { Err(Ignored::BoundToKey) } else { Ok(()) };
    }
    let asked = priority(value).ok_or(Ignored::NoPriority)?;
    let highest = match bound {
        // What the key says is not understood, and so not known to be higher than what the client asks for.
        Some(bound) => priority(bound).ok_or(Ignored::BoundToKey)?,
        None => USUAL_PRIORITY,
    };
    if asked < highest { Err(Ignored::RaisesPriority) } else { Ok(()) }
}

/// The priority that a label's value stands for. It orders from most to least urgent.
pub fn priority(value: &str) -> Option<Priority> {
    Some(match value {
        "P0" => Priority::P0,
        "P1" => Priority::P1,
        "P2" => Priority::P2,
        "P3" => Priority::P3,
        "P4" => Priority::P4,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn caller(labels: &[(&str, &str)]) -> Caller {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Caller { labels, ..Caller::default() }
    }

    fn trusted(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn labels<'a>(pairs: &[(&'a str, &'a str)]) -> Labels<'a> {
        pairs.iter().copied().collect()
    }

    #[test]
    fn a_call_has_its_keys_labels_and_those_that_the_route_trusts() {
        let caller = caller(&[("userTier", "free"), ("team", "dev")]);
        let headers = [
            ("x-quartermaster-label-complexity", "High"),
            ("x-quartermaster-task-type", "qa"),
            ("x-quartermaster-label-secret", "yes"),
            ("content-type", "application/json"),
        ];
        let metadata = [("language", "de"), ("user_id", "4711"), ("complexity", "Low")];
        let names = trusted(&["complexity", "taskType", "language"]);
        let found = of_call(&caller, &names, headers, metadata);
        let expected = [("userTier", "free"), ("team", "dev"), ("complexity", "High"), ("taskType", "qa"), ("language", "de")];
        assert_eq!(found, labels(&expected), "the header counts before metadata");
        assert_eq!(
            of_call(&caller, &trusted(&[]), headers, metadata),
            labels(&[("userTier", "free"), ("team", "dev")]),
            "nothing is trusted unless the route says so"
        );
    }

    #[rstest]
    #[case("x-quartermaster-label-taskType", Some("taskType"))]
    #[case("X-Quartermaster-Label-TASKTYPE", Some("taskType"))]
    #[case("x-quartermaster-task-type", Some("taskType"))]
    #[case("X-QUARTERMASTER-PRIORITY", Some("priority"))]
    #[case("x-quartermaster-label-other", Some("other"))]
    #[case("x-quartermaster-label-", None)]
    #[case("x-quartermaster-labels", None)]
    #[case("tasktype", None)]
    #[case("x-quartermaster-lab\u{e9}", None)]
    fn a_header_states_a_label(#[case] header: &str, #[case] name: Option<&str>) {
        assert_eq!(name_in_header(header, &trusted(&["taskType"])), name);
    }

    #[rstest]
    #[case(&[], "P0", Err(Ignored::RaisesPriority))]
    #[case(&[], "P1", Err(Ignored::RaisesPriority))]
    #[case(&[], "P2", Ok(()))]
    #[case(&[], "P4", Ok(()))]
    #[case(&[("priority", "P1")], "P0", Err(Ignored::RaisesPriority))]
    #[case(&[("priority", "P1")], "P1", Ok(()))]
    #[case(&[("priority", "P1")], "P3", Ok(()))]
    #[case(&[("priority", "P1")], "p3", Err(Ignored::NoPriority))]
    #[case(&[("priority", "P1")], "high", Err(Ignored::NoPriority))]
    #[case(&[("priority", "high")], "P4", Err(Ignored::BoundToKey))]
    fn a_client_lowers_its_priority_and_never_raises_it(
        #[case] key: &[(&str, &str)],
        #[case] asked: &str,
        #[case] verdict: Result<(), Ignored>,
    ) {
        let (caller, trusted) = (caller(key), trusted(&["priority"]));
        assert_eq!(judge(&caller, &trusted, "priority", asked), verdict);
        let found = of_call(&caller, &trusted, [("x-quartermaster-priority", asked)], []);
        let expected = if verdict.is_ok() { Some(asked) } else { caller.labels.get("priority").map(String::as_str) };
        assert_eq!(found.get("priority").copied(), expected);
    }

    #[rstest]
    #[case("team", "dev", Err(Ignored::NotTrusted))]
    #[case("userTier", "premium", Err(Ignored::BoundToKey))]
    #[case("userTier", "free", Ok(()))]
    #[case("language", "", Err(Ignored::NoValue))]
    #[case("language", "de\r\nx", Err(Ignored::NoValue))]
    #[case("language", "Zürich", Ok(()))]
    fn a_label_of_the_key_cannot_be_changed(#[case] name: &str, #[case] value: &str, #[case] verdict: Result<(), Ignored>) {
        let caller = caller(&[("userTier", "free")]);
        assert_eq!(judge(&caller, &trusted(&["userTier", "language"]), name, value), verdict);
    }

    #[test]
    fn a_value_has_a_longest_length_and_the_next_statement_of_the_label_counts_instead() {
        let (caller, trusted, long) = (caller(&[]), trusted(&["a"]), "x".repeat(254));
        assert_eq!(judge(&caller, &trusted, "a", &long), Err(Ignored::NoValue));
        assert_eq!(judge(&caller, &trusted, "a", &long[1..]), Ok(()));
        let headers =
            [("x-quartermaster-label-a", long.as_str()), ("x-quartermaster-label-a", "1"), ("x-quartermaster-label-a", "2")];
        assert_eq!(of_call(&caller, &trusted, headers, [("a", "3")]), labels(&[("a", "1")]));
    }

    proptest! {
        #[test]
        fn what_a_client_states_adds_trusted_labels_only_and_takes_none_of_the_keys(
            stated in proptest::collection::vec(("[a-d]", "(P[0-4]|[a-b]{0,3})"), 0..8),
            bound in proptest::collection::btree_map("[a-d]", "[a-b]", 0..4),
            trusted in proptest::collection::btree_set("[a-d]", 0..4),
        ) {
            let caller = Caller { labels: bound, ..Caller::default() };
            let pairs = stated.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let found = of_call(&caller, &trusted, [], pairs);
            for (name, value) in found.iter().map(|(name, value)| (*name, *value)) {
                let bound = caller.labels.get(name);
                prop_assert!(bound.is_some_and(|bound| bound == value) || (trusted.contains(name) && bound.is_none()));
            }
            prop_assert!(caller.labels.keys().all(|name| found.contains_key(name.as_str())));
        }
    }
}
