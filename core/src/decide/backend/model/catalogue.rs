//! The built-in catalogue of models: what checkpoints that teams run consist of, each fact with a source that can be opened.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::api::architecture::ModelArchitecture;

/// The files of the catalogue, one line a family.
const FAMILIES: &[(&str, &str)] = &[
    ("deepseek", include_str!("../../../../data/models/deepseek.yaml")),
    ("embedding", include_str!("../../../../data/models/embedding.yaml")),
    ("falcon", include_str!("../../../../data/models/falcon.yaml")),
    ("gemma", include_str!("../../../../data/models/gemma.yaml")),
    ("glm", include_str!("../../../../data/models/glm.yaml")),
    ("gpt-oss", include_str!("../../../../data/models/gpt-oss.yaml")),
    ("kimi", include_str!("../../../../data/models/kimi.yaml")),
    ("llama", include_str!("../../../../data/models/llama.yaml")),
    ("minimax", include_str!("../../../../data/models/minimax.yaml")),
    ("mistral", include_str!("../../../../data/models/mistral.yaml")),
    ("phi", include_str!("../../../../data/models/phi.yaml")),
    ("qwen2.5", include_str!("../../../../data/models/qwen2.5.yaml")),
    ("qwen2.5-quantized", include_str!("../../../../data/models/qwen2.5-quantized.yaml")),
    ("qwen3", include_str!("../../../../data/models/qwen3.yaml")),
    ("qwen3-moe", include_str!("../../../../data/models/qwen3-moe.yaml")),
    ("qwen3-next", include_str!("../../../../data/models/qwen3-next.yaml")),
    ("qwen3-vl", include_str!("../../../../data/models/qwen3-vl.yaml")),
    ("qwen3.5", include_str!("../../../../data/models/qwen3.5.yaml")),
    ("qwen3.6", include_str!("../../../../data/models/qwen3.6.yaml")),
    ("qwen3.8", include_str!("../../../../data/models/qwen3.8.yaml")),
];

/// One row: checkpoints that share an architecture.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The hub's ids of the checkpoints.
    pub names: Vec<String>,
    /// Whether the hub hands them out only to those who accepted the terms.
    #[serde(default)]
    pub gated: bool,
    /// Where the facts can be looked up.
    pub sources: Vec<RowSource>,
    /// The facts.
    pub architecture: ModelArchitecture,
}

/// Where facts of a row can be looked up: a file of a repository at a commit, or of a published package.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowSource {
    /// What it is a source of: `config` or `weights`.
    pub of: String,
    /// The repository, as owner/name.
    #[serde(default)]
    pub repository: Option<String>,
    /// The package and its version, separated by a space.
    #[serde(default)]
    pub package: Option<String>,
    /// The file.
    pub path: String,
    /// The commit of the repository, 40 hexadecimal digits.
    #[serde(default)]
    pub commit: Option<String>,
}

/// All rows by the lower-cased id of each checkpoint. A file that cannot be read has no rows: the tests keep that from
/// being released.
static ROWS: LazyLock<HashMap<String, Row>> = LazyLock::new(|| {
    FAMILIES
        .iter()
        .flat_map(|(_, text)| serde_saphyr::from_str::<Vec<Row>>(text).unwrap_or_default())
        .flat_map(|row| row.names.clone().into_iter().map(move |name| (name.to_lowercase(), row.clone())))
        .collect()
});

/// The row of a checkpoint, by its id on the hub in any case.
pub fn find(id: &str) -> Option<&'static Row> {
    ROWS.get(&id.to_lowercase())
}

/// Every checkpoint of the catalogue, by its lower-cased id, in no particular order.
pub fn all() -> impl Iterator<Item = (&'static str, &'static Row)> {
    ROWS.iter().map(|(name, row)| (name.as_str(), row))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn families() -> Vec<(&'static str, Vec<Row>)> {
        FAMILIES
            .iter()
            .map(|(family, text)| (*family, serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{family}: {error}"))))
            .collect()
    }

    #[test]
    fn every_file_of_the_directory_is_in_the_table() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/models");
        let mut files: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned))
            .collect();
        files.sort();
        let mut families: Vec<&str> = FAMILIES.iter().map(|(family, _)| *family).collect();
        families.sort_unstable();
        assert_eq!(files, families);
    }

    #[test]
    fn every_row_names_a_source_that_can_be_opened() {
        for (family, rows) in families() {
            for row in rows {
                assert!(!row.names.is_empty() && !row.sources.is_empty(), "{family}: {:?}", row.names);
                for source in &row.sources {
                    let by_commit = source.repository.as_ref().is_some_and(|repository| repository.split('/').count() == 2)
                        && source
                            .commit
                            .as_ref()
                            .is_some_and(|commit| commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()));
                    let by_version = source
                        .package
                        .as_ref()
                        .and_then(|package| package.split_once(' '))
                        .is_some_and(|(name, version)| !name.is_empty() && version.starts_with(|c: char| c.is_ascii_digit()));
                    assert!(by_commit != by_version && !source.path.is_empty(), "{family}: {:?}: {source:?}", row.names);
                }
            }
        }
    }

    #[test]
    fn no_checkpoint_has_two_rows_and_there_are_forty_at_least() {
        let mut seen = HashSet::new();
        for (family, rows) in families() {
            for name in rows.iter().flat_map(|row| &row.names) {
                assert!(seen.insert(name.to_lowercase()), "{family}: {name} twice");
            }
        }
        assert!(seen.len() >= 40, "{}", seen.len());
        assert_eq!(seen.len(), all().count());
    }

    #[test]
    fn the_kinds_of_layers_add_up() {
        for (_, rows) in families() {
            for row in rows {
                let architecture = &row.architecture;
                let kinds =
                    [architecture.full_attention_layers, architecture.sliding_window_layers, architecture.linear_attention_layers];
                let layers = architecture.layers.unwrap();
                let sum: u32 = kinds.iter().flatten().sum();
                assert!(sum <= layers, "{:?}: {sum} of {layers}", row.names);
                if architecture.full_attention_layers.is_some() {
                    assert_eq!(sum, layers, "{:?}", row.names);
                }
                assert_eq!(
                    architecture.sliding_window_layers.is_some_and(|layers| layers > 0),
                    architecture.sliding_window.is_some(),
                    "{:?}",
                    row.names
                );
            }
        }
    }

    #[test]
    fn every_row_suffices_to_size_the_model() {
        for (_, rows) in families() {
            for row in rows {
                assert_eq!(
                    crate::decide::backend::model::resolve::missing(&row.architecture),
                    Vec::<&str>::new(),
                    "{:?}",
                    row.names
                );
            }
        }
    }

    #[test]
    fn ids_are_found_in_any_case() {
        assert_eq!(find("META-llama/llama-3.3-70b-INSTRUCT").unwrap().architecture.attention_heads, Some(64));
        assert!(find("nobody/nothing").is_none());
    }
}
