//! Killed before or after any of its writes about pools, or left without the response to one, the operator ends in the same state
//! as if nothing had happened, its replicas go the same way, and who is at work stays. The schedule is that of
//! `crate::crashes`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use kube::api::{DeleteParams, ListParams};
use quartermaster_dev::fault_proxy::{Recorded, WriteIdentity};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::harness::{pool, says, with};
use super::redis::{Connection, GROUP, Redis, TASKS};
use super::targets::{create, scaling, workload};
use crate::crashes::{Outcome, Plan, Sample, Schedule};
use crate::differential::{QUIET, counts, differences, mask};
use crate::faulty::Faulty;
use crate::harness::{DEADLINE, resource};
use crate::versions::Watched;

/// What `make test` takes of the plans.
const SAMPLE: Sample = Sample { within: Duration::from_secs(150), plans: 20, least: 4 };
/// Pairs in the soak.
const PAIRS: usize = 40;

/// How a run ended.
#[derive(Clone)]
struct End {
    /// The objects before the pools were removed, by kind and name.
    objects: BTreeMap<String, Value>,
    /// Those after that.
    left: BTreeMap<String, Value>,
    /// The replicas that each Deployment had one after the other.
    replicas: BTreeMap<&'static str, Vec<u64>>,
    /// How often each object was made and removed by the operator.
    counts: BTreeMap<String, usize>,
    /// Whether the agent that stayed is the one that was at work.
    busy_stayed: bool,
    writes: Vec<Recorded>,
    events: Vec<Recorded>,
}

/// The children and the workload.
const DEPLOYMENTS: [&str; 2] = ["coder-pool", "web"];

/// Pools with a template and with a target, whose queues fill, are half done, and are done.
struct Scenario {
    faulty: Faulty,
    redis: Redis,
    queue: Connection,
    deployments: Watched,
}

impl Scenario {
    async fn new() -> Self {
        let faulty = Faulty::new("pool-crash").await;
        let redis = Redis::start().await;
        let mut queue = redis.connect().await;
        queue.run(&format!("XGROUP CREATE {TASKS} {GROUP} $ MKSTREAM")).await;
        let deployments = faulty.watch_deployments().await;
        create(&faulty, &workload("Deployment", "web", 0));
        Self { faulty, redis, queue, deployments }
    }

    async fn run(mut self, quiet: Duration) -> End {
        let faulty = &self.faulty;
        faulty.start_operator();
        faulty.apply_pool("coder", pool(self.redis.stream(TASKS))).await;
        faulty.apply_pool("web", scaling("Deployment", "web", self.redis.list("web"))).await;
        for name in ["coder", "web"] {
            faulty.until_says(name, "Ready", "True", "ScaledToZero").await;
        }
        // Each step of a queue is one command, so that no look at it finds a half.
        self.queue.atomic(&["XADD tasks * id 0", "XADD tasks * id 1", "XADD tasks * id 2"]).await;
        self.queue.run("LPUSH web a b").await;
        faulty.until_replicas("coder", 3).await;
        let agents = faulty.until_agents("coder", 3).await;
        let web = |replicas: u64| move |deployment: &Value| deployment["spec"]["replicas"] == replicas;
        faulty.until_in(&faulty.deployments(), "web", "two replicas", web(2)).await;
        let busy = self.queue.take(&agents[1]).await;
        let others = [self.queue.take(&agents[0]).await, self.queue.take(&agents[2]).await];
        self.until_quiet(quiet).await;
        self.queue.run(&format!("XACK {TASKS} {GROUP} {}", others.join(" "))).await;
        self.queue.run("LTRIM web 0 0").await;
        faulty.until_replicas("coder", 1).await;
        faulty.until_in(&faulty.deployments(), "web", "one replica", web(1)).await;
        let stayed = faulty.until_agents("coder", 1).await;
        // A child that is needed no more.
        faulty.apply_pool("coder", with(pool(self.redis.stream(TASKS)), json!({ "maxReplicas": 1 }))).await;
        self.until_quiet(quiet).await;
        self.queue.run(&format!("XACK {TASKS} {GROUP} {busy}")).await;
        faulty.until_replicas("coder", 0).await;
        // What the cluster makes of it may come late, and is part of the end.
        faulty.until_says("coder", "Ready", "True", "ScaledToZero").await;
        let is_one = |pool: &Value| pool["status"]["replicas"] == 1 && pool["status"]["readyReplicas"] == 1;
        faulty.until_pool("web", "one ready replica", is_one).await;
        self.until_quiet(quiet).await;
        let objects = self.objects().await;
        for name in ["coder", "web"] {
            faulty.pools().delete(name, &DeleteParams::default()).await.unwrap();
        }
        let started = Instant::now();
        while self.objects().await.len() > 1 {
            assert!(started.elapsed() < DEADLINE, "left: {:?}\n{}", self.objects().await.keys(), faulty.told());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.until_quiet(quiet).await;
        let (writes, events) = (faulty.proxy.writes(), faulty.proxy.events());
        let sizes = |name| self.deployments.replicas_of(name).iter().map(|(_, replicas)| *replicas).collect();
        let end = End {
            objects,
            left: self.objects().await,
            replicas: DEPLOYMENTS.iter().map(|name| (*name, sizes(name))).collect(),
            counts: counts(&writes),
            busy_stayed: stayed == agents[1..2],
            writes,
            events,
        };
        faulty.kubectl(&["delete", "namespace", &faulty.namespace, "--wait=false"]);
        end
    }

    /// Waits until the operator is ready and has written nothing for a while, and the pools say that all is well.
    async fn until_quiet(&self, window: Duration) {
        let (faulty, started) = (&self.faulty, Instant::now());
        let (mut writes, mut since) = (faulty.proxy.writes().len(), Instant::now());
        while since.elapsed() < window {
            let pools = faulty.pools().list(&ListParams::default()).await.unwrap();
            let is_settled = |pool: &Value| {
                let reasons = ["Available", "ScaledToZero"];
                reasons.iter().any(|reason| says(pool, "Ready", "True", reason))
                    && says(pool, "MetricsAvailable", "True", "QueuesRead")
            };
            let settled = pools.items.into_iter().all(|pool| is_settled(&serde_json::to_value(pool).unwrap()));
            let now = faulty.proxy.writes().len();
            if !settled || !faulty.is_ready().await || now != writes {
                (writes, since) = (now, Instant::now());
            }
            let told = || format!("{}\n{}", faulty.kubectl(&["get", "apool", "-o", "yaml"]), faulty.told());
            assert!(started.elapsed() < DEADLINE, "never quiet: {}", told());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The objects of the operator, without what differs from run to run by nature.
    async fn objects(&self) -> BTreeMap<String, Value> {
        let kinds = [
            resource("quartermaster.dev", "v1alpha1", "AgentPool", "agentpools"),
            resource("apps", "v1", "Deployment", "deployments"),
            resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            resource("", "v1", "ServiceAccount", "serviceaccounts"),
        ];
        let mut objects = BTreeMap::new();
        for kind in kinds {
            for object in self.faulty.api(&kind).list(&ListParams::default()).await.unwrap().items {
                let name = object.metadata.name.clone().unwrap_or_default();
                // Those of the namespace and of the operators are not made by it.
                if kind.kind == "ServiceAccount" && ["default", "quartermaster"].contains(&name.as_str()) {
                    continue;
                }
                let text = serde_json::to_string(&object).unwrap().replace(&self.redis.url(), "REDIS");
                let mut value: Value = serde_json::from_str(&text).unwrap();
                mask(&mut value, &self.faulty.namespace);
                if kind.kind == "AgentPool" {
                    // What was decided before a kill and not written is not known after it; neither are figures of that time.
                    let status = value["status"].as_object_mut().unwrap();
                    status.retain(|member, _| !["decision", "decisions", "queueDepth", "inFlight"].contains(&member.as_str()));
                } else {
                    value.as_object_mut().unwrap().remove("status");
                    value["metadata"].as_object_mut().unwrap().remove("generation");
                }
                objects.insert(format!("{}/{name}", kind.kind), value);
            }
        }
        objects
    }
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
        assert_eq!(end.replicas["coder-pool"], [0, 3, 1, 0]);
        assert_eq!(end.replicas["web"], [0, 2, 1]);
        let (mut writes, others) = (identities(&end.writes), identities(&other.writes));
        writes.retain(|write| others.contains(write));
        assert!(writes.len() >= 12, "a scenario with the writes {writes:?} proves little");
        assert!(writes.iter().any(|write| write.resource == "pods"), "nobody was marked: {writes:?}");
        let (mut events, others) = (identities(&end.events), identities(&other.events));
        events.retain(|event| others.contains(event));
        println!("{} writes and {} events are the same in both runs without faults", writes.len(), events.len());
        Self { end, writes, events }
    }
}

/// Which writes these are. Pods have names by chance: they are counted together.
fn identities(writes: &[Recorded]) -> Vec<WriteIdentity> {
    let mut pods = 0;
    let identity = |write: &Recorded| {
        let identity = write.identity.clone()?;
        if identity.resource != "pods" {
            return Some(identity);
        }
        pods += 1;
        Some(WriteIdentity { name: String::new(), nth: pods, ..identity })
    };
    writes.iter().filter_map(identity).collect()
}

/// What is another at the end of one run than at that of the other.
fn difference(expected: &End, end: &End) -> Vec<String> {
    let mut found = differences(&expected.objects, &end.objects);
    found.extend(differences(&expected.left, &end.left).into_iter().map(|left| format!("when the pools are gone: {left}")));
    if end.counts != expected.counts {
        found.push(format!("made and removed {:?} instead of {:?}", end.counts, expected.counts));
    }
    if end.replicas != expected.replicas {
        found.push(format!("the replicas went {:?} instead of {:?}", end.replicas, expected.replicas));
    }
    if !end.busy_stayed {
        found.push("the agent at work was ended in place of an idle one".to_owned());
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

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_of_its_writes_about_pools_the_operator_ends_in_the_same_state() {
    let started = Instant::now();
    schedule(Reference::get().await).hold_for_some(started, SAMPLE).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: crash at every write about pools, some fifteen seconds for each of some hundred plans"]
async fn killed_at_each_of_its_writes_about_pools_the_operator_ends_in_the_same_state() {
    schedule(Reference::get().await).hold_for_all(PAIRS).await;
}
