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
    /// Tasks of the queue that its agents are known to work on.
    #[serde(default, skip_serializing_if = "crate::decide::pool::scaling::share::is_zero")]
    pub held: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Tasks of a queue that are for one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Those that wait.
    pub waiting: u64,
    /// Those that somebody works on, or has left.
    pub in_flight: u64,
}

/// The part of a queue that is for `own`. Where it is known who works on what (`held_is_known`), each pool has what its own
/// agents hold, and only what nobody holds is shared; else all tasks are.
pub fn part_of(waiting: u64, in_flight: u64, own: &Taker, others: &[Taker], held_is_known: bool) -> Part {
    if others.is_empty() {
        return Part { waiting, in_flight };
    }
    let free = |taker: &Taker| Taker { capacity: taker.capacity.saturating_sub(taker.held), ..taker.clone() };
    let held = others.iter().fold(own.held, |sum, other| sum.saturating_add(other.held));
    let (open, own_held, share) = match held_is_known {
        true => {
            let open = waiting.saturating_add(in_flight.saturating_sub(held));
            (open, own.held, share_of(open, &free(own), &others.iter().map(free).collect::<Vec<_>>()))
        }
        false => {
            let open = waiting.saturating_add(in_flight);
            (open, 0, share_of(open, own, others))
        }
    };
    let of_waiting = share.min(open).min(waiting);
    Part { waiting: of_waiting, in_flight: own_held.saturating_add(share - of_waiting) }
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
        Taker { name: name.into(), criticality, capacity, held: 0 }
    }

    fn part(waiting: u64, in_flight: u64, own: &Taker, other: &Taker, known: bool) -> (u64, u64) {
        let part = part_of(waiting, in_flight, own, std::slice::from_ref(other), known);
        (part.waiting, part.in_flight)
    }

    #[test]
    fn each_pool_has_what_its_own_agents_work_on_and_a_part_of_what_nobody_holds() {
        let critical = taker("interactive", Criticality::Critical, 40);
        let batch = Taker { held: 20, ..taker("batch", Criticality::BestEffort, 100) };
        // Nothing waits: the critical pool has nothing to do, and the agents of the other are not forgotten.
        assert_eq!(part(0, 20, &critical, &batch, true), (0, 0));
        assert_eq!(part(0, 20, &batch, &critical, true), (0, 20));
        assert_eq!(part(50, 20, &critical, &batch, true), (40, 0));
        assert_eq!(part(50, 20, &batch, &critical, true), (10, 20));
        // What a dead agent has left is for somebody to take over.
        assert_eq!(part(0, 23, &critical, &batch, true), (0, 3));
    }

    #[test]
    fn where_nobody_tells_who_works_all_tasks_are_shared_once() {
        let (critical, batch) = (taker("interactive", Criticality::Critical, 40), taker("batch", Criticality::BestEffort, 100));
        assert_eq!(part(40, 40, &critical, &batch, false), (40, 0));
        assert_eq!(part(40, 40, &batch, &critical, false), (40, 0));
        assert_eq!(part(10, 40, &critical, &batch, false), (10, 30));
        assert_eq!(part(10, 40, &batch, &critical, false), (10, 0));
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
