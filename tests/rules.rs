//! The rules of deploy/prometheus-rules.yaml are ones that Prometheus accepts, do what tests/promtool/ says, are about metrics
//! that the operator shows, and stand in docs/metrics.md.

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use quartermaster_dev::binaries::Binaries;
use serde_json::Value;

/// The rules, in the format of a rule file of Prometheus.
const RULES: &str = "deploy/prometheus-rules.yaml";
/// Where the tests of rules are, in the format of `promtool test rules`.
const TESTS: &str = "tests/promtool";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: &Path) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All rules, of every group.
fn rules() -> Vec<Value> {
    let file = yaml(&root().join(RULES));
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// The files of tests.
fn tests() -> Vec<PathBuf> {
    let files = std::fs::read_dir(root().join(TESTS)).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|is| is == "yaml")).collect();
    assert!(!files.is_empty(), "no tests in {TESTS}");
    files
}

/// A member of a rule, where it is a text.
fn text<'a>(rule: &'a Value, member: &str) -> Option<&'a str> {
    rule[member].as_str()
}

/// The names of this kind, `record` or `alert`.
fn names<'a>(rules: &'a [Value], kind: &str) -> BTreeSet<&'a str> {
    rules.iter().filter_map(|rule| text(rule, kind)).collect()
}

/// Runs promtool in the directory of the repository. Fails where it does.
fn promtool(arguments: &[&str], files: &[PathBuf]) {
    let program = Binaries::locate_promtool().unwrap_or_else(|error| panic!("{error}"));
    let output = Command::new(program).args(arguments).args(files).current_dir(root()).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn promtool_has_nothing_to_say_against_the_rules() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &[root().join(RULES)]);
}

#[test]
fn the_rules_do_what_their_tests_say() {
    promtool(&["test", "rules"], &tests());
}

#[test]
fn every_alert_is_tested_where_it_fires_and_where_it_does_not_and_every_record_where_it_has_a_value() {
    let (mut fires, mut is_silent, mut has_value) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for file in tests() {
        let file = yaml(&file);
        for test in file["tests"].as_array().unwrap() {
            for case in test["alert_rule_test"].as_array().into_iter().flatten() {
                let expected = case["exp_alerts"].as_array().unwrap();
                let seen = if expected.is_empty() { &mut is_silent } else { &mut fires };
                seen.insert(case["alertname"].as_str().unwrap().to_owned());
            }
            for case in test["promql_expr_test"].as_array().into_iter().flatten() {
                for sample in case["exp_samples"].as_array().unwrap() {
                    has_value.insert(sample["labels"].as_str().unwrap().split('{').next().unwrap().to_owned());
                }
            }
        }
    }
    let rules = rules();
    for alert in names(&rules, "alert") {
        assert!(fires.contains(alert), "no test in which {alert} fires");
        assert!(is_silent.contains(alert), "no test in which {alert} does not fire");
    }
    for record in names(&rules, "record") {
        assert!(has_value.contains(record), "no test in which {record} has a value");
    }
}

/// The words of an expression that can be names of metrics, without what stands in quotes.
fn words(expression: &str) -> BTreeSet<&str> {
    let unquoted = expression.split('"').step_by(2);
    unquoted.flat_map(|part| part.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'))).collect()
}

/// The metrics of the operator by name, with their labels, as docs/metrics.md has them: tests/metrics.rs holds it to the code.
fn documented(page: &str) -> BTreeMap<&str, Vec<&str>> {
    let rows = page.lines().filter(|line| line.starts_with("| `quartermaster_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (quoted(cells[1])[0], quoted(cells[3]))
    })
    .collect()
}

/// The words in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_metric_of_a_rule_is_shown_by_the_operator_or_recorded_by_an_earlier_rule() {
    let page = read(&root().join("docs/metrics.md"));
    let documented = documented(&page);
    let rules = rules();
    let plain = names(&rules, "record");
    let mut recorded: BTreeSet<&str> = BTreeSet::new();
    let mut used = 0;
    for rule in &rules {
        for word in words(text(rule, "expr").unwrap()) {
            if word.starts_with("quartermaster_") {
                assert!(documented.contains_key(word), "nothing shows {word}: {rule}");
                used += 1;
            }
            // Rules of a group are evaluated one after the other: one that stands later would be a value of before.
            assert!(!plain.contains(word) || recorded.contains(word), "{word} is recorded too late for {rule}");
        }
        recorded.extend(text(rule, "record"));
    }
    assert!(used >= recorded.len() && !recorded.is_empty(), "{used} metrics, {recorded:?}");
}

#[test]
fn a_plain_name_is_that_of_a_metric_with_all_of_its_labels() {
    let page = read(&root().join("docs/metrics.md"));
    let documented = documented(&page);
    let rules = rules();
    for (record, rule) in rules.iter().filter_map(|rule| text(rule, "record").map(|record| (record, rule))) {
        let metric = format!("quartermaster_{record}");
        let expression = text(rule, "expr").unwrap();
        assert!(words(expression).contains(metric.as_str()), "{record} is not made of {metric}");
        let labels = documented.get(metric.as_str()).unwrap_or_else(|| panic!("docs/metrics.md has no {metric}"));
        // What is aggregated away are the labels of the target; one of the metric itself would merge what is different.
        let (_, kept) = expression.split_once("by (").unwrap();
        let kept: Vec<&str> = kept.split(')').next().unwrap().split(',').map(str::trim).collect();
        assert_eq!(&kept, labels, "{record}: right: docs/metrics.md");
    }
}

#[test]
fn every_rule_is_documented_and_no_other() {
    let page = read(&root().join("docs/metrics.md"));
    let (_, section) = page.split_once("\n## Rules and alerts\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rules = rules();
    let row = |rule: &Value| match (text(rule, "record"), text(rule, "alert")) {
        (Some(record), _) => {
            let (_, kept) = text(rule, "expr").unwrap().split_once("by (").unwrap();
            let labels: Vec<String> = kept.split(')').next().unwrap().split(", ").map(|label| format!("`{label}`")).collect();
            format!("| `{record}` | {} |", labels.join(", "))
        }
        (None, Some(alert)) => format!("| `{alert}` | {} |", text(&rule["labels"], "severity").unwrap()),
        (None, None) => panic!("neither record nor alert: {rule}"),
    };
    let rows: BTreeSet<String> = rules.iter().map(row).collect();
    let documented = section.lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<String> =
        documented.map(|line| format!("{} |", line.splitn(4, '|').take(3).collect::<Vec<_>>().join("|").trim())).collect();
    assert_eq!(documented, rows, "left: docs/metrics.md");
}
