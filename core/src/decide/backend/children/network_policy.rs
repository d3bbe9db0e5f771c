//! The NetworkPolicy of a self-hosted model: who may connect to its pods. Whom they connect to is left open: a model is loaded from
//! where its spec says.

use super::{BuildError, PORT, Subject, child, metadata, selector};
use crate::decide::decision::{ApplyMode, Child};
use crate::decide::gateway::children as gateway;
use crate::decide::ingress::{namespace, own_pods_with, policy, rule};

/// The NetworkPolicy `<backend>-backend`: the gateway of the namespace, the operator, and, where the engine has metrics, whoever
/// collects them, since they are served on the port that calls come in by. The kubelet's probes come from the node, which no policy
/// keeps out. None where the operator's configuration has none made.
///
/// # Errors
///
/// None that depends on the plan.
pub fn build(plan: &impl Subject) -> Result<Option<Child>, BuildError> {
    let settings = plan.settings();
    if !settings.network_policies.enabled {
        return Ok(None);
    }
    let mut from = vec![own_pods_with(gateway::selector()), namespace(&settings.operator_namespace)];
    if plan.engine().metrics_path().is_some() {
        from.extend(settings.network_policies.metrics_namespaces.iter().map(|name| namespace(name)));
    }
    let policy = policy(metadata(plan), selector(plan.name()), vec![rule(PORT, from)]);
    child(plan, "NetworkPolicy", &policy, ApplyMode::Apply).map(Some)
}
