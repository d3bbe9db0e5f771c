//! How pools are applied and waited for, and what they are made of in these tests.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Operator, Team, condition, resource};
use crate::versions::Watched;

/// The configuration of the operators of these tests: the servers are on this machine.
pub const LOOPBACK: &str = "destinations: {allowLoopback: true}";

impl Team {
    /// An operator that may reach the servers of the test.
    pub async fn operator_of_pools(&self) -> Operator {
        self.operator_with(LOOPBACK, &[]).await
    }

    /// Creates or changes a pool.
    pub async fn apply_pool(&self, name: &str, spec: Value) -> DynamicObject {
        self.try_apply_pool(name, spec).await.unwrap()
    }

    /// The same, with the API server's refusal.
    pub async fn try_apply_pool(&self, name: &str, spec: Value) -> Result<DynamicObject, kube::Error> {
        let object = json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "AgentPool",
            "metadata": { "name": name }, "spec": spec,
        });
        self.pools().patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await
    }

    /// Changes fields of a pool by a JSON merge patch: null takes one away.
    pub async fn change_pool(&self, name: &str, spec: Value) {
        let patch = json!({ "spec": spec });
        self.pools().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    /// Waits until a pool's state holds; prints the object and the events when it does not.
    pub async fn until_pool(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.until_in(&self.pools(), name, what, holds).await
    }

    /// Waits until a condition of a pool has this status and reason for its newest generation.
    pub async fn until_says(&self, name: &str, type_: &str, status: &str, reason: &str) -> Value {
        self.until_pool(name, &format!("{type_}={status} reason={reason}"), |pool| says(pool, type_, status, reason)).await
    }

    /// Waits until the Deployment of a pool is to have this many replicas.
    pub async fn until_replicas(&self, pool: &str, replicas: u64) -> Value {
        let what = format!("{replicas} replicas");
        let holds = |deployment: &Value| deployment["spec"]["replicas"] == replicas;
        self.until_in(&self.deployments(), &format!("{pool}-pool"), &what, holds).await
    }

    /// Waits until this many pods of a pool are ready and no other is left; returns their names, in the order of their names.
    pub async fn until_agents(&self, pool: &str, number: usize) -> Vec<String> {
        self.until_pods(&format!("quartermaster.dev/agent-pool={pool}"), number).await
    }

    /// The same of the pods that a selector selects.
    pub async fn until_pods(&self, selector: &str, number: usize) -> Vec<String> {
        let pods = self.api(&resource("", "v1", "Pod", "pods"));
        let started = Instant::now();
        loop {
            let found = pods.list(&ListParams::default().labels(selector)).await.unwrap().items;
            let found: Vec<Value> = found.into_iter().map(|pod| serde_json::to_value(pod).unwrap()).collect();
            let is_ready = |pod: &Value| condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True");
            let lives = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
            if found.len() == number && found.iter().all(|pod| is_ready(pod) && lives(pod)) {
                let mut names: Vec<String> = found.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect();
                names.sort();
                return names;
            }
            let told = || self.kubectl(&["get", "agentpools,deployments,pods,events", "-o", "wide"]);
            assert!(started.elapsed() < DEADLINE, "never {number} ready pods with {selector}\n{}", told());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Begins to watch the Deployments.
    pub async fn watch_deployments(&self) -> Watched {
        Watched::begin(self.deployments()).await.unwrap()
    }

    /// Begins to watch the pods.
    pub async fn watch_pods(&self) -> Watched {
        Watched::begin(self.api(&resource("", "v1", "Pod", "pods"))).await.unwrap()
    }

    /// The Warning Events about a pool.
    pub async fn warnings_about(&self, pool: &str) -> Vec<Value> {
        let events = self.api(&resource("events.k8s.io", "v1", "Event", "events")).list(&ListParams::default()).await.unwrap();
        let events = events.items.into_iter().map(|event| serde_json::to_value(event).unwrap());
        let about = |event: &Value| event["regarding"]["kind"] == "AgentPool" && event["regarding"]["name"] == pool;
        events.filter(|event| event["type"] == "Warning" && about(event)).collect()
    }

    /// Waits until a Warning Event about a pool has this reason, and fails where there is another one of it: something that
    /// lasts is told once. Its note has the condition's words.
    pub async fn until_told_once(&self, pool: &str, type_: &str, reason: &str) {
        let started = Instant::now();
        let of_reason = async || {
            let mut warnings = self.warnings_about(pool).await;
            warnings.retain(|warning| warning["reason"] == reason);
            warnings
        };
        while of_reason().await.is_empty() {
            let all = self.kubectl(&["get", "events", "-o", "wide"]);
            assert!(started.elapsed() < DEADLINE, "nothing tells {reason} of {pool}\n{all}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Events are told in the background: a second one would follow soon.
        self.until_quiet(Duration::from_secs(1)).await;
        let warnings = of_reason().await;
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        assert!(warnings[0].get("series").is_none_or(Value::is_null), "{pool} is told again: {warnings:#?}");
        let object = self.until_pool(pool, "exist", Value::is_object).await;
        let message = condition(&object, type_).unwrap()["message"].as_str().unwrap();
        assert_eq!(warnings[0]["note"], message, "the Event of {pool} says something else");
    }
}

/// Whether a condition of an object has this status and reason for its newest generation.
pub fn says(object: &Value, type_: &str, status: &str, reason: &str) -> bool {
    condition(object, type_).is_some_and(|condition| {
        condition["status"] == status
            && condition["reason"] == reason
            && condition["observedGeneration"] == object["metadata"]["generation"]
    })
}

/// The words of a condition.
pub fn message(object: &Value, type_: &str) -> String {
    let condition = condition(object, type_).unwrap_or_else(|| panic!("no condition {type_}: {object:#}"));
    condition["message"].as_str().unwrap().to_owned()
}

/// Agents that only seem to run: kwok plays their kubelet, and a test takes the tasks in their place.
pub fn pictures() -> Value {
    json!({ "spec": { "containers": [{ "name": "agent", "image": "registry.example/agent:1.4" }] } })
}

/// `spec.scaling` that follows the queue at once: as many replicas as there are tasks.
pub fn at_once() -> Value {
    one_for(1)
}

/// The same with this many tasks for each replica.
pub fn one_for(tasks: u32) -> Value {
    json!({
        "proportional": { "tasksPerReplica": tasks }, "pollInterval": "1s", "cooldown": "2s",
        "behavior": {
            "scaleUp": { "policies": [{ "type": "Pods", "value": 1000, "periodSeconds": 1 }] },
            "scaleDown": { "stabilizationWindowSeconds": 0, "tolerance": "0" },
        },
    })
}

/// A pool of pictures on these queues.
pub fn pool(queues: Value) -> Value {
    json!({ "template": pictures(), "queues": queues, "scaling": at_once() })
}

/// A spec with other or further fields.
pub fn with(mut spec: Value, more: Value) -> Value {
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

/// How often the replicas became fewer, in their order.
pub fn falls(replicas: &[(Timestamp, u64)]) -> usize {
    replicas.windows(2).filter(|pair| pair[1].1 < pair[0].1).count()
}
