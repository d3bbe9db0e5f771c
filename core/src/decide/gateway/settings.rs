//! What the users of a namespace set of its gateway: the ConfigMap `quartermaster-gateway`. Each of its keys is a setting, whose
//! value is YAML. It is strict: what is not known is an error that names it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements, Toleration};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Replicas where nothing is said: one can end without a call that fails.
const REPLICAS: u32 = 2;
/// The most replicas: what more are good for, a larger one does as well.
const MOST_REPLICAS: u32 = 100;
/// The settings that there are.
const KEYS: [&str; 6] = ["imagePullSecrets", "nodeSelector", "podAnnotations", "replicas", "resources", "tolerations"];

/// What the users of a namespace set of its gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// How many replicas. Default: 2.
    pub replicas: u32,
    /// What each asks of its node. Default: a tenth of a core and 128 MiB, without limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Secrets by which the image is pulled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Labels of the nodes on which it may run.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that it bears.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Annotations of its pods.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_annotations: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: REPLICAS,
            resources: None,
            image_pull_secrets: Vec::new(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            pod_annotations: BTreeMap::new(),
        }
    }
}

/// A setting that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("data.{key} {problem}")]
pub struct SettingError {
    /// The key of the ConfigMap.
    pub key: String,
    /// What is wrong with it, and what to do.
    pub problem: String,
}

impl Settings {
    /// The settings in the data of the ConfigMap.
    ///
    /// # Errors
    ///
    /// The first setting, by name, that cannot be understood.
    pub fn read(data: &BTreeMap<String, String>) -> Result<Self, SettingError> {
        let mut settings = Self::default();
        for (key, text) in data {
            match key.as_str() {
                "replicas" => settings.replicas = replicas(key, text)?,
                "resources" => settings.resources = Some(read(key, text)?),
                "imagePullSecrets" => settings.image_pull_secrets = read(key, text)?,
                "nodeSelector" => settings.node_selector = read(key, text)?,
                "tolerations" => settings.tolerations = read(key, text)?,
                "podAnnotations" => settings.pod_annotations = read(key, text)?,
                _ => return Err(error(key, format!("is no setting: remove it, or use one of {}", KEYS.join(", ")))),
            }
        }
        Ok(settings)
    }
}

fn error(key: &str, problem: impl Into<String>) -> SettingError {
    SettingError { key: key.to_owned(), problem: problem.into() }
}

fn replicas(key: &str, text: &str) -> Result<u32, SettingError> {
    match read::<u32>(key, text) {
        Ok(replicas @ 1..=MOST_REPLICAS) => Ok(replicas),
        _ => Err(error(key, format!("is no number of replicas: write a whole number from 1 to {MOST_REPLICAS}"))),
    }
}

/// Reads a value, all of it.
fn read<T: Serialize + DeserializeOwned>(key: &str, text: &str) -> Result<T, SettingError> {
    let failed = |problem: String| error(key, format!("cannot be read: {problem}"));
    let given: Value = serde_saphyr::from_str(text).map_err(|error| failed(first_line(&error.to_string())))?;
    let read: T = serde_json::from_value(given.clone()).map_err(|error| failed(error.to_string()))?;
    // The types of Kubernetes leave out what they do not know.
    let kept = serde_json::to_value(&read).map_err(|error| failed(error.to_string()))?;
    match left_out(&given, &kept, "") {
        Some(path) => Err(error(key, format!("has no member {path}: remove it, or correct the name"))),
        None => Ok(read),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The first member of a value that is not in what was made of it.
fn left_out(given: &Value, kept: &Value, path: &str) -> Option<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => given.iter().find_map(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match kept.get(name) {
                Some(kept) => left_out(value, kept, &path),
                None => (!value.is_null()).then_some(path),
            }
        }),
        (Value::Array(given), Value::Array(kept)) => {
            let mut items = given.iter().zip(kept).enumerate();
            items.find_map(|(number, (given, kept))| left_out(given, kept, &format!("{path}[{number}]")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn data(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_empty_config_map_has_the_defaults() {
        let settings = Settings::read(&BTreeMap::new()).unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.replicas, 2);
    }

    #[test]
    fn every_setting_is_read_as_yaml() {
        let settings = Settings::read(&data(&[
            ("replicas", "3"),
            ("resources", "requests: {cpu: 500m}\nlimits:\n  memory: 1Gi\n"),
            ("imagePullSecrets", "[{name: registry}]"),
            ("nodeSelector", "{pool: system}"),
            ("tolerations", "- {key: system, operator: Exists, effect: NoSchedule}"),
            ("podAnnotations", "{example.com/scrape: \"true\"}"),
        ]))
        .unwrap();
        assert_eq!(settings.replicas, 3);
        assert_eq!(settings.resources.unwrap().limits.unwrap()["memory"].0, "1Gi");
        assert_eq!(settings.image_pull_secrets[0].name, "registry");
        assert_eq!(settings.node_selector["pool"], "system");
        assert_eq!(settings.tolerations[0].key.as_deref(), Some("system"));
        assert_eq!(settings.pod_annotations["example.com/scrape"], "true");
    }

    #[rstest]
    #[case("replica", "3", "is no setting")]
    #[case("replicas", "0", "from 1 to 100")]
    #[case("replicas", "two", "from 1 to 100")]
    #[case("replicas", "1.5", "from 1 to 100")]
    #[case("replicas", "101", "from 1 to 100")]
    #[case("replicas", "", "from 1 to 100")]
    #[case("resources", "request: {cpu: 1}", "no member request")]
    #[case("resources", "limits: [", "cannot be read")]
    #[case("resources", "3", "cannot be read")]
    #[case("tolerations", "- {key: a, operatr: Exists}", "no member [0].operatr")]
    #[case("tolerations", "{key: a}", "cannot be read")]
    #[case("imagePullSecrets", "registry", "cannot be read")]
    #[case("podAnnotations", "{scrape: true}", "cannot be read")]
    #[case("nodeSelector", "{pool: [a]}", "cannot be read")]
    fn what_cannot_be_understood_is_refused_and_named(#[case] key: &str, #[case] value: &str, #[case] problem: &str) {
        let error = Settings::read(&data(&[(key, value)])).unwrap_err();
        assert_eq!(error.key, key);
        let told = error.to_string();
        assert!(told.starts_with(&format!("data.{key} ")) && told.contains(problem) && !told.contains('\n'), "{told}");
    }
}
