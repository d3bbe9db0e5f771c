//! A server that does as little as a server can, for tests of the local node: it says who it is, and can be made to fail.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::error::{Error, Result};

/// Serves until it is dropped. Every request is answered with `name` and its path; after a POST to `/fail` with 503.
///
/// # Errors
///
/// When the address is taken.
pub async fn run(address: SocketAddr, name: String) -> Result<()> {
    let listener = TcpListener::bind(address).await.map_err(|source| Error::ListenOn { address: address.to_string(), source })?;
    println!("{name} listens on {address}");
    let (name, fails) = (Arc::new(name), Arc::new(AtomicBool::new(false)));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (name, fails) = (name.clone(), fails.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(&request, &name, &fails);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A client that goes away needs no answer.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(request: &Request<Incoming>, name: &str, fails: &AtomicBool) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if request.method() == Method::POST && path == "/fail" {
        fails.store(true, Ordering::Relaxed);
    }
    let mut response = Response::new(Full::new(Bytes::from(format!("{name} {path}\n"))));
    if fails.load(Ordering::Relaxed) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}
