//! What a backend of somebody else's server says when that server is there, is not, refuses, or may not be reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::events::each_is_told_once;
use crate::harness::{Team, condition};

/// A server on loopback: `/ok`, `/none`, `/refuses`, `/hangs`, `/breaks`, `/opens` and `/knows` each answer a list of models in
/// their way.
pub struct Provider {
    pub port: u16,
    pub calls: Arc<AtomicUsize>,
    open: Arc<AtomicBool>,
}

/// The only key that `/knows` takes.
pub const KNOWN: &str = "sk-known-secret";

impl Provider {
    pub async fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (calls, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let models = || axum::Json(json!({ "data": [{ "id": "m" }] })).into_response();
        let opens = {
            let open = open.clone();
            move || async move { if open.load(Ordering::SeqCst) { models() } else { StatusCode::UNAUTHORIZED.into_response() } }
        };
        let knows = move |headers: HeaderMap| async move {
            let known = headers.get("authorization").is_some_and(|key| key.to_str().unwrap() == format!("Bearer {KNOWN}"));
            if known { models() } else { StatusCode::UNAUTHORIZED.into_response() }
        };
        let counted = calls.clone();
        let router = Router::new()
            .route("/ok/v1/models", get(move || async move { models() }))
            .route("/none/v1/models", get(|| async { axum::Json(json!({ "data": [] })) }))
            .route("/refuses/v1/models", get(|| async { StatusCode::UNAUTHORIZED }))
            .route("/breaks/v1/models", get(|| async { StatusCode::BAD_GATEWAY }))
            .route("/hangs/v1/models", get(|| async { std::future::pending::<StatusCode>().await }))
            .route("/opens/v1/models", get(opens))
            .route("/knows/v1/models", get(knows))
            .route("/ok/v1/chat/completions", post(|| async { axum::Json(json!({ "choices": [] })) }))
            .layer(axum::middleware::map_request(move |request: axum::extract::Request| {
                counted.fetch_add(1, Ordering::SeqCst);
                std::future::ready(request)
            }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, calls, open }
    }

    pub fn backend(&self, path: &str) -> Value {
        json!({
            "external": {
                "provider": "OpenAICompatible", "model": "m", "baseURL": format!("http://127.0.0.1:{}/{path}/v1", self.port),
                "apiKeys": [{ "name": "first", "secretKeyRef": { "name": "provider", "key": "api-key" } }],
            },
            "healthCheck": { "interval": "1s", "timeout": "500ms", "failureThreshold": 2 },
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_providers_answer_becomes_a_reason_with_what_to_do() {
    let team = Team::new("providers").await;
    let provider = Provider::serve().await;
    let operator = team.operator_with("destinations: {allowLoopback: true}", &[]).await;
    team.kubectl(&["create", "secret", "generic", "provider", "--from-literal=api-key=sk-very-secret"]);
    for path in ["ok", "none", "refuses", "breaks", "hangs", "opens"] {
        team.apply(path, provider.backend(path)).await;
    }
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let mut nobody = provider.backend("ok");
    nobody["external"]["baseURL"] = json!(format!("http://127.0.0.1:{silent}/v1"));
    team.apply("nobody", nobody).await;

    let healthy = team.until_ready("ok", "True", "Healthy").await;
    assert_eq!(
        healthy.pointer("/status/health"),
        Some(&json!({ "state": "Healthy", "keys": [{ "name": "first", "healthy": true }] }))
    );
    for (name, reason, progress, words) in [
        ("none", "ModelNotListed", "Stalled", vec!["check spec.external.model", "healthCheck.type to Endpoint"]),
        ("refuses", "Unauthorized", "Stalled", vec!["spec.external.apiKeys[first]", "put a valid one into the Secret"]),
        ("opens", "Unauthorized", "Stalled", vec!["spec.external.apiKeys[first]"]),
        ("breaks", "ProviderError", "Reconciling", vec!["502"]),
        ("hangs", "Unreachable", "Reconciling", vec!["within 500ms", "spec.external.baseURL"]),
        ("nobody", "Unreachable", "Reconciling", vec!["refused", "spec.external.baseURL"]),
    ] {
        let answered = team.until_ready(name, "False", reason).await;
        let message = condition(&answered, progress).unwrap_or_else(|| panic!("{answered}"))["message"].as_str().unwrap();
        assert!(words.iter().all(|word| message.contains(word)), "{name} lacks one of {words:?}: {message}");
        assert_eq!(answered.pointer("/status/health/state"), Some(&json!("Unhealthy")));
        assert!(!answered.to_string().contains("sk-very-secret"));
    }
    each_is_told_once(&team, &operator, &["none", "refuses", "opens", "breaks", "hangs", "nobody"]).await;
    // The provider changes its mind, and nobody has to touch the object.
    provider.open.store(true, Ordering::SeqCst);
    team.until_ready("opens", "True", "Healthy").await;
    team.until_ready("ok", "True", "Healthy").await;
    assert!(!operator.log().contains("sk-very-secret"));
    assert!(!team.kubectl(&["get", "events", "-o", "yaml"]).contains("sk-very-secret"));
    let pods = team.kubectl(&["get", "pods,deployments,services", "-o", "name"]);
    assert!(pods.is_empty() || pods.starts_with("No resources found"), "{pods}");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_nobody_may_borrow_the_operator_for_are_never_called() {
    let team = Team::new("destinations").await;
    let provider = Provider::serve().await;
    let environment = [("KUBERNETES_SERVICE_HOST", "10.96.0.1"), ("POD_IP", "10.1.2.3")];
    let operator = team.operator_with("", &environment).await;
    let port = provider.port;
    // Where the API server says that it is: it listens elsewhere as well, and under neither address is it called here.
    let endpoint =
        team.kubectl(&["get", "-n", "default", "endpointslice", "kubernetes", "-o", "jsonpath={.endpoints[0].addresses[0]}"]);
    assert!(endpoint.parse::<std::net::IpAddr>().is_ok(), "{endpoint}");
    let addresses = [
        ("metadata", "http://169.254.169.254/latest".to_owned(), "a link-local address"),
        ("loopback", format!("http://127.0.0.1:{port}/ok/v1"), "a loopback address"),
        ("loopback-name", format!("http://localhost:{port}/ok/v1"), "this machine"),
        ("loopback-six", format!("http://[::1]:{port}/ok/v1"), "a loopback address"),
        ("mapped", format!("http://[::ffff:127.0.0.1]:{port}/ok/v1"), "a loopback address"),
        ("octal", format!("http://0x7f.1:{port}/ok/v1"), "a loopback address"),
        ("metadata-name", "http://metadata.google.internal/v1".to_owned(), "a metadata service"),
        ("elsewhere", "http://vault.security.svc:8200/v1".to_owned(), "may not be named from"),
        ("api-server", format!("https://{endpoint}:6443/v1"), "the API server's address"),
        ("api-server-mapped", format!("https://[::ffff:{endpoint}]:6443/v1"), "the API server's address"),
        ("api-server-service", "https://10.96.0.1/v1".to_owned(), "the API server's address"),
        ("api-server-name", "https://kubernetes.default.svc/v1".to_owned(), "the API server"),
        ("operator", "http://10.1.2.3:8080/v1".to_owned(), "the operator's own address"),
    ];
    for (name, url, _) in &addresses {
        let spec = json!({ "external": { "provider": "OpenAICompatible", "model": "m", "baseURL": url } });
        team.apply(name, spec).await;
    }
    for (name, _, words) in &addresses {
        let answered = team.until_ready(name, "False", "EndpointNotAllowed").await;
        let message = condition(&answered, "Stalled").unwrap()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words) || message.contains("a metadata service's address"), "{name}: {message}");
        assert!(message.contains("spec.external.baseURL") && message.contains("serviceRef"), "{name}: {message}");
    }
    tokio::time::timeout(Duration::from_secs(5), team.until_ready("loopback", "False", "EndpointNotAllowed")).await.unwrap();
    each_is_told_once(&team, &operator, &addresses.each_ref().map(|(name, _, _)| *name)).await;
    assert_eq!(provider.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_api_servers_endpoints_may_not_be_read_the_operator_goes_on_with_what_it_knows() {
    let team = Team::new("no-endpoints").await;
    let provider = Provider::serve().await;
    let role = format!("quartermaster-api-server-{}", team.namespace);
    team.kubectl(&["delete", "-n", "default", "role", &role]);
    let environment = [("KUBERNETES_SERVICE_HOST", "10.96.0.1")];
    let operator = team.operator_with("destinations: {allowLoopback: true}", &environment).await;
    assert!(operator.log().contains("endpointslices.discovery.k8s.io is forbidden"), "{}", operator.log());
    team.kubectl(&["create", "secret", "generic", "provider", "--from-literal=api-key=x"]);
    team.apply("ok", provider.backend("ok")).await;
    team.until_ready("ok", "True", "Healthy").await;
    let mut service = provider.backend("ok");
    service["external"]["baseURL"] = json!("https://10.96.0.1/v1");
    team.apply("service", service).await;
    team.until_ready("service", "False", "EndpointNotAllowed").await;
}
