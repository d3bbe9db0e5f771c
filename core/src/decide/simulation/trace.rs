//! A trace of model calls: who calls what over time, and what that uses. It is read from a file or generated.
//!
//! Calls with the same pool and task id are one task, whose calls follow each other; a call without one is a task of its own.

use std::collections::BTreeMap;
use std::ops::Range;

use csv::{ErrorKind, ReaderBuilder, StringRecord, Trim};
use jiff::Timestamp;
use serde::Deserialize;

/// A call, as a trace is written: a row of CSV, or a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Row {
    /// When it is made. An agent that is busy, or not there, makes it later.
    pub time: Timestamp,
    /// Name of the AgentPool that makes it.
    pub pool: String,
    /// Name of the ModelRoute that it asks for.
    pub route: String,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Tokens of its answer, if nothing cuts it.
    pub output_tokens: u32,
    /// The most tokens of output that it asks for. Default: it does not say.
    #[serde(default)]
    pub max_output_tokens: Option<u32>,
    /// Time until it is answered to the end. Default: by the tokens of its answer.
    #[serde(default)]
    pub duration_milliseconds: Option<u32>,
    /// The task that it is for.
    #[serde(default)]
    pub task_id: Option<String>,
    /// The label taskType.
    #[serde(default)]
    pub task_type: Option<String>,
}

/// A trace that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// A line is no call.
    #[error("line {line}: {problem}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no call in it.
    #[error("there is no call in it")]
    Empty,
    /// It is more than can be simulated.
    #[error("it has more calls than can be simulated, which is {}", u32::MAX)]
    TooLong,
    /// Nobody may call anything, so that nothing can be generated.
    #[error("no AgentPool of the files has spec.modelRoutes, so that nobody makes a call")]
    NoCaller,
}

/// A trace of model calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    kinds: Vec<Kind>,
    /// By task, and those of a task in their order.
    calls: Vec<Call>,
    /// In the order in which they arrive.
    tasks: Vec<Task>,
}

/// What calls have in common that go the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Name of the AgentPool.
    pub pool: String,
    /// Name of the ModelRoute.
    pub route: String,
    /// The label taskType.
    pub task_type: Option<String>,
    /// The line of the trace that has the first of them; 0 where it was generated.
    pub line: u64,
}

/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it is made, in milliseconds since 1970.
    pub at: i64,
    /// Its place in [`Trace::kinds`].
    pub kind: usize,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Tokens of its answer, if nothing cuts it.
    pub output_tokens: u32,
    /// The most tokens of output that it asks for; none: it does not say.
    pub max_output_tokens: Option<u32>,
    /// Milliseconds until it is answered to the end; none: it does not say.
    pub duration: Option<u32>,
    pub(super) task: u32,
}

/// Calls that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// When it arrives, in milliseconds since 1970: with its first call.
    pub arrives: i64,
    calls: Range<usize>,
}

impl Trace {
    /// Reads a trace: CSV with a header, or lines of JSON. Empty lines do not count, nor do lines of CSV that begin with `#`.
    ///
    /// # Errors
    ///
    /// The first line that is no call, or that there is none.
    pub fn read(text: &str) -> Result<Self, TraceError> {
        if text.trim_start().starts_with('{') { read_json(text) } else { read_csv(text) }
    }

    /// The kinds of calls that there are.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// The tasks, in the order in which they arrive.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The calls of a task, in their order; nothing where there is no such task.
    pub fn calls_of(&self, task: usize) -> &[Call] {
        self.tasks.get(task).and_then(|task| self.calls.get(task.calls.clone())).unwrap_or_default()
    }

    /// How many calls there are.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there is no call, which no trace is that was read.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// When the first and the last call are made, in milliseconds since 1970.
    pub fn span(&self) -> (i64, i64) {
        let times = self.calls.iter().map(|call| call.at);
        times.clone().min().zip(times.max()).unwrap_or_default()
    }
}

fn read_csv(text: &str) -> Result<Trace, TraceError> {
    let is_row = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    // Which line a record begins in the reader does not say where lines before it do not count.
    let mut numbers = (1..).zip(text.lines()).filter(|(_, line)| is_row(line)).map(|(number, _)| number);
    let rows: String = text.lines().filter(|line| is_row(line)).flat_map(|line| [line, "\n"]).collect();
    let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(rows.as_bytes());
    let line = numbers.next().unwrap_or(1);
    let headers = reader.headers().map_err(|error| wrong(&error, &StringRecord::new(), line))?.clone();
    let mut building = Building::default();
    let mut record = StringRecord::new();
    loop {
        let line = numbers.next().unwrap_or(0);
        if !reader.read_record(&mut record).map_err(|error| wrong(&error, &headers, line))? {
            return building.finish();
        }
        building.add(record.deserialize(Some(&headers)).map_err(|error| wrong(&error, &headers, line))?, line)?;
    }
}

fn read_json(text: &str) -> Result<Trace, TraceError> {
    let mut building = Building::default();
    for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        let row = serde_json::from_str(text).map_err(|error| TraceError::Line { line, problem: error.to_string() })?;
        building.add(row, line)?;
    }
    building.finish()
}

/// What is wrong with a line of CSV, with the name of the column.
fn wrong(error: &csv::Error, headers: &StringRecord, line: u64) -> TraceError {
    let problem = match error.kind() {
        ErrorKind::Deserialize { err, .. } => {
            let place = err.field().and_then(|field| usize::try_from(field).ok());
            let column = place.and_then(|place| headers.get(place)).map_or(String::new(), |name| format!("{name}: "));
            format!("{column}{}", err.kind())
        }
        ErrorKind::UnequalLengths { expected_len, len, .. } => format!("it has {len} columns, and the header has {expected_len}"),
        _ => error.to_string(),
    };
    TraceError::Line { line, problem }
}

/// A trace that is being put together.
#[derive(Debug, Default)]
pub(super) struct Building {
    kinds: Vec<Kind>,
    numbers: BTreeMap<(String, String, Option<String>), usize>,
    calls: Vec<Call>,
    /// By pool and id.
    named: BTreeMap<(String, String), u32>,
    tasks: u32,
}

impl Building {
    fn add(&mut self, row: Row, line: u64) -> Result<(), TraceError> {
        let task = match row.task_id.filter(|id| !id.is_empty()) {
            Some(id) => self.named_task((row.pool.clone(), id))?,
            None => self.task()?,
        };
        let kind = self.kind(row.pool, row.route, row.task_type.filter(|type_| !type_.is_empty()), line);
        self.calls.push(Call {
            at: row.time.as_millisecond(),
            kind,
            prompt_tokens: row.prompt_tokens,
            output_tokens: row.output_tokens,
            max_output_tokens: row.max_output_tokens,
            duration: row.duration_milliseconds,
            task,
        });
        Ok(())
    }

    /// Adds a call of a task.
    pub(super) fn call(&mut self, call: Call, task: u32) {
        self.calls.push(Call { task, ..call });
    }

    /// The place of a kind, which may be a new one.
    pub(super) fn kind(&mut self, pool: String, route: String, task_type: Option<String>, line: u64) -> usize {
        let names = (pool, route, task_type);
        if let Some(number) = self.numbers.get(&names) {
            return *number;
        }
        let (pool, route, task_type) = names.clone();
        let number = self.kinds.len();
        self.kinds.push(Kind { pool, route, task_type, line });
        self.numbers.insert(names, number);
        number
    }

    /// The number of a new task.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub(super) fn task(&mut self) -> Result<u32, TraceError> {
        let task = self.tasks;
        self.tasks = task.checked_add(1).ok_or(TraceError::TooLong)?;
        Ok(task)
    }

    fn named_task(&mut self, names: (String, String)) -> Result<u32, TraceError> {
        if let Some(task) = self.named.get(&names) {
            return Ok(*task);
        }
        let task = self.task()?;
        self.named.insert(names, task);
        Ok(task)
    }

    pub(super) fn finish(self) -> Result<Trace, TraceError> {
        let Self { kinds, mut calls, .. } = self;
        if calls.is_empty() {
            return Err(TraceError::Empty);
        }
        // What is written at the same time stays in its order.
        calls.sort_by_key(|call| (call.task, call.at));
        let (mut tasks, mut next) = (Vec::new(), 0);
        for of_task in calls.chunk_by(|one, other| one.task == other.task) {
            let first = next;
            next += of_task.len();
            tasks.extend(of_task.first().map(|call| Task { arrives: call.at, calls: first..next }));
        }
        tasks.sort_by_key(|task| task.arrives);
        Ok(Trace { kinds, calls, tasks })
    }
}

impl Call {
    /// A call, whose task is said where it is added.
    pub(super) fn new(at: i64, kind: usize, prompt_tokens: u32, output_tokens: u32, max_output_tokens: Option<u32>) -> Self {
        Self { at, kind, prompt_tokens, output_tokens, max_output_tokens, duration: None, task: 0 }
    }
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
