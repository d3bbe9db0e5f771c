//! The local node: runs the pods that are placed on the one node named `local` as processes of this machine.
//!
//! kwok's pods are pictures. What has to run for a test or a demonstration (an operator, agents, simulated servers) is placed
//! here. The node does what those need of a kubelet, and no more:
//!
//! - [`node`] is the Node object: 64 GPUs of a product `NVIDIA-Local`, ample memory, and a taint that keeps others off.
//! - [`images`] says which command of this machine stands for which image.
//! - `pods`, `pod` and `supervisor` take pods, run their containers, start them again and end them; `probes`, `status` and
//!   `back_off` are the parts of it that are the kubelet's; `board` is what they share.
//! - `sandbox` and `mounts` are what stands for a container: mounts, process ids and a host name of its own.
//! - `preparation`, `environment`, `fields`, `volumes`, `files`, `tokens` make a manifest into that.
//! - `proxy` and `names` lead `name.namespace.svc` to a ready pod; `log_server` and [`logs`] show what was printed.
//! - [`start`] runs all of it as a process of its own.
//!
//! Not imitated: limits of resources, users, capabilities and read-only roots, networks (a pod has an address of 127.0.0.0/8
//! and every port of it), claims of storage, `kubectl exec` and `port-forward`.

mod addresses;
mod back_off;
mod board;
mod calls;
mod environment;
mod fields;
mod files;
mod host;
pub mod images;
mod log_server;
pub mod logs;
mod mounts;
mod names;
pub mod node;
mod pod;
mod pods;
mod preparation;
mod probes;
mod process;
mod proxy;
mod quantity;
mod references;
mod refusal;
pub mod sandbox;
pub mod start;
mod status;
mod supervisor;
mod tokens;
mod volumes;

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::Client;
use kube::config::Kubeconfig;
use kube::runtime::events::{Recorder, Reporter};
use tokio::net::TcpListener;
use url::Url;

use crate::control_plane::Connection;
use crate::error::{Error, Result};
use crate::{processes, slot};
use addresses::Addresses;
use host::Host;
use images::Images;
use names::Names;

/// How the node runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// A map of images, beside that of this project.
    pub images: Option<PathBuf>,
    /// What a container waits that has crashed for the second time: 10 s for a kubelet. It doubles with each crash.
    pub back_off: Duration,
    /// Is told, in a line, of what goes wrong.
    pub report: fn(&str),
}

/// Everything of the local node of a control plane on this machine. It goes with the control plane.
pub fn directory(connection: &Connection) -> PathBuf {
    connection.directory().join("local-node")
}

/// Runs the node until `end`, and ends its containers then. What a killed one has left is cleaned first.
///
/// # Errors
///
/// When another one runs, the image map cannot be read, or the API server refuses the node.
pub async fn run(connection: &Connection, options: Options, end: impl Future<Output = ()>) -> Result<()> {
    let directory = directory(connection);
    let _lock = claim(&directory)?;
    Images::read(options.images.as_deref())?;
    let network = slot::local_pod_network(connection.slot());
    let address = Addresses::of_node(network);
    let client = connection.client().await?;
    let proxy = listen(address, proxy::PORT).await?;
    let log_server = listen(address, node::LOG_PORT).await?;
    let tls =
        log_server::tls(&address.to_string()).map_err(|source| Error::MakeCertificate { server: "the log server", source })?;
    let host = Arc::new(Host {
        api_server: api_server(connection)?,
        address,
        proxy: format!("http://{address}:{}", proxy::PORT),
        program: link_to_program(&directory)?,
        images: options.images,
        back_off: options.back_off,
        addresses: Mutex::new(Addresses::new(network)),
        recorder: recorder(client.clone()),
        report: options.report,
        directory: directory.clone(),
        client,
    });
    node::register(&host.client, address).await?;
    let mark = start::mark(&directory);
    fs::write(&mark, std::process::id().to_string()).map_err(Error::file("write", &mark))?;
    let names = Arc::new(Names::new(host.client.clone()));
    tokio::select! {
        () = pods::run(host.clone(), end) => {}
        () = node::stay_ready(&host.client, address, options.report) => {}
        () = proxy::serve(proxy, names) => {}
        () = log_server::serve(log_server, tls, directory) => {}
    }
    // The control plane may have ended already, and the node with it.
    let _ = node::tell_the_end(&host.client, address).await;
    Ok(())
}

/// Sees to it that there is one node a control plane, and that nothing is left of an earlier one.
fn claim(directory: &Path) -> Result<File> {
    fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
    let path = directory.join("lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(Error::file("open", &path))?;
    if lock.try_lock().is_err() {
        return Err(Error::ClaimNode { path });
    }
    // Its containers have ended with it; only one that was just being started may be left.
    processes::end_all_of(directory)?;
    let pods = directory.join("pods");
    match fs::remove_dir_all(&pods) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", &pods)(error)),
        _ => Ok(lock),
    }
}

/// A link to this program within the directory: what is started through it ends with the control plane.
fn link_to_program(directory: &Path) -> Result<PathBuf> {
    let program = std::env::current_exe().map_err(Error::file("find", "the program of this process"))?;
    start::link(directory, &program)
}

async fn listen(address: Ipv4Addr, port: u16) -> Result<TcpListener> {
    TcpListener::bind((address, port)).await.map_err(|source| Error::ListenOn { address: format!("{address}:{port}"), source })
}

/// Where containers reach the API server: host and port.
fn api_server(connection: &Connection) -> Result<(String, u16)> {
    let path = connection.kubeconfig();
    let unusable = |source: Box<dyn std::error::Error + Send + Sync>| Error::UseKubeconfig { path: path.to_owned(), source };
    let file = Kubeconfig::read_from(path).map_err(|error| unusable(error.into()))?;
    let server = file.clusters.first().and_then(|named| named.cluster.as_ref()).and_then(|cluster| cluster.server.clone());
    let url = server.and_then(|server| Url::parse(&server).ok());
    let parts = url.and_then(|url| Some((url.host_str()?.to_owned(), url.port_or_known_default()?)));
    parts.ok_or_else(|| unusable("it names no API server".into()))
}

fn recorder(client: Client) -> Recorder {
    let reporter = Reporter { controller: "quartermaster-local-node".to_owned(), instance: Some(node::NAME.to_owned()) };
    Recorder::new(client, reporter)
}

/// Makes a link, in place of one that leads elsewhere.
fn replace_link(target: &Path, link: &Path) -> std::io::Result<()> {
    if fs::read_link(link).is_ok_and(|before| before == target) {
        return Ok(());
    }
    match fs::remove_file(link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => symlink(target, link),
    }
}
