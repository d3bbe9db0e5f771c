//! Facts of hosted models, from the table `data/hosted-models.csv`. Each of its rows names its source.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::provider::table_name;
use crate::api::external::Provider;

const TABLE: &str = include_str!("../../../data/hosted-models.csv");

/// The columns that are read; prices and sources are in the table too.
#[derive(Deserialize)]
struct Row {
    provider: String,
    model: String,
    context_tokens: u32,
    max_output_tokens: Option<u32>,
}

struct Model {
    context_tokens: u32,
    max_output_tokens: Option<u32>,
}

/// The table by model and provider. A test proves that every row can be read.
static MODELS: LazyLock<HashMap<String, Vec<(String, Model)>>> = LazyLock::new(|| {
    let mut models: HashMap<String, Vec<(String, Model)>> = HashMap::new();
    for row in csv::Reader::from_reader(TABLE.as_bytes()).into_deserialize::<Row>().flatten() {
        let model = Model { context_tokens: row.context_tokens, max_output_tokens: row.max_output_tokens };
        models.entry(row.model).or_default().push((row.provider, model));
    }
    models
});

fn find(provider: Provider, model: &str) -> Option<&'static Model> {
    let table_name = table_name(provider)?;
    // Vertex AI's OpenAI-compatible API and Gemini's list put these before the name that the table has.
    let model = match provider {
        Provider::VertexAI => model.strip_prefix("google/").unwrap_or(model),
        Provider::Gemini => model.strip_prefix("models/").unwrap_or(model),
        _ => model,
    };
    MODELS.get(model)?.iter().find(|(provider, _)| provider == table_name).map(|(_, model)| model)
}

/// The largest prompt of a hosted model in tokens, when the table has the model under exactly this name. Unknown is `None`.
pub fn context_length(provider: Provider, model: &str) -> Option<u32> {
    find(provider, model).map(|model| model.context_tokens)
}

/// The most tokens of output of a hosted model, when the table has the model under exactly this name. Unknown is `None`, and so
/// is none at all.
pub fn max_output_tokens(provider: Provider, model: &str) -> Option<u32> {
    find(provider, model)?.max_output_tokens
}

/// Whether a model makes embeddings instead of text: the table gives it no output, or, for a model that the table lacks, its
/// name says so.
pub fn makes_embeddings(provider: Provider, model: &str) -> bool {
    match find(provider, model) {
        Some(model) => model.max_output_tokens.is_none(),
        None => model.to_ascii_lowercase().contains("embed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_read_and_has_a_source() {
        let lines = TABLE.lines().filter(|line| !line.trim().is_empty()).count() - 1;
        let rows: Vec<Row> = csv::Reader::from_reader(TABLE.as_bytes()).into_deserialize().collect::<Result<_, _>>().unwrap();
        assert_eq!(rows.len(), lines);
        assert_eq!(MODELS.values().map(Vec::len).sum::<usize>(), lines);
        for record in csv::Reader::from_reader(TABLE.as_bytes()).into_records() {
            let record = record.unwrap();
            assert!(record.get(8).is_some_and(|source| !source.is_empty()), "{record:?}");
        }
        for row in rows {
            assert!(row.context_tokens >= 1024, "{} {}", row.provider, row.model);
        }
    }

    #[test]
    fn no_model_is_listed_twice_for_a_provider() {
        for (model, rows) in MODELS.iter() {
            let mut providers: Vec<_> = rows.iter().map(|(provider, _)| provider).collect();
            providers.sort();
            providers.dedup();
            assert_eq!(providers.len(), rows.len(), "{model}");
        }
    }

    #[test]
    fn the_context_of_a_listed_model_is_known() {
        for (provider, model, tokens) in [
            (Provider::OpenAI, "gpt-4o", 128_000),
            (Provider::Anthropic, "claude-haiku-4-5", 200_000),
            (Provider::Gemini, "gemini-2.5-pro", 1_048_576),
            (Provider::Gemini, "models/gemini-2.5-pro", 1_048_576),
            (Provider::Groq, "openai/gpt-oss-120b", 131_072),
            (Provider::Bedrock, "openai.gpt-oss-120b-1:0", 128_000),
            (Provider::AzureOpenAI, "gpt-5.4-mini", 272_000),
            (Provider::VertexAI, "google/gemini-3.8-flash", 1_048_576),
        ] {
            assert_eq!(context_length(provider, model), Some(tokens), "{model}");
        }
    }

    #[test]
    fn what_the_table_lacks_is_unknown_even_when_it_is_close() {
        for (provider, model) in [
            (Provider::OpenAI, "gpt-4o-2024-08-06"),
            (Provider::Anthropic, "gpt-4o"),
            (Provider::OpenRouter, "openai/gpt-4o"),
            (Provider::OpenAICompatible, "gpt-4o"),
            (Provider::OpenAICompatible, "mistral-large-4"),
            (Provider::OpenAI, ""),
        ] {
            assert_eq!(context_length(provider, model), None, "{model}");
        }
    }

    #[test]
    fn models_for_embeddings_are_known_by_the_table_or_by_name() {
        assert!(makes_embeddings(Provider::OpenAI, "text-embedding-3-small"));
        assert!(makes_embeddings(Provider::OpenAICompatible, "nomic-embed-text"));
        assert!(!makes_embeddings(Provider::OpenAI, "gpt-4o"));
    }
}
