//! Decisions: from what was observed and the time to what should exist, what the status says, which events to tell and
//! when to look again.

pub mod account;
pub mod back_off;
pub mod backend;
pub mod budget;
pub mod conditions;
pub mod configuration;
pub mod creation_rules;
pub mod decision;
pub mod gateway;
pub mod ingress;
pub mod lease;
pub mod merge_patch;
pub mod overdue;
pub mod owned;
pub mod pool;
pub mod readiness;
pub mod refused;
pub mod request;
pub mod route;
pub mod served_schema;
pub mod service;
pub mod short_hash;
pub mod simulation;
pub mod stalled;
pub mod structural_schema;
