//! `quartermaster gateway`.
//!
//! Memory holds a program in pages, and what stands beside a function that runs comes along. Most of this program is the
//! operator, and what a gateway runs is strewn over all of it: 16 MiB of code would be held, where all that a gateway can run is 7.
//! So that is linked once more by itself, and `quartermaster gateway` becomes that binary.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use super::{CommandError, LogArguments, block_on};
use crate::configuration;
use crate::gateway::mounted::Mounted;
use crate::gateway::run::{self, Exchange, Leaving};
use crate::sources::connect::install_cryptography;

/// The gateway's own binary, which stands beside this one.
const OWN_BINARY: &str = "quartermaster-gateway";
/// How glibc's allocator is told its parameters: it reads them where a process starts.
const ALLOCATOR: &str = "GLIBC_TUNABLES";
/// Without them, the room for a long prompt comes from the kernel and goes back to it with each call, page by page: an eighth of what a
/// prompt of 300 KiB costs. Up to 2 MiB of each arena are kept, of which there is one for each thread that calls run on.
const ALLOCATOR_PARAMETERS: &str = "glibc.malloc.mmap_threshold=1048576:glibc.malloc.trim_threshold=2097152";

#[derive(Debug, clap::Args)]
pub struct GatewayArguments {
    /// The plan of the namespace, as JSON. It is read again when the file changes.
    #[arg(long, env = "QUARTERMASTER_PLAN", value_name = "FILE")]
    plan: PathBuf,
    /// A directory with the secrets that the plan names, a file each: `<backend>.<key name>`. They are read again when they change.
    #[arg(long, env = "QUARTERMASTER_SECRETS", value_name = "DIRECTORY")]
    secrets: Option<PathBuf>,
    /// IP address and port on which calls are answered.
    #[arg(long, env = "QUARTERMASTER_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:4000")]
    listen: SocketAddr,
    /// A directory with tls.crt, tls.key and ca.crt: the certificate for the exchange. With it the operator is listened to, and
    /// from its first word on the mounted files are not.
    #[arg(long, env = "QUARTERMASTER_CERTIFICATE", value_name = "DIRECTORY")]
    certificate: Option<PathBuf>,
    /// IP address and port on which the operator is listened to.
    #[arg(long, env = "QUARTERMASTER_EXCHANGE_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:4001")]
    exchange_listen: SocketAddr,
    /// IP address and port of the admin server, in place of admin.listen of the configuration file.
    #[arg(long, env = "QUARTERMASTER_ADMIN_LISTEN", value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
    /// The configuration file: destinations, egressProxy and admin of the operator's. Without one, every setting has its default.
    #[arg(long, env = "QUARTERMASTER_CONFIGURATION", value_name = "FILE")]
    configuration: Option<PathBuf>,
    #[command(flatten)]
    log: LogArguments,
}

/// Runs a gateway, in its own binary where there is one.
pub fn answer(arguments: GatewayArguments) -> Result<(), CommandError> {
    // This binary may have been copied without the other one. It can do the same, with more memory.
    let Some(program) = own_binary() else { return serve(arguments) };
    let mut command = Command::new(program);
    let mut words = std::env::args_os();
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    if std::env::var_os(ALLOCATOR).is_none() {
        command.env(ALLOCATOR, ALLOCATOR_PARAMETERS);
    }
    // This process is that binary from here on, under its own command line. Where it cannot be, it must not go on either: how
    // signals are taken may have changed.
    let error = command.args(words).exec();
    Err(CommandError::Failed(format!("failed to start {OWN_BINARY}: {error}")))
}

/// Where the gateway's own binary is.
fn own_binary() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.with_file_name(OWN_BINARY);
    program.is_file().then_some(program)
}

/// Runs a gateway in this process.
pub fn serve(arguments: GatewayArguments) -> Result<(), CommandError> {
    let mut configuration =
        configuration::load(arguments.configuration.as_deref()).map_err(|error| CommandError::Input(error.to_string()))?;
    if let Some(address) = arguments.admin_listen {
        configuration.admin.listen = address.to_string();
    }
    arguments.log.initialize()?;
    install_cryptography();
    let mounted = Mounted { plan: arguments.plan, secrets: arguments.secrets };
    let exchange = arguments.certificate.map(|certificate| Exchange { listen: arguments.exchange_listen, certificate });
    block_on(run::run(configuration, arguments.listen, mounted, exchange, Leaving::default()))?
        .map_err(|error| CommandError::Failed(error.to_string()))
}
