//! Finding and ending the processes of a control plane, and those that a command left behind.
//!
//! A process id alone proves nothing, since ids are used again. A process belongs to a slot only if it says so itself:
//! the components are started through links in the slot's directory and at work in it, and a command that runs against
//! the control plane has that directory in its environment.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process};

use crate::error::{Error, Result};

/// How long killed processes may take to disappear.
const DISAPPEAR_WITHIN: Duration = Duration::from_secs(20);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// The path it was started as: the first element of its command line. Empty while it has none: between two programs, and
    /// while it ends.
    pub program: PathBuf,
}

/// The variable that tells a command which control plane it runs against, by the directory of its slot.
pub const DIRECTORY_VARIABLE: &str = "QUARTERMASTER_DIRECTORY";

/// The processes of the slot with this directory, in order of id: what was started from within it, the `kwokctl` that
/// works on it, and the commands that run against it. Never this process itself.
pub fn of_directory(directory: &Path) -> Vec<Process> {
    let own = getpid().as_raw_nonzero().get();
    let is_ours = |pid: i32, arguments: &[Vec<u8>]| match arguments {
        [] => works_in(directory, pid),
        _ => belongs_to(directory, arguments) || runs_against(directory, &environment(pid)),
    };
    let others = process_ids().filter(|pid| *pid != own).map(|pid| (pid, command_line(pid)));
    others.filter(|(pid, arguments)| is_ours(*pid, arguments)).map(process).collect()
}

/// The processes that descend from process `ancestor`, in order of id. Orphans are among them only if `ancestor` is
/// their subreaper.
pub fn descendants(ancestor: i32) -> Vec<Process> {
    let parents: BTreeMap<i32, i32> = process_ids().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut family = BTreeSet::from([ancestor]);
    // A child may have a smaller id than its parent, since ids wrap around: repeat until nothing is added.
    loop {
        let before = family.len();
        family.extend(parents.iter().filter(|(_, parent)| family.contains(parent)).map(|(pid, _)| *pid).collect::<Vec<_>>());
        if family.len() == before {
            break;
        }
    }
    running().filter(|(pid, _)| *pid != ancestor && family.contains(pid)).map(process).collect()
}

/// Ends all processes of `directory`, at once and without asking them: what they would save is thrown away anyhow,
/// and a kube-apiserver that is asked waits for its watches.
///
/// # Errors
///
/// When one of them is still there after 20 s.
pub fn end_all_of(directory: &Path) -> Result<usize> {
    let deadline = Instant::now() + DISAPPEAR_WITHIN;
    let mut ended = BTreeSet::new();
    loop {
        // Looking again finds what a process that we had not yet ended has started meanwhile.
        let alive = of_directory(directory);
        if alive.is_empty() {
            return Ok(ended.len());
        }
        if Instant::now() > deadline {
            let pids = alive.iter().map(|process| process.pid).collect();
            return Err(Error::EndProcesses { pids, directory: directory.to_owned() });
        }
        for process in alive {
            signal(process.pid, Signal::KILL);
            ended.insert(process.pid);
        }
        thread::sleep(LOOK_AGAIN_AFTER);
    }
}

/// Sends a signal. A process that has ended meanwhile is no error.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // The only other failure is that the process belongs to another user, so that it was not ours.
        let _ = kill_process(pid, signal);
    }
}

fn belongs_to(directory: &Path, arguments: &[Vec<u8>]) -> bool {
    let Some(program) = arguments.first().map(|argument| Path::new(OsStr::from_bytes(argument))) else {
        return false;
    };
    if program.starts_with(directory) {
        return true;
    }
    // kwokctl itself is not started from the directory, but is told of a file in it.
    program.file_name() == Some(OsStr::new("kwokctl"))
        && arguments.iter().any(|argument| Path::new(OsStr::from_bytes(argument)).starts_with(directory))
}

/// Whether one of the process's threads is at work in the directory. A process has no command line while another program takes
/// its place, and none once it has given back its memory; until it has ended it holds its ports and files all the same.
fn works_in(directory: &Path, pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| fs::read_link(thread.path().join("cwd")).ok()).any(|path| path.starts_with(directory))
}

fn runs_against(directory: &Path, environment: &[u8]) -> bool {
    environment.split(|byte| *byte == 0).any(|variable| {
        let value = variable.strip_prefix(DIRECTORY_VARIABLE.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        value == Some(directory.as_os_str().as_bytes())
    })
}

/// The environment that a process was started with. That of another user's process cannot be read; it is not ours.
fn environment(pid: i32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()
}

fn process((pid, arguments): (i32, Vec<Vec<u8>>)) -> Process {
    let program = arguments.first().map(|program| PathBuf::from(OsStr::from_bytes(program))).unwrap_or_default();
    Process { pid, program }
}

/// Ids and command lines of all processes that have one. A process that has ended but has not been waited for (a zombie)
/// has none and is left out.
fn running() -> impl Iterator<Item = (i32, Vec<Vec<u8>>)> {
    process_ids().map(|pid| (pid, command_line(pid))).filter(|(_, arguments)| !arguments.is_empty())
}

/// The elements of a process's command line; none where it has none, or has ended.
fn command_line(pid: i32) -> Vec<Vec<u8>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if line.is_empty() {
        return Vec::new();
    }
    line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

fn process_ids() -> impl Iterator<Item = i32> {
    let mut pids: Vec<i32> =
        fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.into_iter()
}

fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (name) state parent ...", where the name may hold spaces and parentheses.
    status.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper(directory: &Path) -> Child {
        let link = directory.join("sleep");
        if !link.exists() {
            std::os::unix::fs::symlink("/bin/sleep", &link).unwrap();
        }
        Command::new(link).arg("60").spawn().unwrap()
    }

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("quartermaster-dev-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn only_processes_started_from_the_directory_are_ended() {
        let (ours, others) = (scratch("ours"), scratch("ours-too"));
        let (mut mine, mut theirs) = (sleeper(&ours), sleeper(&others));

        assert_eq!(end_all_of(&ours).unwrap(), 1);

        assert!(!mine.wait().unwrap().success());
        assert!(theirs.try_wait().unwrap().is_none(), "a process of another directory was ended");
        theirs.kill().unwrap();
        theirs.wait().unwrap();
        fs::remove_dir_all(ours).unwrap();
        fs::remove_dir_all(others).unwrap();
    }

    #[test]
    fn a_process_that_merely_mentions_the_directory_is_left_alone() {
        let arguments = |line: &[&str]| line.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
        let directory = Path::new("/cache/slots/0");
        assert!(!belongs_to(directory, &arguments(&["tail", "-f", "/cache/slots/0/kwokctl.log"])));
        assert!(!belongs_to(directory, &arguments(&["/cache/slots/01/bin/etcd"])));
        assert!(belongs_to(directory, &arguments(&["/cache/slots/0/clusters/a/bin/etcd"])));
        assert!(belongs_to(directory, &arguments(&["/cache/bin/kwokctl", "--config", "/cache/slots/0/kwokctl.yaml"])));
        assert!(runs_against(directory, b"HOME=/root\0QUARTERMASTER_DIRECTORY=/cache/slots/0\0"));
        assert!(!runs_against(directory, b"HOME=/root\0QUARTERMASTER_DIRECTORY=/cache/slots/01\0PWD=/cache/slots/0\0"));
    }

    #[test]
    fn a_process_without_a_command_line_belongs_where_it_is_at_work() {
        let [ours, others] = ["at-work", "at-work-too"].map(|name| fs::canonicalize(scratch(name)).unwrap());
        let mut sleep = Command::new("sleep").arg("60").current_dir(&ours).spawn().unwrap();
        let pid = i32::try_from(sleep.id()).unwrap();
        assert!(works_in(&ours, pid));
        assert!(!works_in(&others, pid));
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        assert!(!works_in(&ours, pid), "it has ended");
        fs::remove_dir_all(ours).unwrap();
        fs::remove_dir_all(others).unwrap();
    }

    #[test]
    fn descendants_include_grandchildren() {
        let mut shell = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let shell_pid = i32::try_from(shell.id()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let grandchild = loop {
            let of_shell = descendants(shell_pid);
            if let Some(process) = of_shell.iter().find(|process| process.program.ends_with("sleep")) {
                break process.pid;
            }
            assert!(Instant::now() < deadline, "the shell never started its child");
            thread::sleep(LOOK_AGAIN_AFTER);
        };
        assert!(descendants(own).iter().any(|process| process.pid == grandchild));
        signal(grandchild, Signal::KILL);
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
}
