//! Files of ConfigMaps, Secrets, tokens and fields, written into a volume so that a reader never sees half a change.
//!
//! As the kubelet does it: the files are in a directory of their own, `..data` links to it, and what a container sees links
//! to `..data/name`. A change is a new directory and one renamed link.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

const CURRENT: &str = "..data";
const NEXT: &str = "..data_next";

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
}

/// The files of a volume, by path within it.
pub(super) type Files = BTreeMap<String, File>;

/// Makes a volume hold exactly these files. Writes nothing where it does already.
///
/// # Errors
///
/// When a path leads out of the volume, or a file cannot be written.
pub(super) fn write(volume: &Path, files: &Files) -> io::Result<()> {
    let current = volume.join(CURRENT);
    if let Some(path) = files.keys().find(|path| !stays_within(path)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path} leads out of the volume")));
    }
    if fs::read_link(&current).is_ok() && read(&current, files)? == *files && count(&current)? == files.len() {
        return Ok(());
    }
    fs::create_dir_all(volume)?;
    let name = format!("..{}", Timestamp::now().as_nanosecond());
    let directory = volume.join(&name);
    for (path, file) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&directory))?;
        fs::write(&path, &file.content)?;
        fs::set_permissions(&path, Permissions::from_mode(file.mode))?;
    }
    fs::create_dir_all(&directory)?;
    let old = fs::read_link(&current).ok();
    let next = volume.join(NEXT);
    let _ = fs::remove_file(&next);
    symlink(&name, &next)?;
    fs::rename(&next, &current)?;
    link(volume, files)?;
    match old {
        Some(old) => fs::remove_dir_all(volume.join(old)),
        None => Ok(()),
    }
}

/// Links to what there is, in the first level of the volume; those to what is gone are removed.
fn link(volume: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && entry.file_type()?.is_symlink() && !wanted.contains(&*name) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in wanted {
        if volume.join(name).symlink_metadata().is_err() {
            symlink(Path::new(CURRENT).join(name), volume.join(name))?;
        }
    }
    Ok(())
}

fn stays_within(path: &str) -> bool {
    !path.is_empty() && !path.starts_with("..") && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Those of `files` that are in a directory, as they are there.
fn read(directory: &Path, files: &Files) -> io::Result<Files> {
    let mut found = Files::new();
    for path in files.keys() {
        let at: PathBuf = directory.join(path);
        match fs::read(&at) {
            Ok(content) => {
                let mode = fs::metadata(&at)?.permissions().mode() & 0o7777;
                found.insert(path.clone(), File { content, mode });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// How many files are below a directory.
fn count(directory: &Path) -> io::Result<usize> {
    let mut number = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        number += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        entries.iter().map(|(path, text)| ((*path).to_owned(), File { content: text.as_bytes().to_vec(), mode: 0o644 })).collect()
    }

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("quartermaster-dev-files-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        directory
    }

    #[test]
    fn a_volume_holds_what_was_written_last_and_nothing_else() {
        let volume = scratch("last");
        write(&volume, &files(&[("a", "1"), ("deep/b", "2")])).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(volume.join("deep/b")).unwrap(), "2");

        write(&volume, &files(&[("a", "3"), ("c", "4")])).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        assert_eq!(fs::read_to_string(volume.join("c")).unwrap(), "4");
        assert!(volume.join("deep").symlink_metadata().is_err());
        // `..data`, the directory behind it, and two links.
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 4);
        fs::remove_dir_all(volume).unwrap();
    }

    #[test]
    fn the_same_files_are_not_written_again_and_a_lost_one_is_noticed() {
        let volume = scratch("same");
        write(&volume, &files(&[("a", "1"), ("b", "2")])).unwrap();
        let before = fs::read_link(volume.join(CURRENT)).unwrap();
        write(&volume, &files(&[("a", "1"), ("b", "2")])).unwrap();
        assert_eq!(fs::read_link(volume.join(CURRENT)).unwrap(), before);
        write(&volume, &files(&[("a", "1")])).unwrap();
        assert_ne!(fs::read_link(volume.join(CURRENT)).unwrap(), before);
        assert!(volume.join("b").symlink_metadata().is_err());
        fs::remove_dir_all(volume).unwrap();
    }

    #[test]
    fn no_file_is_written_outside_of_the_volume() {
        let volume = scratch("outside");
        for path in ["../a", "/etc/a", "a/../../b", "..data", ""] {
            assert!(write(&volume, &files(&[(path, "1")])).is_err(), "{path}");
        }
    }
}
