//! Killed before or after any of its writes, or left without the response to one, the operator ends in the same state as if
//! nothing had happened. The schedule is Sieve's (OSDI 2022): all the writes of a run without faults, times the faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use quartermaster_dev::fault_proxy::{Action, Match, Verb};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::faulty::{Faulty, small_model};
use crate::harness::{DEADLINE, resource};

/// Time without a write after which a run has ended. The first delay of the operator's back-off is a quarter of it.
const QUIET: Duration = Duration::from_secs(2);
/// Plans at the same time: they mostly wait.
const AT_ONCE: usize = 3;
/// Time within which `make test` begins plans; each takes about ten seconds.
const SAMPLE: Duration = Duration::from_secs(140);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: its time on a loaded machine is not known yet"]
async fn killed_at_any_of_its_writes_the_operator_ends_in_the_same_state() {
    let seed = std::env::var("QUARTERMASTER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("QUARTERMASTER_SEED={seed}");
    let reference = Reference::of_two_runs().await;
    let mut plans = reference.plans();
    fastrand::Rng::with_seed(seed).shuffle(&mut plans);
    let begun = reference.hold_for(plans, Some(SAMPLE)).await;
    assert!(begun >= 10, "only {begun} plans in {SAMPLE:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: about ten seconds for each of some hundred plans"]
async fn killed_at_each_of_its_writes_the_operator_ends_in_the_same_state() {
    let reference = Reference::of_two_runs().await;
    let plans = reference.plans();
    reference.hold_for(plans, None).await;
}

/// What befalls which write.
#[derive(Clone, Debug)]
struct Plan {
    write: u64,
    fault: Action,
}

/// How a run ends.
struct End {
    /// The objects, by kind and name.
    objects: BTreeMap<String, Value>,
    /// How often each object was made and removed by the operator.
    counts: BTreeMap<String, usize>,
    /// Number of writes.
    writes: u64,
    /// Whether the fault befell.
    befell: bool,
}

/// How runs without faults end.
struct Reference {
    end: End,
    /// Where two of them differ: not worth comparing.
    differing: BTreeSet<String>,
}

impl Reference {
    async fn of_two_runs() -> Arc<Self> {
        let (end, other) = (run(None).await, run(None).await);
        let differing: BTreeSet<String> = differences(&end.objects, &other.objects).into_iter().map(|(path, _)| path).collect();
        println!("{} writes; the reference runs differ in {differing:?}", end.writes);
        assert_eq!(end.counts, other.counts);
        assert!(end.writes >= 20, "a scenario with {} writes proves little", end.writes);
        // What promises are about must not hide among what differs by chance.
        for path in &differing {
            assert!(!path.contains("/spec/") || path.starts_with("Service/"), "the specs of two runs differ: {path}");
        }
        Arc::new(Self { end, differing })
    }

    fn plans(&self) -> Vec<Plan> {
        let faults = [Action::KillBefore, Action::KillAfter, Action::DropResponse];
        (1..=self.end.writes).flat_map(|write| faults.clone().map(|fault| Plan { write, fault })).collect()
    }

    /// Runs the plans, in their order, as many as begin within the time. Returns how many that were. Fails with what every
    /// plan found.
    async fn hold_for(self: &Arc<Self>, plans: Vec<Plan>, within: Option<Duration>) -> usize {
        let started = Instant::now();
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = Vec::new();
        for plan in plans {
            let place = places.clone().acquire_owned().await.unwrap();
            if within.is_some_and(|within| started.elapsed() > within) {
                break;
            }
            let reference = self.clone();
            running.push((
                plan.clone(),
                tokio::spawn(async move {
                    let _place = place;
                    let end = run(Some(&plan)).await;
                    (end.befell, reference.compare(&end))
                }),
            ));
        }
        let (begun, mut befell, mut failures) = (running.len(), 0, Vec::new());
        for (plan, ended) in running {
            match ended.await {
                Ok((reached, found)) => {
                    befell += usize::from(reached);
                    failures.extend((!found.is_empty()).then(|| format!("{plan:?}\n{}", found.join("\n"))));
                }
                Err(panicked) => failures.push(format!("{plan:?}\n{panicked}")),
            }
        }
        println!("{begun} plans, {befell} faults befell, in {:?}", started.elapsed());
        assert!(failures.is_empty(), "{} of {begun} plans failed:\n{}", failures.len(), failures.join("\n\n"));
        // The number of status writes depends on when pods become ready: the last few writes may not come.
        assert!(befell * 10 >= begun * 7, "only {befell} of {begun} faults befell");
        begun
    }

    fn compare(&self, end: &End) -> Vec<String> {
        let found = differences(&self.end.objects, &end.objects);
        let mut found: Vec<String> = found
            .into_iter()
            .filter(|(path, _)| !self.differing.contains(path))
            .map(|(path, how)| format!("{path}: {how}"))
            .collect();
        if end.counts != self.end.counts {
            found.push(format!("made and removed {:?} instead of {:?}", end.counts, self.end.counts));
        }
        found
    }
}

/// Three backends are made, all are changed, one is removed, while a fault befalls one write.
async fn run(plan: Option<&Plan>) -> End {
    let faulty = Faulty::new("crash").await;
    if let Some(plan) = plan {
        faulty.proxy.add(Match::all().write(plan.write), plan.fault.clone());
    }
    faulty.start_operator();
    let with = |replicas: u32, more: Value| {
        let mut vllm = small_model();
        vllm.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "replicas": replicas, "vllm": vllm })
    };
    let keys = tokio::spawn(watch_keys(faulty.api(&resource("", "v1", "Secret", "secrets"))));
    for (name, replicas) in [("one", 1), ("two", 2), ("three", 1)] {
        faulty.apply(name, with(replicas, json!({}))).await;
    }
    faulty.until_settled(&["one", "two", "three"]).await;
    // New pods; a budget that is no longer needed; one that is needed from now on.
    faulty.apply("one", with(1, json!({ "drainTimeout": "90s" }))).await;
    faulty.apply("two", with(1, json!({}))).await;
    faulty.apply("three", with(2, json!({}))).await;
    faulty.until_settled(&["one", "two", "three"]).await;
    faulty.backends().delete("three", &DeleteParams::default()).await.unwrap();
    faulty.apply("two", with(1, json!({ "extraArgs": ["--seed=7"] }))).await;
    until_gone(&faulty, "three").await;
    faulty.until_quiet(&["one", "two"], QUIET).await;
    assert!(!keys.is_finished(), "{}", keys.await.unwrap());
    keys.abort();
    let writes = faulty.proxy.writes();
    let mut counts = BTreeMap::new();
    for write in writes.iter().filter(|write| write.succeeded()) {
        let verb = if write.request.verb == Verb::Delete { "removed" } else { "made" };
        if verb == "removed" || write.code == Some(201) {
            *counts.entry(format!("{verb} {}/{}", write.request.resource, write.request.name)).or_default() += 1;
        }
    }
    let end = End {
        objects: objects(&faulty).await,
        counts,
        writes: u64::try_from(writes.len()).unwrap(),
        befell: writes.iter().any(|write| write.fault.is_some()),
    };
    faulty.kubectl(&["delete", "namespace", &faulty.namespace, "--wait=false"]);
    end
}

/// Waits until nothing is left of a backend.
async fn until_gone(faulty: &Faulty, name: &str) {
    let started = Instant::now();
    loop {
        let left: Vec<String> =
            objects(faulty).await.into_keys().filter(|object| object.split('/').any(|part| part.starts_with(name))).collect();
        if left.is_empty() {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "left of {name}: {left:?}\n{}", faulty.told());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Returns when a generated key changes under its pods, with what happened.
async fn watch_keys(api: Api<DynamicObject>) -> String {
    let mut seen: BTreeMap<String, (Option<String>, Value)> = BTreeMap::new();
    loop {
        // The API server may refuse while the test ends.
        for secret in api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
            let name = secret.metadata.name.unwrap_or_default();
            let now = (secret.metadata.uid, secret.data.get("data").cloned().unwrap_or_default());
            let before = seen.entry(name.clone()).or_insert_with(|| now.clone());
            if *before != now {
                return format!("the key in the Secret {name} was made anew");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The objects of the team, without what differs from run to run by nature.
async fn objects(faulty: &Faulty) -> BTreeMap<String, Value> {
    let kinds = [
        resource("quartermaster.dev", "v1alpha1", "InferenceBackend", "inferencebackends"),
        resource("apps", "v1", "Deployment", "deployments"),
        resource("apps", "v1", "ReplicaSet", "replicasets"),
        resource("", "v1", "Service", "services"),
        resource("", "v1", "Secret", "secrets"),
        resource("", "v1", "ServiceAccount", "serviceaccounts"),
        resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ];
    let mut objects = BTreeMap::new();
    for kind in kinds {
        for object in faulty.api(&kind).list(&ListParams::default()).await.unwrap().items {
            let name = object.metadata.name.clone().unwrap_or_default();
            let mut value = serde_json::to_value(object).unwrap();
            mask(&mut value, &faulty.namespace);
            match kind.kind.as_str() {
                "InferenceBackend" => {}
                // Its presence and the changes of its data are watched; the data are drawn by chance.
                "Secret" => value["data"] = Value::Null,
                // What the control plane made of it, and when, is not the operator's.
                _ => {
                    value["status"] = Value::Null;
                    value["metadata"]["generation"] = Value::Null;
                }
            }
            objects.insert(format!("{}/{name}", kind.kind), value);
        }
    }
    objects
}

/// Takes out what is another in every namespace and at every time.
fn mask(value: &mut Value, namespace: &str) {
    match value {
        Value::Object(members) => {
            for name in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "clusterIP", "clusterIPs"] {
                members.remove(name);
            }
            members.retain(|name, _| !name.ends_with("Time") && !name.ends_with("Timestamp"));
            members.values_mut().for_each(|member| mask(member, namespace));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, namespace)),
        Value::String(text) => *text = text.replace(namespace, "NAMESPACE"),
        _ => {}
    }
}

/// The places where two sets of objects differ, and how.
fn differences(one: &BTreeMap<String, Value>, other: &BTreeMap<String, Value>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    for name in names {
        match (one.get(name), other.get(name)) {
            (Some(one), Some(other)) => compare(name, one, other, &mut found),
            (Some(_), None) => found.push((name.clone(), "is missing".to_owned())),
            (None, _) => found.push((name.clone(), "should not be there".to_owned())),
        }
    }
    found
}

fn compare(path: &str, one: &Value, other: &Value, found: &mut Vec<(String, String)>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for name in names {
                let of = |members: &serde_json::Map<String, Value>| members.get(name).cloned().unwrap_or_default();
                compare(&format!("{path}/{name}"), &of(one), &of(other), found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                compare(&format!("{path}/{index}"), one, other, found);
            }
        }
        _ if one == other => {}
        _ => found.push((path.to_owned(), format!("{other} instead of {one}"))),
    }
}
