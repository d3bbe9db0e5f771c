//! The process of one container: started, signalled, waited for, and joined by others.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Signal, geteuid};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::sandbox::Sandbox;
use crate::{account, processes};

/// How much of the output of a command in a container a message shows.
const OUTPUT_BYTES: usize = 1024;
/// What a message from a log shows at most, as the kubelet has it.
const MESSAGE_LINES: usize = 80;
const MESSAGE_BYTES: usize = 2048;
/// How long a process may take from its start until it handles signals.
const LISTENS_WITHIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// A container that runs.
pub(super) struct Process {
    /// The first process of the sandbox, which tells how it ended.
    outer: Child,
    /// Process 1 of the container, by its id on this machine. None if it was never started.
    pid: Option<i32>,
    environment: BTreeMap<String, String>,
}

impl Process {
    /// Starts a container. `program` is this program; `directory` holds what describes it.
    ///
    /// # Errors
    ///
    /// When the description cannot be written, or no process can be started.
    pub async fn start(program: &Path, directory: &Path, sandbox: &Sandbox) -> io::Result<Self> {
        fs::create_dir_all(&sandbox.root)?;
        if let Some(logs) = sandbox.log.parent() {
            fs::create_dir_all(logs)?;
        }
        let file = directory.join("sandbox.json");
        let text = serde_json::to_string(sandbox).map_err(io::Error::other)?;
        // It holds the values of Secrets.
        account::write_private(&file, &text).map_err(|error| io::Error::other(error.chain()))?;
        let log = OpenOptions::new().create(true).append(true).open(&sandbox.log)?;
        let mut outer = Command::new(program)
            .args(["local-node", "sandbox"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // A Ctrl-C of the terminal is for the node, which ends its containers itself.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = outer.stdout.take() {
            BufReader::new(output).read_line(&mut line).await?;
        }
        Ok(Self { outer, pid: line.trim().parse().ok(), environment: sandbox.environment.clone() })
    }

    /// Waits until process 1 handles SIGTERM, or for a while: one that has only begun would never get it. Who never handles it does
    /// not get it later either.
    pub async fn listens(&self) {
        let Some(pid) = self.pid else { return };
        let until = Instant::now() + LISTENS_WITHIN;
        while Instant::now() < until && !handles_term(pid) {
            sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// Sends a signal to process 1, which gets it only if it handles it, save for SIGKILL.
    pub fn signal(&mut self, signal: Signal) {
        match self.pid {
            Some(pid) => processes::signal(pid, signal),
            None => {
                let _ = self.outer.start_kill();
            }
        }
    }

    /// Waits until it has ended: the exit code, or 128 plus the number of the signal. Can be called again.
    pub async fn ended(&mut self) -> i32 {
        let status = self.outer.wait().await;
        // It has ended, and with it process 1: its id may soon be another's.
        self.pid = None;
        status.ok().and_then(|status| status.code()).unwrap_or(137)
    }

    /// How commands get into the container, for probes and hooks.
    pub fn door(&self) -> Option<Door> {
        self.pid.map(|pid| Door { pid, environment: self.environment.clone() })
    }
}

/// The way into a running container.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pid: i32,
    environment: BTreeMap<String, String>,
}

impl Door {
    /// Runs a command in the container.
    ///
    /// # Errors
    ///
    /// When it cannot be started, ends with a failure, or does not end in time; the message holds what it said.
    pub async fn run(&self, command: &[String], within: Duration) -> Result<(), String> {
        let mut line = Command::new("nsenter");
        line.args(["--target", &self.pid.to_string(), "--mount", "--pid", "--uts", "--root", "--wd"]);
        if !geteuid().is_root() {
            line.args(["--user", "--preserve-credentials"]);
        }
        line.arg("--").args(command).env_clear().envs(&self.environment).stdin(Stdio::null()).kill_on_drop(true);
        let output = match timeout(within, line.output()).await {
            Ok(done) => done.map_err(|error| format!("failed to run {command:?}: {error}"))?,
            Err(_) => return Err(format!("command {command:?} timed out after {} s", within.as_secs_f64())),
        };
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(said.get(..OUTPUT_BYTES.min(said.len())).unwrap_or_default()).trim().to_owned();
        Err(format!("command {command:?} {}: {said}", described(output.status)))
    }
}

/// Whether a process handles SIGTERM, or has ended. The mask has a bit for each signal, from 1 on.
fn handles_term(pid: i32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask & (1 << (Signal::TERM.as_raw() - 1)) != 0)
}

fn described(status: ExitStatus) -> String {
    status.code().map_or_else(|| "was ended by a signal".to_owned(), |code| format!("exited with {code}"))
}

/// The end of a log, as far as a message may show it.
pub(super) fn end_of(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(u64::try_from(MESSAGE_BYTES).unwrap_or(0))))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        Ok(String::from_utf8_lossy(&end).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(MESSAGE_LINES)..).unwrap_or_default().join("\n")
}
