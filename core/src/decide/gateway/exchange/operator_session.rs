//! The operator's half, for one replica: what it is sent and when, and what it last said.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::documents::{Desired, DocumentKind, PerDocument};
use super::message::{DocumentError, GatewayMessage, Health, OperatorMessage};
use super::{HEARTBEAT, SCHEMA, SEND_AGAIN_AFTER, VALID_FOR};

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
    /// What the replica has in force, and what it refused.
    reported: PerDocument<Option<String>>,
    refused: PerDocument<Option<DocumentError>>,
    /// What it was sent, and when.
    documents: PerDocument<Option<(String, Duration)>>,
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
        let sent = self.connection.as_ref()?.sent;
        Some(sent.map_or(Duration::ZERO, |at| at.saturating_add(HEARTBEAT)))
    }

    /// The message that is due; none where none is.
    pub fn message(&mut self, now: Duration) -> Option<OperatorMessage> {
        if self.message_due().is_none_or(|due| now < due) {
            return None;
        }
        let connection = self.connection.as_mut()?;
        self.seq += 1;
        connection.sent = Some(now);
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
            acknowledged: connection.acknowledged,
            hashes: self.desired.hashes(),
            documents,
        })
    }

    fn send_at_once(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.sent = None;
        }
    }
}

impl Connection {
    /// Whether a document has to be sent: it is neither in force nor refused, and was not sent just now.
    fn lacks(&self, kind: DocumentKind, hash: &str, now: Duration) -> bool {
        let in_force = self.reported.get(kind).as_deref() == Some(hash);
        let refused = self.refused.get(kind).as_ref().is_some_and(|error| error.hash == hash);
        let under_way = self.documents.get(kind).as_ref();
        let under_way = under_way.is_some_and(|(sent, at)| sent == hash && now < at.saturating_add(SEND_AGAIN_AFTER));
        !in_force && !refused && !under_way
    }
}

#[cfg(test)]
#[path = "operator_session_tests.rs"]
mod tests;
