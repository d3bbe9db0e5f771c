//! The signals that end a run.

use std::future::Future;
use std::process::ExitCode;

use quartermaster_dev::{Error, Result};
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

/// A signal that asks this process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// SIGHUP: the terminal was closed.
    HangUp,
    /// SIGINT: Ctrl-C.
    ControlC,
    /// SIGTERM.
    Terminate,
}

impl Interrupt {
    /// The signal itself, to forward it.
    pub fn signal(self) -> Signal {
        match self {
            Self::HangUp => Signal::HUP,
            Self::ControlC => Signal::INT,
            Self::Terminate => Signal::TERM,
        }
    }

    /// 128 plus the signal's number, as shells have it.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::HangUp => 129,
            Self::ControlC => 130,
            Self::Terminate => 143,
        })
    }
}

/// Listens for these signals. Once it exists they no longer end this process by themselves.
#[derive(Debug)]
pub struct Interrupts {
    hang_up: unix::Signal,
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Interrupts {
    /// Starts to listen.
    pub fn listen() -> Result<Self> {
        let listen = |kind| unix::signal(kind).map_err(|source| Error::ListenForSignals { source });
        Ok(Self {
            hang_up: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Interrupt {
        tokio::select! {
            _ = self.hang_up.recv() => Interrupt::HangUp,
            _ = self.interrupt.recv() => Interrupt::ControlC,
            _ = self.terminate.recv() => Interrupt::Terminate,
        }
    }

    /// What `work` yields, or the signal that came first; `work` is dropped then.
    pub async fn or<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Interrupt> {
        tokio::select! {
            done = work => Ok(done),
            signal = self.next() => Err(signal),
        }
    }
}
