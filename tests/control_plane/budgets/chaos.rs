//! Operators and gateways that are killed, an API server that falls silent, and callers who do not mind.

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use kube::api::{Api, DeleteParams, DynamicObject};
use quartermaster_dev::fault_proxy::{Action, FaultProxy, Match};
use reqwest::Response;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::harness::{CHAT, Shown, TASK, World, chat, shown};
use crate::harness::{DEADLINE, Operator, Team, resource};
use crate::routes::gateway::{Replica, processes_of, signal};
use crate::routes::harness::configuration;

/// How often the replicas that answer are looked for.
const LOOK: Duration = Duration::from_millis(300);
/// The most tokens of an answer.
const MOST_TOKENS: u64 = 400;

/// Two operators of one lease, which reach the API server through a proxy. One leads soon after the other is gone.
pub struct Operators {
    team: Arc<Team>,
    proxy: FaultProxy,
    running: Vec<Operator>,
    /// How many were started.
    pub started: usize,
}

impl Operators {
    pub async fn start(team: &Arc<Team>) -> Self {
        let proxy = FaultProxy::start(team.operator_kubeconfig()).await.unwrap();
        let mut operators = Self { team: team.clone(), proxy, running: Vec::new(), started: 0 };
        for _ in 0..2 {
            let operator = operators.another();
            operators.running.push(operator);
        }
        operators
    }

    fn another(&mut self) -> Operator {
        self.started += 1;
        let quick = "leaderElection: {leaseDuration: 8s, renewDeadline: 5s, retryPeriod: 1s}";
        self.team.start_as(self.proxy.kubeconfig(), &format!("{quick}\n{}", configuration()), &[])
    }

    /// Kills one of them without warning, and starts another one in its place.
    pub fn kill(&mut self, number: usize) {
        self.running[number].kill();
        self.running[number] = self.another();
    }

    /// Starts others in the place of those that have ended by themselves, as one does that has lost its lease.
    pub fn keep_up(&mut self) {
        for number in 0..self.running.len() {
            if self.running[number].child.try_wait().unwrap().is_some() {
                self.running[number] = self.another();
            }
        }
    }

    /// The API server says nothing to any of them for a while.
    pub async fn silence(&self, time: Duration) {
        let rule = self.proxy.add(Match::all(), Action::Hang);
        tokio::time::sleep(time).await;
        self.proxy.remove(rule);
    }

    /// What the one that leads shows of a budget.
    pub async fn shown(&self, budget: &str) -> Option<Shown> {
        for operator in &self.running {
            if let Some(shown) = shown(operator, budget).await {
                return Some(shown);
            }
        }
        None
    }

    fn logs(&self) -> String {
        self.running.iter().map(Operator::log).collect::<Vec<_>>().join("\n\n")
    }

    /// Waits until one of them leads, and goes by all of these budgets.
    pub async fn until_led(&mut self, budgets: &[&str]) {
        let started = Instant::now();
        for budget in budgets {
            while self.shown(budget).await.is_none() {
                self.keep_up();
                assert!(started.elapsed() < DEADLINE, "nobody leads and knows of {budget}:\n{}", self.logs());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// How a replica goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Going {
    /// Its process is killed, and starts again in the same pod.
    Killed,
    /// Its pod is deleted, and its process killed some time later, before it has taken leave.
    Lost,
    /// Its pod is deleted, and ends in good order.
    Ended,
}

/// Lets a replica go. `patience`: the time until one that is lost is killed.
pub async fn let_go(team: &Team, replica: &Replica, going: Going, patience: Duration) {
    if going != Going::Killed {
        let pods: Api<DynamicObject> = team.api(&resource("", "v1", "Pod", "pods"));
        // It may be gone already.
        let _ = pods.delete(&replica.pod, &DeleteParams::default()).await;
    }
    if going == Going::Lost {
        tokio::time::sleep(patience).await;
    }
    if going != Going::Ended {
        signal(&processes_of(&replica.pod), "KILL");
    }
}

/// What callers met.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Calls that were answered to their end, and those that the caller left before that.
    pub answered: u64,
    pub left: u64,
    /// Calls that were refused for want of room, or for the time being.
    pub refused: u64,
    pub busy: u64,
    /// Calls that broke with the replica.
    pub broken: u64,
    /// What nobody should meet.
    pub others: Vec<String>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.answered += other.answered;
        self.left += other.left;
        self.refused += other.refused;
        self.busy += other.busy;
        self.broken += other.broken;
        self.others.extend(other.others);
    }
}

/// Callers who go on whatever happens.
pub struct Callers {
    stop: CancellationToken,
    looking: tokio::task::JoinHandle<()>,
    calling: JoinSet<Tally>,
    answered: Arc<AtomicU64>,
}

impl Callers {
    /// Lets this many call, each in the name of one of these pools, whose route has the same name.
    pub fn start(world: &Arc<World>, pools: &[&str], number: usize, chance: &mut Rng) -> Self {
        let (stop, (found, replicas)) = (CancellationToken::new(), watch::channel(Vec::new()));
        let looking = tokio::spawn(look(world.clone(), found, stop.clone()));
        let (mut calling, answered) = (JoinSet::new(), Arc::<AtomicU64>::default());
        for number in 0..number {
            let pool = pools[number % pools.len()].to_owned();
            let (world, replicas, answered) = (world.clone(), replicas.clone(), answered.clone());
            let caller = Caller { world, replicas, pool, number, chance: chance.fork(), answered };
            calling.spawn(caller.go_on(stop.clone()));
        }
        Self { stop, looking, calling, answered }
    }

    /// The calls so far that were answered to their end.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets them end the calls that they are at.
    pub async fn stop(self) -> Tally {
        self.stop.cancel();
        let mut sum = Tally::default();
        self.calling.join_all().await.into_iter().for_each(|tally| sum += tally);
        self.looking.await.unwrap();
        sum
    }
}

/// Tells which replicas answer, as the endpoints of the Service would have them.
async fn look(world: Arc<World>, found: watch::Sender<Vec<Replica>>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        found.send_replace(world.team.replicas().await);
        tokio::time::sleep(LOOK).await;
    }
}

struct Caller {
    world: Arc<World>,
    replicas: watch::Receiver<Vec<Replica>>,
    pool: String,
    number: usize,
    chance: Rng,
    /// The sum of all callers.
    answered: Arc<AtomicU64>,
}

impl Caller {
    async fn go_on(mut self, stop: CancellationToken) -> Tally {
        let mut tally = Tally::default();
        while !stop.is_cancelled() {
            let replicas = self.replicas.borrow().clone();
            if let Some(replica) = self.chance.choice(&replicas) {
                self.call(replica, &mut tally).await;
            }
            tokio::time::sleep(Duration::from_millis(self.chance.u64(50..250))).await;
        }
        tally
    }

    async fn call(&mut self, replica: &Replica, tally: &mut Tally) {
        let (tokens, streams, leaves) = (self.chance.u64(1..=MOST_TOKENS), self.chance.bool(), self.chance.u32(..10) == 0);
        let mut body = chat(&self.pool, tokens);
        body["stream"] = streams.into();
        let mut request = self.world.client.post(replica.url(CHAT)).bearer_auth(self.world.key(&self.pool)).json(&body);
        if self.number.is_multiple_of(2) {
            // Tasks of some dozen calls.
            let task = format!("{}-{}", self.number, self.chance.u32(..4));
            request = request.header(TASK, task);
        }
        let end = match request.send().await {
            Ok(response) if response.status() == 200 => read(response, leaves).await,
            Ok(response) => refusal(response).await,
            Err(_) => End::Broken,
        };
        match end {
            End::Answered => {
                tally.answered += 1;
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            End::Left => tally.left += 1,
            End::Refused => tally.refused += 1,
            End::Busy => tally.busy += 1,
            End::Broken => tally.broken += 1,
            End::Other(answer) => tally.others.push(answer),
        }
    }
}

/// How a call ended.
enum End {
    Answered,
    Left,
    Refused,
    Busy,
    Broken,
    Other(String),
}

/// Reads an answer to its end, or leaves at its first bytes.
async fn read(mut response: Response, leaves: bool) -> End {
    loop {
        match response.chunk().await {
            Ok(Some(_)) if leaves => return End::Left,
            Ok(Some(_)) => {}
            Ok(None) => return End::Answered,
            Err(_) => return End::Broken,
        }
    }
}

async fn refusal(response: Response) -> End {
    let status = response.status().as_u16();
    let Ok(text) = response.text().await else { return End::Broken };
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    match (status, body.pointer("/error/code").and_then(Value::as_str)) {
        (429, Some("budget_exceeded")) => End::Refused,
        // A process that has just started in place of one that was killed may not have its plan yet.
        (503, Some("budget_busy" | "budget_unknown" | "gateway_starting")) => End::Busy,
        _ => End::Other(format!("{status}: {text}")),
    }
}
