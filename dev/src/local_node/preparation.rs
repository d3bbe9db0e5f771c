//! From the manifest of a container to the sandbox that runs it.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;

use super::environment::{self, Environment, expanded};
use super::host::{Facts, Host};
use super::images::Image;
use super::logs;
use super::mounts::Mount;
use super::refusal::Refusal;
use super::sandbox::Sandbox;
use super::volumes::Volumes;

/// Where a container finds the programs of its image that something of this machine stands for.
const PROGRAMS_PATH: &str = "/run/image-programs";
/// Where a container says why it ends, unless the manifest says otherwise.
const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";
/// The longest message of that file, in bytes.
const TERMINATION_MESSAGE_BYTES: usize = 4096;

/// Makes a sandbox ready for the run with this number of restarts.
///
/// # Errors
///
/// When no command stands for the image, or something that the environment or a volume refers to is missing.
pub(super) async fn sandbox(
    host: &Host,
    facts: &Facts,
    volumes: &Volumes,
    container: &Container,
    restarts: u32,
) -> Result<Sandbox, Refusal> {
    let image = image(host, container)?;
    let mut environment = environment::of_container(host, facts, container, &image).await?;
    let directory = facts.directory_of(container);
    let failed = |error: std::io::Error| Refusal::configuration(format!("{}: {error}", directory.display()));
    let root = directory.join("root");
    fs::create_dir_all(&root).map_err(failed)?;
    let message = termination_message_file(facts, container);
    // Nothing of an earlier run must be taken for a message of this one.
    fs::write(&message, "").map_err(failed)?;
    let mut mounts = of_volumes(facts, volumes, container, &environment)?;
    let path = container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or(TERMINATION_MESSAGE_PATH);
    mounts.push(Mount { source: message, path: PathBuf::from(path), read_only: false });

    let scripts = image.scripts(&facts.placeholders(host));
    if !scripts.is_empty() {
        let programs = directory.join("programs");
        write_programs(&programs, &scripts).map_err(failed)?;
        mounts.push(Mount { source: programs, path: PathBuf::from(PROGRAMS_PATH), read_only: true });
        let path = environment.entry("PATH".to_owned()).or_default();
        *path = format!("{PROGRAMS_PATH}:{path}");
    }

    let words = |stated: &Option<Vec<String>>| -> Vec<String> {
        stated.iter().flatten().map(|word| expanded(word, &environment)).collect()
    };
    let arguments = image.command_line(&words(&container.command), &words(&container.args), &facts.placeholders(host));
    let working_directory = container.working_dir.as_ref().filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok(Sandbox {
        hostname: facts.pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).unwrap_or_else(|| facts.name.clone()),
        root,
        log: logs::file(&facts.logs, &container.name, restarts),
        mounts,
        working_directory: working_directory.or(image.working_directory).unwrap_or_else(|| PathBuf::from("/")),
        arguments,
        environment,
    })
}

fn write_programs(directory: &Path, scripts: &BTreeMap<String, String>) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (name, script) in scripts {
        let path = directory.join(name);
        fs::write(&path, script)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// What a container has written about its end, if anything.
pub(super) fn termination_message(facts: &Facts, container: &Container) -> Option<String> {
    let text = fs::read(termination_message_file(facts, container)).ok()?;
    let text = String::from_utf8_lossy(text.get(..TERMINATION_MESSAGE_BYTES.min(text.len())).unwrap_or_default()).into_owned();
    (!text.is_empty()).then_some(text)
}

fn termination_message_file(facts: &Facts, container: &Container) -> PathBuf {
    facts.directory_of(container).join("termination-message")
}

fn image(host: &Host, container: &Container) -> Result<Image, Refusal> {
    let reference = container.image.as_deref().unwrap_or_default();
    host.image(reference).map_err(Refusal::image)?.ok_or_else(|| {
        let map = host.images.as_ref().map_or_else(
            || "dev/images.yaml, and no other map was given: see 'local-node --images'".to_owned(),
            |path| path.display().to_string(),
        );
        Refusal::image(format!("Container image \"{reference}\" has no command on this node: add it to the image map {map}"))
    })
}

fn of_volumes(facts: &Facts, volumes: &Volumes, container: &Container, environment: &Environment) -> Result<Vec<Mount>, Refusal> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let Some(volume) = volumes.path(&mount.name) else {
            return Err(Refusal::configuration(format!("{}: there is no volume {}", facts.name, mount.name)));
        };
        let below = match (&mount.sub_path_expr, &mount.sub_path) {
            (Some(expression), _) if !expression.is_empty() => Some(expanded(expression, environment)),
            (_, Some(path)) if !path.is_empty() => Some(path.clone()),
            _ => None,
        };
        let source = match below {
            Some(below) => sub_path(volume, &below)?,
            None => volume.to_owned(),
        };
        let read_only = mount.read_only == Some(true);
        mounts.push(Mount { source, path: PathBuf::from(&mount.mount_path), read_only });
    }
    Ok(mounts)
}

/// A path within a volume, which is created as a directory if it does not exist.
fn sub_path(volume: &Path, below: &str) -> Result<PathBuf, Refusal> {
    let normal = Path::new(below).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !normal {
        return Err(Refusal::configuration(format!("subPath {below} leads out of the volume")));
    }
    let source = volume.join(below);
    if !source.exists() {
        fs::create_dir_all(&source).map_err(|error| Refusal::configuration(format!("subPath {below}: {error}")))?;
    }
    Ok(source)
}
