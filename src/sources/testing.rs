//! Real servers on loopback, well-behaved and otherwise, for the tests of the sources.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use futures::future::BoxFuture;
use quartermaster_core::decide::backend::destination::{ApiServer, Rules};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_rustls::TlsAcceptor;

use super::BackendRef;
use super::connect::{Connector, Lookup};

/// The longest that a test waits for what must come.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Ends a test that would wait for ever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("not within the deadline")
}

/// Waits until something holds.
pub async fn until(mut holds: impl FnMut() -> bool) {
    within(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// The next backend that is woken.
pub async fn woken(receiver: &mut UnboundedReceiver<BackendRef>) -> BackendRef {
    within(receiver.recv()).await.expect("the sender is gone")
}

/// A backend of the namespace `team`.
pub fn backend(name: &str) -> BackendRef {
    BackendRef::new(name).within("team")
}

/// Rules as in a cluster whose API server is nowhere near.
pub fn strict() -> Rules {
    Rules { api_server: ApiServer::At(Vec::new()), ..Rules::default() }
}

/// Rules as in development.
pub fn loopback() -> Rules {
    Rules { allow_loopback: true, ..strict() }
}

/// Serves a router on a port of its own, until the test's runtime ends.
pub async fn serve(router: Router) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Hands each accepted connection to a function.
pub async fn serve_raw<F, R>(handle: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = io::Result<()>> + Send + 'static,
{
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    address
}

/// Accepts, reads, and never answers.
pub async fn serve_silence() -> SocketAddr {
    serve_raw(|mut stream| async move {
        let mut bytes = [0; 1024];
        while stream.read(&mut bytes).await? > 0 {}
        Ok(())
    })
    .await
}

/// Sends `start`, and then `more` again and again, a little at a time, for ever.
pub async fn serve_drops(start: &'static str, more: impl Into<Arc<str>>, pause: Duration) -> SocketAddr {
    let more = more.into();
    serve_raw(move |mut stream| {
        let more = Arc::clone(&more);
        async move {
            let mut bytes = [0; 1024];
            let _request = stream.read(&mut bytes).await?;
            stream.write_all(start.as_bytes()).await?;
            loop {
                stream.write_all(more.as_bytes()).await?;
                tokio::time::sleep(pause).await;
            }
        }
    })
    .await
}

/// Answers the first request of every connection with the same bytes.
pub async fn serve_bytes(answer: Vec<u8>) -> SocketAddr {
    let answer = Arc::new(answer);
    serve_raw(move |mut stream| {
        let answer = Arc::clone(&answer);
        async move {
            let mut bytes = [0; 4096];
            let _request = stream.read(&mut bytes).await?;
            stream.write_all(&answer).await?;
            stream.shutdown().await
        }
    })
    .await
}

/// A certificate authority, and its certificate in PEM.
pub fn authority() -> (CertifiedIssuer<'static, KeyPair>, Arc<[u8]>) {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let pem = issuer.pem().into_bytes().into();
    (issuer, pem)
}

/// Serves an answer over TLS, with a certificate for 127.0.0.1 of this authority.
pub async fn serve_tls(issuer: &CertifiedIssuer<'static, KeyPair>, answer: &'static str) -> SocketAddr {
    super::connect::install_cryptography();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key);
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    serve_raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut bytes = [0; 4096];
            let _request = stream.read(&mut bytes).await?;
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        }
    })
    .await
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A DNS of our own that remembers what it was asked for.
#[derive(Default)]
pub struct Names {
    names: HashMap<String, Vec<IpAddr>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    pub fn new(names: &[(&str, &[&str])]) -> Arc<Self> {
        let addresses = |list: &[&str]| list.iter().map(|address| address.parse().unwrap()).collect();
        let names = names.iter().map(|(name, list)| ((*name).to_owned(), addresses(list))).collect();
        Arc::new(Self { names, asked: Mutex::default() })
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub fn connector(self: &Arc<Self>, rules: Rules) -> Connector {
        Connector::with_lookup(rules, None, Arc::clone(self) as Arc<dyn Lookup>)
    }
}

impl Lookup for Names {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.asked.lock().unwrap().push(name.clone());
        let found = self.names.get(&name).cloned();
        Box::pin(async move { found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such name")) })
    }
}
