//! What the documentation says of conditions, reasons and files is what there is.

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use quartermaster_core::api::conditions::{reasons, types};

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
    let pages = ["docs/inference-backends.md", "docs/agent-pools.md"].map(read);
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
