//! `quartermaster simulate`: what the budgets, routes, pools and backends of a namespace would have made of a trace of model calls.

mod curve;
mod told;

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use kube::ResourceExt as _;
use quartermaster_core::api::duration::Duration as WrittenDuration;
use quartermaster_core::api::{AgentPool, InferenceBackend, ModelRoute, TokenBudget};
use quartermaster_core::decide::simulation::generated::{self, Generated};
use quartermaster_core::decide::simulation::trace::{Trace, TraceError};
use quartermaster_core::decide::simulation::{self, Model, Progress, Setup, SetupError};

use super::CommandError;
use super::cluster::ClusterArguments;
use super::manifests::Documents;
use super::output::{self, Format};
use super::svg;

/// When a generated trace begins where no budget says when it starts: a Monday.
const START: &str = "2026-01-05T00:00:00Z";

/// How often it is said how far a long simulation is.
const PROGRESS: Duration = Duration::from_secs(2);

/// Arguments of `quartermaster simulate`.
#[derive(Debug, clap::Args)]
pub struct SimulateArguments {
    /// Files with ModelRoutes, InferenceBackends, AgentPools and TokenBudgets of one namespace; - for standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The calls: CSV with a header, or lines of JSON, with time, pool, route, promptTokens and outputTokens, and, where they
    /// are known, maxOutputTokens, durationMilliseconds, taskId and taskType; - for standard input.
    #[arg(long, value_name = "FILE", required_unless_present = "calls", conflicts_with = "calls")]
    trace: Option<PathBuf>,
    /// Generate so many calls in place of a trace: tasks that come as people work, by day and by week, for all pools.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    calls: Option<u32>,
    /// Over how many days they are generated.
    #[arg(long, value_name = "NUMBER", default_value_t = 14, value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
    /// When they begin. Default: when the first budget with a start does, else on Monday, January 5, 2026.
    #[arg(long, value_name = "TIME")]
    start: Option<Timestamp>,
    /// What is left to chance: the same number is the same outcome.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// End at this time. Default: when nothing is left to be done, at the latest a tenth of the trace's time after its last
    /// call, or an hour.
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Replicas of the gateway.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    gateways: u32,
    /// Time from when an agent is made until it takes its first task.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    agent_start: Duration,
    /// Draw the burn curve of a budget into this SVG file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The budget that is drawn. Default: the one of which most was used.
    #[arg(long, value_name = "NAME", requires = "svg")]
    budget: Option<String>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How the answer is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Simulates, and prints what would have happened.
pub fn print(arguments: SimulateArguments) -> Result<(), CommandError> {
    let is_standard_input = |path: &&PathBuf| path.as_path() == Path::new("-");
    if arguments.files.iter().chain(&arguments.trace).filter(is_standard_input).count() > 1 {
        return Err(CommandError::Input("only one of the manifests and --trace can come from standard input".to_owned()));
    }
    let setup = setup(&arguments)?;
    let trace = trace(&arguments, &setup)?;
    let outcome = simulation::simulate(&setup, &trace, &mut progress()).map_err(|error| wrong(&arguments, &error))?;
    if let Some(path) = &arguments.svg {
        let curve = curve::of(&outcome, arguments.budget.as_deref()).map_err(CommandError::Input)?;
        output::write(path, &svg::burn_curve(&curve))?;
    }
    match arguments.output {
        Format::Text => output::text(&told::text(&outcome)),
        format => output::value(format, &outcome),
    }
}

/// A duration as the resources write it.
fn duration(text: &str) -> Result<Duration, String> {
    WrittenDuration(text.to_owned()).to_std().map_err(|error| error.to_string())
}

/// What the files hold, and what is assumed of it.
fn setup(arguments: &SimulateArguments) -> Result<Setup, CommandError> {
    let documents = Documents::read(&arguments.files)?;
    let setup = Setup {
        routes: documents.objects::<ModelRoute>()?,
        backends: documents.objects::<InferenceBackend>()?,
        pools: documents.objects::<AgentPool>()?,
        budgets: documents.objects::<TokenBudget>()?,
        nodes: Arc::new(arguments.cluster.nodes()?),
        settings: Arc::new(arguments.cluster.settings()?),
        model: Model { gateways: arguments.gateways, agent_start: arguments.agent_start, ..Model::default() },
        seed: arguments.seed,
        until: arguments.until,
    };
    if setup.routes.is_empty() {
        return Err(CommandError::Input("no ModelRoute in the files".to_owned()));
    }
    let routes = setup.routes.iter().map(ModelRoute::namespace);
    let backends = setup.backends.iter().map(InferenceBackend::namespace);
    let pools = setup.pools.iter().map(AgentPool::namespace);
    let budgets = setup.budgets.iter().map(TokenBudget::namespace);
    let namespaces: BTreeSet<String> = routes.chain(backends).chain(pools).chain(budgets).flatten().collect();
    if namespaces.len() > 1 {
        let names = namespaces.into_iter().collect::<Vec<_>>().join(", ");
        let advice = "budgets, pools and routes of one namespace belong together, so leave those of the others out";
        return Err(CommandError::Input(format!("the files have objects of several namespaces ({names}): {advice}")));
    }
    Ok(setup)
}

/// The calls, of a file or generated.
fn trace(arguments: &SimulateArguments, setup: &Setup) -> Result<Trace, CommandError> {
    if let Some(path) = &arguments.trace {
        let text = output::read(path)?;
        return Trace::read(&text).map_err(|error| {
            let columns = "time,pool,route,promptTokens,outputTokens";
            let advice = match error {
                TraceError::Empty => format!("; write a header such as {columns}, and a line for each call"),
                _ => String::new(),
            };
            CommandError::Input(format!("failed to understand {}: {error}{advice}", path.display()))
        });
    }
    let spec = Generated {
        calls: arguments.calls.unwrap_or(1),
        seed: arguments.seed,
        start: arguments.start.unwrap_or_else(|| start(&setup.budgets)),
        days: arguments.days,
        time_zone: setup.budgets.first().map_or(TimeZone::UTC, zone),
    };
    generated::generate(&spec, &setup.pools, &setup.routes)
        .map_err(|error| CommandError::Input(format!("failed to generate calls: {error}")))
}

/// When the first budget with a start does.
fn start(budgets: &[TokenBudget]) -> Timestamp {
    let of_budget = |budget: &TokenBudget| {
        let local: DateTime = budget.spec.period.start.as_ref()?.parse().ok()?;
        zone(budget).to_timestamp(local).ok()
    };
    budgets.iter().find_map(of_budget).or_else(|| START.parse().ok()).unwrap_or_default()
}

/// The time zone of a budget; UTC where it is none, which is told by the simulation.
fn zone(budget: &TokenBudget) -> TimeZone {
    budget.spec.period.time_zone.as_deref().map_or(TimeZone::UTC, zone_of)
}

/// The time zone of that name, or UTC.
fn zone_of(name: &str) -> TimeZone {
    TimeZoneDatabase::bundled().get(name).unwrap_or(TimeZone::UTC)
}

fn wrong(arguments: &SimulateArguments, error: &SetupError) -> CommandError {
    match (error, &arguments.trace) {
        (SetupError::Call { line, problem }, Some(path)) => {
            CommandError::Input(format!("failed to understand {}: line {line}: {problem}", path.display()))
        }
        _ => CommandError::Input(format!("failed to simulate: {error}")),
    }
}

/// Says on standard error how far it is, if it takes long.
fn progress() -> impl FnMut(&Progress) {
    let mut said = Instant::now();
    move |progress: &Progress| {
        if said.elapsed() < PROGRESS {
            return;
        }
        said = Instant::now();
        let Progress { time, percent, calls } = progress;
        let mut out = std::io::stderr();
        let end = if out.is_terminal() { "\r" } else { "\n" };
        // Nobody is left to be told that standard error cannot be written.
        let _ = write!(out, "{percent:>3} %: {} UTC, {calls} calls{end}", time.strftime("%Y-%m-%d %H:%M"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(period: serde_json::Value) -> TokenBudget {
        let spec = serde_json::json!({ "tokens": 1, "period": period, "appliesTo": {} });
        TokenBudget::new("budget", serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn what_is_generated_begins_when_a_budget_does_by_its_own_clocks() {
        let monthly = budget(serde_json::json!({ "type": "Monthly" }));
        let sprint =
            serde_json::json!({ "type": "Sprint", "start": "2026-11-16T09:00", "lengthDays": 14, "timeZone": "Europe/Madrid" });
        assert_eq!(start(&[monthly.clone(), budget(sprint)]).to_string(), "2026-11-16T08:00:00Z");
        assert_eq!(start(&[monthly]).to_string(), START);
        assert_eq!(start(&[]).to_string(), START);
    }
}
