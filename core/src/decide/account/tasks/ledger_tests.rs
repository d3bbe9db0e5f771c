use rstest::rstest;

use super::super::recent::KNOWN;
use super::*;

const CALLER: &str = "coder";
const START: Duration = Duration::ZERO;

fn id(task: &str) -> TaskId {
    TaskId::of(task.as_bytes()).unwrap()
}

fn body(text: &str) -> BodyHash {
    BodyHash::of(text.as_bytes())
}

fn tokens(limit: u64) -> TaskLimits {
    TaskLimits { max_tokens: Some(limit), ..TaskLimits::default() }
}

fn call(limits: TaskLimits) -> TaskCall {
    TaskCall { task: id("fix-7"), limits, body: None }
}

fn most(tokens: u64) -> Most {
    Most { tokens, cost: Some(10 * tokens) }
}

fn used(output: u64) -> Used {
    Used { output, cost: Some(10 * output), exact: true, ..Used::default() }
}

/// A call is made that uses so much, and is settled.
fn make(ledger: &mut TaskLedger, call: &TaskCall, tokens: u64) -> Result<(), Stopped> {
    let reservation = ledger.begin(CALLER, call, most(tokens), START)?;
    ledger.settle(reservation, Some(&used(tokens)));
    Ok(())
}

/// The operator says that this was used elsewhere.
fn tell(ledger: &mut TaskLedger, row: TaskRow) {
    ledger.take(&[(CALLER.to_owned(), [(id("fix-7"), row)].into())].into(), START);
}

/// What is reported of the task; none: nothing.
fn reported(ledger: &TaskLedger, since: u64) -> Option<TaskRow> {
    ledger.report(since).0.get(CALLER)?.get(&id("fix-7")).cloned()
}

#[rstest]
#[case::tokens(tokens(100), Unit::Tokens, 100)]
#[case::cost(TaskLimits { max_cost: Some(1000), ..TaskLimits::default() }, Unit::Cost, 1000)]
#[case::the_tighter_one(TaskLimits { max_cost: Some(1000), ..tokens(500) }, Unit::Cost, 1000)]
fn a_task_uses_no_more_than_its_limit(#[case] limits: TaskLimits, #[case] unit: Unit, #[case] limit: u64) {
    let mut ledger = TaskLedger::default();
    let (call, each) = (call(limits), limit / 100);
    assert_eq!(make(&mut ledger, &call, 60), Ok(()));
    assert_eq!(make(&mut ledger, &call, 41), Err(Stopped::Exceeded { unit, limit, left: 40 * each }));
    assert_eq!(ledger.check(CALLER, &call, START), Ok(()), "a smaller one has room");
    assert_eq!(make(&mut ledger, &call, 40), Ok(()));
    let spent = Err(Stopped::Exceeded { unit, limit, left: 0 });
    assert_eq!(ledger.check(CALLER, &call, START), spent, "where nothing is left, nothing begins");
    assert_eq!(make(&mut ledger, &call, 0), spent);
    // Another task, and the task of the same name of another caller, have limits of their own.
    assert_eq!(make(&mut ledger, &TaskCall { task: id("fix-8"), ..call }, 100), Ok(()));
    assert!(ledger.begin("planner", &call, most(100), START).is_ok());
}

#[test]
fn what_running_calls_can_use_is_not_there_for_others_until_they_have_ended() {
    let mut ledger = TaskLedger::default();
    let call = call(tokens(100));
    let first = ledger.begin(CALLER, &call, most(70), START).unwrap();
    assert_eq!(make(&mut ledger, &call, 31), Err(Stopped::Busy));
    assert_eq!(make(&mut ledger, &call, 101), Err(Stopped::Exceeded { unit: Unit::Tokens, limit: 100, left: 100 }));
    assert_eq!(ledger.check(CALLER, &call, START), Ok(()));
    ledger.settle(first, Some(&used(20)));
    assert_eq!(make(&mut ledger, &call, 80), Ok(()));
}

#[test]
fn an_attempt_of_which_nothing_was_sent_uses_nothing_and_one_that_used_more_than_it_could_is_charged_in_full() {
    let mut ledger = TaskLedger::default();
    let call = call(tokens(100));
    let nothing = ledger.begin(CALLER, &call, most(100), START).unwrap();
    ledger.settle(nothing, None);
    let kinds = Used { input: 10, cached_input: 20, cache_write: 30, output: 60, ..Used::default() };
    let more = ledger.begin(CALLER, &call, most(100), START).unwrap();
    ledger.settle(more, Some(&kinds));
    assert_eq!(reported(&ledger, 0), Some(TaskRow { tokens: 120, ..TaskRow::default() }));
    assert_eq!(make(&mut ledger, &call, 1), Err(Stopped::Exceeded { unit: Unit::Tokens, limit: 100, left: 0 }));
}

#[test]
fn where_cost_is_limited_what_has_no_price_does_not_begin() {
    let mut ledger = TaskLedger::default();
    let unpriced = Most { tokens: 1, cost: None };
    let limited = call(TaskLimits { max_cost: Some(1000), ..TaskLimits::default() });
    assert_eq!(ledger.begin(CALLER, &limited, unpriced, START).unwrap_err(), Stopped::PriceMissing);
    assert!(ledger.begin(CALLER, &call(tokens(1)), unpriced, START).is_ok());
}

#[test]
fn a_request_is_made_as_often_as_it_may_be_and_others_are_not_held_up_by_it() {
    let mut ledger = TaskLedger::default();
    let limits = TaskLimits { max_identical_requests: Some(3), ..TaskLimits::default() };
    let of = |text: &str| TaskCall { body: Some(body(text)), ..call(limits) };
    for _ in 0..3 {
        assert_eq!(ledger.check(CALLER, &of("again"), START), Ok(()));
        assert_eq!(make(&mut ledger, &of("again"), 1), Ok(()));
        assert_eq!(make(&mut ledger, &call(limits), 1), Ok(()), "another attempt of the same call");
    }
    let stopped = Err(Stopped::Identical { limit: 3 });
    assert_eq!((ledger.check(CALLER, &of("again"), START), make(&mut ledger, &of("again"), 1)), (stopped, stopped));
    assert_eq!(make(&mut ledger, &of("other"), 1), Ok(()));
    assert_eq!(make(&mut ledger, &TaskCall { task: id("fix-8"), ..of("again") }, 1), Ok(()));
    // Those that were made before many others are forgotten.
    for number in 0..BODIES {
        assert_eq!(make(&mut ledger, &of(&number.to_string()), 1), Ok(()));
    }
    assert_eq!(make(&mut ledger, &of("again"), 1), Ok(()));
}

#[test]
fn a_call_that_alone_can_use_more_than_one_may_does_not_begin_whatever_is_left_of_the_task() {
    let mut ledger = TaskLedger::default();
    let call = call(TaskLimits { max_tokens_per_request: Some(40), ..tokens(100) });
    assert_eq!(ledger.check(CALLER, &call, START), Ok(()), "a smaller one has room");
    assert_eq!(make(&mut ledger, &call, 41), Err(Stopped::TooLarge { limit: 40, most: 41 }));
    for _ in 0..2 {
        assert_eq!(make(&mut ledger, &call, 40), Ok(()));
    }
    assert_eq!(make(&mut ledger, &call, 40), Err(Stopped::Exceeded { unit: Unit::Tokens, limit: 100, left: 20 }));
    assert_eq!(make(&mut ledger, &call, 41), Err(Stopped::TooLarge { limit: 40, most: 41 }));
}

#[test]
fn a_call_that_does_not_begin_is_not_counted() {
    let mut ledger = TaskLedger::default();
    let limits = TaskLimits { max_identical_requests: Some(1), ..tokens(100) };
    let again = TaskCall { body: Some(body("again")), ..call(limits) };
    assert!(make(&mut ledger, &again, 101).is_err());
    assert!(!ledger.knows(CALLER, again.task, START), "no call of it has begun");
    assert_eq!(make(&mut ledger, &again, 100), Ok(()));
}

#[test]
fn what_was_used_elsewhere_counts_and_never_becomes_less() {
    let mut ledger = TaskLedger::default();
    let limits = TaskLimits { max_identical_requests: Some(3), ..tokens(100) };
    let again = TaskCall { body: Some(body("again")), ..call(limits) };
    assert_eq!(make(&mut ledger, &again, 10), Ok(()));
    tell(&mut ledger, TaskRow { tokens: 50, identical: [(body("again"), 1)].into(), ..TaskRow::default() });
    assert_eq!(make(&mut ledger, &again, 41), Err(Stopped::Exceeded { unit: Unit::Tokens, limit: 100, left: 40 }));
    tell(&mut ledger, TaskRow { tokens: 20, ..TaskRow::default() });
    assert_eq!(make(&mut ledger, &again, 40), Ok(()), "that came late");
    assert_eq!(ledger.check(CALLER, &again, START), Err(Stopped::Identical { limit: 3 }));
}

#[test]
fn a_task_is_reported_when_it_begins_and_while_it_goes_on() {
    let mut ledger = TaskLedger::default();
    let call = call(TaskLimits::default());
    make(&mut ledger, &call, 1000).unwrap();
    assert_eq!(reported(&ledger, 0), Some(TaskRow::default()), "without limits nobody needs to know more");
    let known = ledger.changes();
    let late = REPORTED_AGAIN;
    for (now, is_due) in [(late / 2, false), (late, true), (late + late / 2, false)] {
        let before = ledger.changes();
        let reservation = ledger.begin(CALLER, &call, most(1), now).unwrap();
        ledger.settle(reservation, None);
        assert_eq!(ledger.changes() > before, is_due, "{now:?}");
    }
    assert_eq!(reported(&ledger, known), Some(TaskRow::default()));
    assert_eq!(reported(&ledger, ledger.changes()), None);
}

#[test]
fn what_a_task_used_is_reported_from_a_small_part_of_a_limit_on() {
    let mut ledger = TaskLedger::default();
    let call = call(tokens(1600));
    make(&mut ledger, &call, 99).unwrap();
    let known = ledger.changes();
    assert_eq!(reported(&ledger, 0), Some(TaskRow::default()));
    make(&mut ledger, &call, 1).unwrap();
    assert_eq!(reported(&ledger, known), Some(TaskRow { tokens: 100, cost: 1000, ..TaskRow::default() }));
}

#[test]
fn what_a_task_used_is_reported_as_soon_as_others_have_used_something() {
    let mut ledger = TaskLedger::default();
    let limits = TaskLimits { max_identical_requests: Some(100), ..tokens(1600) };
    make(&mut ledger, &TaskCall { body: Some(body("again")), ..call(limits) }, 1).unwrap();
    let known = ledger.changes();
    tell(&mut ledger, TaskRow::default());
    assert_eq!(ledger.changes(), known, "it is known to somebody else");
    tell(&mut ledger, TaskRow { tokens: 100, identical: [(body("again"), 7)].into(), ..TaskRow::default() });
    let row = TaskRow { tokens: 1, cost: 10, identical: [(body("again"), 1)].into() };
    assert_eq!(reported(&ledger, known), Some(row));
    let known = ledger.changes();
    tell(&mut ledger, TaskRow { tokens: 200, ..TaskRow::default() });
    assert_eq!(ledger.changes(), known, "there is nothing new to say here");
}

#[test]
fn a_request_that_is_made_again_is_reported_from_the_second_time_on() {
    let mut ledger = TaskLedger::default();
    let again =
        TaskCall { body: Some(body("again")), ..call(TaskLimits { max_identical_requests: Some(20), ..TaskLimits::default() }) };
    make(&mut ledger, &again, 1).unwrap();
    assert_eq!(reported(&ledger, 0), Some(TaskRow::default()));
    make(&mut ledger, &again, 1).unwrap();
    assert_eq!(reported(&ledger, 1), Some(TaskRow { identical: [(body("again"), 2)].into(), ..TaskRow::default() }));
}

#[test]
fn what_is_told_of_a_task_makes_it_known_and_is_not_said_again() {
    let mut ledger = TaskLedger::default();
    tell(&mut ledger, TaskRow { tokens: 7, ..TaskRow::default() });
    assert!(ledger.knows(CALLER, id("fix-7"), KNOWN / 2));
    assert!(!ledger.knows(CALLER, id("fix-7"), KNOWN));
    assert_eq!((ledger.report(0).0, ledger.changes()), (Tasks::new(), 0));
}

#[test]
fn a_task_begins_anew_when_nothing_was_heard_of_it_for_an_hour() {
    let mut ledger = TaskLedger::default();
    let call = call(tokens(100));
    let running = ledger.begin(CALLER, &call, most(50), START).unwrap();
    make(&mut ledger, &call, 50).unwrap();
    let anew = ledger.begin(CALLER, &call, most(100), KNOWN).unwrap();
    ledger.settle(anew, Some(&used(30)));
    ledger.retain(|caller| caller != CALLER);
    // That of a task that is forgotten does no harm.
    ledger.settle(running, Some(&used(50)));
    assert_eq!(make(&mut ledger, &call, 100), Ok(()));
}
