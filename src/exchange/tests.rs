//! Both ends over real sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use jiff::Timestamp;
use quartermaster_core::decide::account::message::Told;
use quartermaster_core::decide::gateway::exchange::HEARTBEAT;
use quartermaster_core::decide::gateway::exchange::documents::DocumentKind;
use quartermaster_core::decide::gateway::exchange::message::{GatewayMessage, OperatorMessage};
use rstest::rstest;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;

use super::certificates::{Authority, Certified, Identity};
use super::client::{Fleet, GatewayPod};
use super::server::End;
use super::testing::{Client, FakeGateway, Server, authority, client_tls, desired, fleet_of, server_tls};
use super::tls::client_configuration;
use crate::sources::testing::{DEADLINE, until, within};

/// A gateway of the namespace `team` and an operator that is connected to it.
async fn pair() -> (Authority, Server, Client) {
    let authority = authority();
    let server = Server::start(server_tls(&authority, "team")).await;
    let wanted = desired("team", "coder", "sk-1");
    let client = Client::start(1, fleet_of(server.pod("team"), wanted, client_tls(&authority)));
    until(|| client.plan_hash("pod").is_some()).await;
    (authority, server, client)
}

fn change(client: &Client, change: impl FnOnce(&mut Fleet)) {
    client.fleet.send_modify(|fleet| change(Arc::make_mut(fleet)));
}

#[tokio::test]
async fn what_is_wanted_is_in_force_at_the_replica_and_the_operator_hears_so() {
    let (_, server, client) = pair().await;
    assert_eq!((server.gateway.caller().as_deref(), server.gateway.secret().as_deref()), (Some("coder"), Some("sk-1")));
    let wanted = desired("team", "coder", "sk-1");
    assert_eq!(client.plan_hash("pod").as_deref(), Some(wanted.hash(DocumentKind::Plan)));
    assert!(client.is_connected("pod"));
    assert_eq!(client.woken.lock().unwrap().first().map(String::as_str), Some("team"));
    // A changed plan and a rotated key: each reaches the replica, and nothing else is put in force again.
    let updates = server.gateway.updates();
    let next = desired("team", "tester", "sk-1");
    change(&client, |fleet| drop(fleet.desired.insert("team".to_owned(), Arc::clone(&next))));
    until(|| client.plan_hash("pod").as_deref() == Some(next.hash(DocumentKind::Plan))).await;
    change(&client, |fleet| drop(fleet.desired.insert("team".to_owned(), desired("team", "tester", "sk-2"))));
    until(|| server.gateway.secret().as_deref() == Some("sk-2")).await;
    assert_eq!((server.gateway.caller().as_deref(), server.gateway.updates()), (Some("tester"), updates + 2));
}

#[tokio::test]
async fn a_plan_that_the_gateway_refuses_is_reported_with_its_words_and_the_next_one_is_taken() {
    let (_, server, client) = pair().await;
    let before = client.plan_hash("pod");
    let refused = desired("team", "refused", "sk-1");
    change(&client, |fleet| drop(fleet.desired.insert("team".to_owned(), Arc::clone(&refused))));
    let error = || client.replica("pod")?.report?.errors.plan;
    until(|| error().is_some()).await;
    let error = error().unwrap();
    assert_eq!((error.hash.as_str(), error.message.as_str()), (refused.hash(DocumentKind::Plan), "nobody may be called refused"));
    assert_eq!((client.plan_hash("pod"), server.gateway.caller().as_deref()), (before, Some("coder")));
    let next = desired("team", "tester", "sk-1");
    change(&client, |fleet| drop(fleet.desired.insert("team".to_owned(), Arc::clone(&next))));
    until(|| client.plan_hash("pod").as_deref() == Some(next.hash(DocumentKind::Plan))).await;
    assert_eq!(client.replica("pod").unwrap().report.unwrap().errors.plan, None);
}

#[tokio::test]
async fn usage_is_counted_once_over_killed_connections_and_restarted_gateways() {
    let (authority, server, client) = pair().await;
    server.gateway.used(100);
    server.news.notify_one();
    until(|| client.tokens() == 100).await;
    // The same pod, in which the container was started again: its new process begins at nothing.
    let (epoch, again) =
        (client.replica("pod").unwrap().report.unwrap().epoch, Server::start(server_tls(&authority, "team")).await);
    again.gateway.used(7);
    server.task.abort();
    change(&client, |fleet| fleet.pods.get_mut("pod").unwrap().address = again.address);
    until(|| client.tokens() == 107).await;
    assert_ne!(client.replica("pod").unwrap().report.unwrap().epoch, epoch);
    // A pod that is gone stays counted and is no replica any more.
    change(&client, |fleet| fleet.pods.clear());
    until(|| client.replica("pod").is_none()).await;
    assert_eq!(client.tokens(), 107);
}

/// A pod in which nothing runs any more has its address until it is gone, and another one may have got it by then.
#[rstest]
#[case::while_both_are_there(true)]
#[case::when_one_goes_and_the_other_comes(false)]
#[tokio::test]
async fn a_process_lives_on_when_a_pod_is_gone_that_had_the_address_of_its_own(#[case] are_together: bool) {
    let (_, server, client) = pair().await;
    server.gateway.used(5);
    server.news.notify_one();
    until(|| client.tokens() == 5).await;
    change(&client, |fleet| {
        let old = if are_together { fleet.pods["pod"].clone() } else { fleet.pods.remove("pod").unwrap() };
        fleet.pods.insert("new".to_owned(), GatewayPod { name: "quartermaster-gateway-1".to_owned(), ..old });
    });
    until(|| client.is_connected("new")).await;
    assert_eq!(client.replica("pod"), None, "there is one process to be reached");
    change(&client, |fleet| drop(fleet.pods.remove("pod")));
    until(|| client.is_connected("new")).await;
    server.gateway.used(6);
    server.news.notify_one();
    until(|| client.tokens() == 11).await;
}

/// Passes connections on, until they are to break.
async fn relay(to: SocketAddr) -> (SocketAddr, Arc<std::sync::Mutex<CancellationToken>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, breaks) = (listener.local_addr().unwrap(), Arc::new(std::sync::Mutex::new(CancellationToken::new())));
    let shared = Arc::clone(&breaks);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let breaks = shared.lock().unwrap().clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ended = copy_bidirectional(&mut near, &mut far) => {}
                    () = breaks.cancelled() => {}
                }
            });
        }
    });
    (address, breaks)
}

#[tokio::test]
async fn after_a_killed_connection_everything_is_sent_again() {
    let authority = authority();
    let server = Server::start(server_tls(&authority, "team")).await;
    let (address, breaks) = relay(server.address).await;
    let pod = GatewayPod { address, ..server.pod("team") };
    let client = Client::start(1, fleet_of(pod, desired("team", "coder", "sk-1"), client_tls(&authority)));
    server.gateway.used(5);
    until(|| client.tokens() == 5).await;
    // While there is no connection, the plan changes and tokens are used.
    std::mem::replace(&mut *breaks.lock().unwrap(), CancellationToken::new()).cancel();
    until(|| !client.is_connected("pod")).await;
    server.gateway.used(6);
    let next = desired("team", "tester", "sk-2");
    change(&client, |fleet| drop(fleet.desired.insert("team".to_owned(), Arc::clone(&next))));
    until(|| client.is_connected("pod") && client.tokens() == 11).await;
    until(|| client.plan_hash("pod").as_deref() == Some(next.hash(DocumentKind::Plan))).await;
    assert_eq!(server.gateway.secret().as_deref(), Some("sk-2"));
}

#[tokio::test]
async fn a_later_leader_takes_over_and_the_earlier_one_is_refused() {
    let (authority, server, old) = pair().await;
    let next = desired("team", "tester", "sk-2");
    let new = Client::start(2, fleet_of(server.pod("team"), Arc::clone(&next), client_tls(&authority)));
    until(|| new.plan_hash("pod").as_deref() == Some(next.hash(DocumentKind::Plan))).await;
    until(|| !old.is_connected("pod")).await;
    // The old one tries again and again, and wants something else: the replica stays with the new one.
    let (sent, reports) = (old.traffic.sent(), new.traffic.received());
    change(&old, |fleet| drop(fleet.desired.insert("team".to_owned(), desired("team", "late", "sk-0"))));
    until(|| old.traffic.sent() >= sent + 2 && new.traffic.received() > reports).await;
    assert_eq!(server.gateway.caller().as_deref(), Some("tester"));
    assert!(new.is_connected("pod") && !old.is_connected("pod"));
}

#[tokio::test]
async fn a_process_that_leads_no_more_sends_nothing() {
    let (_, server, client) = pair().await;
    client.leads.lock().unwrap().leads = false;
    until(|| !client.is_connected("pod")).await;
    let (sent, asked) = (client.traffic.sent(), client.leads.lock().unwrap().asked);
    change(&client, |fleet| drop(fleet.desired.insert("team".to_owned(), desired("team", "late", "sk-0"))));
    until(|| client.leads.lock().unwrap().asked >= asked + 2).await;
    assert_eq!((client.traffic.sent(), server.gateway.caller().as_deref()), (sent, Some("coder")));
    client.leads.lock().unwrap().leads = true;
    until(|| client.is_connected("pod") && server.gateway.caller().as_deref() == Some("late")).await;
}

/// Who is no operator of the gateway's authority.
enum Stranger {
    /// Its certificate is of another authority.
    OtherAuthority,
    /// It is another gateway, of the same authority.
    OtherGateway,
    /// A certificate of the same authority with the operator's name, but for servers only.
    ServerNamedOperator,
    /// It shows no certificate.
    Nobody,
}

#[rstest]
#[case(Stranger::OtherAuthority)]
#[case(Stranger::OtherGateway)]
#[case(Stranger::ServerNamedOperator)]
#[case(Stranger::Nobody)]
#[tokio::test]
async fn a_gateway_lets_nobody_in_but_the_operator(#[case] stranger: Stranger) {
    let authority = authority();
    let trusted = authority.certified().certificate.clone();
    let server = Server::start(server_tls(&authority, "team")).await;
    let of_gateway = |name: &str| authority.issue(&Identity::Gateway { namespace: name.to_owned() }, Timestamp::now()).unwrap();
    let tls = match stranger {
        Stranger::OtherAuthority => {
            let other = Authority::make(Timestamp::now()).unwrap();
            client_configuration(&other.issue(&Identity::Operator, Timestamp::now()).unwrap(), &trusted).unwrap()
        }
        Stranger::OtherGateway => client_configuration(&of_gateway("other"), &trusted).unwrap(),
        Stranger::ServerNamedOperator => client_configuration(&server_only(&authority), &trusted).unwrap(),
        Stranger::Nobody => anonymous(&trusted),
    };
    let client = Client::start(1, fleet_of(server.pod("team"), desired("team", "coder", "sk-1"), tls));
    // Somebody else is let in meanwhile, long after the stranger has tried.
    let operator = Client::start(1, fleet_of(server.pod("team"), desired("team", "coder", "sk-1"), client_tls(&authority)));
    until(|| operator.traffic.received() >= 2).await;
    assert_eq!((client.traffic.sent(), client.traffic.received()), (0, 0));
    assert_eq!(refusal(server.address, stranger_tls(&client)).await.kind(), std::io::ErrorKind::InvalidData);
}

fn stranger_tls(client: &Client) -> Arc<ClientConfig> {
    Arc::clone(&client.fleet.borrow().tls)
}

/// What a stranger reads: with TLS 1.3 the alert comes after a handshake that looked well.
async fn refusal(address: SocketAddr, tls: Arc<ClientConfig>) -> std::io::Error {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("team.gateway.quartermaster.internal").unwrap();
    let mut stream = within(TlsConnector::from(tls).connect(name, stream)).await.unwrap();
    within(stream.read(&mut [0; 64])).await.unwrap_err()
}

fn anonymous(authority: &str) -> Arc<ClientConfig> {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// A certificate that the authority never issues.
fn server_only(authority: &Authority) -> Certified {
    use secrecy::ExposeSecret as _;
    let Certified { certificate, key } = authority.certified();
    let issuer = rcgen::KeyPair::from_pem(key.expose_secret()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(certificate, issuer).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![Identity::Operator.name()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    Certified { certificate: params.signed_by(&key, &issuer).unwrap().pem(), key: key.serialize_pem().into() }
}

#[rstest]
#[case::a_gateway_of_another_authority(false, "team")]
#[case::the_gateway_of_another_namespace(true, "other")]
#[tokio::test]
async fn the_operator_takes_nobody_for_a_gateway_but_that_of_the_namespace(#[case] same: bool, #[case] namespace: &str) {
    let authority = authority();
    let other = Authority::make(Timestamp::now()).unwrap();
    let imposter = Server::start(server_tls(if same { &authority } else { &other }, namespace)).await;
    let honest = Server::start(server_tls(&authority, "team")).await;
    let mut fleet = fleet_of(imposter.pod("team"), desired("team", "coder", "sk-1"), client_tls(&authority));
    fleet.pods.insert("honest".to_owned(), honest.pod("team"));
    let client = Client::start(1, fleet);
    until(|| client.is_connected("honest")).await;
    until(|| honest.gateway.reports() >= 3).await;
    assert_eq!(client.replica("pod"), None);
    assert_eq!((imposter.gateway.updates(), imposter.gateway.secret()), (0, None));
}

#[tokio::test]
async fn a_slow_handshake_holds_up_nobody_and_is_ended() {
    let authority = authority();
    let server = Server::start(server_tls(&authority, "team")).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // The beginning of a record of a handshake, and nothing more.
        stream.write_all(&[22, 3, 1]).await.unwrap();
        slow.push(stream);
    }
    let client = Client::start(1, fleet_of(server.pod("team"), desired("team", "coder", "sk-1"), client_tls(&authority)));
    until(|| client.is_connected("pod")).await;
    for mut stream in slow {
        // The end of the stream, or a reset.
        let read = within(stream.read(&mut [0; 64])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    assert!(client.is_connected("pod"));
}

#[tokio::test]
async fn a_renewed_certificate_is_used_from_the_next_connection_on() {
    let (authority, server, client) = pair().await;
    let renewed = authority.renewed(Timestamp::now()).unwrap();
    server.tls.send(server_tls(&renewed, "team")).unwrap();
    // The operator still trusts the old certificate of the authority; the key is the same.
    let (address, _breaks) = relay(server.address).await;
    change(&client, |fleet| fleet.pods.get_mut("pod").unwrap().address = address);
    let sent = client.traffic.sent();
    until(|| client.is_connected("pod") && client.traffic.sent() > sent).await;
    change(&client, |fleet| {
        fleet.tls = client_tls(&renewed);
        fleet.pods.get_mut("pod").unwrap().address = server.address;
    });
    let sent = client.traffic.sent();
    until(|| client.is_connected("pod") && client.traffic.sent() > sent).await;
}

#[tokio::test]
async fn the_last_report_of_a_gateway_that_leaves_is_acknowledged_before_it_ends() {
    let (_, server, client) = pair().await;
    server.gateway.drain();
    server.news.notify_one();
    until(|| client.replica("pod").is_some_and(|replica| replica.report.is_some_and(|report| report.draining))).await;
    // The last call in flight ends.
    server.gateway.used(42);
    server.finish.cancel();
    assert_eq!(within(server.task).await.unwrap(), End::Acknowledged);
    assert_eq!(client.tokens(), 42);
    until(|| !client.is_connected("pod")).await;
}

#[tokio::test]
async fn a_gateway_stays_until_its_last_call_is_settled_and_the_operator_knows_it() {
    let (_, server, client) = pair().await;
    server.gateway.calls(1);
    server.gateway.drain();
    server.finish.cancel();
    until(|| client.replica("pod").is_some_and(|replica| replica.report.is_some_and(|report| report.draining))).await;
    // Further reports are acknowledged, and none of them is the last.
    let reports = server.gateway.reports();
    until(|| server.gateway.reports() >= reports + 2).await;
    assert!(!server.task.is_finished());
    server.gateway.used(42);
    server.gateway.calls(0);
    server.news.notify_one();
    assert_eq!(within(server.task).await.unwrap(), End::Acknowledged);
    assert_eq!(client.tokens(), 42);
}

/// Where everything is known there is nothing to lose.
#[rstest]
#[case::unused(|_: &FakeGateway| {}, Duration::from_secs(5))]
#[case::used(|gateway: &FakeGateway| gateway.used(42), DEADLINE)]
#[case::spent(|gateway: &FakeGateway| gateway.spent(), DEADLINE)]
#[case::not_settled(|gateway: &FakeGateway| gateway.calls(1), DEADLINE)]
#[tokio::test(start_paused = true)]
async fn a_gateway_that_nobody_hears_ends_all_the_same(#[case] happens: fn(&FakeGateway), #[case] after: Duration) {
    let server = Server::start(server_tls(&authority(), "team")).await;
    happens(&server.gateway);
    let finished = Instant::now();
    server.finish.cancel();
    assert_eq!(server.task.await.unwrap(), End::NotAcknowledged);
    assert_eq!(finished.elapsed().as_secs(), after.as_secs());
}

#[tokio::test]
async fn a_gateway_that_leaves_while_nobody_leads_tells_the_next_leader_what_was_used() {
    let authority = authority();
    let server = Server::start(server_tls(&authority, "team")).await;
    server.gateway.used(42);
    server.gateway.drain();
    server.finish.cancel();
    let client = Client::start(1, fleet_of(server.pod("team"), desired("team", "coder", "sk-1"), client_tls(&authority)));
    assert_eq!(within(server.task).await.unwrap(), End::Acknowledged);
    assert_eq!(client.tokens(), 42);
}

#[tokio::test]
async fn an_operator_that_ends_closes_its_connections_first() {
    let (_, server, client) = pair().await;
    client.cancelled.cancel();
    within(client.task).await.unwrap();
    let (sent, reports) = (client.traffic.sent(), server.gateway.reports());
    let next = Client::start(1, Fleet::clone(&client.fleet.borrow()));
    until(|| next.is_connected("pod")).await;
    assert_eq!(client.traffic.sent(), sent);
    assert!(server.gateway.reports() > reports);
}

#[tokio::test]
async fn fifty_replicas_and_one_operator_say_one_thing_a_second_each() {
    let authority = authority();
    let (tls, wanted) = (server_tls(&authority, "team"), desired("team", "coder", "sk-1"));
    let mut servers = Vec::new();
    for _ in 0..50 {
        servers.push(Server::start(Arc::clone(&tls)).await);
    }
    let pods = servers.iter().enumerate().map(|(number, server)| (format!("pod-{number}"), server.pod("team")));
    let fleet = Fleet { tls: client_tls(&authority), desired: BTreeMap::from([("team".to_owned(), wanted)]), pods: pods.collect() };
    let began = Instant::now();
    let client = Client::start(1, fleet);
    // Each has heard something four times: at the beginning, and at least two heartbeats.
    until(|| servers.iter().all(|server| server.gateway.reports() >= 4)).await;
    let (sent, received) = (client.traffic.sent(), client.traffic.received());
    let seconds = began.elapsed().as_secs();
    // One at the beginning and then one a second; a replica answers what was put in force by one more.
    assert!(sent <= 50 * (seconds + 1), "{sent} in {seconds} s");
    assert!(received <= 50 * (seconds + 2), "{received} in {seconds} s");
    assert!(sent >= 50 * 2 && received >= 50 * 3, "{sent} and {received}");
    assert_eq!(servers.iter().map(|server| server.gateway.updates()).collect::<Vec<_>>(), [1; 50]);
    // A burst of settlements is one report.
    let before = client.traffic.received();
    for _ in 0..1000 {
        servers[0].gateway.used(1);
        servers[0].news.notify_one();
    }
    until(|| client.tokens() == 1000).await;
    let more = client.traffic.received() - before;
    let seconds = began.elapsed().as_secs() - seconds;
    assert!(more <= 50 * (seconds + 2) + 10 * (seconds + 1), "{more} in {seconds} s");
}

/// A connection to the gateway of the namespace `team`, on which nothing was said.
async fn connect(authority: &Authority, address: SocketAddr) -> WebSocketStream<TlsStream<TcpStream>> {
    let name = "team.gateway.quartermaster.internal";
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = TlsConnector::from(client_tls(authority)).connect(ServerName::try_from(name).unwrap(), stream).await.unwrap();
    client_async(format!("wss://{name}/exchange"), stream).await.unwrap().0
}

#[tokio::test]
async fn what_an_operator_says_of_accounts_is_taken_and_acknowledged_before_the_next_heartbeat() {
    let authority = authority();
    let server = Server::start(server_tls(&authority, "team")).await;
    let mut socket = connect(&authority, server.address).await;
    let told = Told { all: true, ..Told::default() };
    let (began, mut acknowledged) = (Instant::now(), 0);
    for seq in 1..=10 {
        let message = OperatorMessage { term: 1, seq, valid_for: 30, accounts: told.clone(), ..OperatorMessage::default() };
        socket.send(Message::text(serde_json::to_string(&message).unwrap())).await.unwrap();
        while acknowledged < seq {
            let Some(Ok(Message::Text(text))) = within(socket.next()).await else { panic!("no report") };
            let report: GatewayMessage = serde_json::from_str(text.as_str()).unwrap();
            acknowledged = report.acknowledged;
        }
    }
    assert!(began.elapsed() < HEARTBEAT * 5, "each has waited for a heartbeat: {:?}", began.elapsed());
    assert_eq!(server.gateway.told(), vec![told; 10]);
}

#[tokio::test]
async fn what_is_no_message_of_the_exchange_ends_the_connection_and_repeats_nothing() {
    let authority = authority();
    let server = Server::start(server_tls(&authority, "team")).await;
    let mut socket = connect(&authority, server.address).await;
    socket.send(Message::text(r#"{"documents":{"secrets":"sk-canary"#)).await.unwrap();
    let Some(Ok(Message::Close(Some(frame)))) = within(socket.next()).await else { panic!("no close frame") };
    assert_eq!(u16::from(frame.code), 1007);
    assert!(!frame.reason.as_str().contains("canary"), "{}", frame.reason);
    // The next connection is served.
    let client = Client::start(1, fleet_of(server.pod("team"), desired("team", "coder", "sk-1"), client_tls(&authority)));
    until(|| client.is_connected("pod")).await;
}
