//! The errors of this crate.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// What can go wrong while a control plane is started, used or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither `XDG_CACHE_HOME` nor `HOME` says where the cache is.
    #[error("failed to find the cache directory: neither XDG_CACHE_HOME nor HOME is set")]
    FindCache,
    /// A file or directory could not be used.
    #[error("failed to {action} {}", path.display())]
    UseFile {
        /// What was being done, such as `read`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A binary has not been built.
    #[error("failed to find {name}: {} does not exist; run dev/bootstrap.sh go {requirement}", path.display())]
    FindBinary {
        /// Name of the binary.
        name: String,
        /// Where it was expected.
        path: PathBuf,
        /// What dev/bootstrap.sh is asked for.
        requirement: &'static str,
    },
    /// Every slot is in use by another run, kept, or has a port that something else listens on.
    #[error("failed to claim a slot: all {slots} are in use, kept, or have a port that is taken; see 'cluster list'")]
    ClaimSlot {
        /// How many slots there are.
        slots: u8,
    },
    /// A program could not be started.
    #[error("failed to start {program}")]
    StartProgram {
        /// The program.
        program: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program ended with a failure.
    #[error("failed to run {program}: {status}\n{output}")]
    RunProgram {
        /// The program and what it was asked to do.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// A process of the control plane ended although it should run.
    #[error("failed to keep {component} running; the end of its log:\n{log}")]
    RunComponent {
        /// Name of the component, such as `kwok-controller`.
        component: String,
        /// The last lines of its log.
        log: String,
    },
    /// Something did not become true in time.
    #[error("failed to wait for {what} within {seconds} s: {last}")]
    Wait {
        /// What was waited for.
        what: String,
        /// How long, in seconds.
        seconds: u64,
        /// What was seen last.
        last: String,
    },
    /// Processes did not end although they were killed.
    #[error("failed to end the processes {pids:?} of {}", directory.display())]
    EndProcesses {
        /// Their process ids.
        pids: Vec<i32>,
        /// The directory of the slot that they belong to.
        directory: PathBuf,
    },
    /// A kubeconfig could not be read or used.
    #[error("failed to use the kubeconfig {}", path.display())]
    UseKubeconfig {
        /// The kubeconfig.
        path: PathBuf,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The API server refused or failed a request.
    #[error("failed to {action}")]
    CallApi {
        /// What was asked of it.
        action: String,
        /// Its answer.
        source: Box<kube::Error>,
    },
    /// The answer to a TokenRequest holds no token.
    #[error("failed to read the token of the ServiceAccount {account}: the answer holds none")]
    ReadToken {
        /// Namespace and name of the account.
        account: String,
    },
    /// A file that the user named could not be read.
    #[error("failed to read {}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file could not be rendered.
    #[error("failed to render {what}")]
    Render {
        /// Which file.
        what: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The environment does not tell of a control plane.
    #[error("failed to find a control plane: {variable} is not set; run this under 'quartermaster-dev with-cluster'")]
    FindControlPlane {
        /// The variable that is missing or has no usable value.
        variable: &'static str,
    },
    /// A map of images holds something else.
    #[error("failed to read the image map {}", path.display())]
    ReadImages {
        /// The map.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another local node of the same control plane runs.
    #[error("failed to start the local node: another one of this control plane holds {}", path.display())]
    ClaimNode {
        /// The file that it has locked.
        path: PathBuf,
    },
    /// A port of an address of the local node is taken.
    #[error("failed to listen on {address}")]
    ListenOn {
        /// Address and port.
        address: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("failed to make a certificate for {server}")]
    MakeCertificate {
        /// Whose it should be.
        server: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The sample agent lost its queue.
    #[error("failed to {action}")]
    UseQueue {
        /// What was being done.
        action: String,
        /// What the server, or the way to it, says.
        source: redis::RedisError,
    },
    /// The environment holds settings of a model server that cannot be read.
    #[error("failed to read {variable}")]
    ReadSettings {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The proxy found no port to listen on.
    #[error("failed to listen on a free port of loopback")]
    ListenForRequests {
        /// Why it failed.
        source: io::Error,
    },
    /// A signal handler could not be installed.
    #[error("failed to listen for signals")]
    ListenForSignals {
        /// Why it failed.
        source: io::Error,
    },
}

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a file operation, for `map_err`.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::UseFile { action, path, source }
    }

    /// An error of an API call, for `map_err`.
    pub(crate) fn api(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::CallApi { action, source: Box::new(source) }
    }

    /// This error and all its sources, on one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}
