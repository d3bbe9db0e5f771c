//! The order in which the backends of a route are asked: the first answers, the others are for retries.

use std::collections::BTreeMap;

use crate::api::model_route::Strategy;

/// A backend among which is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contender<'a> {
    /// Name of the InferenceBackend.
    pub backend: &'a str,
    /// Its share of the strategy Weighted; 0: only when the others fail.
    pub weight: u32,
    /// What the call would cost there, in any unit that is the same for all; `None`: unknown.
    pub cost: Option<u128>,
    /// Its place among the preferred regions: a smaller one comes before a larger one, whatever the strategy says.
    pub region: usize,
}

/// Whose turn it is, by name of the backend. One for each rule of a route, and one for its plain backends; it outlives changes of
/// both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turns(BTreeMap<String, Lag>);

/// How many calls a backend is behind its share: `part / whole`, which is negative for one that is ahead. `whole` is the sum of the
/// weights among which was chosen last, so that a lag of calls stays what it is when weights or backends change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lag {
    part: i64,
    whole: i64,
}

impl Lag {
    fn of_whole(self, whole: i64) -> i64 {
        if self.whole == whole {
            return self.part;
        }
        let scaled = i128::from(self.part) * i128::from(whole) / i128::from(self.whole.max(1));
        // A lag is near a call at most, even where weights and backends change with each call.
        i64::try_from(scaled).unwrap_or(0).clamp(-whole.saturating_mul(2), whole.saturating_mul(2))
    }
}

/// The order in which the contenders are asked, as indices into them. Equal ones keep the order of the list.
///
/// Of the contenders in the best region the strategy chooses the first; `turns` moves for `RoundRobin` and `Weighted`.
pub fn order(strategy: Strategy, turns: &mut Turns, contenders: &[Contender<'_>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    let of = |index: usize| contenders.get(index);
    let region = |index: usize| of(index).map(|one| one.region);
    match strategy {
        Strategy::Priority => order.sort_by_key(|index| region(*index)),
        Strategy::LowestCost => {
            order.sort_by_key(|index| (region(*index), of(*index).map(|one| (one.cost.is_none(), one.cost))));
        }
        Strategy::RoundRobin | Strategy::Weighted => {
            let weight = |index: usize| match strategy {
                Strategy::Weighted => of(index).map_or(0, |one| one.weight),
                _ => 1,
            };
            order.sort_by_key(|index| (region(*index), weight(*index) == 0));
            let best = order.first().copied();
            let group = |index: usize| (region(index), weight(index) == 0);
            let size = order.iter().take_while(|index| best.is_some_and(|best| group(**index) == group(best))).count();
            let (first, rest) = order.split_at_mut(size);
            // Where only backends without a weight are left, each has its turn.
            turns.sort(first, contenders, &|index| i64::from(weight(index).max(1)));
            // The others are not chosen from, so that nobody's turn is taken from them: who waited longest comes first.
            rest.sort_by_key(|index| (group(*index), std::cmp::Reverse(of(*index).map(|one| turns.lag(one.backend)))));
        }
    }
    order
}

/// Those that the strategy may put first, as indices in the order of the list: one, or, where backends take turns, all whose turn
/// it can be.
pub fn may_be_first(strategy: Strategy, contenders: &[Contender<'_>]) -> Vec<usize> {
    let rank = |index: usize, one: &Contender<'_>| match strategy {
        Strategy::Priority => (one.region, false, None, index),
        Strategy::LowestCost => (one.region, one.cost.is_none(), one.cost, index),
        Strategy::RoundRobin => (one.region, false, None, 0),
        Strategy::Weighted => (one.region, one.weight == 0, None, 0),
    };
    let ranks: Vec<_> = contenders.iter().enumerate().map(|(index, one)| rank(index, one)).collect();
    let best = ranks.iter().min();
    ranks.iter().enumerate().filter(|(_, rank)| Some(*rank) == best).map(|(index, _)| index).collect()
}

impl Turns {
    /// Forgets backends.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|backend, _| keep(backend));
    }

    /// A lag in millionths of a call, to compare backends among which was chosen at different times.
    fn lag(&self, backend: &str) -> i64 {
        self.0.get(backend).map_or(0, |lag| lag.of_whole(1_000_000))
    }

    /// Puts the one whose turn it is first, the others by how long they have waited, and counts the turn.
    ///
    /// Tijdeman's solution of the chairman assignment problem (Discrete Mathematics 32, 1980): among those that are at least
    /// 1/(2n-2) of a call behind, the one that would be too far behind first. After any number of calls each backend has had its share
    /// of them to within less than one call, which choosing whoever is furthest behind (as nginx does) misses with many backends.
    fn sort(&mut self, group: &mut [usize], contenders: &[Contender<'_>], weight: &dyn Fn(usize) -> i64) {
        let named = group.iter().filter_map(|index| Some((*index, contenders.get(*index)?.backend)));
        let whole: i64 = group.iter().map(|index| weight(*index)).sum();
        let mut lags: Vec<(usize, &str, i64)> = named
            .map(|(index, backend)| {
                (index, backend, self.0.get(backend).copied().unwrap_or_default().of_whole(whole).saturating_add(weight(index)))
            })
            .collect();
        let scale = i128::try_from(group.len()).unwrap_or(i128::MAX).saturating_sub(1).saturating_mul(2).max(1);
        let eligible = |lag: i64| i128::from(lag).saturating_mul(scale) >= i128::from(whole);
        // The time until one is too far behind is room / weight; times are compared without dividing.
        let room = |lag: i64| i128::from(whole).saturating_mul(scale - 1).saturating_sub(i128::from(lag).saturating_mul(scale));
        let sooner = |one: &(usize, &str, i64), other: &(usize, &str, i64)| {
            let (one_weight, other_weight) = (i128::from(weight(one.0)), i128::from(weight(other.0)));
            room(one.2).saturating_mul(other_weight).cmp(&room(other.2).saturating_mul(one_weight))
        };
        let behind = lags.iter().enumerate().filter(|(_, lag)| eligible(lag.2));
        // After a change of the backends nobody may be that far behind.
        let turn = behind
            .min_by(|one, other| sooner(one.1, other.1))
            .or_else(|| lags.iter().enumerate().rev().max_by_key(|(_, lag)| lag.2));
        let Some(turn) = turn.map(|(position, _)| position) else { return };
        for (position, (_, backend, lag)) in lags.iter_mut().enumerate() {
            *lag = if position == turn { lag.saturating_sub(whole) } else { *lag };
            let lag = Lag { part: *lag, whole };
            match self.0.get_mut(*backend) {
                Some(known) => *known = lag,
                None => {
                    self.0.insert((*backend).to_owned(), lag);
                }
            }
        }
        let chosen = lags.remove(turn);
        lags.sort_by_key(|(_, _, lag)| std::cmp::Reverse(*lag));
        for (place, (index, ..)) in group.iter_mut().zip(std::iter::once(chosen).chain(lags)) {
            *place = index;
        }
    }
}

#[cfg(test)]
#[path = "strategy_tests.rs"]
mod tests;
