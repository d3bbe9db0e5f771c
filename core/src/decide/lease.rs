//! Leader election over a Lease: what a candidate does next.
//!
//! Two promises. No two candidates lead at once: a leader counts its time from before it *sent* the last write that
//! succeeded and gives up `renew_deadline` later; everybody else counts from when they *saw* the record change and waits
//! `lease_duration`, which is longer; and every write carries the resourceVersion (and uid) that it was decided on, so
//! that a write that comes late, or second, is refused. No clock of another machine is ever believed: the times in the
//! record are written for people and never read.
//!
//! Two things are beyond any client of a Lease. Who deletes the Lease while somebody leads may get a second leader until the
//! first one next renews, when until then a candidate starts, has yet to see a Lease since it started or since an earlier
//! deletion, or has its Create under way, which carries no precondition. And a write that left this process before it was
//! suspended may arrive after somebody else leads.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use crate::api::configuration::LeaderElection;
use crate::api::duration;

use super::configuration::InvalidValue;

/// The three times of leader election, with `retry_period < renew_deadline < lease_duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    lease_duration: Duration,
    renew_deadline: Duration,
    retry_period: Duration,
}

/// The longest lease: longer ones leave a cluster without an operator for no gain.
const LONGEST_LEASE: Duration = Duration::from_secs(3600);

/// The resolution of the times in a Lease.
const RESOLUTION: Duration = Duration::from_micros(1);

impl Timing {
    /// The times of the configuration.
    ///
    /// # Errors
    ///
    /// The first time that cannot be read, or that is out of order with the others.
    pub fn from_configuration(configuration: &LeaderElection) -> Result<Self, InvalidValue> {
        let read = |path: &str, duration: &duration::Duration| {
            duration.to_std().map_err(|error| InvalidValue::new(path, error.to_string(), "write for example 15s or 500ms"))
        };
        let timing = Self {
            lease_duration: read("leaderElection.leaseDuration", &configuration.lease_duration)?,
            renew_deadline: read("leaderElection.renewDeadline", &configuration.renew_deadline)?,
            retry_period: read("leaderElection.retryPeriod", &configuration.retry_period)?,
        };
        if timing.lease_duration < Duration::from_secs(1) || timing.lease_duration > LONGEST_LEASE {
            return Err(InvalidValue::new(
                "leaderElection.leaseDuration",
                format!("`{}` is not between 1s and 1h", configuration.lease_duration.0),
                "use 15s unless the API server is often away for longer",
            ));
        }
        if timing.renew_deadline >= timing.lease_duration {
            return Err(InvalidValue::new(
                "leaderElection.renewDeadline",
                format!(
                    "`{}` is not shorter than leaseDuration `{}`: two replicas could lead at once",
                    configuration.renew_deadline.0, configuration.lease_duration.0
                ),
                "use two thirds of leaseDuration",
            ));
        }
        // A leader needs time for a second attempt, or one slow answer costs it the lease.
        if timing.retry_period.is_zero() || timing.retry_period * 2 > timing.renew_deadline {
            return Err(InvalidValue::new(
                "leaderElection.retryPeriod",
                format!(
                    "`{}` is not between 1ms and half of renewDeadline `{}`",
                    configuration.retry_period.0, configuration.renew_deadline.0
                ),
                "use a fifth of renewDeadline",
            ));
        }
        Ok(timing)
    }

    /// Time after which a silent leader is replaced.
    pub fn lease_duration(&self) -> Duration {
        self.lease_duration
    }

    /// Time after which a leader that cannot renew gives up.
    pub fn renew_deadline(&self) -> Duration {
        self.renew_deadline
    }

    /// Time between two renewals of a leader.
    pub fn retry_period(&self) -> Duration {
        self.retry_period
    }

    /// Time between two looks of a candidate that does not lead: half a renewal, so that an orderly exit is seen at once.
    fn poll_period(&self) -> Duration {
        self.retry_period / 2
    }

    /// Bound of one request: half of the deadline leaves time for a second one (client-go's choice).
    pub fn request_timeout(&self) -> Duration {
        self.renew_deadline / 2
    }
}

/// The time, twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since any moment that this process chose once; never goes back. All that is decided is decided by it.
    pub monotonic: Duration,
    /// The clock on the wall. It is written into the record, for people, and decides nothing; it may jump or stand still.
    pub wall: Timestamp,
}

/// What came of the last action.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// The process starts, or a wait is over.
    Time,
    /// A read found the Lease.
    Found(Box<Lease>),
    /// A read found no Lease.
    Missing,
    /// A write succeeded; this is the Lease as stored.
    Written {
        /// The answer.
        lease: Box<Lease>,
        /// Monotonic time just before the request was sent.
        sent: Duration,
    },
    /// A write was refused because the Lease is no longer what it was decided on.
    Conflict,
    /// No answer, or another error: whether a write happened is unknown.
    Failed,
}

/// What to do next. Requests are bounded by `within`; after that the observation is [`Observation::Failed`].
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Read the Lease.
    Read {
        /// Bound of the request.
        within: Duration,
    },
    /// Create the Lease; that it exists already is a conflict.
    Create {
        /// The whole object.
        lease: Box<Lease>,
        /// Bound of the request.
        within: Duration,
    },
    /// Replace the Lease by this one, which carries resourceVersion and uid as preconditions.
    Replace {
        /// The whole object.
        lease: Box<Lease>,
        /// Bound of the request.
        within: Duration,
    },
    /// Do nothing for this long, then observe [`Observation::Time`].
    Wait(Duration),
    /// Leadership is lost: end the process at once, without finishing anything.
    Exit(Loss),
}

/// Why leadership was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// Another candidate holds the Lease.
    #[error("the lease is now held by `{0}`")]
    Taken(String),
    /// The Lease was not renewed in time.
    #[error("the lease was not renewed within {0:?}")]
    NotRenewed(Duration),
}

/// One candidate: what it knows of the Lease, and whether it leads.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    name: String,
    namespace: String,
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
    /// Monotonic time before the last successful write was sent, while this candidate leads.
    leads_since: Option<Duration>,
}

/// The Lease as last seen.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    lease: Box<Lease>,
    /// Monotonic time when this record, or that it is missing, was first seen.
    changed: Duration,
    /// The last read found no Lease at all.
    missing: bool,
}

impl Candidate {
    /// A candidate that has seen nothing. `identity` must be of this process alone: a restarted one is another candidate.
    pub fn new(namespace: &str, name: &str, identity: &str, timing: Timing) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            identity: identity.to_owned(),
            timing,
            seen: None,
            leads_since: None,
        }
    }

    /// Monotonic time until which this candidate may act as the leader; none when it does not lead. It moves on with each
    /// renewal. It is to be compared with the clock before every act, since the process may have been suspended.
    pub fn leads_until(&self) -> Option<Duration> {
        self.leads_since.map(|since| since + self.timing.renew_deadline)
    }

    /// The number of times that leadership changed hands before this leader; grows with each leader of one Lease.
    pub fn term(&self) -> Option<u64> {
        self.leads_since?;
        let transitions = self.seen.as_ref()?.lease.spec.as_ref()?.lease_transitions.unwrap_or_default();
        u64::try_from(transitions).ok()
    }

    /// Who is known to hold the Lease.
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref().filter(|seen| !seen.missing).and_then(|seen| holder(&seen.lease))
    }

    /// What to do after `observation`, at `now`.
    #[must_use]
    pub fn decide(mut self, observation: Observation, now: Now) -> (Self, Action) {
        let action = match (observation, self.leads_until()) {
            // Whatever arrives after the deadline comes too late, good news as well.
            (_, Some(until)) if now.monotonic >= until => Action::Exit(Loss::NotRenewed(self.timing.renew_deadline)),
            (Observation::Time, None) | (Observation::Conflict, _) => Action::Read { within: self.within(now) },
            (Observation::Time, Some(_)) => self.write(now),
            (Observation::Failed, None) => Action::Wait(self.timing.poll_period()),
            (Observation::Failed, Some(until)) => Action::Wait(self.timing.poll_period().min(until.saturating_sub(now.monotonic))),
            (Observation::Found(lease), leads) => {
                self.see(lease, now);
                self.after_look(leads.is_some(), now)
            }
            (Observation::Missing, leads) => {
                if let Some(seen) = self.seen.as_mut().filter(|seen| !seen.missing) {
                    seen.missing = true;
                    seen.changed = now.monotonic;
                }
                self.after_look(leads.is_some(), now)
            }
            (Observation::Written { lease, sent }, leads) => {
                self.see(lease, now);
                self.after_write(leads.is_some(), sent, now)
            }
        };
        if matches!(action, Action::Exit(_)) {
            self.leads_since = None;
        }
        (self, action)
    }

    /// The Lease given back, if `lease` is this candidate's: without a holder, under its preconditions. Before it is sent,
    /// whatever needs leadership must have ended.
    pub fn released(&self, lease: &Lease, now: Now) -> Option<Box<Lease>> {
        if holder(lease) != Some(self.identity.as_str()) {
            return None;
        }
        let mut lease = Box::new(lease.clone());
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.renew_time = Some(MicroTime(now.wall));
        Some(lease)
    }

    fn see(&mut self, mut lease: Box<Lease>, now: Now) {
        // The server keeps its own record of managers; sent back, it would only have to be valid.
        lease.metadata.managed_fields = None;
        // Only the record counts as a sign of life. Labels and annotations are anybody's.
        let changed = match &self.seen {
            Some(seen) if seen.lease.spec == lease.spec && seen.lease.metadata.uid == lease.metadata.uid => seen.changed,
            _ => now.monotonic,
        };
        self.seen = Some(Seen { lease, changed, missing: false });
    }

    fn after_look(&self, leads: bool, now: Now) -> Action {
        match (leads, self.holder()) {
            (true, Some(holder)) if holder != self.identity => Action::Exit(Loss::Taken(holder.to_owned())),
            (true, _) => self.write(now),
            (false, _) => match self.patience(now) {
                Some(patience) => Action::Wait(patience.min(self.timing.poll_period())),
                None => self.write(now),
            },
        }
    }

    fn after_write(&mut self, leads: bool, sent: Duration, now: Now) -> Action {
        if self.holder() != Some(self.identity.as_str()) {
            // Only a server that answers with another object than it was sent gets here.
            let holder = self.holder().unwrap_or_default().to_owned();
            return if leads { Action::Exit(Loss::Taken(holder)) } else { Action::Wait(self.timing.poll_period()) };
        }
        let until = sent + self.timing.renew_deadline;
        if now.monotonic >= until {
            // The answer came too late to lead by it. A candidate holds the Lease and renews it first.
            return self.write(now);
        }
        self.leads_since = Some(sent);
        Action::Wait((sent + self.timing.retry_period).min(until).saturating_sub(now.monotonic))
    }

    /// How long the holder is still to be respected; none when the Lease may be taken.
    fn patience(&self, now: Now) -> Option<Duration> {
        let seen = self.seen.as_ref()?;
        match holder(&seen.lease) {
            // Nobody holds it, or this process does and the answer to its write was lost.
            None if !seen.missing => None,
            Some(holder) if holder == self.identity && !seen.missing => None,
            // A Lease that vanished may have been held, and renewed, by somebody else since it was last seen.
            _ => {
                // What the holder promised counts, since its configuration may differ from ours during an upgrade.
                let promised = seen.lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
                let promised = promised.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
                let promised = promised.unwrap_or_default().min(LONGEST_LEASE);
                let expiry = seen.changed + promised.max(self.timing.lease_duration);
                expiry.checked_sub(now.monotonic).filter(|left| !left.is_zero())
            }
        }
    }

    /// Takes or renews the Lease as last seen.
    fn write(&self, now: Now) -> Action {
        let within = self.within(now);
        let base = self.seen.as_ref().map(|seen| (*seen.lease).clone()).unwrap_or_default();
        let create = self.seen.as_ref().is_none_or(|seen| seen.missing);
        let old = base.spec.unwrap_or_default();
        let keeps = old.holder_identity.as_deref() == Some(self.identity.as_str());
        let first = self.seen.is_none();
        let transitions = old.lease_transitions.unwrap_or_default().max(0);
        let seconds = self.timing.lease_duration.as_millis().div_ceil(1000);
        // Others see that this process lives by the record's change, so that it has to change while the clock does not.
        let renewed = old.renew_time.as_ref().filter(|_| keeps).and_then(|last| last.0.checked_add(RESOLUTION).ok());
        let renewed = renewed.unwrap_or(now.wall).max(now.wall);
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(seconds).ok(),
            acquire_time: old.acquire_time.filter(|_| keeps).or(Some(MicroTime(now.wall))),
            renew_time: Some(MicroTime(renewed)),
            lease_transitions: Some(if keeps || first { transitions } else { transitions.saturating_add(1) }),
            ..old
        };
        if create {
            let metadata = ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                labels: base.metadata.labels,
                annotations: base.metadata.annotations,
                ..ObjectMeta::default()
            };
            Action::Create { lease: Box::new(Lease { metadata, spec: Some(spec) }), within }
        } else {
            Action::Replace { lease: Box::new(Lease { metadata: base.metadata, spec: Some(spec) }), within }
        }
    }

    /// Bound of one request, which a leader must not outlive.
    fn within(&self, now: Now) -> Duration {
        let left = self.leads_until().map(|until| until.saturating_sub(now.monotonic));
        self.timing.request_timeout().min(left.unwrap_or(Duration::MAX))
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
