//! Two operators of one lease: one leads, the other waits with warm caches, and never do both write.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Operator, Team, writes_among};

/// An account of its own for one of the two, so that the audit log tells them apart.
const OTHER: &str = "other";

pub async fn until_leads(operator: &Operator) -> Duration {
    let started = Instant::now();
    while !operator.leads().await {
        // The promise is 20 s; ten times that ends a hang.
        assert!(started.elapsed() < Duration::from_secs(200), "it never leads:\n{}", operator.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    started.elapsed()
}

fn spec() -> Value {
    json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": 0 })
}

fn lease(team: &Team) -> Value {
    serde_json::from_str(&team.kubectl(&["get", "lease", "quartermaster", "-o", "json"])).unwrap()
}

/// The times at which the API server received writes, the lease's among them.
fn times_of_writes(team: &Team, user: &str) -> Vec<String> {
    let is_write = |entry: &Value| ["create", "update", "patch", "delete"].iter().any(|verb| entry["verb"] == *verb);
    let audited = team.audited_as(user).into_iter().filter(is_write);
    audited.map(|entry| entry["requestReceivedTimestamp"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_by_a_standby_that_has_written_nothing_and_reads_nothing_again() {
    let team = Team::new("killed").await;
    let mut first = team.operator().await;
    let second = team.start_as(&team.account(OTHER).await, "", &[]);
    second.synced().await;
    team.apply("before", spec()).await;
    team.until_ready("before", "True", "ScaledToZero").await;
    assert!(first.leads().await && !second.leads().await);
    assert_eq!(times_of_writes(&team, &team.user_of(OTHER)), Vec::<String>::new());
    let begun = |team: &Team| {
        let audited = team.audited_as(&team.user_of(OTHER));
        audited.iter().filter(|entry| entry["stage"] == "ResponseStarted").count()
    };
    let watches = begun(&team);
    assert!(watches >= 8, "it watches all that the leader watches: {watches}");

    first.kill();
    println!("took over after a kill in {:?}", until_leads(&second).await);
    assert_eq!(lease(&team)["spec"]["leaseTransitions"], 1);
    team.apply("after", spec()).await;
    team.until_ready("after", "True", "ScaledToZero").await;
    assert_eq!(begun(&team), watches, "its caches were warm");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_exit_gives_the_lease_back_and_its_successor_changes_nothing() {
    let team = Team::new("orderly").await;
    // Nobody can wait for this lease to expire: who takes over was given it.
    let long = "leaderElection: {leaseDuration: 1h, renewDeadline: 30m, retryPeriod: 2s}";
    let mut first = team.operator_with(long, &[]).await;
    let second = team.start_as(&team.account(OTHER).await, long, &[]);
    second.synced().await;
    team.apply("model", spec()).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    team.until_quiet(Duration::from_secs(2)).await;
    let generation = |deployment: &Value| deployment["metadata"]["generation"].clone();
    let before = team.until_in(&team.deployments(), "model-backend", "exist", Value::is_object).await;
    assert!(!second.leads().await);

    let status = first.terminate();
    assert_eq!(status.code(), Some(0), "{}", first.log());
    println!("took over after an orderly exit in {:?}", until_leads(&second).await);
    assert!(times_of_writes(&team, &team.user()).last() < times_of_writes(&team, &team.user_of(OTHER)).first());

    team.apply("marker", spec()).await;
    team.until_ready("marker", "True", "ScaledToZero").await;
    let writes = writes_among(&team.audited_as(&team.user_of(OTHER)));
    // It applies once what it has not applied itself, which changes nothing; the status says the same and is not written.
    assert!(!writes.iter().any(|write| write == "patch inferencebackends/status model"), "{writes:?}");
    let after = team.until_in(&team.deployments(), "model-backend", "exist", Value::is_object).await;
    assert_eq!(generation(&before), generation(&after));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_suspended_past_its_lease_writes_nothing_after_its_successor_and_fails() {
    let team = Team::new("suspended").await;
    let mut first = team.operator().await;
    let second = team.start_as(&team.account(OTHER).await, "", &[]);
    second.synced().await;
    first.signal("STOP");
    until_leads(&second).await;
    // The suspended one will find this change in its watches, and would act on it.
    team.apply("model", spec()).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    first.signal("CONT");
    let status = first.ended().await;
    assert_eq!(status.code(), Some(1), "{}", first.log());
    assert!(first.log().contains("the lease"), "{}", first.log());

    team.apply("marker", spec()).await;
    team.until_ready("marker", "True", "ScaledToZero").await;
    let (old, new) = (times_of_writes(&team, &team.user()), times_of_writes(&team, &team.user_of(OTHER)));
    assert!(!old.is_empty() && old.last() < new.first(), "{:?} is not before {:?}", old.last(), new.first());
    assert!(second.leads().await);
}
