//! What probes and hooks do to a container: a request, a connection, a command.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::process::Door;

/// How much of a response a message shows.
const BODY_BYTES: usize = 256;

/// The container that is called.
#[derive(Clone)]
pub(super) struct Target {
    pub address: IpAddr,
    pub container: Container,
    pub door: Option<Door>,
}

/// What is to be done.
pub(super) struct Call<'a> {
    pub exec: Option<&'a ExecAction>,
    pub http_get: Option<&'a HTTPGetAction>,
    pub tcp_socket: Option<&'a TCPSocketAction>,
}

impl Target {
    /// Does it.
    ///
    /// # Errors
    ///
    /// When it fails or takes longer; the message says how.
    pub async fn call(&self, call: &Call<'_>, within: Duration) -> Result<(), String> {
        if let Some(exec) = call.exec {
            let door = self.door.as_ref().ok_or_else(|| "the container does not run".to_owned())?;
            return door.run(exec.command.as_deref().unwrap_or_default(), within).await;
        }
        let done = async {
            if let Some(get) = call.http_get {
                return self.get(get).await;
            }
            if let Some(socket) = call.tcp_socket {
                return self.connect(socket.host.as_deref(), &socket.port).await.map(|_| ());
            }
            Err("a probe or hook of this kind is not supported by the local node".to_owned())
        };
        timeout(within, done).await.unwrap_or_else(|_| Err(format!("no answer within {} s", within.as_secs_f64())))
    }

    async fn get(&self, get: &HTTPGetAction) -> Result<(), String> {
        let stream = self.connect(get.host.as_deref(), &get.port).await?;
        if get.scheme.as_deref() == Some("HTTPS") {
            // The kubelet would not verify the certificate either; that something listens has to do.
            return Ok(());
        }
        let authority = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
        let path = get.path.as_deref().filter(|path| path.starts_with('/')).unwrap_or("/");
        let mut request = http::Request::get(path).header("User-Agent", "kube-probe/local").header("Accept", "*/*");
        let stated = get.http_headers.iter().flatten();
        if !stated.clone().any(|header| header.name.eq_ignore_ascii_case("host")) {
            request = request.header("Host", authority);
        }
        for header in stated {
            request = request.header(&header.name, &header.value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // Polled here, so that the connection ends with this call.
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = response.status();
            if status.is_success() || status.is_redirection() {
                return Ok(());
            }
            let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let body = String::from_utf8_lossy(body.get(..BODY_BYTES.min(body.len())).unwrap_or_default()).trim().to_owned();
            Err(format!("HTTP probe failed with statuscode: {}: {body}", status.as_u16()))
        };
        let connection = async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            done = exchange => done,
            () = connection => Err("the connection ended".to_owned()),
        }
    }

    async fn connect(&self, host: Option<&str>, port: &IntOrString) -> Result<TcpStream, String> {
        let port = self.port(port)?;
        let address = match host.filter(|host| !host.is_empty()) {
            None => SocketAddr::new(self.address, port),
            Some(host) => {
                let mut found = lookup_host((host, port)).await.map_err(|error| format!("{host}: {error}"))?;
                found.next().ok_or_else(|| format!("{host} has no address"))?
            }
        };
        TcpStream::connect(address).await.map_err(|error| format!("dial tcp {address}: {error}"))
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => {
                let named = self.container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
                named.map(|port| port.container_port).or_else(|| name.parse().ok())
            }
        };
        number.and_then(|number| u16::try_from(number).ok()).ok_or_else(|| format!("there is no port {port:?}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers one request with `response`, and the request that it got.
    async fn server(response: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(response.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        (port, served)
    }

    fn target(port: u16) -> Target {
        let container = json!({"name": "a", "ports": [{"name": "http", "containerPort": port}]});
        Target { address: [127, 0, 0, 1].into(), container: serde_json::from_value(container).unwrap(), door: None }
    }

    async fn get(target: &Target, action: serde_json::Value, within: Duration) -> Result<(), String> {
        let action: HTTPGetAction = serde_json::from_value(action).unwrap();
        target.call(&Call { exec: None, http_get: Some(&action), tcp_socket: None }, within).await
    }

    #[tokio::test]
    async fn a_get_by_the_name_of_a_port_succeeds_with_any_status_below_400() {
        for (response, good) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 7\r\n\r\nloading", false),
        ] {
            let (port, served) = server(response).await;
            let action = json!({"port": "http", "path": "/health", "httpHeaders": [{"name": "X-A", "value": "b"}]});
            let done = get(&target(port), action, Duration::from_secs(10)).await;
            assert_eq!(done.is_ok(), good, "{response}: {done:?}");
            if let Err(message) = done {
                assert_eq!(message, "HTTP probe failed with statuscode: 503: loading");
            }
            let request = served.await.unwrap().to_lowercase();
            assert!(request.starts_with("get /health http/1.1\r\n") && request.contains("x-a: b\r\n"), "{request}");
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_fails_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let done = get(&target(port), json!({"port": port}), Duration::from_millis(50)).await;
        assert_eq!(done, Err("no answer within 0.05 s".to_owned()));
    }

    #[tokio::test]
    async fn a_port_on_which_nobody_listens_fails() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let socket: TCPSocketAction = serde_json::from_value(json!({"port": port})).unwrap();
        let call = Call { exec: None, http_get: None, tcp_socket: Some(&socket) };
        let message = target(port).call(&call, Duration::from_secs(10)).await.unwrap_err();
        assert!(message.starts_with("dial tcp 127.0.0.1:"), "{message}");
        let missing = get(&target(port), json!({"port": "metrics"}), Duration::from_secs(10)).await.unwrap_err();
        assert!(missing.contains("metrics"), "{missing}");
    }
}
