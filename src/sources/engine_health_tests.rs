use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap as AxumHeaders, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use quartermaster_core::api::external::HealthCheckType;
use quartermaster_core::api::vllm::Task as ModelTask;
use quartermaster_core::decide::backend::engine::{Engine as Software, ServedModel};
use quartermaster_core::decide::backend::engine_check::questions;
use rstest::rstest;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::sources::testing::*;

const METRICS_TEXT: &str =
    "# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"1000\"} 1.0\n";

/// What a simulated engine was asked, and what it answers.
struct Engine {
    health: AtomicU16,
    metrics: AtomicU16,
    checks: AtomicUsize,
    reads_of_metrics: AtomicUsize,
}

impl Engine {
    fn new() -> Arc<Self> {
        let (health, metrics) = (AtomicU16::new(200), AtomicU16::new(200));
        Arc::new(Self { health, metrics, checks: AtomicUsize::new(0), reads_of_metrics: AtomicUsize::new(0) })
    }

    async fn serve(self: &Arc<Self>) -> SocketAddr {
        let status = |code: &AtomicU16| StatusCode::from_u16(code.load(Ordering::SeqCst)).unwrap();
        let (of_health, of_metrics) = (Arc::clone(self), Arc::clone(self));
        let list = |headers: AxumHeaders| async move {
            match headers.get("authorization").map(|value| value.to_str().unwrap()) {
                Some("Bearer generated") => r#"{"object":"list","data":[{"id":"m"}]}"#.into_response(),
                _ => StatusCode::UNAUTHORIZED.into_response(),
            }
        };
        let completion = |axum::Json(body): axum::Json<serde_json::Value>| async move {
            match (body["model"].as_str(), body["max_tokens"].as_u64()) {
                (Some("m"), Some(1)) => r#"{"choices":[{"text":"."}]}"#.into_response(),
                _ => StatusCode::BAD_REQUEST.into_response(),
            }
        };
        let health = move |headers: AxumHeaders| async move {
            assert!(!headers.contains_key("authorization"), "health is open, and needs no key");
            of_health.checks.fetch_add(1, Ordering::SeqCst);
            status(&of_health.health)
        };
        let metrics = move || async move {
            of_metrics.reads_of_metrics.fetch_add(1, Ordering::SeqCst);
            (status(&of_metrics.metrics), METRICS_TEXT)
        };
        let router = Router::new()
            .route("/health", get(health))
            .route("/metrics", get(metrics))
            .route("/v1/models", get(list))
            .route("/v1/completions", post(completion));
        serve(router).await
    }

    fn checks(&self) -> usize {
        self.checks.load(Ordering::SeqCst)
    }

    /// Waits until so many more checks have begun.
    async fn checked(&self, more: usize) {
        let goal = self.checks() + more;
        until(|| self.checks() >= goal).await;
    }
}

fn plan(type_: HealthCheckType, interval: Duration) -> EnginePlan {
    let served = ServedModel { engine: Software::Vllm, name: "m", task: ModelTask::Generate };
    EnginePlan {
        namespace: "team".into(),
        engine: served.engine,
        model: served.name.into(),
        questions: questions(served, type_),
        key: Some("generated\n".into()),
        settings: CheckSettings { type_, interval, timeout: Duration::from_secs(10), failure_threshold: 3 },
    }
}

fn often() -> EnginePlan {
    plan(HealthCheckType::ModelLoaded, Duration::from_millis(10))
}

fn once() -> EnginePlan {
    plan(HealthCheckType::ModelLoaded, Duration::from_secs(3600))
}

fn pod(number: u32, address: SocketAddr) -> EnginePod {
    EnginePod { name: format!("pod-{number}"), restarts: 0, address }
}

fn engines_under(connector: Connector) -> (Engines, UnboundedReceiver<BackendRef>) {
    let (wake, woken) = unbounded_channel();
    (Engines::new(Arc::new(connector), wake), woken)
}

fn engines() -> (Engines, UnboundedReceiver<BackendRef>) {
    engines_under(Connector::new(loopback(), None))
}

fn outcomes(engines: &Engines) -> Vec<Option<CheckOutcome>> {
    engines.facts(&backend("a")).into_iter().map(|facts| facts.checks.outcome).collect()
}

#[rstest]
#[case(HealthCheckType::Endpoint)]
#[case(HealthCheckType::ModelLoaded)]
#[case(HealthCheckType::Inference)]
#[tokio::test]
async fn a_pod_that_is_well_is_healthy_and_says_how_large_its_cache_is(#[case] type_: HealthCheckType) {
    let (engines, mut wakes) = engines();
    let address = Engine::new().serve().await;
    engines.ensure(&backend("a"), plan(type_, Duration::from_secs(3600)), vec![pod(0, address)]);
    for _ in 0..2 {
        assert_eq!(woken(&mut wakes).await, backend("a"));
    }
    let facts = engines.facts(&backend("a"));
    assert_eq!((facts[0].checks.name.as_str(), &facts[0].checks.outcome), ("pod-0", &Some(CheckOutcome::Healthy)));
    assert_eq!(facts[0].kv_cache_tokens, Some(16_000));
}

#[tokio::test]
async fn ollama_is_asked_without_a_key_and_for_no_metrics_and_tells_when_its_model_is_gone() {
    let gone = Arc::new(AtomicUsize::new(0));
    let other_calls = Arc::new(AtomicUsize::new(0));
    let tags = {
        let gone = Arc::clone(&gone);
        move |headers: AxumHeaders| async move {
            assert!(!headers.contains_key("authorization"), "there is no key");
            match gone.load(Ordering::SeqCst) {
                0 => r#"{"models":[{"name":"qwen3:8b"}]}"#,
                _ => r#"{"models":[]}"#,
            }
        }
    };
    let router =
        Router::new().route("/api/version", get(|| async { r#"{"version":"0.32.15"}"# })).route("/api/tags", get(tags)).fallback({
            let other_calls = Arc::clone(&other_calls);
            move || async move {
                other_calls.fetch_add(1, Ordering::SeqCst);
                StatusCode::NOT_FOUND
            }
        });
    let address = serve(router).await;
    let served = ServedModel { engine: Software::Ollama, name: "qwen3:8b", task: ModelTask::Generate };
    let plan = EnginePlan {
        engine: served.engine,
        model: served.name.into(),
        questions: questions(served, HealthCheckType::ModelLoaded),
        key: None,
        ..often()
    };
    let (engines, mut wakes) = engines();
    engines.ensure(&backend("a"), plan, vec![pod(0, address)]);
    woken(&mut wakes).await;
    assert_eq!(outcomes(&engines), [Some(CheckOutcome::Healthy)]);
    gone.store(1, Ordering::SeqCst);
    until(|| outcomes(&engines) == [Some(CheckOutcome::ModelNotListed)]).await;
    let facts = engines.facts(&backend("a"));
    assert_eq!((facts[0].kv_cache_tokens, other_calls.load(Ordering::SeqCst)), (None, 0));
}

#[tokio::test]
async fn an_engine_that_dies_is_woken_for_at_the_first_and_at_the_last_failure_that_is_borne_and_when_it_lives_again() {
    let (engines, mut wakes) = engines();
    let engine = Engine::new();
    engines.ensure(&backend("a"), often(), vec![pod(0, engine.serve().await)]);
    for _ in 0..2 {
        woken(&mut wakes).await;
    }
    engine.checked(5).await;
    assert!(wakes.is_empty(), "nothing changes");
    engine.health.store(503, Ordering::SeqCst);
    for _ in 0..2 {
        woken(&mut wakes).await;
    }
    let facts = engines.facts(&backend("a"));
    assert!(facts[0].checks.failures >= 3 && facts[0].checks.succeeded_before, "{facts:?}");
    engine.checked(5).await;
    assert!(wakes.is_empty(), "it is dead, and that is known");
    engine.health.store(200, Ordering::SeqCst);
    woken(&mut wakes).await;
    assert_eq!(outcomes(&engines), [Some(CheckOutcome::Healthy)]);
}

#[tokio::test]
async fn the_size_of_the_cache_is_read_once_for_each_start_of_an_engine() {
    let (engines, mut wakes) = engines();
    let engine = Engine::new();
    let address = engine.serve().await;
    let reads = || engine.reads_of_metrics.load(Ordering::SeqCst);
    engine.metrics.store(500, Ordering::SeqCst);
    engines.ensure(&backend("a"), often(), vec![pod(0, address)]);
    woken(&mut wakes).await;
    until(|| reads() >= 3).await;
    assert_eq!(engines.facts(&backend("a"))[0].kv_cache_tokens, None, "an answer that is none is asked for again");
    engine.metrics.store(200, Ordering::SeqCst);
    woken(&mut wakes).await;
    assert_eq!(engines.facts(&backend("a"))[0].kv_cache_tokens, Some(16_000));
    let read = reads();
    engine.checked(5).await;
    // Another plan, and another pod beside it.
    engines.ensure(&backend("a"), EnginePlan { model: "n".into(), ..often() }, vec![pod(0, address), pod(1, address)]);
    until(|| engines.facts(&backend("a")).iter().all(|facts| facts.kv_cache_tokens.is_some())).await;
    assert_eq!(reads(), read + 1, "only the other pod is asked");
    let again = EnginePod { restarts: 1, ..pod(0, address) };
    engines.ensure(&backend("a"), often(), vec![again]);
    until(|| reads() == read + 2).await;
    assert_eq!(engines.facts(&backend("a")).len(), 1, "a pod that is gone is forgotten");
}

#[tokio::test]
async fn what_is_known_stays_while_the_same_is_asked_and_goes_with_another_question() {
    let (engines, mut wakes) = engines();
    let address = Engine::new().serve().await;
    let backend = backend("a");
    engines.ensure(&backend, once(), vec![pod(0, address)]);
    for _ in 0..2 {
        woken(&mut wakes).await;
    }
    let known = |engines: &Engines| Arc::as_ptr(&engines.lock()[&backend].pods["pod-0"].known);
    let before = known(&engines);
    engines.ensure(&backend, once(), vec![pod(0, address)]);
    assert_eq!(known(&engines), before, "the same again changes nothing");
    engines.ensure(&backend, plan(HealthCheckType::ModelLoaded, Duration::from_secs(7200)), vec![pod(0, address)]);
    assert_eq!(outcomes(&engines), [Some(CheckOutcome::Healthy)]);
    engines.ensure(&backend, plan(HealthCheckType::Endpoint, Duration::from_secs(3600)), vec![pod(0, address)]);
    assert_eq!(outcomes(&engines), [None]);
    assert_eq!(engines.facts(&backend)[0].kv_cache_tokens, Some(16_000), "that is about the engine, not about the question");
}

#[tokio::test]
async fn pods_that_do_not_answer_keep_nobody_from_being_asked() {
    let (engines, mut wakes) = engines();
    let silent = serve_silence().await;
    let stuck = EnginePlan { settings: CheckSettings { timeout: Duration::from_secs(300), ..once().settings }, ..once() };
    engines.ensure(&backend("stuck"), stuck, (0..50).map(|number| pod(number, silent)).collect());
    engines.ensure(&backend("a"), once(), vec![pod(0, Engine::new().serve().await)]);
    assert_eq!(woken(&mut wakes).await, backend("a"));
    assert!(engines.facts(&backend("stuck")).iter().all(|facts| facts.checks.outcome.is_none()));
    let late = EnginePlan { settings: CheckSettings { timeout: Duration::from_millis(100), ..once().settings }, ..once() };
    engines.ensure(&backend("a"), late, vec![pod(1, serve_silence().await)]);
    until(|| matches!(outcomes(&engines).as_slice(), [Some(CheckOutcome::Failed { .. })])).await;
}

#[tokio::test]
async fn another_key_than_the_pods_have_is_refused_and_never_repeated() {
    let (engines, _wakes) = engines();
    let address = Engine::new().serve().await;
    for (key, expected) in [("canary-of-another-key", "Unauthorized"), ("canary\u{1}", "Failed")] {
        engines.ensure(&backend("a"), EnginePlan { key: Some(key.into()), ..once() }, vec![pod(0, address)]);
        until(|| matches!(outcomes(&engines).as_slice(), [Some(_)])).await;
        let told = format!("{:?}", outcomes(&engines));
        assert!(told.contains(expected) && !told.contains("canary"), "{told}");
        engines.forget(&backend("a"));
    }
}

#[tokio::test]
async fn an_address_that_may_not_be_reached_is_not_and_says_why() {
    let (engines, mut wakes) = engines_under(Connector::new(strict(), None));
    engines.ensure(&backend("a"), once(), vec![pod(0, "127.0.0.1:8000".parse().unwrap())]);
    woken(&mut wakes).await;
    let outcome = outcomes(&engines).pop().unwrap().unwrap();
    assert!(matches!(&outcome, CheckOutcome::NotAllowed { message } if message.contains("loopback")), "{outcome:?}");
}

#[tokio::test]
async fn a_paused_backend_is_not_asked_and_keeps_what_was_found() {
    let (engines, mut wakes) = engines();
    let engine = Engine::new();
    let address = engine.serve().await;
    engines.ensure(&backend("a"), often(), vec![pod(0, address)]);
    for _ in 0..2 {
        woken(&mut wakes).await;
    }
    let known = Arc::downgrade(&engines.lock()[&backend("a")].pods["pod-0"].known);
    engines.pause(&backend("a"));
    // The task holds what is known as well, until it has ended.
    until(|| known.strong_count() == 1).await;
    let before = engine.checks();
    assert_eq!(outcomes(&engines), [Some(CheckOutcome::Healthy)]);
    engines.ensure(&backend("a"), often(), vec![pod(0, address)]);
    until(|| engine.checks() > before).await;
    let plan = Arc::downgrade(&engines.lock()[&backend("a")].plan);
    engines.forget(&backend("a"));
    assert!(engines.facts(&backend("a")).is_empty());
    until(|| plan.upgrade().is_none()).await;
}
