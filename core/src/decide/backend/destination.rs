//! Which hosts and addresses a user-given URL may reach. Whoever may create an object here must not borrow the
//! operator's place in the network: cloud credentials, the API server and the operator's own pod stay out of reach.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::api::configuration::Destinations;

/// The rules for user-given URLs: the operator's configuration and what is known about the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Loopback is allowed; for development only.
    pub allow_loopback: bool,
    /// Namespaces whose Services may be named from any other namespace.
    pub service_namespaces: Vec<String>,
    /// Domains of the cluster's DNS besides `cluster.local`, for example `corp.internal`.
    pub cluster_domains: Vec<String>,
    /// Where the API server is. A loopback address of it falls under the rule for loopback.
    pub api_server: ApiServer,
    /// Addresses of the operator's own pod.
    pub own_addresses: Vec<IpAddr>,
}

/// What is known of where the API server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiServer {
    /// Not enough: any address could be its, so that none is reached.
    Unknown {
        /// What is not known yet, in words.
        awaited: String,
    },
    /// At these addresses: its Service's, and its own.
    At(Vec<IpAddr>),
}

impl Default for ApiServer {
    fn default() -> Self {
        Self::of(&BTreeMap::new(), None)
    }
}

impl ApiServer {
    /// What is known by now. `called`: the hosts that the API server is called by, each with its addresses once it was looked
    /// up. `endpoints`: the addresses behind its Service, once they were listed.
    pub fn of(called: &BTreeMap<String, Option<Vec<IpAddr>>>, endpoints: Option<&[IpAddr]>) -> Self {
        let Some(endpoints) = endpoints else {
            return Self::Unknown { awaited: "the EndpointSlices of the Service kubernetes have not been read".to_owned() };
        };
        let mut addresses: BTreeSet<IpAddr> = endpoints.iter().copied().collect();
        for (host, found) in called {
            match found {
                Some(found) => addresses.extend(found),
                None => return Self::Unknown { awaited: format!("its name {host} could not be looked up") },
            }
        }
        Self::At(addresses.into_iter().collect())
    }
}

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressRule {
    /// 127.0.0.0/8, ::1.
    #[error("a loopback address")]
    Loopback,
    /// 169.254.0.0/16, fe80::/10.
    #[error("a link-local address")]
    LinkLocal,
    /// Where a cloud serves its machines' credentials.
    #[error("a metadata service's address")]
    Metadata,
    /// 0.0.0.0/8, ::.
    #[error("the unspecified address")]
    Unspecified,
    /// 224.0.0.0/4, ff00::/8.
    #[error("a multicast address")]
    Multicast,
    /// 240.0.0.0/4 with 255.255.255.255.
    #[error("a broadcast or reserved address")]
    Broadcast,
    /// The API server of this cluster.
    #[error("the API server's address")]
    ApiServer,
    /// The pod that would make the call.
    #[error("the operator's own address")]
    Own,
}

/// A destination that may not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// The text is no URL with a host.
    #[error("refuse the URL: {reason}")]
    RefuseUrl {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The host is, or resolves to, an address that may not be reached.
    #[error("refuse `{host}`: {address} is {rule}")]
    RefuseAddress {
        /// The host as given.
        host: String,
        /// The address.
        address: IpAddr,
        /// The rule that it falls under.
        rule: AddressRule,
    },
    /// It may be the API server's address: that is not known yet. It will pass.
    #[error("`{host}` is not called yet: where the API server is, and so what must not be reached, is not known: {awaited}")]
    AwaitApiServer {
        /// The host as given.
        host: String,
        /// What is not known yet.
        awaited: String,
    },
    /// The host's name alone says that it may not be reached.
    #[error("refuse `{host}`: the name belongs to {what}")]
    RefuseName {
        /// The host as given.
        host: String,
        /// What the name belongs to.
        what: &'static str,
    },
    /// The host is a Service of a namespace that may not be named from here.
    #[error("refuse `{host}`: Services of namespace `{owner}` may not be named from `{namespace}`")]
    RefuseNamespace {
        /// The host as given.
        host: String,
        /// The Service's namespace.
        owner: String,
        /// The namespace of the object that names it.
        namespace: String,
    },
}

/// A host that may be tried; its addresses are still to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A Service of the cluster, as `name.namespace.svc` or with the cluster's domain.
    Service(String),
    /// This machine, when development allows it.
    Loopback(String),
    /// Anything else. It is looked up as it stands, without the search list of resolv.conf: otherwise `redis.payments`
    /// would reach a Service of the namespace `payments`.
    External(String),
}

impl Host {
    /// The host as it goes into the URL.
    pub fn name(&self) -> &str {
        match self {
            Self::Service(name) | Self::Loopback(name) | Self::External(name) => name,
        }
    }
}

/// Names of metadata services, besides their addresses.
const METADATA_NAMES: [&str; 5] = [
    "metadata.google.internal",
    "metadata.goog",
    "metadata.azure.internal",
    "instance-data.ec2.internal",
    "metadata.tencentyun.com",
];

/// Addresses of metadata services that no wider rule covers, and the best known of those that one does: AWS, GCP and
/// most others; AWS's container credentials; Alibaba; Azure's WireServer; Oracle.
const METADATA_V4: [Ipv4Addr; 6] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

/// The same in IPv6: AWS, AWS's pod identity, GCP, Scaleway.
const METADATA_V6: [Ipv6Addr; 4] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];

impl Rules {
    /// The rules of a configuration, in a cluster with these DNS domains and for an operator at these addresses, as long as
    /// nothing is known of the API server.
    pub fn new(destinations: &Destinations, cluster_domains: Vec<String>, own_addresses: Vec<IpAddr>) -> Self {
        Self {
            allow_loopback: destinations.allow_loopback,
            service_namespaces: destinations.service_namespaces.clone(),
            cluster_domains,
            api_server: ApiServer::default(),
            own_addresses,
        }
    }

    /// Whether an address may be reached, by what is known. IPv6 forms that carry an IPv4 address are judged by that one too.
    fn check_address(&self, address: IpAddr) -> Result<(), AddressRule> {
        let is_among = |others: &[IpAddr]| others.iter().any(|&other| canonical(other) == canonical(address));
        if !canonical(address).is_loopback() {
            if matches!(&self.api_server, ApiServer::At(addresses) if is_among(addresses)) {
                return Err(AddressRule::ApiServer);
            }
            if is_among(&self.own_addresses) {
                return Err(AddressRule::Own);
            }
        }
        let rule = match address {
            IpAddr::V4(address) => rule_of_v4(address),
            IpAddr::V6(address) => rule_of_v6(address).or_else(|| embedded(address).and_then(rule_of_v4)),
        };
        match rule {
            None => Ok(()),
            Some(AddressRule::Loopback) if self.allow_loopback => Ok(()),
            Some(rule) => Err(rule),
        }
    }

    /// Whether a host with these addresses may be reached: one that may not spoils the rest. None may while it is not known
    /// where the API server is.
    pub fn check_addresses(&self, host: &str, addresses: &[IpAddr]) -> Result<(), DestinationError> {
        addresses.iter().try_for_each(|&address| {
            self.check_address(address).map_err(|rule| DestinationError::RefuseAddress { host: host.to_owned(), address, rule })
        })?;
        match &self.api_server {
            ApiServer::At(_) => Ok(()),
            ApiServer::Unknown { awaited } => {
                Err(DestinationError::AwaitApiServer { host: host.to_owned(), awaited: awaited.clone() })
            }
        }
    }

    /// What a host's name means in a URL of an object of `namespace`. A name without a dot is a Service of that namespace.
    pub fn check_name(&self, host: &str, namespace: &str) -> Result<Host, DestinationError> {
        let refuse = |what| Err(DestinationError::RefuseName { host: host.to_owned(), what });
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if name.is_empty() || name.split('.').any(str::is_empty) {
            return Err(DestinationError::RefuseUrl { reason: "it has no host" });
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return if self.allow_loopback { Ok(Host::Loopback(name)) } else { refuse("this machine") };
        }
        if METADATA_NAMES.contains(&name.as_str()) {
            return refuse("a metadata service");
        }
        let name = if name.contains('.') { name } else { format!("{name}.{namespace}.svc") };
        let within = match self.within_cluster(&name) {
            Some(within) => within,
            None if name.ends_with(".svc") => name.as_str(),
            None => return Ok(Host::External(name)),
        };
        let labels: Vec<&str> = within.rsplit('.').collect();
        match labels.as_slice() {
            ["svc", "default", "kubernetes"] => refuse("the API server"),
            ["svc", owner, _, ..] if *owner == namespace || self.service_namespaces.iter().any(|allowed| allowed == owner) => {
                Ok(Host::Service(name.clone()))
            }
            ["svc", owner, _, ..] => Err(DestinationError::RefuseNamespace {
                host: host.to_owned(),
                owner: (*owner).to_owned(),
                namespace: namespace.to_owned(),
            }),
            _ => refuse("the cluster, but to no Service"),
        }
    }

    /// The part of a name before the cluster's domain, when it has one.
    fn within_cluster<'name>(&self, name: &'name str) -> Option<&'name str> {
        let domains = self.cluster_domains.iter().map(String::as_str).chain(["cluster.local"]);
        domains.filter_map(|domain| name.strip_suffix(domain)?.strip_suffix('.')).min_by_key(|within| within.len())
    }
}

/// The domains of the cluster's DNS by the search list of a pod's resolv.conf, where kubelet writes `svc.<domain>`.
pub fn cluster_domains(resolv_conf: &str) -> Vec<String> {
    let mut domains: Vec<String> = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("search"))
        .flat_map(str::split_whitespace)
        .filter_map(|domain| domain.strip_prefix("svc."))
        .map(|domain| domain.trim_end_matches('.').to_ascii_lowercase())
        .filter(|domain| !domain.is_empty())
        .collect();
    domains.dedup();
    domains
}

/// Whether a host is reached directly, though a proxy is set. An entry is `*`, an address, a network such as
/// `10.0.0.0/8`, a domain (itself and all below it), or `.domain` (only what is below it).
pub fn bypasses_proxy(no_proxy: &[String], host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    no_proxy.iter().any(|entry| {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return true;
        }
        match address {
            Some(address) => {
                entry.parse::<IpAddr>().is_ok_and(|other| other == address)
                    || entry.parse::<ipnet::IpNet>().is_ok_and(|network| network.contains(&address))
            }
            None => {
                let domain = entry.trim_start_matches("*.").trim_start_matches('.');
                let below = || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
                !domain.is_empty() && (below() || (host == domain && !entry.starts_with('.') && !entry.starts_with('*')))
            }
        }
    })
}

fn rule_of_v4(address: Ipv4Addr) -> Option<AddressRule> {
    if METADATA_V4.contains(&address) {
        return Some(AddressRule::Metadata);
    }
    match address.octets() {
        [0, ..] => Some(AddressRule::Unspecified),
        [127, ..] => Some(AddressRule::Loopback),
        [169, 254, ..] => Some(AddressRule::LinkLocal),
        [224..=239, ..] => Some(AddressRule::Multicast),
        [240..=255, ..] => Some(AddressRule::Broadcast),
        _ => None,
    }
}

fn rule_of_v6(address: Ipv6Addr) -> Option<AddressRule> {
    if METADATA_V6.contains(&address) {
        Some(AddressRule::Metadata)
    } else if address.is_loopback() {
        Some(AddressRule::Loopback)
    } else if address.is_unspecified() {
        Some(AddressRule::Unspecified)
    } else if address.is_unicast_link_local() {
        Some(AddressRule::LinkLocal)
    } else if address.is_multicast() {
        Some(AddressRule::Multicast)
    } else {
        None
    }
}

/// The IPv4 address that an IPv6 one stands for, where a host or a gateway on the way may translate it.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let from = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match address.segments() {
        // IPv4-mapped (RFC 4291 2.5.5.2), and the deprecated IPv4-compatible form (2.5.5.1).
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] => from(high, low),
        // IPv4-translated (RFC 2765).
        [0, 0, 0, 0, 0xffff, 0, high, low] => from(high, low),
        // NAT64: the well-known prefix (RFC 6052) and the local-use one (RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => from(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => from(high, low),
        // Teredo (RFC 4380): the client's address with every bit turned.
        [0x2001, 0, _, _, _, _, high, low] => from(!high, !low),
        _ => None,
    }
}

fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => embedded(address).filter(|_| !address.is_loopback()).map_or(IpAddr::V6(address), IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
#[path = "destination_tests.rs"]
mod tests;
