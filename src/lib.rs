//! The package `quartermaster`: one program, in the role of the operator or of the gateway, and a binary of the gateway alone.
//!
//! * [`cli`]: the command line.
//! * [`configuration`]: the configuration file, read once at start.
//! * [`controllers`]: one file a kind: which facts are observed.
//! * [`exchange`]: between the operator's leader and the gateways' replicas: certificates, and both ends of the connection.
//! * [`gateway`]: the data plane: one file a step of a call.
//! * [`operate`]: the driver: watches, queue, reconcile, apply, status, leadership, admin server, metrics, logs.
//! * [`run`]: makes all of it, starts it and ends it.
//! * [`sources`]: one file a system that we ask: provider health, model facts, Secrets.

pub mod cli;
pub mod configuration;
pub mod controllers;
pub mod exchange;
pub mod gateway;
pub mod operate;
pub mod run;
pub mod sources;
