//! What comes in, in whatever order, and what goes out.

use std::ops::RangeInclusive;

use quartermaster_core::decide::account::granting::{Known, PeriodTerms};
use quartermaster_core::decide::account::ledger::{
    AccountLedger, BudgetLedger, PeriodLedger, ProcessLedger, SCHEMA_VERSION, ShareLedger, Units,
};
use quartermaster_core::decide::account::message::{Ask, RouteRow, SpentRow};
use quartermaster_core::decide::account::tasks::{TaskId, TaskRow};
use quartermaster_core::decide::account::{AccountId, Limits, PeriodId, Unit};
use rstest::rstest;

use super::*;

/// When the period of the budget starts, in seconds since 1970.
const START: i64 = 1_700_000_000;
/// The uid of the budget.
const UID: &str = "6f1c";
const PERIOD: PeriodId = PeriodId(START);

fn at(milliseconds: u64) -> Now {
    let elapsed = Duration::from_millis(milliseconds);
    Now { wall: jiff::Timestamp::from_second(START + 3600).unwrap() + elapsed, elapsed }
}

fn account() -> AccountId {
    AccountId { budget: UID.to_owned(), unit: Unit::Tokens, caller: None }
}

fn budgets(limit: u64) -> BTreeMap<String, BudgetTerms> {
    let limits = Limits { tokens: Some(limit), cost: None };
    let terms = BudgetTerms {
        name: "sprint".to_owned(),
        period: PeriodTerms { id: PERIOD, start: START, end: None, limits },
        covers: BTreeMap::from([("coder".to_owned(), None)]),
        cached_input_percent: 100,
        ..BudgetTerms::default()
    };
    BTreeMap::from([(UID.to_owned(), terms)])
}

fn callers(accounts: &[AccountId]) -> BTreeMap<String, CallerRow> {
    let route = RouteRow { accounts: accounts.to_vec(), refused: accounts.first().cloned(), ..RouteRow::default() };
    BTreeMap::from([("coder".to_owned(), CallerRow { routes: BTreeMap::from([("smart".to_owned(), route)]) })])
}

/// A ledger by which 10 are settled, and process 7 has used 30 and may use 60.
fn ledger() -> HotLedger {
    let processes = BTreeMap::from([(7, ProcessLedger { live: 30, ceiling: 60, ..ProcessLedger::default() })]);
    let share = ShareLedger { settled: 10, processes, ..ShareLedger::default() };
    let tokens = Some(AccountLedger { bound: Some(1000), shares: BTreeMap::from([(String::new(), share)]) });
    let period = PeriodLedger {
        start: START,
        end: None,
        limits: Limits { tokens: Some(1000), cost: None },
        accounts: Units { tokens, cost: None },
    };
    let budget = BudgetLedger { open: PERIOD, periods: BTreeMap::from([(PERIOD, period)]), ..BudgetLedger::default() };
    HotLedger { schema_version: SCHEMA_VERSION, term: 1, budgets: BTreeMap::from([(UID.to_owned(), budget)]) }
}

/// A report of a process that has used so much of 60.
fn report(epoch: u64, seq: u64, used: u64) -> GatewayMessage {
    let row = SpentRow { used, allowance: 60, ..SpentRow::default() };
    let accounts = BTreeMap::from([(account(), BTreeMap::from([(PERIOD, row)]))]);
    GatewayMessage { epoch, term: 2, seq, accounts: Report { accounts, ..Report::default() }, ..GatewayMessage::default() }
}

/// A report of a process of what a task used.
fn of_task(epoch: u64, seq: u64, tokens: u64) -> GatewayMessage {
    let row = TaskRow { tokens, ..TaskRow::default() };
    let tasks = BTreeMap::from([("coder".to_owned(), BTreeMap::from([(TaskId::of(b"fix-7").unwrap(), row)]))]);
    GatewayMessage { epoch, term: 2, seq, accounts: Report { tasks, ..Report::default() }, ..GatewayMessage::default() }
}

/// The first report of a process that has spent nothing.
fn silent(epoch: u64) -> GatewayMessage {
    GatewayMessage { epoch, term: 2, seq: 1, ..GatewayMessage::default() }
}

fn asking(message: GatewayMessage, waiting: u64) -> GatewayMessage {
    let ask = Ask { waiting, smallest: waiting, ahead: 0 };
    let asks = BTreeMap::from([(account(), ask)]);
    GatewayMessage { accounts: Report { asks, ..message.accounts }, ..message }
}

fn standing(epoch: u64) -> Standing {
    Standing { epoch, listens: true, acknowledged: 0, draining: false }
}

/// Of these pods an earlier leader may have granted something.
fn begun(pods: &[&str]) -> NamespaceAccounts {
    let mut accounts = NamespaceAccounts::new("team");
    accounts.begin(2, true, pods.iter().map(|pod| (*pod).to_owned()).collect(), at(0));
    accounts
}

/// All is there but what the ledger says.
fn told(pods: &[&str]) -> NamespaceAccounts {
    let mut accounts = begun(pods);
    accounts.load(Table::default(), None, at(0));
    accounts.configure(budgets(1000), at(0));
    accounts.judge(callers(&[account()]));
    accounts
}

/// And that as well.
fn open(pods: &[&str], claimed: Claimed) -> NamespaceAccounts {
    let mut accounts = told(pods);
    assert!(matches!(accounts.turn(false, at(0)).0.as_slice(), [Task::Claim]));
    accounts.claimed(claimed, at(0));
    accounts
}

/// Lets time pass, in milliseconds, in which every write succeeds at once. The budgets that were woken.
fn pass(accounts: &mut NamespaceAccounts, time: RangeInclusive<u64>) -> Vec<String> {
    let mut woken = Vec::new();
    for now in time.step_by(100).map(at) {
        let (tasks, more) = accounts.turn(false, now);
        woken.extend(more);
        for task in tasks {
            match task {
                Task::Claim => accounts.claimed(Claimed::Ledger(None), now),
                Task::Hot(ledger) => accounts.hot_written(&ledger, true, now),
                Task::History { changes, .. } => accounts.history_written(changes, true, now),
            }
        }
    }
    woken
}

fn used(accounts: &NamespaceAccounts) -> (u64, u64, Known) {
    let snapshot = accounts.snapshot(UID).unwrap();
    let tokens = snapshot.units[&Unit::Tokens];
    (tokens.used, tokens.estimated, snapshot.known)
}

/// `l`oaded, `c`onfigured, `j`udged, and a `r`eport is received.
#[rstest]
fn nothing_is_told_before_all_is_known_in_whatever_order_it_comes(
    #[values("lcjr", "rjcl", "crlj", "jlrc", "rclj", "cjrl", "rlcj", "jcrl")] order: &str,
) {
    let mut accounts = begun(&["a"]);
    let mut claims = 0;
    for step in order.chars() {
        assert_eq!(accounts.rows(7, 1, 0), None);
        match step {
            'l' => accounts.load(Table::default(), None, at(0)),
            'c' => assert!(accounts.configure(budgets(1000), at(0))),
            'j' => assert!(accounts.judge(callers(&[account()]))),
            _ => _ = accounts.receive("a", &report(7, 1, 40), standing(7), at(0)),
        }
        let (tasks, _) = accounts.turn(false, at(0));
        claims += tasks.iter().filter(|task| matches!(task, Task::Claim)).count();
    }
    assert_eq!((claims, accounts.rows(7, 1, 0)), (1, None));
    accounts.claimed(Claimed::Ledger(Some(ledger())), at(0));
    assert_eq!(used(&accounts), (50, 0, Known::Yes));
    let (AccountRows { rows, .. }, told) = accounts.rows(7, 1, 0).unwrap();
    assert_eq!((rows[&account()].used, rows[&account()].allowance), (50, 60));
    assert_eq!(*told, callers(&[account()]));
}

#[test]
fn where_there_are_no_budgets_that_is_told_without_a_ledger() {
    let mut accounts = NamespaceAccounts::new("team");
    assert_eq!(accounts.rows(7, 1, 0), None, "nobody leads");
    accounts.begin(2, false, BTreeSet::new(), at(0));
    assert_eq!(accounts.rows(7, 1, 0), Some((AccountRows::default(), Arc::default())));
    accounts.load(Table::default(), None, at(0));
    assert_eq!((accounts.turn(false, at(0)).0.len(), accounts.next(at(0))), (0, None), "nothing is to be done at rest");
    // The first budget, and the last one.
    accounts.configure(budgets(1000), at(1));
    accounts.judge(callers(&[account()]));
    assert_eq!(accounts.rows(7, 1, 0), None);
    pass(&mut accounts, 1..=1);
    assert_eq!(accounts.rows(7, 1, 0).unwrap().0.rows.len(), 1);
    accounts.configure(BTreeMap::new(), at(2));
    assert_eq!(
        accounts.rows(7, 2, 0),
        Some((AccountRows::default(), Arc::default())),
        "though nobody has said what that means for callers"
    );
}

#[test]
fn what_is_asked_for_is_granted_when_the_ledger_stands_and_others_are_told() {
    let mut accounts = open(&[], Claimed::Ledger(None));
    assert!(accounts.receive("a", &asking(report(7, 1, 0), 100), standing(7), at(10)));
    let (tasks, _) = accounts.turn(false, at(10));
    let [Task::Hot(ledger)] = tasks.as_slice() else { panic!("{tasks:?}") };
    assert_eq!(accounts.rows(7, 1, 0).unwrap().0.rows[&account()].allowance, 60, "what it has it keeps, and no more is granted");
    accounts.hot_written(ledger, false, at(20));
    assert_eq!(accounts.rows(7, 1, 0).unwrap().0.rows[&account()].allowance, 60);
    pass(&mut accounts, 100..=3000);
    assert!(accounts.rows(7, 1, 0).unwrap().0.rows[&account()].allowance >= 160);
}

#[test]
fn who_gives_something_back_while_others_wait_concerns_them() {
    let mut accounts = open(&[], Claimed::Ledger(None));
    assert!(accounts.receive("a", &report(7, 1, 0), standing(7), at(10)), "it is new");
    assert!(!accounts.receive("a", &report(7, 2, 1), standing(7), at(20)));
    assert!(accounts.receive("b", &asking(report(8, 1, 0), 100), standing(8), at(30)));
    assert!(accounts.receive("a", &report(7, 3, 2), standing(7), at(40)));
    assert!(!accounts.receive("a", &GatewayMessage { accounts: Report::default(), ..report(7, 4, 2) }, standing(7), at(50)));
    assert!(!accounts.receive("b", &report(8, 2, 50), standing(8), at(60)), "nobody waits any more");
}

#[test]
fn the_last_word_of_a_process_counts_that_ended_before_the_ledger_was_read() {
    let mut accounts = begun(&["a"]);
    let leaving = GatewayMessage { draining: true, ..report(7, 1, 42) };
    accounts.receive("a", &leaving, Standing { draining: true, ..standing(7) }, at(0));
    accounts.ended(7, at(1));
    accounts.load(Table::default(), None, at(2));
    accounts.configure(budgets(1000), at(3));
    assert!(matches!(accounts.turn(false, at(3)).0.as_slice(), [Task::Claim]));
    accounts.claimed(Claimed::Ledger(Some(ledger())), at(4));
    assert_eq!(used(&accounts), (52, 0, Known::Yes));
}

#[rstest]
#[case::the_pod_is_gone(|accounts: &mut NamespaceAccounts| accounts.gone("a", at(30)))]
#[case::another_process_reports_from_it(|accounts: &mut NamespaceAccounts| _ = accounts.receive("a", &silent(9), standing(9), at(30)))]
fn a_process_that_the_ledger_names_has_ended_when_all_pods_are_heard_or_gone(#[case] ends: fn(&mut NamespaceAccounts)) {
    let mut accounts = open(&["a", "b"], Claimed::Ledger(Some(ledger())));
    assert_eq!(used(&accounts), (40, 0, Known::NotHeard(1)));
    accounts.receive("b", &silent(8), standing(8), at(10));
    accounts.gone("never heard of", at(20));
    assert_eq!(used(&accounts), (40, 0, Known::NotHeard(1)), "it may be in the other pod");
    ends(&mut accounts);
    assert_eq!(used(&accounts), (70, 30, Known::Yes));
}

#[test]
fn who_used_what_it_was_never_granted_stays_until_that_stands_in_the_ledger() {
    let mut accounts = open(&[], Claimed::Ledger(None));
    pass(&mut accounts, 0..=1000);
    let leaving = GatewayMessage { draining: true, ..report(7, 1, 40) };
    accounts.receive("a", &leaving, Standing { draining: true, ..standing(7) }, at(1100));
    assert!(accounts.is_to_stay(7));
    pass(&mut accounts, 1200..=3000);
    assert!(!accounts.is_to_stay(7), "it was written in a hurry");
}

#[test]
fn what_a_process_says_of_itself_takes_the_place_of_what_the_ledger_says() {
    let mut accounts = open(&["a"], Claimed::Ledger(Some(ledger())));
    accounts.receive("a", &report(7, 1, 40), standing(7), at(10));
    assert_eq!(used(&accounts), (50, 0, Known::Yes));
}

#[test]
fn a_budget_that_is_gone_holds_nobody_back_and_one_that_is_not_there_yet_keeps_nobody_waiting() {
    let mut accounts = open(&[], Claimed::Ledger(None));
    let gone = AccountId { budget: "gone".to_owned(), ..account() };
    assert!(accounts.judge(callers(&[gone.clone(), account()])));
    let (_, rows) = accounts.rows(7, 1, 0).unwrap();
    let route = &rows["coder"].routes["smart"];
    assert_eq!((route.accounts.as_slice(), &route.refused), ([account()].as_slice(), &None));
    accounts.judge(callers(&[gone]));
    assert_eq!(*accounts.rows(7, 1, 0).unwrap().1, BTreeMap::new());
}

#[test]
fn what_has_not_changed_is_not_said_again() {
    let mut accounts = open(&[], Claimed::Ledger(None));
    accounts.receive("a", &report(7, 1, 0), standing(7), at(10));
    pass(&mut accounts, 100..=3000);
    let (first, said) = accounts.rows(7, 1, 0).unwrap();
    assert_eq!((first.budgets, first.rows.len()), (None, 1));
    accounts.receive("a", &GatewayMessage { accounts: Report::default(), ..report(7, 2, 0) }, standing(7), at(3100));
    pass(&mut accounts, 3200..=5000);
    accounts.judge(callers(&[account()]));
    let (rest, same) = accounts.rows(7, 2, first.changes).unwrap();
    assert_eq!((rest.budgets, rest.rows.len()), (Some(BTreeSet::new()), 0));
    assert!(Arc::ptr_eq(&said, &same));
    accounts.receive("a", &report(7, 3, 1), standing(7), at(5100));
    accounts.judge(callers(&[account(), account()]));
    let (news, others) = accounts.rows(7, 3, rest.changes).unwrap();
    assert_eq!((news.budgets, news.rows.len()), (Some(BTreeSet::from([UID.to_owned()])), 1));
    assert!(!Arc::ptr_eq(&said, &others));
}

#[test]
fn a_ledger_of_a_later_version_is_held_to_and_nothing_is_granted_or_written() {
    let mut accounts = open(&[], Claimed::Held("run a later one".to_owned()));
    accounts.receive("a", &asking(report(7, 1, 40), 100), standing(7), at(10));
    assert_eq!((accounts.rows(7, 1, 0), accounts.snapshot(UID)), (None, None));
    assert_eq!(accounts.unknown_because(), Some("run a later one"));
    let (tasks, woken) = accounts.turn(false, at(100_000));
    assert_eq!((tasks.len(), woken), (0, vec![UID.to_owned()]));
    assert_eq!(accounts.turn(true, at(200_000)).0.len(), 0);
    // And so is one of the caller table.
    let mut accounts = begun(&[]);
    accounts.load(Table::default(), Some("run a later one".to_owned()), at(0));
    accounts.configure(budgets(1000), at(0));
    assert_eq!((accounts.turn(false, at(0)).0.len(), accounts.unknown_because()), (0, Some("run a later one")));
}

#[test]
fn a_ledger_that_cannot_be_read_is_lost_until_somebody_confirms_what_was_made_in_its_place() {
    let mut accounts = open(&[], Claimed::Lost);
    assert_eq!(used(&accounts), (0, 0, Known::LedgerLost));
    // The next leader knows it too.
    let (tasks, _) = accounts.turn(true, at(40_000));
    let written = tasks.iter().find_map(|task| if let Task::Hot(ledger) = task { Some(ledger) } else { None });
    assert!(written.unwrap().budgets[UID].unconfirmed);
    accounts.confirm(UID);
    assert_eq!(used(&accounts), (0, 0, Known::Yes));
}

#[test]
fn a_budget_that_opens_by_a_caller_table_with_a_gap_is_not_taken_for_unused() {
    let mut accounts = begun(&[]);
    let (table, _) = Table::read(&[None]).unwrap();
    accounts.load(table, None, at(0));
    accounts.configure(budgets(1000), at(0));
    accounts.judge(callers(&[account()]));
    pass(&mut accounts, 0..=4000);
    assert_eq!(used(&accounts), (0, 0, Known::Opening), "a process may say what it used");
    pass(&mut accounts, 4100..=7000);
    assert_eq!(used(&accounts), (0, 0, Known::LedgerLost));
    accounts.confirm(UID);
    assert_eq!(used(&accounts), (0, 0, Known::Yes));
}

#[test]
fn a_claim_that_fails_is_tried_again_later() {
    let mut accounts = told(&[]);
    assert_eq!(accounts.next(at(0)), Some(Duration::ZERO));
    assert!(matches!(accounts.turn(false, at(0)).0.as_slice(), [Task::Claim]));
    assert_eq!(accounts.next(at(0)), None, "it is under way");
    accounts.claim_failed("no right to".to_owned(), at(1000), 1.0);
    assert_eq!(accounts.unknown_because(), Some("no right to"));
    assert_eq!(accounts.next(at(1000)), Some(Duration::from_millis(1500)));
    assert_eq!(accounts.turn(false, at(1400)).0.len(), 0);
    assert!(matches!(accounts.turn(false, at(1500)).0.as_slice(), [Task::Claim]));
    accounts.claimed(Claimed::Ledger(None), at(1600));
    assert_eq!(accounts.unknown_because(), None);
}

#[test]
fn a_budget_is_woken_by_what_its_status_shows_and_at_most_once_a_second() {
    let mut accounts = open(&[], Claimed::Ledger(None));
    assert_eq!(pass(&mut accounts, 0..=1000), [UID]);
    assert_eq!(pass(&mut accounts, 1100..=2000), Vec::<String>::new());
    accounts.receive("a", &report(7, 1, 9), standing(7), at(2100));
    accounts.receive("a", &report(7, 2, 10), standing(7), at(2200));
    assert_eq!(pass(&mut accounts, 2300..=2900), Vec::<String>::new(), "a second has not passed");
    assert_eq!(pass(&mut accounts, 3000..=3000), [UID]);
    accounts.receive("a", &report(7, 3, 19), standing(7), at(3100));
    assert_eq!(pass(&mut accounts, 3200..=4000), Vec::<String>::new(), "that is no other percent");
    accounts.receive("a", &report(7, 4, 20), standing(7), at(4100));
    assert_eq!(pass(&mut accounts, 4200..=9000), [UID]);
}

#[test]
fn what_is_configured_again_costs_nothing() {
    let mut accounts = open(&[], Claimed::Ledger(None));
    assert!(!accounts.configure(budgets(1000), at(1)));
    assert!(!accounts.judge(callers(&[account()])));
    assert!(accounts.configure(budgets(2000), at(2)));
    assert_eq!(accounts.snapshot(UID).unwrap().units[&Unit::Tokens].limit, 2000);
}

#[test]
fn what_a_process_says_of_tasks_the_others_hear_also_before_anything_is_known_of_budgets() {
    let mut accounts = begun(&[]);
    assert!(!accounts.receive("one", &of_task(1, 1, 0), standing(1), at(0)), "that there is such a task nobody has to know");
    assert!(accounts.receive("one", &of_task(1, 2, 60), standing(1), at(0)));
    let heard = |accounts: &NamespaceAccounts, epoch| accounts.task_rows(epoch, 0).0;
    assert_eq!((heard(&accounts, 1), heard(&accounts, 2)), (Tasks::new(), of_task(1, 2, 60).accounts.tasks));
    accounts.ended(1, at(0));
    assert_eq!(heard(&accounts, 2), of_task(1, 2, 60).accounts.tasks);
}

#[test]
fn where_a_budget_is_nearly_used_all_hear_of_all_tasks_of_its_callers() {
    let mut accounts = open(&[], Claimed::Ledger(Some(ledger())));
    accounts.receive("one", &of_task(1, 1, 0), standing(1), at(0));
    assert_eq!(accounts.task_rows(2, 0).0, Tasks::new());
    let route = RouteRow { accounts: vec![account()], used_percent: 90, ..RouteRow::default() };
    let coder = CallerRow { routes: BTreeMap::from([("smart".to_owned(), route)]) };
    accounts.judge(BTreeMap::from([("coder".to_owned(), coder)]));
    assert_eq!(accounts.task_rows(2, 0).0, of_task(1, 1, 0).accounts.tasks);
}
