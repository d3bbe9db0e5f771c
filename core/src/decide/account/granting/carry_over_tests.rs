//! What is left of a period, and what was used beyond it, in the next one: periods end in the accounts, and what the spec makes of
//! that comes back to them as another limit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;

use super::testing::{FIRST, Gateway, LENGTH, START, World};
use crate::api::TokenBudget;
use crate::decide::account::message::SpentRow;
use crate::decide::budget::observation::{Accounts, Observation, PoolFacts};
use crate::decide::budget::{decide, terms};

/// A budget of a thousand tokens a day of which a tenth can be carried over, its accounts, and a process that spends.
struct Daily {
    world: World,
    budget: TokenBudget,
}

impl Daily {
    fn new() -> Self {
        let spec = json!({
            "tokens": 1000, "period": { "type": "Daily" }, "appliesTo": {}, "carryOver": { "maxPercent": 10 },
        });
        let mut budget = TokenBudget::new("daily", serde_json::from_value(spec).unwrap());
        (budget.metadata.uid, budget.metadata.generation) = (Some("a".to_owned()), Some(1));
        let mut daily = Self { world: World::new(), budget };
        daily.look();
        daily.world.gateways.insert(1, Gateway::default());
        daily.world.settle();
        daily.look();
        daily
    }

    /// The budget is looked at: what is decided becomes its status, and the accounts get what it says.
    fn look(&mut self) {
        let routes = BTreeSet::from(["smart-router".to_owned()]);
        let observation = Observation {
            observed_at: None,
            budget: self.budget.clone(),
            pools: vec![PoolFacts { name: "coder".to_owned(), routes, ..PoolFacts::default() }],
            routes: Vec::new(),
            unpriced: BTreeSet::new(),
            accounts: self.world.granting.snapshot("a").as_ref().map(Accounts::from),
            unknown_because: None,
            by_caller: BTreeMap::new(),
            burn: None,
            figures_changed: None,
            outdated_schema: Arc::default(),
        };
        let now = self.world.now().wall;
        self.budget.status = Some(decide(&observation, now).status);
        let terms = terms::of(&self.budget, &observation.pools, observation.accounts.as_ref(), now).unwrap();
        self.world.configure("a", terms);
    }

    /// The next day begins. The accounts know that by themselves, and the budget looks at them then.
    fn next_day(&mut self) {
        let day = (self.world.wall - START) / LENGTH + 1;
        let begun = START + day * LENGTH + 5;
        self.world.wait(u32::try_from(begun - self.world.wall).unwrap());
        self.world.settle();
        assert_eq!(self.world.snapshot().period.0, START + day * LENGTH);
        self.look();
    }

    /// The limit of the open period, as the status shows it. The accounts have the same, and all of it can be granted.
    fn limit(&mut self) -> u64 {
        let limit = self.world.tokens().limit;
        assert_eq!(self.budget.status.as_ref().unwrap().limit_tokens, Some(limit));
        // The ledger is not written at any time.
        self.world.wait(60);
        let open = self.world.snapshot().period;
        let missing = limit - self.world.row(1, "a/tokens", open).allowance;
        self.world.ask(1, "a/tokens", missing, missing);
        self.world.settle();
        assert_eq!(self.world.row(1, "a/tokens", open).allowance, limit);
        limit
    }
}

#[test]
fn what_is_left_of_a_period_is_carried_into_the_next_one_and_no_further_and_so_is_a_debt() {
    let mut daily = Daily::new();
    assert_eq!(daily.limit(), 1000);
    for (used, limit) in [
        (940, 1060),
        // A tenth at most, and nothing of what had itself been carried over.
        (0, 1100),
        (1100, 1000),
        // More than could be reserved.
        (1030, 970),
        (970, 1000),
    ] {
        let open = daily.world.snapshot().period;
        daily.world.row(1, "a/tokens", open).used = used;
        daily.world.settle();
        daily.next_day();
        assert_eq!((daily.limit(), daily.world.tokens().used), (limit, 0), "after {used} were used");
    }
}

#[test]
fn a_call_that_ends_in_the_next_period_takes_from_what_was_carried() {
    let mut daily = Daily::new();
    *daily.world.row(1, "a/tokens", FIRST) = SpentRow { used: 900, reserved: 80, allowance: 1000, ..SpentRow::default() };
    daily.world.settle();
    daily.next_day();
    assert_eq!(daily.world.tokens().limit, 1100);
    *daily.world.row(1, "a/tokens", FIRST) = SpentRow { used: 940, allowance: 1000, ..SpentRow::default() };
    daily.world.settle();
    daily.look();
    assert_eq!((daily.world.tokens().limit, daily.world.snapshot().before.unwrap().used.tokens), (1060, 940));
}
