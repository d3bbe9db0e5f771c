//! What the leader shows of callers' tokens is what servers counted, whoever ends in between.

use std::time::{Duration, Instant};

use kube::api::ListParams;
use quartermaster_dev::local_node::node;
use quartermaster_dev::model_server::{Break, Face, Fault, Match, ModelServer, Place, Settings};
use reqwest::Client;
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Operator, Team, condition, resource};

/// The model whose answers are whole.
const WHOLE: &str = "whole";
/// The model whose streams are cut.
const CUT: &str = "cut";
/// The model whose clients leave.
const LEFT: &str = "left";
const MODELS: [&str; 3] = [WHOLE, CUT, LEFT];

const CONFIGURATION: &str = "destinations: {allowLoopback: true}\ngateway: {image: \"quartermaster:0.1.0\"}";

/// A replica of the gateway that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Replica {
    name: String,
    address: String,
}

/// Two replicas of a gateway, and a simulated server for its routes.
struct World {
    team: Team,
    server: ModelServer,
    client: Client,
    key: String,
}

impl World {
    /// Everything but an operator's work on it.
    async fn new() -> Self {
        quartermaster::sources::connect::install_cryptography();
        let team = Team::new("caller-usage").await;
        let keep_alive = Duration::from_secs(60);
        let settings = Settings { keep_alive, ..Settings::new(Face::Vllm, &MODELS) };
        let server = ModelServer::start(settings).await.unwrap();
        let cut = Match { model: Some(CUT.to_owned()), ..Match::default() };
        server.add(cut, Fault::Break { at: Place::Events(6), how: Break::Close });
        let of = |kind: &str, name: &str, spec: Value| json!({ "apiVersion": "quartermaster.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec });
        let routes = json!(MODELS.map(|name| json!({ "name": name })));
        let mut objects = vec![
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "quartermaster-gateway" }, "data": {
                    "replicas": "2",
                    "nodeSelector": format!("kubernetes.io/hostname: {}", node::NAME),
                    "tolerations": format!("[{{key: {}, operator: Exists}}]", node::TAINT),
                },
            }),
            of("AgentPool", "coder", json!({ "modelRoutes": routes })),
        ];
        for model in MODELS {
            let formats = ["ChatCompletions", "Messages"];
            let url = server.url("/v1");
            let external = json!({ "provider": "OpenAICompatible", "model": model, "baseURL": url, "formats": formats });
            objects.push(of("InferenceBackend", model, json!({ "external": external })));
            objects.push(of("ModelRoute", model, json!({ "backends": [{ "name": model }] })));
        }
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
        let (code, said) = team.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &list);
        assert_eq!(code, 0, "{said}");
        Self { team, server, client: Client::builder().no_proxy().build().unwrap(), key: String::new() }
    }

    /// Waits until both replicas go by the newest plan, and knows the caller's key then.
    async fn ready(&mut self) -> Vec<Replica> {
        let routes = self.team.api(&resource("quartermaster.dev", "v1alpha1", "ModelRoute", "modelroutes"));
        for route in MODELS {
            let programmed = |route: &Value| condition(route, "Programmed").is_some_and(|found| found["status"] == "True");
            self.team.until_in(&routes, route, "be programmed", programmed).await;
        }
        let template = r#"go-template={{index .data "OPENAI_API_KEY" | base64decode}}"#;
        self.key = self.team.kubectl(&["get", "secret", "coder-caller", "-o", template]);
        assert!(self.key.starts_with("qm-"), "no key");
        self.replicas().await
    }

    /// Waits until there are two replicas that are ready, and no other.
    async fn replicas(&self) -> Vec<Replica> {
        let pods = self.team.api(&resource("", "v1", "Pod", "pods"));
        let started = Instant::now();
        loop {
            let found = pods.list(&ListParams::default().labels("quartermaster.dev/gateway")).await.unwrap().items;
            let found: Vec<Value> = found.into_iter().map(|pod| serde_json::to_value(pod).unwrap()).collect();
            let ready = |pod: &&Value| {
                pod["metadata"].get("deletionTimestamp").is_none()
                    && condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True")
            };
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let replica = |pod: &Value| Replica { name: text(&pod["metadata"]["name"]), address: text(&pod["status"]["podIP"]) };
            let replicas: Vec<Replica> = found.iter().filter(ready).map(replica).collect();
            if replicas.len() == 2 && found.len() == 2 {
                return replicas;
            }
            assert!(started.elapsed() < DEADLINE, "there never are two replicas: {found:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Makes a call, and reads its answer to the end. Whether it was answered: a replica that has left takes no connection.
    async fn call(&self, replica: &Replica, path: &str, model: &str, stream: bool, tokens: u64) -> bool {
        let body = json!({
            "model": model, "max_tokens": tokens + 5, "stream": stream,
            "messages": [{ "role": "user", "content": format!("Größe 🦀 [[tokens={tokens}]]") }],
        });
        let url = format!("http://{}:4000{path}", replica.address);
        let sent = self.client.post(url).bearer_auth(&self.key).json(&body).timeout(DEADLINE).send().await;
        let Ok(response) = sent else { return false };
        assert_eq!(response.status(), 200, "{path} {model}");
        response.text().await.unwrap();
        true
    }

    /// Some calls of all kinds to each of these replicas.
    async fn calls(&self, replicas: &[Replica]) {
        for replica in replicas {
            for tokens in 10..20 {
                for stream in [false, true] {
                    for path in ["/v1/chat/completions", "/v1/messages"] {
                        assert!(self.call(replica, path, WHOLE, stream, tokens).await, "{replica:?}");
                    }
                }
            }
            assert!(self.call(replica, "/v1/chat/completions", CUT, true, 30).await, "{replica:?}");
        }
    }

    /// Makes one of many calls, of a kind that its number decides: plain or a stream, in both APIs, most of them whole.
    async fn one_of_many(&self, replica: &Replica, number: u64) {
        let (tokens, stream) = (number % 23 + 1, number.is_multiple_of(2));
        let path = if number.is_multiple_of(3) { "/v1/messages" } else { "/v1/chat/completions" };
        let model = match number % 10 {
            8 => CUT,
            9 => LEFT,
            _ => WHOLE,
        };
        let body = json!({
            "model": model, "max_tokens": tokens + 10, "stream": stream || model != WHOLE,
            "messages": [{ "role": "user", "content": format!("Größe 🦀 {number} [[tokens={}]]", tokens + 8) }],
        });
        let url = format!("http://{}:4000{path}", replica.address);
        let mut response = self.client.post(url).bearer_auth(&self.key).json(&body).timeout(DEADLINE).send().await.unwrap();
        match model {
            WHOLE => {
                assert_eq!(response.status(), 200, "{path} {number}");
                response.text().await.unwrap();
            }
            // After a few cuts the breaker opens, and then nobody is asked and nothing counts.
            CUT => {
                let _end = response.text().await;
            }
            _ => drop(response.chunk().await.unwrap()),
        }
    }

    /// Waits until the leader shows what the server counted: exactly where answers were whole, and no less where they were cut or left.
    async fn until_counted(&self, operator: &Operator) {
        let truth =
            |model: &str| self.server.totals().models.get(model).map(|tokens| (tokens.input, tokens.output)).unwrap_or_default();
        let started = Instant::now();
        loop {
            let metrics = operator.get("metrics").await.unwrap_or_default();
            let at_least = |model: &str| {
                let (shown, truth) = (shown(&metrics, model), truth(model));
                shown.0 >= truth.0 && shown.1 >= truth.1 && (truth == (0, 0) || estimated(&metrics, model) > 0)
            };
            let whole = shown(&metrics, WHOLE);
            if whole == truth(WHOLE) && at_least(CUT) && at_least(LEFT) {
                assert_eq!(estimated(&metrics, WHOLE), 0);
                return;
            }
            let all = MODELS.map(|model| (model, shown(&metrics, model), truth(model), estimated(&metrics, model)));
            assert!(started.elapsed() < DEADLINE, "shown, counted, and shown as a bound: {all:?}\n{}", operator.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The value of the series of a metric that has all these labels; 0 where there is none.
fn value(metrics: &str, name: &str, labels: &[String]) -> u64 {
    let of_metric = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} "));
    let matching = of_metric.filter(|(found, _)| labels.iter().all(|label| found.contains(label.as_str())));
    matching.map(|(_, value)| value.parse::<u64>().unwrap()).sum()
}

/// The tokens of input and output that a leader shows.
fn shown(metrics: &str, backend: &str) -> (u64, u64) {
    let of = |direction: &str| {
        let labels = [format!("backend=\"{backend}\""), format!("direction=\"{direction}\""), "pool=\"coder\"".to_owned()];
        value(metrics, "quartermaster_caller_tokens_total", &labels)
    };
    (of("input"), of("output"))
}

/// Those of them that are a bound.
fn estimated(metrics: &str, backend: &str) -> u64 {
    value(metrics, "quartermaster_caller_estimated_tokens_total", &[format!("backend=\"{backend}\"")])
}

/// How many clients call at the same time.
const CLIENTS: u64 = 16;
/// How many calls they make together.
const MANY: u64 = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_calls_of_all_kinds_are_counted_to_the_token_by_the_leader() {
    let mut world = World::new().await;
    let operator = world.team.operator_with(CONFIGURATION, &[]).await;
    let replicas = world.ready().await;
    let (started, world) = (Instant::now(), &world);
    let clients = (0..CLIENTS).map(|client| {
        let replica = &replicas[usize::try_from(client).unwrap() % replicas.len()];
        async move {
            for number in (client..MANY).step_by(usize::try_from(CLIENTS).unwrap()) {
                world.one_of_many(replica, number).await;
            }
        }
    });
    futures::future::join_all(clients).await;
    println!("{MANY} calls in {:.1} s", started.elapsed().as_secs_f64());
    world.until_counted(&operator).await;
    world.team.kubectl(&["delete", "modelroutes", "--all"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_counts_every_token_once_over_an_operator_that_restarts_and_a_replica_that_is_replaced() {
    let mut world = World::new().await;
    let mut operator = world.team.operator_with(CONFIGURATION, &[]).await;
    let replicas = world.ready().await;
    world.calls(&replicas).await;
    world.until_counted(&operator).await;

    // Gateways go on without a leader, and tell the next one all that they have counted.
    assert_eq!(operator.terminate().code(), Some(0), "{}", operator.log());
    world.calls(&replicas).await;
    let operator = world.team.operator_with(CONFIGURATION, &[]).await;
    world.until_counted(&operator).await;

    // A replica that leaves still answers for a while, and tells all of it before it ends.
    let [leaving, staying] = &replicas[..] else { panic!("{replicas:?}") };
    world.team.kubectl(&["delete", "pod", &leaving.name, "--wait=false"]);
    for tokens in 10..30 {
        world.call(leaving, "/v1/chat/completions", WHOLE, true, tokens).await;
        assert!(world.call(staying, "/v1/messages", WHOLE, false, tokens).await);
    }
    let replicas = world.ready().await;
    assert!(replicas.iter().all(|replica| replica.name != leaving.name), "{replicas:?}");
    world.until_counted(&operator).await;
    world.calls(&replicas).await;
    world.until_counted(&operator).await;

    // The series end with the pool.
    world.team.kubectl(&["delete", "agentpool", "coder"]);
    let started = Instant::now();
    while operator.get("metrics").await.is_none_or(|metrics| metrics.contains("quartermaster_caller_tokens_total{")) {
        assert!(started.elapsed() < DEADLINE, "they stay:\n{}", operator.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.team.kubectl(&["delete", "modelroutes", "--all"]);
}
