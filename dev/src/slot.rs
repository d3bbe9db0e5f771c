//! Several control planes on one machine, kept apart.
//!
//! A slot is a number. It fixes every port and every address range of a control plane, so that no two ever clash,
//! and it is claimed by a lock on a file, which the kernel releases when its owner ends, however it ends. A slot whose
//! lock is free but which has processes or a directory was left by a killed run: the next start cleans it, unless it
//! is marked as kept on purpose.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::processes;

/// How many control planes fit on one machine. Address ranges end at 127.127.0.0/16.
pub const SLOTS: u8 = 32;

/// The first port of slot 0. Below Linux's ephemeral ports (from 32768) and Kubernetes' node ports (from 30000), so
/// that no outgoing connection takes one of ours between two starts.
const FIRST_PORT: u16 = 21_000;
/// Ports of one slot, used or not.
const PORTS_PER_SLOT: u16 = 20;

const KEPT_MARK: &str = "kept";

/// The ports of one control plane, all on 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// etcd, for clients.
    pub etcd: u16,
    /// etcd, for other members.
    pub etcd_peer: u16,
    /// kube-apiserver.
    pub api_server: u16,
    /// kube-controller-manager.
    pub controller_manager: u16,
    /// kube-scheduler.
    pub scheduler: u16,
    /// The controller of kwok.
    pub kwok: u16,
}

impl Ports {
    fn all(self) -> [u16; 6] {
        [self.etcd, self.etcd_peer, self.api_server, self.controller_manager, self.scheduler, self.kwok]
    }
}

/// A slot that this process has claimed, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    number: u8,
    directory: PathBuf,
    /// Holds the lock. Not inherited by child processes, so that it ends with this process.
    _lock: File,
}

/// What became of one slot, for `cluster list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// A run uses it; its process id, if it could be read.
    InUse(Option<i32>),
    /// Kept on purpose, and running.
    Kept,
    /// Left by a run that was killed.
    Leftover,
}

/// The turn to start a control plane on this machine, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    /// Holds the lock, as a slot's.
    _lock: File,
}

impl Turn {
    /// Takes the turn, or yields none while somebody else starts a control plane. One start uses several cores, and a
    /// component of a start that another one slows down gives up: the controller manager, when the API server is not
    /// healthy 10 s after its first answer.
    ///
    /// # Errors
    ///
    /// When the cache cannot be used.
    pub fn try_take() -> Result<Option<Self>> {
        let path = slots_directory()?.join("start.lock");
        Ok(try_lock(&path)?.map(|lock| Self { _lock: lock }))
    }
}

impl Slot {
    /// Cleans what killed runs have left, then claims the first free slot whose ports are free.
    ///
    /// # Errors
    ///
    /// When the cache cannot be used, or all slots are taken.
    pub fn claim(report: fn(&str)) -> Result<Self> {
        let root = slots_directory()?;
        let _looking = look(&root)?;
        if let Err(error) = clean(&root, report, is_leftover) {
            // It keeps its slot; there are others.
            report(&format!("a leftover of a killed run stays: {}", error.chain()));
        }
        for number in 0..SLOTS {
            let Some(slot) = Self::try_lock(&root, number)? else { continue };
            if slot.directory.exists() {
                continue;
            }
            if let Some(port) = slot.ports().all().into_iter().find(|port| !is_free(*port)) {
                report(&format!("skipping slot {number}: something listens on port {port}"));
                continue;
            }
            slot.write_owner()?;
            fs::create_dir_all(&slot.directory).map_err(Error::file("create", &slot.directory))?;
            return Ok(slot);
        }
        Err(Error::ClaimSlot { slots: SLOTS })
    }

    /// The number of the slot, below [`SLOTS`].
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Everything of this control plane is in this directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The ports of this slot.
    pub fn ports(&self) -> Ports {
        ports(self.number)
    }

    /// The first address of the range of kwok's pods, which kwok itself never gives to a pod: 127.(65+2k).0.1.
    pub fn kwok_pod_network_gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, 65 + 2 * self.number, 0, 1)
    }

    /// The base of the /16 range for pods that run as processes on this machine: 127.(64+2k).0.0.
    pub fn local_pod_network(&self) -> Ipv4Addr {
        local_pod_network(self.number)
    }

    /// Marks the control plane as kept on purpose: nobody cleans it while it runs, until it is stopped by number.
    ///
    /// # Errors
    ///
    /// When the mark cannot be written.
    pub fn keep(&self) -> Result<()> {
        let mark = self.directory.join(KEPT_MARK);
        fs::write(&mark, "").map_err(Error::file("write", &mark))
    }

    /// Ends every process of this slot and removes its directory. The number of processes ended.
    ///
    /// # Errors
    ///
    /// When a process survives, or the directory cannot be removed.
    pub fn clean(&self) -> Result<usize> {
        let ended = processes::end_all_of(&self.directory)?;
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", &self.directory)(error)),
            _ => Ok(ended),
        }
    }

    fn try_lock(root: &Path, number: u8) -> Result<Option<Self>> {
        let lock = try_lock(&lock_path(root, number))?;
        Ok(lock.map(|lock| Self { number, directory: root.join(number.to_string()), _lock: lock }))
    }

    /// Notes in the lock file who holds it, for people only: the lock itself is what counts.
    fn write_owner(&self) -> Result<()> {
        let mut lock = &self._lock;
        let path = self.directory.with_extension("lock");
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(Error::file("write", path))
    }

    fn state(&self) -> Option<State> {
        let alive = !processes::of_directory(&self.directory).is_empty();
        match (self.directory.join(KEPT_MARK).exists(), alive) {
            (true, true) => Some(State::Kept),
            (false, true) => Some(State::Leftover),
            // A kept one whose processes are gone, as after a reboot, is of no use to anybody.
            (_, false) => self.directory.exists().then_some(State::Leftover),
        }
    }
}

/// The base of the /16 range for pods that run as processes, for a slot by number.
pub fn local_pod_network(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 64 + 2 * number, 0, 0)
}

/// The slots that have anything, and what.
///
/// # Errors
///
/// When the cache cannot be used.
pub fn list() -> Result<Vec<(u8, State)>> {
    let root = slots_directory()?;
    let _looking = look(&root)?;
    let mut found = Vec::new();
    for number in existing(&root) {
        match Slot::try_lock(&root, number)? {
            Some(slot) => found.extend(slot.state().map(|state| (number, state))),
            None => found.push((number, State::InUse(owner(&root, number)))),
        }
    }
    Ok(found)
}

/// Cleans every slot whose owner was killed. Slots in use and kept ones are left alone.
///
/// # Errors
///
/// When the cache cannot be used, or a leftover cannot be ended.
pub fn clean_leftovers(report: fn(&str)) -> Result<()> {
    clean_where(report, is_leftover).map(|_| ())
}

/// Stops the kept control planes and cleans the leftovers for which `wanted` holds. The slots that were cleaned.
///
/// # Errors
///
/// When the cache cannot be used, or a process cannot be ended.
pub fn clean_where(report: fn(&str), wanted: impl Fn(u8, &State) -> bool) -> Result<Vec<u8>> {
    let root = slots_directory()?;
    let _looking = look(&root)?;
    clean(&root, report, wanted)
}

fn is_leftover(_: u8, state: &State) -> bool {
    *state == State::Leftover
}

fn clean(root: &Path, report: fn(&str), wanted: impl Fn(u8, &State) -> bool) -> Result<Vec<u8>> {
    let mut cleaned = Vec::new();
    for number in existing(root) {
        // In use: its owner cleans it.
        let Some(slot) = Slot::try_lock(root, number)? else { continue };
        let Some(state) = slot.state() else { continue };
        if wanted(number, &state) {
            let ended = slot.clean()?;
            let kind = if state == State::Kept { "kept control plane" } else { "leftover of a killed run" };
            report(&format!("cleaned slot {number}, a {kind}: {ended} processes ended"));
            cleaned.push(number);
        }
    }
    Ok(cleaned)
}

/// `$XDG_CACHE_HOME/quartermaster`, else `~/.cache/quartermaster`.
///
/// # Errors
///
/// When neither variable is set.
pub fn cache_directory() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache"))).ok_or(Error::FindCache)?;
    Ok(base.join("quartermaster"))
}

fn slots_directory() -> Result<PathBuf> {
    let directory = cache_directory()?.join("slots");
    fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
    // Command lines are compared with this path, so it must be the one without links.
    fs::canonicalize(&directory).map_err(Error::file("resolve", directory))
}

/// Waits until nobody else looks at the slots, and keeps others waiting until the file is dropped. Who looks at a slot holds its
/// lock for a moment, and would otherwise seem to use it to everybody who looks at the same time.
fn look(root: &Path) -> Result<File> {
    let path = root.join("look.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(Error::file("open", &path))?;
    file.lock().map_err(Error::file("lock", &path))?;
    Ok(file)
}

/// The locked file, or none while somebody else has it locked.
fn try_lock(path: &Path) -> Result<Option<File>> {
    let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
    let file = open.map_err(Error::file("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(Error::file("lock", path)(error)),
    }
}

fn lock_path(root: &Path, number: u8) -> PathBuf {
    root.join(format!("{number}.lock"))
}

fn existing(root: &Path) -> Vec<u8> {
    (0..SLOTS).filter(|number| lock_path(root, *number).exists()).collect()
}

fn owner(root: &Path, number: u8) -> Option<i32> {
    let mut text = String::new();
    File::open(lock_path(root, number)).ok()?.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn ports(number: u8) -> Ports {
    let base = FIRST_PORT + PORTS_PER_SLOT * u16::from(number);
    Ports {
        etcd: base,
        etcd_peer: base + 1,
        api_server: base + 2,
        controller_manager: base + 3,
        scheduler: base + 4,
        kwok: base + 5,
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_slots_share_a_port_and_none_is_ephemeral() {
        let all: Vec<u16> = (0..SLOTS).flat_map(|number| ports(number).all()).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert!(all.iter().all(|port| (1024..30_000).contains(port)), "{all:?}");
    }

    #[test]
    fn no_two_slots_share_an_address_range() {
        let mut networks = BTreeSet::new();
        let directory = std::env::temp_dir().join(format!("quartermaster-dev-slots-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        for number in 0..SLOTS {
            let slot = Slot::try_lock(&directory, number).unwrap().unwrap();
            assert!(networks.insert(slot.local_pod_network().octets()[1]));
            assert!(networks.insert(slot.kwok_pod_network_gateway().octets()[1]));
        }
        fs::remove_dir_all(directory).unwrap();
        // 127.0 to 127.63 are left to the machine itself.
        assert!(networks.iter().all(|octet| (64..128).contains(octet)), "{networks:?}");
    }

    #[test]
    fn a_claimed_slot_cannot_be_claimed_again_until_it_is_dropped() {
        let directory = std::env::temp_dir().join(format!("quartermaster-dev-lock-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let first = Slot::try_lock(&directory, 3).unwrap().unwrap();
        assert!(Slot::try_lock(&directory, 3).unwrap().is_none());
        drop(first);
        assert!(Slot::try_lock(&directory, 3).unwrap().is_some());
        fs::remove_dir_all(directory).unwrap();
    }
}
