//! What the documentation says of conditions, reasons and files is what there is.

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use quartermaster_core::api::conditions::{reasons, types};
use quartermaster_core::decide::account::Unit;
use quartermaster_core::decide::account::spending::Refused;
use quartermaster_core::decide::gateway::settings::Settings;
use quartermaster_core::decide::request::failure::{Failure, FailureKind};
use quartermaster_core::decide::request::refusal::Refusal;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The part of a page between a heading of the second level and the next.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    rest.split("\n## ").next().unwrap()
}

/// The words in backticks that the first cells of the rows of all tables hold.
fn first_cells(section: &str) -> BTreeSet<&str> {
    section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |")).map(|(cell, _)| cell).collect()
}

#[test]
fn every_reason_is_documented_with_what_to_do_and_no_other() {
    let pages = ["docs/inference-backends.md", "docs/agent-pools.md", "docs/model-routes.md", "docs/token-budgets.md"].map(read);
    let documented: BTreeSet<&str> = pages.iter().flat_map(|page| first_cells(section(page, "Reasons, and what to do"))).collect();
    assert_eq!(documented, reasons::ALL.iter().copied().collect());
}

#[test]
fn every_condition_is_documented_and_no_other() {
    let page = read("docs/inference-backends.md");
    let documented = first_cells(section(&page, "Conditions"));
    let known = [
        types::READY,
        types::RECONCILING,
        types::STALLED,
        types::SUSPENDED,
        types::SCHEMA_OUTDATED,
        types::SIZED,
        types::AVAILABLE,
        types::MODEL_LOADED,
        types::UPDATE_AVAILABLE,
    ];
    assert_eq!(documented, known.into_iter().collect());
}

#[test]
fn every_condition_of_a_route_is_documented() {
    let page = read("docs/model-routes.md");
    let known = [types::READY, types::ACCEPTED, types::RESOLVED_REFS, types::PROGRAMMED, types::LIMITED_BY_BUDGET];
    assert_eq!(first_cells(section(&page, "Conditions")), known.into_iter().collect());
}

#[test]
fn every_condition_of_a_budget_is_documented() {
    let page = read("docs/token-budgets.md");
    let known = [types::READY, types::USAGE_KNOWN, types::EXHAUSTED, types::ON_TRACK];
    assert_eq!(first_cells(section(&page, "Conditions")), known.into_iter().collect());
}

#[test]
fn every_field_of_a_route_and_of_a_budget_is_documented_and_stands_in_the_full_example() {
    for (plural, page, example) in [
        ("modelroutes", "docs/model-routes.md", "examples/routes/full.yaml"),
        ("tokenbudgets", "docs/token-budgets.md", "examples/budgets/full.yaml"),
    ] {
        let definition: Value = serde_saphyr::from_str(&read(format!("crds/quartermaster.dev_{plural}.yaml"))).unwrap();
        let spec = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties").unwrap();
        let declared: BTreeSet<&str> = spec.as_object().unwrap().keys().map(String::as_str).collect();
        let page = read(page);
        let cells = first_cells(section(&page, "Fields"));
        let documented: BTreeSet<&str> = cells.iter().filter_map(|cell| cell.split(['.', '[']).next()).collect();
        assert_eq!(documented, declared, "{plural}");
        let example: Value = serde_saphyr::from_str(&read(example)).unwrap();
        let shown: BTreeSet<&str> = example["spec"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(shown, declared, "{plural}");
    }
}

#[test]
fn every_setting_of_a_gateway_is_documented_and_no_other() {
    let unknown = BTreeMap::from([("unknown".to_owned(), String::new())]);
    let refused = Settings::read(&unknown).unwrap_err().to_string();
    let (_, known) = refused.split_once("one of ").unwrap_or_else(|| panic!("{refused}"));
    let page = read("docs/model-routes.md");
    assert_eq!(first_cells(section(&page, "The gateway")), known.split(", ").collect());
}

#[test]
fn everything_that_the_gateway_answers_itself_is_documented_with_its_status() {
    let failed = |kind| Refusal::AttemptsFailed(Failure { kind, retry_after: None });
    let spent = || Refused { budget: "sprint".into(), unit: Unit::Tokens, limit: 1, left: 0, resets: None, message: None };
    let now = Timestamp::UNIX_EPOCH;
    let refusals = [
        Refusal::Unauthorized,
        Refusal::UnknownPath,
        Refusal::MethodNotAllowed { allowed: "POST" },
        Refusal::ModelNotFound,
        Refusal::InvalidBody { param: None, message: String::new() },
        Refusal::BodyTooLarge { limit: 1 },
        Refusal::BodyTimeout,
        Refusal::NoRoom,
        Refusal::NoBackendInTier,
        Refusal::FormatNotSupported,
        Refusal::NoRuleMatches,
        Refusal::BackendStarting { expected_in: None },
        Refusal::budget_exceeded(spent(), now),
        Refusal::new_tasks_refused(spent(), now),
        Refusal::BudgetUnknown { budget: "sprint".into() },
        Refusal::BudgetBusy,
        Refusal::UnboundedTool { tool: "web search" },
        Refusal::PriceMissing,
        Refusal::NoPlan,
        Refusal::Internal,
        Refusal::TaskRequestTooLarge { limit: 1, most: 2 },
        Refusal::TaskLimitExceeded { unit: Unit::Tokens, limit: 1, left: 0 },
        Refusal::TaskBusy,
        Refusal::IdenticalRequests { limit: 1 },
    ];
    let refusals = refusals.into_iter().chain(FailureKind::ALL.map(failed));
    let page = read("docs/model-routes.md");
    let rows: Vec<&str> = section(&page, "What the gateway answers itself").lines().filter(|line| line.starts_with('|')).collect();
    for refusal in refusals {
        let (status, code) = (refusal.status().as_u16().to_string(), format!("`{}`", refusal.code()));
        assert!(rows.iter().any(|row| row.contains(&status) && row.contains(&code)), "{status} {code} has no row");
    }
}

/// What an agent sets is shown by files that run: tests/gateway/sdks/ runs them.
#[test]
fn every_example_of_an_sdk_is_shown_as_it_is_run() {
    let page = read("docs/model-routes.md");
    let files = std::fs::read_dir(root().join("examples/sdks")).unwrap().map(|entry| entry.unwrap().path());
    let mut shown = 0;
    for file in files.filter(|file| file.extension().is_some_and(|is| is == "py")) {
        let text = read(&file);
        assert!(page.contains(&format!("\n```python\n{text}```\n")), "{} is shown otherwise", file.display());
        shown += 1;
    }
    assert_eq!(shown, page.matches("\n```python\n").count(), "what is shown is in no file");
    assert!(shown >= 5, "{shown} files");
}

#[test]
fn every_link_of_a_page_to_another_file_or_heading_leads_somewhere() {
    let mut pages: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from).into();
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    pages.extend(docs.map(|name| Path::new("docs").join(name)).filter(|page| page.extension().is_some_and(|is| is == "md")));
    let mut checked = 0;
    for page in &pages {
        let text = read(page);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(root().join(&target).exists(), "{}: {link}", page.display());
            if !heading.is_empty() {
                let anchors: Vec<String> = read(&target).lines().filter(|line| line.starts_with('#')).map(anchor).collect();
                assert!(anchors.iter().any(|anchor| anchor == heading), "{}: {link}: {anchors:?}", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked} links");
}

/// The anchor that a heading gets where pages are shown.
fn anchor(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim().to_lowercase();
    title
        .chars()
        .filter(|character| character.is_alphanumeric() || " -_".contains(*character))
        .collect::<String>()
        .replace(' ', "-")
}
