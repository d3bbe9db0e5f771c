//! HTTP over a connection of its own, for tests that are about addresses.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a test waits for a connection, and then for each part of the answer.
const WITHIN: Duration = Duration::from_secs(5);

/// Asks over plain HTTP; `url` is a path, or a whole URL where `address` is a proxy. Status and body.
pub fn ask(address: &str, method: &str, url: &str) -> Option<(u16, String)> {
    let address: SocketAddr = address.parse().ok()?;
    let mut stream = TcpStream::connect_timeout(&address, WITHIN).ok()?;
    stream.set_read_timeout(Some(WITHIN)).ok()?;
    write!(stream, "{method} {url} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
