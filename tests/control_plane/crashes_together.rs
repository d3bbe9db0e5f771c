//! Killed before or after any of its writes, or left without the response to one, while backends, a route, pools, a budget and the gateway
//! that carries them out work together: the operator ends in the same state as if nothing had happened, and every token is counted, once.
//! The schedule is that of `crate::crashes`. The gateway really runs on the local node, and calls go through it between the steps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use quartermaster_dev::fault_proxy::{Recorded, Verb, WriteIdentity};
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

use crate::budgets::harness::{Answer, Shown, World, shown_in, tokens};
use crate::crashes::{Outcome, Plan, Sample, Schedule};
use crate::differential::{QUIET, counts, differences, neutral, own_kinds};
use crate::faulty::{ALONE, Faulty, small_model};
use crate::harness::{DEADLINE, condition, resource};
use crate::pools::harness::pictures;
use crate::routes::GATEWAY_IMAGE;
use crate::routes::gateway::Replica;
use crate::routes::harness::{calls, to, with};

/// What `make test` takes of the plans.
const SAMPLE: Sample = Sample { within: Duration::from_secs(240), plans: 12, least: 3 };
/// Pairs in the soak.
const PAIRS: usize = 30;
/// Who calls, by a route that leads to a backend of the same name.
const POOLS: &[(&str, &[&str])] = &[("people", &["router"])];
/// How the names of the objects begin that hold the caller table. It is written a minute after something was used: by the clock.
const CALLER_TABLE: &str = "quartermaster-ledger-history-";
/// So many hexadecimal digits are drawn by chance, or made of what is.
const DIGITS: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_of_its_writes_all_kinds_and_the_gateway_end_in_the_same_state_and_no_token_is_lost() {
    let started = Instant::now();
    schedule(Reference::get().await).hold_for_some(started, SAMPLE).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: crash at every write of all kinds, about a minute for each of some hundred plans"]
async fn killed_at_each_of_its_writes_all_kinds_and_the_gateway_end_in_the_same_state_and_no_token_is_lost() {
    schedule(Reference::get().await).hold_for_all(PAIRS).await;
}

/// How a run ended.
struct End {
    /// The objects before all were removed, by kind and name.
    objects: BTreeMap<String, Value>,
    /// Those after that.
    left: BTreeMap<String, Value>,
    /// How often each object was made and removed by the operator.
    counts: BTreeMap<String, usize>,
    writes: Vec<Recorded>,
    events: Vec<Recorded>,
}

/// A model and a hosted one, a route to that, a pool of people and one of agents, and a budget: used, used up so far that pools pause,
/// raised; then all of them are changed, and removed.
struct Scenario {
    faulty: Faulty,
    world: World,
}

impl Scenario {
    async fn new() -> Self {
        let faulty = Faulty::with("together-crash", &format!("{ALONE}\n{GATEWAY_IMAGE}")).await;
        let world = World::within(faulty.team(), 1, POOLS).await;
        faulty.apply("small", json!({ "replicas": 1, "vllm": small_model() })).await;
        Self { faulty, world }
    }

    async fn run(mut self, quiet: Duration) -> End {
        self.faulty.start_operator();
        self.apply_agents(2).await;
        let replica = self.world.ready(1).await.remove(0);
        self.faulty.until_settled(&["router", "small"]).await;
        self.until_agents(2).await;
        self.until_quiet(quiet).await;

        let pause = json!({ "thresholds": [{ "atPercent": 50, "action": "PausePools", "belowCriticality": "Critical" }] });
        self.faulty.apply_budget("sprint", with(tokens(40_000), pause)).await;
        self.faulty.until_used_is_known(&["sprint"]).await;
        self.world.until_covered(std::slice::from_ref(&replica), "people", "router").await;
        for tokens in [100, 200, 22_000] {
            self.call(&replica, tokens).await;
        }
        self.faulty.until_says("coder", "PausedByBudget", "True", "Paused").await;
        self.until_agents(0).await;
        let refused = |answer: &Answer| answer.code == "budget_exceeded";
        self.world.until_answered(&replica, "people", "router", "not any more", refused).await;
        self.until_quiet(quiet).await;

        self.faulty.change_budget("sprint", json!({ "tokens": 400_000 })).await;
        self.until_agents(2).await;
        self.world.until_answered(&replica, "people", "router", "again", |answer| answer.status == 200).await;
        let rule = with(json!({ "name": "nearly", "when": { "budgetUsedPercent": { "atLeast": 90 } } }), to(&["router"]));
        self.faulty.apply_route("router", with(to(&["router"]), json!({ "rules": [rule] }))).await;
        self.faulty.apply("small", json!({ "replicas": 1, "vllm": with(small_model(), json!({ "drainTimeout": "90s" })) })).await;
        self.apply_agents(1).await;
        self.faulty.until_programmed("router").await;
        self.faulty.until_settled(&["router", "small"]).await;
        self.until_agents(1).await;
        for tokens in [300, 400] {
            self.call(&replica, tokens).await;
        }
        self.until_exact().await;
        self.until_quiet(quiet).await;
        assert_eq!(self.faulty.until_gateways(1).await, [replica], "the gateway is the same as in the beginning");
        let at_rest = self.objects().await;

        self.remove_all().await;
        self.until_quiet(quiet).await;
        let (faulty, left) = (&self.faulty, self.objects().await);
        let (writes, events) = (faulty.proxy.writes(), faulty.proxy.events());
        let mut counts = counts(&writes);
        // Ledgers are made under no name that the request has, and the caller table is not always one of them.
        counts.remove("made configmaps/");
        let end = End { objects: at_rest, left, counts, writes, events };
        faulty.kubectl(&["delete", "namespace", &faulty.namespace, "--wait=false"]);
        end
    }

    async fn apply_agents(&self, replicas: u64) {
        let agents = with(calls(&["router"]), json!({ "template": pictures(), "replicas": replicas }));
        self.faulty.apply_labelled_pool("coder", agents).await;
    }

    async fn until_agents(&self, number: usize) {
        self.faulty.until_replicas("coder", u64::try_from(number).unwrap()).await;
        self.faulty.until_agents("coder", number).await;
    }

    async fn call(&self, replica: &Replica, tokens: u64) {
        let answer = self.world.call(replica, "people", "router", tokens).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Waits until the leader knows of every token, and the ledger says so.
    async fn until_exact(&self) {
        let (started, truth) = (Instant::now(), self.world.truth(&["router"]));
        loop {
            let metrics = self.faulty.page("metrics").await.unwrap_or_default();
            if let Some(Shown { limit, left }) = shown_in(&metrics, "sprint")
                && limit.saturating_sub(left) == truth
            {
                break;
            }
            assert!(started.elapsed() < DEADLINE, "{truth} tokens were used:\n{metrics}\n{}", self.faulty.told());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let written = self.faulty.until_written("sprint", &format!("{truth} tokens"), |written| written.used == truth).await;
        assert_eq!(written.estimated, 0, "{written:?}");
        let exact = |budget: &Value| budget["status"]["usedTokens"] == truth && budget["status"]["estimatedTokens"] == 0;
        self.faulty.until_budget("sprint", &format!("{truth} tokens"), exact).await;
    }

    /// Waits until the operator is ready and has written nothing for a while, and all say that all is well.
    async fn until_quiet(&self, window: Duration) {
        let (faulty, started) = (&self.faulty, Instant::now());
        let (mut writes, mut since) = (faulty.proxy.writes().len(), Instant::now());
        while since.elapsed() < window {
            let mut settled = faulty.is_ready().await;
            for api in [faulty.backends(), faulty.routes(), faulty.pools(), faulty.budgets()] {
                let objects = api.list(&ListParams::default()).await.unwrap().items;
                settled &= objects.into_iter().all(|object| is_settled(&serde_json::to_value(object).unwrap()));
            }
            let now = faulty.proxy.writes().len();
            if !settled || now != writes {
                (writes, since) = (now, Instant::now());
            }
            let told = || format!("{}\n{}", faulty.kubectl(&["get", "ib,mroute,apool,tb", "-o", "yaml"]), faulty.told());
            assert!(started.elapsed() < DEADLINE, "never quiet: {}", told());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Removes all, and waits until nothing is left of it.
    async fn remove_all(&self) {
        let faulty = &self.faulty;
        faulty.budgets().delete("sprint", &DeleteParams::default()).await.unwrap();
        for pool in ["coder", "people"] {
            faulty.pools().delete(pool, &DeleteParams::default()).await.unwrap();
        }
        faulty.routes().delete("router", &DeleteParams::default()).await.unwrap();
        for backend in ["router", "small"] {
            faulty.backends().delete(backend, &DeleteParams::default()).await.unwrap();
        }
        let started = Instant::now();
        loop {
            let stays = |name: &String| {
                let (kind, _) = name.split_once('/').unwrap();
                // The authority and the ledger are the operator's, and the settings the user's.
                ["Secret/quartermaster-gateway-authority", "ConfigMap/quartermaster-gateway"].contains(&name.as_str())
                    || kind == "ConfigMap" && name.contains("quartermaster-ledger-")
                    || kind == "ServiceAccount"
                        && ["ServiceAccount/default", "ServiceAccount/quartermaster"].contains(&name.as_str())
            };
            let left: Vec<String> = self.objects().await.into_keys().filter(|name| !stays(name)).collect();
            if left.is_empty() {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "left: {left:?}\n{}", faulty.told());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The objects of the operator and its users, without what differs from run to run by nature.
    async fn objects(&self) -> BTreeMap<String, Value> {
        let ours = [
            resource("quartermaster.dev", "v1alpha1", "ModelRoute", "modelroutes"),
            resource("quartermaster.dev", "v1alpha1", "TokenBudget", "tokenbudgets"),
            resource("quartermaster.dev", "v1alpha1", "AgentPool", "agentpools"),
            resource("", "v1", "ConfigMap", "configmaps"),
        ];
        let mut objects = BTreeMap::new();
        for kind in own_kinds().into_iter().chain(ours) {
            for object in self.faulty.api(&kind).list(&ListParams::default()).await.unwrap().items {
                let name = object.metadata.name.clone().unwrap_or_default();
                // The control plane's; and the caller table, which a run may end before.
                if name != "kube-root-ca.crt" && !name.starts_with(CALLER_TABLE) {
                    objects.insert(without_chance(&format!("{}/{name}", kind.kind)), self.neutral(&kind.kind, &name, object));
                }
            }
        }
        objects
    }

    fn neutral(&self, kind: &str, name: &str, object: DynamicObject) -> Value {
        // What stands in it is compared with what was used.
        if kind == "ConfigMap" && name.starts_with("quartermaster-ledger-") {
            return json!("there");
        }
        let text = serde_json::to_string(&object).unwrap().replace(&self.world.server.url(""), "SERVER");
        let mut value = neutral(kind, &serde_json::from_str(&text).unwrap(), &self.faulty.namespace);
        let plan = value.pointer("/data/plan.json").and_then(Value::as_str).map(|plan| serde_json::from_str(plan).unwrap());
        if let Some(plan) = plan {
            value["data"]["plan.json"] = plan;
        }
        let status = value.get_mut("status").and_then(Value::as_object_mut);
        match (kind, status) {
            ("AgentPool", Some(status)) => forget(status, &["decision", "decisions", "queueDepth", "inFlight"]),
            ("TokenBudget", Some(status)) => without_figures(status),
            _ => {}
        }
        drop_chance(&mut value);
        value
    }
}

/// Whether an object is ready in its newest generation, and nothing is under way.
fn is_settled(object: &Value) -> bool {
    let is = |type_: &str, status: &str| {
        let of_newest = |condition: &Value| condition["observedGeneration"] == object["metadata"]["generation"];
        condition(object, type_).is_some_and(|condition| condition["status"] == status && of_newest(condition))
    };
    // Pools that a budget pauses are not ready, and at rest all the same.
    (is("Ready", "True") || is("PausedByBudget", "True")) && !is("Reconciling", "True")
}

fn forget(members: &mut Map<String, Value>, names: &[&str]) {
    members.retain(|name, _| !names.contains(&name.as_str()));
}

/// What was used, how fast, and until when that lasts, hangs on the time, and so do the words about it.
fn without_figures(status: &mut Map<String, Value>) {
    let stays = [
        "observedGeneration",
        "conditions",
        "phase",
        "enforcement",
        "limitTokens",
        "estimatedTokens",
        "matches",
        "touches",
        "verdict",
    ];
    status.retain(|name, _| stays.contains(&name.as_str()));
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        forget(condition.as_object_mut().unwrap(), &["message"]);
        if condition["type"] == "OnTrack" {
            *condition = json!("OnTrack");
        }
    }
    if let Some(verdict) = status.get_mut("verdict").and_then(Value::as_object_mut) {
        forget(verdict, &["since"]);
    }
}

/// Takes out uids and hashes, wherever they stand.
fn drop_chance(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let before = std::mem::take(members);
            for (name, mut member) in before {
                drop_chance(&mut member);
                members.insert(without_chance(&name), member);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(drop_chance),
        Value::String(text) => *text = without_chance(text),
        _ => {}
    }
}

/// A text with one word in the place of each uid and hash.
fn without_chance(text: &str) -> String {
    let (mut kept, mut run) = (String::new(), String::new());
    // The last one ends the last run.
    for character in text.chars().chain(['\n']) {
        if matches!(character, '0'..='9' | 'a'..='f' | '-') {
            run.push(character);
            continue;
        }
        let digits = run.chars().filter(|character| *character != '-').count();
        kept.push_str(if digits >= DIGITS { "HASH" } else { &run });
        kept.push(character);
        run.clear();
    }
    kept.pop();
    kept
}

/// How the scenario ends when nothing befalls it.
struct Reference {
    end: End,
    writes: Vec<WriteIdentity>,
    events: Vec<WriteIdentity>,
}

impl Reference {
    async fn get() -> &'static Self {
        static REFERENCE: OnceCell<Reference> = OnceCell::const_new();
        REFERENCE.get_or_init(Self::of_two_runs).await
    }

    async fn of_two_runs() -> Self {
        let run = async || Scenario::new().await.run(QUIET).await;
        let (end, other) = tokio::join!(run(), run());
        let found = difference(&end, &other);
        assert!(found.is_empty(), "two runs without faults end differently:\n{}", found.join("\n"));
        let (mut writes, others) = (identities(&end.writes), identities(&other.writes));
        writes.retain(|write| others.contains(write));
        for resource in ["inferencebackends", "modelroutes", "agentpools", "tokenbudgets", "configmaps", "secrets", "deployments"] {
            assert!(writes.iter().any(|write| write.resource == resource), "no write is about {resource}: {writes:?}");
        }
        let (mut events, others) = (identities(&end.events), identities(&other.events));
        events.retain(|event| others.contains(event));
        println!("{} writes and {} events are the same in both runs without faults", writes.len(), events.len());
        Self { end, writes, events }
    }
}

/// Which writes these are. Pods have names by chance, and ledgers by the namespace: they are counted together.
fn identities(writes: &[Recorded]) -> Vec<WriteIdentity> {
    let mut counted: BTreeMap<(Verb, String), u64> = BTreeMap::new();
    let identity = |write: &Recorded| {
        let identity = write.identity.clone()?;
        let is_named_by_chance = identity.resource == "pods" || identity.name.starts_with("quartermaster-ledger-");
        if !is_named_by_chance {
            return Some(identity);
        }
        let nth = counted.entry((identity.verb, identity.resource.clone())).or_default();
        *nth += 1;
        Some(WriteIdentity { name: String::new(), nth: *nth, ..identity })
    };
    writes.iter().filter_map(identity).collect()
}

/// What is another at the end of one run than at that of the other.
fn difference(expected: &End, end: &End) -> Vec<String> {
    let mut found = differences(&expected.objects, &end.objects);
    found.extend(differences(&expected.left, &end.left).into_iter().map(|left| format!("when all are gone: {left}")));
    if end.counts != expected.counts {
        found.push(format!("made and removed {:?} instead of {:?}", end.counts, expected.counts));
    }
    found
}

fn schedule(reference: &'static Reference) -> Schedule {
    let run = move |plan: Plan, quiet| -> BoxFuture<'static, Outcome> {
        Box::pin(async move {
            let scenario = Scenario::new().await;
            let proxy = scenario.faulty.proxy.clone();
            let (first, second) = plan.add_to(&proxy);
            let end = scenario.run(quiet).await;
            let befell = (proxy.befell(first) == 1, second.is_some_and(|second| proxy.befell(second) == 1));
            Outcome { found: difference(&reference.end, &end), befell }
        })
    };
    Schedule { writes: &reference.writes, events: &reference.events, run: Box::new(run) }
}
