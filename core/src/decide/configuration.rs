//! Whether the values of a configuration make sense, beyond their types.

use core::net::SocketAddr;
use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::api::configuration::{AcceleratorProfile, Admin, Configuration, EgressProxy, LeaderElection, VllmDefaults};
use crate::api::quantity;

use super::lease::Timing;

/// A value of the configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}; {remedy}")]
pub struct InvalidValue {
    /// Where the value is, for example `acceleratorProfiles[0].memory`.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do, as an imperative.
    pub remedy: String,
}

impl InvalidValue {
    /// A problem at `path` and what to do about it.
    pub fn new(path: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

/// Every value of `configuration` that cannot be used, in the order of the file's documentation.
///
/// # Errors
///
/// All problems at once, so that a file is corrected in one go. Never empty.
pub fn validate(configuration: &Configuration) -> Result<(), Vec<InvalidValue>> {
    let mut problems = Vec::new();
    namespaces("watchNamespaces", &configuration.watch_namespaces, &mut problems);
    profiles(&configuration.accelerator_profiles, &mut problems);
    vllm(&configuration.vllm, &mut problems);
    if let Some(image) = &configuration.ollama.image {
        pinned("ollama.image", image, "add a tag, for example :0.32.15", &mut problems);
    }
    if let Some(image) = &configuration.gateway.image {
        pinned("gateway.image", image, "add a tag, for example :0.1.0", &mut problems);
    }
    namespaces("networkPolicies.metricsNamespaces", &configuration.network_policies.metrics_namespaces, &mut problems);
    namespaces("destinations.serviceNamespaces", &configuration.destinations.service_namespaces, &mut problems);
    if let Some(proxy) = &configuration.egress_proxy {
        egress_proxy(proxy, &mut problems);
    }
    leader_election(&configuration.leader_election, &mut problems);
    admin(&configuration.admin, &mut problems);
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn namespaces(path: &str, names: &[String], problems: &mut Vec<InvalidValue>) {
    let mut seen = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if !is_dns_label(name) {
            problems.push(InvalidValue::new(
                path,
                format!("`{name}` is not the name of a namespace"),
                "use at most 63 lower-case letters, digits and dashes, for example team-a",
            ));
        } else if !seen.insert(name) {
            problems.push(InvalidValue::new(path, format!("`{name}` is listed twice"), "remove one"));
        }
    }
}

fn profiles(profiles: &[AcceleratorProfile], problems: &mut Vec<InvalidValue>) {
    let mut names = BTreeSet::new();
    for (index, profile) in profiles.iter().enumerate() {
        let at = |field: &str| format!("acceleratorProfiles[{index}].{field}");
        if profile.name.trim().is_empty() {
            problems.push(InvalidValue::new(at("name"), "it is empty", "give the profile a name, it is shown in explanations"));
        } else if !names.insert(&profile.name) {
            problems.push(InvalidValue::new(
                at("name"),
                format!("`{}` is the name of two profiles", profile.name),
                "give each its own",
            ));
        }
        if profile.product.trim().is_empty() {
            problems.push(InvalidValue::new(
                at("product"),
                "it is empty",
                "write what the node label nvidia.com/gpu.product will say, for example NVIDIA-L4",
            ));
        }
        if let Some(resource) = profile.resource_name.as_deref().filter(|resource| !is_extended_resource(resource)) {
            problems.push(InvalidValue::new(
                at("resourceName"),
                format!("`{resource}` is not an extended resource"),
                "write domain and name, for example nvidia.com/gpu",
            ));
        }
        if let Some(memory) = &profile.memory
            && let Some(problem) = memory_problem(memory)
        {
            problems.push(InvalidValue::new(at("memory"), problem, "write the memory of one accelerator, for example 80Gi"));
        }
        if profile.gpus_per_node == 0 {
            problems.push(InvalidValue::new(at("gpusPerNode"), "a node without accelerators offers none", "use 1 or more"));
        }
    }
}

/// Below this, "80" was written where 80Gi was meant: no accelerator has less than 1 GiB.
const SMALLEST_MEMORY: u64 = 1 << 30;

fn memory_problem(memory: &Quantity) -> Option<String> {
    match quantity::to_u64(memory) {
        Err(error) => Some(error.to_string()),
        Ok(bytes) if bytes < SMALLEST_MEMORY => Some(format!("`{}` is less than 1Gi", memory.0)),
        Ok(_) => None,
    }
}

fn vllm(defaults: &VllmDefaults, problems: &mut Vec<InvalidValue>) {
    if let Some(image) = &defaults.image {
        pinned("vllm.image", image, "add a tag, for example :v0.33.0", problems);
    }
    if let Some(path) = &defaults.node_local_cache_path {
        let inside = path.split('/').all(|part| part != "..");
        if !path.starts_with('/') || !inside || path.trim_matches('/').is_empty() {
            problems.push(InvalidValue::new(
                "vllm.nodeLocalCachePath",
                format!("`{path}` is not an absolute path of a directory below /"),
                "write for example /var/lib/models",
            ));
        }
    }
}

fn pinned(path: &str, image: &str, fix: &str, problems: &mut Vec<InvalidValue>) {
    if !is_pinned_image(image) {
        let problem = format!("`{image}` has neither tag nor digest, so that every pod could run another release");
        problems.push(InvalidValue::new(path, problem, fix));
    }
}

fn egress_proxy(proxy: &EgressProxy, problems: &mut Vec<InvalidValue>) {
    let path = "egressProxy.url";
    let rest = ["http://", "https://"].into_iter().find_map(|scheme| proxy.url.strip_prefix(scheme));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    if authority.contains('@') {
        // The value is left out: it holds a password.
        problems.push(InvalidValue::new(
            path,
            "it contains credentials",
            "use a proxy that admits the operator without a password",
        ));
    } else if authority.is_empty() || authority.starts_with(':') || authority.contains(char::is_whitespace) {
        problems.push(InvalidValue::new(
            path,
            format!("`{}` is not an http or https URL with a host", proxy.url),
            "write for example http://proxy.example.com:3128",
        ));
    }
    for (index, host) in proxy.no_proxy.iter().enumerate() {
        if host.trim().is_empty() || host.contains(char::is_whitespace) {
            problems.push(InvalidValue::new(
                format!("egressProxy.noProxy[{index}]"),
                format!("`{host}` is not a host"),
                "write one host, domain or range an entry",
            ));
        }
    }
}

fn leader_election(election: &LeaderElection, problems: &mut Vec<InvalidValue>) {
    if !election.lease_name.split('.').all(is_dns_label) || election.lease_name.len() > 253 {
        problems.push(InvalidValue::new(
            "leaderElection.leaseName",
            format!("`{}` is not the name of an object", election.lease_name),
            "use lower-case letters, digits, dashes and dots, for example quartermaster",
        ));
    }
    problems.extend(Timing::from_configuration(election).err());
}

fn admin(admin: &Admin, problems: &mut Vec<InvalidValue>) {
    if admin.listen.parse::<SocketAddr>().is_err() {
        problems.push(InvalidValue::new(
            "admin.listen",
            format!("`{}` is not an IP address and a port", admin.listen),
            "write for example 0.0.0.0:8080 or \"[::]:8080\"",
        ));
    }
}

/// RFC 1123, as Kubernetes checks names of namespaces.
fn is_dns_label(name: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [name.bytes().next(), name.bytes().last()];
    name.len() <= 63
        && ends.into_iter().all(|end| end.is_some_and(alphanumeric))
        && name.bytes().all(|byte| alphanumeric(byte) || byte == b'-')
}

fn is_extended_resource(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, resource)| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        domain.split('.').all(is_dns_label) && !resource.is_empty() && resource.len() <= 63 && resource.bytes().all(inner)
    })
}

/// Whether an image is named with a tag or a digest. A colon before the last slash is the port of the registry.
fn is_pinned_image(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or_default();
    !image.contains(char::is_whitespace)
        && last.split_once(['@', ':']).is_some_and(|(name, version)| !name.is_empty() && !version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::duration::Duration;

    /// The paths that `validate` complains about after `change` to the defaults.
    fn paths(change: impl FnOnce(&mut Configuration)) -> Vec<String> {
        let mut configuration = Configuration::default();
        change(&mut configuration);
        validate(&configuration).err().unwrap_or_default().into_iter().map(|problem| problem.path).collect()
    }

    fn profile() -> AcceleratorProfile {
        AcceleratorProfile {
            name: "h100".into(),
            product: "NVIDIA-H100-80GB-HBM3".into(),
            resource_name: Some("nvidia.com/gpu".into()),
            memory: Some(Quantity("80Gi".into())),
            gpus_per_node: 8,
            node_selector: [("pool".to_owned(), "h100".to_owned())].into(),
        }
    }

    #[test]
    fn the_defaults_and_a_complete_configuration_are_valid() {
        assert_eq!(validate(&Configuration::default()), Ok(()));
        assert_eq!(
            paths(|configuration| {
                configuration.watch_namespaces = vec!["team-a".into(), "team-b".into()];
                configuration.accelerator_profiles = vec![profile()];
                configuration.vllm.image = Some("registry.example.com:5000/vllm/vllm-openai:v0.33.0".into());
                configuration.vllm.node_local_cache_path = Some("/var/lib/models".into());
                configuration.egress_proxy =
                    Some(EgressProxy { url: "http://proxy.example.com:3128".into(), no_proxy: vec![".svc".into()] });
                configuration.admin.listen = "[::]:8080".into();
            }),
            Vec::<String>::new()
        );
    }

    #[test]
    fn each_unusable_value_is_named_by_its_path() {
        type Change = fn(&mut Configuration);
        let cases: [(&str, Change); 23] = [
            ("watchNamespaces[0]", |c| c.watch_namespaces = vec!["Team_A".into()]),
            ("watchNamespaces[1]", |c| c.watch_namespaces = vec!["a".into(), "a".into()]),
            ("networkPolicies.metricsNamespaces[0]", |c| c.network_policies.metrics_namespaces = vec!["Monitoring".into()]),
            ("destinations.serviceNamespaces[0]", |c| c.destinations.service_namespaces = vec![String::new()]),
            ("acceleratorProfiles[0].name", |c| {
                c.accelerator_profiles = vec![AcceleratorProfile { name: " ".into(), ..profile() }];
            }),
            ("acceleratorProfiles[1].name", |c| c.accelerator_profiles = vec![profile(), profile()]),
            ("acceleratorProfiles[0].product", |c| {
                c.accelerator_profiles = vec![AcceleratorProfile { product: String::new(), ..profile() }];
            }),
            ("acceleratorProfiles[0].resourceName", |c| {
                c.accelerator_profiles = vec![AcceleratorProfile { resource_name: Some("gpu".into()), ..profile() }];
            }),
            ("acceleratorProfiles[0].memory", |c| {
                c.accelerator_profiles = vec![AcceleratorProfile { memory: Some(Quantity("80 GB".into())), ..profile() }];
            }),
            ("acceleratorProfiles[0].memory", |c| {
                c.accelerator_profiles = vec![AcceleratorProfile { memory: Some(Quantity("80".into())), ..profile() }];
            }),
            ("acceleratorProfiles[0].gpusPerNode", |c| {
                c.accelerator_profiles = vec![AcceleratorProfile { gpus_per_node: 0, ..profile() }];
            }),
            ("vllm.image", |c| c.vllm.image = Some("registry.example.com:5000/vllm/vllm-openai".into())),
            ("ollama.image", |c| c.ollama.image = Some("registry.example.com:5000/ollama/ollama".into())),
            ("vllm.nodeLocalCachePath", |c| c.vllm.node_local_cache_path = Some("models".into())),
            ("vllm.nodeLocalCachePath", |c| c.vllm.node_local_cache_path = Some("/".into())),
            ("vllm.nodeLocalCachePath", |c| c.vllm.node_local_cache_path = Some("/var/../etc".into())),
            ("egressProxy.url", |c| c.egress_proxy = Some(EgressProxy { url: "socks5://p:1".into(), no_proxy: vec![] })),
            ("leaderElection.leaseName", |c| c.leader_election.lease_name = "Quartermaster".into()),
            ("leaderElection.leaseDuration", |c| c.leader_election.lease_duration = Duration("soon".into())),
            ("leaderElection.leaseDuration", |c| c.leader_election.lease_duration = Duration("2h".into())),
            ("leaderElection.renewDeadline", |c| c.leader_election.renew_deadline = Duration("15s".into())),
            ("leaderElection.retryPeriod", |c| c.leader_election.retry_period = Duration("6s".into())),
            ("admin.listen", |c| c.admin.listen = ":8080".into()),
        ];
        for (path, change) in cases {
            assert_eq!(paths(change), [path]);
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let told = paths(|configuration| {
            configuration.vllm.image = Some("vllm".into());
            configuration.leader_election.retry_period = Duration("0s".into());
            configuration.admin.listen = "localhost".into();
        });
        assert_eq!(told, ["vllm.image", "leaderElection.retryPeriod", "admin.listen"]);
    }

    #[test]
    fn credentials_of_a_proxy_are_refused_and_not_repeated() {
        let proxy = EgressProxy { url: "http://me:hunter2@proxy:3128".into(), no_proxy: vec![] };
        let configuration = Configuration { egress_proxy: Some(proxy), ..Configuration::default() };
        let problems = validate(&configuration).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(!problems[0].to_string().contains("hunter2"), "{}", problems[0]);
    }
}
