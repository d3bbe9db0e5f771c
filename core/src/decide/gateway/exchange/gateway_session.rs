//! The gateway's half: which operator is listened to, what is in force, and what is reported.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::documents::{DocumentKind, PerDocument, Update};
use super::message::{DocumentError, GatewayMessage, Health, OperatorMessage};
use super::usage::Usage;
use super::{HEARTBEAT, REPORT_INTERVAL, SCHEMA};
use crate::decide::account::message::{Report, Told};

/// One gateway process. Times are since any moment that the process chose; connections are numbered in the order in which they
/// were made.
#[derive(Clone, Debug)]
pub struct GatewaySession {
    epoch: u64,
    term: u64,
    operator: Option<Operator>,
    /// The latest connection that was ever listened to. Once it is gone it is over, and so is every earlier one.
    latest: Option<u64>,
    hashes: PerDocument<Option<String>>,
    errors: PerDocument<Option<DocumentError>>,
    /// The number of the last report.
    seq: u64,
    /// The changes that any operator has heard of.
    taken: Changes,
    /// Until when a lower term is refused.
    term_ends: Duration,
}

/// The operator that is listened to.
#[derive(Clone, Debug)]
struct Operator {
    connection: u64,
    seq: u64,
    /// The last report that it has taken.
    acknowledged: u64,
    /// Whether it has said all that there is to say of accounts.
    speaks_of_accounts: bool,
    /// The changes that it has heard of in that report.
    known: Changes,
    /// The reports since then, each with the changes until it.
    told: VecDeque<(u64, Changes)>,
    /// When it was last reported to; none when a report is due at once.
    reported: Option<Duration>,
}

/// How often what is reported had changed.
#[derive(Clone, Copy, Debug, Default)]
struct Changes {
    usage: u64,
    accounts: u64,
    tasks: u64,
}

/// What the gateway has to say of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Whether it is about to leave.
    pub draining: bool,
    /// The rows of what its callers used that changed since [`GatewaySession::usage_known`].
    pub usage: Usage,
    /// The changes of the usage until now.
    pub usage_changes: u64,
    /// What it spent of accounts: the rows that changed since [`GatewaySession::accounts_known`]; all that it asks for; and of its
    /// tasks what changed since [`GatewaySession::tasks_known`].
    pub accounts: Report,
    /// The changes of the accounts until now.
    pub account_changes: u64,
    /// The changes of the tasks until now.
    pub task_changes: u64,
    /// The requests of the last minute that would have chosen a backend.
    pub demand: BTreeMap<String, u64>,
    /// How the keys of backends fare.
    pub health: Health,
}

/// What a message that was taken leads to.
#[derive(Debug, Default)]
pub struct Taken {
    /// What to put in force, and then to tell of by [`GatewaySession::applied`].
    pub update: Update,
    /// The hashes of what is in the update.
    pub hashes: PerDocument<Option<String>>,
    /// What the operator says of accounts, which may be only that it is there; the highest report that it has taken on this
    /// connection, 0 before it has said on it all that there is to say of accounts; and for how long from now on what it said holds. None
    /// of a message that came late: what it says is over.
    pub accounts: Option<(Told, u64, Duration)>,
}

/// Why a connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another leader was heard of since.
    #[error("term {offered} is over: the operator of term {known} leads")]
    Term {
        /// The term of the message.
        offered: u64,
        /// The highest term that is known.
        known: u64,
    },
    /// The operator has made another connection.
    #[error("a later connection has taken over")]
    Superseded,
}

impl GatewaySession {
    /// Begins, with what was mounted in force. `epoch` is chosen by chance: no two processes may have the same.
    pub fn new(epoch: u64, mounted: PerDocument<Option<String>>) -> Self {
        Self {
            epoch,
            term: 0,
            operator: None,
            latest: None,
            hashes: mounted,
            errors: PerDocument::default(),
            seq: 0,
            taken: Changes::default(),
            term_ends: Duration::ZERO,
        }
    }

    /// Takes a message that came over a connection. The first one makes it the only connection that is listened to, for good: what is
    /// still under way on one before it was decided without what this process has said since, such as that it gave an allowance back.
    ///
    /// # Errors
    ///
    /// The connection is to be closed. A lower term is refused for as long as the last message of the higher one is valid: a Lease
    /// that was deleted counts from 0 again, and no gateway may have to be restarted for that.
    pub fn receive(&mut self, connection: u64, message: OperatorMessage, now: Duration) -> Result<Taken, Refused> {
        if message.term < self.term && now < self.term_ends {
            return Err(Refused::Term { offered: message.term, known: self.term });
        }
        if self.latest.is_none_or(|latest| latest < connection) {
            self.latest = Some(connection);
            self.operator = Some(Operator::new(connection));
        }
        let Some(operator) = self.operator.as_mut().filter(|operator| operator.connection == connection) else {
            return Err(Refused::Superseded);
        };
        let valid_for = Duration::from_secs(message.valid_for);
        self.term = message.term;
        self.term_ends = now.saturating_add(valid_for);
        // What comes late is older than what was done since.
        if message.seq <= operator.seq {
            return Ok(Taken::default());
        }
        operator.seq = message.seq;
        operator.acknowledge(message.acknowledged.min(self.seq));
        self.taken.usage = self.taken.usage.max(operator.known.usage);
        self.taken.accounts = self.taken.accounts.max(operator.known.accounts);
        // One that has just begun to lead takes reports before it knows its ledger: what was asked for in them is not answered by what
        // another one said to be free.
        operator.speaks_of_accounts |= message.accounts.all;
        let acknowledged = if operator.speaks_of_accounts { operator.acknowledged } else { 0 };
        let taken = self.read(&message);
        Ok(Taken { accounts: Some((message.accounts, acknowledged, valid_for)), ..taken })
    }

    fn read(&mut self, message: &OperatorMessage) -> Taken {
        let mut taken = Taken::default();
        for kind in DocumentKind::ALL {
            let hash = message.hashes.get(kind);
            // What was wrong with something that is no longer wanted is over.
            self.errors.get_mut(kind).take_if(|error| error.hash != *hash);
            let Some(document) = message.documents.get(kind) else { continue };
            // The operator hears of it even where it changed nothing.
            self.report_at_once();
            if self.hashes.get(kind).as_ref() == Some(hash) {
                continue;
            }
            match taken.update.read(kind, document, hash) {
                Ok(()) => *taken.hashes.get_mut(kind) = Some(hash.clone()),
                Err(message) => *self.errors.get_mut(kind) = Some(DocumentError { hash: hash.clone(), message }),
            }
        }
        taken
    }

    /// An update with these hashes is in force, or, with an error in words for people, all of it but the plan.
    pub fn applied(&mut self, hashes: &PerDocument<Option<String>>, outcome: &Result<(), String>) {
        for kind in DocumentKind::ALL {
            let Some(hash) = hashes.get(kind).clone() else { continue };
            match outcome {
                Err(message) if kind == DocumentKind::Plan => {
                    *self.errors.get_mut(kind) = Some(DocumentError { hash, message: message.clone() });
                }
                _ => {
                    *self.errors.get_mut(kind) = None;
                    *self.hashes.get_mut(kind) = Some(hash);
                }
            }
        }
        self.report_at_once();
    }

    /// The connection is gone.
    pub fn disconnected(&mut self, connection: u64) {
        self.operator.take_if(|operator| operator.connection == connection);
    }

    /// The connection that is listened to.
    pub fn connection(&self) -> Option<u64> {
        self.operator.as_ref().map(|operator| operator.connection)
    }

    /// The highest report that the operator has taken on this connection; 0 for none.
    pub fn acknowledged(&self) -> u64 {
        self.operator.as_ref().map_or(0, |operator| operator.acknowledged)
    }

    /// The changes of the usage that the operator has heard of on this connection; 0 for none. What changed since then is to be
    /// in the next report.
    pub fn usage_known(&self) -> u64 {
        self.operator.as_ref().map_or(0, |operator| operator.known.usage)
    }

    /// The changes of the accounts that the operator has heard of on this connection; 0 for none. What changed since then is to be
    /// in the next report.
    pub fn accounts_known(&self) -> u64 {
        self.operator.as_ref().map_or(0, |operator| operator.known.accounts)
    }

    /// The changes of the tasks that the operator has heard of on this connection; 0 for none. What changed since then is to be in the
    /// next report.
    pub fn tasks_known(&self) -> u64 {
        self.operator.as_ref().map_or(0, |operator| operator.known.tasks)
    }

    /// The changes of the usage that any operator has heard of, on any connection. Those after them are lost if the process ends
    /// now.
    pub fn usage_taken(&self) -> u64 {
        self.taken.usage
    }

    /// The changes of the accounts that any operator has heard of, on any connection. If the process ends now, those after them are
    /// charged as if all was used that it was allowed.
    pub fn accounts_taken(&self) -> u64 {
        self.taken.accounts
    }

    /// The number that the next report will have: an ask in it counts as reported when this is acknowledged.
    pub fn next_seq(&self) -> u64 {
        self.seq.saturating_add(1)
    }

    /// When the next report is due; none without an operator. `news`: something changed since the last report.
    pub fn report_due(&self, news: bool) -> Option<Duration> {
        let reported = self.operator.as_ref()?.reported;
        Some(reported.map_or(Duration::ZERO, |at| at.saturating_add(if news { REPORT_INTERVAL } else { HEARTBEAT })))
    }

    /// Makes the next report due at once.
    pub fn report_at_once(&mut self) {
        if let Some(operator) = &mut self.operator {
            operator.reported = None;
        }
    }

    /// A report, to be sent to the operator that is listened to.
    pub fn report(&mut self, facts: Facts, now: Duration) -> GatewayMessage {
        self.seq = self.next_seq();
        if let Some(operator) = &mut self.operator {
            operator.reported = Some(now);
            let changes = Changes { usage: facts.usage_changes, accounts: facts.account_changes, tasks: facts.task_changes };
            operator.told.push_back((self.seq, changes));
        }
        GatewayMessage {
            schema: SCHEMA,
            epoch: self.epoch,
            term: self.term,
            seq: self.seq,
            acknowledged: self.operator.as_ref().map_or(0, |operator| operator.seq),
            hashes: self.hashes.clone(),
            errors: self.errors.clone(),
            draining: facts.draining,
            usage: facts.usage,
            accounts: facts.accounts,
            demand: facts.demand,
            health: facts.health,
        }
    }
}

impl Operator {
    fn new(connection: u64) -> Self {
        Self {
            connection,
            seq: 0,
            acknowledged: 0,
            speaks_of_accounts: false,
            known: Changes::default(),
            told: VecDeque::new(),
            reported: None,
        }
    }

    /// It has taken this report, which says all that those before it said.
    fn acknowledge(&mut self, seq: u64) {
        self.acknowledged = self.acknowledged.max(seq);
        while let Some((_, changes)) = self.told.front().copied().filter(|(told, _)| *told <= seq) {
            self.told.pop_front();
            self.known = changes;
        }
    }
}

#[cfg(test)]
#[path = "gateway_session_tests.rs"]
mod tests;
