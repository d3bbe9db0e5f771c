//! The one way to call a URL that a user gave. Every call passes the rules for destinations, by name and by the address that
//! is connected to; no redirect is followed; time and bytes are bounded; nothing is decompressed. What is to be read while it comes
//! is called by [`Connector::open`], and what is not HTTP is connected to by [`Connector::dial`], under the same rules.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::header::{ACCEPT, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use quartermaster_core::api::configuration::EgressProxy;
use quartermaster_core::decide::backend::destination::{ApiServer, DestinationError, Rules, bypasses_proxy};
use reqwest::header::HeaderMap;
use reqwest::{Body, Certificate, Client, ClientBuilder, Method, Proxy, StatusCode, redirect};
use sha2::{Digest, Sha256};
use url::Url;

use super::address::Address;
pub use super::connect_error::CallError;
use super::dial::Dial;
use super::direct::{Connections, Peer, Upstream, decoded};
use super::pieces::Pieces;
use super::resolve::{CheckedResolver, Destination, ProxyResolver, SharedRules, check_host, complete, current};
pub use super::resolve::{ConfiguredLookup, Lookup, SystemLookup};

/// What calls say that they come from, unless a client has said it.
const AGENT: &str = concat!("quartermaster/", env!("CARGO_PKG_VERSION"));
/// Time to look up a name, to connect and to agree on TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time to look up a name that a proxy will look up again. Behind a proxy, names of the outside often have no answer.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections without a call are closed after this time, so that a name is looked up and checked again.
const IDLE_CONNECTION: Duration = Duration::from_secs(60);
/// Connections without a call to one host that are kept, where whoever calls says nothing else.
const IDLE_CONNECTIONS: usize = 4;
/// Clients that are kept, one for each private authority; the least recently used gives way.
const CLIENTS: usize = 64;

/// One call.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The URL as the user gave it.
    pub url: Url,
    /// The namespace of the object that the URL is from.
    pub namespace: String,
    /// Headers to send.
    pub headers: HeaderMap,
    /// The body to send.
    pub body: Option<Vec<u8>>,
    /// Certificates (PEM) of a private authority, which is then the only one that is trusted.
    pub authority: Option<Arc<[u8]>>,
    /// The server's certificate is not verified: the user said so.
    pub skip_verification: bool,
    /// Time for the whole call, to the last byte of the answer.
    pub timeout: Duration,
    /// Bytes of the answer's body that are read at most.
    pub body_limit: usize,
}

/// A call whose answer is read while it comes.
#[derive(Debug)]
pub struct Opening {
    /// The method.
    pub method: Method,
    /// The URL as the user gave it.
    pub to: Arc<Address>,
    /// The namespace of the object that the URL is from.
    pub namespace: Arc<str>,
    /// Headers to send.
    pub headers: HeaderMap,
    /// The body to send.
    pub body: Pieces,
    /// Certificates (PEM) of a private authority, which is then the only one that is trusted.
    pub authority: Option<Arc<[u8]>>,
    /// How long a connection is kept for the next call: shorter than the server keeps it, or calls meet closed ones.
    pub idle: Duration,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, up to the limit.
    pub body: Vec<u8>,
    /// Whether the body ended within the limit.
    pub complete: bool,
}

/// Calls user-given URLs.
pub struct Connector {
    pub(super) rules: SharedRules,
    pub(super) lookup: Arc<dyn Lookup>,
    proxy: Option<EgressProxy>,
    clients: Mutex<Clients>,
    /// Of calls whose answers are read while they come.
    connections: Arc<Connections>,
}

#[derive(Default)]
struct Clients {
    clients: HashMap<ClientKey, (Client, u64)>,
    uses: u64,
}

/// What clients differ in.
#[derive(Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    authority: Option<[u8; 32]>,
    skip_verification: bool,
    proxied: bool,
    idle: Duration,
    idle_connections: usize,
}

fn digest(authority: Option<&[u8]>) -> Option<[u8; 32]> {
    authority.map(|pem| Sha256::digest(pem).into())
}

impl Connector {
    /// Calls under these rules, through the proxy for whatever is outside the cluster.
    pub fn new(rules: Rules, proxy: Option<EgressProxy>) -> Self {
        Self::with_lookup(rules, proxy, Arc::new(SystemLookup))
    }

    /// The same with another way to look names up.
    pub fn with_lookup(rules: Rules, proxy: Option<EgressProxy>, lookup: Arc<dyn Lookup>) -> Self {
        install_cryptography();
        Self {
            rules: Arc::new(RwLock::new(Arc::new(rules))),
            lookup,
            proxy,
            clients: Mutex::default(),
            connections: Arc::default(),
        }
    }

    /// Puts other rules in force, when the API server's addresses change.
    pub fn set_rules(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Waits until it is known where the API server is, but no longer than `patience`.
    pub async fn api_server_is_known(&self, patience: Duration) {
        let known = async {
            while matches!(current(&self.rules).api_server, ApiServer::Unknown { .. }) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        // Whoever asked goes on in any case.
        let _in_time = tokio::time::timeout(patience, known).await;
    }

    /// The URL as it is called: a Service's short name with its namespace. Fails when the host alone is forbidden.
    pub fn locate(&self, url: &Url, namespace: &str) -> Result<Url, DestinationError> {
        Ok(self.place(url, namespace)?.0)
    }

    /// The same, and whether the proxy is asked.
    fn place(&self, url: &Url, namespace: &str) -> Result<(Url, bool), DestinationError> {
        let (named, proxied) = self.check(url, namespace)?;
        Ok((named.unwrap_or_else(|| url.clone()), proxied))
    }

    /// Checks a URL by its host alone. The URL as it is called, where that is another one, and whether the proxy is asked: most
    /// URLs are called as they are, and need not be copied.
    fn check(&self, url: &Url, namespace: &str) -> Result<(Option<Url>, bool), DestinationError> {
        let refuse = |reason| DestinationError::RefuseUrl { reason };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse("it is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("it carries credentials: put them into a Secret"));
        }
        let host = url.host().ok_or_else(|| refuse("it has no host"))?;
        let (named, direct) = match check_host(&current(&self.rules), &host, namespace)? {
            Destination::Address(_) => (None, false),
            Destination::Name { name, within } if url.host_str() == Some(name.as_str()) => (None, within),
            Destination::Name { name, within } => {
                let mut url = url.clone();
                url.set_host(Some(&name)).map_err(|_| refuse("its host is no host's name"))?;
                (Some(url), within)
            }
        };
        let host = named.as_ref().unwrap_or(url).host_str();
        let proxied =
            self.proxy.as_ref().is_some_and(|proxy| !direct && host.is_some_and(|host| !bypasses_proxy(&proxy.no_proxy, host)));
        Ok((named, proxied))
    }

    /// Makes one call. An answer with an error's status is an answer.
    pub async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let (url, proxied) = self.place(&call.url, &call.namespace)?;
        if proxied {
            self.check_before_proxy(&url).await?;
        }
        self.send(call, url, proxied).await
    }

    /// The same for the address of a pod, which no proxy for the outside of the cluster reaches.
    pub async fn call_pod(&self, call: Call) -> Result<Answer, CallError> {
        let (url, _) = self.place(&call.url, &call.namespace)?;
        self.send(call, url, false).await
    }

    async fn send(&self, call: Call, url: Url, proxied: bool) -> Result<Answer, CallError> {
        let authority = call.authority.as_deref();
        let key = ClientKey {
            authority: digest(authority),
            skip_verification: call.skip_verification,
            proxied,
            idle: IDLE_CONNECTION,
            idle_connections: IDLE_CONNECTIONS,
        };
        let client = self.client(key, authority)?;
        let mut request = client.request(call.method, url).headers(call.headers).timeout(call.timeout);
        if let Some(body) = call.body {
            request = request.body(body);
        }
        let error = |error| CallError::of(error, call.timeout);
        let mut response = request.send().await.map_err(error)?;
        let mut body = Vec::new();
        let mut complete = true;
        while complete && let Some(chunk) = response.chunk().await.map_err(error)? {
            let room = call.body_limit.saturating_sub(body.len());
            complete = chunk.len() <= room;
            body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        }
        Ok(Answer { status: response.status(), headers: std::mem::take(response.headers_mut()), body, complete })
    }

    /// Makes one call and returns when the head of its answer is there. Neither its time nor its bytes are bounded but for
    /// connecting: whoever reads the answer bounds them. Dropping the answer, or this future, ends the call.
    pub async fn open(&self, opening: Opening) -> Result<Upstream, CallError> {
        let (opening, proxied) = self.located(opening)?;
        if proxied {
            self.check_before_proxy(&opening.to.url).await?;
        }
        self.begin(opening, proxied).await
    }

    /// The same for the address of a pod, which no proxy for the outside of the cluster reaches.
    pub async fn open_pod(&self, opening: Opening) -> Result<Upstream, CallError> {
        let (opening, _) = self.located(opening)?;
        self.begin(opening, false).await
    }

    /// The same call to the URL as it is called, and whether the proxy is asked.
    fn located(&self, mut opening: Opening) -> Result<(Opening, bool), DestinationError> {
        let (named, proxied) = self.check(&opening.to.url, &opening.namespace)?;
        if let Some(url) = named {
            opening.to = Arc::new(Address::new(url));
        }
        Ok((opening, proxied))
    }

    async fn begin(&self, opening: Opening, proxied: bool) -> Result<Upstream, CallError> {
        let begun = if proxied || opening.to.url.scheme() != "http" {
            // Boxed, for calls of the other kind would be moved together with the room that this takes.
            Box::pin(self.begin_by_client(opening, proxied)).await
        } else {
            self.begin_directly(opening).await
        };
        begun.map(decoded)
    }

    /// Begins a call over a connection to the server itself, without TLS.
    async fn begin_directly(&self, opening: Opening) -> Result<Upstream, CallError> {
        let no_url = || CallError::SetUp("the address of the call is no URL".to_owned());
        let Opening { method, to, namespace, headers, body, idle, .. } = opening;
        let (url, sent) = (&to.url, to.sent.as_ref().ok_or_else(no_url)?);
        let mut request = Request::new(body);
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, sent.path.clone(), headers);
        let headers = request.headers_mut();
        headers.insert(HOST, sent.host.clone());
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        let peer = Peer { authority: Arc::clone(&sent.authority), idle };
        let connect = || async {
            let host = url.host().ok_or_else(no_url)?.to_owned();
            let port = url.port_or_known_default().ok_or_else(no_url)?;
            let dial = Dial { host: &host, port, namespace: &namespace, tls: None, timeout: CONNECT_TIMEOUT };
            self.dial(&dial).await
        };
        self.connections.call(peer, request, connect).await
    }

    /// Begins a call by the client that agrees on TLS and asks proxies.
    async fn begin_by_client(&self, opening: Opening, proxied: bool) -> Result<Upstream, CallError> {
        let authority = opening.authority.as_deref();
        let key = ClientKey {
            authority: digest(authority),
            skip_verification: false,
            proxied,
            idle: opening.idle,
            idle_connections: usize::MAX,
        };
        let request = self.client(key, authority)?.request(opening.method, opening.to.url.clone());
        let request = request.headers(opening.headers).body(Body::wrap(opening.body));
        let response = request.send().await.map_err(|error| {
            let connecting = error.is_connect();
            match CallError::of(error, CONNECT_TIMEOUT) {
                // Nothing else has a time here, but for what the system itself gives up.
                CallError::WaitForAnswer(time) if connecting => CallError::Connect(time),
                CallError::Reach(words) if connecting => CallError::NotConnected(words),
                // The call may have been sent by then.
                CallError::AgreeOnTls(words) if !connecting => CallError::Reach(words),
                error => error,
            }
        })?;
        let response: Response<Body> = response.into();
        Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
    }

    /// Looks up what the proxy will connect to, as far as this process can know, and refuses what the rules forbid. The proxy may
    /// find another answer; a name that has none here is left to it.
    async fn check_before_proxy(&self, url: &Url) -> Result<(), DestinationError> {
        let Some(url::Host::Domain(name)) = url.host() else { return Ok(()) };
        match tokio::time::timeout(LOOKUP_TIMEOUT, self.lookup.lookup(complete(name))).await {
            Ok(Ok(addresses)) => current(&self.rules).check_addresses(name, &addresses),
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    /// The client of these properties. `authority` is what the key has the digest of.
    fn client(&self, key: ClientKey, authority: Option<&[u8]>) -> Result<Client, CallError> {
        let lock = || self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = lock().get(&key) {
            return Ok(client);
        }
        let client = if key.skip_verification {
            let builder = self.builder(&key)?.tls_certs_only([]).tls_danger_accept_invalid_certs(true);
            builder.build().map_err(|error| CallError::SetUp(CallError::of(error, CONNECT_TIMEOUT).to_string()))?
        } else {
            self.build(authority, &key)?
        };
        Ok(lock().insert(key, client))
    }

    fn build(&self, authority: Option<&[u8]>, key: &ClientKey) -> Result<Client, CallError> {
        let message = |error| CallError::of(error, CONNECT_TIMEOUT).to_string();
        let Some(pem) = authority else {
            return self.builder(key)?.build().or_else(|error| {
                // An image without certificates: servers without TLS can be called all the same, others fail verification.
                tracing::warn!(
                    error = message(error),
                    "the system's certificates cannot be read: no public certificate is trusted"
                );
                self.builder(key)?.tls_certs_only([]).build().map_err(|error| CallError::SetUp(message(error)))
            });
        };
        let certificates = Certificate::from_pem_bundle(pem).map_err(|_| CallError::ReadAuthority("no PEM".into()))?;
        if certificates.is_empty() {
            return Err(CallError::ReadAuthority("there is no certificate in it".into()));
        }
        self.builder(key)?.tls_certs_only(certificates).build().map_err(|error| CallError::ReadAuthority(message(error)))
    }

    fn builder(&self, key: &ClientKey) -> Result<ClientBuilder, CallError> {
        let builder = Client::builder()
            .user_agent(AGENT)
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(key.idle)
            .pool_max_idle_per_host(key.idle_connections)
            .no_brotli()
            .no_zstd()
            .no_deflate()
            // The environment's proxies would see keys, and would hide the address that is connected to.
            .no_proxy();
        let lookup = Arc::clone(&self.lookup);
        match self.proxy.as_ref().filter(|_| key.proxied) {
            Some(proxy) => {
                let proxy = Proxy::all(&proxy.url).map_err(|_| CallError::SetUp("the address of egressProxy is no URL".into()))?;
                Ok(builder.proxy(proxy).dns_resolver(ProxyResolver { lookup }))
            }
            None => Ok(builder.dns_resolver(CheckedResolver { lookup, rules: Arc::clone(&self.rules) })),
        }
    }
}

impl Clients {
    fn get(&mut self, key: &ClientKey) -> Option<Client> {
        self.uses += 1;
        let uses = self.uses;
        self.clients.get_mut(key).map(|(client, used)| {
            *used = uses;
            client.clone()
        })
    }

    /// Keeps a client, unless another call was faster, and gives the kept one.
    fn insert(&mut self, key: ClientKey, client: Client) -> Client {
        self.uses += 1;
        if self.clients.len() >= CLIENTS
            && let Some(oldest) = self.clients.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
        {
            self.clients.remove(&oldest);
        }
        self.clients.entry(key).or_insert((client, self.uses)).0.clone()
    }
}

/// Chooses ring as the process's cryptography. The client panics without a choice; who chose first stays.
pub fn install_cryptography() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        let _chosen_meanwhile = rustls::crypto::ring::default_provider().install_default();
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
