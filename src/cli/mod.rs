//! The command line.

mod budget;
mod cluster;
mod crds;
mod gateway;
mod manifests;
mod output;
mod plan;
mod pool;
mod replay;
mod route;
mod rules;
mod simulate;
mod size;
mod svg;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::operate::telemetry::{self, LogFormat};
use crate::run::{self, Start};
use crate::{configuration, sources};
use output::Format;

/// Runs LLM inference on Kubernetes: sizes models for the accelerators that there are, serves them with vLLM, and watches
/// hosted providers.
///
/// Exit codes: 0 done; 1 failed; 2 the command line or an input is wrong; 3 the answer is no: a model does not fit, or an
/// object is refused.
#[derive(Debug, Parser)]
#[command(name = "quartermaster", version, propagate_version = true, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator.
    Run(RunArguments),
    /// Run the gateway of a namespace: it answers model calls by a plan.
    ///
    /// The routing log, one JSON line a call, goes to standard output; everything else to standard error.
    Gateway(gateway::GatewayArguments),
    /// Print the CustomResourceDefinitions of this version.
    Crds(crds::CrdsArguments),
    /// Print the role that the operator needs.
    Rules,
    /// Print what the operator would apply, without touching anything.
    ///
    /// Reads InferenceBackends from files, and nodes from --nodes, or from the cluster of a kubeconfig with --context or
    /// --current-context; of that cluster nothing else is read. So this is what would be made for a new backend: of one
    /// that exists, a choice in force may stay. Secrets that a spec refers to are taken to exist, and the hub is not asked.
    Plan(plan::PlanArguments),
    /// Explain the size of a model: candidates, why each was refused, the arithmetic of the chosen one, and the nearest fixes.
    ///
    /// Reads the same as plan. The hub is not asked: a model that the built-in catalogue lacks needs spec.vllm.architecture.
    Size(size::SizeArguments),
    /// Explain which backend a model call goes to, and why: labels, rules, each candidate, the order, the fallback.
    ///
    /// Reads ModelRoutes, InferenceBackends and AgentPools of one namespace from files, and asks nobody: every backend is taken
    /// to be ready, every Secret to exist, and nothing to have failed so far. The gateway decides by the same code.
    Route(route::RouteArguments),
    /// Print the decision for a recorded observation, as /debug/observations shows it.
    Replay(replay::ReplayArguments),
    /// Ask about pools of agents.
    #[command(subcommand)]
    Pool(pool::PoolCommand),
    /// Ask about token budgets: how far they are used, what others would have done, who used what.
    #[command(subcommand)]
    Budget(budget::BudgetCommand),
    /// Simulate a namespace in virtual time: what its budgets, routes, pools and backends would have made of a trace of model
    /// calls.
    ///
    /// All of it is decided by the code of the operator and the gateway. What is assumed is that nothing fails, how long calls
    /// take where the trace does not say, and agents that take the tasks of their pool one after the other. Without nodes no
    /// model is sized, and each backend is taken to be ready.
    Simulate(simulate::SimulateArguments),
    /// Print a script that completes this command in a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The command line of the gateway's own binary: what `quartermaster gateway` was called with, as it was.
#[derive(Debug, Parser)]
#[command(name = "quartermaster", version, propagate_version = true, max_term_width = 100)]
pub struct GatewayAlone {
    #[command(subcommand)]
    command: GatewayCommand,
}

#[derive(Debug, Subcommand)]
enum GatewayCommand {
    /// Run the gateway of a namespace: it answers model calls by a plan.
    Gateway(gateway::GatewayArguments),
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// The configuration file. Without one, every setting has its default.
    #[arg(long, env = "QUARTERMASTER_CONFIGURATION", value_name = "FILE")]
    configuration: Option<PathBuf>,
    /// IP address and port of the admin server, in place of admin.listen of the configuration file.
    #[arg(long, env = "QUARTERMASTER_ADMIN_LISTEN", value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
    /// The context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Namespace of the lease. Default: the operator's own.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    log: LogArguments,
}

/// What is logged, and how.
#[derive(Debug, clap::Args)]
struct LogArguments {
    /// How a line of the log is written. Default: text on a terminal, json elsewhere.
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    /// Which lines are written, for example info or quartermaster=debug.
    #[arg(long, env = "RUST_LOG", default_value = telemetry::DEFAULT_FILTER, value_name = "FILTER")]
    log_filter: String,
}

impl LogArguments {
    fn initialize(&self) -> Result<(), CommandError> {
        let format = self.log_format.unwrap_or_else(LogFormat::for_stderr);
        telemetry::initialize(format, &self.log_filter).map_err(|error| CommandError::Input(error.to_string()))
    }
}

/// How an answer is printed.
#[derive(Debug, clap::Args)]
struct OutputArguments {
    /// How the answer is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

/// Why a command ended without an answer.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// An input is wrong: exit code 2.
    #[error("{0}")]
    Input(String),
    /// Something failed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The answer is no, and was printed: exit code 3.
    #[error("{0}")]
    Refused(String),
}

impl CommandError {
    fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Input(_) => 2,
            Self::Refused(_) => 3,
        })
    }
}

/// Runs a command line. Answers go to standard output, everything else to standard error.
pub fn main(arguments: Arguments) -> ExitCode {
    exit_code(dispatch(arguments.command))
}

/// Runs a gateway. Nothing of the operator may be reached from here: all of it would be linked.
pub fn gateway_alone(arguments: GatewayAlone) -> ExitCode {
    let GatewayCommand::Gateway(arguments) = arguments.command;
    exit_code(gateway::serve(arguments))
}

/// The exit code of a command that has ended. What went wrong is told on standard error.
fn exit_code(ended: Result<(), CommandError>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = error.to_string();
            if !text.is_empty() {
                output::complain(&text);
            }
            error.code()
        }
    }
}

fn dispatch(command: Command) -> Result<(), CommandError> {
    match command {
        Command::Run(arguments) => operate(arguments),
        Command::Gateway(arguments) => gateway::answer(arguments),
        Command::Crds(arguments) => crds::print(arguments),
        Command::Rules => rules::print(),
        Command::Plan(arguments) => plan::print(arguments),
        Command::Size(arguments) => size::print(arguments),
        Command::Route(arguments) => route::print(arguments),
        Command::Replay(arguments) => replay::print(arguments),
        Command::Pool(command) => pool::dispatch(command),
        Command::Budget(command) => budget::dispatch(command),
        Command::Simulate(arguments) => simulate::print(arguments),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "quartermaster", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn operate(arguments: RunArguments) -> Result<(), CommandError> {
    let failed = |error: &dyn std::fmt::Display| CommandError::Failed(error.to_string());
    let mut configuration =
        configuration::load(arguments.configuration.as_deref()).map_err(|error| CommandError::Input(error.to_string()))?;
    if let Some(address) = arguments.admin_listen {
        configuration.admin.listen = address.to_string();
    }
    arguments.log.initialize()?;
    sources::connect::install_cryptography();
    let start = Start { context: arguments.context, namespace: arguments.namespace };
    block_on(run::run(configuration, start))?.map_err(|error| failed(&error))
}

/// Runs a future to its end, and waits for nothing else: a name that is being looked up, which can take a resolver half a minute,
/// must not hold up a process that has to end at once.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T, CommandError> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = built.map_err(|error| CommandError::Failed(format!("failed to start the runtime: {error}")))?;
    let answer = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    #[test]
    fn the_end_of_a_command_waits_for_no_name_that_is_being_looked_up() {
        let (begin, begun) = tokio::sync::oneshot::channel();
        let started = Instant::now();
        let answer = super::block_on(async {
            // getaddrinfo is such a task, and nothing can end it.
            tokio::task::spawn_blocking(move || {
                let _ = begin.send(());
                std::thread::sleep(Duration::from_secs(60));
            });
            begun.await
        });
        assert_eq!(answer.unwrap(), Ok(()));
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
