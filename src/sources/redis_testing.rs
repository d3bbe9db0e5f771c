//! A real Redis on loopback, which ends with the test.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use rcgen::{CertifiedIssuer, KeyPair};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value};

use super::connect::Connector;
use super::queue::{Credential, Endpoint, Queue};
use super::redis::Question;
use super::testing::{loopback, within};
use super::tls::TlsSettings;

/// A Redis server, and how this crate reaches it.
pub struct RedisServer(quartermaster_dev::RedisServer);

impl Deref for RedisServer {
    type Target = quartermaster_dev::RedisServer;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for RedisServer {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl RedisServer {
    /// Starts one with these lines of configuration.
    pub async fn start(configuration: &[&str]) -> Self {
        Self(quartermaster_dev::RedisServer::start(configuration).await.unwrap())
    }

    /// Starts one that also speaks TLS, with a certificate for 127.0.0.1 of this authority.
    pub async fn start_with_tls(issuer: &CertifiedIssuer<'static, KeyPair>) -> Self {
        Self(quartermaster_dev::RedisServer::start_with_tls(&[], issuer).await.unwrap())
    }

    /// How it is reached without TLS by the default user.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { namespace: "team".to_owned(), url: self.url(), credential: Credential::default(), tls: TlsSettings::default() }
    }

    /// How it is reached by a user.
    pub fn endpoint_as(&self, username: Option<&str>, password: Option<&str>) -> Endpoint {
        let credential = Credential { username: username.map(Into::into), password: password.map(Into::into) };
        Endpoint { credential, ..self.endpoint() }
    }

    /// A connection of the administrator.
    pub async fn admin(&self) -> Admin {
        let client = Client::open(self.url()).unwrap();
        let patient = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        Admin { connection: within(client.get_multiplexed_async_connection_with_config(&patient)).await.unwrap() }
    }
}

/// Whoever fills the queues and looks at the server.
pub struct Admin {
    connection: MultiplexedConnection,
}

impl Admin {
    /// Runs a command whose words are separated by spaces.
    pub async fn run(&mut self, command: &str) -> Value {
        let mut words = command.split_whitespace();
        let mut asked = redis::cmd(words.next().unwrap());
        asked.arg(words.collect::<Vec<_>>());
        let answer = within(asked.query_async(&mut self.connection)).await;
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Runs several.
    pub async fn run_all(&mut self, commands: &[&str]) {
        for command in commands {
            self.run(command).await;
        }
    }

    /// The text that a command answers.
    pub async fn text(&mut self, command: &str) -> String {
        redis::from_redis_value(self.run(command).await).unwrap()
    }

    /// How often a command was called, by `INFO commandstats`.
    pub async fn calls(&mut self, command: &str) -> u64 {
        let stats = self.text("INFO commandstats").await;
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")).map(str::to_owned));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    /// How often the server has read from connections besides this one, and including this question. A round trip is one.
    pub async fn reads(&mut self) -> u64 {
        let stats = self.text("INFO stats").await;
        stats.lines().find_map(|line| line.strip_prefix("total_reads_processed:")).unwrap().trim().parse().unwrap()
    }

    /// Names of the users of the connections, besides this one, each with its last command.
    pub async fn connections(&mut self) -> usize {
        let list = self.text("CLIENT LIST").await;
        list.lines().count() - 1
    }
}

/// Whoever connects to loopback.
pub fn connector() -> Arc<Connector> {
    Arc::new(Connector::new(loopback(), None))
}

/// A group `g` of a stream.
pub fn stream(key: &str) -> Queue {
    Queue::RedisStream { stream: key.to_owned(), group: "g".to_owned() }
}

/// A question about a group `g` of a stream.
pub fn ask_stream(key: &str) -> Question {
    Question { queue: stream(key), cap: 101 }
}

/// Lists without processing keys.
pub fn list(keys: &[&str]) -> Queue {
    Queue::RedisList { keys: keys.iter().map(|key| (*key).to_owned()).collect(), processing: None }
}
