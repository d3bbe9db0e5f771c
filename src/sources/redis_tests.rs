use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quartermaster_core::decide::pool::facts::{FailureCause, Missing};
use quartermaster_core::decide::pool::list_backlog::processing_keys;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::sources::connect::Connector;
use crate::sources::queue::Credential;
use crate::sources::redis_testing::*;
use crate::sources::testing::*;
use crate::sources::tls::TlsSettings;

/// A scenario of scaling.md 4.1: what is done to the stream `{s}`, and the truth afterwards.
struct Scenario {
    name: &'static str,
    commands: Vec<String>,
    waiting: u64,
    in_flight: u64,
}

fn scenario(name: &'static str, steps: &[&str], waiting: u64, in_flight: u64) -> Scenario {
    let commands = steps.iter().flat_map(|step| commands(step, name)).collect();
    Scenario { name, commands, waiting, in_flight }
}

/// A step as commands: `add 1 10`, `read c 5`, `ack 1 5`, `del 1 5`, or a command with `{s}` for the stream.
fn commands(step: &str, stream: &str) -> Vec<String> {
    let words: Vec<&str> = step.split_whitespace().collect();
    let span = || words[1].parse::<u32>().unwrap()..=words[2].parse::<u32>().unwrap();
    match words[0] {
        "add" => span().map(|id| format!("XADD {stream} {id}-0 task {id}")).collect(),
        "read" => vec![format!("XREADGROUP GROUP g {} COUNT {} STREAMS {stream} >", words[1], words[2])],
        "ack" => span().map(|id| format!("XACK {stream} g {id}-0")).collect(),
        "del" => span().map(|id| format!("XDEL {stream} {id}-0")).collect(),
        _ => vec![step.replace("{s}", stream)],
    }
}

fn scenarios() -> Vec<Scenario> {
    let group = "XGROUP CREATE {s} g 0";
    vec![
        scenario("added-read-acked", &["add 1 10", group, "read c 10", "ack 1 10"], 0, 0),
        scenario("added-never-read", &["add 1 10", group], 10, 0),
        scenario("half-in-flight", &["add 1 10", group, "read c 5"], 5, 5),
        scenario("group-at-end", &["add 1 5", "XGROUP CREATE {s} g $", "add 6 6"], 1, 0),
        scenario("group-at-end-of-new-key", &["XGROUP CREATE {s} g $ MKSTREAM", "add 1 1"], 1, 0),
        scenario("group-in-the-middle", &["add 1 10", "XGROUP CREATE {s} g 5-0"], 5, 0),
        scenario("undelivered-deleted", &["add 1 10", group, "read c 5", "ack 1 5", "del 7 7"], 4, 0),
        scenario("acked-deleted", &["add 1 10", group, "read c 5", "ack 1 5", "del 1 5"], 5, 0),
        scenario("trimmed-before-read", &["add 1 10", group, "XTRIM {s} MAXLEN 4"], 4, 0),
        scenario("trimmed-into-undelivered", &["add 1 10", group, "read c 3", "ack 1 3", "XTRIM {s} MAXLEN 4"], 4, 0),
        scenario("lag-heals", &["add 1 5", "XGROUP CREATE {s} g $", "add 6 6", "read c 10"], 0, 1),
        scenario("consumer-deleted", &["add 1 4", group, "read c 3", "XGROUP DELCONSUMER {s} g c"], 1, 0),
        scenario("trimmed-behind-group", &["add 1 4", group, "read c 1", "XTRIM {s} MAXLEN 1", "read c 10"], 0, 2),
        scenario("trimmed-behind-then-added", &["add 1 4", group, "read c 1", "XTRIM {s} MAXLEN 1", "read c 10", "add 5 6"], 2, 2),
        scenario("missing-key", &[], 0, 0),
        scenario("missing-group", &["add 1 3"], 3, 0),
        scenario("two-consumers", &["add 1 10", group, "read a 2", "read b 3"], 5, 5),
        scenario(
            "another-group-has-read",
            &["add 1 6", group, "XGROUP CREATE {s} h 0", "XREADGROUP GROUP h c COUNT 6 STREAMS {s} >"],
            6,
            0,
        ),
        scenario("group-set-back", &["add 1 10", group, "read c 10", "ack 1 10", "XGROUP SETID {s} g 3-0"], 7, 0),
        scenario(
            "capped-and-acked",
            &["add 1 10", group, "read c 10", "ack 1 10", "XADD {s} MAXLEN 5 11-0 a b", "read c 1", "ack 11 11"],
            0,
            0,
        ),
        scenario("group-ahead-of-stream", &["add 1 3", "XGROUP CREATE {s} g 99-0"], 0, 0),
        scenario("last-possible-id", &["add 1 3", "XGROUP CREATE {s} g 18446744073709551615-18446744073709551615"], 0, 0),
        scenario("claimed-by-another", &["add 1 4", group, "read a 3", "XCLAIM {s} g b 0 1-0"], 1, 3),
    ]
}

fn session(endpoint: Endpoint) -> Redis {
    Redis::new(connector(), endpoint)
}

async fn one(session: &mut Redis, question: Question) -> Outcome {
    within(session.poll(&[question])).await.pop().unwrap()
}

fn cause(outcome: &Outcome) -> FailureCause {
    outcome.as_ref().unwrap_err().cause()
}

#[tokio::test]
async fn every_measured_scenario_gives_the_true_backlog_and_the_second_poll_costs_one_round_trip() {
    let server = RedisServer::start(&[]).await;
    let mut admin = server.admin().await;
    let scenarios = scenarios();
    for scenario in &scenarios {
        for command in &scenario.commands {
            admin.run(command).await;
        }
    }
    let questions: Vec<Question> = scenarios.iter().map(|scenario| ask_stream(scenario.name)).collect();
    let mut session = session(server.endpoint());
    for poll in 1..=3 {
        let before = admin.reads().await;
        let outcomes = within(session.poll(&questions)).await;
        let round_trips = admin.reads().await - before - 1;
        for (scenario, outcome) in scenarios.iter().zip(&outcomes) {
            let reading = outcome.as_ref().unwrap_or_else(|error| panic!("{}: {error}", scenario.name));
            assert_eq!((reading.waiting, reading.in_flight), (scenario.waiting, Some(scenario.in_flight)), "{}", scenario.name);
            let of_consumers: u64 = reading.consumers.as_ref().unwrap().values().sum();
            assert_eq!(of_consumers, scenario.in_flight, "{}", scenario.name);
            let missing = match scenario.name {
                "missing-key" => Some(Missing::Stream),
                "missing-group" => Some(Missing::Group),
                _ => None,
            };
            assert_eq!(reading.missing, missing, "{}", scenario.name);
        }
        if poll > 1 {
            assert_eq!(round_trips, 1, "nothing has changed since the last poll");
        }
    }
    assert_eq!(admin.connections().await, 1);
}

#[tokio::test]
async fn consumers_and_the_oldest_task_are_told() {
    let server = RedisServer::start(&[]).await;
    let mut admin = server.admin().await;
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap();
    for seconds in [90, 60, 30] {
        admin.run(&format!("XADD s {}-0 a b", now - seconds * 1000)).await;
    }
    admin.run_all(&["XGROUP CREATE s g 0", "XREADGROUP GROUP g pod-a COUNT 1 STREAMS s >"]).await;
    let mut session = session(server.endpoint());
    let reading = one(&mut session, ask_stream("s")).await.unwrap();
    assert_eq!((reading.waiting, reading.in_flight), (2, Some(1)));
    assert_eq!(reading.consumers.unwrap(), BTreeMap::from([("pod-a".to_owned(), 1)]));
    assert!((90..100).contains(&reading.oldest.unwrap().as_secs()), "the one in flight is the oldest");
    admin.run(&format!("XACK s g {}-0", now - 90_000)).await;
    let reading = one(&mut session, ask_stream("s")).await.unwrap();
    assert!((60..70).contains(&reading.oldest.unwrap().as_secs()));
    assert_eq!(reading.consumers.unwrap(), BTreeMap::new());
}

#[tokio::test]
async fn a_busy_stream_is_counted_exactly_from_poll_to_poll() {
    let server = RedisServer::start(&[]).await;
    let mut admin = server.admin().await;
    admin.run("XGROUP CREATE s g $ MKSTREAM").await;
    let mut session = session(server.endpoint());
    let (mut added, mut read) = (0_u64, 0_u64);
    for round in 0..12_u64 {
        for _ in 0..(round * 7) % 23 {
            admin.run("XADD s * task x").await;
            added += 1;
        }
        let take = ((round * 5) % 17).min(added - read);
        if take > 0 {
            admin.run(&format!("XREADGROUP GROUP g c COUNT {take} STREAMS s >")).await;
            read += take;
        }
        let reading = one(&mut session, ask_stream("s")).await.unwrap();
        assert_eq!((reading.waiting, reading.in_flight), (added - read, Some(read)), "round {round}");
    }
}

#[tokio::test]
async fn large_entries_are_not_carried_again_and_again() {
    let server = RedisServer::start(&[]).await;
    let mut admin = server.admin().await;
    let body = "x".repeat(100_000);
    for _ in 0..300 {
        admin.run(&format!("XADD s * task {body}")).await;
    }
    admin.run("XGROUP CREATE s g 0").await;
    let sent = |stats: String| -> u64 {
        stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).unwrap().trim().parse().unwrap()
    };
    let mut session = session(server.endpoint());
    let before = sent(admin.text("INFO stats").await);
    for _ in 0..5 {
        let reading = one(&mut session, ask_stream("s")).await.unwrap();
        assert_eq!(reading.waiting, 300);
    }
    let carried = sent(admin.text("INFO stats").await) - before;
    assert!(carried < 5 * 7 * 100_000, "{carried} bytes");
}

#[tokio::test]
async fn lists_are_counted_with_what_agents_hold() {
    let server = RedisServer::start(&[]).await;
    let mut admin = server.admin().await;
    admin.run_all(&["RPUSH tasks a b c", "RPUSH more d", "RPUSH taken:pod-1 e f"]).await;
    let patterns = ["taken:$(POD_NAME)".to_owned()];
    let pods = ["pod-1".to_owned(), "pod-2".to_owned()];
    let queue = Queue::RedisList {
        keys: vec!["tasks".to_owned(), "more".to_owned(), "missing".to_owned()],
        processing: Some(processing_keys(&patterns, &pods)),
    };
    let mut session = session(server.endpoint());
    let questions = [Question { queue, cap: 10 }, Question { queue: list(&["tasks"]), cap: 10 }];
    let outcomes = within(session.poll(&questions)).await;
    let reading = outcomes[0].as_ref().unwrap();
    assert_eq!((reading.waiting, reading.in_flight), (4, Some(2)));
    assert_eq!(reading.consumers, Some(BTreeMap::from([("pod-1".to_owned(), 2)])));
    let plain = outcomes[1].as_ref().unwrap();
    assert_eq!((plain.waiting, plain.in_flight, &plain.consumers, plain.oldest), (3, None, &None, None));
}

/// The account that the documentation asks for, and one command more than it has.
const SMALL_ACCOUNT: &str = "user reader on >hunter2 resetkeys ~tasks* -@all +xinfo +xlen +xrange +xpending +llen +type";

#[tokio::test]
async fn an_account_with_nothing_but_the_commands_of_queues_is_enough() {
    let server = RedisServer::start(&[SMALL_ACCOUNT]).await;
    let mut admin = server.admin().await;
    admin.run_all(&["XADD tasks:s 1-0 a b", "XGROUP CREATE tasks:s g 0", "RPUSH tasks:l a", "XADD other 1-0 a b"]).await;
    let mut session = session(server.endpoint_as(Some("reader"), Some("hunter2\n")));
    let questions = [ask_stream("tasks:s"), Question { queue: list(&["tasks:l"]), cap: 1 }, ask_stream("other")];
    let outcomes = within(session.poll(&questions)).await;
    assert_eq!(outcomes[0].as_ref().unwrap().waiting, 1);
    assert_eq!(outcomes[1].as_ref().unwrap().waiting, 1);
    assert_eq!(cause(&outcomes[2]), FailureCause::Forbidden, "keys of others: {:?}", outcomes[2]);
    let refused = format!("{:?}", admin.run("ACL LOG").await);
    assert!(refused.contains("key") && !refused.contains("command"), "no other command was tried: {refused}");
}

#[tokio::test]
async fn each_right_that_is_lacking_costs_only_what_it_tells() {
    let without = |command: &str| SMALL_ACCOUNT.replace(&format!(" +{command}"), "");
    for (command, wanted) in [
        ("xinfo", Err(FailureCause::Forbidden)),
        ("xrange", Err(FailureCause::Forbidden)),
        ("xlen", Ok(true)),
        ("xpending", Ok(false)),
        ("type", Ok(true)),
    ] {
        let server = RedisServer::start(&[&without(command)]).await;
        let mut admin = server.admin().await;
        admin.run_all(&["XADD tasks 1-0 a b", "XADD tasks 2-0 a b", "XGROUP CREATE tasks g 0"]).await;
        admin.run("XREADGROUP GROUP g pod COUNT 1 STREAMS tasks >").await;
        let mut session = session(server.endpoint_as(Some("reader"), Some("hunter2")));
        let outcome = one(&mut session, ask_stream("tasks")).await;
        match (&outcome, wanted) {
            (Ok(reading), Ok(consumers)) => {
                assert_eq!((reading.waiting, reading.in_flight), (1, Some(1)), "{command}");
                assert_eq!(reading.consumers.is_some(), consumers, "{command}");
            }
            (Err(error), Err(cause)) => {
                assert_eq!(error.cause(), cause, "{command}");
                assert!(error.to_string().contains("+xinfo +xlen +xrange +xpending"), "{error}");
            }
            _ => panic!("{command}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_password_is_needed_and_never_repeated() {
    let server = RedisServer::start(&["requirepass hunter2"]).await;
    let right = one(&mut session(server.endpoint_as(None, Some(" hunter2\n"))), ask_stream("s")).await;
    assert_eq!(right.unwrap().waiting, 0);
    for (username, password) in [(None, Some("hunter3")), (Some("nobody"), Some("hunter2")), (None, None), (Some("default"), None)]
    {
        let outcome = one(&mut session(server.endpoint_as(username, password)), ask_stream("s")).await;
        assert_eq!(cause(&outcome), FailureCause::Unauthorized, "{username:?} {outcome:?}");
        let words = format!("{} {outcome:?}", outcome.as_ref().unwrap_err());
        assert!(!words.contains("hunter"), "{words}");
    }
    let open = RedisServer::start(&[]).await;
    let outcome = one(&mut session(open.endpoint_as(None, Some("hunter2"))), ask_stream("s")).await;
    assert_eq!(cause(&outcome), FailureCause::Unauthorized);
    assert!(outcome.unwrap_err().to_string().contains("has no password"));
}

#[tokio::test]
async fn a_server_that_repeats_what_it_was_sent_does_not_make_us_say_it() {
    let address = serve_raw(|mut stream| async move {
        let mut bytes = vec![0; 4096];
        let length = stream.read(&mut bytes).await?;
        let sent = String::from_utf8_lossy(&bytes[..length]).replace("\r\n", " ");
        stream.write_all(format!("-ERR unknown command `AUTH`, with args beginning with: {sent}\r\n").as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
    let endpoint = Endpoint {
        namespace: "team".to_owned(),
        url: format!("redis://{address}"),
        credential: Credential { username: None, password: Some("hunter2".into()) },
        tls: TlsSettings::default(),
    };
    let outcome = one(&mut session(endpoint), ask_stream("s")).await;
    assert_eq!(cause(&outcome), FailureCause::Unauthorized);
    assert!(!format!("{} {outcome:?}", outcome.as_ref().unwrap_err()).contains("hunter2"));
}

#[tokio::test]
async fn tls_is_agreed_on_with_the_authority_of_the_secret_and_no_other() {
    let (issuer, pem) = authority();
    let (_other, other_pem) = authority();
    let server = RedisServer::start_with_tls(&issuer).await;
    server.admin().await.run("RPUSH tasks a").await;
    let url = format!("rediss://127.0.0.1:{}", server.tls_port());
    let with = |authority: Option<Arc<[u8]>>, skip_verification| Endpoint {
        url: url.clone(),
        tls: TlsSettings { authority, skip_verification },
        ..server.endpoint()
    };
    let question = || Question { queue: list(&["tasks"]), cap: 1 };
    assert_eq!(one(&mut session(with(Some(pem.clone()), false)), question()).await.unwrap().waiting, 1);
    assert_eq!(one(&mut session(with(None, true)), question()).await.unwrap().waiting, 1);
    assert_eq!(cause(&one(&mut session(with(Some(other_pem), false)), question()).await), FailureCause::Tls);
    assert_eq!(cause(&one(&mut session(with(None, false)), question()).await), FailureCause::Tls, "the system trusts others");
    let no_pem: Arc<[u8]> = Arc::from(b"nonsense".as_slice());
    assert_eq!(cause(&one(&mut session(with(Some(no_pem), false)), question()).await), FailureCause::Secret);
    let named = Endpoint { url: format!("rediss://localhost:{}", server.tls_port()), ..with(Some(pem.clone()), false) };
    assert_eq!(cause(&one(&mut session(named), question()).await), FailureCause::Tls, "the certificate is of another name");
    let plain = Endpoint { url: format!("rediss://127.0.0.1:{}", server.port()), ..with(Some(pem), false) };
    let outcome = one(&mut session(plain), question()).await;
    assert!(matches!(cause(&outcome), FailureCause::Tls | FailureCause::Unreachable), "{outcome:?}");
}

#[tokio::test]
async fn the_database_is_the_one_of_the_url() {
    let server = RedisServer::start(&[]).await;
    let mut admin = server.admin().await;
    admin.run_all(&["SELECT 3", "RPUSH tasks a b"]).await;
    let at = |database: &str| Endpoint { url: format!("redis://127.0.0.1:{}/{database}", server.port()), ..server.endpoint() };
    let question = || Question { queue: list(&["tasks"]), cap: 1 };
    assert_eq!(one(&mut session(at("3")), question()).await.unwrap().waiting, 2);
    assert_eq!(one(&mut session(at("")), question()).await.unwrap().waiting, 0);
    let outcome = one(&mut session(at("99")), question()).await;
    assert_eq!(cause(&outcome), FailureCause::WrongType);
    assert!(outcome.unwrap_err().to_string().contains("no such database"));
}

#[tokio::test]
async fn a_key_of_another_type_spoils_no_other_queue() {
    let server = RedisServer::start(&[]).await;
    let mut admin = server.admin().await;
    admin.run_all(&["SET text x", "RPUSH list a", "XADD stream 1-0 a b", "XGROUP CREATE stream g 0"]).await;
    let of_list = |key| Question { queue: list(&[key]), cap: 1 };
    let questions =
        [ask_stream("text"), of_list("text"), ask_stream("list"), of_list("list"), of_list("stream"), ask_stream("stream")];
    let mut session = session(server.endpoint());
    for _ in 0..2 {
        let outcomes = within(session.poll(&questions)).await;
        for wrong in [0, 1, 2, 4] {
            assert_eq!(cause(&outcomes[wrong]), FailureCause::WrongType, "{wrong}: {:?}", outcomes[wrong]);
        }
        assert_eq!((outcomes[3].as_ref().unwrap().waiting, outcomes[5].as_ref().unwrap().waiting), (1, 1));
    }
    assert_eq!(admin.connections().await, 1, "the connection is kept");
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_made_anew_without_a_failure() {
    let mut server = RedisServer::start(&[]).await;
    let mut session = session(server.endpoint());
    one(&mut session, ask_stream("s")).await.unwrap();
    server.admin().await.run("CLIENT KILL TYPE normal SKIPME yes").await;
    one(&mut session, ask_stream("s")).await.unwrap();
    server.kill();
    server.restart().await.unwrap();
    one(&mut session, ask_stream("s")).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_gone_is_unreachable_is_left_alone_and_is_read_again_when_it_is_back() {
    let mut server = RedisServer::start(&[]).await;
    let mut session = session(server.endpoint());
    one(&mut session, ask_stream("s")).await.unwrap();
    server.kill();
    let outcome = one(&mut session, ask_stream("s")).await;
    assert_eq!(cause(&outcome), FailureCause::Unreachable, "{outcome:?}");
    let first = session.away_until().unwrap();
    assert_eq!(cause(&one(&mut session, ask_stream("s")).await), FailureCause::Unreachable);
    assert_eq!(session.away_until().unwrap(), first, "it was not tried");
    server.restart().await.unwrap();
    within(async {
        loop {
            tokio::time::sleep_until(session.away_until().unwrap_or_else(Instant::now)).await;
            if one(&mut session, ask_stream("s")).await.is_ok() {
                break;
            }
        }
    })
    .await;
    assert!(session.away_until().is_none());
}

#[tokio::test]
async fn a_server_that_accepts_and_is_silent_is_given_up_in_time() {
    let address = serve_silence().await;
    let endpoint = Endpoint {
        namespace: "team".to_owned(),
        url: format!("redis://{address}"),
        credential: Credential::default(),
        tls: TlsSettings::default(),
    };
    let started = Instant::now();
    let outcome = one(&mut session(endpoint), ask_stream("s")).await;
    assert_eq!(cause(&outcome), FailureCause::Unreachable);
    assert!(matches!(outcome, Err(QueueError::WaitForAnswer(_))), "{outcome:?}");
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn answers_that_are_no_answers_are_failures_and_bounded() {
    for (bytes, wanted) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), FailureCause::Unreachable),
        (b"*3\r\n:1\r\n".to_vec(), FailureCause::Unreachable),
        (b"+OK\r\n+OK\r\n+OK\r\n".to_vec(), FailureCause::WrongType),
        (b"*-1\r\n:7\r\n*0\r\n".to_vec(), FailureCause::WrongType),
        (b"-MOVED 3999 127.0.0.1:1\r\n".repeat(3), FailureCause::WrongType),
        (b"-LOADING Redis is loading the dataset in memory\r\n".repeat(3), FailureCause::Unreachable),
        (b"-ERR max number of clients reached\r\n".to_vec(), FailureCause::Unreachable),
        (b"*4294967296\r\n".repeat(20), FailureCause::Unreachable),
    ] {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let address = serve_bytes(bytes).await;
        let endpoint = Endpoint {
            namespace: "team".to_owned(),
            url: format!("redis://{address}"),
            credential: Credential::default(),
            tls: TlsSettings::default(),
        };
        let outcome = one(&mut session(endpoint), ask_stream("s")).await;
        assert_eq!(cause(&outcome), wanted, "{shown}: {outcome:?}");
    }
    let endless = serve_drops("$1000000000\r\n", "x".repeat(64 * 1024), Duration::ZERO).await;
    let endpoint = Endpoint {
        namespace: "team".to_owned(),
        url: format!("redis://{endless}"),
        credential: Credential::default(),
        tls: TlsSettings::default(),
    };
    let outcome = one(&mut session(endpoint), ask_stream("s")).await;
    assert!(matches!(outcome, Err(QueueError::LimitAnswer { .. })), "{outcome:?}");
}

#[tokio::test]
async fn forbidden_addresses_are_refused_in_every_spelling_without_a_connection() {
    let hits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hits);
    let address = serve_raw(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    })
    .await;
    let names = Names::new(&[("evil.example.com.", &["127.0.0.1"]), ("mixed.example.com.", &["192.0.2.1", "127.0.0.1"])]);
    let connector: Arc<Connector> = Arc::new(names.connector(strict()));
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "evil.example.com",
        "mixed.example.com",
        "redis.other.svc",
        "kubernetes.default.svc",
        "169.254.169.254",
        "metadata.google.internal",
    ] {
        for scheme in ["redis", "rediss"] {
            let endpoint = Endpoint {
                namespace: "team".to_owned(),
                url: format!("{scheme}://{host}:{}", address.port()),
                credential: Credential::default(),
                tls: TlsSettings::default(),
            };
            let outcome = one(&mut Redis::new(Arc::clone(&connector), endpoint), ask_stream("s")).await;
            assert_eq!(cause(&outcome), FailureCause::NotAllowed, "{host}: {outcome:?}");
        }
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_short_name_is_a_service_of_the_pools_namespace() {
    let server = RedisServer::start(&[]).await;
    let names = Names::new(&[("redis.team.svc", &["127.0.0.1"])]);
    let endpoint = Endpoint { url: format!("redis://redis:{}", server.port()), ..server.endpoint() };
    let mut session = Redis::new(Arc::new(names.connector(loopback())), endpoint);
    one(&mut session, ask_stream("s")).await.unwrap();
    assert_eq!(names.asked(), ["redis.team.svc"]);
}

#[tokio::test]
async fn the_same_queue_is_read_once_however_often_it_is_asked_for() {
    let server = RedisServer::start(&[]).await;
    let mut admin = server.admin().await;
    admin.run_all(&["XADD s 1-0 a b", "XGROUP CREATE s g 0"]).await;
    let questions = vec![ask_stream("s"); 50];
    let outcomes = within(session(server.endpoint()).poll(&questions)).await;
    assert!(outcomes.len() == 50 && outcomes.iter().all(|outcome| outcome.as_ref().unwrap().waiting == 1));
    assert_eq!(admin.calls("xinfo|groups").await, 1);
}
