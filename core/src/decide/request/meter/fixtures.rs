//! Streams as servers send them, shortened (`streams/`), with what a meter has to find in each.

use super::super::operation::Operation;
use super::super::usage::{Metered, Usage};
use super::{Asked, Ending};
use crate::api::external::Provider;
use crate::decide::gateway::plan::Server;

/// A stream, and what is in it.
pub struct Golden {
    pub name: &'static str,
    pub server: Server,
    pub operation: Operation,
    pub stream: &'static str,
    /// The text of the first event that makes the attempt good.
    pub first_content: Option<&'static str>,
    /// A part of the error's body.
    pub error: Option<&'static str>,
    pub ending: Option<Ending>,
    pub usage: Metered,
    /// Whether a client that did not ask is not to get the event with the usage.
    pub withheld: bool,
}

impl Golden {
    /// The event that a client that did not ask does not get.
    pub fn withheld(&self) -> Option<&'static str> {
        let events = self.stream.split_inclusive("\n\n").filter(|event| event.contains("\"usage\":{"));
        events.last().filter(|_| self.withheld)
    }

    /// What a client gets that did not ask for usage.
    pub fn forwarded(&self) -> String {
        let events = self.stream.split_inclusive("\n\n").filter(|event| Some(*event) != self.withheld());
        let cut = |event: &str| match event.split_once(",\"usage\":{").zip(event.rfind('}')) {
            // The running counts of vLLM stand at the end.
            Some(((before, _), brace)) if self.server == Server::Vllm && event.contains("\"choices\":[{") => {
                format!("{before}{}", &event[brace..])
            }
            _ => event.to_owned(),
        };
        events.map(cut).collect()
    }
}

/// What was asked for: one choice, at most 400 tokens, no usage.
pub fn asked(server: Server, operation: Operation) -> Asked {
    Asked { server, operation, client_wants_usage: false, client_wants_running_usage: false, single_choice: true, most_output: 400 }
}

pub const fn exact(input: u64, cached_input: u64, cache_write: u64, output: u64) -> Metered {
    Metered::Exact(Usage { input, cached_input, cache_write, output })
}

pub const fn bounded(input: u64, cached_input: u64, cache_write: u64, output: u64) -> Metered {
    Metered::Bounded(Usage { input, cached_input, cache_write, output })
}

const PROVIDER: fn(Provider) -> Server = Server::Provider;

/// All of them.
pub fn goldens() -> Vec<Golden> {
    let chat = |name, server, stream| Golden {
        name,
        server,
        operation: Operation::ChatCompletions,
        stream,
        first_content: None,
        error: None,
        ending: Some(Ending::Complete),
        usage: Metered::Unknown,
        withheld: false,
    };
    let messages = |name, server, stream| Golden { operation: Operation::Messages, ..chat(name, server, stream) };
    let responses = |name, stream| Golden { operation: Operation::Responses, ..chat(name, PROVIDER(Provider::OpenAI), stream) };
    vec![
        Golden {
            first_content: Some(r#""content":"Hel""#),
            usage: exact(6, 64, 0, 21),
            withheld: true,
            ..chat("OpenAI", PROVIDER(Provider::OpenAI), include_str!("streams/openai.sse"))
        },
        Golden {
            first_content: Some(r#""content":"Hel""#),
            ..chat("OpenAI, not asked for usage", PROVIDER(Provider::OpenAI), include_str!("streams/openai_without_usage.sse"))
        },
        Golden {
            first_content: Some(r#""content":"Hi""#),
            usage: exact(9, 0, 0, 2),
            withheld: true,
            ..chat("Azure", PROVIDER(Provider::AzureOpenAI), include_str!("streams/azure.sse"))
        },
        Golden {
            first_content: Some(r#""name":"get_weather""#),
            usage: exact(80, 0, 0, 17),
            withheld: true,
            ..chat("a tool's arguments in fragments", PROVIDER(Provider::OpenAI), include_str!("streams/openai_tool.sse"))
        },
        Golden {
            first_content: Some(r#""reasoning":"Let""#),
            usage: exact(5, 0, 0, 9),
            ..chat("OpenRouter", PROVIDER(Provider::OpenRouter), include_str!("streams/openrouter.sse"))
        },
        Golden {
            first_content: Some(r#""content":"Hi""#),
            error: Some("Provider disconnected"),
            ending: Some(Ending::Failed),
            ..chat("OpenRouter, failing", PROVIDER(Provider::OpenRouter), include_str!("streams/openrouter_failing.sse"))
        },
        Golden {
            error: Some("provider_unavailable"),
            ending: Some(Ending::Failed),
            usage: exact(0, 0, 0, 0),
            ..chat(
                "OpenRouter, failing first",
                PROVIDER(Provider::OpenRouter),
                include_str!("streams/openrouter_failing_first.sse"),
            )
        },
        Golden {
            first_content: Some(r#""reasoning_content":"Hm""#),
            usage: exact(18, 32, 0, 7),
            withheld: true,
            ..chat("DeepSeek", PROVIDER(Provider::OpenAICompatible), include_str!("streams/deepseek.sse"))
        },
        Golden {
            first_content: Some(r#""content":"Hi""#),
            usage: exact(18, 32, 0, 7),
            ..chat("Mistral", PROVIDER(Provider::OpenAICompatible), include_str!("streams/mistral.sse"))
        },
        Golden {
            first_content: Some(r#""content":"Hi""#),
            usage: exact(10, 0, 0, 30),
            ..chat("Gemini", PROVIDER(Provider::Gemini), include_str!("streams/gemini.sse"))
        },
        Golden {
            error: Some("overloaded"),
            ending: Some(Ending::Failed),
            usage: exact(0, 0, 0, 0),
            ..chat("Gemini, an error in a list", PROVIDER(Provider::Gemini), include_str!("streams/gemini_failing.sse"))
        },
        Golden {
            first_content: Some(r#""content":"Hi""#),
            usage: exact(18, 0, 0, 7),
            ..chat("Groq", PROVIDER(Provider::Groq), include_str!("streams/groq.sse"))
        },
        Golden {
            first_content: Some(r#""content":"Hi""#),
            error: Some("over capacity"),
            ending: Some(Ending::Failed),
            ..chat("Groq, stopped early", PROVIDER(Provider::Groq), include_str!("streams/groq_failing.sse"))
        },
        Golden {
            first_content: Some(r#""content":"Hi""#),
            usage: exact(2, 32, 0, 5),
            withheld: true,
            ..chat("vLLM", Server::Vllm, include_str!("streams/vllm.sse"))
        },
        Golden {
            operation: Operation::Completions,
            first_content: Some(r#""text":"Hi""#),
            usage: exact(34, 0, 0, 5),
            withheld: true,
            ..chat("vLLM, completions", Server::Vllm, include_str!("streams/vllm_completions.sse"))
        },
        Golden {
            first_content: Some(r#""content":"Hi""#),
            error: Some("EngineCore encountered an issue"),
            ending: Some(Ending::Failed),
            usage: bounded(34, 0, 0, 34),
            ..chat("vLLM, failing", Server::Vllm, include_str!("streams/vllm_failing.sse"))
        },
        Golden {
            error: Some("EngineCore encountered an issue"),
            ending: Some(Ending::Failed),
            usage: exact(0, 0, 0, 0),
            ..chat("vLLM, failing first", Server::Vllm, include_str!("streams/vllm_failing_first.sse"))
        },
        Golden {
            first_content: Some(r#""content":"Hi""#),
            usage: exact(26, 0, 0, 4),
            withheld: true,
            ..chat("Ollama", Server::Ollama, include_str!("streams/ollama.sse"))
        },
        Golden {
            first_content: Some(r#""content":"Hi""#),
            ending: None,
            ..chat("Ollama, failing without a word", Server::Ollama, include_str!("streams/ollama_failing.sse"))
        },
        Golden {
            first_content: Some(r#""content":"Hi""#),
            usage: exact(10, 30, 20, 5),
            withheld: true,
            ..chat("an adapter with an empty choice", PROVIDER(Provider::OpenAICompatible), include_str!("streams/litellm.sse"))
        },
        Golden {
            first_content: Some(r#""text":"Hel""#),
            usage: exact(25, 0, 0, 15),
            ..messages("Anthropic", PROVIDER(Provider::Anthropic), include_str!("streams/anthropic.sse"))
        },
        Golden {
            first_content: Some(r#""thinking":"Let me""#),
            usage: exact(79, 1000, 200, 115),
            ..messages("Anthropic, thinking and a tool", PROVIDER(Provider::Anthropic), include_str!("streams/anthropic_tool.sse"))
        },
        Golden {
            error: Some("overloaded_error"),
            ending: Some(Ending::Failed),
            usage: exact(0, 0, 0, 0),
            ..messages(
                "Anthropic, overloaded first",
                PROVIDER(Provider::Anthropic),
                include_str!("streams/anthropic_overloaded.sse"),
            )
        },
        Golden {
            first_content: Some(r#""text":"Hel""#),
            error: Some("overloaded_error"),
            ending: Some(Ending::Failed),
            usage: bounded(25, 0, 0, 400),
            ..messages("Anthropic, failing", PROVIDER(Provider::Anthropic), include_str!("streams/anthropic_failing.sse"))
        },
        Golden {
            first_content: Some(r#""text":"Hi""#),
            usage: exact(2, 32, 0, 5),
            ..messages("vLLM, messages", Server::Vllm, include_str!("streams/vllm_messages.sse"))
        },
        Golden {
            first_content: Some(r#""text":"Hi""#),
            usage: exact(12, 0, 0, 11),
            ..messages(
                "an adapter that counts at the end",
                PROVIDER(Provider::OpenAICompatible),
                include_str!("streams/litellm_messages.sse"),
            )
        },
        Golden {
            first_content: Some(r#""delta":"Hi""#),
            usage: exact(4, 32, 0, 11),
            ..responses("responses", include_str!("streams/responses.sse"))
        },
        Golden {
            first_content: Some(r#""delta":"Hi""#),
            usage: exact(36, 0, 0, 400),
            ..responses("responses, incomplete", include_str!("streams/responses_incomplete.sse"))
        },
        Golden {
            first_content: Some(r#""type":"function_call""#),
            usage: exact(36, 0, 0, 11),
            ..responses("responses, a call of a tool", include_str!("streams/responses_tool.sse"))
        },
        Golden {
            error: Some("rate_limit_exceeded"),
            ending: Some(Ending::Failed),
            usage: exact(0, 0, 0, 0),
            ..responses("responses, failing first", include_str!("streams/responses_failing.sse"))
        },
        Golden {
            first_content: Some(r#""delta":"Hi""#),
            error: Some("ERR_SOMETHING"),
            ending: Some(Ending::Failed),
            ..responses("responses, an error event", include_str!("streams/responses_error.sse"))
        },
    ]
}
