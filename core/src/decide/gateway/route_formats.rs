//! Whether those who answer the same calls speak a format in common. Nothing translates between formats.

use std::collections::BTreeSet;

use super::plan::{Candidate, Route};
use super::route_entry::Backends;
use super::route_problem::Problem;
use crate::api::format::Format;

/// All formats, those first that clients use most.
const BY_USE: [Format; 5] = [Format::ChatCompletions, Format::Messages, Format::Responses, Format::Embeddings, Format::Completions];
/// The formats of agents. Who lacks one of the others only lacks what its model does not do, or hardly anybody asks for.
const OF_AGENTS: [Format; 3] = [Format::ChatCompletions, Format::Messages, Format::Responses];

/// Whether every backend of a route can be of use: backends that answer the same calls share a format, and a fallback speaks one
/// of those that the backends before it share. Tells which backends get no calls in formats that others of the route speak.
///
/// # Errors
///
/// The first backend that is of no use, with a format that it does not speak.
pub fn check(route: &Route, backends: &Backends) -> Result<Vec<Problem>, Problem> {
    let mut shared = Vec::new();
    let of_rules = route.rules.iter().map(|rule| (format!("spec.rules[{}].backends", rule.name), &rule.backends));
    for (field, candidates) in [("spec.backends".to_owned(), &route.backends)].into_iter().chain(of_rules) {
        shared.extend(share(&field, candidates, backends)?);
    }
    for fallback in &route.fallback {
        let field = || format!("spec.fallback[{}]", fallback.backend);
        let spoken = spoken(&fallback.backend, backends, field)?;
        if let Some(first) = shared.first()
            && shared.iter().all(|shared| shared.is_disjoint(&spoken))
        {
            return Err(not_supported(field(), &fallback.backend, first, &spoken));
        }
    }
    Ok(limited(route, backends))
}

/// The formats that backends which answer the same calls have in common; `None` without backends.
fn share(field: &str, candidates: &[Candidate], backends: &Backends) -> Result<Option<BTreeSet<Format>>, Problem> {
    let mut shared: Option<BTreeSet<Format>> = None;
    for candidate in candidates {
        let field = || format!("{field}[{}]", candidate.backend);
        let spoken = spoken(&candidate.backend, backends, field)?;
        let before = shared.unwrap_or_else(|| spoken.clone());
        let common: BTreeSet<Format> = before.intersection(&spoken).copied().collect();
        if common.is_empty() {
            return Err(not_supported(field(), &candidate.backend, &before, &spoken));
        }
        shared = Some(common);
    }
    Ok(shared)
}

fn spoken(backend: &str, backends: &Backends, field: impl Fn() -> String) -> Result<BTreeSet<Format>, Problem> {
    let entry = backends.get(backend).and_then(|entry| entry.as_ref().ok());
    let spoken = entry.map(|entry| entry.backend.formats.clone()).unwrap_or_default();
    if spoken.is_empty() {
        return Err(Problem::NoFormat { field: field(), backend: backend.to_owned(), format: Format::ChatCompletions });
    }
    Ok(spoken)
}

fn not_supported(field: String, backend: &str, wanted: &BTreeSet<Format>, spoken: &BTreeSet<Format>) -> Problem {
    let format = BY_USE.into_iter().find(|format| wanted.contains(format)).unwrap_or(Format::ChatCompletions);
    Problem::FormatNotSupported { field, backend: backend.to_owned(), format, speaks: words(spoken) }
}

/// Which backends lack a format of agents that another one of the route speaks.
fn limited(route: &Route, backends: &Backends) -> Vec<Problem> {
    let of_rules = route.rules.iter().flat_map(|rule| &rule.backends);
    let names = route.backends.iter().chain(of_rules).map(|candidate| &candidate.backend);
    let names: BTreeSet<&String> = names.chain(route.fallback.iter().map(|fallback| &fallback.backend)).collect();
    let of_agents = |name: &String| -> BTreeSet<Format> {
        let entry = backends.get(name).and_then(|entry| entry.as_ref().ok());
        let spoken = entry.map(|entry| entry.backend.formats.clone()).unwrap_or_default();
        spoken.into_iter().filter(|format| OF_AGENTS.contains(format)).collect()
    };
    let every: BTreeSet<Format> = names.iter().flat_map(|name| of_agents(name)).collect();
    names
        .into_iter()
        .map(|name| (name, of_agents(name)))
        .filter(|(_, spoken)| !spoken.is_empty() && *spoken != every)
        .map(|(name, spoken)| Problem::FormatLimited { backend: name.clone(), speaks: words(&spoken) })
        .collect()
}

/// `ChatCompletions, Messages and Responses`.
fn words(formats: &BTreeSet<Format>) -> String {
    let names: Vec<String> =
        BY_USE.into_iter().filter(|format| formats.contains(format)).map(|format| format.to_string()).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "no format".to_owned(),
    }
}
