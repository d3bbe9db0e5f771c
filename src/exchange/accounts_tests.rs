//! The accounts as the leader's other parts use them, and over real connections.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quartermaster_core::decide::account::granting::PeriodTerms;
use quartermaster_core::decide::account::message::{RouteRow, Told};
use quartermaster_core::decide::account::{AccountId, Limits, PeriodId, Unit};
use quartermaster_core::decide::gateway::exchange::usage::{Hour, Series, UsageCounters};
use tokio::task::JoinHandle;

use super::super::testing::{Client, Server, authority, client_tls, desired, fleet_of, server_tls};
use super::*;
use crate::sources::testing::{until, within};

const UID: &str = "6f1c";

fn account() -> AccountId {
    AccountId { budget: UID.to_owned(), unit: Unit::Tokens, caller: None }
}

fn budgets() -> BTreeMap<String, BudgetTerms> {
    let limits = Limits { tokens: Some(1000), cost: None };
    let start = 1_700_000_000;
    let terms = BudgetTerms {
        name: "sprint".to_owned(),
        period: PeriodTerms { id: PeriodId(start), start, end: None, limits },
        covers: BTreeMap::from([("coder".to_owned(), None)]),
        cached_input_percent: 100,
        ..BudgetTerms::default()
    };
    BTreeMap::from([(UID.to_owned(), terms)])
}

fn callers() -> BTreeMap<String, CallerRow> {
    let route = RouteRow { accounts: vec![account()], ..RouteRow::default() };
    BTreeMap::from([("coder".to_owned(), CallerRow { routes: BTreeMap::from([("smart".to_owned(), route)]) })])
}

fn with_budgets(namespaces: &[&str]) -> Beginning {
    let with_budgets = namespaces.iter().map(|namespace| (*namespace).to_owned()).collect();
    Beginning { term: 1, with_budgets, ..Beginning::default() }
}

/// Keeps a ledger that nobody else knows of, in which every write stands at once.
fn kept(accounts: &Arc<Accounts>) -> JoinHandle<()> {
    let accounts = Arc::clone(accounts);
    tokio::spawn(async move {
        loop {
            for (namespace, task) in accounts.turn().unwrap() {
                match task {
                    Task::Claim => accounts.claimed(&namespace, Claimed::Ledger(None)),
                    Task::Hot(ledger) => accounts.hot_written(&namespace, &ledger, true),
                    Task::History { changes, .. } => accounts.history_written(&namespace, changes, true),
                }
            }
            accounts.due().await;
        }
    })
}

#[tokio::test]
async fn a_namespace_is_as_known_as_what_is_known_of_all() {
    let accounts = Accounts::default();
    assert_eq!(accounts.rows("early", 7, 1, 0), None, "nobody leads");
    accounts.begin(with_budgets(&["team"]));
    let nothing = Some((AccountRows::default(), Arc::default()));
    // Those that were heard of before as those that are heard of later.
    assert_eq!((accounts.rows("early", 7, 1, 0), accounts.rows("late", 7, 1, 0)), (nothing.clone(), nothing));
    assert_eq!(accounts.rows("team", 7, 1, 0), None);
    assert_eq!(accounts.history("late", |history| history.changes()), None, "nothing was read yet");
    accounts.load_failed("no right to list them".to_owned());
    assert_eq!(accounts.unknown_because("team").as_deref(), Some("no right to list them"));
    accounts.load(BTreeMap::new());
    assert_eq!(accounts.unknown_because("team"), None);
    assert_eq!(accounts.history("late", |history| history.changes()), Some(0));
    assert_eq!(accounts.rows("later", 7, 1, 0), Some((AccountRows::default(), Arc::default())));
    assert_eq!(accounts.history("later", |history| history.changes()), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_new_budget_is_in_force_within_a_second_and_its_controller_is_woken() {
    let accounts = Arc::<Accounts>::default();
    let woken = Arc::<Mutex<Vec<String>>>::default();
    let told = Arc::clone(&woken);
    accounts.on_change(move |namespace, uid| told.lock().unwrap().push(format!("{namespace}/{uid}")));
    accounts.begin(Beginning { term: 1, ..Beginning::default() });
    accounts.load(BTreeMap::new());
    let _kept = kept(&accounts);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut changes = accounts.changes("team");
    changes.borrow_and_update();
    let began = Instant::now();
    accounts.configure("team", budgets());
    accounts.verdict("team", callers());
    while accounts.rows("team", 7, 1, 0).is_none() {
        changes.changed().await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(accounts.snapshot("team", UID).unwrap().units[&Unit::Tokens].limit, 1000);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(*woken.lock().unwrap(), [format!("team/{UID}")], "nothing happens, and nobody is woken again");
    changes.borrow_and_update();
    accounts.configure("team", budgets());
    accounts.verdict("team", callers());
    assert!(!changes.has_changed().unwrap(), "the same again is no change");
}

#[tokio::test]
async fn what_a_panic_left_half_done_grants_nothing_and_ends_the_process() {
    let accounts = Accounts::default();
    accounts.begin(with_budgets(&[]));
    accounts.load(BTreeMap::new());
    assert!(accounts.rows("team", 7, 1, 0).is_some() && accounts.rows("other", 7, 1, 0).is_some());
    let panicked = catch_unwind(AssertUnwindSafe(|| accounts.history("team", |_| -> u64 { panic!("as the test wants") })));
    assert!(panicked.is_err());
    assert_eq!(accounts.rows("team", 7, 1, 0), None);
    assert!(accounts.rows("other", 7, 1, 0).is_some());
    assert_eq!(accounts.last_turn().unwrap_err().to_string(), "a panic has left the accounts of the namespace team half done");
}

#[tokio::test]
async fn what_callers_used_is_summed_over_namespaces_and_processes() {
    let accounts = Accounts::default();
    let report = |namespace: &str, epoch: u64, tokens: u64| {
        let mut counters = UsageCounters::default();
        let series = Series { caller: "coder".to_owned(), route: "smart".to_owned(), backend: "qwen".to_owned() };
        let hour = Hour::of(Timestamp::now());
        counters.record(series, hour, hour, &Counts { input: tokens, ..Counts::default() });
        let message = GatewayMessage { epoch, seq: 1, usage: counters.since(0), ..GatewayMessage::default() };
        let standing = Standing { epoch, listens: true, acknowledged: 0, draining: false };
        accounts.receive(namespace, "pod", &message, standing);
    };
    report("team", 1, 5);
    report("team", 2, 6);
    report("other", 3, 7);
    accounts.ended("team", 1);
    let totals = accounts.totals();
    let of = |namespace: &str| totals.iter().find(|(series, _)| series.namespace == namespace).unwrap().1.input;
    assert_eq!((totals.len(), of("team"), of("other")), (2, 11, 7));
}

#[tokio::test]
async fn a_gateway_is_told_of_accounts_on_each_connection_once_they_are_known() {
    let authority = authority();
    let server = Server::start(server_tls(&authority, "team")).await;
    let wanted = || fleet_of(server.pod("team"), desired("team", "coder", "sk-1"), client_tls(&authority));
    let first = Client::start(1, wanted());
    until(|| first.is_connected("pod") && first.traffic.sent() >= 2).await;
    assert_eq!(server.gateway.told(), [], "what it knows stays, for as long as nobody knows better");
    first.accounts.begin(with_budgets(&[]));
    first.accounts.load(BTreeMap::new());
    let nothing = Told { all: true, ..Told::default() };
    until(|| server.gateway.told().contains(&nothing)).await;
    // The next leader has a budget.
    let next = Client::start(2, wanted());
    next.accounts.begin(with_budgets(&["team"]));
    next.accounts.load(BTreeMap::new());
    let kept = kept(&next.accounts);
    next.accounts.configure("team", budgets());
    until(|| next.is_connected("pod") && next.traffic.sent() >= 2).await;
    assert!(server.gateway.told().iter().all(|told| *told == nothing), "what it means for callers is not known yet");
    next.accounts.verdict("team", callers());
    let last = || server.gateway.told().last().cloned().unwrap_or_default();
    until(|| last().accounts.contains_key(&account())).await;
    let row = last().accounts[&account()].clone().unwrap();
    assert_eq!((row.budget.as_str(), row.limit), ("sprint", 1000));
    assert_eq!(last().callers["coder"].as_ref().unwrap().routes["smart"].accounts, [account()]);
    // It is deleted.
    next.accounts.configure("team", BTreeMap::new());
    until(|| {
        let told = last();
        told == nothing || told.accounts.get(&account()) == Some(&None)
    })
    .await;
    kept.abort();
}

#[tokio::test]
async fn a_change_is_told_before_the_next_heartbeat() {
    let authority = authority();
    let server = Server::start(server_tls(&authority, "team")).await;
    let client = Client::start(1, fleet_of(server.pod("team"), desired("team", "coder", "sk-1"), client_tls(&authority)));
    client.accounts.begin(with_budgets(&["team"]));
    client.accounts.load(BTreeMap::new());
    let kept = kept(&client.accounts);
    client.accounts.configure("team", budgets());
    client.accounts.verdict("team", callers());
    until(|| !server.gateway.told().is_empty()).await;
    let began = Instant::now();
    for number in 1..=10 {
        let message = format!("change {number}");
        let mut changed = budgets();
        changed.get_mut(UID).unwrap().message = Some(message.clone());
        client.accounts.configure("team", changed);
        let is_told = |told: &Told| {
            let row = told.accounts.get(&account()).and_then(Option::as_ref);
            row.is_some_and(|row| row.message.as_ref() == Some(&message))
        };
        within(async {
            while !server.gateway.told().iter().any(is_told) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
    // By heartbeats alone it would be ten seconds.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    kept.abort();
}
