//! A real Redis on loopback, which ends with the test.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value};

use super::connect::Connector;
use super::queue::{Credential, Endpoint, Queue};
use super::redis::Question;
use super::testing::{loopback, within};
use super::tls::TlsSettings;

/// A Redis of its own.
pub struct RedisServer {
    child: Child,
    directory: PathBuf,
    pub port: u16,
    /// Where it speaks TLS, if it does.
    pub tls_port: u16,
    arguments: Vec<String>,
}

impl RedisServer {
    /// Starts one with these lines of configuration.
    pub async fn start(configuration: &[&str]) -> Self {
        Self::start_with(configuration, None).await
    }

    /// Starts one that also speaks TLS, with a certificate for 127.0.0.1 of this authority.
    pub async fn start_with_tls(issuer: &CertifiedIssuer<'static, KeyPair>) -> Self {
        Self::start_with(&[], Some(issuer)).await
    }

    async fn start_with(configuration: &[&str], issuer: Option<&CertifiedIssuer<'static, KeyPair>>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("quartermaster-redis-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let port = free_port();
        let tls_port = if issuer.is_some() { free_port() } else { 0 };
        let mut lines = vec![
            format!("port {port}"),
            "bind 127.0.0.1".to_owned(),
            "save \"\"".to_owned(),
            "appendonly no".to_owned(),
            format!("dir {}", directory.display()),
        ];
        if let Some(issuer) = issuer {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
            let write = |name: &str, pem: String| {
                let path = directory.join(name);
                std::fs::write(&path, pem).unwrap();
                path.display().to_string()
            };
            lines.push(format!("tls-port {tls_port}"));
            lines.push(format!("tls-cert-file {}", write("tls.crt", certificate.pem())));
            lines.push(format!("tls-key-file {}", write("tls.key", key.serialize_pem())));
            lines.push(format!("tls-ca-cert-file {}", write("ca.crt", issuer.pem())));
            lines.push("tls-auth-clients no".to_owned());
        }
        lines.extend(configuration.iter().map(|line| (*line).to_owned()));
        let path = directory.join("redis.conf");
        std::fs::write(&path, lines.join("\n")).unwrap();
        let arguments = vec![path.display().to_string()];
        let mut server = Self { child: spawn(&arguments), directory, port, tls_port, arguments };
        server.wait().await;
        server
    }

    /// Waits until it accepts connections.
    async fn wait(&mut self) {
        within(async {
            while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                assert!(self.child.try_wait().unwrap().is_none(), "redis-server ended");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, empty.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.arguments);
        self.wait().await;
    }

    /// How it is reached without TLS by the default user.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            namespace: "team".to_owned(),
            url: format!("redis://127.0.0.1:{}", self.port),
            credential: Credential::default(),
            tls: TlsSettings::default(),
        }
    }

    /// How it is reached by a user.
    pub fn endpoint_as(&self, username: Option<&str>, password: Option<&str>) -> Endpoint {
        let credential = Credential { username: username.map(Into::into), password: password.map(Into::into) };
        Endpoint { credential, ..self.endpoint() }
    }

    /// A connection of the administrator.
    pub async fn admin(&self) -> Admin {
        let client = Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let patient = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        Admin { connection: within(client.get_multiplexed_async_connection_with_config(&patient)).await.unwrap() }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        let _removed = std::fs::remove_dir_all(&self.directory);
    }
}

fn spawn(arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("redis-server is not in PATH: dev/bootstrap.sh redis")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
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
