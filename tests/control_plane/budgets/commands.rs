//! `quartermaster budget` asks a real API server: what it says is what the simulated server has counted, whether anybody leads or not.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::harness::{World, tokens, tokens_of};
use crate::harness::{DEADLINE, Team};
use crate::routes::harness::{configuration, with};

const POOLS: &[(&str, &[&str])] = &[("coder", &["coder"]), ("planner", &["planner"])];
const ALL: [&str; 2] = ["coder", "planner"];
const LIMIT: u64 = 100_000;

/// What a command prints that succeeds and misses nothing.
fn printed(team: &Team, arguments: &[&str], input: &str) -> String {
    let output = team.budget_command(arguments, input);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !complaints.contains("warning"), "{arguments:?}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}

fn printed_json(team: &Team, arguments: &[&str], input: &str) -> Value {
    serde_json::from_str(&printed(team, &[arguments, &["--output", "json"]].concat(), input)).unwrap()
}

/// The cells of a line of a table.
fn cells(line: &str) -> Vec<&str> {
    line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

/// A budget that is watched by somebody who has no terminal. It ends with its owner.
struct Watching {
    child: Child,
    printed: PathBuf,
}

impl Watching {
    fn begin(team: &Team, budget: &str) -> Self {
        let printed = team.operator_kubeconfig().with_extension("watched");
        let child = Command::new(env!("CARGO_BIN_EXE_quartermaster"))
            .args(["budget", "status", budget, "--watch", "--namespace", &team.namespace])
            .env("KUBECONFIG", team.connection.kubeconfig())
            .stdin(Stdio::null())
            .stdout(File::create(&printed).unwrap())
            .spawn()
            .unwrap();
        Self { child, printed }
    }

    /// Waits until its last line has these words. All lines.
    async fn until_line(&self, words: &str) -> Vec<String> {
        let started = Instant::now();
        loop {
            let lines: Vec<String> = std::fs::read_to_string(&self.printed).unwrap().lines().map(str::to_owned).collect();
            if lines.last().is_some_and(|line| line.contains(words)) {
                return lines;
            }
            assert!(started.elapsed() < DEADLINE, "{words:?} is never printed: {lines:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A sprint of one day which ends after these seconds.
fn ending_in(seconds: i64) -> (Timestamp, Value) {
    let ends = Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap();
    let start = (ends - SignedDuration::from_hours(24)).strftime("%Y-%m-%dT%H:%M:%S").to_string();
    (ends, with(tokens(LIMIT), json!({ "period": { "type": "Sprint", "start": start, "lengthDays": 1 } })))
}

/// What `status` prints of the budgets `day`, whose period before this one is over, and `sprint`.
fn status_says(team: &Team, used: &BTreeMap<&str, u64>) {
    let truth: u64 = used.values().sum();
    let table = printed(team, &["status"], "");
    let rows: Vec<Vec<&str>> = table.lines().map(cells).collect();
    let [limit, shown, left] = [LIMIT, truth, LIMIT - truth].map(|number| number.to_string());
    assert_eq!(rows.len(), 3, "{table}");
    assert_eq!(rows[0][..5], ["NAME", "PHASE", "LIMIT", "USED", "REMAINING"]);
    assert_eq!(rows[1][..5], ["day", "Active", &limit, "0", &limit], "{table}");
    assert_eq!(rows[2][..5], ["sprint", "Active", &limit, &shown, &left], "{table}");
    assert_eq!(rows[2][8..], ["Jan 01 00:00 UTC", "2", "Block"], "{table}");
    let list = printed_json(team, &["status"], "");
    assert_eq!((&list["items"][1]["status"]["usedTokens"], &list["kind"]), (&json!(truth), &json!("List")));

    let sprint = printed(team, &["status", "sprint"], "");
    let lines: Vec<Vec<&str>> = sprint.lines().map(cells).collect();
    assert!(lines.contains(&vec!["used by:"]), "{sprint}");
    for (pool, tokens) in used {
        let tokens = format!("{tokens} tokens");
        assert!(lines.contains(&vec![*pool, &tokens]), "{pool}: {sprint}");
    }
    let day = printed(team, &["status", "day"], "");
    assert!(day.contains("periods before:") && day.contains(&format!("{truth} of {LIMIT} tokens   Active")), "{day}");
}

/// What `export` prints, and of the budget `day` how its period ended.
fn export_says(world: &World, used: &BTreeMap<&str, u64>, ended: Timestamp) {
    let (team, truth) = (&world.team, used.values().sum::<u64>());
    let rows = printed_json(team, &["export", "--by", "pool,route,backend"], "");
    let rows = rows.as_array().unwrap();
    let totals = world.server.totals().models;
    assert_eq!(rows.len(), ALL.len(), "{rows:#?}");
    for (row, pool) in rows.iter().zip(ALL) {
        let names = ["namespace", "agentPool", "modelRoute", "inferenceBackend"].map(|member| row[member].as_str().unwrap());
        assert_eq!(names, [team.namespace.as_str(), pool, pool, pool]);
        let counted = totals.get(pool).unwrap();
        assert_eq!((&row["inputTokens"], &row["outputTokens"]), (&json!(counted.input), &json!(counted.output)), "{row}");
        assert_eq!((&row["errors"], &row["estimatedTokens"]), (&json!(0), &json!(0)), "{row}");
    }
    let csv = printed(team, &["export"], "");
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = lines.next().unwrap();
    let [input, output] = ["inputTokens", "outputTokens"].map(|name| names.iter().position(|column| *column == name).unwrap());
    let tokens = |cell: &str| cell.parse::<u64>().unwrap();
    assert_eq!(lines.map(|cells| tokens(cells[input]) + tokens(cells[output])).sum::<u64>(), truth, "{csv}");

    let periods = printed_json(team, &["export", "--periods"], "");
    let [row] = periods.as_array().unwrap().as_slice() else { panic!("not one period: {periods:#}") };
    assert_eq!((&row["tokenBudget"], &row["end"], &row["phase"]), (&json!("day"), &json!(ended.to_string()), &json!("Active")));
    assert_eq!((&row["usedTokens"], &row["limitTokens"]), (&json!(truth), &json!(LIMIT)), "{row}");
    let csv = printed(team, &["export", "--periods"], "");
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(csv.contains(&format!(",{LIMIT},{truth},")), "{csv}");
}

/// What `what-if` prints of a budget that was never applied, for half of what a pool has used. Which pools its labels mean the
/// cluster says.
fn what_if_says(team: &Team, used: &BTreeMap<&str, u64>) {
    let limit = used["coder"] / 2;
    let budget = json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget",
        "metadata": { "name": "tried" }, "spec": tokens_of(&["coder"], limit),
    });
    let answers = printed_json(team, &["what-if", "-"], &budget.to_string());
    let answer = &answers[0];
    assert_eq!((&answer["tokenBudget"], &answer["agentPools"]), (&json!("tried"), &json!(["coder"])), "{answers:#}");
    let period = &answer["periods"][0];
    let expected = (&json!(limit), &json!(used["coder"] - limit));
    assert_eq!((&period["usedTokens"], &period["refusedTokens"]), expected, "{answers:#}");
    let text = printed(team, &["what-if", "-"], &budget.to_string());
    assert!(text.contains(&format!("{limit} of {limit} tokens (100 %)")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_commands_say_of_budgets_is_what_was_counted() {
    let mut world = World::new("commands", 1, POOLS).await;
    let mut operator = world.team.operator_with(&configuration(), &[]).await;
    let replica = world.ready(1).await.remove(0);
    world.team.apply_budget("sprint", tokens(LIMIT)).await;
    world.team.until_used_is_known(&["sprint"]).await;
    for (pool, size) in ALL.into_iter().zip([200, 100]) {
        world.until_covered(std::slice::from_ref(&replica), pool, pool).await;
        for number in 1..=5 {
            assert_eq!(world.call(&replica, pool, pool, size * number).await.status, 200);
        }
    }
    world.until_counted(&operator, "sprint", &ALL).await;
    let used: BTreeMap<&str, u64> = ALL.into_iter().map(|pool| (pool, world.truth(&[pool]))).collect();
    let truth = world.truth(&ALL);

    // It opens with what was used, and soon all of that is of a period that is over.
    let (ends, day) = ending_in(30);
    world.team.apply_budget("day", day).await;
    world.until_counted(&operator, "day", &ALL).await;
    assert!(Timestamp::now() < ends, "the machine was too slow for this test: the period is over already");
    let consumers = json!(ALL.map(|pool| json!({ "agentPool": pool, "tokens": used[pool] })));
    let all = |budget: &Value| budget["status"]["usedTokens"] == truth && budget["status"]["consumers"] == consumers;
    world.team.until_budget("sprint", "all tokens, and whose they are", all).await;
    let over = |budget: &Value| {
        budget.pointer("/status/history/0/usedTokens") == Some(&json!(truth)) && budget["status"]["usedTokens"] == 0
    };
    world.team.until_budget("day", "a period that is over, and nothing used in the next one", over).await;
    world.team.until_used_is_known(&["day", "sprint"]).await;
    status_says(&world.team, &used);

    let watching = Watching::begin(&world.team, "sprint");
    watching.until_line(&format!(" sprint: Active, {truth} of {LIMIT} tokens (")).await;
    world.team.change_budget("sprint", json!({ "tokens": 2 * LIMIT })).await;
    let lines = watching.until_line(&format!(" sprint: Active, {truth} of {} tokens (", 2 * LIMIT)).await;
    assert!(lines.len() >= 2, "{lines:#?}");
    for line in &lines {
        let (at, _) = line.split_once(' ').unwrap();
        assert!(at.parse::<Timestamp>().is_ok(), "{line}");
    }
    drop(watching);

    // Who leads writes down all that was used before it ends.
    assert_eq!(operator.terminate().code(), Some(0), "{}", operator.log());
    export_says(&world, &used, ends);
    what_if_says(&world.team, &used);
}
