//! `quartermaster budget`, as far as it asks no cluster.

use k8s_openapi::ByteString;
use quartermaster::operate::ledger::{digest, encode};
use serde_json::{Value, json};

use super::{run, scratch};

/// What two pools used on two days, as `quartermaster budget export` prints it by the hour.
pub fn history() -> String {
    let row = |date: &str, [pool, route, backend]: [&str; 3], [requests, input, output]: [u64; 3], cost: &str| {
        json!({
            "namespace": "team-a", "date": date, "agentPool": pool, "modelRoute": route, "inferenceBackend": backend,
            "requests": requests, "errors": 0, "inputTokens": input, "cachedInputTokens": 0, "outputTokens": output,
            "estimatedTokens": 0, "cost": cost, "unpricedRequests": 0,
        })
    };
    let coder = ["coder", "agents", "llama-70b"];
    let rows = [
        row("2026-11-25T08", coder, [400, 500_000, 100_000], "90.00"),
        row("2026-11-25T09", coder, [300, 450_000, 50_000], "75.00"),
        row("2026-11-25T10", ["people", "smart-router", "claude"], [100, 80_000, 20_000], "70.00"),
        row("2026-11-26T09", coder, [200, 200_000, 50_000], "40.00"),
    ];
    serde_json::to_string(&rows).unwrap()
}

/// A budget with this spec, and two pools of two teams.
fn setup(spec: &Value) -> String {
    let pool = |name: &str, team: &str| {
        json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "AgentPool",
            "metadata": { "name": name, "labels": { "team": team } },
            "spec": { "modelRoutes": [{ "name": "agents" }, { "name": "smart-router" }] },
        })
    };
    let objects = [budget(spec), pool("coder", "dev"), pool("idle", "dev")];
    json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string()
}

fn budget(spec: &Value) -> Value {
    json!({ "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget", "metadata": { "name": "sprint" }, "spec": spec })
}

fn of_team() -> Value {
    json!({
        "tokens": 600_000, "period": { "type": "Daily" }, "appliesTo": { "agentPoolSelector": { "matchLabels": { "team": "dev" } } },
    })
}

fn what_if(manifests: &str, history: &str, more: &[&str]) -> super::Answer {
    let file = scratch(history);
    run(&[&["budget", "what-if", "-", "--history", file.to_str().unwrap()][..], more].concat(), manifests)
}

#[test]
fn what_budgets_would_have_done_is_told_period_by_period() {
    let file = scratch(&history());
    let examples = ["budget", "what-if", "examples/budgets/daily.yaml", "--history", file.to_str().unwrap(), "-o", "json"];
    let answers = run(&examples, "").json();
    let [daily, agents] = answers.as_array().unwrap().as_slice() else { panic!("{answers:#}") };
    assert_eq!((&daily["tokenBudget"], &daily["agentPools"]), (&json!("daily"), &json!(["coder", "people"])));
    let of = |period: &Value| [&period["start"], &period["usedCost"], &period["percentUsed"]].map(Value::clone);
    let periods: Vec<_> = daily["periods"].as_array().unwrap().iter().map(of).collect();
    // Days of Madrid.
    let first = [json!("2026-11-24T23:00:00Z"), json!("235.00"), json!(94)];
    assert_eq!(periods, [first, [json!("2026-11-25T23:00:00Z"), json!("40.00"), json!(16)]]);
    let steps: Vec<&Value> = daily["periods"][0]["steps"].as_array().unwrap().iter().collect();
    assert_eq!(steps.iter().map(|step| &step["action"]).collect::<Vec<_>>(), ["Alert", "Downgrade"]);
    assert_eq!(steps[1]["earliest"], "2026-11-25T10:00:00Z");
    let period = &agents["periods"][0];
    assert_eq!([&period["usedTokens"], &period["refusedTokens"], &period["refusedRequests"]], [1_100_000, 100_000, 60]);
    assert_eq!(period["exhausted"]["latest"], "2026-11-25T10:00:00Z");
    assert!(agents["notes"].to_string().contains("not exact"), "{agents}");
}

#[test]
fn a_budget_that_selects_pools_by_labels_asks_for_pools() {
    let answer = what_if(&budget(&of_team()).to_string(), &history(), &[]);
    assert_eq!((answer.code, answer.out.as_str()), (2, ""));
    assert!(answer.err.contains("TokenBudget sprint: ") && answer.err.contains("add a file that has them"), "{}", answer.err);
    let answer = what_if(&setup(&of_team()), &history(), &["--from", "2026-11-25", "--to", "2026-11-26"]);
    assert_eq!((answer.code, answer.err.as_str()), (0, ""));
    let expected = [
        "sprint: calls of coder, idle",
        "  2026-11-25T00:00:00Z to 2026-11-26T00:00:00Z: 600000 of 600000 tokens (100 %)",
        "    80 % Alert: 2026-11-25T08:00:00Z to 2026-11-25T09:00:00Z",
        "    used up: 2026-11-25T08:00:00Z to 2026-11-25T09:00:00Z",
        "    refused: 500000 tokens in 300 calls",
        "  note: nothing is known of the pools people, which have used something: they are left out",
    ];
    assert_eq!(answer.out.lines().take(6).collect::<Vec<_>>(), expected);
    assert_eq!(answer.out.lines().count(), 7, "{}", answer.out);
}

#[test]
fn a_budget_that_cannot_come_into_force_is_a_no() {
    let mut spec = of_team();
    spec["period"]["timeZone"] = json!("Mars/Olympus");
    let answer = what_if(&setup(&spec), &history(), &["-o", "json"]);
    assert_eq!(answer.code, 3, "{}", answer.err);
    assert!(answer.err.contains("TokenBudget sprint: spec.period.timeZone"), "{}", answer.err);
    assert!(answer.json()[0]["problems"][0].as_str().unwrap().contains("Mars/Olympus"), "{}", answer.out);
}

#[test]
fn what_was_exported_can_be_asked_about_and_exported_again() {
    let file = scratch(&history());
    let export = |more: &[&str]| run(&[&["budget", "export", "--history", file.to_str().unwrap()][..], more].concat(), "");
    let again = export(&["--output", "json", "--by", "hour,pool,route,backend"]);
    assert_eq!((again.code, again.json()), (0, serde_json::from_str(&history()).unwrap()));
    let csv = export(&["--from", "2026-11-26"]);
    let expected = "namespace,date,agentPool,modelRoute,inferenceBackend,requests,errors,inputTokens,cachedInputTokens,outputTokens,\
                    estimatedTokens,cost,unpricedRequests\n\
                    team-a,2026-11-26,coder,agents,llama-70b,200,0,200000,0,50000,0,40.00,0\n";
    assert_eq!((csv.code, csv.out.as_str()), (0, expected));
    let summed = export(&["--by", "backend", "-o", "json"]).json();
    assert_eq!(summed[0]["inferenceBackend"], "claude");
    assert_eq!((&summed[1]["inputTokens"], &summed[1]["agentPool"]), (&json!(1_150_000), &Value::Null));
    assert_eq!(export(&["--namespace", "team-a", "-o", "json"]).json().as_array().unwrap().len(), 3);
}

/// The ledger of a namespace as `kubectl get configmaps -o yaml` prints it.
fn ledger(namespace: &str, tokens: u64) -> Value {
    let text = format!(
        r#"{{"schemaVersion":1,"revision":1,"parts":1,"part":0,"callers":{{"coder":{{"series":[["agents","llama-70b"]],"buckets":{{
        "2026-11-25T08":[[0,{tokens},0,0,0,7]]}}}}}}}}"#
    );
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": format!("quartermaster-ledger-history-{namespace}"), "namespace": "quartermaster-system", "uid": "u",
            "labels": { "quartermaster.dev/ledger": "history", "quartermaster.dev/tenant": namespace },
            "annotations": { "quartermaster.dev/ledger-sha256": digest(&text) },
        },
        "binaryData": { "ledger": ByteString(encode(&text).unwrap()) },
    })
}

#[test]
fn the_ledger_is_read_as_kubectl_prints_it() {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [ledger("team-a", 700_000), ledger("team-b", 5)] });
    let file = scratch(&serde_saphyr::to_string(&list).unwrap());
    let path = file.to_str().unwrap();
    let rows = run(&["budget", "export", "--history", path, "--output=json"], "").json();
    let of = |row: &Value| (row["namespace"].as_str().unwrap().to_owned(), row["inputTokens"].as_u64().unwrap());
    let rows: Vec<_> = rows.as_array().unwrap().iter().map(of).collect();
    assert_eq!(rows, [("team-a".to_owned(), 700_000), ("team-b".to_owned(), 5)]);
    let of_namespace = ["budget", "what-if", "-", "--history", path, "--namespace", "team-a", "--output=json"];
    let answer = run(&of_namespace, &setup(&of_team()));
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert_eq!(answer.json()[0]["periods"][0]["refusedTokens"], 100_000);
    let answer = run(&of_namespace[..5], &setup(&of_team()));
    assert_eq!(answer.code, 2);
    assert!(answer.err.contains("name one with --namespace: team-a, team-b"), "{}", answer.err);
}

#[test]
fn what_is_no_history_or_no_budget_is_wrong_input() {
    let setup = setup(&of_team());
    let without_pool = history().replace("\"agentPool\":\"coder\",", "");
    let mut cut = ledger("team-a", 5);
    cut["binaryData"]["ledger"] = json!("H4sI");
    let mut edited = ledger("team-a", 5);
    edited["binaryData"] = ledger("team-a", 4)["binaryData"].clone();
    let unknown = setup.replace("\"tokens\"", "\"tokns\"");
    let rows: [(&str, &str, &str); 9] = [
        (&setup, "{\"apiVersion\": \"v1\", \"kind\": \"Secret\"}", "neither the JSON of quartermaster budget export"),
        (&setup, "[{\"namespace\": \"a\"}]", "missing field `requests`"),
        (&setup, &without_pool, "row 1 has no agentPool"),
        (&setup, &history().replace("2026-11-25T08", "25 November"), "row 1: date: `25 November` is neither"),
        (&setup, &cut.to_string(), "ConfigMap quartermaster-ledger-history-team-a: "),
        (&setup, &edited.to_string(), "ConfigMap quartermaster-ledger-history-team-a: it was changed by somebody else"),
        (&setup, &[history().as_str(), "\n---\n", &ledger("team-a", 5).to_string()].concat(), "has both rows and ConfigMaps"),
        ("{}", &history(), "no TokenBudget in the files"),
        (&unknown, &history(), "there is no such field; did you mean tokens?"),
    ];
    for (manifests, history, words) in rows {
        let answer = what_if(manifests, history, &[]);
        assert_eq!((answer.code, answer.out.as_str()), (2, ""), "{words}: {}", answer.err);
        assert!(answer.err.contains(words), "{words}: {}", answer.err);
    }
    // Where nobody has used anything there is nothing to tell.
    let answer = what_if(&setup, "[]", &[]);
    assert_eq!((answer.code, answer.out.lines().nth(1)), (0, Some("  nothing was used")), "{}", answer.err);
}

#[test]
fn budgets_of_a_cluster_need_one_and_arguments_that_contradict_are_refused() {
    let example = "examples/budgets/daily.yaml";
    for (code, arguments, words) in [
        (1, vec!["status"], "failed to find the API server"),
        (1, vec!["status", "sprint-42", "--watch", "-n", "team-a"], "failed to find the API server"),
        (1, vec!["what-if", example], "failed to find the API server"),
        (1, vec!["export", "--all-namespaces", "--output=json"], "failed to find the API server"),
        (1, vec!["export", "--periods"], "failed to find the API server"),
        (2, vec!["status", "--watch", "--output=json"], "--watch shows a table"),
        (2, vec!["status", "sprint-42", "-A"], "cannot be used with"),
        (2, vec!["status", "-A", "-n", "team-a"], "cannot be used with"),
        (2, vec!["export", "--periods", "--by=pool"], "cannot be used with"),
        (2, vec!["export", "--history=a", "--context=b"], "cannot be used with"),
        (2, vec!["export", "--by=colour"], "colour"),
        (2, vec!["export", "--from=2026-11-02", "--to=2026-11-01"], "--from has to be before --to"),
        (2, vec!["export", "--from=2026-11-02T09:00"], "write a date such as 2026-11-01"),
        (2, vec!["what-if"], "FILES"),
        (2, vec!["what-if", "nowhere.yaml"], "failed to read nowhere.yaml"),
        (2, vec!["what-if", example, "--history=nowhere.json"], "failed to read nowhere.json"),
        (2, vec!["what-if", "-", "--history=-"], "only one of the files can come from standard input"),
        (2, vec![], "Usage: quartermaster budget"),
    ] {
        let answer = run(&[&["budget"][..], &arguments].concat(), "");
        assert_eq!(answer.code, code, "{arguments:?}: {}", answer.err);
        assert!(answer.err.contains(words), "{arguments:?}: {}", answer.err);
    }
}

#[test]
fn each_command_has_help_and_is_completed() {
    for (command, words) in [
        ("status", ["--watch", "--all-namespaces", "--operator-namespace"]),
        ("what-if", ["--history", "--from", "--namespace"]),
        ("export", ["--by", "--periods", "[default: csv]"]),
    ] {
        let help = run(&["budget", command, "--help"], "");
        assert_eq!(help.code, 0, "{}", help.err);
        assert!(words.iter().all(|word| help.out.contains(word)), "{command}: {}", help.out);
        for shell in ["bash", "zsh", "fish"] {
            assert!(run(&["completion", shell], "").out.contains(command), "{command} in {shell}");
        }
    }
}
