//! What outlives the leader: the ledger is exact when a leader ends in good order, nothing is free where one does not, and what is lost,
//! cut, of a later version or edited by hand is told, and makes nothing free either.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::{DeleteParams, Patch, PatchParams};
use quartermaster::operate::ledger::{Book, DIGEST, ENTRY, digest, encode};
use quartermaster_core::decide::account::history::History;
use quartermaster_core::decide::account::ledger::HotLedger;
use serde_json::{Value, json};

use super::harness::{World, is_spent, reason, text_of, tokens};
use crate::harness::{DEADLINE, Operator, Team};
use crate::routes::gateway::Replica;
use crate::routes::harness::{configuration, message};

const CODER: &[(&str, &[&str])] = &[("coder", &["coder"])];

/// A namespace with one replica and one budget, of which some was used.
struct Spent {
    world: World,
    operator: Operator,
    replica: Replica,
}

impl Spent {
    async fn new(name: &str, limit: u64) -> Self {
        let mut world = World::new(name, 1, CODER).await;
        let operator = world.team.operator_with(&configuration(), &[]).await;
        let replica = world.ready(1).await.remove(0);
        world.team.apply_budget("sprint", tokens(limit)).await;
        world.team.until_used_is_known(&["sprint"]).await;
        world.until_covered(std::slice::from_ref(&replica), "coder", "coder").await;
        let spent = Self { world, operator, replica };
        spent.use_some().await;
        spent
    }

    async fn use_some(&self) {
        for number in 1..=10 {
            let answer = self.world.call(&self.replica, "coder", "coder", 50 * number).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }

    fn truth(&self) -> u64 {
        self.world.truth(&["coder"])
    }

    async fn until_counted(&self) {
        self.world.until_counted(&self.operator, "sprint", &["coder"]).await;
    }

    /// Ends the operator in good order.
    fn end(&mut self) {
        assert_eq!(self.operator.terminate().code(), Some(0), "{}", self.operator.log());
    }

    /// Starts the next one.
    async fn next(&mut self) {
        self.operator = self.world.team.operator_with(&configuration(), &[]).await;
    }

    /// The only object of the hot ledger: name and text.
    async fn hot(&self) -> (String, String) {
        self.only_object_of(Book::Hot).await
    }

    async fn only_object_of(&self, book: Book) -> (String, String) {
        let objects = self.world.team.objects_of(book).await;
        let [object] = objects.as_slice() else { panic!("not one object: {objects:#?}") };
        (object["metadata"]["name"].as_str().unwrap().to_owned(), text_of(object).unwrap())
    }

    /// What stands beside an object, as it was when it could not be read.
    async fn set_aside(&self, name: &str) -> Value {
        let copy = self.world.team.config_maps().get(&format!("{name}-unreadable")).await.unwrap();
        copy.data["binaryData"][ENTRY].clone()
    }
}

/// A hot ledger in which nothing was used, valid in every other way.
fn forgetful(text: &str) -> String {
    let mut ledger = HotLedger::read(text).unwrap();
    let periods = ledger.budgets.values_mut().flat_map(|budget| budget.periods.values_mut());
    for account in periods.flat_map(|period| period.accounts.each_mut()).map(|(_, account)| account) {
        for share in account.shares.values_mut() {
            share.settled = 0;
            share.processes.values_mut().for_each(|process| process.live = 0);
        }
    }
    ledger.text().unwrap()
}

/// Writes a text into an object of a ledger, as an operator does.
async fn write(team: &Team, name: &str, text: &str) {
    let binary = STANDARD.encode(encode(text).unwrap());
    let patch = json!({ "metadata": { "annotations": { DIGEST: digest(text) } }, "binaryData": { ENTRY: binary } });
    team.config_maps().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

/// Puts something else into an object of a ledger, as somebody does who edits it.
async fn put(team: &Team, name: &str, binary: &[u8]) {
    let patch = json!({ "binaryData": { ENTRY: STANDARD.encode(binary) } });
    team.config_maps().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

/// Confirms what the budget shows as used. A value that was there when the operator first looked at the budget confirms nothing: then
/// another one does.
async fn confirm(team: &Team, value: &str) {
    let started = Instant::now();
    for number in 0.. {
        let annotation = format!("quartermaster.dev/confirm-usage={value}-{number}");
        let said = team.kubectl(&["annotate", "--overwrite", "tb/sprint", &annotation]);
        assert!(said.contains("annotated"), "{said}");
        let annotated = Instant::now();
        while annotated.elapsed() < Duration::from_secs(5) {
            if reason(&team.budget("sprint").await, "UsageKnown") == "UsageKnown" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(started.elapsed() < DEADLINE, "nothing confirms what was used");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_writes_all_that_was_used_and_the_next_leader_goes_on_from_it() {
    let mut spent = Spent::new("orderly-ledger", 100_000).await;
    for _ in 0..2 {
        spent.until_counted().await;
        spent.end();
        let written = spent.world.team.written("sprint").await.unwrap();
        assert_eq!((written.used, written.estimated), (spent.truth(), 0), "{written:?}");
        assert!(written.reach <= 100_000, "{written:?}");
        spent.next().await;
        spent.until_counted().await;
        spent.use_some().await;
    }
    spent.until_counted().await;
    // As far as the limit, and no further.
    spent.world.spend_all(&spent.replica, "coder", "coder").await;
    let (truth, least) = (spent.truth(), spent.world.most("coder", 1).await);
    assert!(is_spent(100_000, truth, least), "{truth} were used, and a call needs {least}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_free_or_charged_twice_because_a_leader_was_killed() {
    let mut spent = Spent::new("killed-ledger", 100_000).await;
    for _ in 0..2 {
        spent.operator.kill();
        spent.next().await;
        spent.until_counted().await;
        spent.use_some().await;
    }
    spent.operator.kill();
    spent.next().await;
    spent.until_counted().await;
    spent.world.spend_all(&spent.replica, "coder", "coder").await;
    let (truth, least) = (spent.truth(), spent.world.most("coder", 1).await);
    assert!(is_spent(100_000, truth, least), "{truth} were used, and a call needs {least}");
    let exact = |budget: &Value| budget["status"]["usedTokens"] == truth && budget["status"]["estimatedTokens"] == 0;
    spent.world.team.until_budget("sprint", "all tokens, none of them estimated", exact).await;
}

/// What is known of what was used is made anew of what gateways and the caller table say, and somebody has to look at it.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_lost_or_cut_is_made_anew_told_and_confirmed_by_somebody() {
    let mut spent = Spent::new("lost-ledger", 1_000_000).await;
    for damage in ["missing", "cut"] {
        spent.until_counted().await;
        spent.end();
        let (name, text) = spent.hot().await;
        let binary = encode(&text).unwrap();
        let half = &binary[..binary.len() / 2];
        if damage == "missing" {
            spent.world.team.config_maps().delete(&name, &DeleteParams::default()).await.unwrap();
        } else {
            put(&spent.world.team, &name, half).await;
        }
        spent.next().await;
        let team = &spent.world.team;
        let lost = team.until_budget_says("sprint", "UsageKnown", "False", "LedgerLost").await;
        assert!(message(&lost, "UsageKnown").contains("quartermaster.dev/confirm-usage"), "{damage}: {lost:#}");
        assert!(team.until_event("TokenBudget", "sprint", "LedgerLost").await, "a warning");
        spent.until_counted().await;
        spent.use_some().await;
        spent.until_counted().await;
        if damage == "cut" {
            assert_eq!(spent.set_aside(&name).await, STANDARD.encode(half), "what could not be read is kept");
        }

        // Whoever leads next does not take it for confirmed.
        spent.operator.kill();
        spent.next().await;
        let team = &spent.world.team;
        spent.until_counted().await;
        team.until_budget_says("sprint", "UsageKnown", "False", "LedgerLost").await;
        confirm(team, damage).await;
        spent.until_counted().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_a_later_version_is_left_alone_and_nothing_is_granted() {
    let mut spent = Spent::new("newer-ledger", 1_000_000).await;
    spent.until_counted().await;
    spent.end();
    let (name, text) = spent.hot().await;
    let newer = text.replacen("\"schemaVersion\":1", "\"schemaVersion\":9", 1);
    assert_ne!(newer, text);
    write(&spent.world.team, &name, &newer).await;
    spent.next().await;
    let team = &spent.world.team;
    let held = team.until_budget_says("sprint", "Ready", "False", "UsageUnknown").await;
    let words = message(&held, "Ready");
    assert!(words.contains("version 9") && words.contains("run a version of the operator that can"), "{words}");
    // It has some of what it was granted before, and more than that nobody grants.
    let refused = spent.world.try_call(&spent.replica, "coder", "coder", 20_000, None).await;
    assert!(refused.status == 503 && refused.code.starts_with("budget_"), "{refused:?}");
    assert_eq!(spent.hot().await, (name.clone(), newer), "it stands as it was");

    spent.end();
    write(&spent.world.team, &name, &text).await;
    spent.next().await;
    spent.until_counted().await;
    spent.use_some().await;
    spent.until_counted().await;
    spent.world.team.until_budget_says("sprint", "Ready", "True", "InForce").await;
}

/// The leader knows more than what somebody writes into its ledger.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_somebody_edits_is_written_over_and_nothing_is_forgotten() {
    let spent = Spent::new("edited-ledger", 1_000_000).await;
    let team = &spent.world.team;
    team.until_written("sprint", "something was used", |written| written.used > 0).await;
    let (name, text) = spent.hot().await;
    put(team, &name, &encode(&forgetful(&text)).unwrap()).await;
    spent.use_some().await;
    let truth = spent.truth();
    let written = team.until_written("sprint", "all that was used", |written| written.used == truth).await;
    assert_eq!(written.estimated, 0);
    let log = spent.operator.log();
    assert!(log.contains("somebody else has changed or deleted what stands in the ledger"), "{log}");
    spent.until_counted().await;
}

/// While nobody leads, nobody knows more.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_somebody_edits_while_nobody_leads_is_not_believed_and_nothing_is_free() {
    let mut spent = Spent::new("forged-ledger", 100_000).await;
    spent.until_counted().await;
    spent.end();
    let (name, text) = spent.hot().await;
    let forged = encode(&forgetful(&text)).unwrap();
    put(&spent.world.team, &name, &forged).await;
    spent.next().await;
    let team = &spent.world.team;
    let lost = team.until_budget_says("sprint", "UsageKnown", "False", "LedgerLost").await;
    assert!(message(&lost, "UsageKnown").contains("somebody else has changed it"), "{lost:#}");
    let log = spent.operator.log();
    assert!(log.contains("it was changed by somebody else"), "{log}");
    assert_eq!(spent.set_aside(&name).await, STANDARD.encode(&forged), "what somebody wrote is kept");
    spent.until_counted().await;
    confirm(team, "forged").await;
    spent.until_counted().await;
    spent.world.spend_all(&spent.replica, "coder", "coder").await;
    let (truth, least) = (spent.truth(), spent.world.most("coder", 1).await);
    assert!(is_spent(100_000, truth, least), "{truth} were used, and a call needs {least}");
}

/// Only who used what is told by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_table_that_is_edited_cut_or_lost_is_told_and_what_may_be_spent_does_not_hang_on_it() {
    let mut spent = Spent::new("lost-table", 1_000_000).await;
    spent.until_counted().await;
    spent.end();
    let mut kept = None;
    for damage in ["edited", "cut", "missing"] {
        let (name, text) = spent.only_object_of(Book::History).await;
        let team = &spent.world.team;
        let whole = encode(&text).unwrap();
        // Valid, and somebody else would have used all of it.
        let edited = text.replacen("\"coder\":", "\"nobody\":", 1);
        assert_ne!(edited, text);
        let (binary, words) = match damage {
            "edited" => (encode(&edited).unwrap(), "it was changed by somebody else"),
            "cut" => (whole[..whole.len() / 2].to_vec(), "it is not what gzip makes of a text"),
            _ => (Vec::new(), ""),
        };
        if binary.is_empty() {
            team.config_maps().delete(&name, &DeleteParams::default()).await.unwrap();
        } else {
            put(team, &name, &binary).await;
        }
        // Who asks is told, also while nobody leads.
        let asked = team.budget_command(&["export"], "");
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        if binary.is_empty() {
            assert!(asked.status.success(), "{said}");
            assert_eq!(String::from_utf8_lossy(&asked.stdout).lines().count(), 1, "the names of the columns");
        } else {
            assert!(!asked.status.success() && said.contains(&format!("ConfigMap {name}: {words}")), "{damage}: {said}");
        }

        spent.next().await;
        spent.until_counted().await;
        spent.world.team.until_used_is_known(&["sprint"]).await;
        spent.use_some().await;
        spent.until_counted().await;
        if !binary.is_empty() {
            let log = spent.operator.log();
            assert!(log.contains("a part of the caller table cannot be read"), "{damage}: {log}");
            let kept = kept.get_or_insert_with(|| STANDARD.encode(&binary));
            assert_eq!(spent.set_aside(&name).await, *kept, "the first one that could not be read");
        }
        spent.end();
        // The replica has said again what it has counted.
        let (_, text) = spent.only_object_of(Book::History).await;
        let table = History::read([text]).unwrap();
        let of_coder = table.rows().filter(|(_, series, _)| series.caller == "coder");
        let used: u64 = of_coder.map(|(_, _, counts)| counts.input + counts.output).sum();
        assert_eq!(used, spent.truth(), "{damage}");
    }
}
