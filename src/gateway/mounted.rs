//! The plan and the secrets that are mounted as files: what a gateway begins with, and what it follows while no operator speaks
//! to it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use quartermaster_core::decide::gateway::plan::Plan;
use secrecy::SecretString;

use super::in_force::Secrets;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct Mounted {
    /// The plan, as JSON.
    pub plan: PathBuf,
    /// A directory with a file for each secret.
    pub secrets: Option<PathBuf>,
}

/// Files that cannot be read. No message holds what is in a secret.
#[derive(Debug, thiserror::Error)]
pub enum MountedError {
    /// A file cannot be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The plan is none.
    #[error("failed to understand the plan {}: {problem}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The member and the problem.
        problem: String,
    },
    /// A secret is no text.
    #[error("failed to understand the secret {}: it is not UTF-8", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
    },
}

/// How the files look without being read: the file behind each name, its time and its length. A kubelet swaps all files of a
/// directory at once, by a link that each is reached through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looks(Vec<(PathBuf, Option<SystemTime>, u64)>);

impl Mounted {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// When one is missing, or in another form.
    pub fn read(&self) -> Result<(Plan, Secrets), MountedError> {
        let text = read(&self.plan)?;
        let plan = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(&text))
            .map_err(|error| MountedError::Parse { path: self.plan.clone(), problem: error.to_string() })?;
        let mut secrets = Secrets::new();
        for (name, path) in self.entries()? {
            let text = String::from_utf8(read(&path)?).map_err(|_| MountedError::Secret { path })?;
            secrets.insert(name, SecretString::from(text));
        }
        Ok((plan, secrets))
    }

    /// How the files look now. What is missing has no looks.
    pub fn looks(&self) -> Looks {
        let secrets = self.entries().unwrap_or_default().into_iter().map(|(_, path)| path);
        let look = |path: PathBuf| {
            let path = fs::canonicalize(path).ok()?;
            let metadata = fs::metadata(&path).ok()?;
            Some((path, metadata.modified().ok(), metadata.len()))
        };
        Looks(std::iter::once(self.plan.clone()).chain(secrets).filter_map(look).collect())
    }

    /// The files of secrets, by name. Names that begin with two dots are the kubelet's own.
    fn entries(&self) -> Result<Vec<(String, PathBuf)>, MountedError> {
        let Some(directory) = &self.secrets else { return Ok(Vec::new()) };
        let failed = |source| MountedError::Read { path: directory.clone(), source };
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if let Some(name) = path.file_name().and_then(|name| name.to_str())
                && !name.starts_with("..")
                && path.is_file()
            {
                entries.push((name.to_owned(), path));
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, MountedError> {
    fs::read(path).map_err(|source| MountedError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use quartermaster_core::decide::gateway::plan::SCHEMA;
    use secrecy::ExposeSecret as _;

    use super::*;

    /// A directory of its own that goes with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("quartermaster-mounted-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        /// A version of what a kubelet mounts: a directory of files, a link to it, and links through that.
        fn mount(&self, version: &str, files: &[(&str, &str)]) {
            let data = self.0.join(version);
            fs::create_dir_all(&data).unwrap();
            for (name, text) in files {
                fs::write(data.join(name), text).unwrap();
                let _there_already = symlink(format!("..data/{name}"), self.0.join(name));
            }
            symlink(version, self.0.join("..data_tmp")).unwrap();
            fs::rename(self.0.join("..data_tmp"), self.0.join("..data")).unwrap();
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_a_kubelet_mounts_is_read_and_its_next_version_looks_different() {
        let (plans, secrets) = (Directory::new("plan"), Directory::new("secrets"));
        let mounted = Mounted { plan: plans.0.join("plan.json"), secrets: Some(secrets.0.clone()) };
        let plan = Plan { schema: SCHEMA, namespace: "team".to_owned(), ..Plan::default() };
        let text = serde_json::to_string(&plan).unwrap();
        plans.mount("..2026_1", &[("plan.json", &text)]);
        secrets.mount("..2026_1", &[("claude.first", "sk-1")]);
        let (read, entries) = mounted.read().unwrap();
        assert_eq!(read, plan);
        assert_eq!(entries.keys().collect::<Vec<_>>(), ["claude.first"]);
        assert_eq!(entries["claude.first"].expose_secret(), "sk-1");
        let before = mounted.looks();
        assert_eq!(before, mounted.looks());
        secrets.mount("..2026_2", &[("claude.first", "sk-2")]);
        assert_ne!(before, mounted.looks(), "a rotated key of the same length is another file");
        assert_eq!(mounted.read().unwrap().1["claude.first"].expose_secret(), "sk-2");
    }

    #[test]
    fn a_plan_in_another_form_is_refused_with_the_member_that_is_wrong() {
        let plans = Directory::new("wrong");
        let mounted = Mounted { plan: plans.0.join("plan.json"), secrets: None };
        plans.mount("..1", &[("plan.json", r#"{"schema":1,"namespace":"team","callers":{},"routes":{"r":{}},"backends":{}}"#)]);
        let error = mounted.read().unwrap_err().to_string();
        assert!(error.contains("routes.r") && error.contains("modelName"), "{error}");
        assert!(matches!(Mounted { plan: plans.0.join("none"), secrets: None }.read(), Err(MountedError::Read { .. })));
    }
}
