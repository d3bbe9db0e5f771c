//! docs/metrics.md says of every metric what is registered.

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::Path;

use syn::visit_mut::{self, VisitMut};
use syn::{Expr, ExprMethodCall, Item, Lit};

/// Metrics by name, with their labels, or None where these are not written at the place of the name.
#[derive(Default)]
struct Registered(BTreeMap<String, Option<Vec<String>>>);

impl VisitMut for Registered {
    fn visit_expr_method_call_mut(&mut self, call: &mut ExprMethodCall) {
        if let Some(name) = call.args.first().and_then(text).filter(|name| name.starts_with("quartermaster_")) {
            let labels = call.args.iter().find_map(|argument| match argument {
                Expr::Reference(reference) => match reference.expr.as_ref() {
                    Expr::Array(labels) => Some(labels.elems.iter().filter_map(text).collect()),
                    _ => None,
                },
                _ => None,
            });
            assert!(self.0.insert(name.clone(), labels).is_none(), "{name} is registered twice");
        }
        visit_mut::visit_expr_method_call_mut(self, call);
    }
}

fn text(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The metrics of the operator, and those of the gateway.
fn registered() -> BTreeMap<String, Option<Vec<String>>> {
    let mut registered = Registered::default();
    for path in
        ["src/operate/metrics.rs", "src/operate/metric_definitions.rs", "src/operate/budget_figures.rs", "src/gateway/metrics.rs"]
    {
        let mut file = syn::parse_file(&read(path)).unwrap();
        file.items.retain(|item| !matches!(item, Item::Mod(_)));
        registered.visit_file_mut(&mut file);
    }
    registered.0
}

/// The rows of the tables: name, and labels.
fn documented() -> BTreeMap<String, Vec<String>> {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `quartermaster_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        assert!(cells.len() >= 6 && !cells[4].is_empty(), "{row}");
        (words(cells[1]).remove(0), words(cells[3]))
    })
    .collect()
}

#[test]
fn every_metric_is_documented_with_its_labels_and_no_other() {
    let (registered, documented) = (registered(), documented());
    assert!(registered.len() >= 10, "{registered:?}");
    let names = |metrics: Vec<&String>| metrics.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(names(documented.keys().collect()), names(registered.keys().collect()), "left: docs/metrics.md");
    for (name, labels) in registered {
        if let Some(labels) = labels {
            assert_eq!(documented[&name], labels, "{name}: left: docs/metrics.md");
        }
    }
}
