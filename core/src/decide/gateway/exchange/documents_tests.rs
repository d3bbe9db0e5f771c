use super::*;
use crate::decide::gateway::plan::BackendEndpoints;

const SECRET: &str = "sk-canary-1f2e3d";

fn plan(namespace: &str) -> Plan {
    Plan { schema: plan::SCHEMA, namespace: namespace.to_owned(), ..Plan::default() }
}

fn secrets() -> Secrets {
    Secrets([("openai.main".to_owned(), SECRET.into())].into())
}

fn document(text: &str) -> Document {
    Document(RawValue::from_string(text.to_owned()).unwrap().into())
}

#[test]
fn the_hash_of_a_plan_on_its_way_is_the_hash_of_the_plan() {
    let desired = Desired::new(&plan("team"), &secrets(), &Endpoints::new()).unwrap();
    assert_eq!(desired.hash(DocumentKind::Plan), plan("team").hash().unwrap());
    let other = Desired::new(&plan("other"), &secrets(), &Endpoints::new()).unwrap();
    assert_ne!(desired.hash(DocumentKind::Plan), other.hash(DocumentKind::Plan));
    assert_eq!(desired.hash(DocumentKind::Secrets), other.hash(DocumentKind::Secrets));
}

#[test]
fn what_is_sent_is_what_is_read() {
    let pods = BackendEndpoints { ready: ["10.0.0.1:8000".parse().unwrap()].into(), expected_in_seconds: None };
    let endpoints = Endpoints::from([("qwen".to_owned(), pods)]);
    let desired = Desired::new(&plan("team"), &secrets(), &endpoints).unwrap();
    let mut update = Update::default();
    for kind in DocumentKind::ALL {
        let sent = serde_json::to_string(desired.document(kind)).unwrap();
        update.read(kind, &serde_json::from_str(&sent).unwrap(), desired.hash(kind)).unwrap();
    }
    assert_eq!(update.plan.as_deref(), Some(&plan("team")));
    assert_eq!(update.endpoints, Some(endpoints));
    assert_eq!(update.secrets.unwrap().0["openai.main"].expose_secret(), SECRET);
}

#[test]
fn no_secret_is_in_anything_that_is_printed() {
    let desired = Desired::new(&plan("team"), &secrets(), &Endpoints::new()).unwrap();
    let mut update = Update::default();
    update.read(DocumentKind::Secrets, desired.document(DocumentKind::Secrets), desired.hash(DocumentKind::Secrets)).unwrap();
    assert!(update.secrets.is_some());
    for printed in [format!("{:?}", secrets()), format!("{desired:?}"), format!("{update:?}"), format!("{update:#?}")] {
        assert!(!printed.contains("canary"), "{printed}");
    }
    let odd = document(&format!(r#""{SECRET}""#));
    let error = Update::default().read(DocumentKind::Secrets, &odd, &odd.hash()).unwrap_err();
    assert_eq!(error, "they are no map of names to texts");
}

#[test]
fn a_document_is_refused_with_the_reason() {
    let refuse = |kind, text: &str| {
        let (mut update, document) = (Update::default(), document(text));
        let error = update.read(kind, &document, &document.hash()).unwrap_err();
        assert!(update.is_empty());
        error
    };
    assert_eq!(
        refuse(DocumentKind::Plan, r#"{"schema":2,"namespace":"team","callers":"by another rule"}"#),
        "its form is version 2, and this gateway reads up to 1: upgrade the gateway"
    );
    assert!(refuse(DocumentKind::Plan, r#"{"schema":1}"#).starts_with("missing field `namespace`"));
    assert!(refuse(DocumentKind::Plan, "{}").starts_with("missing field `schema`"));
    assert!(refuse(DocumentKind::Endpoints, "[]").starts_with("invalid type"));
    let damaged = Update::default().read(DocumentKind::Endpoints, &document("{}"), "0123");
    assert_eq!(damaged.unwrap_err(), "it is not what its hash says");
}

#[test]
fn a_field_that_only_a_later_version_knows_is_no_reason_to_refuse_a_plan() {
    let text = r#"{"schema":1,"namespace":"team","callers":{},"routes":{},"backends":{},"cache":{"later":true}}"#;
    let (mut update, document) = (Update::default(), document(text));
    update.read(DocumentKind::Plan, &document, &document.hash()).unwrap();
    assert_eq!(update.plan.as_deref(), Some(&plan("team")));
}
