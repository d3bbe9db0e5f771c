//! Starting, reaching and stopping a control plane.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::binaries::Binaries;
use crate::configuration;
use crate::error::{Error, Result};
use crate::processes::{self, Process};
use crate::slot::{Slot, Turn};

/// The processes of a control plane, by the name of their pid and log files.
const COMPONENTS: [&str; 5] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok-controller"];

const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How often the components are looked at while they start. A look reads of every process of the machine.
const LOOK_AT_COMPONENTS_AFTER: Duration = Duration::from_millis(500);
/// How much of a log an error shows.
const LOG_LINES: usize = 20;

/// How to start a control plane.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long it may take until it answers, from its turn on: those of one machine start one after another. It takes about
    /// 4 s on 2 idle cores.
    pub ready_within: Duration,
    /// How often it is started, where a component ends on its way: some give up when a loaded machine keeps them waiting for
    /// another. At least 1.
    pub attempts: u32,
    /// Is told, in a line, of each step that takes time.
    pub report: fn(&str),
}

impl Default for Options {
    fn default() -> Self {
        Self { ready_within: crate::PATIENCE, attempts: 3, report: |_| {} }
    }
}

/// How to reach a running control plane: all that a test needs, whoever has started it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    slot: u8,
    directory: PathBuf,
    kubeconfig: PathBuf,
    audit_log: PathBuf,
    kubectl: PathBuf,
}

impl Connection {
    /// The control plane under which `quartermaster-dev with-cluster` runs this process.
    ///
    /// # Errors
    ///
    /// When this process does not run under it.
    pub fn from_environment() -> Result<Self> {
        let path = |variable| std::env::var_os(variable).map(PathBuf::from).ok_or(Error::FindControlPlane { variable });
        let slot = std::env::var("QUARTERMASTER_SLOT").ok().and_then(|text| text.parse().ok());
        Ok(Self {
            slot: slot.ok_or(Error::FindControlPlane { variable: "QUARTERMASTER_SLOT" })?,
            directory: path(processes::DIRECTORY_VARIABLE)?,
            kubeconfig: path("QUARTERMASTER_KUBECONFIG")?,
            audit_log: path("QUARTERMASTER_AUDIT_LOG")?,
            kubectl: path("QUARTERMASTER_KUBECTL")?,
        })
    }

    /// The control plane of [`Self::from_environment`], else the one whose kubeconfig `KUBECONFIG` names, as
    /// `cluster up` prints it.
    ///
    /// # Errors
    ///
    /// When neither names one.
    pub fn from_surroundings() -> Result<Self> {
        let found = Self::from_environment();
        let kubeconfig = std::env::var_os("KUBECONFIG").map(PathBuf::from);
        match (found, kubeconfig) {
            (Err(error), Some(kubeconfig)) => {
                let Some((directory, number)) = slot_of(&kubeconfig) else { return Err(error) };
                let kubectl = Binaries::locate()?.path("kubectl")?.to_owned();
                Ok(Self::within(number, directory, kubectl))
            }
            (found, _) => found,
        }
    }

    /// The control plane of a slot.
    fn within(slot: u8, directory: PathBuf, kubectl: PathBuf) -> Self {
        let state = directory.join("clusters").join(cluster_of(slot));
        let audit_log = state.join("logs").join("audit.log");
        Self { slot, kubeconfig: state.join("kubeconfig.yaml"), audit_log, kubectl, directory }
    }

    /// The variables from which [`Self::from_environment`] reads, and `KUBECONFIG` for kubectl and others.
    pub fn environment(&self) -> [(&'static str, PathBuf); 6] {
        [
            ("KUBECONFIG", self.kubeconfig.clone()),
            ("QUARTERMASTER_KUBECONFIG", self.kubeconfig.clone()),
            ("QUARTERMASTER_AUDIT_LOG", self.audit_log.clone()),
            ("QUARTERMASTER_KUBECTL", self.kubectl.clone()),
            (processes::DIRECTORY_VARIABLE, self.directory.clone()),
            ("QUARTERMASTER_SLOT", PathBuf::from(self.slot.to_string())),
        ]
    }

    /// The number of the slot, which fixes ports and address ranges.
    pub fn slot(&self) -> u8 {
        self.slot
    }

    /// The directory of the slot. What is put there goes when the control plane is stopped, and a process that is
    /// started through a path below it ends with it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The audit log: one JSON event (`audit.k8s.io/v1`) a line, for every request of every ServiceAccount outside
    /// `kube-system`; the bodies of writes of our own API group. The API server writes a line when it has answered,
    /// which can be a moment after the client has the answer.
    pub fn audit_log(&self) -> &Path {
        &self.audit_log
    }

    /// The kubectl of the control plane's version.
    pub fn kubectl(&self) -> &Path {
        &self.kubectl
    }

    /// A client that acts as administrator.
    ///
    /// # Errors
    ///
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client> {
        client(&self.kubeconfig).await
    }
}

/// A client that acts as whoever a kubeconfig names.
///
/// # Errors
///
/// When the kubeconfig cannot be used.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::UseKubeconfig { path: kubeconfig.to_owned(), source };
    let file = Kubeconfig::read_from(kubeconfig).map_err(|error| failed(error.into()))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(|error| failed(error.into()))?;
    Client::try_from(config).map_err(|error| failed(error.into()))
}

/// A running control plane that this process owns. Dropping it stops it, unless it was kept.
#[derive(Debug)]
pub struct ControlPlane {
    /// None only once it has been stopped or kept.
    slot: Option<Slot>,
    connection: Connection,
}

impl ControlPlane {
    /// Claims a slot, starts a control plane in it, and waits until it works: all components run, the API server is
    /// ready, kwok plays nodes and the controllers have made the first ServiceAccount.
    ///
    /// # Errors
    ///
    /// When it does not work in time, or a component has ended in every attempt. Nothing is left running then, nor when the
    /// future is dropped.
    pub async fn start(options: Options) -> Result<Self> {
        for _ in 1..options.attempts {
            match Self::start_once(options).await {
                Err(error @ Error::RunComponent { .. }) => (options.report)(&format!("starting anew: {error}")),
                result => return result,
            }
        }
        Self::start_once(options).await
    }

    async fn start_once(options: Options) -> Result<Self> {
        let binaries = Binaries::locate()?;
        let _turn = turn(options.report).await?;
        let began = Instant::now();
        let slot = Slot::claim(options.report)?;
        let cluster = cluster_of(slot.number());
        let directory = slot.directory().to_owned();
        let state = directory.join("clusters").join(&cluster);
        let connection = Connection::within(slot.number(), directory, binaries.path("kubectl")?.to_owned());
        // From here on a failure, or a dropped future, stops what has been started.
        let control_plane = Self { slot: Some(slot), connection };
        (options.report)(&format!("starting a control plane in slot {}", control_plane.connection.slot));
        let until_it_works = async {
            control_plane.create(&cluster, &binaries, options.ready_within).await?;
            control_plane.wait_until_it_works(&state, began + options.ready_within, options.ready_within).await
        };
        // Of a component that has ended kwokctl says nothing, and waits minutes for what will not come.
        tokio::select! {
            works = until_it_works => works?,
            error = control_plane.until_a_component_ends(&state) => return Err(error),
            () = sleep(options.ready_within) => {
                let last = format!("the API server does not answer; the end of its log:\n{}", log(&state, "kube-apiserver"));
                let seconds = options.ready_within.as_secs();
                return Err(Error::Wait { what: "the control plane".to_owned(), seconds, last });
            }
        }
        (options.report)(&format!("the control plane works after {:.1} s", began.elapsed().as_secs_f64()));
        Ok(control_plane)
    }

    /// How to reach it.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> &Path {
        self.connection.kubeconfig()
    }

    /// The audit log; see [`Connection::audit_log`].
    pub fn audit_log(&self) -> &Path {
        self.connection.audit_log()
    }

    /// Ends its processes and removes its directory.
    ///
    /// # Errors
    ///
    /// When a process survives, or the directory cannot be removed.
    pub fn stop(mut self) -> Result<()> {
        match self.slot.take() {
            Some(slot) => slot.clean().map(|_| ()),
            None => Ok(()),
        }
    }

    /// Lets it run on when this process ends, until `quartermaster-dev cluster down`.
    ///
    /// # Errors
    ///
    /// When the mark cannot be written; it is then stopped.
    pub fn keep(mut self) -> Result<Connection> {
        if let Some(slot) = &self.slot {
            slot.keep()?;
        }
        self.slot = None;
        Ok(self.connection.clone())
    }

    async fn create(&self, cluster: &str, binaries: &Binaries, within: Duration) -> Result<()> {
        let Some(slot) = &self.slot else { return Ok(()) };
        let file = |name: &str, text: String| {
            let path = slot.directory().join(name);
            fs::write(&path, text).map_err(Error::file("write", &path)).map(|()| path)
        };
        file("audit-policy.yaml", configuration::audit_policy()?)?;
        let configuration = file("kwokctl.yaml", configuration::kwokctl(slot, binaries)?)?;

        let mut command = Command::new(binaries.path("kwokctl")?);
        // Settings of the user for kwok would change what we start.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KWOK_")) {
            command.env_remove(name);
        }
        let output = command
            // A control plane that is started under another one is no command of that one.
            .env_remove(processes::DIRECTORY_VARIABLE)
            .env("KWOK_WORKDIR", slot.directory())
            .env("KWOK_KUBE_VERSION", kubernetes_version(binaries)?)
            .arg("--config")
            .arg(&configuration)
            .args(["create", "cluster", "--name", cluster, "--kubeconfig", ""])
            .args(["--wait", &format!("{}s", within.as_secs())])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|source| Error::StartProgram { program: "kwokctl".to_owned(), source })?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::RunProgram {
            program: "kwokctl create cluster".to_owned(),
            status: output.status,
            output: last_lines(&String::from_utf8_lossy(&output.stderr)),
        })
    }

    async fn wait_until_it_works(&self, state: &Path, deadline: Instant, within: Duration) -> Result<()> {
        let client = self.connection.client().await?;
        while let Some(missing) = self.what_is_missing(state, &client).await {
            if Instant::now() > deadline {
                return Err(Error::Wait { what: "the control plane".to_owned(), seconds: within.as_secs(), last: missing });
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
        // kwokctl says that a cluster is ready although a component has just ended.
        self.ended(state).map_or(Ok(()), Err)
    }

    async fn until_a_component_ends(&self, state: &Path) -> Error {
        loop {
            if let Some(error) = self.ended(state) {
                return error;
            }
            sleep(LOOK_AT_COMPONENTS_AFTER).await;
        }
    }

    /// The component that has ended, if one has. What kwokctl has not started yet has not ended.
    fn ended(&self, state: &Path) -> Option<Error> {
        // First what was started, then what runs: what is started in between is no news.
        let started = COMPONENTS.map(|component| (component, recorded(state, component)));
        let alive = processes::of_directory(&self.connection.directory);
        let is_alive = |component: &str, pid: i32| alive.iter().any(|process| process.pid == pid && is(process, component));
        let (component, _) = started.into_iter().find(|(component, pid)| pid.is_some_and(|pid| !is_alive(component, pid)))?;
        Some(Error::RunComponent { component: component.to_owned(), log: log(state, component) })
    }

    async fn what_is_missing(&self, state: &Path, client: &Client) -> Option<String> {
        let slot = self.slot.as_ref()?;
        if let Some(component) = COMPONENTS.into_iter().find(|component| recorded(state, component).is_none()) {
            return Some(format!("kwokctl has not started {component}"));
        }
        if let Err(error) = Api::<ServiceAccount>::namespaced(client.clone(), "default").get("default").await {
            return Some(format!("the controllers have made no ServiceAccount default/default: {error}"));
        }
        if !is_healthy(slot.ports().kwok).await {
            return Some("kwok does not answer its health check".to_owned());
        }
        None
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            // Nobody is left to tell; what survives is cleaned by the next start.
            let _ = slot.clean();
        }
    }
}

/// Waits until nobody else starts a control plane on this machine.
async fn turn(report: fn(&str)) -> Result<Turn> {
    let mut told = false;
    loop {
        if let Some(turn) = Turn::try_take()? {
            return Ok(turn);
        }
        if !told {
            report("waiting until another control plane has started");
            told = true;
        }
        sleep(LOOK_AGAIN_AFTER).await;
    }
}

/// The name that kwokctl knows the control plane of a slot by.
fn cluster_of(slot: u8) -> String {
    format!("quartermaster-{slot}")
}

/// The directory and the number of the slot that a kubeconfig of [`Connection::within`] belongs to.
fn slot_of(kubeconfig: &Path) -> Option<(PathBuf, u8)> {
    let directory = kubeconfig.ancestors().nth(3)?;
    let number = directory.file_name()?.to_str()?.parse().ok()?;
    let expected = directory.join("clusters").join(cluster_of(number)).join("kubeconfig.yaml");
    (expected == kubeconfig).then(|| (directory.to_owned(), number))
}

/// The process id of a component, once kwokctl has started it.
fn recorded(state: &Path, component: &str) -> Option<i32> {
    fs::read_to_string(state.join("pids").join(format!("{component}.pid"))).ok()?.trim().parse().ok()
}

/// The end of what a component has logged.
fn log(state: &Path, component: &str) -> String {
    let log = fs::read_to_string(state.join("logs").join(format!("{component}.log")));
    last_lines(&log.unwrap_or_default())
}

/// Whether a process of the slot is the component that was started under its id, as far as can be told.
fn is(process: &Process, component: &str) -> bool {
    // It has no name yet, or none any more, which the next look tells.
    process.program.as_os_str().is_empty() || process.program.file_name().is_some_and(|name| name == component)
}

/// Asks `/healthz` over plain HTTP, which kwok serves on loopback next to TLS.
async fn is_healthy(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200"))
    };
    matches!(timeout(Duration::from_secs(2), ask).await, Ok(Ok(true)))
}

/// The version of the API server, such as `v1.37.2`: kwokctl passes different flags to different versions.
fn kubernetes_version(binaries: &Binaries) -> Result<String> {
    let path = binaries.path("kube-apiserver")?;
    let program = format!("{} --version", path.display());
    let output = std::process::Command::new(path)
        .arg("--version")
        .output()
        .map_err(|source| Error::StartProgram { program: program.clone(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.split_whitespace().find(|word| word.starts_with('v')) {
        Some(version) if output.status.success() => Ok(version.to_owned()),
        _ => {
            Err(Error::RunProgram { program, status: output.status, output: String::from_utf8_lossy(&output.stderr).into_owned() })
        }
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n")
}
