//! A real Redis on loopback that keeps what it is told, and who fills its queues and looks at them.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use quartermaster_dev::{RedisServer, redis_server};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue};
use serde_json::{Value, json};

use crate::harness::DEADLINE;

/// The key of the tasks in these tests.
pub const TASKS: &str = "tasks";
/// The consumer group.
pub const GROUP: &str = "agents";

/// It writes down each command before it answers, so that nothing is lost when it is killed.
const DURABLE: [&str; 2] = ["appendonly yes", "appendfsync always"];

/// A Redis server that loses nothing, and who fills its queues.
pub struct Redis {
    server: RedisServer,
    /// What it takes to be let in; the default user's.
    password: Option<String>,
}

impl Deref for Redis {
    type Target = RedisServer;

    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

impl DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.server
    }
}

impl Redis {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with these further lines of configuration.
    pub async fn start_with(configuration: &[&str]) -> Self {
        let password = configuration.iter().find_map(|line| line.strip_prefix("requirepass ")).map(str::to_owned);
        Self { server: RedisServer::start(&[DURABLE.as_slice(), configuration].concat()).await.unwrap(), password }
    }

    /// Starts one that also speaks TLS, with a certificate for 127.0.0.1 of this authority.
    pub async fn start_with_tls(issuer: &CertifiedIssuer<'static, KeyPair>) -> Self {
        Self { server: RedisServer::start_with_tls(&DURABLE, issuer).await.unwrap(), password: None }
    }

    /// The URL where it speaks TLS.
    pub fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.tls_port())
    }

    /// A connection of the administrator. Waits until the server has read what it had written down.
    pub async fn connect(&self) -> Connection {
        let user = self.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{user}127.0.0.1:{}", self.port())).unwrap();
        let patient = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let started = Instant::now();
        loop {
            if let Ok(mut inner) = client.get_multiplexed_async_connection_with_config(&patient).await
                && redis::cmd("PING").query_async::<String>(&mut inner).await.is_ok()
            {
                return Connection { inner };
            }
            assert!(started.elapsed() < DEADLINE, "the administrator is not let in");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `spec.queues` with the group of a stream.
    pub fn stream(&self, key: &str) -> Value {
        json!([{ "name": "tasks", "redisStream": { "url": self.url(), "stream": key, "group": GROUP } }])
    }

    /// `spec.queues` with a list.
    pub fn list(&self, key: &str) -> Value {
        json!([{ "name": "tasks", "redisList": { "url": self.url(), "keys": [key] } }])
    }
}

/// A port where nobody listens.
pub fn free_port() -> u16 {
    redis_server::free_port().unwrap()
}

/// A private authority.
pub fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

/// A connection of the administrator.
#[derive(Clone)]
pub struct Connection {
    inner: MultiplexedConnection,
}

impl Connection {
    /// Runs a command whose words are separated by spaces.
    pub async fn ask<T: FromRedisValue>(&mut self, command: &str) -> T {
        self.try_ask(command).await.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// The same, with the server's refusal.
    pub async fn try_ask<T: FromRedisValue>(&mut self, command: &str) -> redis::RedisResult<T> {
        let mut words = command.split_whitespace();
        let mut asked = redis::cmd(words.next().unwrap());
        asked.arg(words.collect::<Vec<_>>());
        asked.query_async(&mut self.inner).await
    }

    /// Runs a command whose answer says nothing.
    pub async fn run(&mut self, command: &str) {
        let _: redis::Value = self.ask(command).await;
    }

    /// Runs commands of which all or none are seen by others.
    pub async fn atomic(&mut self, commands: &[&str]) {
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        for command in commands {
            let mut words = command.split_whitespace();
            pipeline.cmd(words.next().unwrap()).arg(words.collect::<Vec<_>>());
        }
        let _: redis::Value = pipeline.query_async(&mut self.inner).await.unwrap();
    }

    /// Adds tasks to a list, all at once.
    pub async fn push(&mut self, key: &str, number: usize) {
        let tasks: Vec<String> = (0..number).map(|_| format!("task-{:x}", fastrand::u64(..))).collect();
        self.run(&format!("LPUSH {key} {}", tasks.join(" "))).await;
    }

    /// Gives a task of the stream to a consumer; returns its id.
    pub async fn take(&mut self, consumer: &str) -> String {
        type Entries = Vec<(String, Vec<(String, HashMap<String, String>)>)>;
        let read: Entries = self.ask(&format!("XREADGROUP GROUP {GROUP} {consumer} COUNT 1 STREAMS {TASKS} >")).await;
        read[0].1[0].0.clone()
    }

    /// How often a command was called, by `INFO commandstats`.
    pub async fn calls(&mut self, command: &str) -> u64 {
        let stats: String = self.ask("INFO commandstats").await;
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")).map(str::to_owned));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    /// The connections besides this one.
    pub async fn others(&mut self) -> Vec<String> {
        let own: u64 = self.ask("CLIENT ID").await;
        let list: String = self.ask("CLIENT LIST").await;
        list.lines().filter(|line| !line.starts_with(&format!("id={own} "))).map(str::to_owned).collect()
    }
}
