//! How routes are applied and waited for, and what they are made of in these tests.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use quartermaster_dev::local_node::node;
use quartermaster_dev::model_server::{Face, ModelServer, Settings};
use serde_json::{Value, json};

use super::rights::GATEWAY_IMAGE;
use crate::harness::{DEADLINE, Operator, Team, condition, resource};

/// The model of every simulated server.
pub const MODEL: &str = "gpt-4o";

/// The configuration of the operators of these tests: the model servers are on this machine, and gateways have an image.
pub fn configuration() -> String {
    format!("destinations: {{allowLoopback: true}}\n{GATEWAY_IMAGE}")
}

impl Team {
    /// An operator that makes gateways. They are pictures until [`Team::run_gateways`].
    pub async fn operator_of_routes(&self) -> Operator {
        self.operator_with(&configuration(), &[]).await
    }

    /// Has the gateway of this namespace run on the local node, with this many replicas.
    pub fn run_gateways(&self, replicas: u32) {
        self.set_gateway(on_local_node(replicas));
    }

    /// What the users of this namespace set of their gateway, in place of what they have set.
    pub fn set_gateway(&self, data: Value) {
        let settings = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "quartermaster-gateway" }, "data": data,
        });
        let (code, said) =
            self.kubectl_with_input(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &settings.to_string());
        assert_eq!(code, 0, "{said}");
    }

    /// Creates or changes a route.
    pub async fn apply_route(&self, name: &str, spec: Value) -> DynamicObject {
        self.try_apply_route(name, spec).await.unwrap()
    }

    /// The same, with the API server's refusal.
    pub async fn try_apply_route(&self, name: &str, spec: Value) -> Result<DynamicObject, kube::Error> {
        let object = json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "ModelRoute",
            "metadata": { "name": name }, "spec": spec,
        });
        self.routes().patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await
    }

    /// Waits until a route's state holds; prints the object and the events when it does not.
    pub async fn until_route(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.until_in(&self.routes(), name, what, holds).await
    }

    /// Waits until a condition of a route has this status and reason for its newest generation.
    pub async fn until_route_says(&self, name: &str, type_: &str, status: &str, reason: &str) -> Value {
        self.until_route(name, &format!("{type_}={status} reason={reason}"), |route| says(route, type_, status, reason)).await
    }

    /// Waits until every replica of the gateway goes by the newest generation of a route.
    pub async fn until_programmed(&self, name: &str) -> Value {
        self.until_route_says(name, "Programmed", "True", "Programmed").await
    }

    /// Waits until the newest route that is made from now on is younger than this one: creation times count seconds.
    pub async fn until_older(&self, name: &str) {
        let route = self.until_route(name, "exist", Value::is_object).await;
        let made: Timestamp = route["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap();
        while Timestamp::now().as_second() <= made.as_second() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The plan of this namespace, as gateways mount it; null before there is one.
    pub async fn plan(&self) -> Value {
        let map = self.config_maps().get_opt("quartermaster-gateway-plan").await.unwrap();
        map.map(|map| plan_of(&serde_json::to_value(map).unwrap())).unwrap_or_default()
    }

    /// Waits until the plan holds.
    pub async fn until_plan(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let map = self
            .until_in(&self.config_maps(), "quartermaster-gateway-plan", what, |map| map.is_object() && holds(&plan_of(map)))
            .await;
        plan_of(&map)
    }

    /// The ConfigMaps.
    pub fn config_maps(&self) -> Api<DynamicObject> {
        self.api(&resource("", "v1", "ConfigMap", "configmaps"))
    }

    /// The Secrets.
    pub fn secrets(&self) -> Api<DynamicObject> {
        self.api(&resource("", "v1", "Secret", "secrets"))
    }

    /// Waits until exactly one Warning Event about a route has this reason and the words of its condition Ready.
    pub async fn until_route_told_once(&self, route: &str, reason: &str) {
        let told = async || {
            let events = self.api(&resource("events.k8s.io", "v1", "Event", "events")).list(&ListParams::default()).await.unwrap();
            let events = events.items.into_iter().map(|event| serde_json::to_value(event).unwrap());
            let about = |event: &Value| event["regarding"]["kind"] == "ModelRoute" && event["regarding"]["name"] == route;
            events.filter(|event| about(event) && event["type"] == "Warning" && event["reason"] == reason).collect::<Vec<_>>()
        };
        let started = Instant::now();
        loop {
            let warnings = told().await;
            let object = self.until_route(route, "exist", Value::is_object).await;
            let message = &condition(&object, "Ready").unwrap()["message"];
            if let [warning] = warnings.as_slice()
                && warning["note"] == *message
            {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "nothing tells {reason} of {route} once: {warnings:#?}\n{object:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn plan_of(map: &Value) -> Value {
    map.pointer("/data/plan.json").and_then(Value::as_str).map(|plan| serde_json::from_str(plan).unwrap()).unwrap_or_default()
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

/// Settings of a gateway by which its replicas run on the local node.
pub fn on_local_node(replicas: u32) -> Value {
    json!({
        "replicas": replicas.to_string(),
        "nodeSelector": format!("kubernetes.io/hostname: {}", node::NAME),
        "tolerations": format!("[{{key: {}, operator: Exists}}]", node::TAINT),
    })
}

/// A simulated server of vLLM's shape, which has the paths of both APIs, with the one model, in this process, that asks for no key.
pub async fn server() -> ModelServer {
    server_with(&[]).await
}

/// The same that accepts only these keys.
pub async fn server_with(keys: &[&str]) -> ModelServer {
    let api_keys = keys.iter().map(|key| (*key).to_owned()).collect();
    // As a hosted provider, for which the gateway takes it.
    let keep_alive = Duration::from_secs(60);
    ModelServer::start(Settings { api_keys, keep_alive, ..Settings::new(Face::Vllm, &[MODEL]) }).await.unwrap()
}

/// A backend that a server of this process answers, in these formats; without any in those of its provider.
pub fn answered_by(server: &ModelServer, formats: &[&str]) -> Value {
    json!({
        "external": {
            "provider": "OpenAICompatible", "model": MODEL, "baseURL": server.url("/v1"), "formats": formats,
        },
        "healthCheck": { "interval": "1s" },
    })
}

/// The same, with a key that stands in the Secret of this name under `key`.
pub fn with_key(mut backend: Value, name: &str, secret: &str) -> Value {
    backend["external"]["apiKeys"] = json!([{ "name": name, "secretKeyRef": { "name": secret, "key": "key" } }]);
    backend
}

/// A route whose calls these backends answer.
pub fn to(backends: &[&str]) -> Value {
    json!({ "backends": backends.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>() })
}

/// A pool without a workload whose key may call these routes.
pub fn calls(routes: &[&str]) -> Value {
    json!({ "modelRoutes": routes.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>() })
}

/// A spec with other or further fields.
pub fn with(mut spec: Value, more: Value) -> Value {
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}
