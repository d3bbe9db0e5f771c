//! `quartermaster gateway`.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{CommandError, LogArguments, block_on};
use crate::configuration;
use crate::gateway::mounted::Mounted;
use crate::gateway::run::{self, Exchange, Leaving};
use crate::sources::connect::install_cryptography;

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

pub fn answer(arguments: GatewayArguments) -> Result<(), CommandError> {
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
