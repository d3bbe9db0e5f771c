use proptest::prelude::*;

use super::super::ledger::{Stopped, TaskCall, TaskLedger};
use super::super::{BodyHash, TaskId};
use super::*;
use crate::decide::account::Unit;
use crate::decide::account::spending::{Most, Used};
use crate::decide::gateway::plan::TaskLimits;

const CALLER: &str = "coder";
const NOW: Duration = Duration::from_secs(1);

fn id(task: &str) -> TaskId {
    TaskId::of(task.as_bytes()).unwrap()
}

fn row(tokens: u64) -> TaskRow {
    TaskRow { tokens, ..TaskRow::default() }
}

fn of(task: &str, row: TaskRow) -> Tasks {
    [(CALLER.to_owned(), [(id(task), row)].into())].into()
}

#[test]
fn each_process_hears_what_the_others_said_and_not_what_it_said_itself() {
    let mut union = TaskUnion::default();
    assert!(union.receive(1, &of("a", row(5)), NOW));
    assert!(union.receive(2, &of("a", row(7)), NOW));
    let rows = |union: &TaskUnion, epoch| union.rows(epoch, 0).0;
    assert_eq!(rows(&union, 1), of("a", row(7)));
    assert_eq!(rows(&union, 2), of("a", row(5)));
    assert_eq!(rows(&union, 3), of("a", row(12)));
    // A report that comes twice, or late, changes nothing.
    assert!(!union.receive(2, &of("a", row(7)), NOW) && !union.receive(2, &of("a", row(6)), NOW));
    assert_eq!(rows(&union, 3), of("a", row(12)));
}

#[test]
fn what_a_process_said_stays_when_it_has_ended() {
    let mut union = TaskUnion::default();
    let again = BodyHash::of(b"again");
    let said = TaskRow { tokens: 5, cost: 9, identical: [(again, 2)].into() };
    union.receive(1, &of("a", said.clone()), NOW);
    union.ended(1);
    union.receive(2, &of("a", said.clone()), NOW);
    union.ended(2);
    let sum = TaskRow { tokens: 10, cost: 18, identical: [(again, 4)].into() };
    assert_eq!(union.rows(3, 0).0, of("a", sum));
}

#[test]
fn only_what_has_changed_is_told() {
    let mut union = TaskUnion::default();
    union.receive(1, &of("a", row(5)), NOW);
    let (_, known) = union.rows(2, 0);
    assert_eq!(union.rows(2, known), (Tasks::new(), known));
    union.receive(1, &of("b", row(1)), NOW);
    assert_eq!(union.rows(2, known).0, of("b", row(1)));
}

#[test]
fn of_tasks_that_used_little_all_is_told_of_the_callers_whose_budget_is_nearly_used() {
    let mut union = TaskUnion::default();
    assert!(!union.receive(1, &of("a", row(0)), NOW), "nobody has to hear of it yet");
    let (rows, known) = union.rows(2, 0);
    assert_eq!(rows, Tasks::new());
    union.tell_all_of([CALLER.to_owned(), "planner".to_owned()].into());
    let (rows, known) = union.rows(2, known);
    assert_eq!(rows, of("a", row(0)));
    assert!(union.receive(1, &of("b", row(0)), NOW));
    assert_eq!(union.rows(2, known).0, of("b", row(0)));
    // One that goes on is told again, so that nobody forgets it.
    let (_, known) = union.rows(2, 0);
    assert!(union.receive(1, &of("a", row(0)), NOW));
    assert_eq!(union.rows(2, known).0, of("a", row(0)));
    union.tell_all_of(BTreeSet::new());
    assert_eq!(union.rows(2, 0).0, Tasks::new());
    assert!(!union.receive(1, &of("b", row(0)), NOW));
}

const LIMIT: u64 = 1600;
/// From where on it is reported.
const PART: u64 = 100;

#[derive(Clone, Debug)]
enum Event {
    /// A call at a replica reserves so much, and uses so many percent of it.
    Call(usize, u64, u64),
    /// A replica reports what has changed.
    Report(usize),
    /// A report of it comes again.
    ReportAgain(usize, usize),
    /// It is told what has changed.
    Tell(usize),
    /// What it was told comes again.
    TellAgain(usize, usize),
    /// It reports, ends, and another begins in its place.
    Replace(usize),
}

fn events() -> impl Strategy<Value = Event> {
    let replica = || 0_usize..3;
    prop_oneof![
        6 => (replica(), 0_u64..300, 0_u64..=100).prop_map(|(replica, most, percent)| Event::Call(replica, most, percent)),
        3 => replica().prop_map(Event::Report),
        1 => (replica(), 0_usize..8).prop_map(|(replica, which)| Event::ReportAgain(replica, which)),
        3 => replica().prop_map(Event::Tell),
        1 => (replica(), 0_usize..8).prop_map(|(replica, which)| Event::TellAgain(replica, which)),
        1 => replica().prop_map(Event::Replace),
    ]
}

#[derive(Default)]
struct Replica {
    epoch: u64,
    ledger: TaskLedger,
    used: u64,
    /// What it has said, and what it was told.
    said: Vec<Tasks>,
    told: Vec<Tasks>,
    /// The changes that the other side has heard of.
    heard: (u64, u64),
}

struct World {
    union: TaskUnion,
    replicas: Vec<Replica>,
    /// What processes said that have ended.
    ended: u64,
    epochs: u64,
}

fn a_call() -> TaskCall {
    let limits = TaskLimits { max_tokens: Some(LIMIT), ..TaskLimits::default() };
    TaskCall { task: id("a"), limits, body: None }
}

fn tokens(tokens: u64) -> Most {
    Most { tokens, cost: Some(0) }
}

impl World {
    fn new() -> Self {
        let replica = |epoch| Replica { epoch, ..Replica::default() };
        Self { union: TaskUnion::default(), replicas: (0..3).map(replica).collect(), ended: 0, epochs: 3 }
    }

    fn report(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        let (tasks, changes) = replica.ledger.report(replica.heard.0);
        replica.heard.0 = changes;
        self.union.receive(replica.epoch, &tasks, NOW);
        replica.said.push(tasks);
    }

    fn tell(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        let (tasks, changes) = self.union.rows(replica.epoch, replica.heard.1);
        replica.heard.1 = changes;
        replica.ledger.take(&tasks, NOW);
        replica.told.push(tasks);
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Call(number, most, percent) => {
                let replica = &mut self.replicas[number];
                if let Ok(reservation) = replica.ledger.begin(CALLER, &a_call(), tokens(most), NOW) {
                    let output = most * percent / 100;
                    replica.ledger.settle(reservation, Some(&Used { output, ..Used::default() }));
                    replica.used += output;
                }
            }
            Event::Report(number) => self.report(number),
            Event::ReportAgain(number, which) => {
                let replica = &self.replicas[number];
                if let Some(tasks) = replica.said.get(which) {
                    self.union.receive(replica.epoch, tasks, NOW);
                }
            }
            Event::Tell(number) => self.tell(number),
            Event::TellAgain(number, which) => {
                let replica = &mut self.replicas[number];
                if let Some(tasks) = replica.told.get(which) {
                    replica.ledger.take(tasks, NOW);
                }
            }
            Event::Replace(number) => {
                self.report(number);
                let gone = &self.replicas[number];
                let said = gone.ledger.report(0).0;
                self.ended += said.get(CALLER).and_then(|tasks| tasks.get(&id("a"))).map_or(0, |row| row.tokens);
                self.union.ended(gone.epoch);
                self.replicas[number] = Replica { epoch: self.epochs, ..Replica::default() };
                self.epochs += 1;
            }
        }
    }

    /// Everybody hears of everybody: in the first round that there is something to say, in the second what it is.
    fn exchange(&mut self) {
        for _ in 0..2 {
            (0..3).for_each(|number| self.report(number));
            (0..3).for_each(|number| self.tell(number));
        }
    }
}

proptest! {
    #[test]
    fn when_replicas_have_heard_of_each_other_each_has_what_all_have_left(events in prop::collection::vec(events(), 0..60)) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        world.exchange();
        let all = world.ended + world.replicas.iter().map(|replica| replica.used).sum::<u64>();
        let is_known = world.ended > 0 || world.replicas.iter().any(|replica| replica.used >= PART);
        for replica in &mut world.replicas {
            let left = if is_known { LIMIT.saturating_sub(all) } else { LIMIT - replica.used };
            let stopped = replica.ledger.begin(CALLER, &a_call(), tokens(left + 1), NOW).map(drop);
            prop_assert_eq!(stopped, Err(Stopped::Exceeded { unit: Unit::Tokens, limit: LIMIT, left }));
            let begun = replica.ledger.begin(CALLER, &a_call(), tokens(left), NOW);
            prop_assert_eq!(begun.is_ok(), left > 0);
            if let Ok(reservation) = begun {
                replica.ledger.settle(reservation, None);
            }
        }
    }
}
