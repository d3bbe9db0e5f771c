//! The burn curve of one budget of a simulation.

use quartermaster_core::decide::simulation::result::{BudgetOutcome, BudgetPoint, Outcome};

use super::zone_of;
use crate::cli::svg::{Curve, CurvePoint, CurveStep, CurveUnit, PoolLine};

/// The curve of a budget; without a name that of which most was used in any period.
///
/// # Errors
///
/// There is no such budget, in words that name those that there are.
pub fn of(outcome: &Outcome, name: Option<&str>) -> Result<Curve, String> {
    let names = || outcome.budgets.iter().map(|budget| budget.name.as_str()).collect::<Vec<_>>().join(", ");
    let budget = match name {
        Some(name) => outcome.budgets.iter().find(|budget| budget.name == name),
        // Of several that are equally full the first one is taken.
        None => outcome.budgets.iter().rev().max_by_key(|budget| percent(budget)),
    };
    let budget = budget.ok_or_else(|| match name {
        Some(name) => format!("--budget {name}: the TokenBudgets of the files are: {}", names()),
        None => "no TokenBudget in the files, so that there is no curve to draw".to_owned(),
    })?;
    let unit = unit(budget);
    let point = |point: &BudgetPoint| {
        let account = match unit {
            CurveUnit::Tokens => point.units.tokens,
            CurveUnit::Money => point.units.cost,
        };
        let (used, limit) = account.map_or((0, None), |account| (account.used, Some(account.limit)));
        CurvePoint { time: point.time, used, limit, refused: point.refused }
    };
    let mut steps: Vec<CurveStep> = Vec::new();
    for period in &budget.periods {
        let of_period = period.steps.iter();
        steps
            .extend(of_period.map(|step| CurveStep { time: step.time, label: format!("{} % {:?}", step.at_percent, step.action) }));
        steps.extend(period.exhausted.map(|time| CurveStep { time, label: "Exhausted".to_owned() }));
    }
    steps.sort_by_key(|step| step.time);
    let pools = outcome.pools.iter().filter(|pool| !pool.points.is_empty()).map(|pool| PoolLine {
        name: pool.name.clone(),
        points: pool.points.iter().map(|point| (point.time, u64::from(point.agents))).collect(),
    });
    Ok(Curve {
        title: format!("TokenBudget {}: {} used", budget.name, if unit == CurveUnit::Tokens { "tokens" } else { "money" }),
        unit,
        zone: zone_of(&budget.time_zone),
        points: budget.points.iter().map(point).collect(),
        steps,
        pools: pools.collect(),
    })
}

/// How much of a limit was used, in the period in which that was most.
fn percent(budget: &BudgetOutcome) -> u32 {
    let accounts = budget.periods.iter().flat_map(|period| [period.units.tokens, period.units.cost]).flatten();
    accounts.map(|account| account.percent()).max().unwrap_or(0)
}

/// The unit of which more was used.
fn unit(budget: &BudgetOutcome) -> CurveUnit {
    let of = |tokens: bool| {
        let accounts = budget.periods.iter().filter_map(move |period| if tokens { period.units.tokens } else { period.units.cost });
        accounts.map(|account| account.percent()).max()
    };
    if of(false) > of(true) { CurveUnit::Money } else { CurveUnit::Tokens }
}
