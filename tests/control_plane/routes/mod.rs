//! Promises about ModelRoutes and the gateways that carry them out, kept against a real control plane.
//!
//! * [`harness`]: how routes are applied and waited for; what gateways run on and what they are told.
//! * [`gateway`]: the replicas that really run on the local node, and how they are called. [`load`]: steady calls, none of which fails.
//! * [`contract`]: what every version of a status keeps, in every test.
//!
//! Where no call is made, the gateway's pods are pictures: kwok plays their kubelet.

pub mod contract;
pub mod gateway;
pub mod harness;
mod load;

mod bad_input;
mod callers;
mod edits;
mod isolation;
mod large;
mod last_good_form;
mod lifecycle;
mod programmed;
mod rights;
mod rollouts;
mod settings;

pub use rights::{
    GATEWAY_IMAGE, change_leaders_rules, have_authority_made, leaders_rules, leave, make_authority_due, rules_without,
    use_every_right_on_routes,
};
