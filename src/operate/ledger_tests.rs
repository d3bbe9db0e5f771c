//! What is written into ConfigMaps, and what becomes of it when others write them too.

use std::sync::Arc;

use quartermaster_core::decide::account::history::Shard;
use rstest::rstest;
use serde_json::{Value, json};

use super::testing::{Fault, NAMESPACE, Server};
use super::*;

fn part(suffix: &str, text: &str) -> Part {
    let name = if suffix.is_empty() { "0-of-1" } else { suffix };
    Part::of_history(Shard { name: name.to_owned(), json: text.to_owned() })
}

/// The names of the objects of the namespace `team`: of the hot ledger, and of the caller table.
fn names() -> (String, String) {
    let hash = short_hash::of("team");
    (format!("quartermaster-ledger-hot-{hash}"), format!("quartermaster-ledger-history-{hash}"))
}

/// A claimed hot ledger in which a text stands.
async fn ledger(server: &Arc<Server>) -> (Ledger, String) {
    let mut ledger = server.store().ledger("team", Book::Hot);
    ledger.claim(1).await.unwrap();
    ledger.write(&[part("", "first")]).await.unwrap();
    server.asked_since();
    (ledger, names().0)
}

fn text_of(content: &Content) -> Option<&str> {
    content.text.as_ref().unwrap().as_deref()
}

#[tokio::test]
async fn what_is_written_stands_in_an_object_that_says_whose_it_is() {
    let server = Server::new();
    let mut history = server.store().ledger("team", Book::History);
    history.write(&[part("", r#"{"schemaVersion":1}"#)]).await.unwrap();
    let (_, name) = names();
    assert_eq!(server.names(), [name.as_str()]);
    let object = server.object(&name);
    let labels = json!({ "quartermaster.dev/ledger": "history", "quartermaster.dev/tenant": "team" });
    assert_eq!((&object["metadata"]["labels"], &object["metadata"]["namespace"]), (&labels, &json!(NAMESPACE)));
    assert_eq!(server.text(&name).as_deref(), Some(r#"{"schemaVersion":1}"#));
    let found = server.store().list().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].tenant.as_str(), found[0].book), ("team", Book::History));
    assert_eq!(text_of(&found[0].content), Some(r#"{"schemaVersion":1}"#));
}

#[tokio::test]
async fn the_same_text_is_not_written_again_also_by_the_next_leader() {
    let server = Server::new();
    let mut history = server.store().ledger("team", Book::History);
    history.write(&[part("", "one")]).await.unwrap();
    history.write(&[part("", "one")]).await.unwrap();
    let mut next = server.store().ledger("team", Book::History);
    server.store().list().await.unwrap().iter().for_each(|found| next.know(found));
    server.asked_since();
    next.write(&[part("", "one")]).await.unwrap();
    assert_eq!(server.asked(), Vec::<String>::new());
    next.write(&[part("", "two")]).await.unwrap();
    let name = names().1;
    assert_eq!(server.asked(), [format!("PUT {name}")], "it knows the version");
    assert_eq!(server.text(&name).as_deref(), Some("two"));
}

#[tokio::test]
async fn more_than_one_answer_to_a_list_is_read() {
    let server = Server::new();
    for number in 0..205 {
        let mut history = server.store().ledger(format!("team-{number}"), Book::History);
        history.write(&[part("", "some")]).await.unwrap();
    }
    server.asked_since();
    assert_eq!(server.store().list().await.unwrap().len(), 205);
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn a_ledger_that_is_claimed_has_another_version_and_says_the_same() {
    let server = Server::new();
    let (mut old, name) = ledger(&server).await;
    let version = server.object(&name)["metadata"]["resourceVersion"].clone();
    let mut new = server.store().ledger("team", Book::Hot);
    let contents = new.claim(2).await.unwrap();
    assert_eq!(contents.iter().map(text_of).collect::<Vec<_>>(), [Some("first")]);
    assert_ne!(server.object(&name)["metadata"]["resourceVersion"], version);
    // What the earlier leader has sent by then finds another version.
    server.depose();
    assert!(matches!(old.write(&[part("", "late")]).await, Err(WriteError::Call(CallError::NotLeader { .. }))));
    assert_eq!(server.text(&name).as_deref(), Some("first"));
}

#[tokio::test]
async fn a_ledger_that_nobody_has_is_made_and_empty() {
    let server = Server::new();
    let mut ledger = server.store().ledger("team", Book::Hot);
    let contents = ledger.claim(1).await.unwrap();
    assert_eq!(contents.iter().map(text_of).collect::<Vec<_>>(), [None]);
    assert_eq!(server.text(&names().0), None);
}

#[tokio::test]
async fn what_somebody_writes_while_it_is_claimed_is_what_is_found() {
    let server = Server::new();
    let (mut old, name) = ledger(&server).await;
    let mut new = server.store().ledger("team", Book::Hot);
    server.store().list().await.unwrap().iter().for_each(|found| new.know(found));
    old.write(&[part("", "second")]).await.unwrap();
    server.fail([Fault::Overtaken]);
    let contents = new.claim(2).await.unwrap();
    assert_eq!(contents.iter().map(text_of).collect::<Vec<_>>(), [Some("second")]);
    new.write(&[part("", "third")]).await.unwrap();
    assert_eq!(server.text(&name).as_deref(), Some("third"));
}

#[tokio::test]
async fn an_earlier_leader_that_does_not_know_that_it_leads_no_more_overwrites_nothing() {
    let server = Server::new();
    let (mut old, name) = ledger(&server).await;
    let mut new = server.store().ledger("team", Book::Hot);
    new.claim(2).await.unwrap();
    new.write(&[part("", "second")]).await.unwrap();
    server.asked_since();
    for _ in 0..2 {
        let refused = old.write(&[part("", "late")]).await.unwrap_err();
        assert!(matches!(refused, WriteError::Superseded { .. }), "{refused}");
        assert_eq!(server.asked_since(), [format!("PUT {name}"), format!("GET {name}")], "it is not tried again");
    }
    assert_eq!(server.text(&name).as_deref(), Some("second"));
    // What the earlier one claims meanwhile changes nothing of that.
    old.claim(1).await.unwrap();
    new.write(&[part("", "third")]).await.unwrap();
    assert_eq!(server.text(&name).as_deref(), Some("third"));
}

#[tokio::test]
async fn a_leader_of_a_lease_that_was_deleted_has_a_lower_term_and_writes() {
    let server = Server::new();
    let mut old = server.store().ledger("team", Book::Hot);
    old.claim(7).await.unwrap();
    old.write(&[part("", "first")]).await.unwrap();
    let mut new = server.store().ledger("team", Book::Hot);
    new.claim(0).await.unwrap();
    let name = names().0;
    server.edit(&name, |object| object["metadata"]["labels"]["a"] = json!("b"));
    new.write(&[part("", "second")]).await.unwrap();
    assert_eq!(server.text(&name).as_deref(), Some("second"));
}

/// What is known is more than what somebody has written.
#[rstest]
#[case::edited(|server: &Server, name: &str| server.edit(name, |object| object["binaryData"]["ledger"] = json!("bm9uc2Vuc2U=")))]
#[case::emptied(|server: &Server, name: &str| server.edit(name, |object| object["binaryData"] = json!(null)))]
#[case::labelled(|server: &Server, name: &str| server.edit(name, |object| object["metadata"]["labels"]["a"] = json!("b")))]
#[case::deleted(|server: &Server, name: &str| server.delete(name))]
#[tokio::test]
async fn what_somebody_else_has_written_is_written_over(#[case] meddle: fn(&Server, &str)) {
    let server = Server::new();
    let (mut ledger, name) = ledger(&server).await;
    meddle(&server, &name);
    ledger.write(&[part("", "second")]).await.unwrap();
    assert_eq!(server.text(&name).as_deref(), Some("second"));
    assert_eq!(server.object(&name)["metadata"]["labels"]["quartermaster.dev/tenant"], "team");
}

/// What nobody has edited says so by its hash, which goes with the text.
#[tokio::test]
async fn the_hash_of_a_text_stands_beside_it_and_outlives_claims() {
    let server = Server::new();
    let (mut ledger, name) = ledger(&server).await;
    let said = || server.object(&name)["metadata"]["annotations"][DIGEST].clone();
    assert_eq!(said(), json!(digest("first")));
    ledger.claim(2).await.unwrap();
    assert_eq!(said(), json!(digest("first")));
    ledger.write(&[part("", "second")]).await.unwrap();
    assert_eq!(said(), json!(digest("second")));
    ledger.write(&[]).await.unwrap();
    assert_eq!((said(), server.text(&name)), (json!(null), None));
    let contents = ledger.claim(3).await.unwrap();
    assert_eq!((said(), text_of(&contents[0])), (json!(null), None));
}

/// A valid text, and what else an edit can leave.
#[rstest]
#[case::edited(|object: &mut Value| object["binaryData"]["ledger"] = json!(ByteString(encode("nothing was used").unwrap())))]
#[case::emptied(|object: &mut Value| object["binaryData"] = json!(null))]
#[case::without_the_hash(|object: &mut Value| object["metadata"]["annotations"] = json!(null))]
#[case::with_another_hash(|object: &mut Value| object["metadata"]["annotations"][DIGEST] = json!(digest("second")))]
#[tokio::test]
async fn what_somebody_has_edited_while_nobody_led_is_not_believed_however_often_it_is_claimed(#[case] edit: fn(&mut Value)) {
    let server = Server::new();
    let (_, name) = ledger(&server).await;
    server.edit(&name, edit);
    let mut new = server.store().ledger("team", Book::Hot);
    let found = server.store().list().await.unwrap();
    assert!(matches!(found[0].content.text, Err(TextError::Foreign)), "{found:?}");
    new.know(&found[0]);
    for term in 2..4 {
        let contents = new.claim(term).await.unwrap();
        assert!(matches!(contents[0].text, Err(TextError::Foreign)), "{contents:?}");
    }
    // The same text as before the edit is written as well: nobody knows what stands.
    new.write(&[part("", "first")]).await.unwrap();
    assert_eq!(server.text(&name).as_deref(), Some("first"));
    assert_eq!(text_of(&new.claim(4).await.unwrap()[0]), Some("first"));
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_known_to_stand_with_the_next_one() {
    let server = Server::new();
    let (mut ledger, name) = ledger(&server).await;
    server.fail([Fault::AnswerLost]);
    assert!(matches!(ledger.write(&[part("", "second")]).await, Err(WriteError::Call(_))));
    server.asked_since();
    // The same again: it stands already.
    ledger.write(&[part("", "second")]).await.unwrap();
    assert_eq!(server.asked_since(), [format!("PUT {name}"), format!("GET {name}")]);
    server.fail([Fault::AnswerLost]);
    assert!(ledger.write(&[part("", "third")]).await.is_err());
    ledger.write(&[part("", "fourth")]).await.unwrap();
    assert_eq!(server.text(&name).as_deref(), Some("fourth"));
}

#[tokio::test]
async fn a_write_that_is_refused_is_tried_by_nobody_but_the_caller() {
    let server = Server::new();
    let (mut ledger, name) = ledger(&server).await;
    server.fail([Fault::Refused(500)]);
    let refused = ledger.write(&[part("", "second")]).await.unwrap_err();
    assert!(refused.to_string().contains(&format!("failed to write ConfigMap {name}")), "{refused}");
    assert_eq!(server.asked_since(), [format!("PUT {name}")]);
    server.fail([Fault::Overtaken; 3]);
    assert!(matches!(ledger.write(&[part("", "second")]).await, Err(WriteError::Contended { .. })));
    ledger.write(&[part("", "second")]).await.unwrap();
    assert_eq!(server.text(&name).as_deref(), Some("second"));
}

#[tokio::test]
async fn what_is_left_of_an_earlier_form_is_emptied_after_the_new_one_stands() {
    let server = Server::new();
    let mut history = server.store().ledger("team", Book::History);
    history.write(&[part("", "all")]).await.unwrap();
    server.asked_since();
    history.write(&[part("0-of-2", "half"), part("1-of-2", "other half")]).await.unwrap();
    let name = names().1;
    let order = [format!("POST {name}-1-of-2"), format!("POST {name}-0-of-2"), format!("PUT {name}")];
    assert_eq!(server.asked_since(), order);
    assert_eq!(server.text(&name), None);
    let found = server.store().list().await.unwrap();
    assert_eq!(found.iter().filter(|found| text_of(&found.content).is_some()).count(), 2);
    // And back.
    history.write(&[part("", "all")]).await.unwrap();
    assert_eq!((server.text(&name).as_deref(), server.text(&format!("{name}-0-of-2"))), (Some("all"), None));
}

#[tokio::test]
async fn what_an_object_cannot_hold_is_not_sent() {
    let server = Server::new();
    let mut ledger = server.store().ledger("team", Book::Hot);
    let mut random = fastrand::Rng::with_seed(7);
    let text: String = std::iter::repeat_with(|| random.alphanumeric()).take(2 << 20).collect();
    assert!(matches!(ledger.write(&[part("", &text)]).await, Err(WriteError::TooLarge { .. })));
    assert_eq!(server.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_read_is_kept_beside_under_a_name_that_is_no_ledgers() {
    let server = Server::new();
    let (_, name) = ledger(&server).await;
    server.edit(&name, |object| object["binaryData"]["ledger"] = json!("bm9uc2Vuc2U="));
    let found = server.store().list().await.unwrap();
    assert!(found[0].content.text.is_err());
    server.store().set_aside(&name).await.unwrap();
    server.edit(&name, |object| object["binaryData"]["ledger"] = json!("bW9yZQ=="));
    server.store().set_aside(&name).await.unwrap();
    let aside = server.object(&format!("{name}-unreadable"));
    assert_eq!(aside["binaryData"]["ledger"], "bm9uc2Vuc2U=", "the first one is kept");
    assert_eq!(server.store().list().await.unwrap().len(), 1);
}
