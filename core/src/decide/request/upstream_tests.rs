use rstest::rstest;

use super::*;

const VLLM: Server = Server::Vllm;
const OLLAMA: Server = Server::Ollama;
const OPENAI: Server = Server::Provider(Provider::OpenAI);
const ANTHROPIC: Server = Server::Provider(Provider::Anthropic);
const GEMINI: Server = Server::Provider(Provider::Gemini);
const GROQ: Server = Server::Provider(Provider::Groq);
const OPENROUTER: Server = Server::Provider(Provider::OpenRouter);
const AZURE: Server = Server::Provider(Provider::AzureOpenAI);
const BEDROCK: Server = Server::Provider(Provider::Bedrock);
const VERTEX: Server = Server::Provider(Provider::VertexAI);
const LM_STUDIO: Server = Server::Provider(Provider::LMStudio);
const COMPATIBLE: Server = Server::Provider(Provider::OpenAICompatible);

#[rstest]
#[case(
    VLLM,
    "http://llama-backend.team.svc:8000",
    Operation::ChatCompletions,
    "http://llama-backend.team.svc:8000/v1/chat/completions"
)]
#[case(VLLM, "http://10.0.0.7:8000", Operation::CountTokens, "http://10.0.0.7:8000/v1/messages/count_tokens")]
#[case(VLLM, "http://10.0.0.7:8000/v1/", Operation::Embeddings, "http://10.0.0.7:8000/v1/embeddings")]
#[case(OLLAMA, "http://h:11434", Operation::Messages, "http://h:11434/v1/messages")]
#[case(OPENAI, "https://api.openai.com/v1", Operation::Responses, "https://api.openai.com/v1/responses")]
#[case(OPENAI, "https://proxy.example.com", Operation::Completions, "https://proxy.example.com/v1/completions")]
#[case(ANTHROPIC, "https://api.anthropic.com", Operation::Messages, "https://api.anthropic.com/v1/messages")]
#[case(
    ANTHROPIC,
    "https://api.deepseek.com/anthropic",
    Operation::CountTokens,
    "https://api.deepseek.com/anthropic/v1/messages/count_tokens"
)]
#[case(
    GEMINI,
    "https://g.googleapis.com/v1beta",
    Operation::ChatCompletions,
    "https://g.googleapis.com/v1beta/openai/chat/completions"
)]
#[case(
    GEMINI,
    "https://g.googleapis.com/v1beta/openai/",
    Operation::Embeddings,
    "https://g.googleapis.com/v1beta/openai/embeddings"
)]
#[case(GROQ, "https://api.groq.com/openai/v1", Operation::ChatCompletions, "https://api.groq.com/openai/v1/chat/completions")]
#[case(OPENROUTER, "https://openrouter.ai/api/v1", Operation::Messages, "https://openrouter.ai/api/v1/messages")]
#[case(AZURE, "https://r.openai.azure.com", Operation::ChatCompletions, "https://r.openai.azure.com/openai/v1/chat/completions")]
#[case(
    AZURE,
    "https://r.services.ai.azure.com/openai/v1/",
    Operation::Messages,
    "https://r.services.ai.azure.com/anthropic/v1/messages"
)]
#[case(
    BEDROCK,
    "https://bedrock-runtime.eu-west-1.amazonaws.com/",
    Operation::ChatCompletions,
    "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1/chat/completions"
)]
#[case(
    BEDROCK,
    "https://bedrock-mantle.eu-west-1.api.aws/v1",
    Operation::Responses,
    "https://bedrock-mantle.eu-west-1.api.aws/v1/responses"
)]
#[case(
    BEDROCK,
    "https://bedrock-mantle.eu-west-1.api.aws/v1",
    Operation::Messages,
    "https://bedrock-mantle.eu-west-1.api.aws/anthropic/v1/messages"
)]
#[case(LM_STUDIO, "http://h:1234", Operation::Responses, "http://h:1234/v1/responses")]
#[case(COMPATIBLE, "https://h/api/paas/v4", Operation::ChatCompletions, "https://h/api/paas/v4/chat/completions")]
fn a_call_goes_to_the_servers_path_for_its_format(
    #[case] server: Server,
    #[case] base: &str,
    #[case] operation: Operation,
    #[case] expected: &str,
) {
    assert_eq!(url(server, base, operation).as_deref(), Some(expected));
}

#[rstest]
#[case(OLLAMA, Operation::CountTokens)]
#[case(ANTHROPIC, Operation::ChatCompletions)]
#[case(GEMINI, Operation::Messages)]
#[case(VERTEX, Operation::ChatCompletions)]
#[case(OPENAI, Operation::Models)]
fn what_a_server_lacks_has_no_address(#[case] server: Server, #[case] operation: Operation) {
    assert_eq!(url(server, "https://h", operation), None);
}

#[test]
fn every_format_that_a_server_speaks_has_an_address() {
    let operations =
        [Operation::ChatCompletions, Operation::Completions, Operation::Embeddings, Operation::Responses, Operation::Messages];
    for server in [VLLM, OLLAMA, OPENAI, ANTHROPIC, GEMINI, GROQ, OPENROUTER, AZURE, BEDROCK, VERTEX, LM_STUDIO, COMPATIBLE] {
        for model in ["m", "claude-sonnet-5-5", "eu.anthropic.claude-sonnet-5", "openai.gpt-oss-120b-1:0"] {
            for format in formats(server, model) {
                let operation = operations.into_iter().find(|operation| operation.format() == Some(format)).unwrap();
                assert!(url(server, "https://h", operation).is_some(), "{server:?} {format:?}");
            }
        }
    }
}

#[rstest]
#[case(VLLM, "m", "ChatCompletions Responses Messages Embeddings Completions")]
#[case(ANTHROPIC, "claude-sonnet-5-5", "Messages")]
#[case(GEMINI, "gemini-3.8-flash", "ChatCompletions Embeddings")]
#[case(GROQ, "openai/gpt-oss-120b", "ChatCompletions Responses")]
#[case(AZURE, "gpt-deployment", "ChatCompletions Responses Embeddings")]
#[case(AZURE, "claude-opus-5", "Messages")]
#[case(BEDROCK, "global.anthropic.claude-sonnet-5", "Messages")]
#[case(BEDROCK, "openai.gpt-oss-120b-1:0", "ChatCompletions Responses")]
#[case(BEDROCK, "us.amazon.nova-pro-v1:0", "")]
#[case(BEDROCK, "qwen.qwen3-32b-v1:0", "ChatCompletions")]
#[case(VERTEX, "gemini-3.8-flash", "")]
#[case(COMPATIBLE, "m", "ChatCompletions Embeddings Completions")]
fn the_formats_of_a_server_are_those_that_a_key_suffices_for(#[case] server: Server, #[case] model: &str, #[case] expected: &str) {
    let spoken: Vec<_> = formats(server, model).into_iter().map(|format| format!("{format:?}")).collect();
    assert_eq!(spoken.join(" "), expected);
}

#[test]
fn a_key_goes_where_the_called_api_wants_it() {
    let header = |server| authentication(server).map(|how| how.header);
    assert_eq!(header(GEMINI), Some("authorization"), "its layer for OpenAI's clients, not its own API");
    assert_eq!(header(VLLM), Some("authorization"), "also for messages");
    assert_eq!(header(ANTHROPIC), Some("x-api-key"));
    assert_eq!(header(AZURE), Some("api-key"));
    assert_eq!(header(VERTEX), None);
}

#[test]
fn calls_of_anthropics_api_have_a_version() {
    assert_eq!(default_headers(Operation::Messages), [("anthropic-version", "2023-06-01")]);
    assert_eq!(default_headers(Operation::CountTokens), [("anthropic-version", "2023-06-01")]);
    assert!(default_headers(Operation::ChatCompletions).is_empty());
}
