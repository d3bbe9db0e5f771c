//! Names to addresses, checked against the rules for destinations. The client connects to exactly the addresses that were
//! checked: there is no second look-up that could answer differently.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use futures::future::BoxFuture;
use quartermaster_core::decide::backend::destination::{DestinationError, Host, Rules};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The rules in force; the API server's addresses may change while we run.
pub(super) type SharedRules = Arc<RwLock<Arc<Rules>>>;

/// Looks names up.
pub trait Lookup: Send + Sync + 'static {
    /// The addresses of a name; a name that ends in a dot is complete.
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The machine's own way to look names up: getaddrinfo.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.map(|address| address.ip()).collect()) })
    }
}

/// The addresses of a configuration, and for all other names the machine's own way.
#[derive(Clone, Debug, Default)]
pub struct ConfiguredLookup(pub BTreeMap<String, IpAddr>);

impl Lookup for ConfiguredLookup {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        match self.0.get(name.trim_end_matches('.')) {
            Some(address) => Box::pin(std::future::ready(Ok(vec![*address]))),
            None => SystemLookup.lookup(name),
        }
    }
}

/// A host of a URL that may be tried.
pub(super) enum Destination {
    /// An address, which was checked.
    Address(IpAddr),
    /// A name, as it is to be looked up; what it resolves to is still to be checked.
    Name {
        /// The name.
        name: String,
        /// It is of the cluster or of this machine, so that no proxy is needed.
        within: bool,
    },
}

/// Checks the host of a URL of an object of `namespace`. The host must have been read by the rules for hosts of HTTP URLs: they
/// alone know every spelling of an address.
pub(super) fn check_host(rules: &Rules, host: &url::Host<&str>, namespace: &str) -> Result<Destination, DestinationError> {
    let address: IpAddr = match host {
        url::Host::Ipv4(address) => (*address).into(),
        url::Host::Ipv6(address) => (*address).into(),
        url::Host::Domain(domain) => {
            let host = rules.check_name(domain, namespace)?;
            return Ok(Destination::Name { name: host.name().to_owned(), within: !matches!(host, Host::External(_)) });
        }
    };
    // It is spelt only for those who hear that it is refused.
    rules.check_addresses("", &[address]).or_else(|_| rules.check_addresses(&address.to_string(), &[address]))?;
    Ok(Destination::Address(address))
}

/// Looks up what a URL names and refuses what the rules forbid.
pub(super) struct CheckedResolver {
    pub(super) lookup: Arc<dyn Lookup>,
    pub(super) rules: SharedRules,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = current(&self.rules);
        let name = name.as_str().to_owned();
        let addresses = self.lookup.lookup(complete(&name));
        Box::pin(async move {
            let addresses = addresses.await?;
            rules.check_addresses(&name, &addresses)?;
            socket_addresses(addresses)
        })
    }
}

/// Looks up the proxy's own name, which the operator's configuration says.
pub(super) struct ProxyResolver {
    pub(super) lookup: Arc<dyn Lookup>,
}

impl Resolve for ProxyResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let addresses = self.lookup.lookup(name.as_str().to_owned());
        Box::pin(async move { socket_addresses(addresses.await?) })
    }
}

/// Port 0 stands for the port of the URL.
fn socket_addresses(addresses: Vec<IpAddr>) -> Result<Addrs, Box<dyn std::error::Error + Send + Sync>> {
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
    }
    Ok(Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0))))
}

/// A name as it is looked up: names outside the cluster are complete, so that the search list of resolv.conf cannot turn
/// them into Services of other namespaces. `name.namespace.svc` needs that list; `localhost` is in /etc/hosts.
pub(super) fn complete(name: &str) -> String {
    let short = name.ends_with(".svc") || name == "localhost" || name.ends_with('.');
    if short { name.to_owned() } else { format!("{name}.") }
}

pub(super) fn current(rules: &SharedRules) -> Arc<Rules> {
    Arc::clone(&rules.read().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_configured_name_has_its_address_whether_it_is_complete_or_not() {
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let lookup = ConfiguredLookup(BTreeMap::from([("redis.team.svc".to_owned(), address)]));
        for name in ["redis.team.svc", "redis.team.svc."] {
            assert_eq!(lookup.lookup(name.to_owned()).await.unwrap(), [address]);
        }
        assert!(lookup.lookup("localhost".to_owned()).await.unwrap().iter().all(IpAddr::is_loopback));
    }

    #[test]
    fn only_names_of_services_use_the_search_list() {
        assert_eq!(complete("ollama.team.svc"), "ollama.team.svc");
        assert_eq!(complete("redis.payments"), "redis.payments.");
        assert_eq!(complete("ollama.team.svc.cluster.local"), "ollama.team.svc.cluster.local.");
        assert_eq!(complete("api.openai.com."), "api.openai.com.");
    }
}
