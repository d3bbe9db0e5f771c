use k8s_openapi::ByteString;
use kube::api::ObjectMeta;

use super::*;
use crate::operate::ledger::{DIGEST, ENTRY, digest, encode};

/// A table in which a pool has used so many tokens.
fn text(pool: &str, tokens: u64, (part, parts): (u16, u16)) -> String {
    let caller = format!(r#""{pool}":{{"series":[["smart","qwen"]],"buckets":{{"2026-11-26T09":[[0,{tokens}]]}}}}"#);
    format!(r#"{{"schemaVersion":1,"revision":3,"parts":{parts},"part":{part},"callers":{{{caller}}}}}"#)
}

fn object(tenant: &str, text: Option<&str>) -> ConfigMap {
    let labels = [(LEDGER_LABEL, "history"), (TENANT_LABEL, tenant)];
    let binary = text.map(|text| BTreeMap::from([(ENTRY.to_owned(), ByteString(encode(text).unwrap()))]));
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(format!("ledger-{tenant}")),
            labels: Some(labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into()),
            annotations: text.map(|text| BTreeMap::from([(DIGEST.to_owned(), digest(text))])),
            ..ObjectMeta::default()
        },
        binary_data: binary,
        ..ConfigMap::default()
    }
}

fn input(table: &History) -> u64 {
    table.rows().map(|(_, _, counts)| counts.input).sum()
}

#[test]
fn objects_are_put_together_by_namespace_and_empty_ones_say_nothing() {
    // The classes of the names are 200 and 36: both are in the even part.
    let (one, other) = (text("coder", 5, (0, 2)), text("planner", 7, (0, 1)));
    let tables = of_objects(&[object("team-a", Some(&one)), object("team-b", Some(&other)), object("team-c", None)]).unwrap();
    assert_eq!(tables.keys().collect::<Vec<_>>(), ["team-a", "team-b"]);
    assert_eq!((input(&tables["team-a"]), input(&tables["team-b"])), (5, 7));
    assert_eq!(gap("team-b", &tables["team-b"]), None);
    assert!(gap("team-a", &tables["team-a"]).unwrap().contains("team-a is missing"), "the odd part");
}

#[test]
fn an_object_that_cannot_be_read_is_named() {
    let mut cut = object("team-a", Some(&text("coder", 5, (0, 1))));
    cut.binary_data.as_mut().unwrap().get_mut(ENTRY).unwrap().0.truncate(20);
    let error = of_objects(&[cut]).unwrap_err();
    assert!(error.starts_with("ConfigMap ledger-team-a: it is not what gzip makes of a text"), "{error}");
    let mut edited = object("team-a", Some(&text("coder", 5, (0, 1))));
    edited.binary_data = object("team-a", Some(&text("coder", 4, (0, 1)))).binary_data;
    let error = of_objects(&[edited]).unwrap_err();
    assert!(error.starts_with("ConfigMap ledger-team-a: it was changed by somebody else"), "{error}");
    let newer = object("team-a", Some(&text("coder", 5, (0, 1)).replace("\"schemaVersion\":1", "\"schemaVersion\":9")));
    let error = of_objects(&[newer]).unwrap_err();
    assert!(error.starts_with("team-a: reading the ledger: it is of version 9"), "{error}");
}

#[test]
fn what_kubectl_prints_of_the_ledger_is_known_among_other_objects() {
    let history = serde_json::to_value(object("team-a", Some("{}"))).unwrap();
    let mut hot = history.clone();
    hot["metadata"]["labels"][LEDGER_LABEL] = "hot".into();
    let mut secret = history.clone();
    secret["kind"] = "Secret".into();
    assert_eq!([history, hot, secret, Value::Null].map(|document| is_of_ledger(&document)), [true, false, false, false]);
}

#[test]
fn one_namespace_needs_no_name_and_several_do() {
    let tables = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), History::default())).collect::<Tables>();
    let of = |names: &[&str], namespace: Option<&str>| of_namespace(tables(names), namespace).map(|(name, _)| name);
    assert_eq!(of(&["team-a"], None).unwrap(), "team-a");
    assert_eq!(of(&["team-a", "team-b"], Some("team-b")).unwrap(), "team-b");
    assert_eq!(of(&[], Some("team-b")).unwrap(), "team-b");
    assert_eq!(of(&[], None).unwrap(), "");
    let said = |names: &[&str], namespace: Option<&str>| of(names, namespace).unwrap_err().to_string();
    assert!(said(&["team-a", "team-b"], None).contains("--namespace: team-a, team-b"));
    assert!(said(&["team-a"], Some("team-c")).contains("team-c; it is of: team-a"));
}
