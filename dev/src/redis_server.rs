//! A real Redis server on loopback, for a test of its own.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::error::{Error, Result};
use crate::{PATIENCE, processes};

const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// A redis-server that runs. It keeps nothing when it ends, unless its configuration says otherwise. Dropping it ends it.
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    directory: PathBuf,
    port: u16,
    tls_port: u16,
}

impl RedisServer {
    /// Starts one with these further lines of configuration, and waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// When redis-server is missing (dev/bootstrap.sh brings it), or ends.
    pub async fn start(configuration: &[&str]) -> Result<Self> {
        let lines = configuration.iter().map(|line| (*line).to_owned()).collect();
        Self::start_in(directory()?, lines, 0).await
    }

    /// Starts one that also speaks TLS, with a certificate for 127.0.0.1 of this authority.
    ///
    /// # Errors
    ///
    /// When redis-server is missing, or ends.
    pub async fn start_with_tls(configuration: &[&str], issuer: &CertifiedIssuer<'static, KeyPair>) -> Result<Self> {
        let (directory, tls_port) = (directory()?, free_port()?);
        let mut lines = certified(&directory, issuer)?;
        lines.push(format!("tls-port {tls_port}"));
        lines.extend(configuration.iter().map(|line| (*line).to_owned()));
        Self::start_in(directory, lines, tls_port).await
    }

    async fn start_in(directory: PathBuf, more: Vec<String>, tls_port: u16) -> Result<Self> {
        let port = free_port()?;
        let mut lines = vec![
            format!("port {port}"),
            "bind 127.0.0.1".to_owned(),
            "save \"\"".to_owned(),
            format!("dir {}", directory.display()),
            format!("logfile {}", log(&directory).display()),
        ];
        lines.extend(more);
        let path = configuration(&directory);
        fs::write(&path, lines.join("\n")).map_err(Error::file("write", path))?;
        let mut server = Self { child: spawn(&directory)?, directory, port, tls_port };
        server.wait_until_it_accepts().await?;
        Ok(server)
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it speaks TLS on 127.0.0.1; 0 if it does not.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Its URL without TLS.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        // It fails only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again where it was, with what its configuration let it keep.
    ///
    /// # Errors
    ///
    /// When it ends.
    pub async fn restart(&mut self) -> Result<()> {
        self.child = spawn(&self.directory)?;
        self.wait_until_it_accepts().await
    }

    /// Stops the process: connections stay, new ones are accepted, and nothing is answered.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after [`Self::suspend`].
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            processes::signal(pid, signal);
        }
    }

    async fn wait_until_it_accepts(&mut self) -> Result<()> {
        let program = || "redis-server".to_owned();
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await {
            let ended = self.child.try_wait().map_err(|source| Error::StartProgram { program: program(), source })?;
            if let Some(status) = ended {
                let output = fs::read_to_string(log(&self.directory)).unwrap_or_default();
                return Err(Error::RunProgram { program: program(), status, output });
            }
            if Instant::now() > deadline {
                return Err(Error::Wait { what: program(), seconds: PATIENCE.as_secs(), last: error.to_string() });
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
        Ok(())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        // Nobody is left to tell.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A port of loopback where nobody listens.
///
/// # Errors
///
/// When there is none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|source| Error::ListenForRequests { source })
}

/// The lines of configuration with a certificate for 127.0.0.1.
fn certified(directory: &Path, issuer: &CertifiedIssuer<'static, KeyPair>) -> Result<Vec<String>> {
    let failed = |source: rcgen::Error| Error::MakeCertificate { server: "redis-server", source: source.into() };
    let key = KeyPair::generate().map_err(failed)?;
    let parameters = CertificateParams::new(vec![Ipv4Addr::LOCALHOST.to_string()]).map_err(failed)?;
    let certificate = parameters.signed_by(&key, issuer).map_err(failed)?;
    let files = [
        ("tls-cert-file", "tls.crt", certificate.pem()),
        ("tls-key-file", "tls.key", key.serialize_pem()),
        ("tls-ca-cert-file", "ca.crt", issuer.pem()),
    ];
    let mut lines = vec!["tls-auth-clients no".to_owned()];
    for (setting, name, pem) in files {
        let path = directory.join(name);
        lines.push(format!("{setting} {}", path.display()));
        fs::write(&path, pem).map_err(Error::file("write", path))?;
    }
    Ok(lines)
}

/// A directory of its own, which nobody else has.
fn directory() -> Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("quartermaster-redis-{}-{number}", std::process::id()));
    // What a killed process of the same id has left would be read.
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
    Ok(directory)
}

fn configuration(directory: &Path) -> PathBuf {
    directory.join("redis.conf")
}

fn log(directory: &Path) -> PathBuf {
    directory.join("redis.log")
}

fn spawn(directory: &Path) -> Result<Child> {
    let mut command = Command::new("redis-server");
    command.arg(configuration(directory)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let program = "redis-server; dev/bootstrap.sh redis brings it".to_owned();
    command.spawn().map_err(|source| Error::StartProgram { program, source })
}
