//! The local node as a process of its own, which ends with its control plane at the latest.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::process::end_of;
use crate::control_plane::Connection;
use crate::error::{Error, Result};
use crate::processes;

const READY_WITHIN: Duration = Duration::from_secs(30);
/// More than the node gives its containers.
const END_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A local node that this process has started. Dropping it ends it, and all its containers, at once.
#[derive(Debug)]
pub struct LocalNode {
    /// None once it was left running.
    child: Option<Child>,
    log: PathBuf,
}

impl LocalNode {
    /// Starts the node of a control plane and waits until it is registered. `program` is `quartermaster-dev`; `options` go
    /// to its command `local-node`.
    ///
    /// # Errors
    ///
    /// When it does not start; the error holds the end of what it said.
    pub async fn start(connection: &Connection, program: &Path, options: &[String]) -> Result<Self> {
        let directory = super::directory(connection);
        fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
        let mark = mark(&directory);
        let _ = fs::remove_file(&mark);
        let log = directory.join("node.log");
        let output = OpenOptions::new().create(true).append(true).open(&log).map_err(Error::file("open", &log))?;
        let errors = output.try_clone().map_err(Error::file("open", &log))?;
        let child = Command::new(link(&directory, program)?)
            .arg("local-node")
            .args(options)
            .envs(connection.environment())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // A Ctrl-C of the terminal is for the command that the node is for.
            .process_group(0)
            .spawn()
            .map_err(|source| Error::StartProgram { program: "quartermaster-dev local-node".to_owned(), source })?;
        let mut node = Self { child: Some(child), log };
        node.wait_until_registered(&mark).await?;
        Ok(node)
    }

    async fn wait_until_registered(&mut self, mark: &Path) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while !mark.exists() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok()).flatten();
            if let Some(status) = ended {
                let program = "quartermaster-dev local-node".to_owned();
                return Err(Error::RunProgram { program, status, output: end_of(&self.log) });
            }
            if Instant::now() > deadline {
                let (what, seconds) = ("the local node".to_owned(), READY_WITHIN.as_secs());
                return Err(Error::Wait { what, seconds, last: end_of(&self.log) });
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// Lets its containers end as they like for a moment, and ends it.
    pub async fn stop(mut self) {
        let Some(pid) = self.pid() else { return };
        processes::signal(pid, Signal::TERM);
        let deadline = Instant::now() + END_WITHIN;
        while Instant::now() < deadline {
            if self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None))) {
                return;
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// Lets it run on when this process ends, as long as the control plane.
    pub fn keep(mut self) {
        self.child = None;
    }
}

impl Drop for LocalNode {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The file that a node writes when it is registered.
pub(super) fn mark(directory: &Path) -> PathBuf {
    directory.join("registered")
}

/// A link to the program within the node's directory.
pub(super) fn link(directory: &Path, program: &Path) -> Result<PathBuf> {
    let program = fs::canonicalize(program).map_err(Error::file("find", program))?;
    let programs = directory.join("bin");
    let link = programs.join("quartermaster-dev");
    fs::create_dir_all(&programs).and_then(|()| super::replace_link(&program, &link)).map_err(Error::file("write", &link))?;
    Ok(link)
}
