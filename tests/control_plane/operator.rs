//! A running operator, as a test sees it: its process, its admin server, its log.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::DEADLINE;

/// Lines of its log that are shown where a test fails.
const LINES_OF_A_FAILURE: usize = 60;

/// A running operator. It ends with its owner.
pub struct Operator {
    pub child: Child,
    pub port: u16,
    pub log: PathBuf,
}

impl Operator {
    /// Starts an operator under the account of a kubeconfig, and does not wait. The configuration (YAML) is all but that of the
    /// admin server. RUST_LOG in the environment chooses another filter of the log.
    pub fn start(kubeconfig: &Path, arguments: &[&str], configuration: &str, environment: &[(&str, &str)]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let beside = |extension: &str| kubeconfig.with_extension(format!("operator-{port}.{extension}"));
        let (file, log) = (beside("yaml"), beside("log"));
        let text = format!("admin: {{listen: \"127.0.0.1:{port}\", observations: true}}\n{configuration}\n");
        std::fs::write(&file, text).unwrap();
        let output = File::create(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_quartermaster"))
            .args(["run", "--log-format=text", "--configuration"])
            .arg(&file)
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .env("RUST_LOG", "info,quartermaster=debug")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { child, port, log }
    }

    /// What `/readyz` says: whether it is ready, and what it waits for.
    pub async fn readiness(&self) -> Option<Value> {
        self.get("readyz").await.and_then(|text| serde_json::from_str(&text).ok())
    }

    /// Waits until what `/readyz` says holds.
    pub async fn until_readiness(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let readiness = self.readiness().await.unwrap_or_default();
            if holds(&readiness) {
                return readiness;
            }
            assert!(started.elapsed() < DEADLINE, "it never came to: {what}\n{readiness}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A page of the admin server.
    pub async fn get(&self, path: &str) -> Option<String> {
        quartermaster::sources::connect::install_cryptography();
        let answer = reqwest::get(format!("http://127.0.0.1:{}/{path}", self.port)).await.ok()?;
        answer.text().await.ok()
    }

    /// Waits until it is ready and leads.
    pub async fn ready(&self) {
        self.synced().await;
        let started = Instant::now();
        while !self.leads().await {
            assert!(started.elapsed() < DEADLINE, "the operator never leads:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until its watches are complete, whether it leads or not.
    pub async fn synced(&self) {
        self.until_readiness("ready", |readiness| readiness["ready"] == true).await;
    }

    /// Whether it leads.
    pub async fn leads(&self) -> bool {
        self.get("metrics").await.is_some_and(|metrics| metrics.lines().any(|line| line == "quartermaster_leader 1"))
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a signal, by the name that `kill` knows.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < DEADLINE, "it lives on:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().unwrap()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let last: Vec<&str> = log.lines().rev().take(LINES_OF_A_FAILURE).collect();
            println!("the end of the operator's log:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Runs another command of the binary with this input, and returns what it prints. Fails where the command does.
pub fn quartermaster(arguments: &[&str], input: &str, kubeconfig: Option<&Path>) -> String {
    let output = run(arguments, input, kubeconfig);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs another command of the binary with this input, whatever comes of it.
pub fn run(arguments: &[&str], input: &str, kubeconfig: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quartermaster"));
    if let Some(kubeconfig) = kubeconfig {
        command.env("KUBECONFIG", kubeconfig);
    }
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}
