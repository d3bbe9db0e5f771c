use super::super::documents::Secrets;
use super::*;
use crate::decide::account::Unit;
use crate::decide::account::message::RouteRow;
use crate::decide::account::tasks::{TaskId, TaskRow};
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
fn the_last_report_of_a_replica_that_is_to_stay_is_acknowledged_when_it_may_go() {
    let wanted = desired("team");
    let mut session = connected(&wanted);
    session.receive(&report(1, &wanted)).unwrap();
    assert_eq!(session.message(SECOND).unwrap().acknowledged, 1);
    for seq in [2, 3] {
        session.receive(&GatewayMessage { draining: true, ..report(seq, &wanted) }).unwrap();
        session.keep(true);
        assert_eq!(session.message(SECOND).unwrap().acknowledged, 1, "it is answered all the same");
    }
    session.keep(true);
    assert_eq!(session.message(SECOND), None);
    session.keep(false);
    assert_eq!(session.message(SECOND).unwrap().acknowledged, 3);
    session.keep(false);
    assert_eq!(session.message(SECOND), None);
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

fn account(budget: &str) -> AccountId {
    AccountId { budget: budget.to_owned(), unit: Unit::Tokens, caller: None }
}

/// Accounts by the budget, with what may be used of each.
fn rows(allowances: &[(&str, u64)]) -> AccountRows {
    let row = |(budget, allowance): &(&str, u64)| (account(budget), AccountRow { allowance: *allowance, ..AccountRow::default() });
    AccountRows::all(allowances.iter().map(row).collect())
}

/// The caller `coder`, with this much of its budgets used.
fn callers(used_percent: u32) -> Arc<BTreeMap<String, CallerRow>> {
    let route = RouteRow { used_percent, ..RouteRow::default() };
    Arc::new([("coder".to_owned(), CallerRow { routes: [("smart".to_owned(), route)].into() })].into())
}

/// Whether a message says all, what it says of accounts, by the budget, and of which callers it speaks.
type Said<'a> = (bool, Vec<(&'a str, Option<u64>)>, Vec<&'a str>);

fn said(message: &OperatorMessage) -> Said<'_> {
    let Told { all, accounts, callers, .. } = &message.accounts;
    let accounts = accounts.iter().map(|(id, row)| (id.budget.as_str(), row.as_ref().map(|row| row.allowance)));
    (*all, accounts.collect(), callers.keys().map(String::as_str).collect())
}

/// A session on whose connection the process 7 has reported, at the first second.
fn reported(wanted: &Arc<Desired>) -> OperatorSession {
    let mut session = connected(wanted);
    session.message(SECOND).unwrap();
    session.receive(&GatewayMessage { acknowledged: 1, ..report(1, wanted) }).unwrap();
    session
}

#[test]
fn nothing_is_said_of_accounts_before_the_process_has_said_which_one_it_is() {
    let wanted = desired("team");
    let mut session = connected(&wanted);
    session.desire_accounts(rows(&[("a", 5)]), callers(0));
    assert_eq!(session.message(SECOND).unwrap().accounts, Told::default());
    assert_eq!(session.standing(), None);
    session.receive(&GatewayMessage { acknowledged: 1, ..report(1, &wanted) }).unwrap();
    let standing = Standing { epoch: 7, listens: true, acknowledged: 1, draining: false };
    assert_eq!(session.standing(), Some(standing));
    let later = SECOND + HEARTBEAT;
    assert_eq!(session.message(later).unwrap().accounts, Told::default(), "what was said before was for nobody");
    session.desire_accounts(rows(&[("a", 5)]), callers(0));
    assert_eq!(said(&session.message(later + HEARTBEAT).unwrap()), (true, vec![("a", Some(5))], vec!["coder"]));
}

#[test]
fn a_process_that_began_in_the_place_of_another_is_told_nothing_that_was_meant_for_that_one() {
    let wanted = desired("team");
    let mut session = reported(&wanted);
    session.desire_accounts(rows(&[("a", 5)]), callers(0));
    session.disconnected();
    assert_eq!(session.standing(), None);
    session.connected();
    assert_eq!(session.message(SECOND * 2).unwrap().accounts, Told::default());
    session.receive(&GatewayMessage { epoch: 8, ..report(1, &wanted) }).unwrap();
    assert_eq!(session.standing().unwrap().epoch, 8);
    assert_eq!(session.message(SECOND * 3).unwrap().accounts, Told::default());
}

#[test]
fn what_changed_of_accounts_is_sent_soon_in_the_message_whose_number_was_known_before() {
    let wanted = desired("team");
    let mut session = reported(&wanted);
    assert_eq!(session.message_due(), Some(SECOND + HEARTBEAT));
    session.desire_accounts(AccountRows::default(), Arc::default());
    assert_eq!(session.message_due(), Some(SECOND + REPORT_INTERVAL), "that there are none is news too");
    let next = session.next_seq();
    session.desire_accounts(rows(&[("a", 5)]), callers(0));
    let first = session.message(SECOND + REPORT_INTERVAL).unwrap();
    assert_eq!((first.seq, said(&first)), (next, (true, vec![("a", Some(5))], vec!["coder"])));
    let sent = SECOND + REPORT_INTERVAL;
    session.desire_accounts(rows(&[("a", 5)]), callers(0));
    assert_eq!(session.message_due(), Some(sent + HEARTBEAT), "the same again is no news");
    session.desire_accounts(rows(&[("a", 9)]), callers(0));
    assert_eq!(session.message(sent), None, "not twice in a tenth of a second");
    assert_eq!(session.message(sent + REPORT_INTERVAL).unwrap().seq, next + 1);
}

#[test]
fn a_row_is_left_out_only_when_it_is_unchanged_and_was_taken() {
    let wanted = desired("team");
    let mut session = reported(&wanted);
    let mut time = SECOND;
    let mut reports = 1;
    let mut say = |session: &mut OperatorSession| {
        time += HEARTBEAT;
        session.message(time).unwrap()
    };
    let mut take = |session: &mut OperatorSession, acknowledged| {
        reports += 1;
        session.receive(&GatewayMessage { acknowledged, ..report(reports, &wanted) }).unwrap();
    };
    session.desire_accounts(rows(&[("a", 5), ("b", 1)]), callers(0));
    let first = say(&mut session);
    assert_eq!(said(&first), (true, vec![("a", Some(5)), ("b", Some(1))], vec!["coder"]));
    // Nobody knows yet whether it was taken.
    session.desire_accounts(rows(&[("a", 6)]), callers(0));
    let second = say(&mut session);
    assert_eq!(said(&second), (true, vec![("a", Some(6))], vec!["coder"]), "of all rows those that are missing are gone");
    take(&mut session, first.seq);
    assert_eq!(said(&say(&mut session)), (false, vec![("a", Some(6)), ("b", None)], vec![]));
    take(&mut session, second.seq);
    assert_eq!(said(&say(&mut session)), (false, vec![], vec![]));
    session.desire_accounts(rows(&[("a", 6)]), callers(50));
    let third = say(&mut session);
    assert_eq!(said(&third), (false, vec![], vec!["coder"]));
    session.desire_accounts(rows(&[("a", 6)]), Arc::default());
    take(&mut session, third.seq);
    let fourth = say(&mut session);
    assert_eq!(said(&fourth), (false, vec![], vec!["coder"]));
    assert_eq!(fourth.accounts.callers["coder"], None, "no budget covers it any more");
    // What was never sent cannot have been taken.
    session.desire_accounts(rows(&[("a", 7)]), Arc::default());
    take(&mut session, 999);
    assert_eq!(said(&say(&mut session)), (false, vec![("a", Some(7))], vec![]));
}

#[test]
fn what_has_changed_of_accounts_is_enough_on_the_connection_on_which_all_of_it_was_said() {
    let wanted = desired("team");
    let mut session = reported(&wanted);
    let everyone = callers(0);
    let named = |budgets: &[&str], allowances: &[(&str, u64)], changes| AccountRows {
        budgets: Some(budgets.iter().map(|budget| (*budget).to_owned()).collect()),
        changes,
        ..rows(allowances)
    };
    assert_eq!(session.accounts_known(), 0);
    session.desire_accounts(AccountRows { changes: 4, ..rows(&[("a", 5), ("b", 1)]) }, Arc::clone(&everyone));
    let first = session.message(SECOND * 2).unwrap();
    assert_eq!(said(&first), (true, vec![("a", Some(5)), ("b", Some(1))], vec!["coder"]));
    assert_eq!(session.accounts_known(), 4);
    session.receive(&GatewayMessage { acknowledged: first.seq, ..report(2, &wanted) }).unwrap();
    session.desire_accounts(named(&[], &[], 4), Arc::clone(&everyone));
    assert_eq!(session.message_due(), Some(SECOND * 2 + HEARTBEAT), "nothing has changed");
    session.desire_accounts(named(&["b"], &[], 6), Arc::clone(&everyone));
    assert_eq!((session.accounts_known(), session.message_due()), (6, Some(SECOND * 2 + REPORT_INTERVAL)));
    assert_eq!(said(&session.message(SECOND * 3).unwrap()), (false, vec![("b", None)], vec![]));
    // What was not taken is said again, though it has not changed again.
    session.desire_accounts(named(&["a"], &[("a", 7)], 7), Arc::clone(&everyone));
    let last = session.message(SECOND * 4).unwrap();
    assert_eq!(said(&last), (false, vec![("a", Some(7)), ("b", None)], vec![]));
    session.receive(&GatewayMessage { acknowledged: last.seq, ..report(3, &wanted) }).unwrap();
    session.desire_accounts(named(&[], &[], 7), callers(1));
    assert_eq!(said(&session.message(SECOND * 5).unwrap()), (false, vec![], vec!["coder"]));
    // Another process in its place, and another connection, know nothing.
    session.receive(&GatewayMessage { epoch: 8, ..report(4, &wanted) }).unwrap();
    assert_eq!(session.accounts_known(), 0);
    session.desire_accounts(AccountRows { changes: 9, ..rows(&[("a", 7)]) }, everyone);
    assert_eq!(said(&session.message(SECOND * 6).unwrap()), (true, vec![("a", Some(7))], vec!["coder"]));
    session.disconnected();
    assert_eq!(session.accounts_known(), 0);
    session.connected();
    assert_eq!(session.accounts_known(), 0);
}

#[test]
fn all_rows_are_sent_again_on_a_new_connection() {
    let wanted = desired("team");
    let mut session = reported(&wanted);
    session.desire_accounts(rows(&[("a", 5)]), callers(0));
    let before = session.message(SECOND * 2).unwrap();
    session.receive(&GatewayMessage { acknowledged: before.seq, ..report(2, &wanted) }).unwrap();
    assert_eq!(said(&session.message(SECOND * 3).unwrap()), (false, vec![], vec![]));
    session.disconnected();
    session.connected();
    session.message(SECOND * 4).unwrap();
    session.receive(&GatewayMessage { acknowledged: 0, ..report(3, &wanted) }).unwrap();
    session.desire_accounts(rows(&[("a", 5)]), callers(0));
    let again = session.message(SECOND * 5).unwrap();
    assert_eq!(said(&again), (true, vec![("a", Some(5))], vec!["coder"]));
    assert!(again.seq > before.seq);
}

#[test]
fn what_is_new_of_tasks_is_sent_soon_until_it_was_taken_also_before_anything_is_known_of_accounts() {
    let wanted = desired("team");
    let row = |tokens| [(TaskId::of(b"fix-7").unwrap(), TaskRow { tokens, ..TaskRow::default() })].into();
    let tasks = |tokens| Tasks::from([("coder".to_owned(), row(tokens))]);
    let mut session = connected(&wanted);
    session.desire_tasks(tasks(1), 4);
    assert_eq!(session.tasks_known(), 0, "nobody has reported yet who could hear it");
    session.message(SECOND).unwrap();
    session.receive(&GatewayMessage { acknowledged: 1, ..report(1, &wanted) }).unwrap();
    session.desire_tasks(tasks(1), 4);
    assert_eq!((session.tasks_known(), session.message_due()), (4, Some(SECOND + REPORT_INTERVAL)));
    let first = session.message(SECOND + REPORT_INTERVAL).unwrap();
    assert_eq!(first.accounts, Told { tasks: tasks(1), ..Told::default() });
    session.desire_accounts(rows(&[("a", 5)]), callers(0));
    let second = session.message(SECOND * 2).unwrap();
    assert_eq!(second.accounts.tasks, tasks(1));
    assert_eq!(said(&second), (true, vec![("a", Some(5))], vec!["coder"]));
    session.receive(&GatewayMessage { acknowledged: second.seq, ..report(2, &wanted) }).unwrap();
    session.desire_tasks(Tasks::new(), 5);
    assert_eq!(session.message(SECOND * 3).unwrap().accounts, Told::default());
    assert_eq!(session.tasks_known(), 5);
    // On a new connection, and for another process, it is asked for anew.
    session.receive(&GatewayMessage { epoch: 8, ..report(3, &wanted) }).unwrap();
    assert_eq!(session.tasks_known(), 0);
}

#[test]
fn grants_learn_whether_a_process_listens_and_drains() {
    let wanted = desired("team");
    let mut session = connected(&wanted);
    session.message(SECOND).unwrap();
    session.receive(&GatewayMessage { term: 2, ..report(1, &wanted) }).unwrap();
    assert_eq!(session.standing(), Some(Standing { epoch: 7, listens: false, acknowledged: 0, draining: false }));
    session.receive(&GatewayMessage { draining: true, acknowledged: 1, ..report(2, &wanted) }).unwrap();
    assert_eq!(session.standing(), Some(Standing { epoch: 7, listens: true, acknowledged: 1, draining: true }));
    // One that comes late changes nothing.
    session.receive(&report(1, &wanted)).unwrap();
    assert_eq!(session.standing().map(|standing| standing.draining), Some(true));
}
