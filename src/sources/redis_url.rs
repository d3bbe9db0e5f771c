//! Where a Redis is: `redis://host:port/database`, or `rediss://` with TLS. What would have the client connect somewhere else than
//! to this host (Sentinel, Cluster, sockets) is refused: the client's own ways to connect do not know our rules for destinations.

use std::fmt;

use url::{Host, Url};

const DEFAULT_PORT: u16 = 6379;

/// Where a Redis is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RedisUrl {
    /// The host, read by the rules for hosts of HTTP URLs.
    pub host: Host<String>,
    /// The port.
    pub port: u16,
    /// Index of the database.
    pub database: u32,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// A URL that is none of a Redis that can be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refuse the URL: {reason}")]
pub struct ParseRedisUrlError {
    /// What is wrong with it, and what to write instead.
    pub reason: &'static str,
}

impl RedisUrl {
    /// Reads a URL.
    pub fn parse(text: &str) -> Result<Self, ParseRedisUrlError> {
        let refuse = |reason| Err(ParseRedisUrlError { reason });
        let Ok(url) = text.parse::<Url>() else { return refuse("it is no URL: write redis://host:6379/0") };
        let tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            scheme if scheme.contains("sentinel") => {
                return refuse("Sentinels are not asked: name the server itself, or a Service that follows its master");
            }
            scheme if scheme.contains("cluster") => {
                return refuse(
                    "the nodes of a Redis Cluster are not found out: name the node that has the key, as redis://host:6379",
                );
            }
            "unix" | "redis+unix" => return refuse("sockets of this machine are not connected to: write redis://host:6379/0"),
            _ => return refuse("it is neither redis nor rediss"),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("it carries credentials: put them into a Secret");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return refuse("it has options after ? or #, which are not read");
        }
        // Hosts of other than HTTP URLs are not looked at by the parser: there, 2130706433 and 127.1 would be names.
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else { return refuse("it has no host") };
        let Ok(host) = Host::parse(host) else { return refuse("its host is no host's name") };
        let database = match url.path().trim_matches('/') {
            "" => 0,
            path => match path.parse() {
                Ok(database) if path.bytes().all(|byte| byte.is_ascii_digit()) => database,
                Ok(_) | Err(_) => return refuse("its path is no number of a database, as in redis://host:6379/0"),
            },
        };
        Ok(Self { host, port: url.port().unwrap_or(DEFAULT_PORT), database, tls })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        write!(formatter, "{scheme}://{}:{}/{}", self.host, self.port, self.database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_port_database_and_tls() {
        for (text, shown) in [
            ("redis://redis", "redis://redis:6379/0"),
            ("redis://redis:6400/", "redis://redis:6400/0"),
            ("rediss://Cache.Example.com/3", "rediss://cache.example.com:6379/3"),
            ("redis://[fd00::1]:7000/15", "redis://[fd00::1]:7000/15"),
        ] {
            assert_eq!(RedisUrl::parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn an_address_is_recognised_in_every_spelling() {
        for text in ["redis://127.0.0.1", "redis://2130706433", "redis://0x7f.1", "redis://127.1:6379", "redis://0177.0.0.1/1"] {
            let host = RedisUrl::parse(text).unwrap().host;
            assert_eq!(host, Host::<String>::Ipv4("127.0.0.1".parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_a_reason_and_without_its_credentials() {
        for (text, reason) in [
            ("redis", "it is no URL"),
            ("http://redis", "neither redis nor rediss"),
            ("redis-sentinel://a:1,b:2/mymaster", "it is no URL"),
            ("redis-sentinel://a,b/mymaster", "Sentinels are not asked"),
            ("redis+sentinel://a:26379/mymaster", "Sentinels are not asked"),
            ("redis-cluster://a", "Redis Cluster"),
            ("redis+unix:///run/redis.sock", "sockets"),
            ("unix:///run/redis.sock", "sockets"),
            ("redis://:hunter2@redis", "put them into a Secret"),
            ("redis://user:hunter2@redis", "put them into a Secret"),
            ("redis:///0", "it has no host"),
            ("redis://redis/zero", "no number of a database"),
            ("redis://redis/+1", "no number of a database"),
            ("redis://redis/0/1", "no number of a database"),
            ("redis://redis?protocol=3", "options"),
            ("redis://redis#insecure", "options"),
        ] {
            let error = RedisUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
