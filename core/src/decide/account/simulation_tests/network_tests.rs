//! The connections between leaders and gateways, and the messages on them.

use std::collections::BTreeMap;

use super::Common;
use crate::decide::gateway::exchange::message::{GatewayMessage, OperatorMessage};

#[derive(Default)]
pub(super) struct Network {
    to_gateways: Vec<Late<OperatorMessage>>,
    to_leaders: Vec<Late<GatewayMessage>>,
    /// By number of the connection, in the order in which they were made.
    open: BTreeMap<u64, Wire>,
    connections: u64,
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire {
    /// The number of the leader's process.
    pub(super) leader: u64,
    /// The place of the gateway.
    pub(super) slot: usize,
}

struct Late<Message> {
    connection: u64,
    arrives: u32,
    message: Message,
}

impl Network {
    pub(super) fn connect(&mut self, leader: u64, slot: usize) -> u64 {
        self.connections += 1;
        self.open.insert(self.connections, Wire { leader, slot });
        self.connections
    }

    pub(super) fn wire(&self, connection: u64) -> Option<Wire> {
        self.open.get(&connection).copied()
    }

    pub(super) fn is_open(&self, connection: u64) -> bool {
        self.open.contains_key(&connection)
    }

    pub(super) fn close(&mut self, connection: u64) {
        self.open.remove(&connection);
    }

    /// Breaks every connection to a gateway.
    pub(super) fn cut_gateway(&mut self, slot: usize) {
        self.open.retain(|_, wire| wire.slot != slot);
    }

    /// Breaks every connection of a leader.
    pub(super) fn cut_leader(&mut self, leader: u64) {
        self.open.retain(|_, wire| wire.leader != leader);
    }

    pub(super) fn send_to_gateway(&mut self, connection: u64, message: OperatorMessage, common: &mut Common) {
        send(&mut self.to_gateways, connection, message, common);
    }

    pub(super) fn send_to_leader(&mut self, connection: u64, message: GatewayMessage, common: &mut Common) {
        send(&mut self.to_leaders, connection, message, common);
    }

    /// What arrives at gateways now.
    pub(super) fn at_gateways(&mut self, common: &Common) -> Vec<(u64, OperatorMessage)> {
        arrived(&mut self.to_gateways, common, |_| true)
    }

    /// What arrives now at leaders, but for those that are suspended: theirs waits.
    pub(super) fn at_leaders(&mut self, common: &Common, suspended: &[u64]) -> Vec<(u64, GatewayMessage)> {
        let open = &self.open;
        arrived(&mut self.to_leaders, common, |connection| {
            open.get(&connection).is_none_or(|wire| !suspended.contains(&wire.leader))
        })
    }
}

/// Sends it once, twice or not at all.
fn send<Message: Clone>(under_way: &mut Vec<Late<Message>>, connection: u64, message: Message, common: &mut Common) {
    let delays = if common.is_stormy && common.faults.network {
        match common.random.below(20) {
            0..=3 => [None, None],
            4..=7 => [Some(common.random.steps(1, 12)), None],
            8..=9 => [Some(common.random.steps(1, 3)), Some(common.random.steps(1, 15))],
            _ => [Some(1), None],
        }
    } else {
        [Some(1), None]
    };
    let mut late = |delay: u32, message| under_way.push(Late { connection, arrives: common.step + delay, message });
    match delays {
        [Some(first), Some(second)] => {
            late(first, message.clone());
            late(second, message);
        }
        [Some(delay), None] | [None, Some(delay)] => late(delay, message),
        [None, None] => {}
    }
}

/// What arrives now, the last sent first, so that equal delays reorder as well.
fn arrived<Message>(under_way: &mut Vec<Late<Message>>, common: &Common, is_taken: impl Fn(u64) -> bool) -> Vec<(u64, Message)> {
    let (arrived, waiting): (Vec<_>, Vec<_>) =
        std::mem::take(under_way).into_iter().partition(|late| late.arrives <= common.step && is_taken(late.connection));
    *under_way = waiting;
    arrived.into_iter().rev().map(|late| (late.connection, late.message)).collect()
}
