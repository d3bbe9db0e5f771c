use serde_json::{Value, json};

use super::super::testing::{NOVEMBER, NOW, account, accounts, at, budget, pool, pools, tokens};
use super::*;
use crate::api::agent_pool::Criticality;

fn ladder() -> Value {
    json!([
        { "atPercent": 80, "action": "Alert" },
        { "atPercent": 90, "action": "Downgrade", "tier": "Economy" },
        { "atPercent": 95, "action": "PausePools", "belowCriticality": "Standard" },
    ])
}

/// A budget whose status says that these steps were taken.
fn with_steps(members: &Value, phase: &str, steps: &[(u32, &str)]) -> TokenBudget {
    let mut members = members.clone();
    members["thresholds"] = ladder();
    let step = |(at_percent, action): &(u32, &str)| json!({ "atPercent": at_percent, "action": action, "since": NOVEMBER });
    let mut budget = budget(&members);
    let steps: Vec<Value> = steps.iter().map(step).collect();
    let verdict = json!({ "level": "Alert", "steps": steps });
    let status = json!({ "phase": phase, "limitTokens": 1000, "period": { "start": NOVEMBER }, "verdict": verdict });
    budget.status = Some(serde_json::from_value(status).unwrap());
    budget
}

const ALL: &[(u32, &str)] = &[(80, "Alert"), (90, "Downgrade"), (95, "PausePools")];

fn judged(budget: &TokenBudget, accounts: &Accounts) -> BudgetVerdict {
    of(budget, &pools(), Some(accounts), at(NOW))
}

/// A line for each caller and route: the percentage, the ceiling, whether all and whether new tasks are refused, and whether
/// the pool is paused.
fn lines(verdict: &BudgetVerdict) -> Vec<String> {
    let mut lines = Vec::new();
    for (caller, routes) in &verdict.callers {
        for (route, verdict) in routes {
            let mut line = format!("{caller} {route} {}", verdict.used_percent);
            line.extend(verdict.tier_ceiling.map(|tier| format!(" {tier:?}")));
            line.extend(verdict.refused.as_ref().map(|account| format!(" refused by {account}")));
            line.extend(verdict.new_tasks_refused.as_ref().map(|account| format!(" new refused by {account}")));
            line.push_str(if verdict.paused { " paused" } else { "" });
            lines.push(line);
        }
    }
    lines
}

#[test]
fn steps_and_the_wall_hold_back_whom_they_are_for() {
    let block = json!({});
    let tokens = " new refused by u-1/tokens paused";
    let all = format!(" refused by u-1/tokens{tokens}");
    let all = all.as_str();
    for (budget, used, refused, expected) in [
        (with_steps(&block, "Active", &[]), 500, 0, [("batch router 50", ""), ("coder assistant 50", "")]),
        (with_steps(&block, "Warning", &ALL[..1]), 800, 0, [("batch router 80", ""), ("coder assistant 80", "")]),
        (with_steps(&block, "Throttled", &ALL[..2]), 900, 0, [("batch router 90 Economy", ""), ("coder assistant 90 Economy", "")]),
        (with_steps(&block, "Throttled", ALL), 950, 0, [("batch router 95 Economy", tokens), ("coder assistant 95 Economy", "")]),
        (with_steps(&block, "Throttled", ALL), 1000, 0, [("batch router 100 Economy", all), ("coder assistant 100 Economy", all)]),
        // Less than a hundredth is left, and calls were refused: pools pause, and what still fits is let through, also of new tasks
        // that no step holds back.
        (
            with_steps(&block, "Throttled", ALL),
            995,
            1,
            [("batch router 99 Economy", tokens), ("coder assistant 99 Economy", " paused")],
        ),
        (with_steps(&block, "Exhausted", &[]), 995, 1, [("batch router 99", " paused"), ("coder assistant 99", " paused")]),
        (with_steps(&block, "Throttled", ALL), 995, 0, [("batch router 99 Economy", tokens), ("coder assistant 99 Economy", "")]),
        // What was said stays, though less seems to be used.
        (
            with_steps(&block, "Exhausted", ALL),
            10,
            0,
            [("batch router 1 Economy", tokens), ("coder assistant 1 Economy", " paused")],
        ),
        (
            with_steps(&json!({ "enforcement": "Alert" }), "Exhausted", ALL),
            1000,
            9,
            [("batch router 100 Economy", tokens), ("coder assistant 100 Economy", "")],
        ),
        (
            with_steps(&json!({ "enforcement": "DryRun" }), "Exhausted", ALL),
            1000,
            9,
            [("batch router 0", ""), ("coder assistant 0", "")],
        ),
        (with_steps(&json!({ "suspend": true }), "Exhausted", ALL), 1000, 9, [("batch router 0", ""), ("coder assistant 0", "")]),
    ] {
        let known = Accounts { refused, ..accounts(1000, used) };
        let expected: Vec<String> = expected.iter().map(|(line, more)| format!("{line}{more}")).collect();
        let lines = lines(&judged(&budget, &known));
        assert_eq!(lines[..2], expected, "{:?} {used}", budget.spec.enforcement);
        assert_eq!(lines[2], expected[1].replace("assistant", "router"), "each route that counts");
    }
}

#[test]
fn steps_of_another_period_hold_nobody_back() {
    let mut budget = with_steps(&json!({}), "Exhausted", ALL);
    budget.status.as_mut().unwrap().period.as_mut().unwrap().start.0 = at("2026-10-01T00:00:00Z");
    assert_eq!(lines(&judged(&budget, &accounts(1000, 0)))[0], "batch router 0");
}

#[test]
fn what_the_accounts_do_not_tell_yet_is_covered_all_the_same() {
    let budget = budget(&json!({ "cost": "5" }));
    for known in [None, Some(accounts(1000, 1000))] {
        let verdict = of(&budget, &pools(), known.as_ref(), at(NOW));
        let accounts: Vec<String> = verdict.callers["coder"]["router"].accounts.iter().map(ToString::to_string).collect();
        assert_eq!(accounts, ["u-1/tokens", "u-1/cost"]);
        assert_eq!(verdict.callers["coder"]["router"].refused, None);
    }
    let later =
        super::super::testing::budget(&json!({ "period": { "type": "Sprint", "start": "2026-12-24T00:00", "lengthDays": 7 } }));
    assert!(of(&later, &pools(), None, at(NOW)).callers.is_empty(), "before its start it covers nobody");
}

#[test]
fn a_share_that_is_used_up_holds_back_its_caller_alone() {
    let budget = budget(&json!({ "share": { "type": "Equal" } }));
    let mut known = accounts(1000, 600);
    known.shares = [("batch".to_owned(), tokens(500, 500)), ("coder".to_owned(), tokens(500, 100))].into();
    let mine = " refused by u-1/tokens/batch new refused by u-1/tokens/batch paused";
    assert_eq!(lines(&judged(&budget, &known)).join(", "), format!("batch router 100{mine}, coder assistant 20, coder router 20"));
    // Short of the end of the share, where calls did not fit.
    known.shares.insert("batch".to_owned(), tokens(500, 499));
    assert_eq!(lines(&judged(&budget, &known))[0], "batch router 99");
    known.refused = 1;
    assert_eq!(lines(&judged(&budget, &known))[0], "batch router 99 paused");
    // Shares that were moved can be more than the budget: its own limit holds for all.
    let spent = Accounts { units: tokens(1000, 1000), ..known };
    assert!(lines(&judged(&budget, &spent)).iter().all(|line| line.contains(" refused by u-1/tokens/")));
}

#[test]
fn the_unit_of_which_more_is_used_refuses() {
    let budget = budget(&json!({ "cost": "5" }));
    let units =
        |used_tokens, used_cost| PerUnit { tokens: Some(account(1000, used_tokens)), cost: Some(account(5_000_000, used_cost)) };
    let first = |units| lines(&judged(&budget, &Accounts { units, ..accounts(1000, 0) })).remove(0);
    assert_eq!(first(units(100, 4_900_000)), "batch router 98");
    assert_eq!(first(units(100, 5_000_000)), "batch router 100 refused by u-1/cost new refused by u-1/cost paused");
    assert_eq!(first(units(1000, 5_000_000)), "batch router 100 refused by u-1/tokens new refused by u-1/tokens paused");
}

#[test]
fn after_its_only_period_a_budget_refuses_unless_it_refuses_nothing() {
    let once = json!({ "type": "Once", "start": "2026-11-01T00:00", "end": "2026-11-20T00:00" });
    let of = |enforcement: &str| {
        let budget = budget(&json!({ "period": once.clone(), "enforcement": enforcement }));
        lines(&judged(&budget, &accounts(1000, 5))).remove(0)
    };
    assert_eq!(of("Block"), "batch router 0 refused by u-1/tokens new refused by u-1/tokens paused");
    assert_eq!(of("Alert"), "batch router 0");
}

#[test]
fn the_end_of_the_only_period_is_forgotten_when_it_is_moved() {
    let mut budget = with_steps(&json!({}), "Exhausted", &[]);
    assert!(remembered(&budget, super::super::testing::period(NOVEMBER)).unwrap().exhausted);
    let ended = json!([{
        "type": "Exhausted", "status": "True", "reason": "PeriodEnded", "message": "it is over", "lastTransitionTime": NOVEMBER,
    }]);
    budget.status.as_mut().unwrap().conditions = serde_json::from_value(ended).unwrap();
    assert!(!remembered(&budget, super::super::testing::period(NOVEMBER)).unwrap().exhausted);
}

#[test]
fn of_several_budgets_the_strictest_counts_and_all_reserve() {
    let route = |ceiling, refused: Option<&str>, account: &str, used_percent| RouteVerdict {
        accounts: vec![account.parse().unwrap()],
        tier_ceiling: ceiling,
        refused: refused.map(|account| account.parse().unwrap()),
        new_tasks_refused: refused.map(|account| account.parse().unwrap()),
        paused: refused.is_some(),
        used_percent,
    };
    let verdict = |name: &str, route: RouteVerdict| BudgetVerdict {
        uid: format!("u-{name}"),
        name: name.to_owned(),
        callers: [("coder".to_owned(), [("router".to_owned(), route)].into())].into(),
    };
    let free = verdict("free", route(None, None, "u-free/tokens", 10));
    let standard = verdict("standard", route(Some(Tier::Standard), None, "u-standard/tokens", 70));
    let economy = verdict("economy", route(Some(Tier::Economy), None, "u-economy/tokens", 60));
    let wall = verdict("wall", route(None, Some("u-wall/cost"), "u-wall/cost", 100));
    let row = |verdicts: &[&BudgetVerdict]| {
        let verdicts: Vec<BudgetVerdict> = verdicts.iter().map(|verdict| (*verdict).clone()).collect();
        combine(&verdicts)["coder"].routes["router"].clone()
    };
    for (one, other) in [(&standard, &economy), (&economy, &standard)] {
        let row = row(&[one, &free, other]);
        assert_eq!((row.tier_ceiling, row.refused.as_ref(), row.used_percent), (Some(Tier::Economy), None, 70));
        let accounts: Vec<String> = row.accounts.iter().map(ToString::to_string).collect();
        assert_eq!(
            accounts,
            ["u-economy/tokens", "u-free/tokens", "u-standard/tokens"],
            "in one order, whatever that of the budgets"
        );
    }
    let walled = row(&[&free, &wall, &economy]);
    assert_eq!(walled.refused.map(|account| account.to_string()).as_deref(), Some("u-wall/cost"));
    assert_eq!(combine(&[]), BTreeMap::new());
}

#[test]
fn a_status_without_room_lists_every_paused_pool_before_it_lists_one_twice() {
    let budget = with_steps(&json!({}), "Exhausted", ALL);
    let names: Vec<String> = (0..150).map(|number| format!("p{number:03}")).collect();
    let many: Vec<PoolFacts> = names.iter().map(|name| pool(name, &["assistant", "router"], Criticality::Standard)).collect();
    let (rows, is_cut) = held_back(&of(&budget, &many, Some(&accounts(1000, 1000)), at(NOW)));
    assert_eq!((rows.len(), is_cut), (MAX_CALLERS, true));
    let listed = |name: &String| rows.iter().filter(|row| row.agent_pool == *name).count();
    assert!(names.iter().all(|name| listed(name) >= 1));
    assert!(rows.windows(2).all(|pair| (&pair[0].agent_pool, &pair[0].model_route) < (&pair[1].agent_pool, &pair[1].model_route)));
    let (few, is_cut) = held_back(&of(&budget, &many[..100], Some(&accounts(1000, 1000)), at(NOW)));
    assert_eq!((few.len(), is_cut), (200, false));
    assert!(few.iter().all(|row| row.blocked && row.new_tasks_refused && row.paused && row.tier_ceiling == Some(Tier::Economy)));
    let free = super::super::testing::budget(&json!({}));
    assert_eq!(held_back(&of(&free, &many, Some(&accounts(1000, 5)), at(NOW))), (Vec::new(), false));
}
