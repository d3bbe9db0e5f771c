//! Where the binaries are that dev/bootstrap.sh builds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};

/// Binaries that `dev/bootstrap.sh` has built, or that `KUBEBUILDER_ASSETS` names.
#[derive(Debug, Clone)]
pub struct Binaries {
    requirement: &'static str,
    paths: BTreeMap<String, PathBuf>,
}

impl Binaries {
    /// Those of the control plane.
    ///
    /// # Errors
    ///
    /// When the script cannot be run, or when one of the binaries does not exist.
    pub fn locate() -> Result<Self> {
        Self::of("control-plane")
    }

    /// Helm, which only the charts need.
    ///
    /// # Errors
    ///
    /// As for [`Self::locate`].
    pub fn locate_helm() -> Result<PathBuf> {
        Self::of("helm")?.path("helm").map(Path::to_owned)
    }

    /// Promtool, which checks and tests rules for Prometheus.
    ///
    /// # Errors
    ///
    /// As for [`Self::locate`].
    pub fn locate_promtool() -> Result<PathBuf> {
        Self::of("promtool")?.path("promtool").map(Path::to_owned)
    }

    /// Asks `dev/bootstrap.sh`, which alone knows where it puts what a requirement consists of. Builds nothing.
    fn of(requirement: &'static str) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bootstrap.sh");
        let program = format!("{} where {requirement}", script.display());
        let output = Command::new("bash")
            .arg(&script)
            .args(["where", requirement])
            .output()
            .map_err(|source| Error::StartProgram { program: program.clone(), source })?;
        if !output.status.success() {
            return Err(Error::RunProgram {
                program,
                status: output.status,
                output: String::from_utf8_lossy(&output.stderr).into_owned(),
            });
        }
        let mut paths = BTreeMap::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some((name, path)) = line.split_once(' ') {
                let path = PathBuf::from(path);
                if !path.is_file() {
                    return Err(Error::FindBinary { name: name.to_owned(), path, requirement });
                }
                paths.insert(name.to_owned(), path);
            }
        }
        Ok(Self { requirement, paths })
    }

    /// The path of one binary, by the name in `dev/bootstrap.sh`, such as `kube-apiserver`.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn path(&self, name: &str) -> Result<&Path> {
        self.paths.get(name).map(PathBuf::as_path).ok_or_else(|| Error::FindBinary {
            name: name.to_owned(),
            path: PathBuf::from(name),
            requirement: self.requirement,
        })
    }
}
