//! `Programmed` is what the replicas really run, not what was meant for them.

use std::time::{Duration, Instant};

use kube::api::DeleteParams;
use quartermaster_core::decide::gateway::plan::Plan;
use quartermaster_dev::fault_proxy::{Action, Match};
use serde_json::{Value, json};

use super::GATEWAY_IMAGE;
use super::gateway::{Replica, answered, processes_of, signal};
use super::harness::{answered_by, calls, says, server, to, with};
use crate::faulty::{ALONE, Faulty};
use crate::harness::{DEADLINE, Team, condition};

/// A replica whose process is stopped: it answers nobody, and counts as ready until its probes have failed. It goes on at the latest
/// when this is dropped.
struct Stopped(Vec<u32>);

impl Stopped {
    /// Stops the process of a replica.
    fn stop(replica: &Replica) -> Self {
        let stopped = Self(processes_of(&replica.pod));
        assert!(!stopped.0.is_empty(), "{replica:?} has no process");
        signal(&stopped.0, "STOP");
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(&self.0, "CONT");
    }
}

/// The hash of the plan of a namespace as a gateway reckons it.
async fn hash(team: &Team) -> String {
    serde_json::from_value::<Plan>(team.plan().await).unwrap().hash().unwrap()
}

async fn until_goes_by(replica: &Replica, plan: &str) {
    let started = Instant::now();
    while replica.plan().await.as_deref() != Some(plan) {
        assert!(started.elapsed() < DEADLINE, "{replica:?} never goes by the plan");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_programmed_when_the_last_replica_goes_by_it_and_not_before() {
    let (team, server) = (Team::new("programmed").await, server().await);
    team.run_gateways(2);
    let _operator = team.operator_of_routes().await;
    for name in ["one", "two"] {
        team.apply(name, answered_by(&server, &[])).await;
    }
    team.apply_pool("people", calls(&["router"])).await;
    team.apply_route("router", to(&["one"])).await;
    team.until_programmed("router").await;
    let (replicas, key) = (team.until_gateways(2).await, team.key_of("people").await);
    team.until_known(&key, true).await;

    // As soon as it is said, it is so, everywhere.
    for backend in ["two", "one", "two", "one", "two"] {
        team.apply_route("router", to(&[backend])).await;
        team.until_programmed("router").await;
        let meant = hash(&team).await;
        for replica in &replicas {
            assert_eq!(replica.plan().await.as_deref(), Some(meant.as_str()), "{replica:?}");
            assert_eq!(answered(replica, &key, "router").await, backend);
        }
    }

    // A replica that takes nothing over, and one that does.
    let stopped = Stopped::stop(&replicas[0]);
    team.apply_route("router", to(&["one"])).await;
    team.until_plan("has the edit", |plan| plan["routes"]["router"]["backends"][0]["backend"] == "one").await;
    until_goes_by(&replicas[1], &hash(&team).await).await;
    assert_eq!(answered(&replicas[1], &key, "router").await, "one");
    let behind = team.until_route_says("router", "Programmed", "False", "Progressing").await;
    assert_eq!(condition(&behind, "Ready").unwrap()["status"], "False", "who waits for it waits: {behind:#}");
    drop(stopped);
    // One that is not ready, as its probes may have found meanwhile, is not waited for.
    until_goes_by(&replicas[0], &hash(&team).await).await;
    team.until_programmed("router").await;
    assert_eq!(answered(&replicas[0], &key, "router").await, "one");
    let generation = team.routes().get("router").await.unwrap().metadata.generation;
    let versions = team.route_versions_of("router");
    let early: Vec<&Value> = versions
        .iter()
        .filter(|version| version["metadata"]["generation"].as_i64() == generation)
        .take_while(|version| !says(version, "Programmed", "False", "Progressing"))
        .filter(|version| says(version, "Programmed", "True", "Programmed"))
        .collect();
    assert!(early.is_empty(), "it was said to be live before it was: {early:#?}");
}

/// A gateway goes on without an operator, and a replica that starts then goes by what is mounted.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_operator_replicas_go_on_and_new_ones_start_by_the_mounted_plan() {
    let (team, server) = (Team::new("no-operator").await, server().await);
    team.run_gateways(1);
    let mut operator = team.operator_of_routes().await;
    team.apply("one", answered_by(&server, &[])).await;
    team.apply_pool("people", calls(&["router"])).await;
    team.apply_route("router", to(&["one"])).await;
    team.until_programmed("router").await;
    let (key, before) = (team.key_of("people").await, team.until_gateways(1).await.remove(0));
    team.until_known(&key, true).await;
    operator.kill();
    assert_eq!(answered(&before, &key, "router").await, "one");
    team.kubectl(&["delete", "pod", &before.pod, "--wait=false"]);
    let started = Instant::now();
    let after = loop {
        let replicas = team.replicas().await;
        if let Some(after) = replicas.into_iter().find(|replica| replica.pod != before.pod) {
            break after;
        }
        assert!(started.elapsed() < DEADLINE, "no new replica starts");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(answered(&after, &key, "router").await, "one");
    assert_eq!(after.plan().await, Some(hash(&team).await));
    // The next operator finds it as it is, and says nothing else while it has yet to hear of its replica. It has looked at it when it has
    // at one that is new.
    let written = team.routes().get("router").await.unwrap().metadata.resource_version;
    let _operator = team.operator_of_routes().await;
    team.until_programmed("router").await;
    team.apply_route("other", to(&["one"])).await;
    team.until_programmed("other").await;
    assert_eq!(team.routes().get("router").await.unwrap().metadata.resource_version, written);
    assert_eq!(team.until_gateways(1).await, [after]);
}

/// The object is read when its status meets a conflict, and its watch tells of the same version later.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_a_conflict_told_of_before_its_watch_is_programmed_all_the_same() {
    let (faulty, server) = (Faulty::with("route-conflict", &format!("{ALONE}\n{GATEWAY_IMAGE}")).await, server().await);
    faulty.run_gateways(1);
    faulty.start_operator();
    for name in ["one", "two"] {
        faulty.apply(name, answered_by(&server, &[])).await;
    }
    faulty.apply_route("router", to(&["one", "two"])).await;
    faulty.until_programmed("router").await;
    faulty.until_quiet(&["one", "two"], Duration::from_secs(2)).await;

    let routes = || Match::all().resource("modelroutes");
    faulty.proxy.add(routes(), Action::FreezeWatches);
    // The route is to say that a backend is missing, and says so late enough for all else that follows from it to be done.
    let late = faulty.proxy.add(routes().subresource("status").times(1), Action::Delay(Duration::from_secs(5)));
    faulty.backends().delete("two", &DeleteParams::default()).await.unwrap();
    faulty.until_holds("a status is on its way", async || faulty.proxy.befell(late) == 1).await;
    faulty.apply_route("router", with(to(&["one"]), json!({ "aliases": ["another"] }))).await;
    let conflict = r#"quartermaster_reconciles_total{kind="ModelRoute",outcome="conflict"} 1"#;
    faulty
        .until_holds("it meets a conflict", async || faulty.page("metrics").await.is_some_and(|text| text.contains(conflict)))
        .await;
    faulty.proxy.add(routes(), Action::EndWatches);
    faulty.until_programmed("router").await;
}
