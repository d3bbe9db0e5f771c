//! What the rules for user-given URLs have to know of this process and its cluster: the operator's own address, and where the
//! API server is, which can change while we run.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quartermaster_core::api::configuration::Destinations;
use quartermaster_core::decide::backend::destination::{self, ApiServer, Rules};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::controllers::cut::CachedEndpoints;
use crate::operate::cache::Cache;
use crate::sources::connect::{Connector, Lookup};

/// Time until a name of the API server is looked up again. Names of load balancers get other addresses within minutes.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(60);
/// The same after a failure.
const LOOK_UP_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// POD_IP holds something else than addresses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("POD_IP is `{0}`, which is no IP address: set it to the pod's status.podIPs by the downward API, or remove it")]
pub struct OwnAddressError(String);

/// The rules before anything is known of the API server: under these, nothing is connected to. `pod_ip` is the value of the
/// environment variable POD_IP: `status.podIP`, or `status.podIPs` with its commas.
pub fn rules(destinations: &Destinations, pod_ip: Option<&str>) -> Result<Rules, OwnAddressError> {
    let addresses = pod_ip.unwrap_or_default().split(',').map(str::trim).filter(|address| !address.is_empty());
    let own = addresses.map(|address| address.parse().map_err(|_| OwnAddressError(address.to_owned())));
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    Ok(Rules::new(destinations, destination::cluster_domains(&resolv_conf), own.collect::<Result<_, _>>()?))
}

/// Keeps the rules up to date with where the API server is.
pub struct ApiServerAddresses {
    /// The EndpointSlices of the Service `kubernetes`, filled by a watch.
    pub endpoints: Arc<Cache<CachedEndpoints>>,
    connector: Arc<Connector>,
    rules: Rules,
    known: Mutex<Known>,
    in_force: watch::Sender<ApiServer>,
}

struct Known {
    /// The hosts that the API server is called by, each with its addresses once it was looked up.
    called: BTreeMap<String, Option<Vec<IpAddr>>>,
    /// Whether the endpoints were listed, or can never be.
    listed: bool,
}

impl ApiServerAddresses {
    /// Nothing is known yet. `server_host` is the host that this process calls; `service_host` the value of the environment
    /// variable KUBERNETES_SERVICE_HOST, which is the address of the API server's Service, or, where a cluster gives its pods
    /// a name instead, that name: then the Service has to be looked up as well.
    pub fn new(connector: Arc<Connector>, rules: Rules, server_host: &str, service_host: Option<&str>) -> Self {
        let is_name = |host: &&str| host.parse::<IpAddr>().is_err();
        let service = service_host.filter(is_name).map(|_| "kubernetes.default.svc");
        let hosts = [Some(server_host), service_host, service].into_iter().flatten();
        let hosts = hosts.map(|host| host.trim_matches(['[', ']'])).filter(|host| !host.is_empty());
        let called = hosts.map(|host| (host.to_owned(), host.parse().ok().map(|address| vec![address]))).collect();
        let known = Mutex::new(Known { called, listed: false });
        Self { endpoints: Arc::default(), connector, rules, known, in_force: watch::Sender::default() }
    }

    /// Tells when other rules are in force.
    pub fn subscribe(&self) -> watch::Receiver<ApiServer> {
        self.in_force.subscribe()
    }

    /// The endpoints are another set.
    pub fn changed(&self) {
        self.put_in_force(&self.lock());
    }

    /// The endpoints are all there; or this process may not read them, and what it is called by is all that it can know.
    pub fn listed(&self) {
        let mut known = self.lock();
        known.listed = true;
        self.put_in_force(&known);
    }

    /// Looks the names up, again and again, until cancelled. What was found stays until something else is found.
    pub async fn look_up(&self, lookup: &dyn Lookup, cancelled: CancellationToken) {
        let names: Vec<String> = self.lock().called.keys().filter(|host| host.parse::<IpAddr>().is_err()).cloned().collect();
        if names.is_empty() {
            return;
        }
        let mut failing = BTreeSet::new();
        loop {
            let mut again = LOOK_UP_AGAIN;
            for name in &names {
                match lookup.lookup(name.clone()).await {
                    Ok(addresses) if !addresses.is_empty() => {
                        let mut known = self.lock();
                        known.called.insert(name.clone(), Some(addresses));
                        self.put_in_force(&known);
                        failing.remove(name);
                    }
                    failed => {
                        if failing.insert(name) {
                            warn!(?failed, name, "failed to look up the API server's addresses; trying again");
                        }
                        again = LOOK_UP_AFTER_FAILURE;
                    }
                }
            }
            tokio::select! {
                () = cancelled.cancelled() => return,
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    fn put_in_force(&self, known: &MutexGuard<'_, Known>) {
        let endpoints: Vec<IpAddr> = self.endpoints.values().iter().flat_map(|endpoints| endpoints.0.clone()).collect();
        let api_server = ApiServer::of(&known.called, known.listed.then_some(&endpoints));
        if *self.in_force.borrow() != api_server {
            info!(?api_server, "user-given URLs must not lead to these addresses");
            self.connector.set_rules(Rules { api_server: api_server.clone(), ..self.rules.clone() });
            self.in_force.send_replace(api_server);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "destinations_tests.rs"]
mod tests;
