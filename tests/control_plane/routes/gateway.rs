//! The replicas of a gateway that really run on the local node, and whoever calls them.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::{DynamicObject, ListParams};
use quartermaster_dev::local_node::logs;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Team, condition, resource};

/// The label of a gateway's pods.
pub const PODS: &str = "quartermaster.dev/gateway";
/// The longest time of one call. None of these tests has an answer that takes as long.
const CALL: Duration = Duration::from_secs(60);

/// A replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// Name of the pod.
    pub pod: String,
    /// Its address.
    pub address: IpAddr,
}

impl Replica {
    /// Where calls are answered.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}:4000{path}", self.address)
    }

    /// Its metrics.
    pub async fn metrics(&self) -> String {
        client().get(format!("http://{}:8080/metrics", self.address)).send().await.unwrap().text().await.unwrap()
    }

    /// The hash of the plan that it goes by.
    pub async fn plan(&self) -> Option<String> {
        let metrics = self.metrics().await;
        let line = metrics.lines().find(|line| line.starts_with("quartermaster_gateway_plan_info{"))?;
        Some(line.split('"').nth(1)?.to_owned())
    }
}

/// A client that goes to where it is told, by no proxy.
pub fn client() -> Client {
    quartermaster::sources::connect::install_cryptography();
    Client::builder().no_proxy().timeout(CALL).build().unwrap()
}

impl Team {
    /// The replicas that answer now, as the endpoints of the Service would have them.
    pub async fn replicas(&self) -> Vec<Replica> {
        self.gateway_pods().await.iter().filter_map(answering).collect()
    }

    /// Waits until this many replicas answer, and no other pod is left.
    pub async fn until_gateways(&self, number: usize) -> Vec<Replica> {
        let started = Instant::now();
        loop {
            let pods = self.gateway_pods().await;
            let replicas: Vec<Replica> = pods.iter().filter_map(answering).collect();
            if replicas.len() == number && pods.len() == number {
                return replicas;
            }
            let told = || self.kubectl(&["get", "modelroutes,deployments,pods,events", "-o", "wide"]);
            assert!(started.elapsed() < DEADLINE, "never {number} gateways\n{}", told());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn gateway_pods(&self) -> Vec<Value> {
        let pods = self.api(&resource("", "v1", "Pod", "pods"));
        let found = pods.list(&ListParams::default().labels(PODS)).await.unwrap().items;
        found.into_iter().map(|pod| serde_json::to_value(pod).unwrap()).collect()
    }

    /// All that the replicas have printed which were there when this was asked.
    pub async fn gateway_logs(&self) -> String {
        let mut text = String::new();
        for pod in self.gateway_pods().await {
            let pod = pod["metadata"]["name"].as_str().unwrap();
            for log in logs::of_pod(&self.connection, &self.namespace, pod).unwrap() {
                text += &std::fs::read_to_string(log).unwrap();
            }
        }
        text
    }

    /// The key of a pool, once it has one.
    pub async fn key_of(&self, pool: &str) -> String {
        let name = format!("{pool}-caller");
        let secret = self.until_in(&self.secrets(), &name, "exist", Value::is_object).await;
        entry(&secret, "OPENAI_API_KEY")
    }

    /// Waits until every replica answers calls of a key in this way: it is known there, or not.
    pub async fn until_known(&self, key: &str, known: bool) {
        let started = Instant::now();
        loop {
            let mut all = true;
            let replicas = self.replicas().await;
            for replica in &replicas {
                let asked = client().get(replica.url("/v1/models")).bearer_auth(key).send().await.unwrap();
                all &= (asked.status() != 401) == known;
            }
            if all && !replicas.is_empty() {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "the key never comes to be known={known}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The replica that a pod is, while it is ready and is to stay.
pub fn answering(pod: &Value) -> Option<Replica> {
    let ready = condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True");
    if !ready || !pod["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let address = pod.pointer("/status/podIP")?.as_str()?.parse().ok()?;
    Some(Replica { pod: pod["metadata"]["name"].as_str()?.to_owned(), address })
}

/// The processes of a replica on this machine, which are found by what the pod's environment says.
pub fn processes_of(pod: &str) -> Vec<u32> {
    let name = format!("POD_NAME={pod}");
    let is_it = |process: &u32| {
        let file = |name: &str| std::fs::read(format!("/proc/{process}/{name}")).unwrap_or_default();
        let has = |bytes: &[u8], wanted: &[u8]| bytes.split(|byte| *byte == 0).any(|part| part == wanted);
        has(&file("environ"), name.as_bytes()) && has(&file("cmdline"), b"gateway")
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).filter(is_it).collect()
}

/// Sends processes a signal, by the name that `kill` knows. Those that have ended meanwhile do not mind.
pub fn signal(processes: &[u32], name: &str) {
    for process in processes {
        let _ = Command::new("kill").args([format!("-{name}"), process.to_string()]).status();
    }
}

/// An entry of a Secret.
pub fn entry(secret: &Value, name: &str) -> String {
    let data = secret.pointer(&format!("/data/{name}")).unwrap_or_else(|| panic!("no entry {name}")).as_str().unwrap();
    String::from_utf8(STANDARD.decode(data).unwrap()).unwrap()
}

/// All entries of a Secret that are text.
pub fn entries(secret: &DynamicObject) -> Vec<(String, String)> {
    let data = secret.data["data"].as_object().cloned().unwrap_or_default();
    let text = |value: &Value| String::from_utf8(STANDARD.decode(value.as_str()?).ok()?).ok();
    data.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

/// The body of a call with this prompt.
pub fn chat(model: &str, prompt: &str) -> Value {
    json!({ "model": model, "max_tokens": 12, "messages": [{ "role": "user", "content": prompt }] })
}

/// The same as a stream.
pub fn stream(model: &str, prompt: &str) -> Value {
    let mut body = chat(model, prompt);
    body["stream"] = json!(true);
    body
}

/// Calls a replica by OpenAI's API.
pub async fn call(replica: &Replica, key: &str, body: &Value) -> Response {
    client().post(replica.url("/v1/chat/completions")).bearer_auth(key).json(body).send().await.unwrap()
}

/// Calls a replica, and returns the backend that has answered; fails where none has.
pub async fn answered(replica: &Replica, key: &str, model: &str) -> String {
    let answer = call(replica, key, &chat(model, "hello")).await;
    let backend = answer.headers().get("x-quartermaster-backend").map(|name| name.to_str().unwrap().to_owned());
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status == 200 && text.contains("choices"), "{status}: {text}");
    backend.unwrap()
}
