//! `quartermaster size`: why a model gets the accelerators that it gets.

use std::path::PathBuf;
use std::sync::Arc;

use quartermaster_core::api::InferenceBackend;
use quartermaster_core::api::architecture::ModelArchitecture;
use quartermaster_core::api::conditions::reasons;
use quartermaster_core::api::vllm::VllmSpec;
use quartermaster_core::decide::backend::accelerator;
use quartermaster_core::decide::backend::facts::{HubFacts, NodeFacts, Settings};
use quartermaster_core::decide::backend::model::resolve::{self, Resolution};
use quartermaster_core::decide::backend::sizing::{self, Cluster, Explanation, Refusal, Request};
use serde_json::{Value, json};

use super::CommandError;
use super::output::{self, Format};
use super::plan::{ClusterArguments, backends};

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

/// Explains every self-hosted backend of the files.
pub fn print(arguments: SizeArguments) -> Result<(), CommandError> {
    let nodes = Arc::new(arguments.cluster.nodes()?);
    let settings = arguments.cluster.settings()?;
    let mut answers = Vec::new();
    for backend in backends(&arguments.files)? {
        if let Some(spec) = &backend.spec.vllm {
            answers.push(Answer::of(&backend, spec, &nodes, &settings));
        }
    }
    if answers.is_empty() {
        return Err(CommandError::Input("no InferenceBackend with spec.vllm in the files".to_owned()));
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
    explanation: Explanation,
}

impl Answer {
    fn of(backend: &InferenceBackend, spec: &VllmSpec, nodes: &[NodeFacts], settings: &Settings) -> Self {
        let (architecture, sources) = match resolve::resolve(spec, &HubFacts::NotAsked) {
            Resolution::Known { architecture, sources, .. } => {
                (*architecture, sources.iter().map(|source| format!("{source:?}").to_lowercase()).collect::<Vec<_>>().join(", "))
            }
            Resolution::Unknown { architecture, .. } => (*architecture, "not enough is known".to_owned()),
            _ => (ModelArchitecture::default(), "nothing is known".to_owned()),
        };
        let accelerators = accelerator::candidates(spec.accelerator.as_ref(), nodes, &settings.accelerator_profiles);
        let request = Request {
            architecture: &architecture,
            spec,
            accelerators: accelerators.as_deref().unwrap_or_default(),
            cluster: Cluster { nodes, profiles: &settings.accelerator_profiles },
        };
        let explanation = match &accelerators {
            Ok(_) => sizing::explain(&request),
            Err(refusal) => Explanation::refused(refusal.clone()),
        };
        Self {
            name: backend.metadata.name.clone().unwrap_or_default(),
            model: spec.model.clone(),
            sources,
            inputs_hash: sizing::inputs_hash(&request),
            explanation,
        }
    }

    /// The fields of `status.sizing`, with reason and message.
    fn value(&self) -> Value {
        let (mut value, reason, message) = match &self.explanation.outcome {
            Ok(sizing) => {
                let reason = if sizing.known { reasons::SIZED } else { reasons::MODEL_UNKNOWN };
                (
                    serde_json::to_value(sizing.to_status(self.inputs_hash.clone())).unwrap_or_default(),
                    reason,
                    sizing.derivation.clone(),
                )
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
            }
            Err(refusal) => lines.push(format!("  {}: {}", refusal.reason, refusal.message)),
        }
        lines.join("\n") + "\n"
    }
}
