//! Which requests a fault befalls, and which fault.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::request::{Request, Verb, WriteIdentity};

/// What happens to a request, or to what comes back on a watch.
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
    /// The watches that are open when the rule is added end with an error in the stream: their resourceVersion is too old
    /// (410), as after a compaction.
    ExpireWatches,
    /// Time travel: a list is answered with the body that it had at that time, and watches stay silent until the rule is
    /// removed; then they tell of all that has happened since. What an API server does whose cache hangs behind.
    Stale {
        /// The last list before it is served.
        before: Instant,
    },
    /// A list comes in pages of this size.
    ShortPages(u32),
    /// The event never arrives.
    DropEvent,
    /// The event arrives twice.
    DuplicateEvent,
    /// The event, and those of the same object after it, never arrive until one has a later generation, or the object is gone.
    HoldUntilNextGeneration,
    /// The first half of the event arrives; then the connection ends.
    TruncateEvent,
    /// The two halves of the event arrive apart.
    SplitEvent,
    /// A bookmark with its resourceVersion arrives in place of the event.
    BookmarkOnly,
}

impl Action {
    /// Whether it befalls the watches that are open when its rule is added.
    fn is_of_open_watches(&self) -> bool {
        matches!(self, Self::FreezeWatches | Self::EndWatches | Self::ExpireWatches)
    }

    /// Whether it befalls single events of watches.
    fn is_of_events(&self) -> bool {
        matches!(
            self,
            Self::DropEvent
                | Self::DuplicateEvent
                | Self::HoldUntilNextGeneration
                | Self::TruncateEvent
                | Self::SplitEvent
                | Self::BookmarkOnly
        )
    }

    /// Whether it befalls requests of this verb.
    fn befalls(&self, verb: Verb) -> bool {
        match self {
            Self::Stale { .. } => matches!(verb, Verb::List | Verb::Watch),
            Self::ShortPages(_) => verb == Verb::List,
            _ => !self.is_of_open_watches() && !self.is_of_events(),
        }
    }
}

/// What a watch tells of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was made, or is selected from now on.
    Added,
    /// It was changed.
    Modified,
    /// It is gone, or selected no longer.
    Deleted,
}

/// Which requests a rule is about. Without further words: all.
#[derive(Clone, Debug, Default)]
pub struct Match {
    verb: Option<Verb>,
    resource: Option<String>,
    subresource: Option<String>,
    name: Option<String>,
    event: Option<EventKind>,
    continued: bool,
    kills: u64,
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

    /// Only this write.
    pub fn write(identity: &WriteIdentity) -> Self {
        let of_kind = Self::all().verb(identity.verb).resource(&identity.resource).subresource(&identity.subresource);
        of_kind.name(&identity.name).skip(identity.nth.saturating_sub(1)).times(1)
    }

    /// Only events of this kind. The name is then that of the object that the event tells of.
    #[must_use]
    pub fn event(self, kind: EventKind) -> Self {
        Self { event: Some(kind), ..self }
    }

    /// Only requests for the second and later pages of a list.
    #[must_use]
    pub fn continued(self) -> Self {
        Self { continued: true, ..self }
    }

    /// Only what comes after the operator was killed that often. What came before does not count for `skip` and `times`.
    #[must_use]
    pub fn after_kills(self, count: u64) -> Self {
        Self { kills: count, ..self }
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

    fn matches(&self, request: &Request) -> bool {
        let is = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|wanted| wanted == actual);
        self.verb.is_none_or(|verb| verb == request.verb)
            && is(&self.resource, &request.resource)
            && is(&self.subresource, &request.subresource)
            && is(&self.name, &request.name)
            && (!self.continued || request.continued)
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
    /// Requests or events that matched so far.
    matched: u64,
    /// How many of them it befell.
    befell: u64,
    /// Number of requests that had arrived when the rule was added.
    added_after: u64,
}

/// The rules of one proxy. A clone has the same.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    rules: Arc<Mutex<Vec<Rule>>>,
    /// Counts changes of the rules.
    changes: watch::Sender<u64>,
    /// How often the operator was killed.
    kills: Arc<AtomicU64>,
}

impl Rules {
    pub fn new() -> Self {
        Self { rules: Arc::default(), changes: watch::Sender::new(0), kills: Arc::default() }
    }

    pub fn add(&self, which: Match, action: Action, arrived: u64) -> RuleId {
        let id = RuleId(*self.changes.borrow() + 1);
        self.lock().push(Rule { id, which, action, matched: 0, befell: 0, added_after: arrived });
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

    /// Notes that the operator is dead.
    pub fn killed(&self) {
        self.kills.fetch_add(1, Ordering::AcqRel);
    }

    /// How many requests or events a rule that was not removed has befallen.
    pub fn befell(&self, id: RuleId) -> u64 {
        self.lock().iter().find(|rule| rule.id == id).map_or(0, |rule| rule.befell)
    }

    /// What befalls a request that arrives: the action of the first rule that matches.
    pub fn action(&self, request: &Request) -> Option<(RuleId, Action)> {
        self.first(|rule| rule.action.befalls(request.verb) && rule.which.matches(request))
    }

    /// What befalls an event of a watch. `about` is the watch's request, with the name of the object that it tells of.
    pub fn action_on_event(&self, about: &Request, kind: EventKind) -> Option<Action> {
        let of_kind = |which: &Match| which.event.is_none_or(|wanted| wanted == kind);
        self.first(|rule| rule.action.is_of_events() && rule.which.matches(about) && of_kind(&rule.which)).map(|(_, action)| action)
    }

    fn first(&self, matches: impl Fn(&Rule) -> bool) -> Option<(RuleId, Action)> {
        let kills = self.kills.load(Ordering::Acquire);
        let mut rules = self.lock();
        let mut found = None;
        for rule in rules.iter_mut() {
            if kills < rule.which.kills || !matches(rule) {
                continue;
            }
            rule.matched += 1;
            let nth = rule.matched;
            let due = nth > rule.which.skip && rule.which.times.is_none_or(|times| nth <= rule.which.skip + times);
            if due && found.is_none() {
                rule.befell += 1;
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
            .filter(|rule| rule.which.matches(request))
            .filter(|rule| match rule.action {
                Action::Hang | Action::Stale { .. } => rule.which.times.is_none(),
                _ => rule.action.is_of_open_watches() && arrival <= rule.added_after,
            })
            .map(|rule| &rule.action)
            .collect();
        // A watch that has fallen silent can still end.
        let ends = |action: &&&Action| matches!(action, Action::EndWatches | Action::ExpireWatches);
        actions.iter().find(ends).or(actions.first()).map(|action| (*action).clone())
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
            continued: false,
        }
    }

    #[test]
    fn a_rule_befalls_the_requests_that_it_names_and_as_many_as_it_says() {
        let rules = Rules::new();
        rules.add(Match::all().resource("services").skip(1).times(2), Action::Reset, 0);
        let befallen: Vec<bool> = (0..5).map(|_| rules.action(&request("services", "")).is_some()).collect();
        assert_eq!(befallen, [false, true, true, false, false]);
        assert_eq!(rules.action(&request("secrets", "")), None);
        assert_eq!(rules.action(&request("services", "status")), None);
    }

    #[test]
    fn the_first_rule_decides_and_a_removed_one_no_longer() {
        let rules = Rules::new();
        let first = rules.add(Match::all().name("a"), Action::KillAfter, 0);
        rules.add(Match::all(), Action::DropResponse, 0);
        assert_eq!(rules.action(&request("services", "")), Some((first, Action::KillAfter)));
        assert_eq!(rules.befell(first), 1);
        rules.remove(first);
        assert_eq!(rules.action(&request("services", "")).map(|(_, action)| action), Some(Action::DropResponse));
    }

    #[test]
    fn a_write_is_found_by_its_identity_whatever_is_written_beside_it() {
        let rules = Rules::new();
        let identity =
            WriteIdentity { verb: Verb::Apply, resource: "services".into(), subresource: String::new(), name: "a".into(), nth: 2 };
        rules.add(Match::write(&identity), Action::KillAfter, 0);
        let writes = [("services", ""), ("secrets", ""), ("services", "status"), ("services", ""), ("services", "")];
        let befallen: Vec<bool> =
            writes.iter().map(|(resource, subresource)| rules.action(&request(resource, subresource)).is_some()).collect();
        assert_eq!(befallen, [false, false, false, true, false]);
    }

    #[test]
    fn what_comes_before_a_kill_does_not_count_for_a_rule_about_what_comes_after() {
        let rules = Rules::new();
        rules.add(Match::all().after_kills(1).skip(1).times(1), Action::KillAfter, 0);
        let befalls = || rules.action(&request("services", "")).is_some();
        assert_eq!([befalls(), befalls()], [false, false]);
        rules.killed();
        assert_eq!([befalls(), befalls(), befalls()], [false, true, false]);
    }

    #[test]
    fn an_event_is_no_request_and_is_found_by_its_kind() {
        let rules = Rules::new();
        rules.add(Match::all().event(EventKind::Deleted), Action::DropEvent, 0);
        assert_eq!(rules.action(&request("services", "")), None);
        assert_eq!(rules.action_on_event(&request("services", ""), EventKind::Modified), None);
        assert_eq!(rules.action_on_event(&request("services", ""), EventKind::Deleted), Some(Action::DropEvent));
    }

    #[test]
    fn only_watches_that_were_open_before_are_frozen() {
        let rules = Rules::new();
        rules.add(Match::all(), Action::FreezeWatches, 5);
        assert_eq!(rules.action(&request("services", "")), None);
        assert_eq!(rules.action_on_open_watch(&request("services", ""), 5), Some(Action::FreezeWatches));
        assert_eq!(rules.action_on_open_watch(&request("services", ""), 6), None);
    }
}
