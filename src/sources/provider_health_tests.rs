use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{HeaderMap as AxumHeaders, StatusCode};
use axum::response::{IntoResponse, Redirect};
use quartermaster_core::api::external::HealthCheckType;
use quartermaster_core::decide::backend::destination::Rules;
use rstest::rstest;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::sources::testing::*;

const MODELS: &str = r#"{"object": "list", "data": [{"id": "other"}, {"id": "m"}]}"#;

fn plan(base_url: String) -> CheckPlan {
    CheckPlan {
        namespace: "team".into(),
        provider: Provider::OpenAICompatible,
        model: "m".into(),
        base_url,
        keys: vec![],
        headers: vec![],
        authority: None,
        settings: CheckSettings {
            type_: HealthCheckType::ModelLoaded,
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(10),
            failure_threshold: 3,
        },
    }
}

fn at(address: SocketAddr) -> CheckPlan {
    plan(format!("http://{address}"))
}

fn with_timeout(plan: CheckPlan, timeout: Duration) -> CheckPlan {
    CheckPlan { settings: CheckSettings { timeout, ..plan.settings.clone() }, ..plan }
}

fn once_an_hour(plan: CheckPlan) -> CheckPlan {
    CheckPlan { settings: CheckSettings { interval: Duration::from_secs(3600), ..plan.settings.clone() }, ..plan }
}

fn key(name: &str, value: &str) -> KeyToCheck {
    KeyToCheck { name: name.into(), value: value.into() }
}

fn health_under(connector: Connector) -> (Health, UnboundedReceiver<BackendRef>) {
    let (wake, woken) = unbounded_channel();
    (Health::new(Arc::new(connector), wake), woken)
}

fn health() -> (Health, UnboundedReceiver<BackendRef>) {
    health_under(Connector::new(loopback(), None))
}

async fn first_outcome(health: &Health, wakes: &mut UnboundedReceiver<BackendRef>, plan: CheckPlan) -> CheckOutcome {
    let backend = backend("a");
    health.ensure(&backend, once_an_hour(plan));
    assert_eq!(woken(wakes).await, backend);
    health.facts(&backend).unwrap().keys[0].outcome.clone().unwrap()
}

fn kind(outcome: &CheckOutcome) -> String {
    serde_json::to_value(outcome).unwrap()["outcome"].as_str().unwrap().to_owned()
}

#[rstest]
#[case(200, MODELS, "healthy")]
#[case(200, r#"{"data": []}"#, "modelNotListed")]
#[case(200, "<html>", "failed")]
#[case(401, "", "unauthorized")]
#[case(403, "", "unauthorized")]
#[case(404, "", "failed")]
#[case(429, "", "rateLimited")]
#[case(500, "", "failed")]
#[case(503, "", "failed")]
#[tokio::test]
async fn an_answer_becomes_an_outcome(#[case] status: u16, #[case] body: &'static str, #[case] expected: &str) {
    let address = serve(Router::new().fallback(move || async move { (StatusCode::from_u16(status).unwrap(), body) })).await;
    let (health, mut wakes) = health();
    assert_eq!(kind(&first_outcome(&health, &mut wakes, at(address)).await), expected);
}

#[tokio::test]
async fn servers_that_do_not_answer_are_unreachable() {
    let (silent, pause) = (serve_silence().await, Duration::from_millis(5));
    let drops = serve_drops("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", "x", pause).await;
    let garbage = serve_bytes(b"\0\0\0\0no http\r\n\r\n".to_vec()).await;
    for address in [silent, drops, garbage, "127.0.0.1:1".parse().unwrap()] {
        let (health, mut wakes) = health();
        let plan = with_timeout(at(address), Duration::from_millis(200));
        let outcome = first_outcome(&health, &mut wakes, plan).await;
        assert!(matches!(&outcome, CheckOutcome::Unreachable { message } if !message.is_empty()), "{outcome:?}");
    }
}

#[tokio::test]
async fn answers_that_swell_are_failures_and_end() {
    let endless = serve_drops("HTTP/1.1 200 OK\r\n\r\n", MODELS.repeat(1000), Duration::ZERO).await;
    // A small gzip stream that would unpack to a long list is read as the bytes that it is.
    let bomb = [vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3], vec![0; 1024]].concat();
    let router = Router::new().fallback(move || async move { ([("content-encoding", "gzip")], bomb) });
    for (address, words) in [(endless, "too long"), (serve(router).await, "no list of models")] {
        let (health, mut wakes) = health();
        let outcome = first_outcome(&health, &mut wakes, at(address)).await;
        assert!(matches!(&outcome, CheckOutcome::Failed { message } if message.contains(words)), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_takes_no_key_anywhere() {
    let hits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hits);
    let other = serve(Router::new().fallback(move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        MODELS
    }))
    .await;
    for target in [format!("http://{other}/v1/models"), "http://169.254.169.254/".to_owned()] {
        let address = serve(Router::new().fallback(move || async move { Redirect::temporary(&target) })).await;
        let (health, mut wakes) = health();
        let plan = CheckPlan { keys: vec![key("first", "sk-1")], ..at(address) };
        let outcome = first_outcome(&health, &mut wakes, plan).await;
        assert!(matches!(&outcome, CheckOutcome::Failed { message } if message.contains("redirect")), "{outcome:?}");
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn forbidden_destinations_are_not_allowed_and_say_why() {
    let names = Names::new(&[("evil.example.com.", &["127.0.0.1"])]);
    for (base, words) in [
        ("http://169.254.169.254/latest", "169.254.169.254 is a metadata service's address"),
        ("http://127.0.0.1:8080", "127.0.0.1 is a loopback address"),
        ("http://evil.example.com", "refuse `evil.example.com`: 127.0.0.1 is a loopback address"),
        ("https://kubernetes.default.svc", "the name belongs to the API server"),
        ("https://registry.default.svc", "Services of namespace `default` may not be named from `team`"),
        ("http://user:sk-1@api.example.com", "credentials"),
        ("http://[", "no URL"),
    ] {
        let (health, mut wakes) = health_under(names.connector(strict()));
        let outcome = first_outcome(&health, &mut wakes, plan(base.into())).await;
        assert!(matches!(&outcome, CheckOutcome::NotAllowed { message } if message.contains(words)), "{base}: {outcome:?}");
        assert!(!format!("{outcome:?}").contains("sk-1"));
    }
}

#[tokio::test]
async fn a_check_that_has_to_wait_until_it_is_known_where_the_api_server_is_forbids_nothing() {
    let (health, mut wakes) = health_under(Connector::new(Rules::default(), None));
    let outcome = first_outcome(&health, &mut wakes, plan("http://192.0.2.7/v1".into())).await;
    assert!(matches!(&outcome, CheckOutcome::Unreachable { message } if message.contains("is not called yet")), "{outcome:?}");
}

#[tokio::test]
async fn certificates_are_verified_against_the_private_authority() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 23\r\nconnection: close\r\n\r\n{\"data\": [{\"id\": \"m\"}]}";
    let (issuer, pem) = authority();
    let base = format!("https://{}", serve_tls(&issuer, answer).await);
    let broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    for (authority, expected) in [
        (None, "tls"),
        (Some(pem), "healthy"),
        (Some(b"no PEM".as_slice().into()), "invalidAuthority"),
        (Some(broken.as_bytes().into()), "invalidAuthority"),
    ] {
        let (health, mut wakes) = health();
        let plan = CheckPlan { authority, ..plan(base.clone()) };
        assert_eq!(kind(&first_outcome(&health, &mut wakes, plan).await), expected);
    }
}

#[tokio::test]
async fn each_key_has_its_own_health_and_keys_go_out_as_the_provider_wants_them() {
    let router = Router::new().fallback(|headers: AxumHeaders| async move {
        assert_eq!(headers["anthropic-version"], "2023-06-01");
        assert_eq!(headers["x-team"], "blue");
        assert!(!headers.contains_key("authorization"));
        match headers["x-api-key"].to_str().unwrap() {
            "good" => MODELS.into_response(),
            "slow" => StatusCode::TOO_MANY_REQUESTS.into_response(),
            _ => StatusCode::UNAUTHORIZED.into_response(),
        }
    });
    let plan = CheckPlan {
        provider: Provider::Anthropic,
        keys: vec![key("first", "good\n"), key("second", "revoked"), key("third", "slow"), key("fourth", "b\u{1}d")],
        headers: vec![("x-team".into(), "blue".into())],
        ..at(serve(router).await)
    };
    let (health, mut wakes) = health();
    health.ensure(&backend("a"), once_an_hour(plan));
    for _ in 0..4 {
        woken(&mut wakes).await;
    }
    let facts = health.facts(&backend("a")).unwrap();
    let seen: Vec<_> = facts.keys.iter().map(|key| (key.name.as_str(), kind(key.outcome.as_ref().unwrap()))).collect();
    let expected = [("first", "healthy"), ("second", "unauthorized"), ("third", "rateLimited"), ("fourth", "failed")];
    assert_eq!(seen, expected.map(|(name, outcome)| (name, outcome.to_owned())));
    assert!(!format!("{facts:?}").contains("b\u{1}d"));
}

#[tokio::test]
async fn a_call_of_one_token_is_posted_as_json() {
    let router = Router::new().route(
        "/v1/chat/completions",
        axum::routing::post(|axum::Json(body): axum::Json<serde_json::Value>| async move {
            match (body["model"].as_str(), body["max_tokens"].as_u64()) {
                (Some("m"), Some(1)) => r#"{"choices": []}"#.into_response(),
                _ => StatusCode::BAD_REQUEST.into_response(),
            }
        }),
    );
    let plan = at(serve(router).await);
    let plan = CheckPlan { settings: CheckSettings { type_: HealthCheckType::Inference, ..plan.settings.clone() }, ..plan };
    let (health, mut wakes) = health();
    assert_eq!(first_outcome(&health, &mut wakes, plan).await, CheckOutcome::Healthy);
}

#[tokio::test]
async fn fifty_endpoints_that_hang_delay_nobody() {
    let (health, mut wakes) = health();
    let stuck: Vec<BackendRef> = (0..50).map(|number| backend(&format!("stuck-{number}"))).collect();
    for one in &stuck {
        health.ensure(one, with_timeout(at(serve_silence().await), Duration::from_secs(3600)));
    }
    let address = serve(Router::new().fallback(|| async { MODELS })).await;
    for number in 0..20 {
        let healthy = backend(&format!("healthy-{number}"));
        health.ensure(&healthy, once_an_hour(at(address)));
        assert_eq!(woken(&mut wakes).await, healthy);
    }
    for one in &stuck {
        assert_eq!(health.facts(one).unwrap().keys[0].outcome, None);
    }
}

#[tokio::test]
async fn a_backend_is_woken_for_changes_that_matter_and_for_no_other() {
    let (status, hits) = (Arc::new(AtomicUsize::new(200)), Arc::new(AtomicUsize::new(0)));
    let (now, count) = (Arc::clone(&status), Arc::clone(&hits));
    let router = Router::new().fallback(move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        (StatusCode::from_u16(u16::try_from(now.load(Ordering::SeqCst)).unwrap()).unwrap(), MODELS)
    });
    let address = serve(router).await;
    let (health, mut wakes) = health();
    let backend = backend("a");
    health.ensure(&backend, at(address));
    woken(&mut wakes).await;
    let more = |checks: usize| {
        let (hits, goal) = (Arc::clone(&hits), hits.load(Ordering::SeqCst) + checks);
        move || hits.load(Ordering::SeqCst) >= goal
    };
    until(more(5)).await;
    assert!(wakes.is_empty());
    status.store(500, Ordering::SeqCst);
    // The first failure, and the third, which reaches the threshold.
    woken(&mut wakes).await;
    woken(&mut wakes).await;
    assert_eq!(health.facts(&backend).unwrap().keys[0].failures, 3);
    until(more(5)).await;
    assert!(wakes.is_empty());
    status.store(200, Ordering::SeqCst);
    woken(&mut wakes).await;
    let facts = health.facts(&backend).unwrap();
    assert_eq!((facts.keys[0].failures, facts.keys[0].succeeded_before), (0, true));
}

#[tokio::test]
async fn another_plan_starts_over_and_keeps_what_is_still_asked() {
    let address = serve(Router::new().fallback(|| async { MODELS })).await;
    let (health, mut wakes) = health();
    let backend = backend("a");
    let plan = once_an_hour(CheckPlan { keys: vec![key("first", "one")], ..at(address) });
    health.ensure(&backend, plan.clone());
    woken(&mut wakes).await;
    let outcomes = || -> Vec<(String, bool)> {
        let keys = health.facts(&backend).unwrap().keys;
        keys.into_iter().map(|key| (key.name, key.outcome.is_some())).collect()
    };
    let task = |health: &Health| Arc::as_ptr(&health.tasks.lock().unwrap()[&backend].facts);
    let before = task(&health);
    health.ensure(&backend, plan.clone());
    assert_eq!(task(&health), before);
    let two = CheckPlan { keys: vec![key("first", "one"), key("second", "two")], ..plan.clone() };
    health.ensure(&backend, two.clone());
    assert_eq!(outcomes(), [("first".to_owned(), true), ("second".to_owned(), false)]);
    woken(&mut wakes).await;
    health.ensure(&backend, CheckPlan { keys: vec![key("first", "new"), key("second", "two")], ..plan.clone() });
    assert_eq!(outcomes(), [("first".to_owned(), false), ("second".to_owned(), true)]);
    woken(&mut wakes).await;
    health.ensure(&backend, CheckPlan { model: "another".into(), ..two });
    assert_eq!(outcomes(), [("first".to_owned(), false), ("second".to_owned(), false)]);
}

#[tokio::test]
async fn the_same_short_name_is_another_endpoint_in_another_namespace() {
    let port = serve_silence().await.port();
    let listener = tokio::net::TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let live = Router::new().fallback(|| async { MODELS });
    tokio::spawn(async move { axum::serve(listener, live).await });
    let names = Names::new(&[("ollama.greedy.svc", &["127.0.0.1"]), ("ollama.team.svc", &["127.0.0.2"])]);
    let (health, mut wakes) = health_under(names.connector(loopback()));
    let url = format!("http://ollama:{port}");
    for number in 0..CHECKS_PER_ENDPOINT + 1 {
        let stuck = CheckPlan { namespace: "greedy".into(), ..plan(url.clone()) };
        let name = format!("stuck-{number}");
        health.ensure(&BackendRef::new(&name).within("greedy"), with_timeout(stuck, Duration::from_secs(3600)));
    }
    until(|| names.asked().iter().filter(|name| *name == "ollama.greedy.svc").count() == CHECKS_PER_ENDPOINT).await;
    let healthy = backend("healthy");
    health.ensure(&healthy, once_an_hour(plan(url)));
    assert_eq!(woken(&mut wakes).await, healthy);
}

#[tokio::test]
async fn a_paused_backend_is_not_checked_keeps_what_was_found_and_goes_on_from_there() {
    let hits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hits);
    let address = serve(Router::new().fallback(move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        MODELS
    }))
    .await;
    let (health, mut wakes) = health();
    let backend = backend("a");
    health.ensure(&backend, at(address));
    woken(&mut wakes).await;
    let facts = Arc::downgrade(&health.tasks.lock().unwrap()[&backend].facts);
    health.pause(&backend);
    // The task holds the facts as well, until it has ended.
    until(|| facts.strong_count() == 1).await;
    let before = hits.load(Ordering::SeqCst);
    assert_eq!(health.facts(&backend).unwrap().keys[0].outcome, Some(CheckOutcome::Healthy));
    health.ensure(&backend, at(address));
    assert!(health.facts(&backend).unwrap().keys[0].succeeded_before);
    until(|| hits.load(Ordering::SeqCst) > before).await;
}

#[tokio::test]
async fn a_forgotten_backend_is_no_longer_checked() {
    let address = serve(Router::new().fallback(|| async { MODELS })).await;
    let (health, mut wakes) = health();
    let backend = backend("a");
    health.ensure(&backend, at(address));
    woken(&mut wakes).await;
    let plan = Arc::downgrade(&health.tasks.lock().unwrap()[&backend].plan);
    health.forget(&backend);
    assert_eq!(health.facts(&backend), None);
    until(|| plan.upgrade().is_none()).await;
}
