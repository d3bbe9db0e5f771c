//! Leadership: carries out what [`quartermaster_core::decide::lease`] decides, and tells who asks whether this process leads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, PostParams};
use quartermaster_core::decide::lease::{Action, Candidate, Loss, Now, Observation};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::health::Gate;
use super::metrics::Metrics;

/// What is said of a request whose time is over.
const NO_ANSWER: &str = "no answer in time";

/// Whether this process leads, and until when it may believe so.
#[derive(Debug)]
pub struct Leadership {
    origin: Instant,
    /// Milliseconds since `origin`; 0: it does not lead.
    until: AtomicU64,
    /// How often the leadership had changed hands before it was this process's.
    term: AtomicU64,
    leads: watch::Sender<bool>,
}

impl Default for Leadership {
    fn default() -> Self {
        Self { origin: Instant::now(), until: AtomicU64::new(0), term: AtomicU64::new(0), leads: watch::Sender::new(false) }
    }
}

impl Leadership {
    /// Leads for ever, without asking: a single process that nobody else stands beside.
    pub fn alone() -> Self {
        let leadership = Self::default();
        leadership.set(Some(Duration::MAX));
        leadership
    }

    /// Whether this process leads at this very moment.
    pub fn leads(&self) -> bool {
        milliseconds(self.origin.elapsed()) < self.until.load(Ordering::Acquire)
    }

    /// How often the leadership changed hands before this process had it: of two leaders of one Lease, the later has the higher one.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// Changes when leadership begins.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    fn now(&self) -> Now {
        Now { monotonic: self.origin.elapsed(), wall: Timestamp::now() }
    }

    pub(super) fn set(&self, until: Option<Duration>) {
        self.until.store(until.map_or(0, milliseconds), Ordering::Release);
        self.leads.send_if_modified(|leads| std::mem::replace(leads, until.is_some()) != until.is_some());
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Stands for election until cancelled, then gives the lease back. Whatever needs leadership must have ended by then.
///
/// The gate is open while the API server answers for the lease: it is asked every few seconds, and so tells of a server that
/// hangs long before a silent watch does.
///
/// # Errors
///
/// Leadership was lost: the process must end at once.
pub async fn stand(
    leadership: Arc<Leadership>,
    api: Api<Lease>,
    lease_name: &str,
    mut candidate: Candidate,
    gate: Gate,
    metrics: Arc<Metrics>,
    cancelled: CancellationToken,
) -> Result<(), Loss> {
    let mut observation = Observation::Time;
    loop {
        let led = candidate.leads_until().is_some();
        let (next, action) = candidate.decide(observation, leadership.now());
        candidate = next;
        let until = candidate.leads_until();
        if let Some(term) = candidate.term() {
            leadership.term.store(term, Ordering::Release);
        }
        leadership.set(until);
        metrics.set_leader(until.is_some());
        if until.is_some() && !led {
            info!(lease = lease_name, "this process leads");
        }
        let answer = tokio::select! {
            () = cancelled.cancelled() => break,
            answer = carry_out(&api, lease_name, action, &leadership) => answer?,
        };
        observation = answer.unwrap_or_else(|error| {
            metrics.failed_lease_request();
            warn!(lease = lease_name, error, "failed to reach the lease");
            gate.close(error);
            Observation::Failed
        });
        if !matches!(observation, Observation::Time | Observation::Failed) {
            gate.open();
        }
    }
    leadership.set(None);
    release(&api, lease_name, &candidate, leadership.now()).await;
    Ok(())
}

/// What came of an action; or why nothing is known of that.
async fn carry_out(
    api: &Api<Lease>,
    name: &str,
    action: Action,
    leadership: &Leadership,
) -> Result<Result<Observation, String>, Loss> {
    let sent = leadership.now().monotonic;
    let parameters = PostParams::default();
    let (within, call) = match action {
        Action::Wait(time) => {
            tokio::time::sleep(time).await;
            return Ok(Ok(Observation::Time));
        }
        Action::Exit(loss) => return Err(loss),
        Action::Read { within } => {
            return Ok(match tokio::time::timeout(within, api.get_opt(name)).await {
                Ok(Ok(Some(lease))) => Ok(Observation::Found(Box::new(lease))),
                Ok(Ok(None)) => Ok(Observation::Missing),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(NO_ANSWER.to_owned()),
            });
        }
        Action::Create { lease, within } => {
            (within, futures::future::Either::Left(async move { api.create(&parameters, &lease).await }))
        }
        Action::Replace { lease, within } => {
            (within, futures::future::Either::Right(async move { api.replace(name, &parameters, &lease).await }))
        }
    };
    Ok(match tokio::time::timeout(within, call).await {
        Ok(Ok(lease)) => Ok(Observation::Written { lease: Box::new(lease), sent }),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(Observation::Conflict),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(NO_ANSWER.to_owned()),
    })
}

/// Gives the lease back, so that another process can lead at once. That it fails costs the others the lease's duration.
async fn release(api: &Api<Lease>, name: &str, candidate: &Candidate, now: Now) {
    let give_back = async {
        let Some(lease) = api.get_opt(name).await? else { return Ok(()) };
        if let Some(released) = candidate.released(&lease, now) {
            api.replace(name, &PostParams::default(), &released).await?;
            info!(lease = name, "gave the lease back");
        }
        Ok::<(), kube::Error>(())
    };
    match tokio::time::timeout(Duration::from_secs(3), give_back).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "failed to give the lease back"),
        Err(_) => warn!("failed to give the lease back: no answer"),
    }
}
