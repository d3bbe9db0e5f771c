//! A gateway that reaches nobody, for tests.

use std::io;
use std::sync::Arc;

use quartermaster_core::decide::backend::destination::Rules;

use super::metrics::Metrics;
use super::request_body::Room;
use super::routing_log::RoutingLog;
use super::state::Gateway;
use crate::sources::connect::Connector;

/// A gateway without a plan, whose routing log is thrown away.
pub fn gateway() -> Arc<Gateway> {
    let room = Room::new(1 << 20);
    let metrics = Metrics::new("test", room.clone()).unwrap();
    let (log, _writing) = RoutingLog::new(io::sink());
    Arc::new(Gateway::new(Arc::new(Connector::new(Rules::default(), None)), metrics, room, log))
}
