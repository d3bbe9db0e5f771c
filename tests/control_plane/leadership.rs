//! Two operators, one leader.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Operator, Team};

async fn until_leads(operator: &Operator) -> Duration {
    let started = Instant::now();
    while !operator.leads().await {
        // The promise is 20 s; ten times that ends a hang.
        assert!(started.elapsed() < Duration::from_secs(200), "it never leads:\n{}", operator.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    started.elapsed()
}

fn holder(team: &Team) -> String {
    team.kubectl(&["get", "lease", "quartermaster", "-o", "jsonpath={.spec.holderIdentity}/{.spec.leaseTransitions}"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_and_an_orderly_one_at_once() {
    let team = Team::new("takeover").await;
    let mut first = team.operator().await;
    let mut second = team.start("", &[]);
    second.synced().await;
    assert!(first.leads().await && !second.leads().await);
    let before = holder(&team);

    first.kill();
    let took = until_leads(&second).await;
    println!("took over after a kill in {took:?}");
    assert_ne!(holder(&team), before);
    team.apply("model", json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": 0 })).await;
    team.until_ready("model", "True", "ScaledToZero").await;

    let third = team.start("", &[]);
    third.synced().await;
    assert!(!third.leads().await);
    let before = team.writes().len();
    let status = second.terminate();
    assert!(status.success(), "{status}: {}", second.log());
    let took = until_leads(&third).await;
    println!("took over after an orderly exit in {took:?}");
    assert!(second.log().contains("gave the lease back"));
    // Applying again what is there is how a new leader makes sure; the status says the same, and is not written.
    team.until_quiet(Duration::from_secs(2)).await;
    assert!(team.writes().split_off(before).iter().all(|write| !write.contains("inferencebackends/status")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_suspended_past_its_lease_writes_nothing_more_and_ends() {
    let team = Team::new("suspended").await;
    let mut first = team.operator().await;
    let second = team.start("", &[]);
    second.synced().await;
    let pid = first.child.id().to_string();
    let signal = |name: &str| assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    signal("-STOP");
    until_leads(&second).await;
    team.apply("model", json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": 0 })).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    team.until_quiet(Duration::from_secs(2)).await;
    let writes = team.writes().len();
    signal("-CONT");
    let started = Instant::now();
    let status = loop {
        if let Some(status) = first.child.try_wait().unwrap() {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(200), "it lives on:\n{}", first.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(!status.success());
    assert_eq!(team.writes().len(), writes, "{:?}", team.writes().split_off(writes));
    assert!(second.leads().await);
}
