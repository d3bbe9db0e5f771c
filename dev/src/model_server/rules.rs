//! The rules of one server: which fault befalls which call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::fault::{Fault, Match, Rule};

/// Names a rule, to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuleId(pub u64);

/// A rule, and what it has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleState {
    /// Its number.
    pub id: RuleId,
    /// Calls that matched so far.
    pub matched: u64,
    /// How many of them it befell.
    pub befell: u64,
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
}

/// What a rule looks at.
pub(super) struct About<'a> {
    pub path: &'a str,
    pub model: Option<&'a str>,
    pub key: Option<&'a str>,
    pub stream: bool,
    pub reused: bool,
    pub body: &'a [u8],
}

/// The rules of one server. A clone has the same.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    rules: Arc<Mutex<Vec<RuleState>>>,
    /// Counts changes of the rules.
    changes: watch::Sender<u64>,
}

impl Rules {
    pub fn new() -> Self {
        Self { rules: Arc::default(), changes: watch::Sender::new(0) }
    }

    pub fn add(&self, rule: Rule) -> RuleId {
        let mut rules = self.lock();
        self.changes.send_modify(|changes| *changes += 1);
        let id = RuleId(*self.changes.borrow());
        rules.push(RuleState { id, matched: 0, befell: 0, rule });
        id
    }

    /// Removes one, or all.
    pub fn remove(&self, id: Option<RuleId>) {
        self.lock().retain(|rule| id.is_some_and(|id| id != rule.id));
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Returns when a rule has been removed.
    pub async fn removed(&self, id: RuleId) {
        let mut changes = self.changes.subscribe();
        while self.lock().iter().any(|rule| rule.id == id) {
            // The sender lives as long as self.
            let _ = changes.changed().await;
        }
    }

    pub fn befell(&self, id: RuleId) -> u64 {
        self.lock().iter().find(|rule| rule.id == id).map_or(0, |rule| rule.befell)
    }

    pub fn all(&self) -> Vec<RuleState> {
        self.lock().clone()
    }

    /// What befalls a call: the fault of the first rule that matches.
    pub fn fault(&self, about: &About<'_>) -> Option<(RuleId, Fault)> {
        let mut found = None;
        for state in self.lock().iter_mut().filter(|state| matches(&state.rule.which, about)) {
            state.matched += 1;
            let Match { skip, times, .. } = state.rule.which;
            let due = state.matched > skip && times.is_none_or(|times| state.matched <= skip.saturating_add(times));
            if due && found.is_none() {
                state.befell += 1;
                found = Some((state.id, state.rule.fault.clone()));
            }
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RuleState>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn matches(which: &Match, about: &About<'_>) -> bool {
    which.path.as_deref().is_none_or(|path| path == about.path)
        && which.model.as_deref().is_none_or(|model| about.model == Some(model))
        && which.key.as_deref().is_none_or(|key| about.key.is_some_and(|hash| hash.starts_with(key)))
        && which.stream.is_none_or(|stream| stream == about.stream)
        && which.reused.is_none_or(|reused| reused == about.reused)
        && which.containing.as_deref().is_none_or(|text| holds(about.body, text))
}

/// Whether bytes hold a text.
pub(super) fn holds(bytes: &[u8], text: &str) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::fault::{Break, Place, Refusal};
    use super::*;

    fn about<'a>(path: &'a str, body: &'a [u8]) -> About<'a> {
        About { path, model: Some("m"), key: Some("0a1b"), stream: false, reused: true, body }
    }

    #[test]
    fn a_rule_befalls_the_calls_that_it_names_and_as_many_as_it_says() {
        let rules = Rules::new();
        let which = Match { path: Some("/a".into()), skip: 1, times: Some(2), ..Match::default() };
        let id = rules.add(Rule { which, fault: Fault::Gzip });
        let befallen: Vec<bool> = (0..5).map(|_| rules.fault(&about("/a", b"")).is_some()).collect();
        assert_eq!(befallen, [false, true, true, false, false]);
        assert_eq!(rules.fault(&about("/b", b"")), None);
        assert_eq!(rules.befell(id), 2);
    }

    #[test]
    fn each_word_of_a_rule_narrows_it() {
        for (text, matches) in [
            (r#"{"model": "m", "key": "0a", "stream": false, "reused": true, "containing": "canary"}"#, true),
            (r#"{"model": "other"}"#, false),
            (r#"{"key": "1b"}"#, false),
            (r#"{"stream": true}"#, false),
            (r#"{"reused": false}"#, false),
            (r#"{"containing": "absent"}"#, false),
            ("{}", true),
        ] {
            let which: Match = serde_json::from_str(text).unwrap();
            assert_eq!(super::matches(&which, &about("/a", b"a canary sings")), matches, "{text}");
        }
        assert!(serde_json::from_str::<Match>(r#"{"header": "x"}"#).is_err());
    }

    #[test]
    fn the_first_rule_decides_and_a_removed_one_no_longer() {
        let rules = Rules::new();
        let first = rules.add(Rule { which: Match::default(), fault: Fault::Refuse(Refusal::Overloaded) });
        let second = rules.add(Rule { which: Match::default(), fault: Fault::Gzip });
        assert_eq!(rules.fault(&about("/a", b"")), Some((first, Fault::Refuse(Refusal::Overloaded))));
        rules.remove(Some(first));
        assert_eq!(rules.fault(&about("/a", b"")), Some((second, Fault::Gzip)));
        rules.remove(None);
        assert_eq!(rules.fault(&about("/a", b"")), None);
    }

    #[test]
    fn a_rule_is_written_as_the_table_shows() {
        let text = r#"{"match": {"reused": true}, "fault": {"break": {"at": {"events": 3}, "how": {"pause": 500}}}}"#;
        let rule: Rule = serde_json::from_str(text).unwrap();
        assert_eq!(rule.fault, Fault::Break { at: Place::Events(3), how: Break::Pause(500) });
        for fault in [
            r#"{"answer": {"status": 307, "headers": {"location": "/"}, "body": ""}}"#,
            r#"{"refuse": "quotaExhausted"}"#,
            r#"{"refuse": {"rateLimited": 7}}"#,
            r#"{"break": {"at": "arrival", "how": "close"}}"#,
            r#"{"trickle": {"bytes": 10, "milliseconds": 50}}"#,
            r#"{"errorEvent": {"after": 0, "refusal": "overloaded"}}"#,
            r#"{"insert": {"after": 2, "text": "data: {\n\n"}}"#,
            r#"{"raw": "garbage"}"#,
            r#"{"contentLength": -10}"#,
            r#""endlessStream""#,
            r#""endlessLine""#,
            r#"{"usage": "everyEvent"}"#,
            r#""gzip""#,
            r#"{"headers": {"values": {"x-ratelimit-remaining-requests": "0"}, "padding": 2097152}}"#,
        ] {
            let rule = format!(r#"{{"fault": {fault}}}"#);
            assert!(serde_json::from_str::<Rule>(&rule).is_ok(), "{fault}");
        }
    }
}
