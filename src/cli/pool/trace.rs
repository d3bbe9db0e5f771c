//! A trace of arrivals, as CSV.

use std::path::Path;

use quartermaster_core::decide::pool::simulation::Arrival;
use serde::Deserialize;

use crate::cli::CommandError;
use crate::cli::output;

/// One row.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    seconds: u64,
    tasks: u64,
    task_seconds: Option<u64>,
}

/// The arrivals of a file, or of standard input for `-`.
pub fn read(path: &Path) -> Result<Vec<Arrival>, CommandError> {
    let text = output::read(path)?;
    parse(&text).map_err(|error| {
        CommandError::Input(format!(
            "failed to understand {}: {error}; write a header such as seconds,tasks,task_seconds and whole numbers below it",
            path.display()
        ))
    })
}

fn parse(text: &str) -> Result<Vec<Arrival>, csv::Error> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).comment(Some(b'#')).from_reader(text.as_bytes());
    let arrival = |row: Row| Arrival { second: row.seconds, tasks: row.tasks, task_seconds: row.task_seconds };
    reader.deserialize().map(|row| row.map(arrival)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_says_when_how_many_tasks_arrive_and_how_long_they_take() {
        let arrivals = parse("seconds,tasks,task_seconds\n# a comment\n0, 5,\n60,2,90\n").unwrap();
        let expected =
            [Arrival { second: 0, tasks: 5, task_seconds: None }, Arrival { second: 60, tasks: 2, task_seconds: Some(90) }];
        assert_eq!(arrivals, expected);
        assert_eq!(parse("seconds,tasks\n1,2\n").unwrap().len(), 1);
    }

    #[test]
    fn a_row_that_is_none_is_named() {
        for (text, word) in [("seconds,tasks\n1,many\n", "line: 2"), ("second,tasks\n1,2\n", "second"), ("seconds\n1\n", "tasks")] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
    }
}
