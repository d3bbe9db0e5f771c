//! Helm, as these tests call it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use quartermaster_dev::Connection;
use quartermaster_dev::binaries::Binaries;
use serde_json::Value;

/// The chart of the operator.
pub const OPERATOR: &str = "charts/quartermaster";
/// The chart of the definitions.
pub const DEFINITIONS: &str = "charts/quartermaster-crds";
/// An image, which has no default.
pub const IMAGE: &str = "image.repository=quartermaster";

/// The directory of the repository, where Helm is called.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file of the repository.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Helm, and a directory that goes with it.
pub struct Helm {
    program: PathBuf,
    pub directory: PathBuf,
    kubeconfig: PathBuf,
}

impl Helm {
    /// Without a cluster.
    pub fn alone() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("quartermaster-dev-charts-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        Self { program: Binaries::locate_helm().unwrap(), kubeconfig: directory.join("none"), directory }
    }

    /// As administrator of a cluster.
    pub fn of(connection: &Connection) -> Self {
        let mut helm = Self::alone();
        helm.kubeconfig = connection.kubeconfig().to_owned();
        helm
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        for kind in ["CACHE", "CONFIG", "DATA"] {
            command.env(format!("HELM_{kind}_HOME"), self.directory.join("home"));
        }
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig).current_dir(root()).output().unwrap()
    }

    /// Runs it, and returns what it prints. Fails where it does.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let (printed, said) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "helm {arguments:?}: {printed}{said}");
        printed
    }

    /// Runs it, and returns what it says. Fails where it does not.
    pub fn fail(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(!output.status.success(), "helm {arguments:?} accepts: {}", text(&output.stdout));
        text(&output.stderr)
    }

    /// The objects that a chart makes, in the namespace of deploy/rbac.yaml, with more arguments.
    pub fn template(&self, chart: &str, arguments: &[&str]) -> Vec<Value> {
        let all = [&["template", "quartermaster", chart, "--namespace", "quartermaster-system"], arguments].concat();
        documents(&self.run(&all))
    }
}

impl Drop for Helm {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The objects of a text.
pub fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    documents.into_iter().filter(Value::is_object).collect()
}

/// The one object of a kind.
pub fn one(objects: &[Value], kind: &str) -> Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    object.clone()
}
