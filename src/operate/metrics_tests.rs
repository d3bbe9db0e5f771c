use jiff::Timestamp;
use quartermaster_core::decide::account::Unit;
use quartermaster_core::decide::gateway::exchange::usage::Series;

use super::*;
use crate::operate::key::ObjectKey;

#[tokio::test(start_paused = true)]
async fn what_changes_with_the_time_is_looked_at_when_somebody_asks() {
    let metrics = Metrics::new("1.2.3").unwrap();
    let queue = Arc::new(Queue::default());
    metrics.show_queue("InferenceBackend", queue.clone());
    let (one, other, nodes) = (metrics.watch("pods"), metrics.watch("pods"), metrics.watch("nodes"));
    queue.add(ObjectKey::new("team", "a"));
    for watch in [&one, &nodes] {
        watch.synced();
        watch.delivered();
    }
    tokio::time::advance(Duration::from_secs(5)).await;
    nodes.delivered();
    tokio::time::advance(Duration::from_secs(2)).await;
    let text = String::from_utf8(metrics.text().unwrap()).unwrap();
    for line in [
        r#"quartermaster_queue_depth{kind="InferenceBackend"} 1"#,
        r#"quartermaster_oldest_item_age_seconds{kind="InferenceBackend"} 7"#,
        r#"quartermaster_store_synced{kind="pods"} 0"#,
        r#"quartermaster_store_synced{kind="nodes"} 1"#,
        r#"quartermaster_watch_last_event_age_seconds{kind="pods"} 7"#,
        r#"quartermaster_watch_last_event_age_seconds{kind="nodes"} 2"#,
    ] {
        assert!(text.lines().any(|present| present == line), "{line} is missing in\n{text}");
    }
    other.synced();
    queue.next().await;
    let text = String::from_utf8(metrics.text().unwrap()).unwrap();
    for line in [
        r#"quartermaster_queue_depth{kind="InferenceBackend"} 0"#,
        r#"quartermaster_oldest_item_age_seconds{kind="InferenceBackend"} 0"#,
        r#"quartermaster_store_synced{kind="pods"} 1"#,
    ] {
        assert!(text.lines().any(|present| present == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn what_happened_is_what_prometheus_reads() {
    let metrics = Metrics::new("1.2.3").unwrap();
    metrics.reconciled("InferenceBackend", "success", Duration::from_millis(3));
    metrics.clone().reconciled("InferenceBackend", "ApplyRefused", Duration::from_secs(2));
    metrics.panicked("InferenceBackend");
    metrics.timed_out("InferenceBackend");
    metrics.called_api("apply", "deployments", Some(409));
    metrics.called_api("get", "leases", None);
    metrics.skipped_apply("Deployment");
    metrics.decided_status("InferenceBackend", true);
    metrics.decided_status("InferenceBackend", false);
    metrics.restarted_watch("Node");
    metrics.set_invalid_objects("InferenceBackend", 2);
    metrics.set_schema_outdated("InferenceBackend", true);
    metrics.polled("redis", 1, Duration::from_millis(3));
    let pool = ObjectKey::new("team", "coder");
    metrics.show_pools(move |figures| {
        figures.replicas(&pool, "desired", Some(3));
        figures.tasks(&pool, "tasks", "waiting", Some(58));
        figures.tasks(&pool, "tasks", "in_flight", None);
    });
    let series = Series { caller: "coder".to_owned(), route: "smart-router".to_owned(), backend: "qwen".to_owned() };
    let caller = CallerSeries { namespace: "team".to_owned(), series };
    let used = Counts { input: 100, output: 7, cached_input: 90, estimated: 40, ..Counts::default() };
    let gone = CallerSeries { namespace: "gone".to_owned(), ..caller.clone() };
    let told = Arc::new(Mutex::new(BTreeMap::from([(caller, used), (gone.clone(), used)])));
    metrics.show_callers({
        let told = told.clone();
        move || lock(&told).clone()
    });
    assert!(String::from_utf8(metrics.text().unwrap()).unwrap().contains(r#"namespace="gone""#));
    // What is told is a sum: looking twice counts nothing twice. What is no longer told is no longer shown.
    lock(&told).remove(&gone);
    metrics.set_leader(true);
    metrics.set_leader(false);
    metrics.failed_lease_request();
    let text = String::from_utf8(metrics.text().unwrap()).unwrap();
    for line in [
        r#"quartermaster_reconciles_total{kind="InferenceBackend",outcome="success"} 1"#,
        r#"quartermaster_reconciles_total{kind="InferenceBackend",outcome="ApplyRefused"} 1"#,
        r#"quartermaster_reconcile_duration_seconds_count{kind="InferenceBackend"} 2"#,
        r#"quartermaster_reconcile_duration_seconds_bucket{kind="InferenceBackend",le="0.005"} 1"#,
        r#"quartermaster_reconcile_panics_total{kind="InferenceBackend"} 1"#,
        r#"quartermaster_reconcile_timeouts_total{kind="InferenceBackend"} 1"#,
        r#"quartermaster_api_calls_total{code="409",resource="deployments",verb="apply"} 1"#,
        r#"quartermaster_api_calls_total{code="none",resource="leases",verb="get"} 1"#,
        r#"quartermaster_applies_skipped_total{kind="Deployment"} 1"#,
        r#"quartermaster_status_writes_total{changed="true",kind="InferenceBackend"} 1"#,
        r#"quartermaster_status_writes_total{changed="false",kind="InferenceBackend"} 1"#,
        r#"quartermaster_watch_restarts_total{kind="Node"} 1"#,
        r#"quartermaster_invalid_objects{kind="InferenceBackend"} 2"#,
        r#"quartermaster_schema_outdated{kind="InferenceBackend"} 1"#,
        r#"quartermaster_queue_polls_total{system="redis"} 1"#,
        r#"quartermaster_queue_poll_failures_total{system="redis"} 1"#,
        r#"quartermaster_queue_poll_duration_seconds_count{system="redis"} 1"#,
        r#"quartermaster_agent_pool_replicas{namespace="team",pool="coder",state="desired"} 3"#,
        r#"quartermaster_agent_pool_tasks{namespace="team",pool="coder",queue="tasks",state="waiting"} 58"#,
        r#"quartermaster_caller_tokens_total{backend="qwen",direction="input",namespace="team",pool="coder",route="smart-router"} 100"#,
        r#"quartermaster_caller_tokens_total{backend="qwen",direction="output",namespace="team",pool="coder",route="smart-router"} 7"#,
        r#"quartermaster_caller_estimated_tokens_total{backend="qwen",namespace="team",pool="coder",route="smart-router"} 40"#,
        "quartermaster_leader 0",
        "quartermaster_lease_failures_total 1",
        r#"quartermaster_build_info{version="1.2.3"} 1"#,
    ] {
        assert!(text.lines().any(|present| present == line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains(r#"namespace="gone""#), "{text}");
}

#[test]
fn what_is_told_of_budgets_is_shown_and_goes_with_them() {
    let metrics = Metrics::new("1.2.3").unwrap();
    let series = Series { caller: "coder".to_owned(), route: "smart-router".to_owned(), backend: "qwen".to_owned() };
    let used = BTreeMap::from([(
        CallerSeries { namespace: "team".to_owned(), series },
        Counts { input: 100, output: 7, ..Counts::default() },
    )]);
    metrics.show_callers({
        let used = used.clone();
        move || used.clone()
    });
    let exists = Arc::new(Mutex::new(true));
    metrics.show_budgets({
        let exists = exists.clone();
        move |figures, callers| {
            assert_eq!(*callers, used, "they are given what is shown of callers");
            if !*lock(&exists) {
                return;
            }
            let budget = ObjectKey::new("team", "sprint");
            figures.tokens_used(&budget, "coder", 100, 7);
            figures.limit(&budget, Unit::Tokens, 5_000_000, 1_310_000);
            figures.limit(&budget, Unit::Cost, 250_000_000, 300_000_000);
            figures.exhausted(&budget, true);
            figures.exceeded(&budget, 3);
            figures.projected_exhaustion(&budget, Timestamp::from_second(1_796_000_000).unwrap());
            figures.usage_known(&budget, true);
        }
    });
    let lines = [
        r#"quartermaster_tokens_used_total{budget="sprint",direction="input",namespace="team",pool="coder"} 100"#,
        r#"quartermaster_tokens_used_total{budget="sprint",direction="output",namespace="team",pool="coder"} 7"#,
        r#"quartermaster_token_budget_limit{budget="sprint",namespace="team",unit="tokens"} 5000000"#,
        r#"quartermaster_token_budget_remaining{budget="sprint",namespace="team",unit="tokens"} 3690000"#,
        r#"quartermaster_token_budget_limit{budget="sprint",namespace="team",unit="cost"} 250"#,
        r#"quartermaster_token_budget_remaining{budget="sprint",namespace="team",unit="cost"} 0"#,
        r#"quartermaster_token_budget_exhausted{budget="sprint",namespace="team"} 1"#,
        r#"quartermaster_token_budget_exceeded_total{budget="sprint",namespace="team"} 3"#,
        r#"quartermaster_token_budget_projected_exhaustion_timestamp_seconds{budget="sprint",namespace="team"} 1796000000"#,
        r#"quartermaster_token_budget_usage_known{budget="sprint",namespace="team"} 1"#,
    ];
    for _ in 0..2 {
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        for line in lines {
            assert!(text.lines().any(|present| present == line), "{line} is missing in\n{text}");
        }
    }
    *lock(&exists) = false;
    let text = String::from_utf8(metrics.text().unwrap()).unwrap();
    assert!(!text.contains(r#"budget="sprint""#), "{text}");
}
