//! Which requests a fault befalls, and which fault.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::request::{Request, Verb};

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The operator is killed, and the API server never gets the request.
    KillBefore,
    /// The API server does what is asked, and the operator is killed before it learns of it.
    KillAfter,
    /// The API server does what is asked, and the connection ends without a response.
    DropResponse,
    /// The request reaches the API server after a while.
    Delay(Duration),
    /// The API server never gets the request; the response is this status code, with this `Retry-After` in seconds.
    Status {
        /// The code, 400 or more.
        code: u16,
        /// The header, if there is to be one.
        retry_after: Option<u32>,
    },
    /// No byte comes back until the rule is removed; watches that are open fall silent as well.
    Hang,
    /// The connection is reset (TCP RST); the API server never gets the request.
    Reset,
    /// The watches that are open when the rule is added fall silent, and their connections stay: what a load balancer does
    /// that forgets a connection. Watches that are opened later work.
    FreezeWatches,
    /// The watches that are open when the rule is added end in an orderly way, as at their time-out.
    EndWatches,
}

impl Action {
    /// Whether it befalls what comes back on an open watch, and not a request.
    fn is_of_open_watches(&self) -> bool {
        matches!(self, Self::FreezeWatches | Self::EndWatches)
    }
}

/// Which requests a rule is about. Without further words: all.
#[derive(Clone, Debug, Default)]
pub struct Match {
    verb: Option<Verb>,
    resource: Option<String>,
    subresource: Option<String>,
    name: Option<String>,
    write: Option<u64>,
    skip: u64,
    times: Option<u64>,
}

impl Match {
    /// Every request.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only requests with this verb.
    #[must_use]
    pub fn verb(self, verb: Verb) -> Self {
        Self { verb: Some(verb), ..self }
    }

    /// Only requests about this kind, by its plural name, and not its subresources.
    #[must_use]
    pub fn resource(self, plural: &str) -> Self {
        Self { resource: Some(plural.to_owned()), subresource: Some(self.subresource.unwrap_or_default()), ..self }
    }

    /// Only requests about this subresource.
    #[must_use]
    pub fn subresource(self, name: &str) -> Self {
        Self { subresource: Some(name.to_owned()), ..self }
    }

    /// Only requests about the object of this name.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// Only the write with this number, which counts from 1 and leaves out leases and events.
    #[must_use]
    pub fn write(self, number: u64) -> Self {
        Self { write: Some(number), ..self }
    }

    /// Not the first `count` of them.
    #[must_use]
    pub fn skip(self, count: u64) -> Self {
        Self { skip: count, ..self }
    }

    /// No more than `count` of them.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self { times: Some(count), ..self }
    }

    fn matches(&self, request: &Request, write: Option<u64>) -> bool {
        let is = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|wanted| wanted == actual);
        self.verb.is_none_or(|verb| verb == request.verb)
            && is(&self.resource, &request.resource)
            && is(&self.subresource, &request.subresource)
            && is(&self.name, &request.name)
            && (self.write.is_none() || self.write == write)
    }
}

/// Names a rule, to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(u64);

#[derive(Debug)]
struct Rule {
    id: RuleId,
    which: Match,
    action: Action,
    /// Requests that matched so far.
    matched: u64,
    /// Number of requests that had arrived when the rule was added.
    added_after: u64,
}

/// The rules of one proxy. A clone has the same.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    rules: Arc<Mutex<Vec<Rule>>>,
    /// Counts changes of the rules.
    changes: watch::Sender<u64>,
}

impl Rules {
    pub fn new() -> Self {
        Self { rules: Arc::default(), changes: watch::Sender::new(0) }
    }

    pub fn add(&self, which: Match, action: Action, arrived: u64) -> RuleId {
        let id = RuleId(*self.changes.borrow() + 1);
        self.lock().push(Rule { id, which, action, matched: 0, added_after: arrived });
        self.changes.send_modify(|changes| *changes += 1);
        id
    }

    pub fn remove(&self, id: RuleId) {
        self.lock().retain(|rule| rule.id != id);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Returns when a rule has been removed.
    pub async fn removed(&self, id: RuleId) {
        let mut changes = self.changes();
        while self.lock().iter().any(|rule| rule.id == id) {
            // The sender lives as long as self.
            let _ = changes.changed().await;
        }
    }

    /// Changes when the rules do.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What befalls a request that arrives: the action of the first rule that matches.
    pub fn action(&self, request: &Request, write: Option<u64>) -> Option<(RuleId, Action)> {
        let mut rules = self.lock();
        let mut found = None;
        for rule in rules.iter_mut().filter(|rule| !rule.action.is_of_open_watches() && rule.which.matches(request, write)) {
            rule.matched += 1;
            let nth = rule.matched;
            let due = nth > rule.which.skip && rule.which.times.is_none_or(|times| nth <= rule.which.skip + times);
            if due && found.is_none() {
                found = Some((rule.id, rule.action.clone()));
            }
        }
        found
    }

    /// What befalls an open watch; `arrival` is the number of its request.
    pub fn action_on_open_watch(&self, request: &Request, arrival: u64) -> Option<Action> {
        let rules = self.lock();
        let actions: Vec<&Action> = rules
            .iter()
            .filter(|rule| rule.which.matches(request, None))
            .filter(|rule| match rule.action {
                Action::Hang => rule.which.times.is_none(),
                Action::FreezeWatches | Action::EndWatches => arrival <= rule.added_after,
                _ => false,
            })
            .map(|rule| &rule.action)
            .collect();
        // A watch that has fallen silent can still end.
        actions.iter().find(|action| ***action == Action::EndWatches).or(actions.first()).map(|action| (*action).clone())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(resource: &str, subresource: &str) -> Request {
        Request {
            verb: Verb::Apply,
            group: String::new(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: "team".into(),
            name: "a".into(),
            manager: String::new(),
        }
    }

    #[test]
    fn a_rule_befalls_the_requests_that_it_names_and_as_many_as_it_says() {
        let rules = Rules::new();
        rules.add(Match::all().resource("services").skip(1).times(2), Action::Reset, 0);
        let befallen: Vec<bool> = (0..5).map(|_| rules.action(&request("services", ""), None).is_some()).collect();
        assert_eq!(befallen, [false, true, true, false, false]);
        assert_eq!(rules.action(&request("secrets", ""), None), None);
        assert_eq!(rules.action(&request("services", "status"), None), None);
    }

    #[test]
    fn the_first_rule_decides_and_a_removed_one_no_longer() {
        let rules = Rules::new();
        let first = rules.add(Match::all().write(7), Action::KillAfter, 0);
        rules.add(Match::all(), Action::DropResponse, 0);
        assert_eq!(rules.action(&request("services", ""), Some(7)), Some((first, Action::KillAfter)));
        rules.remove(first);
        assert_eq!(rules.action(&request("services", ""), Some(7)).map(|(_, action)| action), Some(Action::DropResponse));
    }

    #[test]
    fn only_watches_that_were_open_before_are_frozen() {
        let rules = Rules::new();
        rules.add(Match::all(), Action::FreezeWatches, 5);
        assert_eq!(rules.action(&request("services", ""), None), None);
        assert_eq!(rules.action_on_open_watch(&request("services", ""), 5), Some(Action::FreezeWatches));
        assert_eq!(rules.action_on_open_watch(&request("services", ""), 6), None);
    }
}
