//! Which forms of the routes have room in a plan: a ConfigMap holds it, and its size is bounded.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::assemble::{AcceptedForm, LIMIT};
use super::plan::Route;
use super::route_entry::Backends;

/// A form of a route, and what the plan would have of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Form {
    /// The form.
    pub(super) accepted: AcceptedForm,
    /// Its entry. Nothing where its name belongs to another route by now.
    pub(super) route: Option<Route>,
    bytes: usize,
}

impl Form {
    pub(super) fn new(accepted: AcceptedForm, route: Option<Route>) -> Self {
        let bytes = bytes(&accepted).saturating_add(route.as_ref().map_or(0, bytes));
        Self { accepted, route, bytes }
    }

    /// The backends that its entry names.
    pub(super) fn backends(&self) -> BTreeSet<&str> {
        let Some(route) = &self.route else { return BTreeSet::new() };
        let of_rules = route.rules.iter().flat_map(|rule| &rule.backends);
        let candidates = route.backends.iter().chain(of_rules).map(|candidate| candidate.backend.as_str());
        candidates.chain(route.fallback.iter().map(|fallback| fallback.backend.as_str())).collect()
    }
}

/// What the plan may have of a route.
#[derive(Debug)]
pub(super) struct Choice {
    /// Name of the route.
    pub(super) name: String,
    /// The form to have; nothing of a route that was never accepted.
    pub(super) wanted: Option<Form>,
    /// The form that is in force, where the wanted one is another.
    pub(super) in_force: Option<Form>,
    /// The wanted form is not in force yet.
    pub(super) is_new: bool,
}

impl Choice {
    /// What the plan has of it so far.
    fn before(&self) -> Option<&Form> {
        if self.is_new { self.in_force.as_ref() } else { self.wanted.as_ref() }
    }
}

/// What has no room in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftOut {
    /// The form that is new: the one that is in force stays.
    New,
    /// Any form of the route.
    All,
}

/// What of the choices has no room beside `base` and the others. They come in their order, from the oldest route to the newest, but what
/// is in force goes before what is new, so that no change of one route takes another one out.
pub(super) fn too_large(choices: &[Choice], base: &impl Serialize, backends: &Backends) -> BTreeMap<String, LeftOut> {
    let room = Room::new(base, backends);
    if room.has(choices.iter().filter_map(|choice| choice.wanted.as_ref())) {
        return BTreeMap::new();
    }
    let mut has_room: BTreeMap<&str, &Form> = BTreeMap::new();
    let mut left_out = BTreeMap::new();
    for (choice, form) in choices.iter().filter_map(|choice| Some((choice, choice.before()?))) {
        let others = has_room.values().copied();
        if room.has(others.chain([form])) {
            has_room.insert(&choice.name, form);
        } else if !choice.is_new {
            left_out.insert(choice.name.clone(), LeftOut::All);
        }
    }
    let new = choices.iter().filter(|choice| choice.is_new);
    for (choice, form) in new.filter_map(|choice| Some((choice, choice.wanted.as_ref()?))) {
        let others = has_room.iter().filter(|(name, _)| **name != choice.name).map(|(_, form)| *form);
        if room.has(others.chain([form])) {
            has_room.insert(&choice.name, form);
        } else {
            left_out.insert(choice.name.clone(), LeftOut::New);
        }
    }
    left_out
}

/// The room that routes have, and what their backends take of it.
struct Room<'a> {
    bytes: usize,
    backends: BTreeMap<&'a str, usize>,
}

impl<'a> Room<'a> {
    fn new(base: &impl Serialize, backends: &'a Backends) -> Self {
        let entries = backends.iter().filter_map(|(name, entry)| Some((name.as_str(), &entry.as_ref().ok()?.backend)));
        Self { bytes: LIMIT.saturating_sub(bytes(base)), backends: entries.map(|(name, entry)| (name, bytes(entry))).collect() }
    }

    fn has<'form>(&self, forms: impl Iterator<Item = &'form Form>) -> bool {
        let mut named = BTreeSet::new();
        let mut taken: usize = 0;
        for form in forms {
            taken = taken.saturating_add(form.bytes);
            named.extend(form.backends());
        }
        let of_backends = named.iter().filter_map(|name| self.backends.get(*name));
        of_backends.fold(taken, |sum, bytes| sum.saturating_add(*bytes)) <= self.bytes
    }
}

/// Bytes for the name of an entry, and for what stands around it, twice: among the routes, and among the accepted forms.
const AROUND: usize = 128;

/// Bytes of a value as JSON, and around it. What cannot be written has no room anywhere.
fn bytes(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |json| json.len().saturating_add(AROUND))
}
