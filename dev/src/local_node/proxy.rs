//! The way from a container to a Service: a forward proxy that knows their names.
//!
//! Containers have it in `HTTP_PROXY`. What is no name of a Service is passed on as it stands. `CONNECT` works too, for
//! clients that tunnel.

use std::error::Error as StdError;
use std::sync::Arc;

use http::{HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::names::Names;

/// The port of the proxy on the node's address: the usual one of forward proxies.
pub(super) const PORT: u16 = 3128;

type Failure = Box<dyn StdError + Send + Sync>;
type Answer = UnsyncBoxBody<Bytes, Failure>;

/// Headers that are about one connection, and so not passed on.
const OF_CONNECTION: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
];

/// Serves requests for as long as it is polled.
pub(super) async fn serve(listener: TcpListener, names: Arc<Names>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let _ = stream.set_nodelay(true);
                let names = names.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, names.clone()));
                    // A client that goes away needs no answer.
                    let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                });
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(request: Request<Incoming>, names: Arc<Names>) -> Result<Response<Answer>, http::Error> {
    let uri = request.uri();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let Some(host) = uri.host().map(|host| host.trim_matches(['[', ']']).to_owned()) else {
        return plain(StatusCode::BAD_REQUEST, "this is a proxy: ask it for a whole URL".to_owned());
    };
    let stream = match connect(&names, &host, port).await {
        Ok(stream) => stream,
        Err(message) => return plain(StatusCode::BAD_GATEWAY, format!("quartermaster-dev local-node: {message}\n")),
    };
    if request.method() == Method::CONNECT {
        tokio::spawn(tunnel(request, stream));
        return Response::builder().body(Full::default().map_err(|never| match never {}).boxed_unsync());
    }
    match exchange(request, stream).await {
        Ok(response) => Ok(response),
        Err(error) => plain(StatusCode::BAD_GATEWAY, format!("quartermaster-dev local-node: {host}: {error}\n")),
    }
}

async fn connect(names: &Names, host: &str, port: u16) -> Result<TcpStream, String> {
    let stream = match names.resolve(host, port).await? {
        Some(address) => TcpStream::connect(address).await.map_err(|error| format!("{host} is {address}: {error}"))?,
        None => TcpStream::connect((host, port)).await.map_err(|error| format!("{host}:{port}: {error}"))?,
    };
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Passes on a request and its response, both as they come.
async fn exchange(request: Request<Incoming>, stream: TcpStream) -> Result<Response<Answer>, Failure> {
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    // It ends when both bodies have ended, or either side has gone.
    tokio::spawn(connection);
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = head.uri.authority().map(ToString::to_string);
    head.uri = path.parse()?;
    for name in OF_CONNECTION {
        head.headers.remove(name);
    }
    if let (false, Some(authority)) = (head.headers.contains_key(header::HOST), authority) {
        head.headers.insert(header::HOST, authority.parse()?);
    }
    let response = sender.send_request(Request::from_parts(head, body)).await?;
    let (mut head, body) = response.into_parts();
    for name in OF_CONNECTION {
        head.headers.remove(name);
    }
    head.version = http::Version::HTTP_11;
    Ok(Response::from_parts(head, body.map_err(Failure::from).boxed_unsync()))
}

async fn tunnel(request: Request<Incoming>, mut stream: TcpStream) {
    if let Ok(upgraded) = hyper::upgrade::on(request).await {
        // Either side may go at any time.
        let _ = copy_bidirectional(&mut TokioIo::new(upgraded), &mut stream).await;
    }
}

fn plain(status: StatusCode, text: String) -> Result<Response<Answer>, http::Error> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).header(header::CONTENT_TYPE, "text/plain").body(body)
}
