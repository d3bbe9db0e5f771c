//! The one thing of a kubelet's server that people miss: `kubectl logs`.
//!
//! The API server asks `/containerLogs/NAMESPACE/POD/CONTAINER` of the node's address over TLS, and verifies the certificate
//! only if it is told to. Known are `follow`, `tailLines`, `limitBytes` and `previous`; times of lines are not, since the
//! logs hold what the container printed and nothing else.

use std::convert::Infallible;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use url::form_urlencoded;

use super::logs;

/// How often a log that is followed is looked at.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);
const CHUNK_BYTES: usize = 64 * 1024;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    follow: bool,
    previous: bool,
    tail_lines: Option<usize>,
    limit_bytes: Option<usize>,
}

impl Query {
    fn of(query: &str) -> Self {
        let mut asked = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "follow" => asked.follow = value == "true",
                "previous" => asked.previous = value == "true",
                "tailLines" => asked.tail_lines = value.parse().ok(),
                "limitBytes" => asked.limit_bytes = value.parse().ok(),
                _ => {}
            }
        }
        asked
    }
}

/// TLS with a certificate that nobody has to know.
///
/// # Errors
///
/// When no certificate can be made.
pub(super) fn tls(address: &str) -> Result<TlsAcceptor, Failure> {
    let certified = rcgen::generate_simple_self_signed(vec![address.to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves the logs below the node's directory, for as long as it is polled.
pub(super) async fn serve(listener: TcpListener, tls: TlsAcceptor, directory: PathBuf) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let (tls, directory) = (tls.clone(), directory.clone());
                connections.spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(request, directory.clone()));
                    // Who stops following just goes.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(request: Request<Incoming>, directory: PathBuf) -> Result<Response<Body>, http::Error> {
    let asked = Query::of(request.uri().query().unwrap_or_default());
    let parts: Vec<&str> = request.uri().path().split('/').filter(|part| !part.is_empty()).collect();
    let ["containerLogs", namespace, pod, container] = parts.as_slice() else {
        return plain(StatusCode::NOT_FOUND, "the local node serves /containerLogs only; there is no exec and no port-forward");
    };
    let all = logs::of_container(&logs::directory(&directory, namespace, pod), container);
    let wanted = if asked.previous { all.iter().rev().nth(1) } else { all.last() };
    let Some(log) = wanted else {
        return plain(StatusCode::BAD_REQUEST, &format!("container \"{container}\" in pod \"{pod}\" has no such log yet"));
    };
    match reading(log, &asked).await {
        Ok(reading) => {
            let body = StreamBody::new(stream::unfold(reading, Reading::next)).boxed_unsync();
            Response::builder().header(header::CONTENT_TYPE, "text/plain").body(body)
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{}: {error}", log.display())),
    }
}

/// A log on its way to somebody.
struct Reading {
    file: File,
    log: PathBuf,
    follow: bool,
    left: Option<usize>,
}

async fn reading(log: &Path, asked: &Query) -> io::Result<Reading> {
    let mut file = File::open(log).await?;
    if let Some(lines) = asked.tail_lines {
        let mut text = Vec::new();
        file.read_to_end(&mut text).await?;
        let start = start_of_last(&text, lines);
        file.seek(SeekFrom::Start(u64::try_from(start).unwrap_or(0))).await?;
    }
    Ok(Reading { file, log: log.to_owned(), follow: asked.follow, left: asked.limit_bytes })
}

impl Reading {
    async fn next(mut self) -> Option<(io::Result<Frame<Bytes>>, Self)> {
        loop {
            // Looked at before reading: what was printed up to the end is read for certain.
            let is_over = logs::is_over(&self.log);
            let mut chunk = vec![0; CHUNK_BYTES.min(self.left.unwrap_or(CHUNK_BYTES))];
            if chunk.is_empty() {
                return None;
            }
            match self.file.read(&mut chunk).await {
                Ok(0) if self.follow && !is_over => sleep(LOOK_AGAIN_AFTER).await,
                Ok(0) => return None,
                Ok(read) => {
                    chunk.truncate(read);
                    self.left = self.left.map(|left| left.saturating_sub(read));
                    return Some((Ok(Frame::data(Bytes::from(chunk))), self));
                }
                Err(error) => return Some((Err(error), Self { follow: false, left: Some(0), ..self })),
            }
        }
    }
}

/// Where the last lines of a text begin.
fn start_of_last(text: &[u8], lines: usize) -> usize {
    if lines == 0 {
        return text.len();
    }
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let breaks = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    breaks.into_iter().nth(lines - 1).map_or(0, |(at, _)| at + 1)
}

fn plain(status: StatusCode, text: &str) -> Result<Response<Body>, http::Error> {
    let never = |never: Infallible| match never {};
    let body = Full::new(Bytes::from(text.to_owned())).map_err(never).boxed_unsync();
    Response::builder().status(status).header(header::CONTENT_TYPE, "text/plain").body(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_and_as_many_as_were_asked_for() {
        let last = |text: &str, lines| text[start_of_last(text.as_bytes(), lines)..].to_owned();
        assert_eq!(last("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last("a\nb\nc", 1), "c");
        assert_eq!(last("a\nb\n", 5), "a\nb\n");
        assert_eq!(last("a\nb\n", 0), "");
        assert_eq!(last("", 3), "");
    }

    #[test]
    fn a_query_is_read_as_the_api_server_writes_it() {
        let asked = Query::of("follow=true&tailLines=10&timestamps=true&limitBytes=5");
        assert_eq!(asked, Query { follow: true, previous: false, tail_lines: Some(10), limit_bytes: Some(5) });
        assert_eq!(Query::of(""), Query::default());
    }
}
