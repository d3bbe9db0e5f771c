use std::sync::Arc;

use super::super::VALID_FOR;
use super::super::documents::{Desired, Secrets};
use super::super::usage::{Counts, Hour, Series, UsageCounters};
use super::*;
use crate::decide::account::message::{AccountRow, Ask, SpentRow};
use crate::decide::account::{AccountId, PeriodId, Unit};
use crate::decide::gateway::plan::{self, Endpoints, Plan};

const SECOND: Duration = Duration::from_secs(1);

fn desired(namespace: &str) -> Desired {
    let plan = Plan { schema: plan::SCHEMA, namespace: namespace.to_owned(), ..Plan::default() };
    Desired::new(&plan, &Secrets::default(), &Endpoints::new()).unwrap()
}

/// A message that has these documents.
fn message(term: u64, seq: u64, desired: &Desired, kinds: &[DocumentKind]) -> OperatorMessage {
    let mut message =
        OperatorMessage { term, seq, valid_for: VALID_FOR.as_secs(), hashes: desired.hashes(), ..OperatorMessage::default() };
    for kind in kinds {
        *message.documents.get_mut(*kind) = Some(desired.document(*kind).clone());
    }
    message
}

fn session() -> GatewaySession {
    GatewaySession::new(7, PerDocument::default())
}

/// Takes a message and puts in force what is in it. The namespace of the plan that was.
fn take(session: &mut GatewaySession, connection: u64, message: OperatorMessage, outcome: Result<(), String>) -> Option<String> {
    let Taken { update, hashes, .. } = session.receive(connection, message, SECOND).unwrap();
    if !update.is_empty() {
        session.applied(&hashes, &outcome);
    }
    update.plan.map(|plan| Arc::unwrap_or_clone(plan).namespace)
}

fn series(backend: &str) -> Series {
    Series { caller: "coder".to_owned(), route: "smart-router".to_owned(), backend: backend.to_owned() }
}

fn used(usage: &mut UsageCounters, backend: &str, tokens: u64) {
    let hour = Hour::of("2026-11-26T01:30:00Z".parse().unwrap());
    usage.record(series(backend), hour, hour, &Counts { input: tokens, ..Counts::default() });
}

/// What is in the next report: backend and tokens.
fn report(session: &mut GatewaySession, usage: &UsageCounters) -> Vec<(String, u64)> {
    let facts = Facts { usage: usage.since(session.usage_known()), usage_changes: usage.changes(), ..Facts::default() };
    let message = session.report(facts, SECOND);
    message.usage.rows().map(|(_, series, counts)| (series.backend.clone(), counts.input)).collect()
}

fn row(backend: &str, tokens: u64) -> (String, u64) {
    (backend.to_owned(), tokens)
}

fn account() -> AccountId {
    AccountId { budget: "6f1c".to_owned(), unit: Unit::Tokens, caller: None }
}

/// What an operator says of an account that may use this much.
fn told(allowance: u64) -> Told {
    let row = AccountRow { budget: "sprint".to_owned(), allowance, ..AccountRow::default() };
    Told { all: true, accounts: [(account(), Some(row))].into(), ..Told::default() }
}

#[test]
fn what_was_sent_is_in_force_and_its_hash_is_reported_at_once() {
    let (mut session, wanted) = (session(), desired("team"));
    assert_eq!(session.report_due(true), None, "there is nobody to report to");
    assert_eq!(take(&mut session, 1, message(3, 1, &wanted, &DocumentKind::ALL), Ok(())), Some("team".to_owned()));
    assert_eq!(session.report_due(false), Some(Duration::ZERO));
    let report = session.report(Facts::default(), SECOND);
    assert_eq!((report.epoch, report.term, report.seq, report.acknowledged), (7, 3, 1, 1));
    assert_eq!(report.hashes.plan.as_deref(), Some(wanted.hash(DocumentKind::Plan)));
    assert_eq!(report.errors, PerDocument::default());
}

#[test]
fn what_is_in_force_already_is_not_put_in_force_again() {
    let wanted = desired("team");
    let mounted = PerDocument { plan: Some(wanted.hash(DocumentKind::Plan).to_owned()), ..PerDocument::default() };
    let mut session = GatewaySession::new(7, mounted);
    let taken = session.receive(1, message(1, 1, &wanted, &DocumentKind::ALL), SECOND).unwrap();
    assert!(taken.update.plan.is_none());
    assert!(taken.update.secrets.is_some() && taken.update.endpoints.is_some());
    session.applied(&taken.hashes, &Ok(()));
    let again = session.receive(1, message(1, 2, &wanted, &DocumentKind::ALL), SECOND).unwrap();
    assert!(again.update.is_empty());
    assert_eq!(session.report_due(false), Some(Duration::ZERO), "the operator hears that it is in force");
}

#[test]
fn a_plan_that_is_refused_leaves_the_old_one_in_force_and_the_rest_of_the_update_too() {
    let (mut session, old, new) = (session(), desired("team"), desired("other"));
    take(&mut session, 1, message(1, 1, &old, &DocumentKind::ALL), Ok(()));
    let refusal = "the route a has no backend".to_owned();
    take(&mut session, 1, message(1, 2, &new, &[DocumentKind::Plan]), Err(refusal.clone()));
    let report = session.report(Facts::default(), SECOND);
    assert_eq!(report.hashes.plan.as_deref(), Some(old.hash(DocumentKind::Plan)));
    assert_eq!(report.hashes.secrets.as_deref(), Some(new.hash(DocumentKind::Secrets)));
    let error = DocumentError { hash: new.hash(DocumentKind::Plan).to_owned(), message: refusal };
    assert_eq!(report.errors, PerDocument { plan: Some(error), ..PerDocument::default() });
    // The old one is wanted again, which is in force: nothing is wrong any more.
    take(&mut session, 1, message(1, 3, &old, &[]), Ok(()));
    assert_eq!(session.report(Facts::default(), SECOND).errors, PerDocument::default());
}

#[test]
fn a_document_that_cannot_be_read_costs_only_itself() {
    let (mut session, wanted) = (session(), desired("team"));
    let mut damaged = message(1, 1, &wanted, &DocumentKind::ALL);
    damaged.hashes.plan = "0123".to_owned();
    assert_eq!(take(&mut session, 1, damaged, Ok(())), None);
    let report = session.report(Facts::default(), SECOND);
    assert_eq!(report.hashes.plan, None);
    assert!(report.hashes.secrets.is_some() && report.hashes.endpoints.is_some());
    assert_eq!(report.errors.plan.unwrap().hash, "0123");
}

#[test]
fn messages_that_come_late_or_twice_bring_no_old_plan_back() {
    let (mut session, old, new) = (session(), desired("old"), desired("new"));
    let late = message(1, 1, &old, &DocumentKind::ALL);
    assert_eq!(take(&mut session, 1, message(1, 2, &new, &DocumentKind::ALL), Ok(())), Some("new".to_owned()));
    assert_eq!(take(&mut session, 1, late, Ok(())), None);
    assert_eq!(session.report(Facts::default(), SECOND).hashes.plan.as_deref(), Some(new.hash(DocumentKind::Plan)));
}

#[test]
fn the_highest_term_is_listened_to_and_the_latest_connection_of_it() {
    let (mut session, wanted) = (session(), desired("team"));
    let say = |session: &mut GatewaySession, connection, term, seq, now| {
        session.receive(connection, message(term, seq, &wanted, &[]), now).map(|_| ())
    };
    say(&mut session, 1, 3, 1, SECOND).unwrap();
    say(&mut session, 2, 3, 1, SECOND).unwrap();
    assert_eq!(session.connection(), Some(2));
    assert_eq!(say(&mut session, 1, 3, 2, SECOND), Err(Refused::Superseded));
    say(&mut session, 3, 4, 1, SECOND).unwrap();
    assert_eq!(say(&mut session, 2, 3, 2, SECOND), Err(Refused::Term { offered: 3, known: 4 }));
    assert_eq!(say(&mut session, 4, 3, 1, SECOND), Err(Refused::Term { offered: 3, known: 4 }));
    assert_eq!(session.connection(), Some(3), "an operator that is refused takes nothing over");
    // The connection that was superseded goes: the other one stays.
    session.disconnected(2);
    assert_eq!(session.connection(), Some(3));
    session.disconnected(3);
    assert_eq!((session.connection(), session.report_due(true)), (None, None));
}

#[test]
fn a_lower_term_is_refused_for_as_long_as_the_higher_one_is_valid_and_then_not_for_ever() {
    let (mut session, wanted) = (session(), desired("team"));
    session.receive(1, message(5, 1, &wanted, &[]), SECOND).unwrap();
    let almost = SECOND + VALID_FOR - Duration::from_millis(1);
    let lower = || message(0, 1, &wanted, &[]);
    assert_eq!(session.receive(2, lower(), almost).unwrap_err(), Refused::Term { offered: 0, known: 5 });
    session.receive(3, lower(), SECOND + VALID_FOR).unwrap();
    assert_eq!(session.report(Facts::default(), SECOND + VALID_FOR).term, 0);
}

#[test]
fn something_is_reported_every_second_and_news_at_most_ten_times_a_second() {
    let mut session = session();
    session.receive(1, message(1, 1, &desired("team"), &[]), SECOND).unwrap();
    assert_eq!(session.report_due(false), Some(Duration::ZERO), "who has just connected knows nothing");
    session.report(Facts::default(), SECOND);
    assert_eq!(session.report_due(false), Some(SECOND * 2));
    assert_eq!(session.report_due(true), Some(SECOND + Duration::from_millis(100)));
}

#[test]
fn rows_are_repeated_until_they_are_acknowledged_and_all_of_them_on_a_new_connection() {
    let (mut session, wanted, mut usage) = (session(), desired("team"), UsageCounters::default());
    let acknowledge = |session: &mut GatewaySession, connection, seq, acknowledged| {
        let message = OperatorMessage { acknowledged, ..message(1, seq, &wanted, &[]) };
        session.receive(connection, message, SECOND).unwrap();
    };
    acknowledge(&mut session, 1, 1, 0);
    used(&mut usage, "a", 5);
    assert_eq!(report(&mut session, &usage), [row("a", 5)]);
    used(&mut usage, "b", 7);
    assert_eq!(report(&mut session, &usage), [row("a", 5), row("b", 7)]);
    acknowledge(&mut session, 1, 2, 1);
    assert_eq!(report(&mut session, &usage), [row("b", 7)]);
    used(&mut usage, "a", 1);
    acknowledge(&mut session, 1, 3, 3);
    assert_eq!(report(&mut session, &usage), [row("a", 6)]);
    acknowledge(&mut session, 1, 4, 4);
    assert_eq!(report(&mut session, &usage), []);
    // What nobody can have taken acknowledges nothing, and what was taken stays taken.
    used(&mut usage, "b", 1);
    acknowledge(&mut session, 1, 5, 99);
    assert_eq!(session.acknowledged(), 5);
    acknowledge(&mut session, 1, 6, 2);
    assert_eq!((session.acknowledged(), report(&mut session, &usage)), (5, vec![row("b", 8)]));
    assert_eq!((session.usage_known(), session.usage_taken()), (3, 3));
    acknowledge(&mut session, 2, 1, 0);
    assert_eq!(report(&mut session, &usage), [row("a", 6), row("b", 8)]);
    assert_eq!((session.usage_known(), session.usage_taken()), (0, 3), "the new connection has heard nothing, an operator has");
}

#[test]
fn what_is_said_of_accounts_is_handed_on_with_what_was_acknowledged_and_how_long_it_holds() {
    let (mut session, wanted) = (session(), desired("team"));
    let say = |session: &mut GatewaySession, connection, seq, acknowledged, accounts| {
        let message = OperatorMessage { acknowledged, accounts, ..message(3, seq, &wanted, &[]) };
        session.receive(connection, message, SECOND).unwrap().accounts
    };
    assert_eq!(say(&mut session, 1, 1, 0, told(100)), Some((told(100), 0, VALID_FOR)));
    session.report(Facts::default(), SECOND);
    assert_eq!(say(&mut session, 1, 2, 1, Told::default()), Some((Told::default(), 1, VALID_FOR)), "the operator is there");
    assert_eq!(say(&mut session, 1, 3, 99, Told::default()), Some((Told::default(), 1, VALID_FOR)), "nobody can have taken that");
    assert_eq!(say(&mut session, 1, 2, 1, told(200)), None, "it comes late, and what it says is over");
    // Another connection, whose operator has taken nothing yet.
    assert_eq!(say(&mut session, 2, 4, 0, told(300)), Some((told(300), 0, VALID_FOR)));
}

#[test]
fn an_operator_that_has_yet_to_speak_of_accounts_has_answered_nothing_that_was_asked_of_them() {
    let (mut session, wanted) = (session(), desired("team"));
    let say = |session: &mut GatewaySession, seq, acknowledged, accounts| {
        let message = OperatorMessage { acknowledged, accounts, ..message(3, seq, &wanted, &[]) };
        session.receive(1, message, SECOND).unwrap().accounts.unwrap().1
    };
    say(&mut session, 1, 0, Told::default());
    session.report(Facts::default(), SECOND);
    assert_eq!(say(&mut session, 2, 1, Told::default()), 0, "it has just begun to lead, and its ledger is not claimed yet");
    assert_eq!(session.acknowledged(), 1, "and need not be told again what was used");
    assert_eq!(say(&mut session, 3, 1, told(100)), 1);
    session.report(Facts::default(), SECOND);
    assert_eq!(say(&mut session, 4, 2, Told::default()), 2);
}

#[test]
fn no_connection_that_was_superseded_or_is_gone_says_anything_any_more() {
    let (mut session, wanted) = (session(), desired("team"));
    let say = |session: &mut GatewaySession, connection, term, now| {
        let message = OperatorMessage { accounts: told(100), ..message(term, 9, &wanted, &[]) };
        session.receive(connection, message, now).map(|taken| taken.accounts.is_some())
    };
    assert_eq!(say(&mut session, 1, 3, SECOND), Ok(true));
    assert_eq!(say(&mut session, 2, 3, SECOND), Ok(true));
    session.disconnected(2);
    assert_eq!(say(&mut session, 1, 3, SECOND), Err(Refused::Superseded), "though nobody else is left");
    assert_eq!(say(&mut session, 2, 3, SECOND), Err(Refused::Superseded), "what was under way when it went");
    let long_after = SECOND + VALID_FOR * 2;
    assert_eq!(say(&mut session, 1, 3, long_after), Err(Refused::Superseded));
    assert_eq!(say(&mut session, 2, 4, long_after), Err(Refused::Superseded), "whatever its term");
    assert_eq!((session.connection(), session.report_due(true)), (None, None));
    assert_eq!(say(&mut session, 3, 3, long_after), Ok(true));
}

#[test]
fn what_was_spent_is_reported_and_what_is_known_of_it_is_of_this_connection() {
    let (mut session, wanted) = (session(), desired("team"));
    let acknowledge = |session: &mut GatewaySession, connection, seq, acknowledged| {
        let message = OperatorMessage { acknowledged, ..message(1, seq, &wanted, &[]) };
        session.receive(connection, message, SECOND).unwrap();
    };
    acknowledge(&mut session, 1, 1, 0);
    let spent = SpentRow { used: 40, allowance: 100, ..SpentRow::default() };
    let accounts = Report {
        accounts: [(account(), [(PeriodId(7), spent)].into())].into(),
        asks: [(account(), Ask { waiting: 5, smallest: 5, ahead: 0 })].into(),
        ..Report::default()
    };
    let next = session.next_seq();
    let facts = Facts { accounts: accounts.clone(), account_changes: 4, usage_changes: 9, task_changes: 6, ..Facts::default() };
    let message = session.report(facts, SECOND);
    assert_eq!((message.seq, message.accounts), (next, accounts));
    assert_eq!(session.next_seq(), next + 1);
    assert_eq!((session.accounts_known(), session.usage_known(), session.tasks_known()), (0, 0, 0));
    acknowledge(&mut session, 1, 2, next);
    assert_eq!((session.accounts_known(), session.usage_known(), session.tasks_known()), (4, 9, 6));
    assert_eq!((session.accounts_taken(), session.usage_taken()), (4, 9));
    acknowledge(&mut session, 2, 1, 0);
    assert_eq!(
        (session.accounts_known(), session.accounts_taken()),
        (0, 4),
        "the new connection has heard nothing, an operator has"
    );
}
