//! What the containers of a pod are doing: written by whoever runs them, read by whoever reports it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

/// A run of a container that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its code, or 128 plus the number of the signal.
    pub exit_code: i32,
    /// `Completed`, `Error` or a word of the kubelet's for something special.
    pub reason: String,
    /// What it, or its log, says about its end.
    pub message: Option<String>,
    /// None where that is not known any more.
    pub started: Option<Timestamp>,
    pub finished: Timestamp,
    pub id: String,
}

/// What a container is doing now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It does not run.
    Waiting {
        /// The kubelet's word for why.
        reason: String,
        /// What is wrong, if anything is.
        message: Option<String>,
    },
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// It has ended, and does not start again, or has not begun to wait for that.
    Ended(Ended),
}

/// All that is known of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub state: State,
    /// The run before this one.
    pub last: Option<Ended>,
    pub restarts: u32,
    /// Whether its startup probe has succeeded.
    pub started: bool,
    /// Whether its readiness probe succeeds.
    pub ready: bool,
    /// The id of the run.
    pub id: Option<String>,
}

impl Record {
    /// A container that has not been started.
    pub fn waiting(reason: &str) -> Self {
        Self {
            state: State::Waiting { reason: reason.to_owned(), message: None },
            last: None,
            restarts: 0,
            started: false,
            ready: false,
            id: None,
        }
    }

    /// The end of its last run, if it does not run.
    pub fn ended(&self) -> Option<&Ended> {
        match &self.state {
            State::Ended(ended) => Some(ended),
            State::Waiting { .. } => self.last.as_ref(),
            State::Running { .. } => None,
        }
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
}

/// The records of a pod's containers, by name.
#[derive(Debug, Default)]
pub(super) struct Board {
    records: Mutex<BTreeMap<String, Record>>,
    changed: Notify,
}

impl Board {
    /// Sets the record of a container.
    pub fn set(&self, container: &str, record: Record) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).insert(container.to_owned(), record);
        self.changed.notify_one();
    }

    /// Changes the record of a container.
    pub fn update(&self, container: &str, change: impl FnOnce(&mut Record)) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let record = records.entry(container.to_owned()).or_insert_with(|| Record::waiting("ContainerCreating"));
        let before = record.clone();
        change(record);
        if *record != before {
            self.changed.notify_one();
        }
    }

    /// The record of a container.
    pub fn get(&self, container: &str) -> Option<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).get(container).cloned()
    }

    /// All records.
    pub fn all(&self) -> BTreeMap<String, Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a record has changed since this was last called.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}
