use super::super::documents::Secrets;
use super::*;
use crate::decide::gateway::plan::{self, Endpoints, Plan};

const SECOND: Duration = Duration::from_secs(1);

fn desired(namespace: &str) -> Arc<Desired> {
    let plan = Plan { schema: plan::SCHEMA, namespace: namespace.to_owned(), ..Plan::default() };
    Arc::new(Desired::new(&plan, &Secrets::default(), &Endpoints::new()).unwrap())
}

fn connected(desired: &Arc<Desired>) -> OperatorSession {
    let mut session = OperatorSession::new(3, Arc::clone(desired));
    session.connected();
    session
}

/// A report of a replica that has all of this in force.
fn report(seq: u64, desired: &Desired) -> GatewayMessage {
    let hash = |kind| Some(desired.hash(kind).to_owned());
    let hashes = PerDocument {
        plan: hash(DocumentKind::Plan),
        secrets: hash(DocumentKind::Secrets),
        endpoints: hash(DocumentKind::Endpoints),
    };
    GatewayMessage { epoch: 7, term: 3, seq, hashes, ..GatewayMessage::default() }
}

fn documents(message: &OperatorMessage) -> Vec<DocumentKind> {
    DocumentKind::ALL.into_iter().filter(|kind| message.documents.get(*kind).is_some()).collect()
}

#[test]
fn all_is_sent_on_every_new_connection_and_then_a_heartbeat_every_second() {
    let wanted = desired("team");
    let mut session = OperatorSession::new(3, Arc::clone(&wanted));
    assert_eq!(session.message(SECOND), None, "there is no connection");
    for connection in 0..2 {
        session.connected();
        let first = session.message(SECOND).unwrap();
        assert_eq!(documents(&first), DocumentKind::ALL, "connection {connection}");
        assert_eq!((first.schema, first.term, first.valid_for, first.acknowledged), (SCHEMA, 3, VALID_FOR.as_secs(), 0));
        assert_eq!(session.message(SECOND + HEARTBEAT / 2), None);
        session.receive(&report(connection + 1, &wanted)).unwrap();
        assert_eq!(session.message_due(), Some(SECOND + HEARTBEAT), "a report needs no answer");
        let heartbeat = session.message(SECOND + HEARTBEAT).unwrap();
        assert_eq!((documents(&heartbeat), heartbeat.acknowledged), (Vec::new(), connection + 1));
        assert!(heartbeat.seq > first.seq);
        session.disconnected();
        assert_eq!(session.message_due(), None);
    }
}

#[test]
fn what_changed_is_sent_at_once_and_nothing_else() {
    let (old, new) = (desired("old"), desired("new"));
    let mut session = connected(&old);
    session.message(SECOND).unwrap();
    session.receive(&report(1, &old)).unwrap();
    session.desire(Arc::clone(&old));
    assert_eq!(session.message(SECOND), None, "the same again is no news");
    session.desire(Arc::clone(&new));
    let message = session.message(SECOND).unwrap();
    assert_eq!(documents(&message), [DocumentKind::Plan]);
    assert_eq!(message.hashes.plan, new.hash(DocumentKind::Plan));
    session.desire(Arc::clone(&new));
    assert_eq!(session.message(SECOND), None, "it is under way");
    // A report from before it arrived does not ask for it again.
    session.receive(&report(2, &old)).unwrap();
    assert_eq!(documents(&session.message(SECOND * 2).unwrap()), []);
}

#[test]
fn what_is_neither_in_force_nor_refused_is_sent_again_after_a_while() {
    let wanted = desired("team");
    let mut session = connected(&wanted);
    session.message(SECOND).unwrap();
    let mut lost = report(1, &wanted);
    lost.hashes.plan = None;
    session.receive(&lost).unwrap();
    assert_eq!(documents(&session.message(SECOND * 2).unwrap()), []);
    assert_eq!(documents(&session.message(SECOND + SEND_AGAIN_AFTER).unwrap()), [DocumentKind::Plan]);
    // Refused is not lost. A refusal of another one does not count.
    let refused = |hash: &str| DocumentError { hash: hash.to_owned(), message: "no backend".to_owned() };
    lost.errors.plan = Some(refused("0123"));
    session.receive(&GatewayMessage { seq: 2, ..lost.clone() }).unwrap();
    assert_eq!(documents(&session.message(SECOND * 20).unwrap()), [DocumentKind::Plan]);
    lost.errors.plan = Some(refused(wanted.hash(DocumentKind::Plan)));
    session.receive(&GatewayMessage { seq: 3, ..lost }).unwrap();
    assert_eq!(documents(&session.message(SECOND * 40).unwrap()), []);
}

#[test]
fn a_report_that_comes_late_or_twice_is_no_news() {
    let wanted = desired("team");
    let mut session = connected(&wanted);
    let newest = GatewayMessage { draining: true, ..report(5, &wanted) };
    assert!(session.receive(&newest).unwrap());
    assert!(!session.receive(&newest).unwrap());
    assert!(!session.receive(&report(4, &desired("old"))).unwrap());
    let replica = session.replica().unwrap();
    assert_eq!((replica.epoch, replica.draining), (7, true));
    assert_eq!(replica.hashes.plan.as_deref(), Some(wanted.hash(DocumentKind::Plan)));
    // What a replica said last is known also without a connection.
    session.disconnected();
    assert!(!session.receive(&report(6, &wanted)).unwrap());
    assert!(session.replica().is_some());
}

#[test]
fn a_replica_that_leaves_is_answered_at_once() {
    let wanted = desired("team");
    let mut session = connected(&wanted);
    session.message(SECOND).unwrap();
    session.receive(&report(1, &wanted)).unwrap();
    assert_eq!(session.message(SECOND), None);
    session.receive(&GatewayMessage { draining: true, ..report(2, &wanted) }).unwrap();
    assert_eq!(session.message(SECOND).unwrap().acknowledged, 2);
}

#[test]
fn a_replica_that_knows_a_later_leader_is_not_listened_to() {
    let wanted = desired("team");
    let mut session = connected(&wanted);
    let later = GatewayMessage { term: 4, ..report(1, &wanted) };
    assert_eq!(session.receive(&later), Err(Superseded { known: 4, own: 3 }));
    assert_eq!(session.replica(), None);
    session.receive(&GatewayMessage { term: 2, ..report(1, &wanted) }).unwrap();
}
