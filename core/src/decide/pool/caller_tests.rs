use serde_json::{Value, json};

use super::*;
use crate::decide::decision::ApplyMode;
use crate::decide::pool::children::caller_secret::{self, Made};
use crate::decide::pool::children::owner;

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_000_000_000 + 60 * minute).unwrap()
}

fn pool(rotate: Option<&str>) -> AgentPool {
    let annotations = rotate.map(|value| json!({ ROTATE_KEY: value })).unwrap_or(json!({}));
    serde_json::from_value(json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "AgentPool",
        "metadata": { "name": "coder", "namespace": "team", "uid": "u-1", "annotations": annotations },
        "spec": { "modelRoutes": [{ "name": "smart" }], "requestLabels": { "priority": "P2" } },
    }))
    .unwrap()
}

fn entropy(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// The Secret after one pass, as the next one sees it.
fn pass(pool: &AgentPool, secret: Option<&CallerSecret>, digit: char, now: Timestamp) -> (Made, Option<CallerSecret>) {
    let made = caller_secret::build(owner("coder", "team", "u-1"), &key(pool, secret, now), &entropy(digit)).unwrap().unwrap();
    let after = match made.child.mode {
        ApplyMode::Keep => secret.cloned(),
        ApplyMode::Apply | ApplyMode::CreateOnce => {
            Some(CallerSecret::of(&serde_json::from_value(made.child.object["metadata"]["annotations"].clone()).unwrap()))
        }
    };
    (made, after)
}

fn decoded(secret: &Value, entry: &str) -> String {
    let bytes: k8s_openapi::ByteString = serde_json::from_value(secret["data"][entry].clone()).unwrap();
    String::from_utf8(bytes.0).unwrap()
}

fn valid(pool: &AgentPool, secret: &CallerSecret, pods: &[Timestamp], now: Timestamp) -> usize {
    of_plan(pool, Some(secret), pods.iter().copied(), now).unwrap().0.key_hashes.len()
}

#[test]
fn a_pool_with_routes_gets_a_key_once_and_keeps_it() {
    let pool = pool(None);
    let (first, secret) = pass(&pool, None, 'a', at(0));
    assert_eq!(first.child.mode, ApplyMode::CreateOnce);
    assert_eq!(first.child.identity.name, "coder-caller");
    let object = &first.child.object;
    let key = decoded(object, "OPENAI_API_KEY");
    assert_eq!(key, format!("qm-{}", entropy('a')));
    assert_eq!(decoded(object, "ANTHROPIC_API_KEY"), key);
    assert_eq!(decoded(object, "OPENAI_BASE_URL"), "http://quartermaster-gateway.team.svc:4000/v1");
    assert_eq!(decoded(object, "ANTHROPIC_BASE_URL"), "http://quartermaster-gateway.team.svc:4000");
    assert!(!object["metadata"].to_string().contains(&entropy('a')), "only the hash of the key stands in the metadata");
    let (second, after) = pass(&pool, secret.as_ref(), 'b', at(1));
    assert_eq!((second.child.mode, after), (ApplyMode::Keep, secret));
    assert_eq!(second.key_hash, first.key_hash);
    assert!(second.child.object.get("data").is_none());
}

#[test]
fn the_plan_has_the_hash_of_the_key_the_labels_and_the_routes() {
    let pool = pool(None);
    let (made, secret) = pass(&pool, None, 'a', at(0));
    let (caller, next) = of_plan(&pool, secret.as_ref(), [], at(0)).unwrap();
    assert_eq!(caller.key_hashes.first(), made.key_hash.as_ref());
    // The SHA-256 of the text as a client sends it.
    let digest = <sha2::Sha256 as sha2::Digest>::digest(format!("qm-{}", entropy('a')));
    assert_eq!(
        caller.key_hashes.into_iter().collect::<Vec<_>>(),
        [digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()]
    );
    assert_eq!(caller.labels, BTreeMap::from([("priority".to_owned(), "P2".to_owned())]));
    assert_eq!(caller.routes, ["smart".to_owned()].into());
    assert_eq!(next, None);
    assert_eq!(of_plan(&pool, None, [], at(0)), None, "without a Secret nobody can call");
}

#[test]
fn the_plan_has_the_limits_of_a_task_that_the_gateway_holds_to() {
    let limits = |limits: Value| {
        let mut pool = pool(None);
        let (_, secret) = pass(&pool, None, 'a', at(0));
        pool.spec.task_limits = serde_json::from_value(limits).unwrap();
        of_plan(&pool, secret.as_ref(), [], at(0)).unwrap().0.task_limits
    };
    assert_eq!(limits(Value::Null), TaskLimits::default());
    assert_eq!(limits(json!({ "maxSteps": 30, "timeout": "15m" })), TaskLimits::default());
    let all = json!({
        "maxTokensPerRequest": 8000, "maxTokensPerTask": 200_000, "maxCostPerTask": "2.00", "maxIdenticalRequests": 20,
    });
    let expected = TaskLimits {
        max_tokens_per_request: Some(8000),
        max_tokens: Some(200_000),
        max_cost: Some(2_000_000),
        max_identical_requests: Some(20),
    };
    assert_eq!(limits(all), expected);
    assert_eq!(limits(json!({ "maxCostPerTask": "two" })).max_cost, Some(0), "what nobody understands allows nothing");
}

#[test]
fn a_new_value_of_the_annotation_makes_another_key_and_the_old_one_is_valid_for_a_while() {
    let (_, secret) = pass(&pool(None), None, 'a', at(0));
    let asked = pool(Some("1"));
    let (made, rotated) = pass(&asked, secret.as_ref(), 'b', at(100));
    assert_eq!(made.child.mode, ApplyMode::Apply);
    assert_eq!(decoded(&made.child.object, "OPENAI_API_KEY"), format!("qm-{}", entropy('b')));
    let rotated = rotated.unwrap();
    assert_ne!(made.key_hash, Some(secret.unwrap().key_hash));
    assert_eq!(pass(&asked, Some(&rotated), 'c', at(101)).0.child.mode, ApplyMode::Keep, "the same value asks for nothing");
    assert_eq!(valid(&asked, &rotated, &[], at(109)), 2);
    assert_eq!(of_plan(&asked, Some(&rotated), [], at(109)).unwrap().1, Some(Duration::from_secs(60)));
    assert_eq!(valid(&asked, &rotated, &[], at(110)), 1);
}

#[test]
fn the_old_key_is_valid_until_every_pod_that_has_it_is_gone() {
    let (_, secret) = pass(&pool(None), None, 'a', at(0));
    let asked = pool(Some("1"));
    let rotated = pass(&asked, secret.as_ref(), 'b', at(100)).1.unwrap();
    assert_eq!(valid(&asked, &rotated, &[at(50), at(101)], at(500)), 2);
    assert_eq!(valid(&asked, &rotated, &[at(100), at(101)], at(500)), 1);
}

#[test]
fn a_second_rotation_waits_until_the_first_is_over() {
    let (_, secret) = pass(&pool(None), None, 'a', at(0));
    let rotated = pass(&pool(Some("1")), secret.as_ref(), 'b', at(100)).1.unwrap();
    let again = pool(Some("2"));
    let expected = Key::Stays { hash: rotated.key_hash.clone(), next: Some(Duration::from_secs(5 * 60)) };
    assert_eq!(key(&again, Some(&rotated), at(105)), expected);
    assert!(matches!(key(&again, Some(&rotated), at(110)), Key::Made(_)));
}

#[test]
fn without_routes_there_is_no_key_and_one_that_exists_opens_nothing() {
    let mut pool = pool(None);
    let (_, secret) = pass(&pool, None, 'a', at(0));
    pool.spec.model_routes.clear();
    assert_eq!(key(&pool, None, at(1)), Key::None);
    assert_eq!(key(&pool, secret.as_ref(), at(1)), Key::Unused);
    assert_eq!(of_plan(&pool, secret.as_ref(), [], at(1)), None);
    let kept = caller_secret::build(owner("coder", "team", "u-1"), &Key::Unused, "").unwrap().unwrap();
    assert_eq!((kept.child.mode, kept.key_hash), (ApplyMode::Keep, None));
}

#[test]
fn a_secret_that_lost_its_hash_gets_another_key() {
    let annotations = BTreeMap::from([(KEY_HASH.to_owned(), "of nothing".to_owned())]);
    let lost = CallerSecret::of(&annotations);
    assert_eq!(of_plan(&pool(None), Some(&lost), [], at(0)), None);
    let (made, after) = pass(&pool(None), Some(&lost), 'b', at(0));
    assert_eq!(made.child.mode, ApplyMode::Apply);
    assert_eq!(after.map(|after| after.key_hash), made.key_hash);
}

#[test]
fn too_little_chance_makes_no_key() {
    for entropy in ["", "abc", &"a".repeat(63), &"z".repeat(64)] {
        let error = caller_secret::build(owner("coder", "team", "u-1"), &key(&pool(None), None, at(0)), entropy).unwrap_err();
        assert!(!error.to_string().contains("zz"), "{error}");
    }
}

#[test]
fn annotations_are_read_as_they_were_written() {
    let secret = CallerSecret {
        key_hash: "a".repeat(64),
        previous_key_hash: Some("b".repeat(64)),
        rotated_at: Some(at(7)),
        rotation: Some("2026-11".into()),
    };
    assert_eq!(CallerSecret::of(&secret.annotations()), secret);
}
