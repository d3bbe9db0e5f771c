//! Tools of a call that the provider runs itself, within the call: it reads again what they find, as often as it likes, so that nothing
//! bounds what the call uses. Models that search without being asked to are not known here.

use super::Body;
use super::read::generates;
use super::scan::{Scanner, Stop};

/// What is declared beside `tools`: OpenAI's search models, xAI's search, OpenRouter's plugins, Anthropic's MCP connector.
const MEMBERS: [(&str, &str); 4] =
    [("web_search_options", WEB_SEARCH), ("search_parameters", WEB_SEARCH), ("plugins", "a plugin"), ("mcp_servers", MCP)];

const WEB_SEARCH: &str = "web search";
const MCP: &str = "the tools of an MCP server";
/// A tool of a type that is not known here, or of none.
const OTHER: &str = "a tool whose type is none that a client runs";

/// What the provider runs itself of the tools of a call, in words; `None`: the client runs all of them. `bytes` are those that the body
/// was read from.
///
/// What is not known to be run by clients counts as run by the provider: a new type of tool is refused where a budget has to hold,
/// rather than let past it.
pub fn run_by_provider(body: &Body, bytes: &[u8]) -> Option<&'static str> {
    if !generates(body.operation) {
        return None;
    }
    let declared = |name: &str| {
        let json = bytes.get(body.members.member(name)?.value.clone()?)?;
        std::str::from_utf8(json).ok().filter(|json| *json != "null" && !is_empty_list(json))
    };
    let beside = MEMBERS.into_iter().find_map(|(name, tool)| declared(name).map(|_| tool));
    beside.or_else(|| declared("tools").and_then(of_list))
}

fn is_empty_list(json: &str) -> bool {
    json.strip_prefix('[').and_then(|json| json.strip_suffix(']')).is_some_and(|inside| inside.trim_ascii().is_empty())
}

/// The first tool of a list that the provider runs. What is no list of objects is the backend's to refuse, which it might not do.
fn of_list(json: &str) -> Option<&'static str> {
    let mut found = None;
    let walked: Result<(), Stop> = Scanner::of(json).list(|scanner| {
        let tool = of_entry(scanner)?;
        found = found.or(tool);
        Ok(())
    });
    if walked.is_ok() { found } else { Some(OTHER) }
}

/// The same of one declaration. Where a member stands twice, servers differ in which one counts: each does.
fn of_entry(scanner: &mut Scanner<'_>) -> Result<Option<&'static str>, Stop> {
    let (mut is_known, mut found) = (false, None);
    scanner.object(|scanner, quoted| {
        let name = scanner.decoded(&quoted);
        match name.as_deref() {
            Some("type") if scanner.peek()? == b'"' => {
                let kind = scanner.quoted()?;
                is_known = true;
                found = found.or(of_type(scanner.decoded(&kind).as_deref().unwrap_or_default()));
            }
            // Formats in which a function needs no type.
            Some("function" | "name") => {
                is_known = true;
                scanner.value()?;
            }
            _ => {
                scanner.value()?;
            }
        }
        Ok::<(), Stop>(())
    })?;
    Ok(found.or((!is_known).then_some(OTHER)))
}

/// Who runs a tool of this type: the provider, or, as `None`, the client.
fn of_type(kind: &str) -> Option<&'static str> {
    let starts = |beginnings: &[&str]| beginnings.iter().any(|beginning| kind.starts_with(beginning));
    match kind {
        "function" | "custom" | "local_shell" | "apply_patch" => None,
        // Anthropic's have a date behind the name.
        _ if starts(&["bash_", "text_editor_", "computer", "memory_"]) => None,
        _ if starts(&["web_search", "browser_search", "openrouter:web_search"]) => Some(WEB_SEARCH),
        _ if starts(&["web_fetch"]) => Some("web fetch"),
        _ if starts(&["code_execution", "code_interpreter"]) => Some("code execution"),
        _ if starts(&["file_search"]) => Some("file search"),
        _ if starts(&["image_generation"]) => Some("image generation"),
        _ if starts(&["mcp"]) => Some(MCP),
        _ => Some(OTHER),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::super::read;
    use super::*;
    use crate::decide::request::operation::Operation;

    fn found(operation: Operation, text: &str) -> Option<&'static str> {
        run_by_provider(&read(operation, text.as_bytes()).unwrap(), text.as_bytes())
    }

    /// What is found of a body with this member.
    fn of_member(operation: Operation, member: &str, value: &Value) -> Option<&'static str> {
        found(operation, &json!({ "model": "m", member: value }).to_string())
    }

    #[rstest]
    #[case::functions(Operation::ChatCompletions, json!([{ "type": "function", "function": { "name": "web_search", "parameters": { "type": "mcp" } } }]))]
    #[case::functions_without_a_type(Operation::ChatCompletions, json!([{ "function": { "name": "f" } }]))]
    #[case::functions_of_responses(Operation::Responses, json!([{ "type": "function", "name": "f" }, { "type": "custom", "name": "g" }]))]
    #[case::shells_and_patches(Operation::Responses, json!([{ "type": "local_shell" }, { "type": "apply_patch" }, { "type": "computer_use_preview" }]))]
    #[case::tools_of_messages(Operation::Messages, json!([{ "name": "f", "input_schema": { "type": "object" } }, { "type": null, "name": "g" }]))]
    #[case::tools_that_anthropic_knows(
        Operation::Messages,
        json!([{ "type": "bash_20250124", "name": "bash" }, { "type": "text_editor_20250728" }, { "type": "computer_20251124" }, { "type": "memory_20250818" }])
    )]
    #[case::nothing(Operation::Responses, json!([]))]
    #[case::null(Operation::Responses, json!(null))]
    fn what_the_client_runs_is_bounded(#[case] operation: Operation, #[case] tools: Value) {
        assert_eq!(of_member(operation, "tools", &tools), None);
    }

    #[rstest]
    #[case::search(Operation::Responses, json!([{ "type": "web_search" }]), WEB_SEARCH)]
    #[case::behind_others(Operation::Responses, json!([{ "type": "function", "name": "f" }, { "type": "web_search_preview" }]), WEB_SEARCH)]
    #[case::code(Operation::Responses, json!([{ "type": "code_interpreter", "container": { "type": "auto" } }]), "code execution")]
    #[case::servers(Operation::Responses, json!([{ "type": "mcp", "server_label": "s" }]), MCP)]
    #[case::of_anthropic(Operation::Messages, json!([{ "type": "code_execution_20250825", "name": "code_execution" }]), "code execution")]
    #[case::of_a_broker(Operation::ChatCompletions, json!([{ "type": "openrouter:web_search" }]), WEB_SEARCH)]
    #[case::of_a_type_that_is_new(Operation::Messages, json!([{ "type": "dream_20270101", "name": "dream" }]), OTHER)]
    #[case::of_no_type(Operation::ChatCompletions, json!([{ "googleSearch": {} }]), OTHER)]
    #[case::of_a_type_that_is_no_text(Operation::Responses, json!([{ "type": 5 }]), OTHER)]
    #[case::no_objects(Operation::Responses, json!(["web_search"]), OTHER)]
    #[case::no_list(Operation::Responses, json!({ "type": "function" }), OTHER)]
    fn what_the_provider_runs_has_no_bound(#[case] operation: Operation, #[case] tools: Value, #[case] tool: &str) {
        assert_eq!(of_member(operation, "tools", &tools), Some(tool));
    }

    #[rstest]
    #[case(Operation::ChatCompletions, "web_search_options", json!({}), Some(WEB_SEARCH))]
    #[case(Operation::ChatCompletions, "plugins", json!([{ "id": "web" }]), Some("a plugin"))]
    #[case(Operation::ChatCompletions, "plugins", json!([]), None)]
    #[case(Operation::Messages, "mcp_servers", json!([{ "type": "url" }]), Some(MCP))]
    #[case(Operation::Messages, "mcp_servers", json!(null), None)]
    #[case(Operation::CountTokens, "mcp_servers", json!([{ "type": "url" }]), None)]
    fn tools_that_are_declared_beside_count_too(
        #[case] operation: Operation,
        #[case] member: &str,
        #[case] value: Value,
        #[case] tool: Option<&str>,
    ) {
        assert_eq!(of_member(operation, member, &value), tool);
    }

    #[rstest]
    #[case::twice(r#"[{"type":"function","type":"web_search","name":"f"}]"#, Some(WEB_SEARCH))]
    #[case::twice_the_other_way(r#"[{"type":"web_search","type":"function","name":"f"}]"#, Some(WEB_SEARCH))]
    #[case::escaped_name(r#"[{"t\u0079pe":"web_search","name":"f"}]"#, Some(WEB_SEARCH))]
    #[case::escaped_type(r#"[{"type":"web\u005fsearch"}]"#, Some(WEB_SEARCH))]
    #[case::escaped_function(r#"[{"type":"f\u0075nction","name":"f"}]"#, None)]
    #[case::half_a_character(r#"[{"type":"\ud800"}]"#, Some(OTHER))]
    fn no_spelling_hides_a_tool(#[case] tools: &str, #[case] tool: Option<&str>) {
        assert_eq!(found(Operation::Responses, &format!(r#"{{"model":"m","tools": {tools} }}"#)), tool);
    }
}
