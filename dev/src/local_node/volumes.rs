//! The volumes of a pod, as directories of this machine.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, PodSpec, ProjectedVolumeSource, Volume, VolumeProjection};

use super::fields;
use super::files::{self, File, Files};
use super::host::{Facts, Host};
use super::references::{self, Entries};
use super::refusal::Refusal;
use super::tokens::Tokens;

/// The kubelet's default permissions.
const DEFAULT_MODE: u32 = 0o644;

/// The volumes of a pod.
#[derive(Default)]
pub(super) struct Volumes {
    paths: BTreeMap<String, PathBuf>,
    tokens: Tokens,
}

impl Volumes {
    /// Makes every volume hold what it should hold now. Called before the containers start, and from time to time while they
    /// run, so that changes of ConfigMaps and new tokens arrive.
    ///
    /// # Errors
    ///
    /// When something that a volume refers to is missing, or its kind is not supported.
    pub async fn prepare(&mut self, host: &Host, facts: &Facts) -> Result<(), Refusal> {
        let spec = facts.pod.spec.clone().unwrap_or_default();
        for volume in spec.volumes.iter().flatten() {
            let refused = |message: String| Refusal::volume(format!("volume {}: {message}", volume.name));
            let directory = facts.directory.join("volumes").join(&volume.name);
            let path = match self.files(host, facts, &spec, volume).await.map_err(refused)? {
                Some(files) => files::write(&directory, &files).map(|()| directory).map_err(|error| refused(error.to_string()))?,
                None => directory_of(volume, directory).map_err(refused)?,
            };
            self.paths.insert(volume.name.clone(), path);
        }
        Ok(())
    }

    /// Where a volume is.
    pub fn path(&self, volume: &str) -> Option<&Path> {
        self.paths.get(volume).map(PathBuf::as_path)
    }

    /// Whether anything in them can change while the pod runs.
    pub fn can_change(facts: &Facts) -> bool {
        let spec = facts.pod.spec.as_ref();
        spec.and_then(|spec| spec.volumes.as_ref()).into_iter().flatten().any(|volume| {
            volume.config_map.is_some() || volume.secret.is_some() || volume.projected.is_some() || volume.downward_api.is_some()
        })
    }

    /// The files that a volume is made of. None for one that is a directory.
    async fn files(&mut self, host: &Host, facts: &Facts, spec: &PodSpec, volume: &Volume) -> Result<Option<Files>, String> {
        let namespace = &facts.namespace;
        if let Some(source) = &volume.config_map {
            let entries = references::config_map(&host.client, namespace, &source.name).await?;
            let what = format!("configmap \"{}\"", source.name);
            return of_entries(&what, entries, source.items.as_deref(), source.optional, mode(source.default_mode)).map(Some);
        }
        if let Some(source) = &volume.secret {
            let name = source.secret_name.as_deref().unwrap_or_default();
            let entries = references::secret(&host.client, namespace, name).await?;
            let what = format!("secret \"{name}\"");
            return of_entries(&what, entries, source.items.as_deref(), source.optional, mode(source.default_mode)).map(Some);
        }
        if let Some(source) = &volume.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            return of_fields(facts, spec, items, mode(source.default_mode)).map(Some);
        }
        if let Some(source) = &volume.projected {
            return self.projected(host, facts, spec, source).await.map(Some);
        }
        Ok(None)
    }

    async fn projected(
        &mut self,
        host: &Host,
        facts: &Facts,
        spec: &PodSpec,
        volume: &ProjectedVolumeSource,
    ) -> Result<Files, String> {
        let mode = mode(volume.default_mode);
        let mut all = Files::new();
        for source in volume.sources.iter().flatten() {
            all.extend(self.projection(host, facts, spec, source, mode).await?);
        }
        Ok(all)
    }

    async fn projection(
        &mut self,
        host: &Host,
        facts: &Facts,
        spec: &PodSpec,
        source: &VolumeProjection,
        mode: u32,
    ) -> Result<Files, String> {
        let namespace = &facts.namespace;
        if let Some(source) = &source.config_map {
            let entries = references::config_map(&host.client, namespace, &source.name).await?;
            return of_entries(&format!("configmap \"{}\"", source.name), entries, source.items.as_deref(), source.optional, mode);
        }
        if let Some(source) = &source.secret {
            let entries = references::secret(&host.client, namespace, &source.name).await?;
            return of_entries(&format!("secret \"{}\"", source.name), entries, source.items.as_deref(), source.optional, mode);
        }
        if let Some(source) = &source.downward_api {
            return of_fields(facts, spec, source.items.as_deref().unwrap_or_default(), mode);
        }
        if let Some(source) = &source.service_account_token {
            let content = self.tokens.current(host, facts, source).await?.into_bytes();
            return Ok(Files::from([(source.path.clone(), File { content, mode })]));
        }
        Err("a projection of this kind is not supported by the local node".to_owned())
    }
}

/// The directory of a volume that holds no files of its own.
fn directory_of(volume: &Volume, directory: PathBuf) -> Result<PathBuf, String> {
    if volume.empty_dir.is_some() {
        if !directory.is_dir() {
            let anybody = Permissions::from_mode(0o777);
            fs::create_dir_all(&directory)
                .and_then(|()| fs::set_permissions(&directory, anybody))
                .map_err(|error| error.to_string())?;
        }
        return Ok(directory);
    }
    let Some(source) = &volume.host_path else {
        return Err("a volume of this kind is not supported by the local node".to_owned());
    };
    let path = PathBuf::from(&source.path);
    if source.type_.as_deref() == Some("DirectoryOrCreate") {
        fs::create_dir_all(&path).map_err(|error| format!("hostPath {}: {error}", source.path))?;
    }
    if path.exists() { Ok(path) } else { Err(format!("hostPath {} does not exist", source.path)) }
}

/// Entries as files: all under their keys, or those that are listed under their paths.
fn of_entries(
    what: &str,
    entries: Option<Entries>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    default_mode: u32,
) -> Result<Files, String> {
    let optional = optional == Some(true);
    let Some(entries) = entries else {
        return if optional { Ok(Files::new()) } else { Err(format!("{what} not found")) };
    };
    let Some(items) = items else {
        return Ok(entries.into_iter().map(|(key, content)| (key, File { content, mode: default_mode })).collect());
    };
    let mut all = Files::new();
    for item in items {
        match entries.get(&item.key) {
            Some(content) => {
                let mode = item.mode.map_or(default_mode, |value| mode(Some(value)));
                all.insert(item.path.clone(), File { content: content.clone(), mode });
            }
            None if optional => {}
            None => return Err(format!("{what} references non-existent key: {}", item.key)),
        }
    }
    Ok(all)
}

fn of_fields(facts: &Facts, spec: &PodSpec, items: &[DownwardAPIVolumeFile], default_mode: u32) -> Result<Files, String> {
    let mut all = Files::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::of_pod(facts, &field.field_path)?,
            (None, Some(selector)) => {
                let container = spec.containers.iter().find(|container| Some(&container.name) == selector.container_name.as_ref());
                fields::of_resources(container.ok_or_else(|| format!("{}: no such container", item.path))?, selector)?
            }
            (None, None) => continue,
        };
        let mode = item.mode.map_or(default_mode, |value| mode(Some(value)));
        all.insert(item.path.clone(), File { content: value.into_bytes(), mode });
    }
    Ok(all)
}

fn mode(stated: Option<i32>) -> u32 {
    stated.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(DEFAULT_MODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Option<Entries> {
        Some(Entries::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]))
    }

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath { key: key.to_owned(), path: path.to_owned(), mode, ..KeyToPath::default() }
    }

    #[test]
    fn without_a_list_every_entry_is_a_file_named_like_its_key() {
        let files = of_entries("x", entries(), None, None, 0o600).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(files.values().all(|file| file.mode == 0o600));
    }

    #[test]
    fn a_list_says_which_entries_and_where() {
        let files = of_entries("x", entries(), Some(&[item("b", "deep/c", Some(0o400))]), None, 0o644).unwrap();
        assert_eq!(files, Files::from([("deep/c".to_owned(), File { content: b"2".to_vec(), mode: 0o400 })]));
    }

    #[test]
    fn what_is_missing_is_refused_unless_it_is_optional() {
        assert_eq!(of_entries("secret \"s\"", None, None, None, 0).unwrap_err(), "secret \"s\" not found");
        assert_eq!(of_entries("x", None, None, Some(true), 0), Ok(Files::new()));
        assert!(of_entries("x", entries(), Some(&[item("c", "c", None)]), None, 0).unwrap_err().contains("non-existent key: c"));
        assert_eq!(of_entries("x", entries(), Some(&[item("c", "c", None)]), Some(true), 0), Ok(Files::new()));
    }
}
