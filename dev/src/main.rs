//! `quartermaster-dev`: the development control plane on the command line.

mod command;
mod interrupt;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use quartermaster_dev::agent::{self, Agent};
use quartermaster_dev::local_node::start::LocalNode;
use quartermaster_dev::local_node::{self, logs, sandbox};
use quartermaster_dev::model_server::command as model_server;
use quartermaster_dev::slot::{self, State};
use quartermaster_dev::{Connection, ControlPlane, Error, Options, Result, account, nodes, sample_server};

use crate::interrupt::Interrupts;

/// Real Kubernetes control planes for tests and demonstrations, with fake GPU nodes.
///
/// Each is a real etcd, kube-apiserver, kube-controller-manager and kube-scheduler, with kwok in place of kubelets:
/// RBAC, admission, garbage collection and scheduling are real, pods only seem to run, save for those on the local
/// node. dev/bootstrap.sh builds the binaries once. A control plane starts in about 4 s and takes about 560 MB.
///
/// Several can run at once: each claims a slot, which fixes its ports and address ranges. When the command that
/// started one ends or is interrupted, the control plane ends with it. What a killed run has left is cleaned by the
/// next start. Everything is in ~/.cache/quartermaster (or $XDG_CACHE_HOME/quartermaster).
#[derive(Debug, Parser)]
#[command(name = "quartermaster-dev", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start, stop and list control planes.
    #[command(subcommand)]
    Cluster(ClusterAction),
    /// Make a ServiceAccount of the control plane that KUBECONFIG's surroundings name, and print a kubeconfig that acts as it.
    ///
    /// For use under 'with-cluster': a program is shown with its own rights, never as administrator.
    Account {
        /// Namespace of the account; it is made too.
        namespace: String,
        /// Name of the account.
        name: String,
        /// A file with the roles and bindings that it gets.
        #[arg(long, value_name = "FILE")]
        rules: PathBuf,
    },
    /// Run the node named 'local', on which pods are processes of this machine, until interrupted.
    ///
    /// For use under 'with-cluster', or with the KUBECONFIG of 'cluster up'; both start it themselves with --local-node.
    /// It offers 64 GPUs of the product NVIDIA-Local, and has the taint dev.quartermaster.dev/local-node. Pods have
    /// addresses in 127.(64+2k).0.0/16, their containers reach Services as http://NAME.NAMESPACE.svc through a proxy in
    /// HTTP_PROXY, and 'kubectl logs' works. What it does not imitate: limits, users, networks, exec, port-forward.
    #[command(args_conflicts_with_subcommands = true)]
    LocalNode {
        #[command(flatten)]
        options: LocalNodeOptions,
        #[command(subcommand)]
        action: Option<LocalNodeAction>,
    },
    /// Take tasks from a Redis stream or list until SIGTERM: the sample agent.
    ///
    /// On SIGTERM it finishes the task that it has and takes no other. dev/src/agent/ is short and meant to be read.
    Agent(Agent),
    /// Stand for a model server, with one of four faces, until SIGTERM.
    ///
    /// Without a model behind it: it makes tokens as one says, fails as one says at /control/faults, and tells at
    /// /control/calls and /control/totals what it really did. dev/src/model_server/mod.rs has the tables.
    ///
    /// MODEL_SERVER_SETTINGS holds settings as /control/settings takes them, for example
    /// {"loadMilliseconds": 3000, "tokenMilliseconds": 10}.
    #[command(subcommand)]
    ModelServer(model_server::Arguments),
    /// Answer HTTP requests with a name and the path; after a POST to /fail with 503. For tests of the local node.
    #[command(hide = true)]
    SampleServer {
        #[arg(long)]
        host: IpAddr,
        #[arg(long, default_value_t = 8000)]
        port: u16,
        #[arg(long, env = "POD_NAME", default_value = "sample")]
        name: String,
    },
    /// Start a control plane, run a command against it, stop everything, and exit with the command's code.
    ///
    /// The command's environment has:
    ///
    ///   KUBECONFIG, QUARTERMASTER_KUBECONFIG  the administrator's kubeconfig
    ///   QUARTERMASTER_AUDIT_LOG               every request of every ServiceAccount outside kube-system, a line each
    ///   QUARTERMASTER_KUBECTL                 a kubectl of the same version
    ///   QUARTERMASTER_SLOT                    the number k of the slot; local pods have 127.(64+2k).0.0/16
    ///   QUARTERMASTER_DIRECTORY               a directory that goes with the control plane
    ///
    /// SIGINT, SIGTERM and SIGHUP are forwarded to the command, which has 30 s to end; the exit code is then 128 plus
    /// the signal's number. A second signal does not wait. Processes that the command leaves behind are ended.
    #[command(verbatim_doc_comment)]
    WithCluster {
        #[command(flatten)]
        start: Start,
        /// The command and its arguments.
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum ClusterAction {
    /// Start a control plane and print how to use it with kubectl.
    ///
    /// Without --keep it runs until this command is interrupted.
    Up {
        #[command(flatten)]
        start: Start,
        /// Return at once and let it run until 'cluster down'.
        #[arg(long)]
        keep: bool,
    },
    /// Stop kept control planes and clean what killed runs have left.
    ///
    /// Control planes that another run uses right now are left alone.
    Down {
        /// Stop the kept control planes in these slots.
        #[arg(value_name = "SLOT", required_unless_present = "all")]
        slots: Vec<u8>,
        /// Stop all kept ones.
        #[arg(long, conflicts_with = "slots")]
        all: bool,
    },
    /// List the control planes on this machine.
    List,
}

#[derive(Debug, Subcommand)]
enum LocalNodeAction {
    /// Print where the logs of a pod's containers are, a file a start, also of a pod that is gone.
    Logs {
        /// Namespace and name.
        #[arg(value_name = "NAMESPACE/POD")]
        pod: String,
    },
    /// Run a container. For the local node itself.
    #[command(hide = true)]
    Sandbox {
        #[arg(long)]
        inner: bool,
        file: PathBuf,
    },
}

#[derive(Debug, Clone, Args)]
struct LocalNodeOptions {
    /// A YAML file that says which command stands for which image, beside dev/images.yaml.
    #[arg(long, value_name = "FILE")]
    images: Option<PathBuf>,
    /// Milliseconds that a container waits which has crashed for the second time; doubled with each crash.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 10_000)]
    back_off: u64,
}

#[derive(Debug, Clone, Args)]
struct Start {
    /// Create the fleet of fake nodes: H100, L4, A100 in MIG, a time-sliced T4, and one without GPU.
    #[arg(long)]
    nodes: bool,
    /// Start the local node too, on which pods really run; see 'local-node'.
    #[arg(long)]
    local_node: bool,
    #[command(flatten)]
    local_node_options: LocalNodeOptions,
    /// Seconds within which the control plane must work.
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    ready_within: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Before there is a runtime: namespaces can be left only by a process with a single thread.
    if let Action::LocalNode { action: Some(LocalNodeAction::Sandbox { inner, file }), .. } = &arguments.action {
        return sandbox::run(file, *inner);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            report(&format!("error: failed to start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments.action)) {
        Ok(code) => code,
        Err(error) => {
            report(&format!("error: {}", error.chain()));
            ExitCode::FAILURE
        }
    }
}

async fn run(action: Action) -> Result<ExitCode> {
    match action {
        Action::Cluster(ClusterAction::Up { start: options, keep }) => up(options, keep).await,
        Action::Cluster(ClusterAction::Down { slots, all }) => down(&slots, all),
        Action::Cluster(ClusterAction::List) => list(),
        Action::Account { namespace, name, rules } => {
            let manifests = fs::read_to_string(&rules).map_err(|source| Error::ReadFile { path: rules, source })?;
            let connection = Connection::from_surroundings()?;
            let kubeconfig = account::kubeconfig_of_service_account(&connection, &namespace, &name, &manifests).await?;
            println!("{}", kubeconfig.display());
            Ok(ExitCode::SUCCESS)
        }
        Action::LocalNode { options, action: None } => run_local_node(options).await,
        Action::LocalNode { action: Some(LocalNodeAction::Logs { pod }), .. } => print_logs(&pod),
        // It never comes here: see main.
        Action::LocalNode { action: Some(LocalNodeAction::Sandbox { inner, file }), .. } => Ok(sandbox::run(&file, inner)),
        Action::Agent(agent) => {
            let mut interrupts = Interrupts::listen()?;
            let end = async move {
                interrupts.next().await;
            };
            agent::run(&agent, end).await?;
            Ok(ExitCode::SUCCESS)
        }
        Action::ModelServer(arguments) => {
            let mut interrupts = Interrupts::listen()?;
            let end = async move {
                interrupts.next().await;
            };
            model_server::run(arguments, report, end).await
        }
        Action::SampleServer { host, port, name } => {
            let mut interrupts = Interrupts::listen()?;
            match interrupts.or(sample_server::run(SocketAddr::new(host, port), name)).await {
                Ok(ended) => ended.map(|()| ExitCode::SUCCESS),
                Err(_) => Ok(ExitCode::SUCCESS),
            }
        }
        Action::WithCluster { start: options, command } => {
            let mut interrupts = Interrupts::listen()?;
            command::adopt_orphans();
            let (control_plane, local_node) = match interrupts.or(start(options)).await {
                Ok(started) => started?,
                Err(signal) => return Ok(signal.exit_code()),
            };
            let code = command::run(&command, control_plane.connection(), &mut interrupts).await;
            // First, so that what its containers leave is not taken for something that the command left.
            if let Some(node) = local_node {
                node.stop().await;
            }
            command::end_what_is_left(control_plane.connection());
            control_plane.stop()?;
            // A command may have started control planes of its own, and may have been killed.
            slot::clean_leftovers(report)?;
            code
        }
    }
}

async fn start(options: Start) -> Result<(ControlPlane, Option<LocalNode>)> {
    let ready_within = Duration::from_secs(options.ready_within);
    let control_plane = ControlPlane::start(Options { ready_within, report, ..Options::default() }).await?;
    if options.nodes {
        let fleet = nodes::fleet();
        report(&format!("creating {} fake nodes", fleet.len()));
        nodes::create(control_plane.connection(), &fleet).await?;
    }
    if !options.local_node {
        return Ok((control_plane, None));
    }
    let program = std::env::current_exe()
        .map_err(|source| Error::StartProgram { program: "quartermaster-dev local-node".to_owned(), source })?;
    report("starting the local node");
    let node = LocalNode::start(control_plane.connection(), &program, &options.local_node_options.words()?).await?;
    Ok((control_plane, Some(node)))
}

impl LocalNodeOptions {
    /// These options on a command line.
    fn words(&self) -> Result<Vec<String>> {
        let mut words = vec!["--back-off".to_owned(), self.back_off.to_string()];
        if let Some(images) = &self.images {
            let path = fs::canonicalize(images).map_err(|source| Error::ReadFile { path: images.clone(), source })?;
            words.extend(["--images".to_owned(), path.display().to_string()]);
        }
        Ok(words)
    }
}

async fn run_local_node(options: LocalNodeOptions) -> Result<ExitCode> {
    let mut interrupts = Interrupts::listen()?;
    let connection = Connection::from_surroundings()?;
    // The directory of the command may go away while the node runs.
    let images =
        options.images.map(|path| fs::canonicalize(&path).map_err(|source| Error::ReadFile { path, source })).transpose()?;
    let options = local_node::Options { images, back_off: Duration::from_millis(options.back_off), report };
    let mut code = ExitCode::SUCCESS;
    let end = async {
        code = interrupts.next().await.exit_code();
    };
    local_node::run(&connection, options, end).await?;
    Ok(code)
}

fn print_logs(pod: &str) -> Result<ExitCode> {
    let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
    for log in logs::of_pod(&Connection::from_surroundings()?, namespace, name)? {
        println!("{}", log.display());
    }
    Ok(ExitCode::SUCCESS)
}

async fn up(options: Start, keep: bool) -> Result<ExitCode> {
    let mut interrupts = Interrupts::listen()?;
    let (control_plane, local_node) = match interrupts.or(start(options)).await {
        Ok(started) => started?,
        Err(signal) => return Ok(signal.exit_code()),
    };
    if keep {
        if let Some(node) = local_node {
            node.keep();
        }
        let connection = control_plane.keep()?;
        print_use(&connection);
        report(&format!("slot {} is kept; 'make down' or 'cluster down {0}' stops it", connection.slot()));
        return Ok(ExitCode::SUCCESS);
    }
    print_use(control_plane.connection());
    report("running until interrupted");
    let signal = interrupts.next().await;
    if let Some(node) = local_node {
        node.stop().await;
    }
    control_plane.stop()?;
    Ok(signal.exit_code())
}

fn down(slots: &[u8], all: bool) -> Result<ExitCode> {
    let cleaned = slot::clean_where(report, |number, state| all || *state == State::Leftover || slots.contains(&number))?;
    let mut code = ExitCode::SUCCESS;
    for (number, state) in slot::list()? {
        if let State::InUse(owner) = state
            && (all || slots.contains(&number))
        {
            report(&format!("left slot {number} alone: {} uses it", process(owner)));
        }
    }
    for number in slots.iter().filter(|number| !cleaned.contains(number)) {
        report(&format!("error: nothing was stopped in slot {number}"));
        code = ExitCode::FAILURE;
    }
    if all && cleaned.is_empty() {
        report("nothing to stop");
    }
    Ok(code)
}

fn list() -> Result<ExitCode> {
    println!("{:<6}STATE", "SLOT");
    for (number, state) in slot::list()? {
        let state = match state {
            State::InUse(owner) => format!("in use by {}", process(owner)),
            State::Kept => "kept".to_owned(),
            State::Leftover => "leftover of a killed run".to_owned(),
        };
        println!("{number:<6}{state}");
    }
    Ok(ExitCode::SUCCESS)
}

fn process(pid: Option<i32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// The two lines that make kubectl use this control plane.
fn print_use(connection: &Connection) {
    println!("export KUBECONFIG={}", quoted(connection.kubeconfig()));
    println!("alias kubectl={}", quoted(connection.kubectl()));
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// One line of progress, on standard error, so that standard output holds results alone.
fn report(line: &str) {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(io::stderr(), "quartermaster-dev: {line}");
}
