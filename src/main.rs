//! The binary: parse the command line and run it.

use std::process::ExitCode;

use clap::Parser as _;
use quartermaster::cli;

fn main() -> ExitCode {
    cli::main(cli::Arguments::parse())
}
