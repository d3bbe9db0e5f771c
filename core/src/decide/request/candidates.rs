//! Which backends may answer a call, and in which order they are asked.

use std::time::Duration;

use super::key_state::{Fingerprint, KeyOut};
use super::labels::Labels;
use super::learned::Learned;
use super::rules::{self, Asked};
use super::strategy::{self, Contender};
use crate::api::format::Format;
use crate::api::model_route::{DataPolicy, FallbackCause, Strategy, Tier};
use crate::decide::gateway::plan::{Backend, Candidate, Endpoints, Plan, Price, Route, Rule, Server};

/// What a gateway knows while it decides about a call. The plan is the one that the call began with.
#[derive(Clone, Copy)]
pub struct World<'p, 'a> {
    /// The plan.
    pub plan: &'p Plan,
    /// The ready pods of backends.
    pub endpoints: &'a Endpoints,
    /// The fingerprint of the value that a key (of a backend, by its name) has now; `None` where there is no value.
    pub key_value: &'a dyn Fn(&str, &str) -> Option<Fingerprint>,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The name of its ModelRoute, a key of [`Plan::routes`].
    pub route: &'a str,
    /// The AgentPool that calls.
    pub caller: &'a str,
    /// Its labels.
    pub labels: &'a Labels<'a>,
    /// The format that a backend has to speak.
    pub format: Format,
    /// Length of the prompt, estimated from its bytes.
    pub prompt_tokens: u64,
    /// The most tokens of output that it asks for, where it says so.
    pub output_limit: Option<u32>,
    /// The highest class of backends that its caller's budgets allow; `None`: any.
    pub tier_ceiling: Option<Tier>,
    /// Whether a budget of its caller is about cost, and is to hold: then what has no price answers nothing.
    pub needs_price: bool,
    /// How much of its caller's budgets is used, in percent: of several the highest. `None`: no budget covers it.
    pub budget_used_percent: Option<u32>,
    /// Whether its prompt goes on from what one backend keeps, so that it is tried again there or nowhere.
    pub stored_input: bool,
}

/// Why a backend cannot answer a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exclusion {
    /// The plan has no such backend: it does not exist, or no call can be sent to it.
    #[error("there is no such backend in the plan")]
    NotInPlan,
    /// It is not self-hosted, and the route's data policy allows nothing else.
    #[error("spec.dataPolicy is SelfHostedOnly, and it is not self-hosted")]
    DataPolicy,
    /// It does not speak the format of the call.
    #[error("it does not speak {0:?}, the format of the call")]
    Format(Format),
    /// Its class is above what the caller's budgets allow.
    #[error("its tier {tier:?} is above {ceiling:?}, the ceiling of the caller's budgets")]
    Tier {
        /// Its class.
        tier: Tier,
        /// The highest that is allowed.
        ceiling: Tier,
    },
    /// It has no price, and a budget of the caller counts what calls cost.
    #[error("it has no price, and a budget of the caller is about cost")]
    PriceMissing,
    /// It has no ready pod.
    #[error("it is starting: no pod of it is ready")]
    Starting {
        /// When one is expected to be, where that is known.
        wait: Option<Duration>,
    },
    /// It failed too often lately.
    #[error("its circuit breaker is open")]
    CircuitOpen {
        /// When a call may try it; `None`: one is trying it.
        wait: Option<Duration>,
    },
    /// All its keys wait, since it said that there were too many calls.
    #[error("too many calls for its keys")]
    RateLimited {
        /// When the first may be used again.
        wait: Duration,
    },
    /// The quota of its keys is used up.
    #[error("the quota of its keys is used up")]
    QuotaExhausted {
        /// When a call may try one; `None`: one is trying.
        wait: Option<Duration>,
    },
    /// It refuses its keys.
    #[error("it refuses its keys")]
    KeysRejected,
    /// The gateway has no value of any of its keys.
    #[error("no value of its keys is here yet")]
    NoKeyValue,
}

impl Exclusion {
    /// Whether it can pass while the call waits: a filter of the route never does.
    pub fn passes(&self) -> bool {
        !matches!(self, Self::NotInPlan | Self::DataPolicy | Self::Format(_) | Self::Tier { .. } | Self::PriceMissing)
    }

    /// How long until it passes, where that is known.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Starting { wait } | Self::CircuitOpen { wait } | Self::QuotaExhausted { wait } => *wait,
            Self::RateLimited { wait } => Some(*wait),
            _ => None,
        }
    }

    /// What a route's fallback calls it. What a filter leaves out is unavailable, as far as its fallback is concerned.
    pub fn cause(&self) -> FallbackCause {
        match self {
            Self::RateLimited { .. } | Self::QuotaExhausted { .. } => FallbackCause::RateLimited,
            _ => FallbackCause::Unavailable,
        }
    }

    /// What of a backend's keys leaves it out: the reason that passes soonest, as far as known.
    pub(super) fn of_keys(keys: &[KeyOut]) -> Self {
        let limited = keys.iter().filter_map(|key| if let KeyOut::RateLimited(wait) = key { Some(*wait) } else { None }).min();
        if let Some(wait) = limited {
            return Self::RateLimited { wait };
        }
        let quotas = || keys.iter().filter_map(|key| if let KeyOut::QuotaExhausted(wait) = key { Some(*wait) } else { None });
        if quotas().next().is_some() {
            return Self::QuotaExhausted { wait: quotas().flatten().min() };
        }
        if keys.contains(&KeyOut::Rejected) { Self::KeysRejected } else { Self::NoKeyValue }
    }
}

/// A backend that the route names for a call, and whether it can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged<'p> {
    /// Name of the InferenceBackend.
    pub backend: &'p str,
    /// Its class in the route.
    pub tier: Tier,
    /// Why it cannot answer, as far as that was known when the call came.
    pub out: Option<Exclusion>,
}

impl Judged<'_> {
    fn is_starting(&self) -> bool {
        matches!(self.out, Some(Exclusion::Starting { .. }))
    }
}

/// Who answers a call, and who does when they fail. The names are those of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<'p> {
    /// The rule that the call falls under.
    pub rule: Option<&'p str>,
    /// How was chosen among the candidates.
    pub strategy: Strategy,
    /// The backends of the rule, or the plain ones of the route, in the order of its list.
    pub candidates: Vec<Judged<'p>>,
    /// Indices into `candidates` in the order in which they are asked: those that can answer, then those whose reason may pass while
    /// the call waits. Those that a filter leaves out are not in it.
    pub order: Vec<usize>,
    /// Indices into `candidates` of those that the call is a demand for: the one that is asked first, and each without a ready pod
    /// that the strategy might have put first, were its pods ready. So one at zero is woken that others stand in for.
    pub wanted: Vec<usize>,
    /// The route's fallback, in its order.
    pub fallback: Vec<Judged<'p>>,
}

/// Tokens of output that a call is taken to need, for its price, or less where it asks for less: the mean of coding agents' calls is
/// 523 (TraceLab, <https://github.com/uw-syfi/TraceLab>). A limit says little of it: agents set it to the most that a model can.
const USUAL_OUTPUT_TOKENS: u64 = 523;

/// Chooses for a call that has just come, which takes a turn of its strategy. `None`: the plan has no such route.
pub fn choose<'p>(world: &World<'p, '_>, learned: &mut Learned, call: &Call<'_>, now: Duration) -> Option<Choice<'p>> {
    let route = world.plan.routes.get(call.route)?;
    let asked = Asked {
        labels: call.labels,
        caller: call.caller,
        prompt_tokens: call.prompt_tokens,
        budget_used_percent: call.budget_used_percent,
    };
    let rule = rules::first_match(&route.rules, &asked);
    let (strategy, named) = named(route, rule);
    let judged = |backend: &'p str, tier: Tier| {
        let filtered = filter(world.plan, route, call, backend, tier).err();
        let out = filtered.or_else(|| learned.check(world, call.route, backend, now).err());
        Judged { backend, tier, out }
    };
    let candidates: Vec<Judged<'p>> = named.iter().map(|one| judged(&one.backend, one.tier)).collect();
    let fallback = route.fallback.iter().map(|one| judged(&one.backend, one.tier)).collect();
    let with_index = || candidates.iter().enumerate().zip(named);
    let (mut indices, mut contenders) = (Vec::new(), Vec::new());
    for ((index, judged), candidate) in with_index().filter(|((_, judged), _)| judged.out.is_none()) {
        if let Some(backend) = world.plan.backends.get(judged.backend) {
            indices.push(index);
            contenders.push(contender(route, backend, candidate, call));
        }
    }
    let rule = rule.map(|rule| rule.name.as_str());
    let turns = learned.turns(call.route, rule)?;
    let mut order = strategy::order(strategy, turns, &contenders);
    for place in &mut order {
        *place = indices.get(*place).copied()?;
    }
    let passing = with_index().filter(|((_, judged), _)| judged.out.as_ref().is_some_and(Exclusion::passes));
    order.extend(passing.map(|((index, _), _)| index));
    let wanted = wanted(world.plan, route, call, strategy, named, &candidates, &order);
    Some(Choice { rule, strategy, candidates, order, wanted, fallback })
}

/// Those that a call is a demand for.
fn wanted(
    plan: &Plan,
    route: &Route,
    call: &Call<'_>,
    strategy: Strategy,
    named: &[Candidate],
    candidates: &[Judged<'_>],
    order: &[usize],
) -> Vec<usize> {
    let first = order.first().copied();
    // Mostly all have ready pods.
    if !candidates.iter().any(Judged::is_starting) {
        return first.into_iter().collect();
    }
    let with_pods = candidates.iter().zip(named).enumerate();
    let with_pods = with_pods.filter(|(_, (judged, _))| judged.out.is_none() || judged.is_starting());
    let (indices, contenders): (Vec<usize>, Vec<Contender<'_>>) = with_pods
        .filter_map(|(index, (judged, candidate))| {
            Some((index, contender(route, plan.backends.get(judged.backend)?, candidate, call)))
        })
        .unzip();
    let might = strategy::may_be_first(strategy, &contenders).into_iter().filter_map(|place| indices.get(place).copied());
    let starting = might.filter(|index| Some(*index) != first && candidates.get(*index).is_some_and(Judged::is_starting));
    first.into_iter().chain(starting).collect()
}

/// Strategy and backends of a rule, or the plain ones of the route.
fn named<'a>(route: &'a Route, rule: Option<&'a Rule>) -> (Strategy, &'a [Candidate]) {
    rule.map_or((route.strategy, &route.backends), |rule| (rule.strategy, &rule.backends))
}

/// What the route, the format and the caller's budgets say of a backend. It holds for a fallback as for any other.
///
/// # Errors
///
/// Why the backend may not answer the call, whatever else fails.
pub fn filter<'a>(plan: &'a Plan, route: &Route, call: &Call<'_>, name: &str, tier: Tier) -> Result<&'a Backend, Exclusion> {
    let backend = plan.backends.get(name).ok_or(Exclusion::NotInPlan)?;
    match route.data_policy {
        DataPolicy::SelfHostedOnly if !backend.self_hosted => return Err(Exclusion::DataPolicy),
        DataPolicy::SelfHostedOnly | DataPolicy::Any => {}
    }
    if !backend.formats.contains(&call.format) {
        return Err(Exclusion::Format(call.format));
    }
    match call.tier_ceiling {
        Some(ceiling) if tier > ceiling => Err(Exclusion::Tier { tier, ceiling }),
        _ if call.needs_price && price(backend).is_none() => Err(Exclusion::PriceMissing),
        _ => Ok(backend),
    }
}

/// What calls of a backend cost. Pods of one's own cost nothing by the call unless they have a price; of others, unknown is not free.
pub fn price(backend: &Backend) -> Option<Price> {
    let own = matches!(backend.server, Server::Vllm | Server::Ollama);
    backend.price.or_else(|| own.then(Price::default))
}

fn contender<'a>(route: &Route, backend: &Backend, candidate: &'a Candidate, call: &Call<'_>) -> Contender<'a> {
    let preferred = |region: &String| route.region_preference.iter().position(|preferred| preferred == region);
    Contender {
        backend: &candidate.backend,
        weight: candidate.weight,
        cost: cost(backend, call),
        region: backend.region.as_ref().and_then(preferred).unwrap_or(route.region_preference.len()),
    }
}

/// What a call would cost at a backend, estimated, in millionths of a millionth of the currency; `None`: it has no [`price`].
pub fn cost(backend: &Backend, call: &Call<'_>) -> Option<u128> {
    let price = price(backend)?;
    let output_tokens = call.output_limit.map_or(USUAL_OUTPUT_TOKENS, u64::from).min(USUAL_OUTPUT_TOKENS);
    let of = |tokens: u64, price: u64| u128::from(tokens).saturating_mul(u128::from(price));
    Some(of(call.prompt_tokens, price.input).saturating_add(of(output_tokens, price.output)))
}

#[cfg(test)]
#[path = "candidates_tests.rs"]
mod tests;
