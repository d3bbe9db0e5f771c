use proptest::prelude::*;

use super::super::fixtures::{at, covers, input, report, rows, series, total};
use super::*;
use crate::decide::gateway::exchange::usage::{HOURS_KEPT, UsageCounters};

const QWEN: [&str; 3] = ["coder", "smart", "qwen"];
const GPT: [&str; 3] = ["coder", "smart", "gpt"];

fn hour(text: &str) -> Hour {
    Hour::of(at(text))
}

fn of_qwen(rows: &[(&str, u64)]) -> Vec<(String, String, u64)> {
    rows.iter().map(|(bucket, tokens)| ((*bucket).to_owned(), "coder/smart/qwen".to_owned(), *tokens)).collect()
}

/// Another leader, that has read what this one wrote.
fn new_leader(history: &History) -> History {
    History::read(history.write().into_iter().map(|shard| shard.json)).unwrap()
}

#[test]
fn what_of_a_process_is_part_of_the_table_is_known_by_series() {
    let mut history = History::default();
    history.take(1, &report("2026-11-26T09:30:00Z", QWEN, &input(5)));
    let history = new_leader(&history);
    let included = history.included(1, &covers(&[("coder", &["smart"])]));
    assert_eq!(included.beyond(&series(QWEN), &input(8)), Counts { input: 3, ..Counts::default() });
    assert_eq!(included.beyond(&series(GPT), &input(8)), input(8));
    for (epoch, routes) in [(2, &["smart"]), (1, &["cheap"])] {
        assert!(history.included(epoch, &covers(&[("coder", routes)])).is_empty(), "{epoch} {routes:?}");
    }
}

#[test]
fn a_report_that_is_heard_twice_or_late_changes_nothing() {
    let mut counters = UsageCounters::default();
    let now = hour("2026-11-26T09:30:00Z");
    counters.record(series(QWEN), now, now, &input(5));
    let first = counters.since(0);
    counters.record(series(QWEN), now, now, &input(2));
    counters.record(series(GPT), now.back(1), now, &input(9));
    let second = counters.since(0);
    let mut history = History::default();
    history.take(1, &first);
    assert_eq!(history.changes(), 1);
    history.take(1, &first);
    assert_eq!(history.changes(), 1, "nothing to write");
    history.take(1, &second);
    history.take(1, &first);
    history.take(1, &second);
    let mut expected = of_qwen(&[("2026-11-26T09", 7)]);
    expected.insert(0, ("2026-11-26T08".to_owned(), "coder/smart/gpt".to_owned(), 9));
    assert_eq!((rows(&history), history.changes()), (expected, 2));
    // Another process counts for itself.
    history.take(2, &first);
    assert_eq!(total(&history).input, 21);
}

#[test]
fn rows_that_changed_are_enough_after_all_rows() {
    let mut counters = UsageCounters::default();
    let now = hour("2026-11-26T09:30:00Z");
    counters.record(series(QWEN), now, now, &input(5));
    let mut history = History::default();
    history.take(1, &counters.since(0));
    let heard = counters.changes();
    counters.record(series(QWEN), now, now, &input(2));
    history.take(1, &counters.since(heard));
    assert_eq!(rows(&history), of_qwen(&[("2026-11-26T09", 7)]));
}

#[test]
fn hours_that_a_process_sums_are_not_counted_again() {
    let mut counters = UsageCounters::default();
    let early = hour("2026-11-20T09:30:00Z");
    counters.record(series(QWEN), early, early, &input(5));
    let mut history = History::default();
    history.take(1, &counters.since(0));
    let late = hour("2026-11-26T09:30:00Z");
    let heard = counters.changes();
    // A stream that was admitted before the hours that are kept is in the hour before them.
    counters.record(series(QWEN), late.back(HOURS_KEPT + 1), late, &input(2));
    history.take(1, &counters.since(heard));
    assert_eq!(rows(&history), of_qwen(&[("2026-11-20T09", 5), ("2026-11-24T08", 2)]));
}

#[test]
fn a_new_leader_adds_to_the_newest_hours_what_the_last_one_had_not_written() {
    let mut counters = UsageCounters::default();
    let now = hour("2026-11-26T09:30:00Z");
    for (ago, tokens) in [(2, 10), (1, 20)] {
        counters.record(series(QWEN), now.back(ago), now, &input(tokens));
    }
    let mut history = History::default();
    history.take(1, &counters.since(0));
    let written = new_leader(&history);
    // This is not written any more.
    counters.record(series(QWEN), now.back(1), now, &input(3));
    counters.record(series(QWEN), now, now, &input(4));
    history.take(1, &counters.since(0));
    let expected = of_qwen(&[("2026-11-26T07", 10), ("2026-11-26T08", 23), ("2026-11-26T09", 4)]);
    assert_eq!(rows(&history), expected);
    let mut history = written;
    assert_eq!(history.epochs(), [1].into());
    history.take(1, &counters.since(0));
    assert_eq!(rows(&history), expected);
    history.take(1, &counters.since(0));
    assert_eq!(rows(&history), expected, "once");
}

#[test]
fn what_the_operator_was_away_for_is_not_lost_even_after_days() {
    let mut counters = UsageCounters::default();
    let early = hour("2026-11-20T09:30:00Z");
    counters.record(series(QWEN), early, early, &input(5));
    let mut history = History::default();
    history.take(1, &counters.since(0));
    counters.record(series(QWEN), early.back(0), early, &input(1));
    let late = hour("2026-11-26T09:30:00Z");
    counters.record(series(QWEN), late, late, &input(2));
    let mut history = new_leader(&history);
    history.take(1, &counters.since(0));
    // Nobody knows any more when it was, so it was as late as it can have been.
    assert_eq!(rows(&history), of_qwen(&[("2026-11-20T09", 5), ("2026-11-24T08", 1), ("2026-11-26T09", 2)]));
}

#[test]
fn a_table_that_is_lost_is_made_again_of_what_processes_have_counted() {
    let mut counters = UsageCounters::default();
    let now = hour("2026-11-26T09:30:00Z");
    counters.record(series(QWEN), now.back(1), now, &input(5));
    counters.record(series(QWEN), now, now, &input(6));
    let mut history = History::default();
    history.take(1, &counters.since(0));
    assert_eq!(rows(&history), of_qwen(&[("2026-11-26T08", 5), ("2026-11-26T09", 6)]));
}

#[test]
fn what_a_process_used_outlives_it_and_a_late_report_adds_nothing() {
    let mut history = History::default();
    let report = report("2026-11-26T09:30:00Z", QWEN, &input(5));
    history.take(1, &report);
    let before = history.changes();
    history.ended(1);
    assert!(history.changes() > before, "what was remembered of it is to go from the shard as well");
    history.take(1, &report);
    assert_eq!((rows(&history), history.epochs()), (of_qwen(&[("2026-11-26T09", 5)]), BTreeSet::new()));
    let before = history.changes();
    history.ended(1);
    history.ended(2);
    assert_eq!(history.changes(), before);
}

/// What happens to three processes and their leader.
#[derive(Clone, Debug)]
enum Step {
    /// A call is settled: by which process, of which series, how many hours after it was admitted, with how many tokens.
    Record(usize, usize, u32, u64),
    /// Hours pass.
    Pass(u32),
    /// A process reports what has changed since it last did, or all of it.
    Report(usize, bool),
    /// A report comes again, or late.
    Again(usize, usize),
    /// The leader writes the table.
    Write,
    /// The leader is gone, and another one reads what was written.
    Lead,
    /// A process reports and ends, the table is written, and another process begins.
    End(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..3, 0_usize..3, 0_u32..60, 1_u64..1000).prop_map(|(process, series, ago, tokens)| {
            // Most calls end in the hour in which they were admitted.
            Step::Record(process, series, ago.saturating_sub(50), tokens)
        }),
        2 => (1_u32..60).prop_map(Step::Pass),
        6 => (0_usize..3, any::<bool>()).prop_map(|(process, all)| Step::Report(process, all)),
        2 => (0_usize..3, 0_usize..20).prop_map(|(process, report)| Step::Again(process, report)),
        2 => Just(Step::Write),
        1 => Just(Step::Lead),
        1 => (0_usize..3).prop_map(Step::End),
    ]
}

/// A process of a gateway.
#[derive(Default)]
struct Process {
    epoch: u64,
    counters: UsageCounters,
    /// The changes that the leader has heard of.
    told: u64,
    reports: Vec<Usage>,
}

impl Process {
    fn report(&mut self, all: bool) -> Usage {
        let report = self.counters.since(if all { 0 } else { self.told });
        self.told = self.counters.changes();
        self.reports.push(report.clone());
        report
    }
}

proptest! {
    #[test]
    fn every_token_is_counted_once_whoever_leads_and_whatever_is_heard_again(steps in prop::collection::vec(step(), 0..80)) {
        let names = [QWEN, GPT, ["planner", "smart", "qwen"]];
        let mut processes: Vec<Process> = (1..=3).map(|epoch| Process { epoch, ..Process::default() }).collect();
        let (mut now, mut next_epoch) = (hour("2026-11-01T00:00:00Z"), 4);
        let mut history = History::default();
        let mut stored = history.write();
        let mut truth = BTreeMap::<Series, Counts>::new();
        for step in steps {
            match step {
                Step::Record(process, name, ago, tokens) => {
                    processes[process].counters.record(series(names[name]), now.back(ago), now, &input(tokens));
                    truth.entry(series(names[name])).or_default().add(&input(tokens));
                }
                Step::Pass(hours) => {
                    now = Hour::of(jiff::Timestamp::from_second(now.start() + i64::from(hours) * 3600).unwrap());
                    history.compact(jiff::Timestamp::from_second(now.start()).unwrap());
                }
                Step::Report(process, all) => {
                    let process = &mut processes[process];
                    history.take(process.epoch, &process.report(all));
                }
                Step::Again(process, report) => {
                    let process = &processes[process];
                    if let Some(report) = process.reports.get(report) {
                        history.take(process.epoch, report);
                    }
                }
                Step::Write => stored = history.write(),
                Step::Lead => {
                    history = History::read(stored.iter().map(|shard| shard.json.as_str())).unwrap();
                    // On a new connection everything is told.
                    processes.iter_mut().for_each(|process| process.told = 0);
                }
                Step::End(process) => {
                    let process = &mut processes[process];
                    history.take(process.epoch, &process.report(true));
                    history.ended(process.epoch);
                    stored = history.write();
                    *process = Process { epoch: next_epoch, ..Process::default() };
                    next_epoch += 1;
                }
            }
            prop_assert!(total(&history).input <= truth.values().map(|counts| counts.input).sum::<u64>());
        }
        for process in &mut processes {
            history.take(process.epoch, &process.report(true));
        }
        let mut counted = BTreeMap::<Series, Counts>::new();
        for (_, series, counts) in history.rows() {
            counted.entry(series.clone()).or_default().add(counts);
        }
        prop_assert_eq!(counted, truth);
    }
}
