//! The kinds of calls of a trace, as the gateway sees them: whose they are, and in which format they are made.

use super::trace::Kind;
use crate::api::format::Format;
use crate::decide::gateway::plan::{Backend, Plan};
use crate::decide::request::labels::{self, Labels};
use crate::decide::request::operation::Operation;

/// The header that states the label taskType.
const TASK_TYPE: &str = "x-quartermaster-task-type";

/// The formats in which calls are made: the first that a backend of the route speaks.
pub(super) const FORMATS: [(Format, Operation); 5] = [
    (Format::ChatCompletions, Operation::ChatCompletions),
    (Format::Responses, Operation::Responses),
    (Format::Messages, Operation::Messages),
    (Format::Completions, Operation::Completions),
    (Format::Embeddings, Operation::Embeddings),
];

/// Calls that go the same way.
pub(super) struct CallKind<'a> {
    pub(super) caller: &'a str,
    pub(super) route: &'a str,
    pub(super) labels: Labels<'a>,
    pub(super) format: Format,
    pub(super) operation: Operation,
}

impl<'a> CallKind<'a> {
    /// Those of a kind of the trace, whose names are those of the plan.
    pub(super) fn of(plan: &'a Plan, kind: &'a Kind) -> Self {
        let headers = kind.task_type.iter().map(|type_| (TASK_TYPE, type_.as_str()));
        let of_plan = plan.callers.get(&kind.pool).zip(plan.routes.get(&kind.route));
        let labels = of_plan.map(|(caller, route)| labels::of_call(caller, &route.trusted_labels, headers, []));
        let named = of_plan.into_iter().flat_map(|(_, route)| {
            let of_rules = route.rules.iter().flat_map(|rule| &rule.backends).map(|candidate| &candidate.backend);
            route.backends.iter().map(|candidate| &candidate.backend).chain(of_rules)
        });
        let spoken: Vec<&Backend> = named.filter_map(|name| plan.backends.get(name)).collect();
        let speaks = |(format, _): &(Format, Operation)| spoken.iter().any(|backend| backend.formats.contains(format));
        let (format, operation) = FORMATS.into_iter().find(speaks).unwrap_or((Format::ChatCompletions, Operation::ChatCompletions));
        Self { caller: &kind.pool, route: &kind.route, labels: labels.unwrap_or_default(), format, operation }
    }
}
