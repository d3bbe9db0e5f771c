use super::*;

/// By task: its calls, each with its second after the first task, its pool and the tokens of its prompt.
fn told(trace: &Trace) -> Vec<Vec<(i64, &str, u32)>> {
    let (first, _) = trace.span();
    let of_call = |call: &Call| ((call.at - first) / 1000, trace.kinds()[call.kind].pool.as_str(), call.prompt_tokens);
    (0..trace.tasks().len()).map(|task| trace.calls_of(task).iter().map(of_call).collect()).collect()
}

#[test]
fn calls_of_a_task_follow_each_other_and_others_stand_alone() {
    let text = "\
time,pool,route,promptTokens,outputTokens,taskId
# The second call of a task stands before the first.
2026-11-16T09:00:20Z,coder,smart,300,10,a
2026-11-16T09:00:10Z,coder,smart,200,10,a

2026-11-16T10:00:00+01:00,people,smart,100,10,
2026-11-16T09:00:05Z,people,smart,400,10,a
";
    let trace = Trace::read(text).unwrap();
    assert_eq!(
        told(&trace),
        [vec![(0, "people", 100)], vec![(5, "people", 400)], vec![(10, "coder", 200), (20, "coder", 300)]],
        "the same id is another task in another pool"
    );
    assert_eq!(trace.kinds().iter().map(|kind| kind.line).collect::<Vec<_>>(), [3, 6], "each kind knows where it first stands");
}

#[test]
fn lines_of_json_say_the_same_as_rows_of_csv() {
    let csv = "\
time,pool,route,promptTokens,outputTokens,maxOutputTokens,durationMilliseconds,taskId,taskType
2026-11-16T09:00:00Z,coder,smart,100,10,500,2000,a,qa
2026-11-16T09:00:01Z,coder,smart,200,20,,,a,
";
    let json = r#"
{"time": "2026-11-16T09:00:00Z", "pool": "coder", "route": "smart", "promptTokens": 100, "outputTokens": 10, "maxOutputTokens": 500, "durationMilliseconds": 2000, "taskId": "a", "taskType": "qa"}

{"time": "2026-11-16T09:00:01Z", "pool": "coder", "route": "smart", "promptTokens": 200, "outputTokens": 20, "taskId": "a"}
"#;
    let without_lines = |text: &str| {
        let mut trace = Trace::read(text).unwrap();
        trace.kinds.iter_mut().for_each(|kind| kind.line = 0);
        trace
    };
    assert_eq!(without_lines(csv), without_lines(json));
    let calls = without_lines(csv).calls_of(0).to_vec();
    assert_eq!((calls[0].max_output_tokens, calls[0].duration, calls[1].max_output_tokens), (Some(500), Some(2000), None));
}

#[test]
fn a_line_that_is_no_call_is_named() {
    let row = "2026-11-16T09:00:00Z,coder,smart,100,10\n";
    let header = "time,pool,route,promptTokens,outputTokens\n";
    let json = r#"{"time": "2026-11-16T09:00:00Z", "pool": "coder", "route": "smart", "promptTokens": 1, "outputTokens": 1}"#;
    for (text, line, words) in [
        (format!("{header}{row}2026-11-16T09:00:00Z,coder,smart,many,10\n"), 3, "promptTokens: "),
        (format!("{header}{row}yesterday,coder,smart,100,10\n"), 3, ""),
        (format!("{header}{row}2026-11-16T09:00:00Z,coder\n"), 3, "it has 2 columns, and the header has 5"),
        (format!("time,pool,route,promptTokens\n{row}"), 2, "columns"),
        ("time,pool,route,promptTokens\n2026-11-16T09:00:00Z,coder,smart,100\n".to_owned(), 2, "outputTokens"),
        ("when,pool,route,promptTokens,outputTokens\n1,2,3,4,5\n".to_owned(), 2, "when"),
        (format!("{json}\n{{\"time\": 1}}\n"), 2, "invalid type"),
        (format!("{json}\n\n{}\n", json.replace("outputTokens", "outputToken")), 3, "outputToken"),
    ] {
        let Err(TraceError::Line { line: told, problem }) = Trace::read(&text) else { panic!("{text}") };
        assert_eq!(told, line, "{text}: {problem}");
        assert!(problem.contains(words), "{text}: {problem}");
    }
}

#[test]
fn a_trace_without_a_call_is_none() {
    for text in ["", "\n\n", "time,pool,route,promptTokens,outputTokens\n", "# nothing\n"] {
        assert_eq!(Trace::read(text), Err(TraceError::Empty), "{text:?}");
    }
}
