use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap as AxumHeaders, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::get;
use quartermaster_core::decide::pool::facts::FailureCause;
use serde_json::{Value, json};

use super::*;
use crate::sources::testing::*;
use crate::sources::tls::TlsSettings;

/// A Prometheus that answers each expression as its script says.
#[derive(Default)]
struct Script {
    answers: HashMap<&'static str, (u16, Value)>,
    asked: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    authorization: Mutex<Vec<String>>,
}

async fn answer(State(script): State<Arc<Script>>, uri: Uri, headers: AxumHeaders) -> impl IntoResponse {
    script.asked.fetch_add(1, Ordering::SeqCst);
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let now_at_once = script.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    script.most_at_once.fetch_max(now_at_once, Ordering::SeqCst);
    if let Some(value) = headers.get("authorization") {
        script.authorization.lock().unwrap().push(value.to_str().unwrap().to_owned());
    }
    assert!(!query.contains_key("time"), "the time is the server's");
    let expression = query["query"].as_str();
    if expression == "slow" {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    if expression.starts_with("wait") {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    script.at_once.fetch_sub(1, Ordering::SeqCst);
    let (status, body) = script.answers.get(expression).cloned().unwrap_or_else(|| (200, vector(&["1"])));
    (StatusCode::from_u16(status).unwrap(), body.to_string())
}

async fn serve_script(script: Script) -> (Arc<Script>, Endpoint) {
    let script = Arc::new(script);
    let router = Router::new().route("/prefix/api/v1/query", get(answer)).with_state(Arc::clone(&script));
    let address = serve(router).await;
    (script, endpoint(&format!("http://{address}/prefix/")))
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint { namespace: "team".to_owned(), url: url.to_owned(), credential: Credential::default(), tls: TlsSettings::default() }
}

fn prometheus(endpoint: Endpoint) -> Prometheus {
    Prometheus::new(Arc::new(Connector::new(loopback(), None)), endpoint)
}

fn question(query: &str) -> Question {
    Question { queue: Queue::Prometheus { query: query.to_owned(), empty_is_zero: false }, cap: 1 }
}

fn vector(values: &[&str]) -> Value {
    let now = Timestamp::now().as_second();
    let series: Vec<Value> = values.iter().map(|value| json!({"metric": {}, "value": [now, value]})).collect();
    json!({"status": "success", "data": {"resultType": "vector", "result": series}})
}

fn told(outcome: &Outcome) -> Result<u64, FailureCause> {
    outcome.as_ref().map(|reading| reading.waiting).map_err(QueueError::cause)
}

#[tokio::test]
async fn each_measured_answer_is_a_number_or_a_failure_and_spoils_no_other() {
    let now = Timestamp::now().as_second();
    let rows = [
        ("empty", 200, vector(&[]), Err(FailureCause::NoData)),
        ("nan", 200, vector(&["NaN"]), Err(FailureCause::NoData)),
        ("infinite", 200, vector(&["+Inf"]), Err(FailureCause::NoData)),
        ("error", 200, json!({"status": "error", "errorType": "bad_data", "error": "parse error"}), Err(FailureCause::WrongType)),
        ("warned", 200, json!({"status": "success", "warnings": ["w"], "data": vector(&[])["data"]}), Err(FailureCause::NoData)),
        ("scalar", 200, json!({"status": "success", "data": {"resultType": "scalar", "result": [now, "7"]}}), Ok(7)),
        ("two", 200, vector(&["1", "2"]), Err(FailureCause::WrongType)),
        ("negative", 200, vector(&["-5"]), Err(FailureCause::WrongType)),
        (
            "old",
            200,
            json!({"status": "success", "data": {"resultType": "vector", "result": [{"value": [0, "7"]}]}}),
            Err(FailureCause::NoData),
        ),
        ("refused", 401, json!({}), Err(FailureCause::Unauthorized)),
        ("broken", 503, json!({"status": "error", "errorType": "unavailable", "error": "x"}), Err(FailureCause::Unreachable)),
        ("huge", 200, json!({"status": "success", "x": "x".repeat(1 << 20)}), Err(FailureCause::WrongType)),
        ("fine", 200, vector(&["58"]), Ok(58)),
    ];
    let answers = rows.iter().map(|(query, status, body, _)| (*query, (*status, body.clone()))).collect();
    let (script, endpoint) = serve_script(Script { answers, ..Script::default() }).await;
    let questions: Vec<Question> = rows.iter().map(|(query, ..)| question(query)).collect();
    let outcomes = within(prometheus(endpoint).poll(&questions)).await;
    for ((query, .., wanted), outcome) in rows.iter().zip(&outcomes) {
        assert_eq!(told(outcome), *wanted, "{query}: {outcome:?}");
    }
    assert_eq!(script.asked.load(Ordering::SeqCst), rows.len(), "nothing is asked twice");
}

#[tokio::test]
async fn an_answer_that_takes_30_seconds_is_given_up_after_3_and_delays_no_other() {
    let (_script, endpoint) = serve_script(Script::default()).await;
    let started = Instant::now();
    let questions = [question("slow"), question("a"), question("b"), question("c"), question("d"), question("e")];
    let outcomes = within(prometheus(endpoint).poll(&questions)).await;
    assert_eq!(told(&outcomes[0]), Err(FailureCause::Unreachable), "{:?}", outcomes[0]);
    assert!(outcomes[1..].iter().all(|outcome| told(outcome) == Ok(1)));
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn expressions_are_asked_at_the_same_time_each_once_and_not_too_many() {
    let (script, endpoint) = serve_script(Script::default()).await;
    let names: Vec<String> = (0..12).map(|number| format!("wait {number}")).collect();
    let questions: Vec<Question> = names.iter().chain(&names).map(|name| question(name)).collect();
    let outcomes = within(prometheus(endpoint).poll(&questions)).await;
    assert!(outcomes.len() == 24 && outcomes.iter().all(|outcome| told(outcome) == Ok(1)));
    assert_eq!(script.asked.load(Ordering::SeqCst), 12);
    let most = script.most_at_once.load(Ordering::SeqCst);
    assert!((2..=AT_ONCE).contains(&most), "{most}");
}

#[tokio::test]
async fn a_password_is_sent_as_a_token_or_with_a_user_and_never_shown() {
    let (script, endpoint) = serve_script(Script::default()).await;
    let with = |username: Option<&str>, password: Option<&str>| Endpoint {
        credential: Credential { username: username.map(Into::into), password: password.map(Into::into) },
        ..endpoint.clone()
    };
    for credential in [with(None, Some("token\n")), with(Some("me"), Some("hunter2")), with(None, None)] {
        assert_eq!(told(&within(prometheus(credential).poll(&[question("a")])).await[0]), Ok(1));
    }
    assert_eq!(*script.authorization.lock().unwrap(), ["Bearer token", "Basic bWU6aHVudGVyMg=="]);
    for credential in [with(None, Some("hunter\u{7}2")), with(Some("a:b"), Some("hunter2"))] {
        let outcome = &within(prometheus(credential).poll(&[question("a")])).await[0];
        assert_eq!(told(outcome), Err(FailureCause::Secret));
        assert!(!format!("{outcome:?}").contains("hunter"));
    }
}

#[tokio::test]
async fn urls_that_may_not_be_called_are_refused() {
    let (script, endpoint) = serve_script(Script::default()).await;
    let strictly = Prometheus::new(Arc::new(Connector::new(strict(), None)), endpoint.clone());
    assert_eq!(told(&strictly.poll(&[question("a")]).await[0]), Err(FailureCause::NotAllowed));
    for url in [
        "prometheus",
        "ftp://prometheus",
        "mailto:a@b",
        "http://me:hunter2@127.0.0.1",
        "http://127.0.0.1/?x=y",
        "http://prometheus.other.svc",
    ] {
        let outcome = &prometheus(self::endpoint(url)).poll(&[question("a")]).await[0];
        assert_eq!(told(outcome), Err(FailureCause::NotAllowed), "{url}: {outcome:?}");
        assert!(!format!("{outcome:?}").contains("hunter2"));
    }
    assert_eq!(script.asked.load(Ordering::SeqCst), 0);
    let nobody = prometheus(self::endpoint("http://127.0.0.1:1"));
    assert_eq!(told(&nobody.poll(&[question("a")]).await[0]), Err(FailureCause::Unreachable));
}

#[tokio::test]
async fn a_certificate_is_verified_with_the_authority_of_the_secret() {
    let (issuer, pem) = authority();
    let body: &'static str = Box::leak(vector(&["7"]).to_string().into_boxed_str());
    let text: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_boxed_str());
    let address = serve_tls(&issuer, text).await;
    let with = |authority, skip_verification| {
        let tls = TlsSettings { authority, skip_verification };
        prometheus(Endpoint { tls, ..endpoint(&format!("https://{address}")) })
    };
    assert_eq!(told(&within(with(Some(pem), false).poll(&[question("a")])).await[0]), Ok(7));
    assert_eq!(told(&within(with(None, true).poll(&[question("a")])).await[0]), Ok(7));
    assert_eq!(told(&within(with(None, false).poll(&[question("a")])).await[0]), Err(FailureCause::Tls));
}
