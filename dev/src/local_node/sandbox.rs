//! What stands for a container: a process with mounts, process ids and a host name of its own.
//!
//! Three processes, one in the other. The node starts the first, which makes the namespaces and starts the second. That is
//! process 1 of its process ids; it mounts what the container sees and then *becomes* the container's command. As in a real
//! container, process 1 gets no signal that it does not handle, and everything that it has started ends with it: the kernel
//! sees to that. The first ends when the node ends, however that ends, and the second when the first does, so nothing is
//! ever left running.
//!
//! Where the node is not root, a user namespace in which it is gives it the right to all of this.
//!
//! A user that a manifest asks for, its capabilities and a read-only root are not imitated.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{Signal, chroot, getegid, geteuid, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use super::mounts::{self, Mount};

/// What the kubelet says of a container whose command could not be started.
pub(super) const NOT_STARTED: u8 = 128;

/// All that the process of a container is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sandbox {
    /// Its host name: that of the pod.
    pub hostname: String,
    /// An empty directory, where its file system is built.
    pub root: PathBuf,
    /// Gets what it prints.
    pub log: PathBuf,
    /// Volumes and other files at paths of their own.
    pub mounts: Vec<Mount>,
    /// Where it starts; created if it does not exist.
    pub working_directory: PathBuf,
    /// Its command line.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
}

/// What the second process is told to be the second.
pub const INNER: &str = "--inner";

/// Runs the sandbox that a file describes, as the first process or, with `inner`, as the second, which does not return.
/// The first prints the process id of the second, waits for it, and ends with its code, or 128 plus the number of the signal
/// that ended it.
///
/// Must be called while the process has a single thread: namespaces are those of a thread.
pub fn run(file: &Path, inner: bool) -> ExitCode {
    let done = if inner { become_container(file) } else { contain(file) };
    match done {
        Ok(code) => code,
        Err(error) => {
            // This is the log of the container.
            let _ = writeln!(io::stderr(), "failed to start the container: {error}");
            ExitCode::from(NOT_STARTED)
        }
    }
}

fn contain(file: &Path) -> io::Result<ExitCode> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let sandbox = Sandbox::read(file)?;
    new_namespaces()?;
    let log = OpenOptions::new().create(true).append(true).open(&sandbox.log)?;
    let program = std::env::args_os().next().unwrap_or_else(|| "quartermaster-dev".into());
    let mut second = Command::new("/proc/self/exe")
        .arg0(program)
        .args(["local-node", "sandbox", INNER])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    // It is read by the node, which may have ended; then this process is about to end too.
    let _ = writeln!(io::stdout(), "{}", second.id());
    let _ = io::stdout().flush();
    let status = second.wait()?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn become_container(file: &Path) -> io::Result<ExitCode> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let sandbox = Sandbox::read(file)?;
    rustix::system::sethostname(sandbox.hostname.as_bytes())?;
    mounts::build(&sandbox.root, &sandbox.mounts, &sandbox.working_directory)?;
    std::env::set_current_dir(&sandbox.root)?;
    chroot(".")?;
    std::env::set_current_dir(&sandbox.working_directory)?;
    let Some((program, arguments)) = sandbox.arguments.split_first() else {
        return Err(io::Error::other("there is no command: neither the image map nor the manifest has one"));
    };
    let error = Command::new(program).args(arguments).env_clear().envs(&sandbox.environment).exec();
    Err(io::Error::new(error.kind(), format!("{program}: {error}")))
}

/// Mounts, process ids and host name of its own; and users, where this is not root.
fn new_namespaces() -> io::Result<()> {
    let own = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWUTS;
    let (user, group) = (geteuid(), getegid());
    if user.is_root() {
        return unshare(own);
    }
    unshare(own | UnshareFlags::NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {} 1", user.as_raw()))?;
    fs::write("/proc/self/gid_map", format!("0 {} 1", group.as_raw()))
}

/// The function was renamed because it is unsafe when it separates file descriptors, which these flags do not.
#[expect(deprecated, reason = "its successor is unsafe, which this crate forbids")]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    rustix::thread::unshare(flags).map_err(|error| {
        io::Error::new(error.kind(), format!("failed to make namespaces; are user namespaces forbidden here? {error}"))
    })
}

impl Sandbox {
    fn read(file: &Path) -> io::Result<Self> {
        let text = fs::read(file)?;
        serde_json::from_slice(&text).map_err(io::Error::other)
    }
}
