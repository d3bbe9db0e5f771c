//! The resources of Quartermaster and everything that decides.
//!
//! * [`api`]: what users write and read, one file a kind, and how the CustomResourceDefinitions are made of it.
//! * [`decide`]: pure functions from what was observed to what should exist. Nothing here awaits, reads a clock, an
//!   environment variable or a socket, or logs: time and chance are arguments.

pub mod api;
pub mod decide;
