//! The exchange between the operator's leader and the gateways' replicas over real sockets: WebSockets over mutual TLS. What is
//! said and when is decided in [`quartermaster_core::decide::gateway::exchange`].
//!
//! * [`accounts`]: the leader's accounts: what may be spent, and what was used.
//! * [`certificates`]: the authority in the operator's Secret, and the certificates that it signs.
//! * [`client`]: the operator's end: one connection to each pod of a gateway.
//! * [`replicas`]: what all replicas last said.
//! * [`server`]: the gateway's end.
//! * [`tls`]: who is let in at either end.

use std::time::Duration;

pub mod accounts;
pub mod certificates;
pub mod client;
pub mod replicas;
pub mod server;
pub mod tls;

/// The port of a gateway pod on which its exchange listens.
pub const PORT: u16 = 4001;

/// The path of the WebSocket.
const PATH: &str = "/exchange";

/// The buffers of a connection, in bytes, in each direction: the 128 KiB of the library would be half of an operator's memory where
/// there are hundreds of gateways.
const BUFFER: usize = 4096;

/// The largest message that is taken, in bytes: a plan has at most 1 MiB, a report of 48 hours of a thousand callers about 20.
const MESSAGE_LIMIT: usize = 64 << 20;

/// Time for the handshake of TLS, at either end.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The code of a close frame with which a gateway sends an operator away that leads no more, or has another connection. 4000 to 4999
/// are for applications.
const CLOSE_REFUSED: u16 = 4000;
/// A message could not be read: `1007` of RFC 6455.
const CLOSE_UNREADABLE: u16 = 1007;
/// This end leaves: `1001` of RFC 6455.
const CLOSE_LEAVING: u16 = 1001;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
