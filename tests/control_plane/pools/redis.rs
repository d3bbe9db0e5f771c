//! A real Redis on loopback that keeps what it is told, and who fills its queues and looks at them.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue};
use serde_json::{Value, json};

use crate::harness::DEADLINE;

/// The key of the tasks in these tests.
pub const TASKS: &str = "tasks";
/// The consumer group.
pub const GROUP: &str = "agents";

/// A Redis of a test's own. It writes down each command before it answers, so that nothing is lost when it is killed.
pub struct Redis {
    child: Child,
    directory: PathBuf,
    pub port: u16,
    /// Where it speaks TLS, if it does.
    tls_port: u16,
    /// What it takes to be let in; the default user's.
    password: Option<String>,
}

impl Redis {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with these further lines of configuration.
    pub async fn start_with(configuration: &[&str]) -> Self {
        let lines = configuration.iter().map(|line| (*line).to_owned()).collect();
        Self::start_in(directory(), lines, 0).await
    }

    /// Starts one that also speaks TLS, with a certificate for 127.0.0.1 of this authority.
    pub async fn start_with_tls(issuer: &CertifiedIssuer<'static, KeyPair>) -> Self {
        let (directory, tls_port) = (directory(), free_port());
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
        let write = |name: &str, pem: String| {
            let path = directory.join(name);
            std::fs::write(&path, pem).unwrap();
            path.display().to_string()
        };
        let lines = vec![
            format!("tls-port {tls_port}"),
            format!("tls-cert-file {}", write("tls.crt", certificate.pem())),
            format!("tls-key-file {}", write("tls.key", key.serialize_pem())),
            format!("tls-ca-cert-file {}", write("ca.crt", issuer.pem())),
            "tls-auth-clients no".to_owned(),
        ];
        Self::start_in(directory, lines, tls_port).await
    }

    async fn start_in(directory: PathBuf, more: Vec<String>, tls_port: u16) -> Self {
        let port = free_port();
        let mut lines = vec![
            format!("port {port}"),
            "bind 127.0.0.1".to_owned(),
            "save \"\"".to_owned(),
            "appendonly yes".to_owned(),
            "appendfsync always".to_owned(),
            format!("dir {}", directory.display()),
        ];
        let password = more.iter().find_map(|line| line.strip_prefix("requirepass ")).map(str::to_owned);
        lines.extend(more);
        std::fs::write(directory.join("redis.conf"), lines.join("\n")).unwrap();
        let mut server = Self { child: spawn(&directory), directory, port, tls_port, password };
        server.wait().await;
        server
    }

    /// Waits until it accepts connections.
    async fn wait(&mut self) {
        let started = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "redis-server ended");
            assert!(started.elapsed() < DEADLINE, "redis-server does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The URL where it speaks TLS.
    pub fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.tls_port)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same port and with all that it had.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.directory);
        self.wait().await;
    }

    /// Sends it a signal, by the name that `kill` knows. One that is stopped still accepts connections and answers nothing.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// A connection of the administrator. Waits until the server has read what it had written down.
    pub async fn connect(&self) -> Connection {
        let user = self.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{user}127.0.0.1:{}", self.port)).unwrap();
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

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn directory() -> PathBuf {
    let directory = std::env::temp_dir().join(format!("quartermaster-pools-{}-{:x}", std::process::id(), fastrand::u64(..)));
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

fn spawn(directory: &Path) -> Child {
    let mut command = Command::new("redis-server");
    command.arg(directory.join("redis.conf")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("redis-server is not in PATH: dev/bootstrap.sh redis")
}

/// A port where nobody listens.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
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
