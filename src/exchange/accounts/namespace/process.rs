//! The processes of a gateway, and what they have reported while there were no accounts to hear it.

use quartermaster_core::decide::account::Now;
use quartermaster_core::decide::account::granting::{Granting, Heard};
use quartermaster_core::decide::account::message::Report;
use quartermaster_core::decide::gateway::exchange::operator_session::Standing;
use quartermaster_core::decide::gateway::exchange::usage::Usage;

/// A process that has reported.
#[derive(Debug)]
pub(super) struct Process {
    /// How it stands, by its last report.
    pub(super) standing: Standing,
    /// All that it has reported before there were accounts to hear it.
    report: Report,
}

/// A process that ended before there were accounts to hear it.
#[derive(Debug)]
pub(super) struct Departed {
    pub(super) process: Process,
    /// What it used since it began.
    pub(super) usage: Usage,
}

impl Process {
    /// One that has reported nothing yet.
    pub(super) fn new(standing: Standing) -> Self {
        Self { standing, report: Report::default() }
    }

    /// Takes a later report over into all that was reported. An ask that is missing is over.
    pub(super) fn keep(&mut self, later: &Report) {
        for (account, periods) in &later.accounts {
            let rows = periods.iter().map(|(period, row)| (*period, *row));
            self.report.accounts.entry(account.clone()).or_default().extend(rows);
        }
        self.report.asks.clone_from(&later.asks);
    }

    /// There are accounts now, which hear all that it has reported. `usage`: what it used since it began.
    pub(super) fn tell(&mut self, granting: &mut Granting, epoch: u64, usage: &Usage, now: Now) {
        let report = std::mem::take(&mut self.report);
        granting.receive(epoch, heard(self.standing), &report, usage, now);
    }
}

/// A standing, as accounts ask for it.
pub(super) fn heard(standing: Standing) -> Heard {
    let Standing { epoch: _, listens, acknowledged, draining } = standing;
    Heard { listens, acknowledged, draining }
}
