//! Pools that take from the same queue: who gets how many of its tasks.

use serde::{Deserialize, Serialize};

use crate::api::agent_pool::Criticality;

/// A pool that takes tasks from a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taker {
    /// Name of the pool.
    pub name: String,
    /// Who comes first.
    pub criticality: Criticality,
    /// Tasks that it can hold at most: its largest size times the tasks of a replica. 0 while it is stopped.
    pub capacity: u64,
}

/// The part of `tasks` that is for `own`: the more critical pools are filled first, pools of the same criticality in
/// proportion to what they can hold, and what nobody can hold is left with the last. The parts of all pools are `tasks`.
pub fn share_of(tasks: u64, own: &Taker, others: &[Taker]) -> u64 {
    if own.capacity == 0 && others.iter().any(|other| other.capacity > 0) {
        return 0;
    }
    let capacity =
        |of: &dyn Fn(&Taker) -> bool| others.iter().filter(|other| of(other)).map(|other| u128::from(other.capacity)).sum::<u128>();
    let before = capacity(&|other| other.criticality > own.criticality);
    let after = capacity(&|other| other.criticality < own.criticality);
    let beside = capacity(&|other| other.criticality == own.criticality);
    let beside_before = capacity(&|other| other.criticality == own.criticality && other.name < own.name);
    let left = u128::from(tasks).saturating_sub(before);
    let level = u128::from(own.capacity) + beside;
    // The last that can hold anything have all that is left.
    let of_level = if after > 0 { left.min(level) } else { left };
    if level == 0 {
        return u64::try_from(of_level).unwrap_or(u64::MAX);
    }
    let until = |capacity: u128| of_level * capacity / level;
    let part = until(beside_before + u128::from(own.capacity)) - until(beside_before);
    u64::try_from(part).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taker(name: &str, criticality: Criticality, capacity: u64) -> Taker {
        Taker { name: name.into(), criticality, capacity }
    }

    fn shares(tasks: u64, takers: &[Taker]) -> Vec<u64> {
        let others = |own: usize| -> Vec<Taker> {
            takers.iter().enumerate().filter(|(number, _)| *number != own).map(|(_, taker)| taker.clone()).collect()
        };
        takers.iter().enumerate().map(|(number, taker)| share_of(tasks, taker, &others(number))).collect()
    }

    #[test]
    fn a_pool_alone_has_every_task() {
        assert_eq!(shares(1000, &[taker("a", Criticality::Standard, 10)]), [1000]);
        assert_eq!(shares(7, &[taker("a", Criticality::Standard, 0)]), [7]);
    }

    #[test]
    fn the_more_critical_pool_is_filled_first_and_the_last_has_the_rest() {
        let takers = [taker("batch", Criticality::BestEffort, 100), taker("interactive", Criticality::Critical, 40)];
        assert_eq!(shares(30, &takers), [0, 30]);
        assert_eq!(shares(90, &takers), [50, 40]);
        assert_eq!(shares(500, &takers), [460, 40]);
    }

    #[test]
    fn pools_of_the_same_criticality_share_in_proportion_to_what_they_hold() {
        let takers = [taker("a", Criticality::Standard, 10), taker("b", Criticality::Standard, 30)];
        assert_eq!(shares(20, &takers), [5, 15]);
        assert_eq!(shares(1, &takers).iter().sum::<u64>(), 1);
    }

    #[test]
    fn a_stopped_pool_leaves_its_tasks_to_the_others() {
        let takers = [taker("a", Criticality::Critical, 0), taker("b", Criticality::BestEffort, 5)];
        assert_eq!(shares(9, &takers), [0, 9]);
    }

    #[test]
    fn no_task_is_lost_and_none_is_counted_twice() {
        let levels = [Criticality::BestEffort, Criticality::Standard, Criticality::Critical];
        for tasks in [0, 1, 7, 100, 12_345] {
            for seed in 0..200_u64 {
                let takers: Vec<Taker> = (0..1 + seed % 5)
                    .map(|number| {
                        let random = (seed * 31 + number * 17) % 97;
                        let level = levels[usize::try_from(random % 3).unwrap()];
                        taker(&format!("p{number}"), level, 1 + random % 11)
                    })
                    .collect();
                assert_eq!(shares(tasks, &takers).iter().sum::<u64>(), tasks, "{takers:?}");
            }
        }
    }
}
