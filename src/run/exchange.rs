//! The exchange with the replicas of all gateways: the certificates that it needs, and the fleet that is told and heard.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::authority::{self, AuthorityError};
use crate::controllers::cut::CachedGatewayPod;
use crate::controllers::gateway::Gateways;
use crate::exchange::PORT;
use crate::exchange::accounts::Accounts;
use crate::exchange::certificates::{Authority, CertificateError, Certified, Identity};
use crate::exchange::client::{self, Fleet, GatewayPod, Operator, Traffic};
use crate::exchange::replicas::Replicas;
use crate::exchange::tls::client_configuration;
use crate::operate::cache::Change;
use crate::operate::key::ObjectKey;
use crate::operate::leadership::Leadership;
use crate::operate::namespaces::NamespaceDriver;

/// Time until the authority is asked for again that could not be had.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How often it is looked whether the authority's or the operator's own certificate is to be renewed.
const LOOK: Duration = Duration::from_secs(3600);

/// The exchange with all gateways.
pub struct Exchange {
    /// Calls to the API server.
    pub client: Client,
    /// The operator's own namespace, in which the authority is kept.
    pub namespace: String,
    /// Whether this process leads, and in which term.
    pub leadership: Arc<Leadership>,
    /// The gateways.
    pub gateways: Arc<NamespaceDriver<Gateways>>,
    /// Which gateways there are; none before the operator's own certificate is there.
    pub fleet: watch::Sender<Option<Arc<Fleet>>>,
    /// Whether any namespace has a route.
    pub any_route: watch::Sender<bool>,
    /// What each replica was last heard to run.
    pub replicas: Arc<Replicas>,
    /// What may be spent, and what was used.
    pub accounts: Arc<Accounts>,
    /// Wakes the backends of a namespace.
    pub wake_backends: Arc<dyn Fn(&str) + Send + Sync>,
}

/// Takes a change of a gateway's pod into the fleet.
pub fn pod_changed(fleet: &watch::Sender<Option<Arc<Fleet>>>, key: &ObjectKey, change: &Change<CachedGatewayPod>) {
    fleet.send_if_modified(|fleet| {
        let Some(fleet) = fleet else { return false };
        let fleet = Arc::make_mut(fleet);
        if let Some(before) = &change.before {
            fleet.pods.remove(&before.uid);
        }
        if let Some(after) = &change.after
            && let Some(address) = after.address
        {
            fleet.pods.insert(after.uid.clone(), pod(key, address));
        }
        true
    });
}

/// Where a gateway's pod is to be reached.
fn pod(key: &ObjectKey, address: IpAddr) -> GatewayPod {
    GatewayPod { namespace: key.namespace.clone(), name: key.name.clone(), address: SocketAddr::new(address, PORT) }
}

/// The operator's own certificate.
struct Own {
    certified: Certified,
    /// The certificate of the authority that signed it, by which gateways are believed.
    authority: String,
}

impl Own {
    fn issue(authority: &Authority, now: Timestamp) -> Result<Self, CertificateError> {
        let certified = authority.issue(&Identity::Operator, now)?;
        Ok(Self { certified, authority: authority.certified().certificate.clone() })
    }

    /// Whether it can go on being shown, and the same authority be believed.
    fn is_good(&self, authority: &Authority, now: Timestamp) -> bool {
        self.authority == authority.certified().certificate && !authority.must_issue(&self.certified, &Identity::Operator, now)
    }
}

/// The operator's own certificate cannot be had.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("failed to make the operator's own certificate: {0}")]
    Certificate(#[from] CertificateError),
}

impl Exchange {
    /// While there is a route: tries until it has the authority and the operator's own certificate, then looks from time to time
    /// whether they are to be renewed. Where it cannot have them, the routes say why. Never returns.
    pub async fn keep(&self) {
        let (mut any_route, mut own) = (self.any_route.subscribe(), None);
        loop {
            // Its sender is this one's own: it never closes.
            let _ = any_route.wait_for(|any| *any).await;
            let wait = match self.certify(&mut own).await {
                Ok(()) => LOOK,
                Err(error) => {
                    warn!(%error, "no gateway can be made or told; trying again");
                    if let BeginError::Authority(error) = &error {
                        self.gateways.control.certificates.lack(error.refusal());
                        self.wake_all();
                    }
                    ASK_AGAIN
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Wakes every gateway, and every route.
    fn wake_all(&self) {
        let namespaces: BTreeSet<String> = self.gateways.control.routes.keys().into_iter().map(|route| route.namespace).collect();
        for namespace in namespaces {
            self.gateways.wake(&namespace);
            (self.gateways.control.wake_routes)(&namespace);
        }
    }

    /// Reads or makes the authority. Where the operator's own certificate is due, makes it anew, and lets the fleet have it.
    async fn certify(&self, own: &mut Option<Own>) -> Result<(), BeginError> {
        let now = Timestamp::now();
        let authority = authority::keep(&self.client, &self.namespace, now).await?;
        if own.as_ref().is_some_and(|own| own.is_good(&authority, now)) {
            return Ok(());
        }
        let issued = Own::issue(&authority, now)?;
        let tls = client_configuration(&issued.certified, &issued.authority)?;
        *own = Some(issued);
        self.gateways.control.certificates.set(authority);
        let pods = &self.gateways.control.pods;
        self.fleet.send_modify(|fleet| {
            let cached = pods.keys().into_iter().filter_map(|key| Some((pods.get(&key)?, key)));
            let all = cached.filter_map(|(cached, key)| Some((cached.uid.clone(), pod(&key, cached.address?))));
            let desired = fleet.as_deref().map(|fleet| fleet.desired.clone()).unwrap_or_default();
            *fleet = Some(Arc::new(Fleet { tls, desired, pods: all.collect() }));
        });
        // The certificates of gateways are judged by this authority.
        self.wake_all();
        Ok(())
    }

    /// Tells the fleet, and hears it, until cancelled.
    pub fn follow(&self, cancelled: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        let (leadership, control, replicas) = (self.leadership.clone(), self.gateways.control.clone(), self.replicas.clone());
        let (accounts, wake_backends) = (self.accounts.clone(), self.wake_backends.clone());
        let mut fleet = self.fleet.subscribe();
        async move {
            let first = tokio::select! {
                () = cancelled.cancelled() => return,
                first = fleet.wait_for(Option::is_some) => first.ok().and_then(|first| first.clone()),
            };
            let Some(first) = first else { return };
            let (passed_on, receiver) = watch::channel(first);
            let operator = Operator {
                term: leadership.term(),
                leads: Arc::new(move || leadership.leads()),
                fleet: receiver,
                replicas,
                accounts,
                wake: Arc::new(move |namespace| {
                    (control.wake_routes)(namespace);
                    // What calls meet is said of the backends' keys.
                    wake_backends(namespace);
                }),
                traffic: Arc::new(Traffic::default()),
            };
            let pass_on = async {
                while fleet.changed().await.is_ok() {
                    if let Some(now) = fleet.borrow_and_update().clone() {
                        passed_on.send_replace(now);
                    }
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = client::run(operator, cancelled) => {}
                () = pass_on => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn the_operators_own_certificate_is_made_anew_only_when_it_is_due_or_the_authority_has_another_one() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let days = |days: i64| now + SignedDuration::from_hours(24 * days);
        let authority = Authority::make(now).unwrap();
        let own = Own::issue(&authority, now).unwrap();
        assert!(own.is_good(&authority, now) && own.is_good(&authority, days(59)));
        assert!(!own.is_good(&authority, days(61)), "two thirds of its 90 days are over");
        assert!(!own.is_good(&authority.renewed(days(1)).unwrap(), days(1)), "gateways are believed by another certificate");
        assert!(!own.is_good(&Authority::make(now).unwrap(), now));
    }
}
