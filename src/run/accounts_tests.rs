//! The ledger of one leader after another, in an API server that keeps ConfigMaps. Minutes pass at once: time is tokio's paused one.

use std::collections::BTreeSet;

use k8s_openapi::ByteString;
use quartermaster_core::decide::account::granting::{BudgetTerms, Known, PeriodTerms};
use quartermaster_core::decide::account::history::History;
use quartermaster_core::decide::account::ledger::{
    AccountLedger, BudgetLedger, PeriodLedger, ProcessLedger, SCHEMA_VERSION, ShareLedger, Units,
};
use quartermaster_core::decide::account::message::{Report, SpentRow};
use quartermaster_core::decide::account::{AccountId, Limits, PeriodId, Unit};
use quartermaster_core::decide::gateway::exchange::message::GatewayMessage;
use quartermaster_core::decide::gateway::exchange::operator_session::Standing;
use quartermaster_core::decide::gateway::exchange::usage::{Counts, Hour, Series, UsageCounters};
use quartermaster_core::decide::short_hash;
use rstest::rstest;
use serde_json::json;
use tokio::task::JoinHandle;

use super::*;
use crate::exchange::accounts::Beginning;
use crate::operate::ledger::encode;
use crate::operate::ledger::testing::{Fault, Server};

const UID: &str = "6f1c";
const START: i64 = 1_700_000_000;

/// A process that leads.
struct Leader {
    accounts: Arc<Accounts>,
    ends: CancellationToken,
    keeping: JoinHandle<()>,
}

impl Leader {
    /// Begins to lead, with a budget in the namespace `team`.
    fn begin(server: &Arc<Server>, term: u64, pods: &[&str]) -> Self {
        let (accounts, ends) = (Arc::<Accounts>::default(), CancellationToken::new());
        let pods: BTreeSet<String> = pods.iter().map(|pod| (*pod).to_owned()).collect();
        let (with_budgets, pods) = (BTreeSet::from(["team".to_owned()]), BTreeMap::from([("team".to_owned(), pods)]));
        accounts.begin(Beginning { term, with_budgets, pods });
        accounts.configure("team", budgets());
        accounts.verdict("team", BTreeMap::new());
        let keeping = tokio::spawn(keep(Arc::clone(&accounts), server.store(), term, ends.clone()));
        Self { accounts, ends, keeping }
    }

    /// A process of the gateway says that it has used so many tokens of so many.
    fn hears(&self, epoch: u64, seq: u64, used: u64, allowance: u64) {
        let account = AccountId { budget: UID.to_owned(), unit: Unit::Tokens, caller: None };
        let row = SpentRow { used, allowance, ..SpentRow::default() };
        let accounts = BTreeMap::from([(account, BTreeMap::from([(PeriodId(START), row)]))]);
        let mut counters = UsageCounters::default();
        let series = Series { caller: "coder".to_owned(), route: "smart".to_owned(), backend: "qwen".to_owned() };
        let hour = Hour::of(jiff::Timestamp::now());
        counters.record(series, hour, hour, &Counts { input: used, requests: 1, ..Counts::default() });
        let report = Report { accounts, ..Report::default() };
        let message = GatewayMessage { epoch, seq, usage: counters.since(0), accounts: report, ..GatewayMessage::default() };
        let standing = Standing { epoch, listens: true, acknowledged: 0, draining: false };
        self.accounts.receive("team", &format!("pod-{epoch}"), &message, standing);
    }

    fn used(&self) -> Option<(u64, Known)> {
        let snapshot = self.accounts.snapshot("team", UID)?;
        Some((snapshot.units[&Unit::Tokens].used, snapshot.known))
    }

    /// Leaves in order.
    async fn end(self) {
        self.ends.cancel();
        self.keeping.await.unwrap();
    }
}

fn budgets() -> BTreeMap<String, BudgetTerms> {
    let limits = Limits { tokens: Some(1000), cost: None };
    let terms = BudgetTerms {
        name: "sprint".to_owned(),
        period: PeriodTerms { id: PeriodId(START), start: START, end: None, limits },
        covers: BTreeMap::from([("coder".to_owned(), None)]),
        cached_input_percent: 100,
        ..BudgetTerms::default()
    };
    BTreeMap::from([(UID.to_owned(), terms)])
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

/// The names of the objects of the namespace `team`: of the hot ledger, and of the caller table.
fn names() -> (String, String) {
    let hash = short_hash::of("team");
    (format!("quartermaster-ledger-hot-{hash}"), format!("quartermaster-ledger-history-{hash}"))
}

fn hot(server: &Server) -> HotLedger {
    HotLedger::read(&server.text(&names().0).unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_was_used_outlives_a_leader_that_leaves_and_one_that_does_not() {
    let server = Server::new();
    let first = Leader::begin(&server, 1, &[]);
    seconds(10).await;
    first.hears(7, 1, 40, 0);
    seconds(1).await;
    first.end().await;
    assert_eq!(
        hot(&server).budgets[UID].periods[&PeriodId(START)].accounts.tokens.as_ref().unwrap().shares[""].processes[&7].live,
        40
    );
    // The process lives, and reports to the next one, which is killed.
    let second = Leader::begin(&server, 2, &["pod-7"]);
    seconds(2).await;
    assert_eq!(second.used(), Some((40, Known::NotHeard(1))));
    second.hears(7, 2, 50, 0);
    seconds(1).await;
    assert_eq!(second.used(), Some((50, Known::Yes)));
    seconds(120).await;
    second.keeping.abort();
    // Its pod is gone when the third one begins.
    let third = Leader::begin(&server, 3, &[]);
    seconds(2).await;
    let (used, known) = third.used().unwrap();
    assert!(used >= 50 && known == Known::Yes, "{used} {known:?}");
    assert_eq!(hot(&server).term, 3);
    let tokens = third.accounts.history("team", |history| history.rows().map(|(_, _, counts)| counts.input).sum::<u64>());
    assert_eq!(tokens, Some(50), "once, whoever has counted it");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_of_the_api_server_at_rest() {
    let server = Server::new();
    let leader = Leader::begin(&server, 1, &[]);
    leader.hears(7, 1, 40, 0);
    seconds(300).await;
    server.asked_since();
    seconds(1200).await;
    assert_eq!(server.asked_since(), Vec::<String>::new());
    leader.end().await;
    assert_eq!(server.asked(), Vec::<String>::new(), "all of it stands already");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_without_budgets_has_no_hot_ledger_and_what_its_callers_used_is_written_once_a_minute() {
    let server = Server::new();
    let (accounts, ends) = (Arc::<Accounts>::default(), CancellationToken::new());
    accounts.begin(Beginning { term: 1, ..Beginning::default() });
    let keeping = tokio::spawn(keep(Arc::clone(&accounts), server.store(), 1, ends.clone()));
    let leader = Leader { accounts, ends, keeping };
    for second in 1..=180 {
        leader.hears(7, second, second, 0);
        seconds(1).await;
    }
    let (hot, history) = names();
    assert_eq!(server.names(), [history.as_str()]);
    let writes = server.asked().iter().filter(|asked| asked.contains(&history)).count();
    assert!((2..=3).contains(&writes), "{:?}", server.asked());
    assert!(!server.asked().iter().any(|asked| asked.contains(&hot)));
    leader.end().await;
    let text = server.text(&history).unwrap();
    assert!(text.contains(r#"[[0,180,0,0,0,1]]"#), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_cannot_be_listed_is_asked_for_until_it_can_be() {
    let server = Server::new();
    server.refuse_lists(5);
    let leader = Leader::begin(&server, 1, &[]);
    seconds(1).await;
    let why = leader.accounts.unknown_because("team").unwrap();
    assert!(why.contains("cannot list resource \"configmaps\""), "{why}");
    assert_eq!((leader.used(), leader.accounts.rows("team", 7, 1, 0)), (None, None));
    assert!(server.names().is_empty(), "nothing is written before it is known what stands");
    seconds(60).await;
    assert_eq!(leader.accounts.unknown_because("team"), None);
    assert_eq!(leader.used(), Some((0, Known::Yes)));
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_later_version_is_written_over_and_nothing_granted() {
    let server = Server::new();
    let first = Leader::begin(&server, 1, &[]);
    seconds(120).await;
    first.end().await;
    let (name, _) = names();
    server.put_text(&name, r#"{"schemaVersion":9}"#);
    let leader = Leader::begin(&server, 2, &[]);
    leader.hears(7, 1, 40, 0);
    seconds(120).await;
    assert_eq!(server.text(&name).as_deref(), Some(r#"{"schemaVersion":9}"#));
    assert_eq!((leader.used(), leader.accounts.rows("team", 7, 1, 0)), (None, None));
    let why = leader.accounts.unknown_because("team").unwrap();
    assert!(why.contains("it is of version 9") && why.ends_with("run a version of the operator that can"), "{why}");
    leader.end().await;
    assert_eq!(server.text(&name).as_deref(), Some(r#"{"schemaVersion":9}"#));
    assert_eq!(server.names(), [name.as_str()], "nor is the caller table written");
}

/// The ledger as somebody writes it who wants to have used nothing: valid in every other way.
fn forgetful(mut ledger: HotLedger) -> Vec<u8> {
    let period = ledger.budgets.get_mut(UID).unwrap().periods.get_mut(&PeriodId(START)).unwrap();
    let share = period.accounts.tokens.as_mut().unwrap().shares.get_mut("").unwrap();
    let process = share.processes.get_mut(&7).unwrap();
    assert_eq!(std::mem::take(&mut process.live), 40);
    encode(&ledger.text().unwrap()).unwrap()
}

#[rstest]
#[case::unreadable(|_: HotLedger| b"nonsense".to_vec())]
#[case::edited(forgetful)]
#[tokio::test(start_paused = true)]
async fn a_ledger_that_cannot_be_read_or_was_edited_is_kept_beside_and_made_anew_of_what_gateways_say(
    #[case] edit: fn(HotLedger) -> Vec<u8>,
) {
    let server = Server::new();
    let first = Leader::begin(&server, 1, &[]);
    seconds(10).await;
    first.hears(7, 1, 40, 0);
    seconds(1).await;
    first.end().await;
    let (name, _) = names();
    let edited = json!(ByteString(edit(hot(&server))));
    server.edit(&name, |object| object["binaryData"]["ledger"] = edited.clone());
    let second = Leader::begin(&server, 2, &["pod-7"]);
    second.hears(7, 2, 40, 60);
    seconds(120).await;
    assert_eq!(second.used(), Some((40, Known::LedgerLost)));
    assert_eq!(server.object(&format!("{name}-unreadable"))["binaryData"]["ledger"], edited);
    assert!(hot(&server).budgets[UID].unconfirmed);
    second.end().await;
    // The next one knows it too, until somebody confirms it.
    let third = Leader::begin(&server, 3, &["pod-7"]);
    third.hears(7, 3, 45, 60);
    seconds(2).await;
    assert_eq!(third.used(), Some((45, Known::LedgerLost)));
    third.accounts.confirm("team", UID);
    seconds(70).await;
    assert_eq!(third.used(), Some((45, Known::Yes)));
    assert!(!hot(&server).budgets[UID].unconfirmed);
}

#[tokio::test(start_paused = true)]
async fn a_caller_table_that_somebody_edits_is_kept_beside_and_begun_anew_and_no_account_hangs_on_it() {
    let server = Server::new();
    let first = Leader::begin(&server, 1, &[]);
    seconds(10).await;
    first.hears(7, 1, 40, 0);
    seconds(1).await;
    first.end().await;
    let (_, name) = names();
    let text = server.text(&name).unwrap();
    let less = text.replace("[0,40,", "[0,4,");
    assert_ne!(less, text);
    let edited = json!(ByteString(encode(&less).unwrap()));
    server.edit(&name, |object| object["binaryData"]["ledger"] = edited.clone());
    let second = Leader::begin(&server, 2, &["pod-7"]);
    seconds(2).await;
    assert_eq!(second.used(), Some((40, Known::NotHeard(1))));
    assert_eq!(server.object(&format!("{name}-unreadable"))["binaryData"]["ledger"], edited);
    second.hears(7, 2, 50, 0);
    seconds(2).await;
    assert_eq!(second.used(), Some((50, Known::Yes)));
    // The process says again what it has counted; of processes that are gone nobody does.
    let input = |history: &History| history.rows().map(|(_, _, counts)| counts.input).sum::<u64>();
    let table = second.accounts.history("team", |history| (input(history), history.is_complete()));
    assert_eq!(table, Some((50, false)));
    second.end().await;
    let written = History::read([server.text(&name).unwrap()]).unwrap();
    assert_eq!((input(&written), written.is_complete()), (50, false), "the next leader knows as well that it was more");
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_cannot_be_claimed_or_written_is_tried_again() {
    let server = Server::new();
    server.fail([Fault::Refused(403), Fault::Refused(500), Fault::AnswerLost, Fault::AnswerLost, Fault::Refused(429)]);
    let leader = Leader::begin(&server, 1, &[]);
    seconds(1).await;
    assert_eq!(leader.used(), None);
    assert!(leader.accounts.unknown_because("team").is_some());
    leader.hears(7, 1, 40, 0);
    seconds(120).await;
    assert_eq!(leader.used(), Some((40, Known::Yes)));
    let stands = hot(&server);
    assert_eq!(stands.budgets[UID].periods[&PeriodId(START)].accounts.tokens.as_ref().unwrap().bound, Some(1000));
}

#[tokio::test(start_paused = true)]
async fn who_leads_no_more_writes_nothing() {
    let server = Server::new();
    let leader = Leader::begin(&server, 1, &[]);
    seconds(60).await;
    server.depose();
    server.asked_since();
    leader.hears(7, 1, 40, 0);
    seconds(120).await;
    leader.end().await;
    assert_eq!(server.asked(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn who_finds_a_later_leader_in_the_ledger_writes_nothing_and_ends_in_a_panic() {
    let server = Server::new();
    let leader = Leader::begin(&server, 1, &[]);
    seconds(60).await;
    let (name, _) = names();
    let stood = server.text(&name);
    server.edit(&name, |object| object["metadata"]["annotations"]["quartermaster.dev/ledger-term"] = json!("2"));
    leader.hears(7, 1, 40, 0);
    seconds(120).await;
    assert_eq!(server.text(&name), stood);
    assert!(leader.keeping.is_finished());
    assert!(leader.keeping.await.unwrap_err().is_panic());
}

/// More than an object can hold, however it is compressed.
fn huge() -> BudgetLedger {
    let mut random = fastrand::Rng::with_seed(7);
    let process = || (random.u64(..), ProcessLedger { live: random.u64(..), ceiling: random.u64(..), ..ProcessLedger::default() });
    let share = ShareLedger { processes: std::iter::repeat_with(process).take(40_000).collect(), ..ShareLedger::default() };
    let tokens = Some(AccountLedger { bound: Some(1000), shares: BTreeMap::from([(String::new(), share)]) });
    let period = PeriodLedger { accounts: Units { tokens, cost: None }, ..PeriodLedger::default() };
    BudgetLedger { periods: BTreeMap::from([(PeriodId(0), period)]), ..BudgetLedger::default() }
}

#[rstest]
#[case::as_it_stands(Some(1))]
#[case::out(None)]
#[tokio::test]
async fn a_budget_that_no_object_can_hold_is_left_and_the_others_are_written(#[case] stood: Option<i64>) {
    let open = |period: i64| BudgetLedger { open: PeriodId(period), ..BudgetLedger::default() };
    let hot = |grows: Option<BudgetLedger>, other: BudgetLedger| {
        let grows = grows.map(|grows| ("grows".to_owned(), grows));
        let budgets = grows.into_iter().chain([("other".to_owned(), other)]).collect();
        Box::new(HotLedger { schema_version: SCHEMA_VERSION, term: 1, budgets })
    };
    let server = Server::new();
    let mut ledger = server.store().ledger("team", Book::Hot);
    ledger.claim(1).await.unwrap();
    write_hot("team", &mut ledger, hot(stood.map(open), open(1))).await.1.unwrap();
    let (stands, written) = write_hot("team", &mut ledger, hot(Some(huge()), open(2))).await;
    written.unwrap();
    assert_eq!(stands, hot(stood.map(open), open(2)));
    let contents = ledger.read().await.unwrap();
    let texts = contents.into_iter().filter_map(|content| Some((content.revision, content.text.unwrap()?)));
    assert_eq!(parts::to_hot(texts), Ok(Some(*stands)));
}

#[tokio::test(start_paused = true)]
async fn what_a_panic_left_half_done_ends_who_keeps_the_ledger_in_a_panic() {
    let server = Server::new();
    let leader = Leader::begin(&server, 1, &[]);
    seconds(2).await;
    let accounts = Arc::clone(&leader.accounts);
    let panicked = tokio::spawn(async move { accounts.history("team", |_| -> u64 { panic!("as the test wants") }) }).await;
    assert!(panicked.unwrap_err().is_panic());
    assert!(leader.keeping.await.unwrap_err().is_panic());
}
