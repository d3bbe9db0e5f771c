//! What declared tools add to a prompt beside their own bytes.

use memchr::memmem;

use crate::decide::request::operation::Operation;

/// The types of tools that the client runs, and those that a schema of their parameters may have.
const PLAIN: [&str; 9] = ["function", "custom", "object", "string", "number", "integer", "boolean", "array", "null"];

/// How many texts of its own a server may put before a prompt with these tools: one about tools, and one for each tool of a type
/// of the provider's, of which only the format of responses and Anthropic's have any. Never too few: whatever else is called a
/// type counts too.
pub(super) fn preambles(operation: Operation, json: &str) -> u32 {
    let has_types = matches!(operation, Operation::Responses | Operation::Messages | Operation::CountTokens);
    if !has_types {
        return 1;
    }
    let typed =
        memmem::find_iter(json.as_bytes(), b"\"type\"").filter(|at| json.get(at.saturating_add(6)..).is_some_and(is_special));
    u32::try_from(typed.count()).unwrap_or(u32::MAX).saturating_add(1)
}

/// Whether a member goes on here, after its name, with a value that is no type of a plain tool or of a schema.
fn is_special(after_name: &str) -> bool {
    let Some(value) = after_name.trim_ascii_start().strip_prefix(':') else { return false };
    let Some(value) = value.trim_ascii_start().strip_prefix('"') else { return false };
    value.split_once('"').is_some_and(|(kind, _)| !PLAIN.contains(&kind))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::of_a_chat(Operation::ChatCompletions, r#"[{"type":"function","function":{"name":"type"}}]"#, 1)]
    #[case::with_schemas(
        Operation::Messages,
        r#"[{"name":"type","input_schema":{"type":"object","properties":{"type":{"type" : "string"},"b":{"type":["null"]}}}}]"#,
        1
    )]
    #[case::of_the_provider(
        Operation::Messages,
        r#"[{"type":"bash_20250124","name":"bash"},{"type":"custom","name":"a"},{"name":"b","type": "text_editor_20250728"}]"#,
        3
    )]
    #[case::run_by_the_provider(Operation::Responses, r#"[{"type":"web_search"}]"#, 2)]
    fn each_tool_of_a_type_of_the_providers_brings_a_text(
        #[case] operation: Operation,
        #[case] tools: &str,
        #[case] expected: u32,
    ) {
        assert_eq!(preambles(operation, tools), expected);
    }
}
