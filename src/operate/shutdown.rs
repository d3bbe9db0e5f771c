//! The orderly end: the first SIGTERM or SIGINT asks for it, the second one does not wait for it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The numbers of POSIX, which the exit code of a process ended by a signal adds to 128.
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// Listens for SIGTERM and SIGINT from now on. The token is cancelled by the first signal; a second one ends the process
/// at once, with exit code 128 plus the signal's number. Needs a Tokio runtime.
///
/// # Errors
///
/// When the handlers cannot be installed.
pub fn listen() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        let first = next(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name(first), "stopping; a second signal ends the process at once");
        stop.cancel();
        let second = next(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = name(second), "ending at once");
        std::process::exit(128 + second);
    });
    Ok(token)
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> i32 {
    // A stream of signals has no end while the process lives.
    tokio::select! {
        _ = terminate.recv() => SIGTERM,
        _ = interrupt.recv() => SIGINT,
    }
}

fn name(signal: i32) -> &'static str {
    if signal == SIGTERM { "SIGTERM" } else { "SIGINT" }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Child, Command, Stdio};

    /// The process that is told to stop: this test's own binary, running the ignored test below.
    fn child() -> (Child, impl FnMut(&str)) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "operate::shutdown::tests::process_that_hangs_in_its_orderly_end", "--ignored", "--nocapture"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let until =
            move |wanted: &str| assert!(lines.any(|line| line.unwrap().ends_with(wanted)), "the child never said `{wanted}`");
        (child, until)
    }

    fn send(signal: &str, child: &Child) {
        let status = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    #[tokio::test]
    #[ignore = "runs in a process of its own, started by the other tests"]
    async fn process_that_hangs_in_its_orderly_end() {
        let token = super::listen().unwrap();
        writeln!(std::io::stdout(), "\nlistening").unwrap();
        token.cancelled().await;
        writeln!(std::io::stdout(), "\nstopping").unwrap();
        std::future::pending::<()>().await;
    }

    #[test]
    fn the_first_signal_cancels_and_the_second_ends_the_process_at_once() {
        for (first, second, code) in [("TERM", "TERM", 143), ("INT", "TERM", 143), ("TERM", "INT", 130)] {
            let (mut child, mut until) = child();
            until("listening");
            send(first, &child);
            until("stopping");
            assert_eq!(child.try_wait().unwrap(), None, "one signal alone must not end the process");
            send(second, &child);
            assert_eq!(child.wait().unwrap().code(), Some(code), "{first} {second}");
        }
    }
}
