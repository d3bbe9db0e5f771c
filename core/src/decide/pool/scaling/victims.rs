//! Who ends when there are too many agents: those without a task first.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::history::age;

/// How long the end of agents is put off that Kubernetes would end first although they are at work, while others are idle:
/// it ends what is not ready before it looks at the cost of a deletion.
const PATIENCE: Duration = Duration::from_secs(600);

/// An agent that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Agent {
    /// Name of its pod.
    pub name: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// A node was found for it.
    pub assigned: bool,
    /// Its containers run.
    pub running: bool,
    /// It is ready.
    pub ready: bool,
    /// Tasks that it works on; absent where the queues do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
}

/// How the workload ends pods when it is made smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A ReplicaSet: by readiness, then by the cost of deletion, which is ours to set.
    ByCost,
    /// A StatefulSet: the highest ordinal first.
    ByOrdinal,
}

/// How much smaller a workload may be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScaleIn {
    /// Replicas that there should be.
    pub replicas: u32,
    /// Pods that should cost the least to delete, because they end now.
    pub victims: Vec<String>,
    /// Whether agents at work keep the replicas above what is wanted.
    pub held: bool,
    /// When the answer may become another one by the time alone.
    pub next: Option<Duration>,
}

/// How much smaller a workload may be made on the way from `current` to `wanted` replicas, and who ends. `agents` are the pods
/// that are not ending yet. `wait_for_idle` is how long the end of agents at work is put off, `since` when that began.
pub fn scale_in(
    agents: &[Agent],
    order: Order,
    current: u32,
    wanted: u32,
    wait_for_idle: Option<Duration>,
    since: Option<Timestamp>,
    now: Timestamp,
) -> ScaleIn {
    let at_once = ScaleIn { replicas: wanted.min(current), ..ScaleIn::default() };
    let living = match order {
        Order::ByCost => size(agents.len()),
        // Of those that are not there nobody ends.
        Order::ByOrdinal => current,
    };
    let ending = living.saturating_sub(wanted);
    if ending == 0 || agents.iter().any(|agent| agent.in_flight.is_none()) {
        return at_once;
    }
    // Those that were given up before and have not begun to end yet: they end in any case, and count among those that do.
    let given_up = living.saturating_sub(current);
    let idle = |agent: &Agent| agent.in_flight == Some(0);
    let all_idle = size(agents.iter().filter(|agent| idle(agent)).count());
    let mut agents: Vec<&Agent> = agents.iter().collect();
    let first_idle = match order {
        Order::ByCost => {
            agents.sort_by_key(|agent| {
                let kubernetes = (agent.assigned, agent.running, agent.ready);
                (kubernetes, agent.in_flight, std::cmp::Reverse(agent.created), agent.name.clone())
            });
            size(agents.iter().take_while(|agent| idle(agent)).count())
        }
        Order::ByOrdinal => {
            let busy = agents.iter().filter(|agent| !idle(agent)).filter_map(|agent| ordinal(&agent.name));
            // The highest of those at work stays, and all below it.
            living.saturating_sub(busy.max().map_or(0, |highest| highest.saturating_add(1)))
        }
    };
    let waited = since.map_or(Duration::ZERO, |since| age(since, now));
    let patience = match wait_for_idle {
        Some(patience) => patience,
        // Nobody at work ends while somebody idle is there.
        None if all_idle > first_idle => PATIENCE,
        None => Duration::ZERO,
    };
    let allowed = if waited >= patience { ending } else { ending.min(first_idle).max(given_up) };
    let victims = match order {
        Order::ByCost => {
            agents.iter().take(usize::try_from(allowed).unwrap_or(usize::MAX)).map(|agent| agent.name.clone()).collect()
        }
        Order::ByOrdinal => Vec::new(),
    };
    let held = allowed < ending;
    ScaleIn { replicas: living - allowed, victims, held, next: held.then(|| patience.saturating_sub(waited)) }
}

fn size(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The ordinal of a StatefulSet's pod: the number at the end of its name.
fn ordinal(name: &str) -> Option<u32> {
    name.rsplit_once('-').and_then(|(_, number)| number.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(10_000).unwrap()
    }

    fn agent(name: &str, in_flight: u64) -> Agent {
        let created = Some(Timestamp::from_second(1000).unwrap());
        Agent { name: name.into(), created, assigned: true, running: true, ready: true, in_flight: Some(in_flight) }
    }

    fn by_cost(agents: &[Agent], wanted: u32, wait: Option<u64>, waited: i64) -> ScaleIn {
        let current = u32::try_from(agents.len()).unwrap();
        let since = Timestamp::from_second(10_000 - waited).unwrap();
        scale_in(agents, Order::ByCost, current, wanted, wait.map(Duration::from_secs), Some(since), now())
    }

    #[test]
    fn idle_agents_end_and_busy_ones_stay() {
        let agents = [agent("a", 1), agent("b", 0), agent("c", 2), agent("d", 0)];
        let answer = by_cost(&agents, 2, None, 0);
        assert_eq!((answer.replicas, answer.held), (2, false));
        assert_eq!(answer.victims, ["b", "d"]);
    }

    #[test]
    fn busy_agents_are_waited_for_as_long_as_the_user_says() {
        let agents = [agent("a", 1), agent("b", 0), agent("c", 2)];
        let early = by_cost(&agents, 0, Some(600), 100);
        assert_eq!((early.replicas, early.held, early.next), (2, true, Some(Duration::from_secs(500))));
        assert_eq!(early.victims, ["b"]);
        let late = by_cost(&agents, 0, Some(600), 600);
        assert_eq!((late.replicas, late.held, late.next), (0, false, None));
    }

    #[test]
    fn without_patience_the_least_busy_end_after_all_idle_ones() {
        let agents = [agent("a", 3), agent("b", 1), agent("c", 0)];
        assert_eq!(by_cost(&agents, 1, None, 0).victims, ["c", "b"]);
    }

    #[test]
    fn an_agent_that_is_at_work_and_not_ready_does_not_end_before_an_idle_one() {
        let unready = Agent { ready: false, ..agent("a", 1) };
        let agents = [unready, agent("b", 0)];
        let answer = by_cost(&agents, 1, None, 0);
        assert_eq!((answer.replicas, answer.held), (2, true));
        assert_eq!(by_cost(&agents, 1, None, 600).replicas, 1);
    }

    #[test]
    fn what_has_no_pod_and_what_is_not_ready_goes_first() {
        let pending = Agent { assigned: false, running: false, ready: false, ..agent("p", 0) };
        let agents = [agent("a", 0), pending, agent("b", 1)];
        let answer = scale_in(&agents, Order::ByCost, 5, 2, None, None, now());
        assert_eq!((answer.replicas, answer.victims), (2, vec!["p".to_owned()]));
        assert_eq!(scale_in(&agents, Order::ByCost, 5, 3, None, None, now()).victims, Vec::<String>::new());
    }

    #[test]
    fn a_stateful_set_shrinks_only_as_far_as_its_highest_ordinals_are_idle() {
        let agents = [agent("s-0", 0), agent("s-1", 1), agent("s-2", 0), agent("s-10", 0)];
        let wait = Some(Duration::from_secs(600));
        let answer = scale_in(&agents, Order::ByOrdinal, 11, 0, wait, Some(now()), now());
        assert_eq!((answer.replicas, answer.held), (2, true));
        assert!(answer.victims.is_empty());
    }

    #[test]
    fn a_stateful_set_that_lacks_a_pod_does_not_end_another_one_for_it() {
        let agents = [agent("s-1", 0), agent("s-2", 1)];
        let wait = Some(Duration::from_secs(600));
        let answer = scale_in(&agents, Order::ByOrdinal, 3, 2, wait, Some(now()), now());
        assert_eq!((answer.replicas, answer.held), (3, true), "s-0 is on its way, and s-2 is at work");
    }

    #[test]
    fn those_that_were_given_up_before_are_among_those_that_end() {
        let agents = [agent("a", 0), agent("b", 0), agent("c", 1), agent("d", 0), agent("e", 2)];
        // Two of the five end already: the ReplicaSet has not come to it.
        let answer = scale_in(&agents, Order::ByCost, 3, 2, None, None, now());
        assert_eq!((answer.replicas, answer.held), (2, false));
        assert_eq!(answer.victims, ["a", "b", "d"]);
        let none_is_idle = [agent("a", 1), agent("b", 1), agent("c", 1)];
        let wait = Some(Duration::from_secs(600));
        let answer = scale_in(&none_is_idle, Order::ByCost, 2, 1, wait, Some(now()), now());
        assert_eq!((answer.replicas, answer.held, answer.victims.len()), (2, true, 1));
    }

    #[test]
    fn where_nobody_knows_who_is_at_work_kubernetes_decides() {
        let unknown = Agent { in_flight: None, ..agent("a", 0) };
        let answer = by_cost(&[unknown, agent("b", 0)], 0, Some(600), 0);
        assert_eq!((answer.replicas, answer.held), (0, false));
        assert!(answer.victims.is_empty());
    }
}
