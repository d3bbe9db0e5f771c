//! URLs of queues under the rules for destinations: nobody borrows the operator's place in the network.

use serde_json::{Value, json};

use super::harness::{at_once, message, pictures};
use super::prometheus::Prometheus;
use super::redis::{Redis, TASKS};
use crate::harness::Team;

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_at_an_address_that_nobody_may_borrow_the_operator_for_is_never_called() {
    let (team, redis, prometheus) = (Team::new("pool-urls").await, Redis::start().await, Prometheus::serve().await);
    let mut queue = redis.connect().await;
    queue.push(TASKS, 5).await;
    let deployments = team.watch_deployments().await;
    let environment = [("KUBERNETES_SERVICE_HOST", "10.96.0.1"), ("POD_IP", "10.1.2.3")];
    // Without the flag for development.
    let operator = team.operator_with("", &environment).await;
    let endpoint =
        team.kubectl(&["get", "-n", "default", "endpointslice", "kubernetes", "-o", "jsonpath={.endpoints[0].addresses[0]}"]);
    assert!(endpoint.parse::<std::net::IpAddr>().is_ok(), "{endpoint}");
    let at = |url: String| json!([{ "name": "tasks", "redisList": { "url": url, "keys": [TASKS] } }]);
    let query = |url: &str| json!([{ "name": "tasks", "prometheus": { "url": url, "query": "tasks" } }]);
    let cases: Vec<(&str, Value, &str)> = vec![
        ("other-namespace", at("redis://redis.other.svc:6379".to_owned()), "may not be named from"),
        ("metadata", at("redis://169.254.169.254:80".to_owned()), "a link-local address"),
        ("metadata-http", query("http://169.254.169.254"), "a link-local address"),
        ("metadata-name", query("http://metadata.google.internal"), "a metadata service"),
        ("loopback", at(redis.url()), "a loopback address"),
        ("loopback-name", at(format!("redis://localhost:{}", redis.port())), "this machine"),
        ("loopback-short", at(format!("redis://127.1:{}", redis.port())), "a loopback address"),
        ("loopback-http", prometheus.query("good"), "a loopback address"),
        ("api-server", at(format!("redis://{endpoint}:6443")), "the API server's address"),
        ("api-server-service", query("https://10.96.0.1"), "the API server's address"),
        ("api-server-name", at("redis://kubernetes.default.svc:443".to_owned()), "the API server"),
        ("operator", at("redis://10.1.2.3:8080".to_owned()), "the operator's own address"),
    ];
    let spec = |queues: &Value| json!({ "template": pictures(), "queues": queues, "scaling": at_once(), "minReplicas": 1 });
    team.apply_pool("innocent", json!({ "template": pictures(), "replicas": 2 })).await;
    team.until_says("innocent", "Ready", "True", "Available").await;
    for (name, queues, _) in &cases {
        team.apply_pool(name, spec(queues)).await;
    }
    for (name, _, words) in &cases {
        let said = team.until_says(name, "MetricsAvailable", "False", "EndpointNotAllowed").await;
        let message = message(&said, "MetricsAvailable");
        assert!(message.contains(words) || message.contains("a metadata service's address"), "{name}: {message}");
        assert!(message.contains("spec.queues[tasks]") && message.contains("a Service of this namespace"), "{name}: {message}");
        team.until_replicas(name, 1).await;
    }
    for (name, ..) in &cases {
        team.until_told_once(name, "MetricsAvailable", "EndpointNotAllowed").await;
        let replicas = deployments.replicas_of(&format!("{name}-pool"));
        assert!(replicas.iter().all(|(_, replicas)| *replicas == 1), "{name}: {replicas:?}");
    }
    assert_eq!(queue.others().await, Vec::<String>::new(), "Redis was connected to");
    assert_eq!(queue.calls("llen").await, 0);
    assert_eq!(prometheus.questions.load(std::sync::atomic::Ordering::SeqCst), 0);
    team.until_says("innocent", "Ready", "True", "Available").await;
    assert!(operator.leads().await);
}
