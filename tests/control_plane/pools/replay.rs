//! What the operator observed of a pool decides the same on the command line.

use serde_json::Value;

use super::harness::pool;
use super::redis::{Redis, TASKS};
use crate::harness::Team;
use crate::operator::quartermaster;

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_observation_of_a_pool_is_decided_again_on_the_command_line() {
    let (team, redis) = (Team::new("replay-pool").await, Redis::start().await);
    redis.connect().await.push(TASKS, 3).await;
    let operator = team.operator_of_pools().await;
    team.apply_pool("coder", pool(redis.list(TASKS))).await;
    team.until_says("coder", "Ready", "True", "Available").await;
    let settled = team.until_pool("coder", "have its three agents", |pool| pool["status"]["readyReplicas"] == 3).await;
    let path = format!("debug/observations/AgentPool/{}/coder", team.namespace);
    let recorded = operator.get(&path).await.unwrap();
    assert!(!recorded.contains("password"), "{recorded}");
    let decision: Value = serde_json::from_str(&quartermaster(&["replay", "--output=json", "-"], &recorded, None)).unwrap();
    assert_eq!(decision["status"]["desiredReplicas"], 3);
    assert_eq!(decision["status"]["decision"], settled["status"]["decision"]);
    let children = decision["children"]["exactly"].as_array().unwrap();
    let deployment = children.iter().find(|child| child["identity"]["kind"] == "Deployment").unwrap();
    assert_eq!(deployment["object"]["spec"]["replicas"], 3);
}
