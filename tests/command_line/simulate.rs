//! `quartermaster simulate`.

use super::{Answer, root, run, scratch};

const NAMESPACE: &str = "examples/simulate/namespace.yaml";
const TRACE: &str = "examples/simulate/trace.csv";

/// The calls of a trace in a namespace on standard input.
fn simulated(setup: &str, trace: &str, more: &[&str]) -> Answer {
    let file = scratch(trace);
    run(&[&["simulate", "-", "--trace", file.to_str().unwrap()][..], more].concat(), setup)
}

#[test]
fn the_example_of_a_simulation_uses_its_budget_up_and_not_a_token_more() {
    let drawing = scratch("");
    let simulate = || run(&["simulate", NAMESPACE, "--trace", TRACE, "--svg", drawing.to_str().unwrap(), "-o", "json"], "");
    let answer = simulate();
    assert_eq!(answer.code, 0, "{}", answer.err);
    let outcome = answer.json();
    let periods = outcome["budgets"][0]["periods"].as_array().unwrap();
    assert!(periods.len() == 2 && periods.iter().all(|period| period["tokens"]["used"].as_u64().unwrap() <= 80_000), "{periods:?}");
    assert!(periods[0]["tokens"]["used"].as_u64().unwrap() > 78_000, "{periods:?}");
    let steps: Vec<u64> = periods[0]["steps"].as_array().unwrap().iter().map(|step| step["atPercent"].as_u64().unwrap()).collect();
    assert_eq!(steps, [80, 90, 95]);
    let calls = &outcome["calls"];
    assert_eq!(calls["traced"], 252);
    assert!(calls["newTaskRefused"].as_u64().unwrap() + calls["exceeded"].as_u64().unwrap() > 0, "{calls}");
    let of = |name: &str| outcome["pools"].as_array().unwrap().iter().find(|pool| pool["name"] == name).unwrap().clone();
    assert_eq!(of("batch")["pauses"].as_array().unwrap().len(), 1, "{}", of("batch"));
    let drawn = std::fs::read_to_string(&drawing).unwrap();
    assert!(drawn.starts_with("<svg ") && drawn.contains("80 % Alert") && drawn.contains("times of Europe/Madrid"), "{drawn}");
    assert_eq!(simulate().out, answer.out, "the same seed is the same outcome");
}

#[test]
fn people_read_the_outcome_of_a_simulation_in_words() {
    let answer = run(&["simulate", NAMESPACE, "--trace", TRACE], "");
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert!(answer.out.starts_with("252 calls: "), "{}", answer.out);
    for words in
        ["budget sprint, by the clocks of Europe/Madrid\n", "  Nov 16 09:00 to Nov 17 09:00: ", "95 % PausePools", "pool batch: "]
    {
        assert!(answer.out.contains(words), "{words}: {}", answer.out);
    }
    let generated = run(&["simulate", NAMESPACE, "--calls", "300", "--days", "1", "-o", "json"], "");
    assert_eq!(generated.json()["calls"]["traced"], 300, "{}", generated.err);
    assert!(generated.json()["start"].as_str().unwrap().starts_with("2026-11-16T"), "it begins with the budget's period");
}

#[test]
fn what_cannot_be_simulated_is_wrong_input_that_is_named() {
    let setup = std::fs::read_to_string(root().join(NAMESPACE)).unwrap();
    let header = "time,pool,route,promptTokens,outputTokens\n";
    let row = "2026-11-16T08:00:00Z,people,smart-router,10,10\n";
    let elsewhere = setup.replace("metadata:\n  name: sprint", "metadata:\n  name: sprint\n  namespace: other");
    let elsewhere = elsewhere.replace("metadata:\n  name: people", "metadata:\n  name: people\n  namespace: team");
    let rows: [(&str, String, &[&str], &str); 9] = [
        (&setup, format!("{header}{row}2026-11-16T08:00:00Z,people,smart-router,ten,10\n"), &[], "line 3: promptTokens: "),
        (
            &setup,
            format!("{header}{row}2026-11-16T08:00:00Z,people,smart-router\n"),
            &[],
            "line 3: it has 3 columns, and the header has 5",
        ),
        (&setup, format!("{header}{row}{}", row.replace("people", "nobody")), &[], "line 3: there is no AgentPool nobody"),
        (&setup, "{\"time\": 1}\n".to_owned(), &[], "line 1: "),
        (&setup, header.to_owned(), &[], "there is no call in it; write a header such as time,pool,route"),
        (
            &setup,
            format!("{header}{row}"),
            &["--svg", "/nowhere/a.svg", "--budget", "daily"],
            "the TokenBudgets of the files are: sprint",
        ),
        (&elsewhere, format!("{header}{row}"), &[], "several namespaces (other, team)"),
        (&setup.replace("Europe/Madrid", "Nowhere/Town"), format!("{header}{row}"), &[], "`Nowhere/Town`, which is no time zone"),
        (&setup.replace("kind: ModelRoute", "kind: Other"), format!("{header}{row}"), &[], "no ModelRoute in the files"),
    ];
    for (setup, trace, more, words) in rows {
        let answer = simulated(setup, &trace, more);
        assert_eq!(answer.code, 2, "{words}: {}{}", answer.out, answer.err);
        assert!(answer.err.contains(words), "{words}: {}", answer.err);
    }
    for (code, arguments, words) in [
        (0, vec!["simulate", "--help"], "--trace <FILE>"),
        (2, vec!["simulate", NAMESPACE], "--trace <FILE>"),
        (2, vec!["simulate", NAMESPACE, "--trace", TRACE, "--calls", "5"], "cannot be used with"),
        (2, vec!["simulate", NAMESPACE, "--trace", "nowhere.csv"], "failed to read nowhere.csv"),
        (2, vec!["simulate", "-", "--trace", "-"], "only one of the manifests and --trace"),
    ] {
        let answer = run(&arguments, "");
        assert_eq!(answer.code, code, "{arguments:?}: {}", answer.err);
        assert!(answer.out.contains(words) || answer.err.contains(words), "{arguments:?}: {}{}", answer.out, answer.err);
    }
}
