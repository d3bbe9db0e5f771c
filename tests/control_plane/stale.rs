//! Time travel: a restarted operator meets an API server whose cache hangs behind. What it reads is over, what it writes is
//! real. It removes and makes nothing of what has come since, and when the cache catches up, all is as it was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::api::{DeleteParams, ListParams};
use quartermaster_dev::fault_proxy::{Action, Match, Recorded, RuleId, Verb};
use serde_json::{Value, json};

use crate::differential::{QUIET, counts, differences, objects, own_kinds};
use crate::faulty::{Faulty, small_model};
use crate::harness::resource;

/// How long the past lasts: long enough for several tries of what is refused.
const PAST: Duration = Duration::from_secs(8);

fn backend(replicas: u32) -> Value {
    json!({ "replicas": replicas, "vllm": small_model() })
}

/// A backend that has settled.
async fn with_backend(test: &str, replicas: u32) -> Faulty {
    let faulty = Faulty::new(test).await;
    faulty.start_operator();
    faulty.apply("one", backend(replicas)).await;
    faulty.until_settled(&["one"]).await;
    faulty.until_quiet(&["one"], QUIET).await;
    faulty
}

/// Makes the operator list everything, and returns the time after it.
async fn remember(faulty: &Faulty) -> Instant {
    faulty.restart();
    faulty.until_operator_ready().await;
    faulty.until_quiet(&["one"], QUIET).await;
    Instant::now()
}

async fn uids(faulty: &Faulty) -> BTreeMap<String, Option<String>> {
    let mut uids = BTreeMap::new();
    for kind in own_kinds() {
        for object in faulty.api(&kind).list(&ListParams::default()).await.unwrap().items {
            uids.insert(format!("{}/{}", kind.kind, object.metadata.name.unwrap_or_default()), object.metadata.uid);
        }
    }
    uids
}

/// An operator that lives in the past.
struct Past<'a> {
    faulty: &'a Faulty,
    before: BTreeMap<String, Value>,
    uids: BTreeMap<String, Option<String>>,
    rules: Vec<RuleId>,
    writes: Vec<Recorded>,
}

impl<'a> Past<'a> {
    /// Restarts the operator into the past that the rules make, for a while. Fails where it made or removed something.
    async fn enter(faulty: &'a Faulty, past: &[(Match, Instant)]) -> Self {
        faulty.until_settled(&["one"]).await;
        faulty.until_quiet(&["one"], QUIET).await;
        let (before, uids_before) = (objects(faulty).await, uids(faulty).await);
        let written = faulty.proxy.writes().len();
        let stale = |(which, before): &(Match, Instant)| faulty.proxy.add(which.clone(), Action::Stale { before: *before });
        let rules: Vec<RuleId> = past.iter().map(stale).collect();
        faulty.restart();
        faulty.until_operator_ready().await;
        // This proves what does not happen, so that time has to pass.
        tokio::time::sleep(PAST).await;
        assert!(rules.iter().all(|rule| faulty.proxy.befell(*rule) >= 2), "a list and a watch of each");
        let writes = faulty.proxy.writes().split_off(written);
        assert!(counts(&writes).is_empty(), "it acted on what is over:\n{}", faulty.told());
        assert_eq!(uids(faulty).await, uids_before, "{}", faulty.told());
        Self { faulty, before, uids: uids_before, rules, writes }
    }

    /// Ends what the last rule does.
    fn thaw_last(&mut self) {
        self.rules.pop().into_iter().for_each(|rule| self.faulty.proxy.remove(rule));
    }

    /// Ends it all. Fails where anything is another than before. Returns what was written meanwhile.
    async fn leave(mut self) -> Vec<Recorded> {
        while !self.rules.is_empty() {
            self.thaw_last();
        }
        self.faulty.until_quiet(&["one"], QUIET).await;
        let found = differences(&self.before, &objects(self.faulty).await);
        assert!(found.is_empty(), "{}\n{}", found.join("\n"), self.faulty.told());
        assert_eq!(uids(self.faulty).await, self.uids, "{}", self.faulty.told());
        self.writes
    }
}

async fn into_the_past(faulty: &Faulty, past: &[(Match, Instant)]) {
    Past::enter(faulty, past).await.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_was_made_anew_is_not_touched_for_the_sake_of_the_one_before() {
    // The caches of an API server are one a kind: any of them may hang behind.
    let backends = || Match::all().resource("inferencebackends");
    let children = ["deployments", "services", "networkpolicies", "secrets", "serviceaccounts", "poddisruptionbudgets"];
    let children = || children.map(|plural| Match::all().resource(plural)).to_vec();
    tokio::join!(
        made_anew("anew", vec![Match::all()]),
        made_anew("anew-backends", vec![backends()]),
        made_anew("anew-children", children()),
    );
}

async fn made_anew(test: &str, stale: Vec<Match>) {
    let faulty = with_backend(test, 2).await;
    let time = remember(&faulty).await;
    faulty.backends().delete("one", &DeleteParams::default()).await.unwrap();
    faulty.until_in(&faulty.deployments(), "one-backend", "gone", Value::is_null).await;
    let left = async || uids(&faulty).await.into_keys().filter(|name| name.ends_with("/one-backend")).count();
    let started = Instant::now();
    while left().await > 0 {
        assert!(started.elapsed() < crate::harness::DEADLINE, "the children stay");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    faulty.apply("one", backend(2)).await;
    let past: Vec<(Match, Instant)> = stale.into_iter().map(|which| (which, time)).collect();
    into_the_past(&faulty, &past).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_and_a_child_from_the_past_end_in_the_present() {
    let scaled = async |test: &str, before: u32, after: u32| {
        let faulty = with_backend(test, before).await;
        let time = remember(&faulty).await;
        faulty.apply("one", backend(after)).await;
        into_the_past(&faulty, &[(Match::all(), time)]).await;
        let deployment = faulty.until_in(&faulty.deployments(), "one-backend", "exist", Value::is_object).await;
        assert_eq!(deployment["spec"]["replicas"], after);
    };
    let replaced = async || {
        let faulty = with_backend("child", 1).await;
        let time = remember(&faulty).await;
        let before = uids(&faulty).await;
        faulty.kubectl(&["delete", "deployment/one-backend", "service/one-backend"]);
        faulty
            .until_in(&faulty.deployments(), "one-backend", "come back", |deployment| {
                deployment.is_object() && deployment["metadata"]["uid"].as_str() != before["Deployment/one-backend"].as_deref()
            })
            .await;
        into_the_past(&faulty, &[(Match::all(), time)]).await;
    };
    tokio::join!(scaled("up", 1, 2), scaled("down", 2, 1), replaced());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_was_removed_and_made_again_is_not_removed_for_the_one_before() {
    let faulty = with_backend("budget", 2).await;
    let with_budget = remember(&faulty).await;
    faulty.apply("one", backend(1)).await;
    let budgets = faulty.api(&resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"));
    faulty.until_in(&budgets, "one-backend", "gone", Value::is_null).await;
    let without = remember(&faulty).await;
    faulty.apply("one", backend(2)).await;
    faulty.until_in(&budgets, "one-backend", "made again", Value::is_object).await;
    // One replica, and the budget that went with its end.
    let past = [(Match::all().resource("poddisruptionbudgets"), with_budget), (Match::all(), without)];
    let mut past = Past::enter(&faulty, &past).await;
    // It acted on that, until a conflict had it read what is stored.
    assert!(past.writes.iter().any(|write| write.request.resource == "deployments"), "{}", faulty.told());
    // The caches need not catch up at the same time.
    past.thaw_last();
    let two = |deployment: &Value| deployment["spec"]["replicas"] == 2;
    faulty.until_in(&faulty.deployments(), "one-backend", "2 replicas", two).await;
    let writes = past.leave().await;
    // It asked whether the backend is still what it took it for.
    assert!(writes.iter().all(|write| write.request.verb != Verb::Delete), "{}", faulty.told());
}
