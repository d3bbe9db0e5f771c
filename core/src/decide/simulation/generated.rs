//! A trace that nobody recorded: tasks that come as people work, by day and by week, and agents whose prompts grow with each call.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use kube::ResourceExt as _;

use super::chance::Random;
use super::trace::{Building, Call, Trace, TraceError};
use crate::api::{AgentPool, ModelRoute};

/// How many tasks come in each hour of a working day, beside each other.
const HOURS: [u64; 24] = [4, 3, 2, 2, 2, 3, 6, 15, 40, 70, 85, 90, 75, 80, 90, 90, 85, 70, 45, 25, 15, 12, 10, 8];
/// On a day of the weekend they are so many times fewer.
const WEEKEND: u64 = 4;

/// The most calls of a task: of an agent's, and of somebody without agents.
const CALLS: (u64, u64) = (15, 3);
/// Tokens of the prompt of a task's first call: at least, and up to so many more.
const FIRST_PROMPT: (u64, u64) = (1_000, 6_000);
/// Tokens that a prompt grows by from call to call, beside the answer before: up to so many.
const GROWTH: u64 = 3_000;
/// The longest prompt, in tokens: agents cut what they remember.
const LONGEST_PROMPT: u64 = 60_000;
/// Tokens of an answer: at least, and up to so many more, where few are more likely. The mean is about that of coding agents' calls, 523
/// (TraceLab, <https://github.com/uw-syfi/TraceLab>).
const ANSWER: (u64, u64) = (20, 1_500);
/// The most tokens of output that each call asks for.
const MOST_OUTPUT: u32 = 4_096;
/// The longest time between two calls of a task, in milliseconds.
const LONGEST_GAP: u64 = 30_000;

const HOUR: i64 = 3_600;

/// A trace that is to be generated: the same for the same settings, on any machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// How many calls.
    pub calls: u32,
    /// Which of all such traces.
    pub seed: u64,
    /// When it begins.
    pub start: Timestamp,
    /// Over how many days.
    pub days: u32,
    /// By whose clocks people work.
    pub time_zone: TimeZone,
}

/// Somebody who calls.
struct Caller {
    name: String,
    has_agents: bool,
    /// The ModelRoutes that it may call, each with the types of tasks that its rules ask about.
    routes: Vec<(String, Vec<String>)>,
}

/// Generates a trace of calls that the pools may make. All make about as many tasks.
///
/// # Errors
///
/// No pool may call one of the routes.
pub fn generate(spec: &Generated, pools: &[AgentPool], routes: &[ModelRoute]) -> Result<Trace, TraceError> {
    let callers: Vec<Caller> =
        pools.iter().map(|pool| Caller::of(pool, routes)).filter(|caller| !caller.routes.is_empty()).collect();
    if callers.is_empty() {
        return Err(TraceError::NoCaller);
    }
    let mut random = Random::new(spec.seed);
    let hours = hours(spec);
    let mut building = Building::default();
    let mut left = u64::from(spec.calls);
    while left > 0 {
        let Some(caller) = callers.get(random.place(callers.len())) else { break };
        let Some((route, types)) = caller.routes.get(random.place(caller.routes.len())) else { break };
        // As likely as each type is that there is none.
        let type_ = types.get(random.place(types.len() + 1)).cloned();
        let kind = building.kind(caller.name.clone(), route.clone(), type_, 0);
        let most = if caller.has_agents { CALLS.0 } else { CALLS.1 };
        let calls = (1 + random.below(most)).min(left);
        left -= calls;
        let task = building.task()?;
        let mut at = moment(&hours, &mut random);
        let mut prompt = FIRST_PROMPT.0 + random.below(FIRST_PROMPT.1);
        for _ in 0..calls {
            let answer = ANSWER.0 + random.below(ANSWER.1).min(random.below(ANSWER.1));
            building.call(Call::new(at, kind, tokens(prompt), tokens(answer), Some(MOST_OUTPUT)), task);
            at = at.saturating_add(i64::try_from(1_000 + random.below(LONGEST_GAP)).unwrap_or(0));
            prompt = (prompt + answer + random.below(GROWTH)).min(LONGEST_PROMPT);
        }
    }
    building.finish()
}

impl Caller {
    fn of(pool: &AgentPool, routes: &[ModelRoute]) -> Self {
        let may_call = |route: &&ModelRoute| pool.spec.model_routes.iter().any(|named| named.name == route.name_any());
        Self {
            name: pool.name_any(),
            has_agents: pool.spec.template.is_some() || pool.spec.target_ref.is_some(),
            routes: routes.iter().filter(may_call).map(|route| (route.name_any(), task_types(route))).collect(),
        }
    }
}

/// The types of tasks that the rules of a route ask about, where a client may say them.
fn task_types(route: &ModelRoute) -> Vec<String> {
    let types: BTreeSet<&String> = route.spec.rules.iter().flat_map(|rule| &rule.when.task_types).collect();
    types.into_iter().cloned().collect()
}

/// The hours of the trace: when each begins, in seconds since 1970, and how many tasks come until its end, beside each other.
fn hours(spec: &Generated) -> Vec<(i64, u64)> {
    let mut sum = 0;
    let hour = |number: i64| {
        let start = spec.start.as_second().saturating_add(number.saturating_mul(HOUR));
        let local = spec.time_zone.to_datetime(Timestamp::from_second(start).unwrap_or(spec.start));
        let weight = usize::try_from(local.hour()).ok().and_then(|hour| HOURS.get(hour)).copied().unwrap_or(1);
        let is_weekend = matches!(local.weekday(), Weekday::Saturday | Weekday::Sunday);
        sum += if is_weekend { weight } else { weight * WEEKEND };
        (start, sum)
    };
    (0..i64::from(spec.days.max(1)) * 24).map(hour).collect()
}

/// A time at which a task comes, in milliseconds since 1970.
fn moment(hours: &[(i64, u64)], random: &mut Random) -> i64 {
    let drawn = random.below(hours.last().map_or(0, |(_, sum)| *sum));
    let start = hours.get(hours.partition_point(|(_, sum)| *sum <= drawn)).map_or(0, |(start, _)| *start);
    let within = i64::try_from(random.below(3_600_000)).unwrap_or(0);
    start.saturating_mul(1_000).saturating_add(within)
}

fn tokens(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(name: &str, more: serde_json::Value) -> AgentPool {
        let mut spec = json!({ "modelRoutes": [{ "name": "smart" }] });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let pool =
            json!({ "apiVersion": "quartermaster.dev/v1alpha1", "kind": "AgentPool", "metadata": { "name": name }, "spec": spec });
        serde_json::from_value(pool).unwrap()
    }

    fn route() -> ModelRoute {
        let spec = json!({
            "backends": [{ "name": "model" }],
            "rules": [{ "name": "qa", "when": { "taskTypes": ["qa"] }, "backends": [{ "name": "model" }] }],
        });
        let route = json!({ "apiVersion": "quartermaster.dev/v1alpha1", "kind": "ModelRoute", "metadata": { "name": "smart" }, "spec": spec });
        serde_json::from_value(route).unwrap()
    }

    fn spec(calls: u32, seed: u64) -> Generated {
        // A Monday.
        Generated { calls, seed, start: "2026-11-16T00:00:00Z".parse().unwrap(), days: 7, time_zone: TimeZone::UTC }
    }

    fn pools() -> [AgentPool; 2] {
        [pool("coder", json!({ "template": { "spec": {} } })), pool("people", json!({}))]
    }

    #[test]
    fn the_same_settings_are_the_same_trace_and_another_seed_is_another_one() {
        let generated = |seed: u64| generate(&spec(500, seed), &pools(), &[route()]).unwrap();
        assert_eq!(generated(1), generated(1));
        assert_ne!(generated(1), generated(2));
    }

    #[test]
    fn there_are_as_many_calls_as_were_asked_for_and_people_work_by_day() {
        let trace = generate(&spec(20_000, 3), &pools(), &[route()]).unwrap();
        assert_eq!(trace.len(), 20_000);
        let (first, last) = trace.span();
        assert!(first >= spec(0, 0).start.as_millisecond() && last < first + 8 * 86_400_000);
        let hour = |at: i64| (at / 3_600_000) % 24;
        let of_hour = |wanted: i64| trace.tasks().iter().filter(|task| hour(task.arrives) == wanted).count();
        assert!(of_hour(11) > 10 * of_hour(3), "{} and {}", of_hour(11), of_hour(3));
        let day = |at: i64| (at - first) / 86_400_000;
        let of_day = |wanted: i64| trace.tasks().iter().filter(|task| day(task.arrives) == wanted).count();
        assert!(of_day(1) > 2 * of_day(6), "{} and {}", of_day(1), of_day(6));
    }

    #[test]
    fn tasks_of_agents_have_more_calls_and_each_call_knows_its_type() {
        let trace = generate(&spec(5_000, 4), &pools(), &[route()]).unwrap();
        let pool_of = |place: usize| trace.kinds()[trace.calls_of(place)[0].kind].pool.as_str();
        let longest = |pool: &str| {
            let lengths = (0..trace.tasks().len()).filter(|place| pool_of(*place) == pool).map(|place| trace.calls_of(place).len());
            lengths.max().unwrap()
        };
        assert_eq!((longest("coder"), longest("people")), (15, 3));
        assert!(trace.kinds().iter().any(|kind| kind.task_type.as_deref() == Some("qa")));
        assert!(trace.kinds().iter().any(|kind| kind.task_type.is_none()));
    }

    #[test]
    fn where_nobody_may_call_anything_nothing_is_generated() {
        assert_eq!(generate(&spec(1, 1), &[pool("coder", json!({ "modelRoutes": [] }))], &[route()]), Err(TraceError::NoCaller));
    }
}
