//! What users may add to the command line.
//!
//! The items are read exactly as vLLM 0.33.0 reads them: `_` for `-`, unique prefixes, short forms, values behind `=` or in
//! the next item, paths into JSON options. So a managed option is recognised in every spelling that would work, and what
//! vLLM would refuse at start is refused before a pod exists. Another version of vLLM has other options: there, only what
//! is managed is refused.

use super::parser::{self, Problem};
use super::words::shown;
use super::{combinations, managed};
use crate::decide::backend::children::image;
use crate::decide::backend::choice::DEFAULT_IMAGE;

/// An item of `extraArgs` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.vllm.extraArgs: {item}: {problem}; {fix}")]
pub struct ArgumentError {
    /// The item as the user wrote it, without a value that is a secret.
    pub item: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

/// Whether `extraArgs` can be added to the command line of the images, one of which will run.
///
/// # Errors
///
/// One error for every item that is managed by the operator or, where all images are of the version whose parser is known,
/// that this parser refuses, in the order of the items. Not checked: whether the names of parsers, back ends and files
/// exist, which depends on the image.
pub fn check(extra_args: &[String], images: &[&str]) -> Result<(), Vec<ArgumentError>> {
    let (occurrences, mut problems) = parser::parse(extra_args);
    problems.extend(combinations::check(&occurrences));
    if !images.iter().all(|image| image::same_version(image, DEFAULT_IMAGE)) {
        // What several options begin with may be a managed one's only abbreviation elsewhere.
        problems.retain(|problem| problem.short_for.iter().any(|dest| managed::of(dest).is_some()));
    }
    // What such an item becomes is not known, so that nothing else can be said of it.
    let expanded: Vec<usize> = items_that_kubernetes_expands(extra_args).collect();
    problems.retain(|problem| !expanded.contains(&problem.item));
    // An option that is managed is told once, and not that its value is wrong as well.
    let managed = |item: usize| {
        occurrences
            .iter()
            .filter(|occurrence| occurrence.item == item)
            .find_map(|occurrence| Some((occurrence, managed::of(&occurrence.option.dest)?)))
    };
    problems.retain(|problem| managed(problem.item).is_none());
    for (index, _) in extra_args.iter().enumerate().filter(|(index, _)| !expanded.contains(index)) {
        if let Some((occurrence, managed)) = managed(index) {
            let (problem, fix) = managed.explain();
            problems.push(Problem { item: index, option: Some(occurrence.spelling), short_for: Vec::new(), problem, fix });
        }
    }
    // A value that stands alone beside a secret option may be a secret, too.
    let secrets = extra_args.iter().any(|item| names_a_secret(item))
        || occurrences.iter().any(|occurrence| managed::is_secret(&occurrence.option.dest));
    let mut errors: Vec<(usize, ArgumentError)> =
        problems.into_iter().map(|problem| (problem.item, error(extra_args, problem, secrets))).collect();
    errors.extend(expanded.into_iter().map(|index| {
        (
            index,
            ArgumentError {
                item: format!("item {}", index + 1),
                problem: "it holds `$(`, behind which Kubernetes puts the value of an environment variable in place of a name"
                    .to_owned(),
                fix: "write the value itself".to_owned(),
            },
        )
    }));
    errors.sort_by_key(|(index, _)| *index);
    let errors: Vec<ArgumentError> = errors.into_iter().map(|(_, error)| error).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// What vLLM 0.33.0 refuses of the arguments behind `vllm serve MODEL`, a text for each: its parser, and what it checks before it
/// looks at a model. Nothing is managed here: this is for what stands in for vLLM.
///
/// # Errors
///
/// A text for each argument that is refused, in their order, without values that are secrets.
pub fn check_as_vllm(arguments: &[String]) -> Result<(), Vec<String>> {
    let (occurrences, mut problems) = parser::parse(arguments);
    problems.extend(combinations::check(&occurrences));
    problems.sort_by_key(|problem| problem.item);
    let told = |problem| {
        let ArgumentError { item, problem, fix } = error(arguments, problem, true);
        format!("{item}: {problem}; {fix}")
    };
    if problems.is_empty() { Ok(()) } else { Err(problems.into_iter().map(told).collect()) }
}

/// Items in which the kubelet looks for the names of variables: `$(NAME)`. What vLLM then reads was not seen here, and could
/// be any option. The escaped form `$$(NAME)` is no exception, for no option of vLLM needs it.
fn items_that_kubernetes_expands(items: &[String]) -> impl Iterator<Item = usize> {
    items.iter().enumerate().filter(|(_, item)| item.contains("$(")).map(|(index, _)| index)
}

/// Whether an item names a secret option before its first blank or equals sign, however the rest is read.
fn names_a_secret(item: &str) -> bool {
    let (named, _) = parser::parse(&[shown(item).to_owned()]);
    named.iter().any(|occurrence| managed::is_secret(&occurrence.option.dest))
}

fn error(items: &[String], problem: Problem, secrets: bool) -> ArgumentError {
    let Problem { item: index, option, problem, fix, .. } = problem;
    let text = items.get(index).map_or("", String::as_str);
    let name = shown(text);
    let item = match option {
        // An abbreviation is shown with what it stands for.
        Some(option) if name != option => format!("{name} ({option})"),
        Some(_) => name.to_owned(),
        None if secrets && !text.starts_with('-') => format!("item {}", index + 1),
        None => name.to_owned(),
    };
    ArgumentError { item, problem, fix }
}

#[cfg(test)]
#[path = "extra_tests.rs"]
mod tests;
