use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use quartermaster_core::decide::backend::destination::{ApiServer, Rules};
use rstest::rstest;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::sources::testing::*;

const CONFIG: &str = r#"{"num_attention_heads": 32}"#;

/// What a hub was asked for: method, path with query, and the token.
type Asked = Arc<Mutex<Vec<(String, String, Option<String>)>>>;

/// A hub that answers as the function says, and notes what it was asked for.
async fn serve_hub(answer: impl Fn(&str, &str) -> Response + Clone + Send + Sync + 'static) -> (SocketAddr, Asked) {
    let asked = Asked::default();
    let log = Arc::clone(&asked);
    let router = Router::new().fallback(move |request: Request| async move {
        let token = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let (method, path) = (request.method().to_string(), request.uri().to_string());
        let response = answer(&method, &path);
        log.lock().unwrap().push((method, path, token));
        response
    });
    (serve(router).await, asked)
}

fn question(hub: SocketAddr, model: &str) -> ModelQuestion {
    let (endpoint, namespace) = (format!("http://{hub}"), "team".to_owned());
    ModelQuestion { endpoint, namespace, model: model.into(), revision: "main".into(), access_only: false }
}

fn quick() -> HubTimes {
    let day = Duration::from_secs(86_400);
    HubTimes { found: day, first_retry: Duration::from_millis(10), longest_retry: Duration::from_millis(50) }
}

fn hub(times: HubTimes) -> (Hub, UnboundedReceiver<BackendRef>) {
    let (wake, woken) = unbounded_channel();
    (Hub::with_times(Arc::new(Connector::new(loopback(), None)), wake, times), woken)
}

/// Asks, waits for the answer, and gives it.
async fn ask(hub: &Hub, wakes: &mut UnboundedReceiver<BackendRef>, question: &ModelQuestion, token: Option<&str>) -> HubFacts {
    let token = token.map(SecretString::from);
    let asker = backend("asker");
    assert_eq!(hub.facts(&asker, question, token.as_ref()), HubFacts::Pending);
    assert_eq!(woken(wakes).await, asker);
    hub.facts(&asker, question, token.as_ref())
}

fn slow() -> (Hub, UnboundedReceiver<BackendRef>) {
    hub(HubTimes::default())
}

#[tokio::test]
async fn facts_are_pending_at_first_then_found_and_then_kept() {
    let (address, asked) = serve_hub(|_, path| match path {
        "/org/model/resolve/main/config.json" => CONFIG.into_response(),
        "/org/model/resolve/main/model.safetensors.index.json" => {
            r#"{"metadata": {"total_size": 141107412992}, "weight_map": {"a": "b"}}"#.into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    })
    .await;
    let (hub, mut wakes) = slow();
    let question = question(address, "org/model");
    let found = HubFacts::Found { config: json!({"num_attention_heads": 32}), weight_bytes: Some(141_107_412_992) };
    assert_eq!(ask(&hub, &mut wakes, &question, None).await, found);
    for asker in ["second", "third"] {
        assert_eq!(hub.facts(&backend(asker), &question, None), found);
    }
    let paths: Vec<String> = asked.lock().unwrap().iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    let expected = ["config.json", "model.safetensors.index.json"].map(|file| format!("GET /org/model/resolve/main/{file}"));
    assert_eq!(paths, expected);
    assert!(wakes.is_empty());
}

#[tokio::test]
async fn many_askers_of_one_model_cost_one_fetch_and_are_all_woken() {
    let (address, asked) = serve_hub(|_, path| match path.ends_with("/config.json") {
        true => CONFIG.into_response(),
        false => StatusCode::NOT_FOUND.into_response(),
    })
    .await;
    let (hub, mut wakes) = slow();
    let askers: Vec<BackendRef> = (0..10).map(|number| backend(&format!("asker-{number}"))).collect();
    for asker in &askers {
        assert_eq!(hub.facts(asker, &question(address, "org/model"), None), HubFacts::Pending);
    }
    let mut seen = HashSet::new();
    for _ in &askers {
        seen.insert(woken(&mut wakes).await);
    }
    assert_eq!(seen, askers.into_iter().collect());
    assert_eq!(asked.lock().unwrap().iter().filter(|(_, path, _)| path.ends_with("/config.json")).count(), 1);
}

#[rstest]
#[case::one_file(Some(("content-length", "16060522496")), None, Some(16_060_522_496))]
#[case::elsewhere(None, Some("15231233024"), Some(15_231_233_024))]
#[case::neither(None, None, None)]
#[tokio::test]
async fn the_size_of_the_only_weights_file_is_read_without_the_file(
    #[case] length: Option<(&'static str, &'static str)>,
    #[case] linked: Option<&'static str>,
    #[case] expected: Option<u64>,
) {
    let (address, asked) = serve_hub(move |method, path| match (method, path.rsplit('/').next()) {
        (_, Some("config.json")) => CONFIG.into_response(),
        ("HEAD", Some("model.safetensors")) => match (length, linked) {
            (Some(header), _) => ([header], "").into_response(),
            (_, Some(size)) => ([("x-linked-size", size)], Redirect::temporary("http://192.0.2.1/never")).into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        },
        _ => (StatusCode::NOT_FOUND, [("x-error-code", "EntryNotFound")]).into_response(),
    })
    .await;
    let (hub, mut wakes) = slow();
    let facts = ask(&hub, &mut wakes, &question(address, "org/model"), None).await;
    assert_eq!(facts, HubFacts::Found { config: json!({"num_attention_heads": 32}), weight_bytes: expected });
    assert!(!asked.lock().unwrap().iter().any(|(method, path, _)| method == "GET" && path.ends_with("model.safetensors")));
}

#[tokio::test]
async fn for_access_alone_nothing_but_the_configuration_is_asked_for() {
    let (address, asked) = serve_hub(|_, _| CONFIG.into_response()).await;
    let (hub, mut wakes) = slow();
    let access = ModelQuestion { access_only: true, ..question(address, "org/model") };
    let found = HubFacts::Found { config: json!({"num_attention_heads": 32}), weight_bytes: None };
    assert_eq!(ask(&hub, &mut wakes, &access, Some("hf_secret")).await, found);
    let token = Some("Bearer hf_secret".to_owned());
    let expected = ("GET".to_owned(), "/org/model/resolve/main/config.json".to_owned(), token);
    assert_eq!(asked.lock().unwrap().as_slice(), [expected]);
    // Whoever has to size the model asks another question.
    assert_eq!(hub.facts(&backend("asker"), &question(address, "org/model"), None), HubFacts::Pending);
}

#[tokio::test]
async fn a_question_about_access_waits_for_what_has_to_be_known_before_anything_is_called() {
    let (address, _) = serve_hub(|_, _| (StatusCode::FORBIDDEN, [("x-error-code", "GatedRepo")]).into_response()).await;
    let unknown = Rules { api_server: ApiServer::default(), ..loopback() };
    let connector = Arc::new(Connector::new(unknown, None));
    let (wake, mut wakes) = unbounded_channel();
    let hub = Hub::new(connector.clone(), wake);
    let access = ModelQuestion { access_only: true, ..question(address, "org/model") };
    assert_eq!(hub.facts(&backend("asker"), &access, None), HubFacts::Pending);
    assert!(matches!(hub.facts(&backend("asker"), &question(address, "org/model"), None), HubFacts::Failed { .. }));
    connector.set_rules(loopback());
    woken(&mut wakes).await;
    assert_eq!(hub.facts(&backend("asker"), &access, None), HubFacts::AccessDenied);
}

#[rstest]
#[case(401, "GatedRepo", "accessDenied", "")]
#[case(403, "GatedRepo", "accessDenied", "")]
#[case(401, "RepoNotFound", "refused", "")]
#[case(401, "", "refused", "")]
#[case(403, "", "refused", "")]
#[case(404, "RepoNotFound", "notFound", "")]
#[case(404, "RevisionNotFound", "notFound", "")]
#[case(404, "EntryNotFound", "failed", "the model has no config.json")]
#[case(429, "", "failed", "limits the rate")]
#[case(503, "", "failed", "the hub answered 503")]
#[tokio::test]
async fn what_the_hub_refuses_has_a_name(
    #[case] status: u16,
    #[case] code: &'static str,
    #[case] state: &str,
    #[case] words: &str,
) {
    let answer = move |_: &str, _: &str| (StatusCode::from_u16(status).unwrap(), [("x-error-code", code)]).into_response();
    let (address, _) = serve_hub(answer).await;
    let (hub, mut wakes) = slow();
    let facts = serde_json::to_value(ask(&hub, &mut wakes, &question(address, "org/model"), None).await).unwrap();
    assert_eq!(facts["state"], state);
    assert!(facts["message"].as_str().unwrap_or_default().contains(words), "{facts}");
}

#[rstest]
#[case::no_json("<html>")]
#[case::no_object("[]")]
#[case::too_long(&"x".repeat(5 << 20))]
#[tokio::test]
async fn an_answer_that_is_no_configuration_is_a_failure(#[case] body: &str) {
    let body = body.to_owned();
    let (address, _) = serve_hub(move |_, _| body.clone().into_response()).await;
    let (hub, mut wakes) = slow();
    let facts = ask(&hub, &mut wakes, &question(address, "org/model"), None).await;
    assert!(matches!(facts, HubFacts::Failed { .. }), "{facts:?}");
}

#[tokio::test]
async fn the_token_follows_a_redirect_within_the_hub_and_never_to_another_host() {
    let (network, at_network) = serve_hub(|_, _| CONFIG.into_response()).await;
    let (address, at_hub) = serve_hub(move |_, path| match path {
        "/org/model/resolve/main/config.json" => Redirect::temporary("/api/cache/config.json").into_response(),
        "/api/cache/config.json" => Redirect::temporary(&format!("http://{network}/signed")).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    })
    .await;
    let (hub, mut wakes) = slow();
    let facts = ask(&hub, &mut wakes, &question(address, "org/model"), Some("hf_secret\n")).await;
    assert!(matches!(facts, HubFacts::Found { .. }), "{facts:?}");
    assert!(at_hub.lock().unwrap().iter().all(|(_, _, token)| token.as_deref() == Some("Bearer hf_secret")));
    assert!(at_hub.lock().unwrap().len() >= 3);
    assert_eq!(at_network.lock().unwrap().as_slice(), [("GET".to_owned(), "/signed".to_owned(), None)]);
}

#[rstest]
#[case::metadata("http://169.254.169.254/latest/meta-data/", "169.254.169.254 is a metadata service's address")]
#[case::another_namespace("http://vault.payments.svc/", "Services of namespace `payments` may not be named from `team`")]
#[case::endless("/org/model/resolve/main/config.json", "redirects more than 3 times")]
#[case::not_http("file:///etc/passwd", "neither http nor https")]
#[tokio::test]
async fn a_redirect_passes_the_same_rules_as_the_hub_itself(#[case] target: &'static str, #[case] words: &str) {
    let (address, _) = serve_hub(move |_, _| Redirect::temporary(target).into_response()).await;
    let (hub, mut wakes) = slow();
    let facts = ask(&hub, &mut wakes, &question(address, "org/model"), None).await;
    assert!(matches!(&facts, HubFacts::Failed { message } if message.contains(words)), "{facts:?}");
}

#[tokio::test]
async fn a_failure_is_tried_again_and_the_asker_is_woken_for_it() {
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let (address, _) = serve_hub(move |_, path| match path.ends_with("/config.json") {
        true if count.fetch_add(1, Ordering::SeqCst) < 3 => StatusCode::BAD_GATEWAY.into_response(),
        true => CONFIG.into_response(),
        false => StatusCode::NOT_FOUND.into_response(),
    })
    .await;
    let (hub, mut wakes) = hub(quick());
    let question = question(address, "org/model");
    let asker = backend("asker");
    let mut seen = vec![hub.facts(&asker, &question, None)];
    while !matches!(seen.last(), Some(HubFacts::Found { .. })) {
        assert!(seen.len() < 100, "{seen:?}");
        woken(&mut wakes).await;
        seen.push(hub.facts(&asker, &question, None));
    }
    assert_eq!(seen.first(), Some(&HubFacts::Pending));
    assert!(seen.iter().any(|facts| matches!(facts, HubFacts::Failed { message } if message.contains("502"))));
    assert_eq!(tries.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn what_was_found_outlives_a_hub_that_fails_later() {
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let (address, _) = serve_hub(move |_, path| match path.ends_with("/config.json") {
        true if count.fetch_add(1, Ordering::SeqCst) == 0 => CONFIG.into_response(),
        true => StatusCode::BAD_GATEWAY.into_response(),
        false => StatusCode::NOT_FOUND.into_response(),
    })
    .await;
    let (hub, mut wakes) = hub(HubTimes { found: Duration::ZERO, ..quick() });
    let question = question(address, "org/model");
    let found = ask(&hub, &mut wakes, &question, None).await;
    let asker = backend("asker");
    until(|| {
        assert_eq!(hub.facts(&asker, &question, None), found);
        tries.load(Ordering::SeqCst) > 3
    })
    .await;
    assert!(wakes.is_empty());
}

#[tokio::test]
async fn another_token_is_another_question() {
    let (address, _) = serve_hub(|_, _| StatusCode::FORBIDDEN.into_response()).await;
    let (hub, mut wakes) = slow();
    let question = question(address, "org/model");
    for token in [None, Some("first"), Some("second")] {
        assert_eq!(ask(&hub, &mut wakes, &question, token).await, HubFacts::Refused);
    }
}

#[tokio::test]
async fn a_hub_that_hangs_delays_no_other() {
    let silent = serve_silence().await;
    let (address, _) = serve_hub(|_, path| match path.ends_with("/config.json") {
        true => CONFIG.into_response(),
        false => StatusCode::NOT_FOUND.into_response(),
    })
    .await;
    let (hub, mut wakes) = slow();
    for number in 0..50 {
        assert_eq!(hub.facts(&backend("stuck"), &question(silent, &format!("org/m{number}")), None), HubFacts::Pending);
    }
    assert!(matches!(ask(&hub, &mut wakes, &question(address, "org/model"), None).await, HubFacts::Found { .. }));
    assert_eq!(hub.facts(&backend("stuck"), &question(silent, "org/m0"), None), HubFacts::Pending);
}

#[tokio::test]
async fn names_stay_one_part_of_the_path_each_and_cannot_leave_it() {
    let (address, asked) = serve_hub(|_, _| StatusCode::FORBIDDEN.into_response()).await;
    let (hub, mut wakes) = slow();
    let mut odd = question(address, "org/model");
    odd.endpoint += "/mirror/";
    odd.revision = "refs/pr/1?x=#y".into();
    ask(&hub, &mut wakes, &odd, None).await;
    assert_eq!(asked.lock().unwrap()[0].1, "/mirror/org/model/resolve/refs%2Fpr%2F1%3Fx=%23y/config.json");
    for model in ["../../admin", "org//model", "."] {
        let facts = ask(&hub, &mut wakes, &question(address, model), None).await;
        assert!(matches!(facts, HubFacts::Failed { .. }), "{model}: {facts:?}");
    }
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_forbidden_hub_is_refused_at_once_and_a_token_is_never_repeated() {
    let (hub, _wakes) = slow();
    let token = SecretString::from("hf_secret\u{7f}");
    for endpoint in ["http://169.254.169.254", "no url", "http://user:hf_secret@hub.example.com", "ftp://hub"] {
        let question = ModelQuestion { endpoint: endpoint.into(), ..question("127.0.0.1:1".parse().unwrap(), "org/model") };
        let facts = hub.facts(&backend("asker"), &question, Some(&token));
        assert!(matches!(facts, HubFacts::NotAllowed { .. }), "{endpoint}");
        assert!(!format!("{facts:?}").contains("hf_secret"), "{facts:?}");
    }
    let (hub, mut wakes) = slow();
    let facts = ask(&hub, &mut wakes, &question("127.0.0.1:1".parse().unwrap(), "org/model"), Some("hf_secret\u{7f}")).await;
    assert!(matches!(&facts, HubFacts::Failed { message } if !message.contains("hf_secret")), "{facts:?}");
}

#[tokio::test]
async fn a_hub_whose_name_leads_to_a_forbidden_address_is_not_allowed() {
    let names = Names::new(&[("hub.example.com.", &["169.254.169.254"])]);
    let (wake, mut wakes) = unbounded_channel();
    let hub = Hub::new(Arc::new(names.connector(loopback())), wake);
    let elsewhere = question("127.0.0.1:1".parse().unwrap(), "org/model");
    let question = ModelQuestion { endpoint: "http://hub.example.com".into(), ..elsewhere };
    let facts = ask(&hub, &mut wakes, &question, None).await;
    assert!(matches!(&facts, HubFacts::NotAllowed { message } if message.contains("hub.example.com")), "{facts:?}");
}

#[tokio::test]
async fn answers_are_kept_up_to_a_bound() {
    let big = format!(r#"{{"filler": "{}"}}"#, "x".repeat(3 << 20));
    let (address, _) = serve_hub(move |_, path| match path.ends_with("/config.json") {
        true => big.clone().into_response(),
        false => StatusCode::NOT_FOUND.into_response(),
    })
    .await;
    let (hub, mut wakes) = slow();
    for number in 0..8 {
        ask(&hub, &mut wakes, &question(address, &format!("org/m{number}")), None).await;
    }
    let bytes: usize = hub.shared.lock().answers.values().map(|entry| entry.bytes).sum();
    assert!(bytes <= BYTES && bytes > BYTES / 2, "{bytes}");
    assert!(matches!(hub.facts(&backend("asker"), &question(address, "org/m7"), None), HubFacts::Found { .. }));
}
