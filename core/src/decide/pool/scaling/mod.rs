//! From the tasks in the queues to a number of replicas.
//!
//! [`settings`] reads the spec, [`demand`] asks each queue, [`share`] divides a queue among its pools, [`rules`] and [`history`]
//! are the HorizontalPodAutoscaler's behavior, [`replicas`] puts them in order, [`victims`] chooses who ends, and
//! [`explanation`] tells it.

pub mod demand;
pub mod explanation;
pub mod history;
pub mod replicas;
pub mod rules;
pub mod settings;
pub mod share;
pub mod victims;
