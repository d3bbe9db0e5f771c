//! The binary of gateways: what `quartermaster gateway` becomes.

use std::process::ExitCode;

use clap::Parser as _;
use quartermaster::cli;

fn main() -> ExitCode {
    cli::gateway_alone(cli::GatewayAlone::parse())
}
