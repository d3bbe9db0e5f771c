//! A queue on Redis that cannot be read: what the pool says, that it is told once, and that its replicas stay where they are.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::harness::{message, pool, says, with};
use super::redis::{Redis, TASKS, authority, free_port};
use crate::harness::{Operator, Team, condition};

/// A queue that cannot be read: the pool's name, `spec.queues`, the reason, and words of the message.
pub type Case = (&'static str, Value, &'static str, Vec<&'static str>);

/// Has pools follow a good queue of two tasks, each its own, and then a bad one, beside an innocent pool, and checks what each
/// says, that it is told once, and that nobody's replicas were changed.
pub async fn each_is_answered(team: &Team, operator: &Operator, good: impl Fn(&str) -> Value, cases: Vec<Case>) {
    let deployments = team.watch_deployments().await;
    team.apply_pool("innocent", pool(good("innocent"))).await;
    for (name, ..) in &cases {
        team.apply_pool(name, pool(good(name))).await;
    }
    for (name, ..) in &cases {
        team.until_replicas(name, 2).await;
        team.until_says(name, "MetricsAvailable", "True", "QueuesRead").await;
    }
    team.until_replicas("innocent", 2).await;
    let before = team.until_says("innocent", "Ready", "True", "Available").await;
    for (name, bad, ..) in &cases {
        team.apply_pool(name, pool(bad.clone())).await;
    }
    let mut wrong = Vec::new();
    for (name, _, reason, words) in &cases {
        let said = team.until_says(name, "MetricsAvailable", "False", reason).await;
        let message = message(&said, "MetricsAvailable");
        let missing: Vec<_> = words.iter().filter(|word| !message.contains(**word)).collect();
        if !missing.is_empty() {
            wrong.push(format!("{name} lacks {missing:?}: {message}"));
        }
        let said = team.until_says(name, "ScalingActive", "False", "QueuesUnknown").await;
        if !said["status"]["queueDepth"].is_null() {
            wrong.push(format!("{name} tells {} of what it cannot read", said["status"]["queueDepth"]));
        }
        // What may pass by itself is no reason to act: the agents run as before. Otherwise somebody has to do something.
        let passes = ["Unreachable", "NoData"].contains(reason);
        let (ready, why) = if passes { ("True", "Available") } else { ("False", *reason) };
        if !says(&said, "Ready", ready, why) {
            wrong.push(format!("{name} is not Ready={ready} reason={why}: {}", said["status"]["conditions"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, _, reason, _) in &cases {
        team.until_told_once(name, "MetricsAvailable", reason).await;
    }
    // It lasts, and is read again and again.
    team.until_quiet(Duration::from_secs(5)).await;
    for (name, ..) in cases.iter().chain([&("innocent", Value::Null, "", Vec::new())]) {
        let replicas = deployments.replicas_of(&format!("{name}-pool"));
        let seen: Vec<u64> = replicas.iter().map(|(_, replicas)| *replicas).collect();
        assert!(seen == [0, 2] || seen == [2], "the replicas of {name} did not stay: {replicas:?}");
    }
    let after = team.until_says("innocent", "Ready", "True", "Available").await;
    assert_eq!(condition(&before, "Ready"), condition(&after, "Ready"));
    assert!(operator.leads().await);
}

/// `spec.queues` with a credential.
fn with_credential(queues: Value, username: Option<&str>, password: &str) -> Value {
    let reference = |key: &str| json!({ "name": "redis", "key": key });
    let mut more = json!({ "passwordSecretKeyRef": reference(password) });
    if let Some(username) = username {
        more["usernameSecretKeyRef"] = reference(username);
    }
    json!([with(queues[0].clone(), more)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_cannot_be_read_is_told_with_what_to_do_and_changes_no_replicas() {
    let team = Team::new("bad-queues").await;
    let issuer = authority();
    let redis = Redis::start_with(&["user coder on >right ~* +@all", "user small on >right ~* +ping"]).await;
    let (locked, secure) = (Redis::start_with(&["requirepass right"]).await, Redis::start_with_tls(&issuer).await);
    let mut queue = redis.connect().await;
    queue.run("SET text something").await;
    queue.push(TASKS, 1).await;
    // It accepts and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("redis://{}", silent.local_addr().unwrap());
    let operator = team.operator_of_pools().await;
    let literals = ["coder=coder", "small=small", "right=right", "wrong=hunter2-wrong", "empty="];
    let literals = literals.map(|literal| format!("--from-literal={literal}"));
    let mut arguments = vec!["create", "secret", "generic", "redis"];
    arguments.extend(literals.iter().map(String::as_str));
    team.kubectl(&arguments);

    let at = |url: &str| json!([{ "name": "tasks", "redisList": { "url": url, "keys": [TASKS] } }]);
    let good = |name: &str| with_credential(redis.list(&format!("of-{name}")), Some("coder"), "right");
    let of_user = |user: &str, password: &str| with_credential(redis.list(TASKS), Some(user), password);
    // A queue keeps its kind, so that these have another name.
    let entries = |mut queues: Value| {
        queues[0]["name"] = json!("entries");
        queues
    };
    let stream_of_small = entries(with_credential(redis.stream("stream"), Some("small"), "right"));
    let cases: Vec<Case> = vec![
        (
            "refused",
            at(&format!("redis://127.0.0.1:{}", free_port())),
            "Unreachable",
            vec!["refused", "spec.queues[tasks]", "check the url"],
        ),
        ("silent", at(&silent_url), "Unreachable", vec!["within 3s", "that the server runs"]),
        ("wrong-password", of_user("coder", "wrong"), "Unauthorized", vec!["refuses the user or the password", "Secret"]),
        ("no-password", locked.list(TASKS), "Unauthorized", vec!["asks for a password", "Secret"]),
        ("no-rights", of_user("small", "right"), "Forbidden", vec!["may not use LLEN", "+llen"]),
        ("no-rights-stream", stream_of_small, "Forbidden", vec!["may not use XINFO GROUPS", "+xinfo"]),
        ("unknown-authority", at(&secure.tls_url()), "TLSError", vec!["failed to agree on TLS", "tls.caSecretKeyRef"]),
        // It takes the beginning of TLS for half a command, and waits for the rest.
        ("no-tls", at(&redis.url().replace("redis://", "rediss://")), "Unreachable", vec!["within 3s", "check the url"]),
        ("list-of-text", redis.list("text"), "UnexpectedAnswer", vec!["LLEN", "another kind of value"]),
        ("stream-of-list", entries(redis.stream(TASKS)), "UnexpectedAnswer", vec!["XINFO GROUPS", "another kind of value"]),
        ("database", at(&format!("{}/99", redis.url())), "UnexpectedAnswer", vec!["no such database"]),
    ];
    for name in cases.iter().map(|case| case.0).chain(["innocent"]) {
        queue.push(&format!("of-{name}"), 2).await;
    }
    each_is_answered(&team, &operator, good, cases).await;
    for told in [operator.log(), team.kubectl(&["get", "agentpools,events", "-o", "yaml"])] {
        assert!(!told.contains("hunter2-wrong"), "the password is told");
    }
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_a_queue_refers_to_is_named_while_it_is_missing_and_read_when_it_comes() {
    let (team, redis) = (Team::new("bad-secrets").await, Redis::start_with(&["user coder on >right ~* +@all"]).await);
    redis.connect().await.push(TASKS, 3).await;
    let _operator = team.operator_of_pools().await;
    let queues = with_credential(redis.list(TASKS), Some("coder"), "right");
    team.apply_pool("coder", with(pool(queues), json!({ "minReplicas": 1 }))).await;
    let unread = team.until_pool("coder", "MetricsAvailable=False", |pool| {
        condition(pool, "MetricsAvailable").is_some_and(|condition| condition["status"] == "False")
    });
    let unread = unread.await;
    let said = condition(&unread, "MetricsAvailable").unwrap();
    let reason = said["reason"].as_str().unwrap();
    assert!(["SecretNotFound", "SecretInvalid"].contains(&reason), "{said}");
    assert!(message(&unread, "MetricsAvailable").contains("redis"), "{said}");
    team.until_replicas("coder", 1).await;
    team.until_told_once("coder", "MetricsAvailable", reason).await;
    // The wrong one first: a change of a Secret is seen by itself.
    team.kubectl(&["create", "secret", "generic", "redis", "--from-literal=coder=coder", "--from-literal=right=wrong"]);
    team.until_says("coder", "MetricsAvailable", "False", "Unauthorized").await;
    let right = json!({ "stringData": { "right": "right" } }).to_string();
    team.kubectl(&["patch", "secret", "redis", "--type=merge", "-p", &right]);
    team.until_says("coder", "MetricsAvailable", "True", "QueuesRead").await;
    team.until_replicas("coder", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_behind_tls_with_an_authority_of_its_own_is_read_by_a_user_with_the_least_rights() {
    let (team, issuer) = (Team::new("least").await, authority());
    let redis = Redis::start_with_tls(&issuer).await;
    let mut queue = redis.connect().await;
    // The commands of the guide, and no other.
    queue.run("ACL SETUSER reader on >right ~tasks* -@all +xinfo +xlen +xrange +xpending +llen").await;
    queue.run(&format!("XGROUP CREATE {TASKS} agents 0 MKSTREAM")).await;
    for number in 0..3 {
        super::agents::add(&mut queue, number, 1).await;
    }
    queue.run("LPUSH tasks:list a b").await;
    let _operator = team.operator_of_pools().await;
    let authority = format!("--from-literal=ca.crt={}", issuer.pem());
    team.kubectl(&["create", "secret", "generic", "redis", "--from-literal=u=reader", "--from-literal=p=right", &authority]);
    let over_tls = |queues: Value| {
        let mut queue = with_credential(queues, Some("u"), "p")[0].clone();
        queue["tls"] = json!({ "caSecretKeyRef": { "name": "redis", "key": "ca.crt" } });
        for kind in ["redisStream", "redisList"] {
            if queue[kind].is_object() {
                queue[kind]["url"] = json!(redis.tls_url());
            }
        }
        json!([queue])
    };
    team.apply_pool("stream", pool(over_tls(redis.stream(TASKS)))).await;
    team.apply_pool("list", pool(over_tls(redis.list("tasks:list")))).await;
    for (name, tasks) in [("stream", 3), ("list", 2)] {
        team.until_says(name, "MetricsAvailable", "True", "QueuesRead").await;
        team.until_replicas(name, tasks).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_the_group_counts_all_of_its_entries_and_one_that_does_not_exist_none() {
    let (team, redis) = (Team::new("no-group").await, Redis::start().await);
    let mut queue = redis.connect().await;
    for number in 0..3 {
        super::agents::add(&mut queue, number, 1).await;
    }
    let _operator = team.operator_of_pools().await;
    team.apply_pool("no-group", pool(redis.stream(TASKS))).await;
    team.apply_pool("no-stream", pool(redis.stream("nothing"))).await;
    for (name, tasks, reason) in [("no-group", 3, "GroupNotFound"), ("no-stream", 0, "QueuesRead")] {
        let read = team.until_says(name, "MetricsAvailable", "True", reason).await;
        assert_eq!(read["status"]["queueDepth"], tasks, "{name}");
        team.until_replicas(name, tasks).await;
    }
    // It is told, since it may be a name that is wrong.
    team.until_told_once("no-group", "MetricsAvailable", "GroupNotFound").await;
    // A group that begins at the end of the stream finds nothing there.
    queue.run(&format!("XGROUP CREATE {TASKS} agents $")).await;
    team.until_says("no-group", "MetricsAvailable", "True", "QueuesRead").await;
    team.until_replicas("no-group", 0).await;
}
