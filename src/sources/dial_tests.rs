use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::sources::testing::*;

fn host(text: &str) -> url::Host<String> {
    url::Host::parse(text).unwrap()
}

fn to<'dial>(host: &'dial url::Host<String>, port: u16, tls: Option<&'dial TlsSettings>) -> Dial<'dial> {
    Dial { host, port, namespace: "team", tls, timeout: DEADLINE }
}

async fn answer(connection: &mut Box<dyn Connection>) -> String {
    connection.write_all(b"x").await.unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_connection_is_made_to_the_addresses_that_were_checked_and_to_the_first_that_answers() {
    let address = serve_bytes(b"hello".to_vec()).await;
    let names = Names::new(&[("both.example.com.", &["127.0.0.9", "127.0.0.1"]), ("none.example.com.", &[])]);
    let connector = names.connector(loopback());
    let mut connection = connector.dial(&to(&host("both.example.com"), address.port(), None)).await.unwrap();
    assert_eq!(answer(&mut connection).await, "hello");
    assert_eq!(names.asked(), ["both.example.com."]);
    for name in ["none.example.com", "unknown.example.com"] {
        let error = connector.dial(&to(&host(name), address.port(), None)).await.err().unwrap();
        assert!(matches!(error, CallError::Reach(_)), "{error:?}");
    }
}

#[tokio::test]
async fn tls_is_spoken_with_the_name_of_the_host() {
    let (issuer, pem) = authority();
    let address = serve_tls(&issuer, "hello").await;
    let tls = TlsSettings { authority: Some(pem), skip_verification: false };
    let names = Names::new(&[("redis.example.com.", &["127.0.0.1"])]);
    let connector = names.connector(loopback());
    let port = address.port();
    let mut connection = connector.dial(&to(&host("127.0.0.1"), port, Some(&tls))).await.unwrap();
    assert_eq!(answer(&mut connection).await, "hello");
    let error = connector.dial(&to(&host("redis.example.com"), port, Some(&tls))).await.err().unwrap();
    assert!(matches!(error, CallError::AgreeOnTls(_)), "the certificate is of another name: {error:?}");
    let anyone = TlsSettings { authority: None, skip_verification: true };
    connector.dial(&to(&host("redis.example.com"), port, Some(&anyone))).await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_agree_on_tls_is_given_up_in_time() {
    let address = serve_silence().await;
    let tls = TlsSettings { authority: None, skip_verification: true };
    let timeout = Duration::from_millis(200);
    let (host, connector) = (host("127.0.0.1"), Connector::new(loopback(), None));
    let dial = Dial { host: &host, port: address.port(), namespace: "team", tls: Some(&tls), timeout };
    let error = within(connector.dial(&dial)).await.err().unwrap();
    assert!(matches!(error, CallError::Connect(time) if time == timeout), "{error:?}");
}
