//! `quartermaster route`: which backend a call goes to, and why.

mod explanation;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kube::ResourceExt as _;
use quartermaster_core::api::{AgentPool, InferenceBackend, ModelRoute};
use quartermaster_core::decide::gateway::assemble::{self, Assembled, Resources};
use quartermaster_core::decide::gateway::backend::BackendFacts;
use quartermaster_core::decide::gateway::plan::Caller;
use quartermaster_core::decide::request::body::{self, Body};
use quartermaster_core::decide::request::model_name::{self, ModelNames, NoRoute};
use quartermaster_core::decide::request::operation::Operation;

use super::CommandError;
use super::manifests::Documents;
use super::output::{self, Format};
use explanation::Explanation;

/// Arguments of `quartermaster route`.
#[derive(Debug, clap::Args)]
pub struct RouteArguments {
    /// Files with ModelRoutes, InferenceBackends and AgentPools; - for standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The body of the call, as JSON; - for standard input.
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// The path of the gateway that is called.
    #[arg(long, value_name = "PATH", default_value = "/v1/chat/completions")]
    path: String,
    /// A header of the call, such as x-quartermaster-label-complexity=High. Can be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// The AgentPool that calls. Default: the only one of the files; without any, somebody who may call every route.
    #[arg(long, value_name = "POOL")]
    caller: Option<String>,
    /// How much of the caller's budgets is used, in percent: what rules compare with when.budgetUsedPercent. Default: no TokenBudget
    /// covers it.
    #[arg(long, value_name = "PERCENT")]
    budget_used: Option<u32>,
    /// How the answer is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Explains where the call goes.
pub fn print(arguments: RouteArguments) -> Result<(), CommandError> {
    let operation = operation(&arguments.path)?;
    if arguments.request == Path::new("-") && arguments.files.iter().any(|file| file == Path::new("-")) {
        return Err(CommandError::Input("only one of the manifests and --request can come from standard input".to_owned()));
    }
    let documents = Documents::read(&arguments.files)?;
    let (assembled, callers) = assembled(&documents)?;
    let (name, caller) = caller(arguments.caller.as_deref(), callers, &assembled)?;
    let body = request(&arguments.request, operation)?;
    let (route, _) = match ModelNames::of(&assembled.plan).route_of(&assembled.plan, &caller, &body.model) {
        Ok(found) => found,
        Err(none) => return Err(CommandError::Refused(refusal(&none, &body.model, &name, &caller, &assembled))),
    };
    let of_caller = (name.as_str(), &caller, arguments.budget_used);
    let explanation = Explanation::of(&assembled, &route, of_caller, &body, &arguments.headers);
    let Some(explanation) = explanation else {
        return Err(CommandError::Failed(format!("the plan lost the route {route}")));
    };
    match arguments.output {
        Format::Text => output::text(&explanation.text())?,
        format => output::value(format, &explanation)?,
    }
    match &explanation.goes_to {
        Some(_) => Ok(()),
        None => Err(CommandError::Refused(format!("no backend of the route {route} can answer the call"))),
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a header is NAME=VALUE")?;
    if name.is_empty() { Err("a header is NAME=VALUE".to_owned()) } else { Ok((name.to_owned(), value.to_owned())) }
}

fn operation(path: &str) -> Result<Operation, CommandError> {
    let operation = Operation::of_path(path).filter(|operation| operation.format().is_some());
    let paths = "/v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, /v1/messages, /v1/messages/count_tokens";
    operation.ok_or_else(|| CommandError::Input(format!("--path {path}: no backend is asked for this path; those are {paths}")))
}

fn request(path: &Path, operation: Operation) -> Result<Body, CommandError> {
    let text = output::read(path)?;
    body::read(operation, text.as_bytes())
        .map_err(|error| CommandError::Input(format!("the request in {}: {error}", path.display())))
}

/// The plan of what the files hold, and the callers among it. Secrets that a spec refers to are taken to exist.
fn assembled(documents: &Documents) -> Result<(Assembled, BTreeMap<String, Caller>), CommandError> {
    let routes = documents.objects::<ModelRoute>()?;
    let backends = documents.objects::<InferenceBackend>()?;
    let pools = documents.objects::<AgentPool>()?;
    if routes.is_empty() {
        return Err(CommandError::Input("no ModelRoute in the files".to_owned()));
    }
    let namespaces = routes.iter().map(ModelRoute::namespace).chain(backends.iter().map(InferenceBackend::namespace));
    let namespaces: BTreeSet<String> = namespaces.chain(pools.iter().map(AgentPool::namespace)).flatten().collect();
    if namespaces.len() > 1 {
        let names = namespaces.into_iter().collect::<Vec<_>>().join(", ");
        let advice = "a gateway belongs to one namespace, so leave the objects of the others out";
        return Err(CommandError::Input(format!("the files have objects of several namespaces ({names}): {advice}")));
    }
    let callers: BTreeMap<String, Caller> = pools.into_iter().map(|pool| (pool.name_any(), as_caller(pool))).collect();
    let resources = Resources {
        namespace: namespaces.into_iter().next().unwrap_or_else(|| "default".to_owned()),
        routes,
        backends: backends.into_iter().map(|backend| BackendFacts { backend, certificate_authority: None }).collect(),
        callers: callers.clone(),
        ..Resources::default()
    };
    Ok((assemble::assemble(&resources), callers))
}

/// A pool as it calls, without its key.
fn as_caller(pool: AgentPool) -> Caller {
    let routes = pool.spec.model_routes.into_iter().map(|route| route.name).collect();
    Caller { labels: pool.spec.request_labels, routes, ..Caller::default() }
}

/// Who calls.
fn caller(name: Option<&str>, callers: BTreeMap<String, Caller>, assembled: &Assembled) -> Result<(String, Caller), CommandError> {
    let known = || callers.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    if let Some(name) = name {
        let found = callers.get(name).map(|caller| (name.to_owned(), caller.clone()));
        let of_files = if callers.is_empty() { "none".to_owned() } else { known() };
        return found.ok_or_else(|| CommandError::Input(format!("--caller {name}: the AgentPools of the files are: {of_files}")));
    }
    if callers.len() > 1 {
        return Err(CommandError::Input(format!(
            "several AgentPools in the files: say with --caller which of them calls: {}",
            known()
        )));
    }
    let anybody =
        || ("somebody".to_owned(), Caller { routes: assembled.plan.routes.keys().cloned().collect(), ..Caller::default() });
    Ok(callers.into_iter().next().unwrap_or_else(anybody))
}

/// Why no route answers, with what is wrong with the routes of the files.
fn refusal(none: &NoRoute, model: &str, name: &str, caller: &Caller, assembled: &Assembled) -> String {
    let mut lines = vec![format!("model {model:?}: {none}")];
    let names = model_name::models(&assembled.plan, caller).join(", ");
    lines.push(if names.is_empty() { format!("{name} may call nothing") } else { format!("{name} may call: {names}") });
    for (route, finding) in &assembled.routes {
        lines.extend(finding.refused.iter().map(|problem| format!("ModelRoute {route} is not accepted: {problem}")));
    }
    lines.join("\n")
}
