//! A Redis that is away, with tasks waiting and agents at work: nobody is taken away meanwhile, it is told once, and when it is
//! back everything goes on. The same while the operator is killed again and again.

use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};

use super::agents::{add, done, each_once, number_done, on_stream, told_once, until_done};
use super::harness::{LOOPBACK, at_once, message, pictures, with};
use super::redis::{Redis, TASKS};
use crate::crashes::seeded;
use crate::harness::{Operator, Team};
use crate::versions::Watched;

/// How long a Redis is away in `make test`.
const AWAY: Duration = Duration::from_secs(15);
/// The same in the soak.
const AWAY_IN_SOAK: Duration = Duration::from_secs(120);
/// As many agents as there may be: there are more tasks.
const AGENTS: u64 = 6;
const NUMBER: usize = 60;
const MILLISECONDS: u64 = 1000;

/// How a Redis goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The process is killed: connections end, and new ones are refused. What it had it has again later.
    Killed,
    /// The process is stopped: connections stay, new ones are accepted, and nothing is answered.
    Stopped,
}

impl Way {
    fn begin(self, redis: &mut Redis) {
        match self {
            Self::Killed => redis.kill(),
            Self::Stopped => redis.suspend(),
        }
    }

    async fn end(self, redis: &mut Redis) {
        match self {
            Self::Killed => redis.restart().await.unwrap(),
            Self::Stopped => redis.resume(),
        }
    }
}

/// A team whose agents are at work, and more tasks wait.
struct Setting {
    team: Team,
    redis: Redis,
    deployments: Watched,
    operator: Operator,
}

impl Setting {
    async fn at_work(name: &str) -> Self {
        let (team, redis) = (Team::new(name).await, Redis::start().await);
        let mut queue = redis.connect().await;
        let deployments = team.watch_deployments().await;
        let operator = team.operator_of_pools().await;
        // Who is at work cannot show it while Redis is away, and must not count as dead for that.
        let template = on_stream(&redis, &[("AGENT_CLAIM_AFTER", "900000")]);
        let spec = json!({ "template": template, "queues": redis.stream(TASKS), "scaling": at_once(), "maxReplicas": AGENTS });
        team.apply_pool("coder", spec).await;
        for number in 0..NUMBER {
            add(&mut queue, number, MILLISECONDS).await;
        }
        team.until_replicas("coder", AGENTS).await;
        team.until_agents("coder", usize::try_from(AGENTS).unwrap()).await;
        until_done(&team, &mut queue, 5).await;
        let left = NUMBER - number_done(&mut queue).await;
        assert!(left > 20, "only {left} tasks are left");
        Self { team, redis, deployments, operator }
    }

    /// Fails where the replicas were another number than that of the first moment.
    fn stayed(&self) {
        let replicas = self.deployments.replicas_of("coder-pool");
        let seen: Vec<u64> = replicas.iter().map(|(_, replicas)| *replicas).collect();
        let full = seen.iter().position(|replicas| *replicas == AGENTS).unwrap();
        assert_eq!(seen[full..], [AGENTS], "the replicas did not stay: {replicas:?}");
    }

    /// All tasks are done, each once, and the agents end after that.
    async fn goes_on(self) {
        let mut queue = self.redis.connect().await;
        self.team.until_says("coder", "MetricsAvailable", "True", "QueuesRead").await;
        until_done(&self.team, &mut queue, NUMBER).await;
        self.team.until_replicas("coder", 0).await;
        each_once(&told_once(done(&mut queue).await), NUMBER);
    }
}

async fn nobody_is_taken_away(name: &str, way: Way, away: Duration) {
    let mut setting = Setting::at_work(name).await;
    way.begin(&mut setting.redis);
    let began = Instant::now();
    let unread = setting.team.until_says("coder", "MetricsAvailable", "False", "Unreachable").await;
    let words = message(&unread, "MetricsAvailable");
    assert!(words.contains("spec.queues[tasks]") && words.contains("check the url"), "{words}");
    let limited = setting
        .team
        .until_pool("coder", "say that no queue can be read", |pool| pool["status"]["limitedBy"] == "QueueFailure")
        .await;
    assert!(limited["status"]["queueDepth"].is_null(), "what is not known is told: {}", limited["status"]);
    // This proves that nothing happens, so that time has to pass.
    tokio::time::sleep(away.saturating_sub(began.elapsed())).await;
    setting.stayed();
    let lasts = setting.team.until_pool("coder", "exist", Value::is_object).await;
    assert_eq!(message(&lasts, "MetricsAvailable"), words, "the words tick");
    setting.team.until_told_once("coder", "MetricsAvailable", "Unreachable").await;
    way.end(&mut setting.redis).await;
    println!("{way:?} for {:.1?}", began.elapsed());
    setting.goes_on().await;
}

/// Kills the operator at random times until the deadline, and starts another one each time.
async fn kill_again_and_again(setting: &mut Setting, chance: &mut Rng, until: Instant) -> usize {
    let mut kills = 0;
    while Instant::now() < until {
        // In the middle of the start as well as long after it.
        tokio::time::sleep(Duration::from_millis(chance.u64(100..4000))).await;
        setting.operator.kill();
        setting.operator = setting.team.start(LOOPBACK, &[]);
        kills += 1;
    }
    kills
}

async fn nobody_is_taken_away_by_one_that_is_killed(name: &str, way: Way, away: Duration) {
    let (mut setting, mut chance) = (Setting::at_work(name).await, seeded());
    way.begin(&mut setting.redis);
    let began = Instant::now();
    let kills = kill_again_and_again(&mut setting, &mut chance, began + away).await;
    setting.stayed();
    // A new one that could not read the queue even once says so as well.
    setting.team.until_says("coder", "MetricsAvailable", "False", "Unreachable").await;
    setting.stayed();
    way.end(&mut setting.redis).await;
    println!("{way:?} for {:.1?}, the operator killed {kills} times", began.elapsed());
    assert!(kills >= 3);
    setting.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_killed_no_agent_is_taken_away_and_after_it_all_goes_on() {
    nobody_is_taken_away("redis-killed", Way::Killed, AWAY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_hangs_no_agent_is_taken_away_and_after_it_all_goes_on() {
    nobody_is_taken_away("redis-hangs", Way::Stopped, AWAY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_killed_and_the_operator_too_no_agent_is_taken_away() {
    nobody_is_taken_away_by_one_that_is_killed("both-killed", Way::Killed, AWAY).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: Redis is away for two minutes, in both ways, with and without an operator that is killed"]
async fn while_redis_is_away_for_two_minutes_no_agent_is_taken_away() {
    tokio::join!(
        nobody_is_taken_away("long-killed", Way::Killed, AWAY_IN_SOAK),
        nobody_is_taken_away("long-hangs", Way::Stopped, AWAY_IN_SOAK),
        nobody_is_taken_away_by_one_that_is_killed("long-both", Way::Killed, AWAY_IN_SOAK),
        nobody_is_taken_away_by_one_that_is_killed("long-both-hang", Way::Stopped, AWAY_IN_SOAK),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_killed_while_tasks_are_done_takes_away_nobody_at_work_and_ends_right() {
    let (mut setting, mut chance) = (Setting::at_work("operator-killed").await, seeded());
    let mut queue = setting.redis.connect().await;
    let kills = kill_again_and_again(&mut setting, &mut chance, Instant::now() + Duration::from_secs(5)).await;
    // There were more tasks than agents all the time.
    let left = NUMBER - number_done(&mut queue).await;
    if left > usize::try_from(AGENTS).unwrap() {
        setting.stayed();
    }
    println!("the operator was killed {kills} times, and {left} tasks were left then");
    setting.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_says_how_many_agents_a_queue_counts_for_that_cannot_be_read_for_a_while() {
    let (team, mut redis) = (Team::new("fallback").await, Redis::start().await);
    redis.connect().await.push(TASKS, 2).await;
    let _operator = team.operator_of_pools().await;
    let scaling = with(at_once(), json!({ "onMetricFailure": { "hold": "2s", "thenReplicas": 4 } }));
    let spec = json!({ "template": pictures(), "queues": redis.list(TASKS), "scaling": scaling });
    team.apply_pool("coder", spec).await;
    team.until_replicas("coder", 2).await;
    redis.kill();
    let said = team.until_says("coder", "ScalingActive", "False", "Fallback").await;
    assert!(said["status"]["decision"].as_str().unwrap().contains("onMetricFailure, as queue tasks cannot be read"), "{said}");
    team.until_replicas("coder", 4).await;
    redis.restart().await.unwrap();
    team.until_says("coder", "ScalingActive", "True", "QueuesFollowed").await;
    team.until_replicas("coder", 2).await;
    team.until_pool("coder", "two replicas", |pool| pool["status"]["desiredReplicas"] == 2).await;
}
