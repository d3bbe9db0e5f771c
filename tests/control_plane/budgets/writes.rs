//! What budgets ask of the API server, and what they do without its answer: the ledger is written seldom and not at rest, and nothing is
//! granted beyond what stands in it.

use std::time::{Duration, Instant};

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use quartermaster_dev::fault_proxy::{Action, FaultProxy, Match, Verb};
use serde_json::{Value, json};

use super::harness::{World, tokens};
use crate::harness::Team;
use crate::routes::gateway::Replica;
use crate::routes::harness::{configuration, with};

const CODER: &[(&str, &[&str])] = &[("coder", &["coder"])];
/// How long nothing can be written.
const REFUSED: Duration = Duration::from_secs(60);
/// How long calls are made, and after what time of it writes are counted: what begins, as a forecast, is shown at once.
const LOAD: Duration = Duration::from_secs(100);
const BEGINNING: SignedDuration = SignedDuration::from_secs(30);
/// Somewhat less than a minute: what is sent a minute apart may arrive a little less apart.
const MINUTE: Duration = Duration::from_secs(58);
/// Writes of a minute about one budget, at most: three of the ledger, one of the caller table, two of figures.
const MOST: usize = 6;
/// What was used stands in the caller table after a minute. Whoever has written nothing for longer is at rest.
const REST: Duration = Duration::from_secs(65);

/// What a caller met.
#[derive(Default)]
struct Met {
    answered: u64,
    busy: u64,
    others: Vec<String>,
}

/// Calls until a time is over, and takes what comes.
async fn press(world: &World, replica: &Replica, until: Instant) -> Met {
    let mut met = Met::default();
    while Instant::now() < until {
        let answer = world.try_call(replica, "coder", "coder", 200, None).await;
        match answer.says() {
            (200, _) => met.answered += 1,
            (503, "budget_busy") => {
                met.busy += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            _ => met.others.push(format!("{answer:?}")),
        }
    }
    met
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_ledger_cannot_be_written_nothing_is_granted_beyond_what_stands_in_it() {
    let limit = 1_000_000;
    let mut world = World::new("unwritten", 2, CODER).await;
    let proxy = FaultProxy::start(world.team.operator_kubeconfig()).await.unwrap();
    let operator = world.team.start_as(proxy.kubeconfig(), &configuration(), &[]);
    operator.ready().await;
    let replicas = world.ready(2).await;
    world.team.apply_budget("sprint", with(tokens(limit), json!({ "thresholds": [] }))).await;
    world.team.until_used_is_known(&["sprint"]).await;
    world.until_covered(&replicas, "coder", "coder").await;
    for replica in &replicas {
        assert_eq!(world.call(replica, "coder", "coder", 200).await.status, 200);
    }
    world.team.until_written("sprint", "something was used", |written| written.used > 0).await;
    let name = world.team.ledger_objects().await[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let refused = Match::all().resource("configmaps").verb(Verb::Update).name(&name);
    let rule = proxy.add(refused, Action::Status { code: 503, retry_after: None });
    // What was under way arrives meanwhile.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let written = world.team.written("sprint").await.unwrap();
    assert!(written.reach < limit, "nothing is left that could be granted: {written:?}");

    let until = Instant::now() + REFUSED;
    let callers = (0..8).map(|number| press(&world, &replicas[number % 2], until));
    let met: Vec<Met> = join_all(callers).await;
    let others: Vec<&String> = met.iter().flat_map(|met| &met.others).collect();
    assert!(others.is_empty(), "{others:?}");
    let sum = |count: fn(&Met) -> u64| met.iter().map(count).sum::<u64>();
    let (answered, busy) = (sum(|met| met.answered), sum(|met| met.busy));
    let truth = world.truth(&["coder"]);
    println!("{answered} calls were answered and {busy} held off; {truth} tokens were used, and {} might have been", written.reach);
    assert!(truth <= written.reach, "{truth} tokens were used, and the ledger says no more than {written:?}");
    assert!(answered > 0 && busy > 0, "{answered} calls were answered, and {busy} held off");
    assert!(proxy.befell(rule) > 2, "it was tried {} times", proxy.befell(rule));
    assert_eq!(world.team.written("sprint").await.unwrap(), written, "nothing was written");

    proxy.remove(rule);
    for replica in &replicas {
        assert_eq!(world.call(replica, "coder", "coder", 200).await.status, 200, "it goes on by itself");
    }
    world.until_counted(&operator, "sprint", &["coder"]).await;
}

/// When the API server got each write about the budget: its status, and the ledger of its namespace.
fn writes(team: &Team) -> Vec<(Timestamp, String)> {
    let about = |entry: &Value| {
        let of = |name: &str| entry["objectRef"][name].as_str().unwrap_or_default();
        let is_write = ["create", "update", "patch"].iter().any(|verb| entry["verb"] == *verb);
        let is_status = of("resource") == "tokenbudgets";
        let is_ledger = of("resource") == "configmaps" && of("name").starts_with("quartermaster-ledger-");
        let at: Timestamp = entry["requestReceivedTimestamp"].as_str()?.parse().ok()?;
        let what = format!("{} {}", of("resource"), of("name"));
        (is_write && (is_status || is_ledger)).then_some((at, what))
    };
    let mut writes: Vec<(Timestamp, String)> = team.requests().iter().filter_map(about).collect();
    writes.sort();
    writes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_costs_at_most_six_writes_a_minute_and_none_at_rest() {
    let mut world = World::new("paced", 2, CODER).await;
    let operator = world.team.operator_with(&configuration(), &[]).await;
    let replicas = world.ready(2).await;
    // So little that the ledger is in the way again and again, and more than is used.
    world.team.apply_budget("sprint", with(tokens(6_000_000), json!({ "thresholds": [] }))).await;
    world.team.until_used_is_known(&["sprint"]).await;
    world.until_covered(&replicas, "coder", "coder").await;
    let (since, begun) = (Timestamp::now() + BEGINNING, Instant::now());
    let caller = |number: usize| {
        let (world, replica) = (&world, &replicas[number % 2]);
        async move {
            while begun.elapsed() < LOAD {
                let answer = world.call(replica, "coder", "coder", 200).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    join_all((0..8).map(caller)).await;
    world.until_counted(&operator, "sprint", &["coder"]).await;
    world.team.until_quiet(REST).await;
    let (truth, all) = (world.truth(&["coder"]), writes(&world.team));
    let later: Vec<&(Timestamp, String)> = all.iter().filter(|(at, _)| *at >= since).collect();
    assert!(truth > 200_000, "{truth} tokens prove little");
    let is = |wanted: &str| later.iter().any(|(_, what)| what.contains(wanted));
    assert!(is("tokenbudgets sprint") && is("ledger-hot") && is("ledger-history"), "{later:#?}");
    for (place, (at, _)) in later.iter().enumerate() {
        let within = |(other, _): &&&(Timestamp, String)| Duration::try_from(other.duration_since(*at)).unwrap() < MINUTE;
        let of_minute: Vec<_> = later[place..].iter().take_while(within).collect();
        assert!(of_minute.len() <= MOST, "{} writes within a minute: {of_minute:#?}", of_minute.len());
    }
    println!("{} writes for {truth} tokens", later.len());
    // All of it stands now, and is exact.
    let written = world.team.written("sprint").await.unwrap();
    assert_eq!((written.used, written.estimated), (truth, 0));
    let shown = world.team.budget("sprint").await;
    assert_eq!((&shown["status"]["usedTokens"], &shown["status"]["estimatedTokens"]), (&json!(truth), &json!(0)), "{shown:#}");
}
