//! Where the logs of containers are: a directory a pod, in it a directory a container, in it a file a start.

use std::fs;
use std::path::{Path, PathBuf};

use crate::control_plane::Connection;
use crate::error::{Error, Result};

/// The annotation of a pod that says where its logs are on this machine.
pub(super) const ANNOTATION: &str = "dev.quartermaster.dev/logs";

/// The directory of a pod's logs.
pub(super) fn directory(node: &Path, namespace: &str, pod: &str) -> PathBuf {
    node.join("logs").join(namespace).join(pod)
}

/// The log of a container after this many restarts.
pub(super) fn file(directory: &Path, container: &str, restarts: u32) -> PathBuf {
    directory.join(container).join(format!("{restarts}.log"))
}

/// Marks a log as that of a run that is over.
pub(super) fn end(log: &Path) {
    // Without the mark, who follows the log waits until the pod is gone.
    let _ = fs::write(log.with_extension("ended"), "");
}

/// Whether nothing will be added to a log.
pub(super) fn is_over(log: &Path) -> bool {
    log.with_extension("ended").exists()
}

/// The logs of a container, the oldest first.
pub(super) fn of_container(directory: &Path, container: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join(container)).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.path();
            path.extension().is_some_and(|extension| extension == "log").then_some(())?;
            Some((path.file_stem()?.to_str()?.parse().ok()?, path))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// The logs of all containers of a pod that runs or has run on the local node of a control plane, the oldest first.
///
/// # Errors
///
/// When there are none.
pub fn of_pod(connection: &Connection, namespace: &str, pod: &str) -> Result<Vec<PathBuf>> {
    let directory = directory(&super::directory(connection), namespace, pod);
    let mut containers: Vec<String> = fs::read_dir(&directory)
        .map_err(Error::file("read the logs in", &directory))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    containers.sort();
    Ok(containers.iter().flat_map(|container| of_container(&directory, container)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_of_a_container_come_in_the_order_of_its_starts() {
        let directory = std::env::temp_dir().join(format!("quartermaster-dev-logs-{}", std::process::id()));
        for restarts in [10, 0, 2] {
            let log = file(&directory, "main", restarts);
            fs::create_dir_all(log.parent().unwrap()).unwrap();
            fs::write(&log, "").unwrap();
            assert!(!is_over(&log));
            end(&log);
            assert!(is_over(&log));
        }
        let names: Vec<String> =
            of_container(&directory, "main").iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["0.log", "2.log", "10.log"]);
        assert!(of_container(&directory, "other").is_empty());
        fs::remove_dir_all(directory).unwrap();
    }
}
