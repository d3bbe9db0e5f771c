use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap as AxumHeaders;
use axum::response::Redirect;
use axum::routing::get;
use quartermaster_core::decide::backend::destination::ApiServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::sources::testing::*;

fn call(url: &str) -> Call {
    Call {
        method: Method::GET,
        url: url.parse().unwrap(),
        namespace: "team".into(),
        headers: HeaderMap::new(),
        body: None,
        authority: None,
        skip_verification: false,
        timeout: Duration::from_secs(10),
        body_limit: 1024,
    }
}

fn at(address: SocketAddr) -> Call {
    call(&format!("http://{address}/"))
}

fn opening(url: &str) -> Opening {
    Opening {
        method: Method::POST,
        to: Arc::new(Address::new(url.parse().unwrap())),
        namespace: "team".into(),
        headers: HeaderMap::new(),
        body: [Bytes::from_static(b"{}")].into_iter().collect(),
        authority: None,
        idle: IDLE_CONNECTION,
    }
}

/// A server that counts its requests.
async fn counting() -> (SocketAddr, Arc<AtomicUsize>) {
    let hits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hits);
    let router = Router::new().fallback(move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        "hello"
    });
    (serve(router).await, hits)
}

#[tokio::test]
async fn an_answer_comes_with_its_status_headers_and_body() {
    let address = serve(Router::new().route("/", get(|| async { ([("x-test", "yes")], "hello") }))).await;
    let connector = Connector::new(loopback(), None);
    let answer = connector.call(at(address)).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.as_slice(), answer.complete), (200, b"hello".as_slice(), true));
    assert_eq!(answer.headers["x-test"], "yes");
    assert_eq!(connector.call(call(&format!("http://{address}/none"))).await.unwrap().status, 404);
}

#[tokio::test]
async fn addresses_in_every_spelling_are_refused_without_a_connection() {
    let (address, hits) = counting().await;
    let port = address.port();
    let connector = Connector::new(strict(), None);
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "[::ffff:127.0.0.1]", "[::1]", "localhost"] {
        let error = connector.call(call(&format!("http://{host}:{port}/"))).await.unwrap_err();
        assert!(matches!(error, CallError::RefuseDestination(_)), "{host}: {error}");
    }
    for host in ["169.254.169.254", "[fd00:ec2::254]", "metadata.google.internal", "0.0.0.0", "[::]"] {
        let error = Connector::new(loopback(), None).call(call(&format!("http://{host}:{port}/"))).await.unwrap_err();
        assert!(matches!(error, CallError::RefuseDestination(_)), "{host}: {error}");
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_that_resolves_to_a_forbidden_address_is_refused_without_a_connection() {
    let (address, hits) = counting().await;
    let names = Names::new(&[
        ("evil.example.com.", &["127.0.0.1"]),
        ("mixed.example.com.", &["192.0.2.1", "127.0.0.1"]),
        ("cloud.example.com.", &["169.254.169.254"]),
        ("mapped.example.com.", &["::ffff:127.0.0.1"]),
        ("kubernetes.team.svc", &["10.96.0.1"]),
    ]);
    let connector = names.connector(Rules { api_server: ApiServer::At(vec!["10.96.0.1".parse().unwrap()]), ..strict() });
    for (host, rule) in [
        ("evil.example.com", "refuse `evil.example.com`: 127.0.0.1 is a loopback address"),
        ("mixed.example.com", "127.0.0.1 is a loopback address"),
        ("cloud.example.com", "169.254.169.254 is a metadata service's address"),
        ("mapped.example.com", "is a loopback address"),
        ("kubernetes", "refuse `kubernetes.team.svc`: 10.96.0.1 is the API server's address"),
    ] {
        let error = connector.call(call(&format!("http://{host}:{}/", address.port()))).await.unwrap_err();
        assert!(matches!(error, CallError::RefuseDestination(_)), "{host}: {error:?}");
        assert!(error.to_string().contains(rule), "{host}: {error}");
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_is_looked_up_once_a_connection_and_a_service_by_its_namespace() {
    let (address, hits) = counting().await;
    let names = Names::new(&[("ollama.team.svc", &["127.0.0.1"]), ("api.example.com.", &["127.0.0.1"])]);
    let connector = names.connector(loopback());
    for host in ["ollama", "api.example.com", "ollama"] {
        connector.call(call(&format!("http://{host}:{}/", address.port()))).await.unwrap();
    }
    assert_eq!(names.asked(), ["ollama.team.svc", "api.example.com."]);
    assert_eq!(hits.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn while_it_is_not_known_where_the_api_server_is_nothing_is_connected_to() {
    let (address, hits) = counting().await;
    let names = Names::new(&[("api.example.com.", &["127.0.0.1"])]);
    let connector = names.connector(Rules { allow_loopback: true, ..Rules::default() });
    for host in ["127.0.0.1", "api.example.com"] {
        let url = format!("http://{host}:{}/", address.port());
        let error = connector.call(call(&url)).await.unwrap_err();
        assert!(matches!(&error, CallError::RefuseDestination(DestinationError::AwaitApiServer { .. })), "{host}: {error}");
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0);
    connector.set_rules(loopback());
    connector.call(call(&format!("http://{address}/"))).await.unwrap();
}

#[tokio::test]
async fn rules_that_change_hold_for_the_next_connection() {
    let names = Names::new(&[("api.example.com.", &["127.0.0.1"])]);
    let connector = names.connector(loopback());
    let address = serve_bytes(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let url = format!("http://api.example.com:{}/", address.port());
    connector.call(call(&url)).await.unwrap();
    connector.set_rules(strict());
    assert!(matches!(connector.call(call(&url)).await, Err(CallError::RefuseDestination(_))));
}

#[tokio::test]
async fn proxies_of_the_environment_are_ignored() {
    let test = "a_name_is_looked_up_once_a_connection_and_a_service_by_its_namespace";
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args([format!("sources::connect::tests::{test}").as_str(), "--exact"]);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env(name, "http://127.0.0.1:1");
    }
    let output = command.env_remove("NO_PROXY").env_remove("no_proxy").output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn an_image_without_certificates_can_still_call_services_without_tls() {
    let test = "a_name_is_looked_up_once_a_connection_and_a_service_by_its_namespace";
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args([format!("sources::connect::tests::{test}").as_str(), "--exact"]);
    command.env("SSL_CERT_FILE", "/dev/null").env_remove("SSL_CERT_DIR");
    let output = command.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (other, hits) = counting().await;
    let targets = [format!("http://{other}/"), "http://169.254.169.254/latest/meta-data/".to_owned()];
    for target in targets {
        let address = serve(Router::new().fallback(move || async move { Redirect::temporary(&target) })).await;
        let answer = Connector::new(loopback(), None).call(at(address)).await.unwrap();
        assert_eq!(answer.status, 307);
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_body_without_end_is_cut_at_the_limit() {
    let address = serve_drops("HTTP/1.1 200 OK\r\n\r\n", "0123456789abcdef", Duration::ZERO).await;
    let answer = within(Connector::new(loopback(), None).call(at(address))).await.unwrap();
    assert_eq!((answer.body.len(), answer.complete), (1024, false));
    let exact = serve(Router::new().fallback(|| async { "x".repeat(1024) })).await;
    let answer = Connector::new(loopback(), None).call(at(exact)).await.unwrap();
    assert_eq!((answer.body.len(), answer.complete), (1024, true));
}

#[tokio::test]
async fn nothing_is_decompressed_nor_asked_for_compressed() {
    // The beginning of a gzip stream that would grow a thousandfold.
    let bomb = [vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3, 0xed, 0xc1, 0x01, 0x0d, 0, 0, 0, 0xc2, 0xa0], vec![0; 64]].concat();
    let sent = bomb.clone();
    let router = Router::new().fallback(move |headers: AxumHeaders| async move {
        assert!(!headers.contains_key("accept-encoding"));
        ([("content-encoding", "gzip")], bomb)
    });
    let answer = Connector::new(loopback(), None).call(at(serve(router).await)).await.unwrap();
    assert_eq!(answer.body, sent);
}

#[tokio::test]
async fn silence_slow_headers_and_a_slow_body_end_at_the_time_out() {
    let pause = Duration::from_millis(5);
    let servers = [
        serve_silence().await,
        serve_drops("HTTP/1.1 200 OK\r\n", "x-drop: 1\r\n", pause).await,
        serve_drops("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", ".", pause).await,
    ];
    for address in servers {
        let begin = Instant::now();
        let call = Call { timeout: Duration::from_millis(200), body_limit: 1 << 20, ..at(address) };
        let error = within(Connector::new(loopback(), None).call(call)).await.unwrap_err();
        // A server that sends headers for ever may also be cut off for their number.
        assert!(matches!(error, CallError::WaitForAnswer(_) | CallError::Reach(_)), "{error:?}");
        assert!(begin.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn a_closed_port_and_an_unknown_name_are_unreachable_and_the_reason_is_told() {
    let names = Names::new(&[]);
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let connector = names.connector(loopback());
    let refused = connector.call(at(closed)).await.unwrap_err().to_string();
    assert!(refused.contains("refused"), "{refused}");
    let unknown = connector.call(call("http://none.example.com/secret-path")).await.unwrap_err().to_string();
    assert_eq!(unknown, "failed to reach the server: no such name");
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_named_and_only_then() {
    const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
    let (issuer, pem) = authority();
    let (_, other) = authority();
    let url = format!("https://{}/", serve_tls(&issuer, HELLO).await);
    let connector = Connector::new(loopback(), None);
    let with = |authority: Option<Arc<[u8]>>| Call { authority, ..call(&url) };
    assert_eq!(connector.call(with(Some(pem))).await.unwrap().body, b"hello");
    for authority in [None, Some(other)] {
        let error = connector.call(with(authority)).await.unwrap_err();
        assert!(matches!(error, CallError::AgreeOnTls(_)), "{error:?}");
    }
    let no_pem = [b"".as_slice(), b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"];
    for pem in no_pem {
        let error = connector.call(with(Some(pem.into()))).await.unwrap_err();
        assert!(matches!(error, CallError::ReadAuthority(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_told_apart() {
    let address = serve_bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await;
    let error = Connector::new(loopback(), None).call(call(&format!("https://{address}/"))).await.unwrap_err();
    assert!(matches!(error, CallError::AgreeOnTls(_)), "{error:?}");
}

#[tokio::test]
async fn connections_are_used_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let address = serve_raw(move |mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut bytes = [0; 1024];
            while stream.read(&mut bytes).await? > 0 {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
            }
            Ok(())
        }
    })
    .await;
    let connector = Connector::new(loopback(), None);
    for _ in 0..5 {
        connector.call(at(address)).await.unwrap();
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_outside_goes_through_the_proxy_and_the_rules_still_hold() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&seen);
    let proxy = serve_raw(move |mut stream| {
        let lines = Arc::clone(&lines);
        async move {
            let mut bytes = vec![0; 4096];
            let read = stream.read(&mut bytes).await?;
            let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
            lines.lock().unwrap().push(text.lines().next().unwrap_or_default().to_owned());
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await
        }
    })
    .await;
    let (inside, hits) = counting().await;
    let names = Names::new(&[
        ("ollama.team.svc", &["127.0.0.1"]),
        ("api.corp.com.", &["127.0.0.1"]),
        ("metadata.example.com.", &["192.0.2.1", "169.254.169.254"]),
    ]);
    let egress = EgressProxy { url: format!("http://{proxy}"), no_proxy: vec!["corp.com".into()] };
    let connector = Connector::with_lookup(loopback(), Some(egress), Arc::clone(&names) as Arc<dyn Lookup>);
    connector.call(call("http://api.example.com/v1/models")).await.unwrap();
    connector.call(call(&format!("http://ollama:{}/", inside.port()))).await.unwrap();
    connector.call(call(&format!("http://api.corp.com:{}/", inside.port()))).await.unwrap();
    // A name that this process can look up is refused for its address; one that it cannot is the proxy's to look up.
    for host in ["169.254.169.254", "metadata.google.internal", "redis.payments.svc", "metadata.example.com"] {
        let error = connector.call(call(&format!("http://{host}/"))).await.unwrap_err();
        assert!(matches!(error, CallError::RefuseDestination(_)), "{host}: {error:?}");
    }
    // No proxy for the outside knows the way to a pod.
    connector.call_pod(at(inside)).await.unwrap();
    let error = connector.call_pod(call("http://169.254.169.254/")).await.unwrap_err();
    assert!(matches!(error, CallError::RefuseDestination(_)), "{error:?}");
    assert_eq!(*seen.lock().unwrap(), ["GET http://api.example.com/v1/models HTTP/1.1"]);
    assert_eq!(hits.load(Ordering::SeqCst), 3);
    // Calls whose answers are read while they come go the same ways.
    connector.open(opening("http://api.example.com/v1/chat")).await.unwrap();
    connector.open_pod(opening(&format!("http://{inside}/"))).await.unwrap();
    let error = connector.open_pod(opening("http://169.254.169.254/")).await.unwrap_err();
    assert!(matches!(error, CallError::RefuseDestination(_)), "{error:?}");
    assert_eq!(seen.lock().unwrap()[1..], ["POST http://api.example.com/v1/chat HTTP/1.1"]);
    assert_eq!(hits.load(Ordering::SeqCst), 4);
    assert!(names.asked().contains(&"api.example.com.".to_owned()));
}

#[tokio::test]
async fn a_url_with_credentials_is_refused_and_they_are_not_repeated() {
    let error = Connector::new(loopback(), None).call(call("http://user:hunter2@api.example.com/")).await.unwrap_err();
    assert!(matches!(error, CallError::RefuseDestination(_)));
    assert!(!error.to_string().contains("hunter2") && !format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn clients_are_kept_up_to_a_bound() {
    let connector = Connector::new(loopback(), None);
    for _ in 0..CLIENTS + 5 {
        let authority = authority().1;
        let key = ClientKey {
            authority: digest(Some(&authority)),
            skip_verification: false,
            proxied: false,
            idle: IDLE_CONNECTION,
            idle_connections: IDLE_CONNECTIONS,
        };
        connector.client(key, Some(&authority)).unwrap();
    }
    assert_eq!(connector.clients.lock().unwrap().clients.len(), CLIENTS);
}
