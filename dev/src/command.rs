//! Running a command against a control plane, with nothing left behind.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use quartermaster_dev::processes::{self, Process};
use quartermaster_dev::{Connection, Error, Result};
use rustix::process::{Signal, getpid, set_child_subreaper};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::interrupt::{Interrupt, Interrupts};
use crate::report;

/// How long a command may take to end after the first signal.
const END_WITHIN: Duration = Duration::from_secs(30);
/// How long what a command left behind may take to end when asked, before it is killed.
const LEFT_END_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Makes this process the parent of every process that its descendants orphan, so that none can escape.
pub fn adopt_orphans() {
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        report(&format!("orphans of the command may be left running: {error}"));
    }
}

/// Runs the command to its end, forwarding signals; the exit code is the command's, or tells of the signal.
pub async fn run(command: &[OsString], connection: &Connection, interrupts: &mut Interrupts) -> Result<ExitCode> {
    let Some((program, arguments)) = command.split_first() else { return Ok(ExitCode::SUCCESS) };
    let failed = |source| Error::StartProgram { program: program.to_string_lossy().into_owned(), source };
    let mut child =
        Command::new(program).args(arguments).envs(connection.environment()).kill_on_drop(true).spawn().map_err(failed)?;

    let first = tokio::select! {
        status = child.wait() => return status.map(exit_code).map_err(failed),
        signal = interrupts.next() => signal,
    };
    forward(first, &child);
    tokio::select! {
        _ = child.wait() => {}
        () = sleep(END_WITHIN) => report("the command did not end; killing it"),
        _ = interrupts.next() => report("a second signal; killing the command"),
    }
    // Has no effect on a command that has ended.
    let _ = child.kill().await;
    Ok(first.exit_code())
}

/// Ends what the command left running: asked first, killed later. The control plane's own processes stay, so that an
/// operator among them can still give up its Lease.
pub fn end_what_is_left(connection: &Connection) {
    let left = || -> Vec<Process> {
        let own = getpid().as_raw_nonzero().get();
        let family = processes::descendants(own);
        family.into_iter().filter(|process| !process.program.starts_with(connection.directory())).collect()
    };
    let all = left();
    if all.is_empty() {
        return;
    }
    let names: Vec<String> = all.iter().map(|process| format!("{} ({})", process.program.display(), process.pid)).collect();
    report(&format!("ending what the command left running: {}", names.join(", ")));
    for process in &all {
        processes::signal(process.pid, Signal::TERM);
    }
    let deadline = Instant::now() + LEFT_END_WITHIN;
    while !left().is_empty() && Instant::now() < deadline {
        thread::sleep(LOOK_AGAIN_AFTER);
    }
    for process in left() {
        processes::signal(process.pid, Signal::KILL);
    }
}

fn forward(signal: Interrupt, child: &Child) {
    // A terminal has sent its Ctrl-C to the command already.
    if signal == Interrupt::ControlC && std::io::stdin().is_terminal() {
        return;
    }
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        processes::signal(pid, signal.signal());
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
