//! How budgets are applied and waited for, and a namespace in which they are spent by calls that a simulated server counts.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use quartermaster::operate::ledger::{self, Book, ENTRY, LEDGER_LABEL, TENANT_LABEL, parts};
use quartermaster_core::decide::account::Unit;
use quartermaster_core::decide::account::ledger::HotLedger;
use quartermaster_core::decide::gateway::plan::Backend;
use quartermaster_core::decide::request::operation::Operation;
use quartermaster_core::decide::request::{body, upper_bound};
use quartermaster_dev::model_server::{Face, ModelServer, Settings};
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Operator, Team, condition, resource};
use crate::operator::run;
use crate::routes::gateway::{Replica, client};
use crate::routes::harness::{calls, says, to, with};

/// The label of every pool of a [`World`]: its own name, so that budgets can select any of them.
pub const POOL: &str = "example.com/pool";
/// Where chats are answered.
pub const CHAT: &str = "/v1/chat/completions";
/// In which a client says for which task it calls.
pub const TASK: &str = "x-quartermaster-task-id";

impl Team {
    /// Creates or changes a budget.
    pub async fn apply_budget(&self, name: &str, spec: Value) -> DynamicObject {
        let object = json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget",
            "metadata": { "name": name }, "spec": spec,
        });
        self.budgets().patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap()
    }

    /// Changes fields of a budget by a JSON merge patch: null takes one away.
    pub async fn change_budget(&self, name: &str, spec: Value) {
        let patch = json!({ "spec": spec });
        self.budgets().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    /// A budget as it is now.
    pub async fn budget(&self, name: &str) -> Value {
        serde_json::to_value(self.budgets().get(name).await.unwrap()).unwrap()
    }

    /// Waits until a budget's state holds; prints the object and the events when it does not.
    pub async fn until_budget(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.until_in(&self.budgets(), name, what, holds).await
    }

    /// Waits until a condition of a budget has this status and reason for its newest generation.
    pub async fn until_budget_says(&self, name: &str, type_: &str, status: &str, reason: &str) -> Value {
        self.until_budget(name, &format!("{type_}={status} reason={reason}"), |budget| says(budget, type_, status, reason)).await
    }

    /// Waits until all is known that was used of these budgets.
    pub async fn until_used_is_known(&self, names: &[&str]) {
        for name in names {
            self.until_budget_says(name, "UsageKnown", "True", "UsageKnown").await;
        }
    }

    /// Waits until an Event about an object of a kind has this reason; whether it is a warning.
    pub async fn until_event(&self, kind: &str, name: &str, reason: &str) -> bool {
        let started = Instant::now();
        loop {
            let events = self.api(&resource("events.k8s.io", "v1", "Event", "events")).list(&ListParams::default()).await.unwrap();
            let events = events.items.into_iter().map(|event| serde_json::to_value(event).unwrap());
            let about = |event: &Value| event["regarding"]["kind"] == kind && event["regarding"]["name"] == name;
            if let Some(event) = events.filter(about).find(|event| event["reason"] == reason) {
                return event["type"] == "Warning";
            }
            assert!(started.elapsed() < DEADLINE, "nothing tells {reason} of {name}\n{}", self.kubectl(&["get", "events"]));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Creates or changes a pool that has its own name as a label.
    pub async fn apply_labelled_pool(&self, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "AgentPool",
            "metadata": { "name": name, "labels": { POOL: name } }, "spec": spec,
        });
        self.pools().patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    }

    /// Makes a pool anew: what it was created with, a template or nothing, it keeps. To be called before an operator knows of it.
    pub async fn replace_labelled_pool(&self, name: &str, spec: Value) {
        self.pools().delete(name, &DeleteParams::default()).await.unwrap();
        self.apply_labelled_pool(name, spec).await;
    }

    /// The objects of the hot ledger of this namespace, in which its operators keep it as well.
    pub async fn ledger_objects(&self) -> Vec<Value> {
        self.objects_of(Book::Hot).await
    }

    /// The objects of one of its ledgers.
    pub async fn objects_of(&self, book: Book) -> Vec<Value> {
        let selector = format!("{LEDGER_LABEL}={},{TENANT_LABEL}={}", book.name(), self.namespace);
        let found = self.config_maps().list(&ListParams::default().labels(&selector)).await.unwrap().items;
        found.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect()
    }

    /// What the hot ledger of this namespace says; none: nothing was ever written.
    pub async fn hot_ledger(&self) -> Option<HotLedger> {
        let mut found = Vec::new();
        for object in self.ledger_objects().await {
            let revision = object.pointer("/metadata/annotations/quartermaster.dev~1ledger-revision").and_then(Value::as_str);
            if let Some(text) = text_of(&object) {
                found.push((revision.unwrap().parse::<u64>().unwrap(), text));
            }
        }
        parts::to_hot(found).unwrap()
    }

    /// What the hot ledger says of the tokens of a budget; none: nothing yet.
    pub async fn written(&self, budget: &str) -> Option<Written> {
        let uid = self.budgets().get(budget).await.unwrap().metadata.uid.unwrap();
        Written::of(&self.hot_ledger().await?, &uid)
    }

    /// Runs `quartermaster budget` for this namespace, whatever comes of it.
    pub fn budget_command(&self, arguments: &[&str], input: &str) -> Output {
        let namespaces = ["--namespace", &self.namespace, "--operator-namespace", &self.namespace];
        run(&[&["budget"][..], arguments, &namespaces].concat(), input, Some(self.connection.kubeconfig()))
    }

    /// Waits until the hot ledger holds for the tokens of a budget.
    pub async fn until_written(&self, budget: &str, what: &str, holds: impl Fn(&Written) -> bool) -> Written {
        let started = Instant::now();
        loop {
            let written = self.written(budget).await;
            if let Some(written) = written.filter(&holds) {
                return written;
            }
            assert!(started.elapsed() < DEADLINE, "the ledger never says of {budget}: {what}\n{written:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The text in an object of a ledger, whoever wrote it; none in one that was emptied.
pub fn text_of(object: &Value) -> Option<String> {
    let binary = object.pointer(&format!("/binaryData/{ENTRY}"))?.as_str()?;
    Some(ledger::decode(&STANDARD.decode(binary).unwrap()).unwrap())
}

/// What the hot ledger says of the tokens of a budget in the period that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// What was used.
    pub used: u64,
    /// The part of it that is an upper bound.
    pub estimated: u64,
    /// The most that can be used before it is written again: what was settled, and the ceilings of all processes.
    pub reach: u64,
}

impl Written {
    fn of(ledger: &HotLedger, uid: &str) -> Option<Self> {
        let budget = ledger.budgets.get(uid)?;
        let account = budget.periods.get(&budget.open)?.accounts.of(Unit::Tokens)?;
        let mut written = Self { used: 0, estimated: 0, reach: 0 };
        for share in account.shares.values() {
            written.used += share.settled;
            written.estimated += share.estimated;
            written.reach += share.settled;
            for process in share.processes.values() {
                written.used += process.live;
                written.estimated += process.estimated;
                written.reach += process.ceiling;
            }
        }
        written.reach = written.reach.min(account.bound.unwrap_or(u64::MAX));
        Some(written)
    }
}

/// A budget of so many tokens for all pools, of which there is only one period: it has begun long ago and does not end here.
pub fn tokens(limit: u64) -> Value {
    json!({ "tokens": limit, "period": { "type": "Once", "start": "2024-01-01T00:00", "end": "2999-01-01T00:00" }, "appliesTo": {} })
}

/// The same for these pools of a [`World`].
pub fn tokens_of(pools: &[&str], limit: u64) -> Value {
    let selector = json!({ "matchExpressions": [{ "key": POOL, "operator": "In", "values": pools }] });
    with(tokens(limit), json!({ "appliesTo": { "agentPoolSelector": selector } }))
}

/// The body of a call whose answer has this many tokens, and may have no more.
pub fn chat(route: &str, tokens: u64) -> Value {
    json!({
        "model": route, "max_tokens": tokens,
        "messages": [{ "role": "user", "content": format!("hello [[tokens={tokens}]]") }],
    })
}

/// What a call was answered with.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// The code of the error; empty where it is none.
    pub code: String,
    /// The backend that answered; empty where none has.
    pub backend: String,
    /// Tokens that were left when the call came; none where no budget covers it.
    pub remaining: Option<u64>,
    /// Null where it is no JSON.
    pub body: Value,
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (backend, remaining) = (header("x-quartermaster-backend"), header("x-quartermaster-budget-remaining"));
        let status = response.status().as_u16();
        let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default();
        Self {
            status,
            code: body.pointer("/error/code").and_then(Value::as_str).unwrap_or_default().to_owned(),
            backend: backend.unwrap_or_default(),
            remaining: remaining.map(|left| left.parse().unwrap()),
            body,
        }
    }

    /// Status and code.
    pub fn says(&self) -> (u16, &str) {
        (self.status, &self.code)
    }
}

/// A namespace whose gateway really runs, with one simulated server behind all backends. What it has counted is the truth.
pub struct World {
    pub team: Arc<Team>,
    pub server: ModelServer,
    pub client: Client,
    /// Each with the routes that it may call.
    pools: Vec<(String, Vec<String>)>,
    /// By name of the pool.
    keys: BTreeMap<String, String>,
}

impl World {
    /// Everything but an operator. Each route has a backend and a model of its own name, so that the server's count by model is
    /// one by route.
    pub async fn new(name: &str, replicas: u32, pools: &[(&str, &[&str])]) -> Self {
        Self::within(Arc::new(Team::new(name).await), replicas, pools).await
    }

    /// The same in a namespace that is there.
    pub async fn within(team: Arc<Team>, replicas: u32, pools: &[(&str, &[&str])]) -> Self {
        let routes: BTreeSet<&str> = pools.iter().flat_map(|(_, routes)| routes.iter().copied()).collect();
        let models: Vec<&str> = routes.into_iter().collect();
        let client = client();
        let keep_alive = Duration::from_secs(60);
        let server = ModelServer::start(Settings { keep_alive, ..Settings::new(Face::Vllm, &models) }).await.unwrap();
        team.run_gateways(replicas);
        for route in models {
            team.apply(route, backend(&server, route)).await;
            team.apply_route(route, to(&[route])).await;
        }
        for (pool, routes) in pools {
            team.apply_labelled_pool(pool, calls(routes)).await;
        }
        let named = |routes: &[&str]| routes.iter().map(|route| (*route).to_owned()).collect();
        let pools = pools.iter().map(|(pool, routes)| ((*pool).to_owned(), named(routes))).collect();
        Self { team, server, client, pools, keys: BTreeMap::new() }
    }

    /// Waits until this many replicas go by the newest plan and know the key of every pool.
    pub async fn ready(&mut self, replicas: usize) -> Vec<Replica> {
        for (pool, routes) in &self.pools {
            for route in routes {
                self.team.until_programmed(route).await;
            }
            let key = self.team.key_of(pool).await;
            self.team.until_known(&key, true).await;
            self.keys.insert(pool.clone(), key);
        }
        self.team.until_gateways(replicas).await
    }

    /// The key of a pool.
    pub fn key(&self, pool: &str) -> &str {
        &self.keys[pool]
    }

    /// Calls a replica in the name of a pool for an answer of this many tokens.
    pub async fn call(&self, replica: &Replica, pool: &str, route: &str, tokens: u64) -> Answer {
        self.call_for(replica, pool, route, tokens, None).await
    }

    /// The same for a task.
    pub async fn call_for(&self, replica: &Replica, pool: &str, route: &str, tokens: u64, task: Option<&str>) -> Answer {
        let started = Instant::now();
        loop {
            let answer = self.try_call(replica, pool, route, tokens, task).await;
            // There is room, and a busy machine was too slow to say so in time.
            if answer.code != "budget_busy" {
                return answer;
            }
            assert!(started.elapsed() < DEADLINE, "what there is room for is never granted: {answer:?}");
        }
    }

    /// One call, whatever comes of it.
    pub async fn try_call(&self, replica: &Replica, pool: &str, route: &str, tokens: u64, task: Option<&str>) -> Answer {
        let mut request = self.client.post(replica.url(CHAT)).bearer_auth(self.key(pool)).json(&chat(route, tokens));
        if let Some(task) = task {
            request = request.header(TASK, task);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// Calls until nothing fits any more, with ever smaller calls. The last refusal.
    pub async fn spend_all(&self, replica: &Replica, pool: &str, route: &str) -> Answer {
        let mut last = None;
        for tokens in [5000, 500, 50, 1] {
            let refused = loop {
                let answer = self.call(replica, pool, route, tokens).await;
                if answer.status != 200 {
                    break answer;
                }
            };
            assert_eq!(refused.says(), (429, "budget_exceeded"), "{refused:?}");
            last = Some(refused);
        }
        last.unwrap()
    }

    /// Waits until a replica answers a call of a pool in this way.
    pub async fn until_answered(
        &self,
        replica: &Replica,
        pool: &str,
        route: &str,
        what: &str,
        holds: impl Fn(&Answer) -> bool,
    ) -> Answer {
        let started = Instant::now();
        loop {
            let answer = self.try_call(replica, pool, route, 1, None).await;
            if holds(&answer) {
                return answer;
            }
            assert!(started.elapsed() < DEADLINE, "a call of {pool} is never answered so: {what}\n{answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until replicas know that a budget covers the calls of a pool.
    pub async fn until_covered(&self, replicas: &[Replica], pool: &str, route: &str) {
        for replica in replicas {
            self.until_answered(replica, pool, route, "by a budget that covers it", |answer| answer.remaining.is_some()).await;
        }
    }

    /// The most that a call can use where a budget covers it: what it reserves.
    pub async fn most(&self, route: &str, tokens: u64) -> u64 {
        let plan = self.team.plan().await;
        let backend: Backend = serde_json::from_value(plan["backends"][route].clone()).unwrap();
        let bytes = serde_json::to_vec(&chat(route, tokens)).unwrap();
        let body = body::read(Operation::ChatCompletions, &bytes).unwrap();
        let most = upper_bound::within(&body, &backend, upper_bound::output_ceiling(&body, &backend));
        most.input + most.output
    }

    /// The tokens that the server has counted on these routes.
    pub fn truth(&self, routes: &[&str]) -> u64 {
        let models = self.server.totals().models;
        routes.iter().filter_map(|route| models.get(*route)).map(|tokens| tokens.input + tokens.output).sum()
    }

    /// Waits until the leader shows of a budget exactly what the server has counted on these routes.
    pub async fn until_counted(&self, operator: &Operator, budget: &str, routes: &[&str]) {
        let started = Instant::now();
        loop {
            let shown = shown(operator, budget).await;
            let truth = self.truth(routes);
            if shown.is_some_and(|shown| shown.left == shown.limit.saturating_sub(truth)) {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "of {budget} is shown {shown:?}, and counted {truth}\n{}", operator.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A backend of the simulated server, with a model of its own name.
pub fn backend(server: &ModelServer, name: &str) -> Value {
    let formats = ["ChatCompletions", "Messages"];
    let external = json!({ "provider": "OpenAICompatible", "model": name, "baseURL": server.url("/v1"), "formats": formats });
    json!({ "external": external })
}

/// What a leader shows of the tokens of a budget at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub limit: u64,
    pub left: u64,
}

/// What the metrics say of a budget; none where this operator shows nothing of it, as one that does not lead.
pub async fn shown(operator: &Operator, budget: &str) -> Option<Shown> {
    shown_in(&operator.get("metrics").await?, budget)
}

/// The same of metrics that were read.
pub fn shown_in(metrics: &str, budget: &str) -> Option<Shown> {
    let of = |name: &str| -> Option<u64> {
        let lines = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} "));
        let mut of_budget =
            lines.filter(|(labels, _)| labels.contains(&format!("budget=\"{budget}\"")) && labels.contains("unit=\"tokens\""));
        of_budget.find_map(|(_, value)| value.parse().ok())
    };
    Some(Shown { limit: of("quartermaster_token_budget_limit")?, left: of("quartermaster_token_budget_remaining")? })
}

/// Whether nothing more of a limit can be used: what is left of it is less than a call needs at `least`.
pub fn is_spent(limit: u64, used: u64, least: u64) -> bool {
    used <= limit && limit - used < least
}

/// The steps that were taken: percentage and action.
pub fn steps(budget: &Value) -> Vec<(u64, String)> {
    let steps = budget.pointer("/status/verdict/steps").and_then(Value::as_array).cloned().unwrap_or_default();
    steps.iter().map(|step| (step["atPercent"].as_u64().unwrap(), step["action"].as_str().unwrap().to_owned())).collect()
}

/// The reason of a condition.
pub fn reason<'a>(object: &'a Value, type_: &str) -> &'a str {
    condition(object, type_).and_then(|condition| condition["reason"].as_str()).unwrap_or_default()
}
