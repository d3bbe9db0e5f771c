//! `quartermaster pool`.

mod plot;
mod trace;

use std::path::{Path, PathBuf};

use quartermaster_core::api::AgentPool;
use quartermaster_core::api::duration::Duration;
use quartermaster_core::decide::pool::simulation::{self, Model, Moment, Outcome};

use super::CommandError;
use super::manifests;
use super::output::{self, Format};

/// What can be asked about a pool.
#[derive(Debug, clap::Subcommand)]
pub enum PoolCommand {
    /// Print how many agents there would have been over time for a trace of arrivals, by the operator's own decision.
    ///
    /// All tasks arrive in the pool's first queue. The trace is CSV with a header: `seconds` after the beginning, `tasks` that
    /// arrive then and, if it differs, `task_seconds` that each of them takes.
    Simulate(SimulateArguments),
}

/// Arguments of `quartermaster pool simulate`.
#[derive(Debug, clap::Args)]
pub struct SimulateArguments {
    /// A file with one AgentPool; - for standard input.
    file: PathBuf,
    /// The trace of arrivals; - for standard input.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// Time that a task takes where the trace does not say.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = seconds)]
    task_duration: u64,
    /// Time from when an agent is made until it takes its first task.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = seconds)]
    start_duration: u64,
    /// End after this time. Default: when the pool has come to rest, or after a week.
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    until: Option<u64>,
    /// Also draw tasks and agents over time into this SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// How the answer is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs one of the commands.
pub fn dispatch(command: PoolCommand) -> Result<(), CommandError> {
    let PoolCommand::Simulate(arguments) = command;
    let pool = pool(&arguments.file)?;
    let arrivals = trace::read(&arguments.trace)?;
    let model = Model { task_seconds: arguments.task_duration, start_seconds: arguments.start_duration, until: arguments.until };
    let outcome = simulation::simulate(&pool, &arrivals, model)
        .map_err(|error| CommandError::Input(format!("failed to simulate: {error}")))?;
    if let Some(path) = &arguments.plot {
        let drawing = plot::svg(pool.metadata.name.as_deref().unwrap_or("pool"), &outcome)?;
        output::write(path, &drawing)?;
    }
    match arguments.output {
        Format::Text => output::text(&told(&outcome)),
        format => output::value(format, &outcome),
    }
}

/// A duration as the resources write it, in whole seconds.
fn seconds(text: &str) -> Result<u64, String> {
    Duration(text.to_owned()).to_std().map(|duration| duration.as_secs()).map_err(|error| error.to_string())
}

/// The only AgentPool of a file.
fn pool(path: &Path) -> Result<AgentPool, CommandError> {
    let mut pools = manifests::objects::<AgentPool>(&[path.to_owned()])?.into_iter();
    match (pools.next(), pools.next()) {
        (Some(pool), None) => Ok(pool),
        _ => Err(CommandError::Input(format!("{} has to hold exactly one AgentPool", path.display()))),
    }
}

/// The outcome in words: each change of the replicas and of what holds them back, and what it came to.
fn told(outcome: &Outcome) -> String {
    let mut text = format!("{:>8}  {:>7}  {:>9}  {:>7}  {:>6}  WHY\n", "TIME", "WAITING", "IN FLIGHT", "DESIRED", "AGENTS");
    let mut before: Option<&Moment> = None;
    for moment in &outcome.moments {
        if before.is_none_or(|before| (before.desired, before.limited_by) != (moment.desired, moment.limited_by)) {
            text.push_str(&format!(
                "{:>8}  {:>7}  {:>9}  {:>7}  {:>6}  {}\n",
                clock(moment.second),
                moment.waiting,
                moment.in_flight,
                moment.desired,
                moment.agents,
                moment.decision,
            ));
        }
        before = Some(moment);
    }
    let waits = outcome.waits;
    text.push_str(&format!(
        "\n{} tasks done and {} left in {}; they waited {} s (median), {} s (95 %), {} s (99 %), {} s (longest)\n\
         at most {} agents, {} agent-seconds, {} % of them at work; {} changes, {} agents were ended at work\n",
        outcome.tasks_done,
        outcome.tasks_left,
        clock(outcome.seconds),
        waits.p50,
        waits.p95,
        waits.p99,
        waits.longest,
        outcome.most_agents,
        outcome.agent_seconds,
        outcome.busy_percent,
        outcome.changes,
        outcome.ended_at_work,
    ));
    text
}

/// Hours, minutes and seconds.
fn clock(seconds: u64) -> String {
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
