//! A Prometheus whose answer is not one number of tasks: what the pool says, and that its replicas stay where they are.

use serde_json::json;

use super::bad_queues::{Case, each_is_answered};
use super::harness::{pool, with};
use super::prometheus::Prometheus;
use crate::harness::Team;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_prometheus_that_is_not_one_number_is_told_and_changes_no_replicas() {
    let (team, prometheus) = (Team::new("bad-answers").await, Prometheus::serve().await);
    let operator = team.operator_of_pools().await;
    let asked = |how: &str| prometheus.query(how);
    let cases: Vec<Case> = vec![
        ("error", asked("error"), "UnexpectedAnswer", vec!["refuses the query", "parse error", "spec.queues[tasks]"]),
        ("two", asked("two"), "UnexpectedAnswer", vec!["2 series", "sum(...)"]),
        ("nan", asked("nan"), "NoData", vec!["NaN", "check the query"]),
        ("empty", asked("empty"), "NoData", vec!["finds no series", "whenEmpty"]),
        ("negative", asked("negative"), "UnexpectedAnswer", vec!["-5", "clamp_min"]),
        ("page", asked("page"), "UnexpectedAnswer", vec!["none of Prometheus's query API"]),
        ("breaks", asked("breaks"), "Unreachable", vec!["502", "check the url"]),
        ("refuses", asked("refuses"), "Unauthorized", vec!["401"]),
        ("hangs", asked("hangs"), "Unreachable", vec!["within 3s"]),
    ];
    each_is_answered(&team, &operator, |name| prometheus.query_of("good", name), cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scalar_is_a_number_and_an_empty_answer_is_zero_only_where_the_spec_says_so() {
    let (team, prometheus) = (Team::new("good-answers").await, Prometheus::serve().await);
    let _operator = team.operator_of_pools().await;
    team.apply_pool("scalar", pool(prometheus.query("scalar"))).await;
    team.apply_pool("vector", pool(prometheus.query("good"))).await;
    let mut empty = prometheus.query("empty");
    empty[0]["prometheus"]["whenEmpty"] = json!("Zero");
    team.apply_pool("zero", with(pool(empty), json!({ "replicas": 2 }))).await;
    for (name, depth) in [("scalar", 2), ("vector", 2), ("zero", 0)] {
        let read = team.until_says(name, "MetricsAvailable", "True", "QueuesRead").await;
        assert_eq!(read["status"]["queueDepth"], depth, "{name}");
        assert!(read["status"]["inFlight"].is_null(), "{name} tells what Prometheus does not say");
        team.until_replicas(name, 2).await;
    }
    // From now on the queue decides, which is empty.
    team.change_pool("zero", json!({ "replicas": null })).await;
    team.until_replicas("zero", 0).await;
    for name in ["scalar", "vector"] {
        let said = team.until_says(name, "ScalingActive", "True", "QueuesFollowed").await;
        let decision = said["status"]["decision"].as_str().unwrap();
        assert_eq!(decision, "2 by queue tasks (2 waiting, in flight not known, 1 per replica)");
    }
}
