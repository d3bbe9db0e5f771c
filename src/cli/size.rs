//! `quartermaster size`: why a model gets the accelerators that it gets.

use std::path::PathBuf;

use quartermaster_core::api::InferenceBackend;
use quartermaster_core::api::conditions::reasons;
use quartermaster_core::api::status::SizingStatus;
use quartermaster_core::api::vllm::VllmSpec;
use quartermaster_core::decide::backend::facts::{NodeFacts, Settings};
use quartermaster_core::decide::backend::model::resolve::{self, Resolution};
use quartermaster_core::decide::backend::sizing::{self, Cluster, Explanation, Refusal, Request};
use quartermaster_core::decide::backend::{accelerator, self_hosted};
use serde_json::{Value, json};

use super::CommandError;
use super::cluster::{self, ClusterArguments};
use super::manifests;
use super::output::{self, Format};

/// Arguments of `quartermaster size`.
#[derive(Debug, clap::Args)]
pub struct SizeArguments {
    /// Files with InferenceBackends; - for standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How the answer is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Explains every backend with vLLM of the files: Ollama sizes by itself, and a hosted model has no size.
pub fn print(arguments: SizeArguments) -> Result<(), CommandError> {
    let nodes = arguments.cluster.nodes()?;
    let settings = arguments.cluster.settings()?;
    let mut answers = Vec::new();
    for backend in manifests::objects::<InferenceBackend>(&arguments.files)? {
        if let Some(spec) = &backend.spec.vllm {
            let mut answer = Answer::of(&backend, spec, &nodes, &settings);
            if let Err(refusal) = &mut answer.explanation.outcome {
                refusal.message = arguments.cluster.with_advice(refusal.reason, &refusal.message);
            }
            answers.push(answer);
        }
    }
    if answers.is_empty() {
        return Err(CommandError::Input(
            "no InferenceBackend with spec.vllm in the files: only what vLLM serves is sized".to_owned(),
        ));
    }
    if arguments.output == Format::Text {
        let text: Vec<String> = answers.iter().map(Answer::text).collect();
        output::text(&text.join("\n"))?;
    } else {
        output::documents(arguments.output, &answers.iter().map(Answer::value).collect::<Vec<_>>())?;
    }
    let refused = answers.iter().filter(|answer| answer.explanation.outcome.is_err()).count();
    if refused == 0 { Ok(()) } else { Err(CommandError::Refused(format!("{refused} of {} models cannot be sized", answers.len()))) }
}

struct Answer {
    name: String,
    model: String,
    sources: String,
    inputs_hash: String,
    image: String,
    /// What is missing where the spec's own sizes were taken without a computation.
    unknown: Option<String>,
    explanation: Explanation,
}

impl Answer {
    fn of(backend: &InferenceBackend, spec: &VllmSpec, nodes: &[NodeFacts], settings: &Settings) -> Self {
        let resolution = resolve::resolve(spec, &cluster::hub(spec));
        let (without_hub, sources) = resolve::without_hub(spec);
        let (architecture, unknown) = match &resolution {
            Resolution::Known { architecture, .. } => (architecture.as_ref(), None),
            Resolution::Unknown { architecture, message } => (architecture.as_ref(), Some(message.clone())),
            _ => (&without_hub, None),
        };
        let accelerators = accelerator::candidates(spec.accelerator.as_ref(), nodes, &settings.accelerator_profiles);
        let request = Request {
            architecture,
            spec,
            accelerators: accelerators.as_deref().unwrap_or_default(),
            cluster: Cluster { nodes, profiles: &settings.accelerator_profiles },
        };
        let refusal = refusal(spec, settings, &resolution, &request).or_else(|| accelerators.as_ref().err().cloned());
        let mut explanation = match refusal {
            Some(refusal) => Explanation::refused(refusal),
            None => sizing::explain(&request),
        };
        if let (Err(refusal), Some(message)) = (&mut explanation.outcome, &unknown)
            && refusal.reason == reasons::MODEL_UNKNOWN
        {
            refusal.message.clone_from(message);
        }
        let sources: Vec<String> = sources.iter().map(|source| format!("{source:?}").to_lowercase()).collect();
        Self {
            name: backend.metadata.name.clone().unwrap_or_default(),
            model: spec.model.clone(),
            sources: if sources.is_empty() { "nothing is known".to_owned() } else { sources.join(", ") },
            inputs_hash: sizing::inputs_hash(&request),
            image: self_hosted::image(spec, settings),
            unknown,
            explanation,
        }
    }

    /// The fields of `status.sizing`, with reason and message.
    fn value(&self) -> Value {
        let (mut value, reason, message) = match &self.explanation.outcome {
            Ok(sizing) => {
                let status = SizingStatus { image: Some(self.image.clone()), ..sizing.to_status(self.inputs_hash.clone()) };
                let (reason, message) = match &self.unknown {
                    Some(message) => (reasons::MODEL_UNKNOWN, message.clone()),
                    None => (reasons::SIZED, sizing.derivation.clone()),
                };
                (serde_json::to_value(status).unwrap_or_default(), reason, message)
            }
            Err(Refusal { reason, message, .. }) => (json!({}), *reason, message.clone()),
        };
        if let Some(object) = value.as_object_mut() {
            object.insert("name".to_owned(), json!(self.name));
            object.insert("model".to_owned(), json!(self.model));
            object.insert("reason".to_owned(), json!(reason));
            object.insert("message".to_owned(), json!(message));
            object.insert("candidates".to_owned(), json!(self.explanation.candidates));
            object.insert("arithmetic".to_owned(), json!(self.explanation.arithmetic));
            if let Err(refusal) = &self.explanation.outcome {
                object.insert("fixes".to_owned(), json!(refusal.fixes));
            }
        }
        value
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("{}: {}", self.name, self.model), format!("  facts from: {}", self.sources)];
        if !self.explanation.candidates.is_empty() {
            lines.push("  tried:".to_owned());
        }
        for candidate in &self.explanation.candidates {
            let mark = if candidate.fits { "fits" } else { "no" };
            let sizes = match candidate.tensor {
                0 => String::new(),
                tensor => format!(" TP{tensor} PP{} DP{}", candidate.pipeline, candidate.data),
            };
            lines.push(format!("    {mark:4} {}{sizes}: {}", candidate.accelerator, candidate.outcome));
        }
        match &self.explanation.outcome {
            Ok(sizing) => {
                lines.push(format!("  chosen: {}", sizing.to_status(String::new()).summary()));
                lines.extend(self.explanation.arithmetic.iter().map(|step| format!("    {step}")));
                if !sizing.known {
                    lines.push(format!("    {}", sizing.derivation));
                }
                lines.extend(self.unknown.iter().map(|message| format!("  {}: {message}", reasons::MODEL_UNKNOWN)));
            }
            Err(refusal) => lines.push(format!("  {}: {}", refusal.reason, refusal.message)),
        }
        lines.join("\n") + "\n"
    }
}

/// Why there is no choice, before one is computed: as the operator says it.
fn refusal(spec: &VllmSpec, settings: &Settings, resolution: &Resolution, request: &Request<'_>) -> Option<Refusal> {
    if let Some(problem) = self_hosted::problem_of_spec(spec, settings, None) {
        return Some(Refusal::new(problem.reason, problem.message));
    }
    let problem = self_hosted::problem_of_model(resolution)?;
    // What the hub would say does not change what the spec says, and that is judged all the same.
    let judged = matches!(resolution, Resolution::Failed { .. }) && !request.accelerators.is_empty();
    let certain = |refusal: &Refusal| refusal.reason != reasons::MODEL_UNKNOWN;
    let refusal = judged.then(|| sizing::explain(request).outcome.err()).flatten().filter(certain);
    Some(refusal.unwrap_or_else(|| Refusal::new(problem.reason, problem.message)))
}
