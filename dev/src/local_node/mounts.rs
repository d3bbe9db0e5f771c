//! The file system that a container sees: this machine's, with the pod's volumes at their paths.
//!
//! Nothing is created on the machine itself. The root is a file system in memory into which everything is bound that the
//! machine's root has; where a mount point is missing, its nearest directory is made the same way, so that it can be created
//! there. Only processes of this mount namespace see any of it.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change, mount_remount};
use serde::{Deserialize, Serialize};

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mount {
    /// The file or directory of this machine.
    pub source: PathBuf,
    /// Where the container sees it.
    pub path: PathBuf,
    /// Whether it must not write there.
    pub read_only: bool,
}

/// Builds the file system in the directory `at`, which has to exist. The calling process must have a mount namespace of its
/// own.
///
/// # Errors
///
/// When something cannot be mounted; the error says what.
pub(super) fn build(at: &Path, mounts: &[Mount], working_directory: &Path) -> io::Result<()> {
    // Nothing that is mounted from here on reaches the machine's own namespace.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(describe("detach", Path::new("/")))?;
    mirror(at, Path::new("/"))?;
    let mut targets: Vec<(PathBuf, &Mount)> = mounts.iter().map(|mount| (resolved(&mount.path), mount)).collect();
    targets.sort_by_key(|(path, _)| path.components().count());
    let working_directory = resolved(working_directory);

    // The shallow ones first: what is mounted over a directory hides what was mounted below it before.
    let missing = targets.iter().map(|(path, _)| path).chain([&working_directory]).filter(|path| !path.exists());
    let mut nearest: Vec<PathBuf> = missing.map(|path| existing(path)).collect::<BTreeSet<_>>().into_iter().collect();
    nearest.sort_by_key(|path| path.components().count());
    for directory in nearest.iter().filter(|directory| *directory != Path::new("/")) {
        mirror(at, directory)?;
    }
    for (path, mount) in &targets {
        create(&within(at, path), mount.source.is_dir())?;
    }
    create(&within(at, &working_directory), true)?;

    for (path, mount) in &targets {
        let target = within(at, path);
        // A volume that was bound just now may lack the mount point of one below it.
        create(&target, mount.source.is_dir())?;
        mount_bind_recursive(&mount.source, &target).map_err(describe("mount", path))?;
        if mount.read_only {
            // In a user namespace the kernel may insist on flags that the original has; then the volume stays writable.
            let _ = mount_remount(&target, MountFlags::BIND | MountFlags::RDONLY, c"");
        }
    }
    Ok(())
}

/// Makes a directory of the root a file system in memory with everything bound into it that the machine has there.
fn mirror(at: &Path, directory: &Path) -> io::Result<()> {
    let target = within(at, directory);
    let mode = fs::metadata(directory).map_or(0o755, |metadata| std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()));
    let options = CString::new(format!("mode={:o}", mode & 0o7777)).unwrap_or_default();
    mount("tmpfs", &target, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
        .map_err(describe("mount a tmpfs on", &target))?;
    // What is bound recursively from above must not hold this one again.
    mount_change(&target, MountPropagationFlags::UNBINDABLE).map_err(describe("set apart", &target))?;
    let entries = fs::read_dir(directory).map_err(describe_io("read", directory))?;
    for entry in entries.flatten() {
        let (source, target) = (entry.path(), target.join(entry.file_name()));
        // One that cannot be bound, such as a file that has just gone, is one that this container does not see.
        let _ = bind(&source, &target);
    }
    Ok(())
}

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(source)?.file_type();
    if kind.is_symlink() {
        return symlink(fs::read_link(source)?, target);
    }
    create(target, kind.is_dir())?;
    // The container has process ids of its own, so it needs a view of its own of them. Where the machine hides parts of its
    // view, the kernel gives no other one, and the machine's has to do.
    if source == Path::new("/proc") && mount("proc", target, "proc", MountFlags::empty(), None::<&CStr>).is_ok() {
        return Ok(());
    }
    Ok(mount_bind_recursive(source, target)?)
}

fn create(path: &Path, is_directory: bool) -> io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    if is_directory {
        return fs::create_dir_all(path).map_err(describe_io("create", path));
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(describe_io("create", parent))?;
    }
    File::create(path).map(|_| ()).map_err(describe_io("create", path))
}

/// A path of the container in the root that is being built.
fn within(at: &Path, path: &Path) -> PathBuf {
    at.join(path.strip_prefix("/").unwrap_or(path))
}

/// A path with the links resolved that exist on this machine, such as `/run/secrets` for `/var/run/secrets`.
fn resolved(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(found), Ok(rest)) = (fs::canonicalize(ancestor), path.strip_prefix(ancestor)) {
            return if rest.as_os_str().is_empty() { found } else { found.join(rest) };
        }
    }
    path.to_owned()
}

/// The nearest directory above a path that exists.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or_else(|| Path::new("/")).to_owned()
}

fn describe(action: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> io::Error {
    let describe = describe_io(action, path);
    move |error| describe(error.into())
}

fn describe_io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.to_owned();
    move |error| io::Error::new(error.kind(), format!("failed to {action} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_resolved_as_far_as_it_exists() {
        let directory = std::env::temp_dir().join(format!("quartermaster-dev-mounts-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("real")).unwrap();
        let directory = fs::canonicalize(directory).unwrap();
        symlink("real", directory.join("link")).unwrap();
        assert_eq!(resolved(&directory.join("link/new/deep")), directory.join("real/new/deep"));
        assert_eq!(resolved(&directory.join("link")), directory.join("real"));
        assert_eq!(existing(&directory.join("real/new/deep")), directory.join("real"));
        fs::remove_dir_all(directory).unwrap();
    }
}
