//! What is told of an object in Events, as `kubectl describe` shows them.

use std::time::{Duration, Instant};

use kube::api::ListParams;
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Operator, Team, condition, resource};

/// The Warning Events about a backend, as the API server keeps them.
async fn warnings(team: &Team, backend: &Value) -> Vec<Value> {
    let events = team.api(&resource("events.k8s.io", "v1", "Event", "events")).list(&ListParams::default()).await.unwrap();
    let events = events.items.into_iter().map(|event| serde_json::to_value(event).unwrap());
    let about =
        |event: &Value| event["regarding"]["kind"] == "InferenceBackend" && event["regarding"]["uid"] == backend["metadata"]["uid"];
    events.filter(|event| event["type"] == "Warning" && about(event)).collect()
}

/// What `Ready` of a backend says: reason and message.
fn answer(backend: &Value) -> [&Value; 2] {
    let ready = condition(backend, "Ready").unwrap();
    [&ready["reason"], &ready["message"]]
}

/// Waits until a Warning Event says what `Ready` of the backend says.
pub async fn until_told(team: &Team, name: &str) {
    let started = Instant::now();
    loop {
        let backend = team.until(name, "exist", Value::is_object).await;
        let warnings = warnings(team, &backend).await;
        if warnings.iter().any(|warning| [&warning["reason"], &warning["note"]] == answer(&backend)) {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "nothing tells {:?} of {name}: {warnings:#?}", answer(&backend));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Checks that one Warning Event, and no other, says what `Ready` of each backend says, and that a harmless change, which has
/// each looked at again, tells nothing more.
pub async fn each_is_told_once(team: &Team, operator: &Operator, names: &[&str]) {
    for name in names {
        until_told(team, name).await;
    }
    let passes = passes(operator).await;
    let patch = json!({ "metadata": { "annotations": { "example.com/woken": format!("{:x}", fastrand::u64(..)) } } });
    for name in names {
        let said = team.kubectl(&["patch", "ib", name, "--type=merge", "-p", &patch.to_string()]);
        assert!(said.contains("patched"), "{said}");
    }
    let (started, woken) = (Instant::now(), passes + u64::try_from(names.len()).unwrap());
    while self::passes(operator).await < woken {
        assert!(started.elapsed() < DEADLINE, "they are not looked at again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Events are sent in the background.
    team.until_quiet(Duration::from_secs(1)).await;
    for name in names {
        let backend = team.until(name, "exist", Value::is_object).await;
        let warnings = warnings(team, &backend).await;
        let told: Vec<_> = warnings.iter().map(|warning| [&warning["reason"], &warning["note"]]).collect();
        assert_eq!(told, [answer(&backend)], "{name}");
        assert!(warnings[0].get("series").is_none_or(Value::is_null), "{name} is told again: {warnings:#?}");
    }
}

/// How many passes over objects have ended.
async fn passes(operator: &Operator) -> u64 {
    let metrics = operator.get("metrics").await.unwrap();
    let counts = metrics.lines().filter(|line| line.starts_with("quartermaster_reconciles_total"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}
