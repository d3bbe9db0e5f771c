//! The operator's half, for one replica: what it is sent and when, and what it last said.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::documents::{Desired, DocumentKind, PerDocument};
use super::message::{DocumentError, GatewayMessage, Health, OperatorMessage};
use super::rows::Rows;
use super::untaken::Untaken;
use super::{HEARTBEAT, REPORT_INTERVAL, SCHEMA, SEND_AGAIN_AFTER, VALID_FOR};
use crate::decide::account::AccountId;
use crate::decide::account::granting::AccountRows;
use crate::decide::account::message::{AccountRow, CallerRow, Told};
use crate::decide::account::tasks::Tasks;

/// What the leader knows of one replica, and what it tells it. Times are since any moment that the process chose.
#[derive(Clone, Debug)]
pub struct OperatorSession {
    term: u64,
    desired: Arc<Desired>,
    /// The number of the last message.
    seq: u64,
    connection: Option<Connection>,
    replica: Option<ReplicaReport>,
}

/// What was said on one connection.
#[derive(Clone, Debug, Default)]
struct Connection {
    /// When something was last sent; none when something is due at once.
    sent: Option<Duration>,
    /// The last report that was taken.
    acknowledged: u64,
    /// The last one that the replica may know to be taken.
    told: u64,
    /// Whether the replica is to know of no other one yet.
    is_to_stay: bool,
    /// What the replica has in force, and what it refused.
    reported: PerDocument<Option<String>>,
    refused: PerDocument<Option<DocumentError>>,
    /// What it was sent, and when.
    documents: PerDocument<Option<(String, Duration)>>,
    /// How the process at the other end stands to this leader; none before it has said which one it is.
    standing: Option<Standing>,
    /// What it is to know of accounts.
    accounts: Accounts,
}

/// What the process at the other end of a connection is to know of accounts.
#[derive(Clone, Debug, Default)]
struct Accounts {
    /// Whether that was decided.
    wanted: bool,
    /// Something of it was not sent yet.
    news: bool,
    /// The first message that said all of it; none: there was none yet.
    said: Option<u64>,
    /// The changes of accounts until which it was to know of them.
    changes: u64,
    rows: Rows<AccountId, AccountRow>,
    /// What callers are to be, as it was last decided: the same again costs nothing.
    decided: Option<Arc<BTreeMap<String, CallerRow>>>,
    callers: Rows<String, CallerRow>,
    tasks: Untaken,
}

/// How a process stands to this leader, by its last report on this connection: what grants to it depend on, beside what it spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which process it is.
    pub epoch: u64,
    /// Whether it goes by what this leader says: only then the allowances that it reports are those that it was told.
    pub listens: bool,
    /// The highest message of this leader that it has taken on this connection; 0 for none.
    pub acknowledged: u64,
    /// Whether it is about to leave.
    pub draining: bool,
}

/// What a replica last said of itself, its usage apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaReport {
    /// Which process of the replica said it.
    pub epoch: u64,
    /// The hashes of what is in force. A route is programmed when every ready replica has the plan that is wanted.
    pub hashes: PerDocument<Option<String>>,
    /// What was sent and is not in force, with the reason.
    pub errors: PerDocument<Option<DocumentError>>,
    /// Whether the replica is about to leave.
    pub draining: bool,
    /// The requests of the last minute that would have chosen a backend, by name of the InferenceBackend.
    pub demand: BTreeMap<String, u64>,
    /// How the keys of backends fare.
    pub health: Health,
}

/// The replica knows of a later leader: this process leads no more, or will soon hear so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replica has heard of an operator of term {known}, and this one is of term {own}")]
pub struct Superseded {
    /// The term that the replica knows.
    pub known: u64,
    /// This operator's.
    pub own: u64,
}

impl OperatorSession {
    /// Nothing is known of the replica yet.
    pub fn new(term: u64, desired: Arc<Desired>) -> Self {
        Self { term, desired, seq: 0, connection: None, replica: None }
    }

    /// Its messages have numbers above this one: more than another session of this leader, with the same process, has got to.
    #[must_use]
    pub fn after(mut self, seq: u64) -> Self {
        self.seq = seq;
        self
    }

    /// A connection was made. On it nothing was said yet, so that all is sent.
    pub fn connected(&mut self) {
        self.connection = Some(Connection::default());
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.connection = None;
    }

    /// Something else is wanted now, or still the same.
    pub fn desire(&mut self, desired: Arc<Desired>) {
        self.desired = desired;
        let news = DocumentKind::ALL.into_iter().any(|kind| {
            self.connection.as_ref().is_some_and(|connection| {
                let (hash, sent) = (self.desired.hash(kind), connection.documents.get(kind));
                connection.reported.get(kind).as_deref() != Some(hash) && sent.as_ref().is_none_or(|(sent, _)| sent != hash)
            })
        });
        if news {
            self.send_at_once();
        }
    }

    /// What the process that has reported on this connection is to know of accounts, as it is now: what has changed since there were
    /// [`Self::accounts_known`] changes, or all of it; and all of what budgets mean for callers, which costs nothing where it is the
    /// same as before. What changed is sent soon. The allowances in it count as sent by the message [`Self::next_seq`].
    ///
    /// Without such a process it is passed over, as nobody can know what the one that will report may spend: another may have begun
    /// in its place. So it has to be said for each connection after the first report, also where there are no accounts: what is not
    /// said changes nothing at the other end.
    pub fn desire_accounts(&mut self, rows: AccountRows, callers: Arc<BTreeMap<String, CallerRow>>) {
        if let Some(connection) = self.connection.as_mut().filter(|connection| connection.standing.is_some()) {
            connection.accounts.want(rows, callers);
        }
    }

    /// The changes of accounts of which that process was to know; 0 for none: it is to be said all of them.
    pub fn accounts_known(&self) -> u64 {
        self.connection.as_ref().map_or(0, |connection| connection.accounts.changes)
    }

    /// What the process that has reported on this connection is to hear of tasks, beside what it was to hear before: what has changed
    /// since there were [`Self::tasks_known`] changes, of which there are so many now. Without such a process it is passed over.
    pub fn desire_tasks(&mut self, tasks: Tasks, changes: u64) {
        if let Some(connection) = self.connection.as_mut().filter(|connection| connection.standing.is_some()) {
            connection.accounts.news |= connection.accounts.tasks.want(tasks, changes);
        }
    }

    /// The changes of tasks of which that process was to hear; 0 for none.
    pub fn tasks_known(&self) -> u64 {
        self.connection.as_ref().map_or(0, |connection| connection.accounts.tasks.changes())
    }

    /// Whether the process at the other end is to stay for now, though it may have said all that it has to say: no report is
    /// acknowledged that was not before. When it may go, it is told so at once.
    pub fn keep(&mut self, is_to_stay: bool) {
        let Some(connection) = &mut self.connection else { return };
        let was_to_stay = std::mem::replace(&mut connection.is_to_stay, is_to_stay);
        if was_to_stay && !is_to_stay {
            self.send_at_once();
        }
    }

    /// The number that the next message will have, whenever it is sent.
    pub fn next_seq(&self) -> u64 {
        self.seq.saturating_add(1)
    }

    /// How the process at the other end stands to this leader; none without a connection on which it has reported.
    pub fn standing(&self) -> Option<Standing> {
        self.connection.as_ref()?.standing
    }

    /// Takes a report. Whether it is news: one that comes late, or twice, is not.
    ///
    /// # Errors
    ///
    /// The replica listens to a later leader.
    pub fn receive(&mut self, message: &GatewayMessage) -> Result<bool, Superseded> {
        if message.term > self.term {
            return Err(Superseded { known: message.term, own: self.term });
        }
        let Some(connection) = self.connection.as_mut().filter(|connection| message.seq > connection.acknowledged) else {
            return Ok(false);
        };
        connection.acknowledged = message.seq;
        connection.reported = message.hashes.clone();
        connection.refused = message.errors.clone();
        connection.hear(Standing {
            epoch: message.epoch,
            listens: message.term == self.term,
            acknowledged: message.acknowledged.min(self.seq),
            draining: message.draining,
        });
        self.replica = Some(ReplicaReport {
            epoch: message.epoch,
            hashes: message.hashes.clone(),
            errors: message.errors.clone(),
            draining: message.draining,
            demand: message.demand.clone(),
            health: message.health.clone(),
        });
        // A replica that leaves waits for this answer.
        if message.draining {
            self.send_at_once();
        }
        Ok(true)
    }

    /// What the replica last said, on this connection or an earlier one.
    pub fn replica(&self) -> Option<&ReplicaReport> {
        self.replica.as_ref()
    }

    /// When the next message is due; none without a connection.
    pub fn message_due(&self) -> Option<Duration> {
        let connection = self.connection.as_ref()?;
        let pause = if connection.accounts.news { REPORT_INTERVAL } else { HEARTBEAT };
        Some(connection.sent.map_or(Duration::ZERO, |at| at.saturating_add(pause)))
    }

    /// The message that is due; none where none is.
    pub fn message(&mut self, now: Duration) -> Option<OperatorMessage> {
        if self.message_due().is_none_or(|due| now < due) {
            return None;
        }
        self.seq = self.next_seq();
        let connection = self.connection.as_mut()?;
        connection.sent = Some(now);
        if !connection.is_to_stay {
            connection.told = connection.acknowledged;
        }
        let mut documents = PerDocument::default();
        for kind in DocumentKind::ALL {
            let hash = self.desired.hash(kind);
            if connection.lacks(kind, hash, now) {
                *documents.get_mut(kind) = Some(self.desired.document(kind).clone());
                *connection.documents.get_mut(kind) = Some((hash.to_owned(), now));
            }
        }
        Some(OperatorMessage {
            schema: SCHEMA,
            term: self.term,
            seq: self.seq,
            valid_for: VALID_FOR.as_secs(),
            acknowledged: connection.told,
            hashes: self.desired.hashes(),
            documents,
            accounts: connection.tell(self.seq),
        })
    }

    fn send_at_once(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.sent = None;
        }
    }
}

impl Connection {
    fn hear(&mut self, standing: Standing) {
        if self.standing.is_some_and(|before| before.epoch != standing.epoch) {
            self.accounts = Accounts::default();
        }
        self.accounts.rows.taken(standing.acknowledged);
        self.accounts.callers.taken(standing.acknowledged);
        self.accounts.tasks.taken(standing.acknowledged);
        self.standing = Some(standing);
    }

    /// What message `seq` says of accounts. Until a message that says all of it was taken, each does: who missed it would keep what is
    /// gone.
    fn tell(&mut self, seq: u64) -> Told {
        let Some(standing) = self.standing else { return Told::default() };
        let Accounts { wanted, news, said, rows, callers, tasks, .. } = &mut self.accounts;
        *news = false;
        let tasks = tasks.say(seq);
        if !*wanted {
            return Told { tasks, ..Told::default() };
        }
        let all = *said.get_or_insert(seq) > standing.acknowledged;
        let mut told = Told { all, accounts: rows.say(seq), callers: callers.say(seq), tasks };
        if all {
            // What is missing is gone.
            told.accounts.retain(|_, row| row.is_some());
            told.callers.retain(|_, row| row.is_some());
        }
        told
    }

    /// Whether a document has to be sent: it is neither in force nor refused, and was not sent just now.
    fn lacks(&self, kind: DocumentKind, hash: &str, now: Duration) -> bool {
        let in_force = self.reported.get(kind).as_deref() == Some(hash);
        let refused = self.refused.get(kind).as_ref().is_some_and(|error| error.hash == hash);
        let under_way = self.documents.get(kind).as_ref();
        let under_way = under_way.is_some_and(|(sent, at)| sent == hash && now < at.saturating_add(SEND_AGAIN_AFTER));
        !in_force && !refused && !under_way
    }
}

impl Accounts {
    fn want(&mut self, rows: AccountRows, callers: Arc<BTreeMap<String, CallerRow>>) {
        self.changes = rows.changes;
        let of_accounts = self.rows.want_accounts(rows);
        let is_decided = self.decided.as_ref().is_some_and(|decided| Arc::ptr_eq(decided, &callers));
        let of_callers = !is_decided && self.callers.want(&callers);
        self.decided = Some(callers);
        self.news |= of_accounts || of_callers || !self.wanted;
        self.wanted = true;
    }
}

#[cfg(test)]
#[path = "operator_session_tests.rs"]
mod tests;
