use serde_json::json;

use super::super::testing::{NOVEMBER, account, observe, period, tokens};
use super::*;

#[test]
fn a_percentage_is_rounded_down_and_of_a_limit_of_nothing_all_is_used() {
    for (limit, used, percent, is_spent, is_nearly_spent) in [
        (1000, 0, 0, false, false),
        (1000, 9, 0, false, false),
        (1000, 989, 98, false, false),
        (1000, 990, 99, false, false),
        (1000, 991, 99, false, true),
        (1000, 999, 99, false, true),
        (1000, 1000, 100, true, true),
        (1000, 2500, 250, true, true),
        (0, 0, 100, true, true),
        (0, 7, 100, true, true),
        (3, 2, 66, false, false),
        (u64::MAX, u64::MAX, 100, true, true),
        (1, u64::MAX, u32::MAX, true, true),
    ] {
        let account = account(limit, used);
        let found = (account.percent(), account.is_spent(), account.is_nearly_spent());
        assert_eq!(found, (percent, is_spent, is_nearly_spent), "{used} of {limit}");
    }
    assert_eq!((account(5, 3).left(), account(5, 8).left()), (2, 0));
}

#[test]
fn what_the_accounts_say_is_taken_over_as_it_is() {
    let unit = |limit, used, estimated| UnitSnapshot { limit, used, estimated, committed: used + 1, debt: 0 };
    let closed = ClosedPeriod {
        id: period("2026-10-01T00:00:00Z"),
        end: Some(7),
        limits: Limits { tokens: Some(1000), cost: None },
        used: Amounts { tokens: 900, cost: 3 },
        estimated: Amounts { tokens: 9, cost: 0 },
    };
    let snapshot = Snapshot {
        period: period(NOVEMBER),
        units: [(Unit::Tokens, unit(1000, 500, 5)), (Unit::Cost, unit(7, 3, 0))].into(),
        shares: [("coder".to_owned(), [(Unit::Tokens, unit(500, 400, 0))].into())].into(),
        known: Known::NotHeard(2),
        before: Some(closed.clone()),
        history: vec![closed],
        refused: 4,
    };
    let facts = ClosedFacts {
        id: period("2026-10-01T00:00:00Z"),
        end: Some(7),
        limits: Limits { tokens: Some(1000), cost: None },
        used: PerUnit { tokens: Some(900), cost: Some(3) },
        estimated: PerUnit { tokens: Some(9), cost: Some(0) },
    };
    let expected = Accounts {
        period: period(NOVEMBER),
        units: PerUnit { tokens: Some(AccountFacts { limit: 1000, used: 500, estimated: 5 }), cost: Some(account(7, 3)) },
        shares: [("coder".to_owned(), tokens(500, 400))].into(),
        known: UsageKnown::NotHeard,
        before: Some(facts.clone()),
        history: vec![facts],
        refused: 4,
    };
    assert_eq!(Accounts::from(&snapshot), expected);
    for (known, expected) in
        [(Known::Yes, UsageKnown::Yes), (Known::Opening, UsageKnown::Opening), (Known::LedgerLost, UsageKnown::LedgerLost)]
    {
        assert_eq!(Accounts::from(&Snapshot { known, ..snapshot.clone() }).known, expected);
    }
}

#[test]
fn a_pool_and_a_route_are_known_by_their_specs_and_labels() {
    let pool: AgentPool = serde_json::from_value(json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "AgentPool",
        "metadata": { "name": "coder", "labels": { "team": "dev" } },
        "spec": { "modelRoutes": [{ "name": "router" }, { "name": "assistant" }], "criticality": "Critical" },
        "status": { "replicas": 3 },
    }))
    .unwrap();
    let expected = super::super::testing::pool("coder", &["assistant", "router"], Criticality::Critical);
    assert_eq!(PoolFacts::of(&pool), expected);
    let route: ModelRoute = serde_json::from_value(json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "ModelRoute", "metadata": { "name": "router" },
        "spec": {
            "backends": [{ "name": "small" }],
            "rules": [{ "name": "long", "when": {}, "backends": [{ "name": "large" }] }],
            "fallback": [{ "name": "claude" }, { "name": "small" }],
        },
    }))
    .unwrap();
    let backends = ["claude", "large", "small"].map(str::to_owned).into();
    assert_eq!(RouteFacts::of(&route), RouteFacts { name: "router".to_owned(), backends });
}

#[test]
fn an_observation_is_read_as_it_was_recorded() {
    let mut observation = observe(&json!({ "cost": "2.50", "share": { "type": "Equal" } }), 500);
    let counts = Counts { input: 5, ..Counts::default() };
    observation.by_caller.insert("coder".to_owned(), counts);
    observation.burn = Some(BurnRate { tokens_per_hour: 7, ..BurnRate::default() });
    let closed = ClosedFacts {
        id: period("2026-10-01T00:00:00Z"),
        end: None,
        limits: Limits::default(),
        used: PerUnit { tokens: Some(1), cost: None },
        estimated: PerUnit::default(),
    };
    if let Some(accounts) = &mut observation.accounts {
        accounts.shares.insert("coder".to_owned(), tokens(500, 1));
        accounts.known = UsageKnown::Opening;
        accounts.history.push(closed);
    }
    let recorded = serde_json::to_string(&observation).unwrap();
    assert_eq!(serde_json::from_str::<Observation>(&recorded).unwrap(), observation);
}
