//! What a second of a namespace costs the operator, by how much changes in it, and by how large the namespace is.

use std::time::Duration;

use tokio::runtime::Builder;

use crate::decisions;
use crate::figures::Figures;
use crate::fleet::{Fleet, Second, Size};

/// The namespace that counts: each caller has three budgets.
pub const LARGE: Size = Size { callers: 200, gateways: 20, of_caller: 3 };
/// A smaller one.
pub const SMALL: Size = Size { callers: 50, ..LARGE };
/// One in which every budget covers every caller.
pub const WHOLE: Size = Size { of_caller: 200, ..LARGE };

/// Seconds that are measured.
const SECONDS: usize = 60;
/// The same in a quick run.
const QUICK: usize = 10;
/// Seconds that pass before: what is not used is given back after a minute, and written down half a minute later.
const SETTLING: usize = 100;
/// Seconds without a call that waits, after which every replica has what it needs.
const CALM: usize = 10;
/// Seconds after which this is given up: the figures say how many calls wait.
const PATIENCE: usize = 300;

/// Seconds of a namespace in which the same changes. Times are medians.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// The namespace.
    pub size: Size,
    /// The callers of whom each report says something new.
    pub callers: usize,
    /// To take a report of each replica.
    pub hear: Duration,
    /// To let time pass.
    pub tick: Duration,
    /// To make a message for each replica.
    pub tell: Duration,
    /// To take the reports, and to let time pass.
    pub take: Duration,
    /// All of it.
    pub together: Duration,
    /// Writes of the ledger in all these seconds.
    pub writes: usize,
    /// What one costs beside the API server; none: there was none.
    pub write: Option<Duration>,
    /// Bytes of all reports of a second, and of all messages.
    pub bytes: (usize, usize),
    /// Calls that waited in all these seconds.
    pub waiting: usize,
    /// Budgets that were to be looked at in all these seconds.
    pub woken: u64,
}

impl Phase {
    /// The pairs of a replica and a caller of which something is news.
    pub fn pairs(&self) -> usize {
        self.callers * self.size.gateways
    }
}

/// Measures all phases, and looks at budgets.
pub fn measure(figures: &mut Figures, quick: bool, say: &impl Fn(&str)) {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let seconds = if quick { QUICK } else { SECONDS };
    runtime.block_on(async {
        // The most first, so that every replica has something of every account by the time when nothing changes.
        for (size, all_callers) in [(LARGE, &[200, 20, 2, 0][..]), (SMALL, &[20, 2, 0][..]), (WHOLE, &[2, 0][..])] {
            if quick && size == WHOLE {
                continue;
            }
            let Size { callers, gateways, of_caller } = size;
            say(&format!("{callers} budgets and callers, {of_caller} budgets a caller, {gateways} gateways"));
            let mut fleet = Fleet::new(size);
            calm(&mut fleet, callers).await;
            for callers in all_callers {
                figures.phases.push(phase(&mut fleet, *callers, seconds).await);
            }
            if size == LARGE {
                say("looking at budgets");
                figures.looks = Some(decisions::measure(&fleet, quick));
            }
        }
    });
}

/// Lets so many callers call until none waits.
async fn calm(fleet: &mut Fleet, callers: usize) {
    let mut without = 0;
    for _ in 0..PATIENCE {
        without = if fleet.second(callers).await.waiting == 0 { without + 1 } else { 0 };
        if without >= CALM {
            return;
        }
    }
}

async fn phase(fleet: &mut Fleet, callers: usize, seconds: usize) -> Phase {
    for _ in 0..SETTLING {
        fleet.second(callers).await;
    }
    calm(fleet, callers).await;
    let woken = fleet.woken();
    let mut measured: Vec<Second> = Vec::new();
    for _ in 0..seconds {
        measured.push(fleet.second(callers).await);
    }
    let written: Vec<Duration> = measured.iter().filter_map(|second| Some(second.tick + second.ledger?)).collect();
    let usual = |of: fn(&Second) -> Duration| {
        median(measured.iter().filter(|second| !second.writes).map(of).collect()).expect("not every second writes")
    };
    let bytes = |of: fn(&Second) -> usize| measured.iter().map(of).sum::<usize>() / measured.len();
    Phase {
        size: fleet.size,
        callers,
        hear: usual(|second| second.hear),
        tick: usual(|second| second.tick),
        tell: usual(|second| second.tell),
        take: usual(|second| second.hear + second.tick),
        together: usual(|second| second.hear + second.tick + second.tell),
        writes: written.len(),
        write: median(written),
        bytes: (bytes(|second| second.bytes.0), bytes(|second| second.bytes.1)),
        waiting: measured.iter().map(|second| second.waiting).sum(),
        woken: fleet.woken() - woken,
    }
}

fn median(mut durations: Vec<Duration>) -> Option<Duration> {
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied()
}
