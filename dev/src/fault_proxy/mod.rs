//! A proxy between an operator and the API server that makes requests fail as they do in real life, at a place that a test
//! chooses, and kills the operator before or after any of its writes.
//!
//! The operator's kubeconfig points to the proxy over plain HTTP on loopback; the proxy speaks TLS with the API server and
//! passes the operator's token through, so that accounts, rules and the audit log stay what they are. Clients of kube-rs
//! speak HTTP/1.1 only, and so does the proxy. Watches are relayed event by event.
//!
//! The schedules are Sieve's (OSDI 2022). Intermediate states: name the writes of a run without faults, then fail at each of
//! them, and compare the ends. Unobserved states: events are dropped, or held until the next generation. Stale states: a
//! restarted operator gets lists of the past.

mod events;
mod lists;
mod record;
mod relay;
mod request;
mod rules;

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub use record::Recorded;
pub use request::{Class, Request, Verb, WriteIdentity};
pub use rules::{Action, EventKind, Match, RuleId};

use crate::error::{Error, Result};
use relay::{Relay, Supervisor};

/// A running proxy. It ends with its owner.
pub struct FaultProxy {
    address: SocketAddr,
    kubeconfig: PathBuf,
    relay: Relay,
    accepting: JoinHandle<()>,
}

impl FaultProxy {
    /// Starts a proxy on a free port of loopback to the API server that a kubeconfig names, and writes a kubeconfig beside
    /// it with the same credentials that leads through the proxy.
    ///
    /// # Errors
    ///
    /// When the kubeconfig cannot be used, the other one cannot be written, or no port is free.
    pub async fn start(kubeconfig: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|source| Error::ListenForRequests { source })?;
        let address = listener.local_addr().map_err(|source| Error::ListenForRequests { source })?;
        let relay = Relay {
            api_server: client_without_credentials(kubeconfig).await?,
            rules: rules::Rules::new(),
            record: record::Record::default(),
            lists: lists::Lists::default(),
            supervisor: Arc::default(),
        };
        let through = kubeconfig.with_extension(format!("through-{}.yaml", address.port()));
        write_kubeconfig(kubeconfig, &through, address)?;
        let accepting = tokio::spawn(accept(listener, relay.clone()));
        Ok(Self { address, kubeconfig: through, relay, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The kubeconfig that leads through the proxy.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// How to kill the operator, which returns when it is dead, and how to start the next one: called one after the other by
    /// the rules that kill, from a thread that may block.
    pub fn on_kill(&self, kill: impl Fn() + Send + Sync + 'static, start_again: impl Fn() + Send + Sync + 'static) {
        let supervisor = Supervisor { kill: Box::new(kill), start_again: Box::new(start_again) };
        *self.relay.supervisor.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(supervisor));
    }

    /// Lets something befall the requests that match. Of several rules that match, the first decides.
    pub fn add(&self, which: Match, action: Action) -> RuleId {
        self.relay.rules.add(which, action, self.relay.record.arrivals())
    }

    /// Ends a rule. What hangs by it goes on.
    pub fn remove(&self, rule: RuleId) {
        self.relay.rules.remove(rule);
    }

    /// How many requests, or events of watches, a rule has befallen that was not removed.
    pub fn befell(&self, rule: RuleId) -> u64 {
        self.relay.rules.befell(rule)
    }

    /// Every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.relay.record.all()
    }

    /// The writes among them, without leases and events.
    pub fn writes(&self) -> Vec<Recorded> {
        self.of_class(Class::Write)
    }

    /// The writes of events among them.
    pub fn events(&self) -> Vec<Recorded> {
        self.of_class(Class::Event)
    }

    fn of_class(&self, class: Class) -> Vec<Recorded> {
        self.requests().into_iter().filter(|recorded| recorded.request.class() == class).collect()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, relay: Relay) {
    // The connections end with the proxy.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((connection, _)) = accepted {
                connections.spawn(serve(connection, relay.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(connection: TcpStream, relay: Relay) {
    let Ok(socket) = connection.as_fd().try_clone_to_owned().map(Arc::new) else { return };
    let _ = connection.set_nodelay(true);
    let service = service_fn(move |request| relay.clone().answer(request, socket.clone()));
    // A connection that ends early is what the proxy is for.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
}

async fn client_without_credentials(kubeconfig: &Path) -> Result<Client> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::UseKubeconfig { path: kubeconfig.to_owned(), source };
    let file = Kubeconfig::read_from(kubeconfig).map_err(|error| failed(error.into()))?;
    let mut config =
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(|error| failed(error.into()))?;
    config.auth_info = kube::config::AuthInfo::default();
    config.read_timeout = None;
    config.write_timeout = None;
    config.default_retry = false;
    Client::try_from(config).map_err(|error| failed(error.into()))
}

fn write_kubeconfig(from: &Path, to: &Path, address: SocketAddr) -> Result<()> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::UseKubeconfig { path: from.to_owned(), source };
    let mut file = Kubeconfig::read_from(from).map_err(|error| failed(error.into()))?;
    for cluster in file.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(format!("http://{address}"));
        cluster.certificate_authority = None;
        cluster.certificate_authority_data = None;
    }
    let text = serde_saphyr::to_string(&file).map_err(|source| Error::Render { what: "a kubeconfig", source: Box::new(source) })?;
    crate::account::write_private(to, &text)
}
