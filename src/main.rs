//! The binary: parse the command line, set up logs, run.

fn main() {}
