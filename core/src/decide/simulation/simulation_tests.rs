//! A sprint of a day, whose budget is used up in a quarter of an hour, and the morning after.

use serde_json::{Value, json};

use super::result::{BudgetOutcome, PeriodOutcome, PoolOutcome};
use super::*;
use crate::api::token_budget::ThresholdAction;
use crate::decide::budget::observation::AccountFacts;

/// When the sprint starts, by the hour and second of its first day.
fn at(hour: u32, second: u32) -> Timestamp {
    let text = format!("2026-11-16T{hour:02}:{:02}:{:02}Z", second / 60, second % 60);
    text.parse().unwrap()
}

/// When the next sprint starts.
fn next_start() -> Timestamp {
    "2026-11-17T09:00:00Z".parse().unwrap()
}

fn object<T: serde::de::DeserializeOwned>(kind: &str, name: &str, labels: Value, spec: Value) -> T {
    let metadata = json!({ "name": name, "labels": labels });
    serde_json::from_value(json!({ "apiVersion": "quartermaster.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec }))
        .unwrap()
}

fn backend(name: &str) -> InferenceBackend {
    let external = json!({ "provider": "OpenAICompatible", "model": name, "baseURL": "https://models.example/v1" });
    let price = json!({ "inputPerMillionTokens": "1", "outputPerMillionTokens": "2" });
    object("InferenceBackend", name, json!({}), json!({ "price": price, "external": external }))
}

fn pool(name: &str, criticality: &str, agents: bool) -> AgentPool {
    let mut spec = json!({ "criticality": criticality, "modelRoutes": [{ "name": "smart" }] });
    if agents {
        spec["template"] = json!({ "spec": { "containers": [{ "name": "agent", "image": "agent" }] } });
        spec["maxReplicas"] = json!(4);
        spec["queues"] = json!([{ "name": "tasks", "redisStream": { "url": "redis://redis:6379", "stream": name, "group": "g" } }]);
    }
    object("AgentPool", name, json!({ "team": "dev" }), spec)
}

/// A budget of 300,000 tokens a day.
fn budget(more: Value) -> TokenBudget {
    let mut spec = json!({
        "tokens": 300_000,
        "period": { "type": "Sprint", "start": "2026-11-16T09:00", "lengthDays": 1 },
        "appliesTo": { "agentPoolSelector": { "matchLabels": { "team": "dev" } } },
        "thresholds": [
            { "atPercent": 80, "action": "Alert" },
            { "atPercent": 90, "action": "Downgrade", "tier": "Economy" },
            { "atPercent": 95, "action": "PausePools", "belowCriticality": "Standard" },
        ],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object("TokenBudget", "sprint", json!({}), spec)
}

fn setup(budgets: Vec<TokenBudget>) -> Setup {
    let backends = json!([{ "name": "standard", "tier": "Standard" }, { "name": "economy", "tier": "Economy" }]);
    Setup {
        routes: vec![object("ModelRoute", "smart", json!({}), json!({ "strategy": "Priority", "backends": backends }))],
        backends: vec![backend("standard"), backend("economy")],
        pools: vec![pool("interactive", "Critical", true), pool("batch", "BestEffort", true), pool("people", "Standard", false)],
        budgets,
        seed: 7,
        until: Some("2026-11-17T10:00:00Z".parse().unwrap()),
        ..Setup::default()
    }
}

/// Tasks of one call of 300 tokens: of both pools with agents one in each of the first 700 seconds, and of people one each 20 seconds,
/// with ten more at noon.
fn trace() -> Trace {
    let mut text = "time,pool,route,promptTokens,outputTokens,maxOutputTokens,durationMilliseconds\n".to_owned();
    let mut add = |time: Timestamp, pool: &str| text.push_str(&format!("{time},{pool},smart,200,100,100,1000\n"));
    for second in 0..700 {
        add(at(9, second), "interactive");
        add(at(9, second), "batch");
        if second % 20 == 0 {
            add(at(9, second), "people");
        }
    }
    (0..10).for_each(|second| add(at(12, second), "people"));
    Trace::read(&text).unwrap()
}

fn run(setup: &Setup) -> Outcome {
    simulate(setup, &trace(), &mut |_| {}).unwrap()
}

fn tokens(period: &PeriodOutcome) -> AccountFacts {
    period.units.tokens.unwrap()
}

fn named<'a>(outcome: &'a Outcome, pool: &str) -> &'a PoolOutcome {
    outcome.pools.iter().find(|found| found.name == pool).unwrap()
}

/// All that backends have made and read.
fn served(outcome: &Outcome) -> u64 {
    outcome.backends.iter().map(|backend| backend.input + backend.output).sum()
}

#[test]
fn a_sprint_warns_downgrades_pauses_blocks_and_begins_anew() {
    let outcome = run(&setup(vec![budget(json!({}))]));
    let BudgetOutcome { name, time_zone, periods, points } = &outcome.budgets[0];
    assert_eq!((name.as_str(), time_zone.as_str(), periods.len()), ("sprint", "UTC", 2));

    // Exact: what the budget counts is what backends served, and no period passes its limit by a token.
    assert_eq!(periods.iter().map(|period| tokens(period).used).sum::<u64>(), served(&outcome));
    assert!(periods.iter().all(|period| tokens(period).used <= 300_000 && tokens(period).limit == 300_000));
    assert!(points.iter().filter_map(|point| point.units.tokens).all(|tokens| tokens.used <= tokens.limit));

    // The ladder, step by step at its percentage.
    let [first, second] = periods.as_slice() else { panic!("{periods:?}") };
    assert_eq!((first.start, first.end, second.start), (at(9, 0), Some(next_start()), next_start()));
    let steps: Vec<_> = first.steps.iter().map(|step| (step.at_percent, step.action)).collect();
    assert_eq!(steps, [(80, ThresholdAction::Alert), (90, ThresholdAction::Downgrade), (95, ThresholdAction::PausePools)]);
    for step in &first.steps {
        let percent = step.used.tokens.unwrap() * 100 / 300_000;
        assert!((u64::from(step.at_percent)..u64::from(step.at_percent) + 3).contains(&percent), "{step:?}");
    }
    assert!(first.exhausted.is_some_and(|exhausted| exhausted > first.steps[2].time && exhausted < at(10, 0)), "{first:?}");
    assert!(tokens(first).used > 297_000 && first.refused > 0, "{first:?}");
    assert!(second.steps.is_empty() && second.exhausted.is_none(), "{second:?}");

    // Who is downgraded is answered by the cheap backend.
    let calls = |name: &str| outcome.backends.iter().find(|backend| backend.name == name).map_or(0, |backend| backend.calls);
    assert!(calls("standard") > 850 && calls("economy") > 50, "{:?}", outcome.backends);

    // The pool that matters least pauses first, all pause at the limit, and both go on when the next sprint starts.
    let (batch, interactive) = (named(&outcome, "batch"), named(&outcome, "interactive"));
    let (of_batch, of_interactive) = (&batch.pauses[0], &interactive.pauses[0]);
    assert!(of_batch.from < of_interactive.from && of_batch.by.contains("sprint"), "{of_batch:?} {of_interactive:?}");
    for pool in [batch, interactive] {
        let to = pool.pauses[0].to.unwrap();
        assert!(pool.pauses.len() == 1 && to >= next_start() && to <= next_start() + Duration::from_secs(60), "{:?}", pool.pauses);
        assert_eq!((pool.tasks, pool.done + pool.ended_early, pool.left), (700, 700, 0));
        let agents_by = |time: Timestamp| pool.points.iter().rfind(|point| point.time <= time).map(|point| point.agents);
        assert_eq!(agents_by(at(20, 0)), Some(0), "{}", pool.name);
    }
    assert!(batch.done > 650 && interactive.done > 600, "{} {}", batch.done, interactive.done);

    // People are refused until then what has no room, and not because so little is left; and nothing else is lost.
    let calls = outcome.calls;
    assert!(calls.refused() >= 10 && calls.exceeded >= 10, "{calls:?}");
    let most_left = tokens(first).limit - tokens(first).used;
    assert!(most_left < 1_200, "a call of people needs less than that, and {most_left} are left");
    assert_eq!((calls.traced, calls.failed, calls.not_made), (1_445, 0, 0), "{calls:?}");
    assert_eq!(calls.answered + calls.refused(), 1_445);
    assert_eq!(served(&outcome), calls.answered * 300);
    let told = |reason: &str| outcome.events.iter().filter(|event| event.reason == reason).count();
    assert_eq!((told("ThresholdReached"), told("BudgetExhausted"), told("PeriodStarted")), (3, 1, 1), "{:?}", outcome.events);
}

#[test]
fn the_same_seed_is_the_same_outcome() {
    let setup = setup(vec![budget(json!({}))]);
    assert_eq!(run(&setup), run(&setup));
}

#[test]
fn a_dry_run_shows_what_it_would_do_and_does_nothing() {
    let outcome = run(&setup(vec![budget(json!({ "enforcement": "DryRun" }))]));
    let first = &outcome.budgets[0].periods[0];
    assert_eq!((outcome.calls.answered, outcome.calls.refused()), (1_445, 0));
    assert_eq!(tokens(first).used, 1_445 * 300);
    assert_eq!(first.steps.len(), 3);
    assert!(first.refused > 300, "{first:?}");
    assert!(outcome.pools.iter().all(|pool| pool.pauses.is_empty()));
}

#[test]
fn without_a_budget_every_call_is_answered_by_the_first_backend() {
    let outcome = run(&setup(Vec::new()));
    assert_eq!((outcome.calls.answered, outcome.calls.waited, outcome.budgets.len()), (1_445, 0, 0));
    assert_eq!(outcome.backends.iter().map(|backend| backend.name.as_str()).collect::<Vec<_>>(), ["standard"]);
    assert_eq!(outcome.backends[0].cost, Some(1_445 * 400), "millionths: 200 tokens at 1, and 100 at 2");
}

#[test]
fn money_is_counted_by_the_price_of_who_answers() {
    let spec = json!({ "cost": "0.10", "thresholds": [] });
    let mut budget = budget(spec);
    budget.spec.tokens = None;
    let outcome = run(&setup(vec![budget]));
    let of_period = |period: &PeriodOutcome| period.units.cost.unwrap();
    let periods = &outcome.budgets[0].periods;
    assert!(periods.iter().all(|period| of_period(period).used <= 100_000 && of_period(period).limit == 100_000), "{periods:?}");
    let cost: u64 = outcome.backends.iter().filter_map(|backend| backend.cost).sum();
    assert_eq!(periods.iter().map(|period| of_period(period).used).sum::<u64>(), cost);
    assert!(outcome.calls.refused() > 0 && of_period(&periods[0]).used > 98_000, "{periods:?}");
}

#[test]
fn a_generated_trace_stays_within_its_budget_too() {
    let mut setup = setup(vec![budget(json!({ "tokens": 5_000_000 }))]);
    setup.until = None;
    let start = "2026-11-16T00:00:00Z".parse().unwrap();
    let spec = generated::Generated { calls: 1_200, seed: 3, start, days: 2, time_zone: jiff::tz::TimeZone::UTC };
    let trace = generated::generate(&spec, &setup.pools, &setup.routes).unwrap();
    let mut percents = Vec::new();
    let outcome = simulate(&setup, &trace, &mut |progress| percents.push(progress.percent)).unwrap();
    let periods = &outcome.budgets[0].periods;
    assert!(periods.len() >= 2, "{periods:?}");
    assert!(periods.iter().all(|period| tokens(period).used <= 5_000_000), "{periods:?}");
    assert!(outcome.calls.answered > 400, "{:?}", outcome.calls);
    assert!(percents.is_sorted() && percents.len() > 50, "{percents:?}");
}

#[test]
fn what_is_not_simulated_is_noted() {
    let noted = |outcome: &Outcome| -> Vec<String> {
        outcome.notes.iter().filter(|note| !note.starts_with("ModelRoute")).cloned().collect()
    };
    let whole = run(&setup(vec![budget(json!({ "counting": { "cachedInputPercent": 100 } }))]));
    assert_eq!(noted(&whole), Vec::<String>::new());
    let mut setup = setup(vec![budget(json!({ "counting": { "cachedInputPercent": 10 } }))]);
    let limits = |limits: Value| Some(serde_json::from_value(limits).unwrap());
    setup.pools[0].spec.task_limits = limits(json!({ "maxTokensPerTask": 1, "maxIdenticalRequests": 1, "maxSteps": 1 }));
    setup.pools[1].spec.task_limits = limits(json!({ "maxSteps": 1, "timeout": "1m" }));
    setup.backends[1].spec.price.as_mut().unwrap().cached_input_per_million_tokens =
        Some(serde_json::from_value(json!("0.1")).unwrap());
    let outcome = run(&setup);
    assert_eq!(
        noted(&outcome),
        [
            "AgentPool interactive: tasks are not held to spec.taskLimits (maxTokensPerTask, maxIdenticalRequests) here",
            "TokenBudget sprint: spec.counting.cachedInputPercent is 10, and all input counts in full here: no prefix cache serves any",
            "InferenceBackend economy: all input costs spec.price.inputPerMillionTokens here: no prefix cache serves or takes any",
        ]
    );
    assert_eq!(outcome.calls.answered, whole.calls.answered, "tasks of one token were not stopped");
}

#[test]
fn what_cannot_be_simulated_is_named() {
    let good = setup(vec![budget(json!({}))]);
    let simulated = |setup: &Setup, text: &str| simulate(setup, &Trace::read(text).unwrap(), &mut |_| {}).unwrap_err().to_string();
    let call = |pool: &str, route: &str| {
        format!(
            "time,pool,route,promptTokens,outputTokens\n2026-11-16T09:00:00Z,people,smart,1,1\n2026-11-16T09:00:00Z,{pool},{route},1,1\n"
        )
    };
    for (pool, route, words) in [
        (
            "nobody",
            "smart",
            "line 3 of the trace: there is no AgentPool nobody; those of the files are: batch, interactive, people",
        ),
        ("people", "other", "line 3 of the trace: there is no ModelRoute other; those of the files are: smart"),
    ] {
        assert_eq!(simulated(&good, &call(pool, route)), words);
    }
    let mut without = good.clone();
    without.pools[0].spec.model_routes.clear();
    assert_eq!(
        simulated(&without, &call("interactive", "smart")),
        "line 3 of the trace: the AgentPool interactive may not call the ModelRoute smart; it may call: "
    );
    let mut nowhere = good.clone();
    nowhere.budgets[0].spec.period.time_zone = Some("Nowhere/Town".to_owned());
    assert!(
        simulated(&nowhere, &call("people", "smart")).starts_with("TokenBudget sprint: spec.period.timeZone is `Nowhere/Town`")
    );
    let mut hasty = good;
    hasty.pools[0].spec.scaling = Some(serde_json::from_value(json!({ "pollInterval": "soon" })).unwrap());
    assert!(simulated(&hasty, &call("people", "smart")).starts_with("AgentPool interactive: spec.scaling.pollInterval"));
}
