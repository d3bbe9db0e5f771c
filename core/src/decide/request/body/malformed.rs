//! What makes a body unreadable, in words for the caller.

/// Why a body cannot be read. All of these are the caller's fault: status 400. The words name the field and say what to do; nothing
/// of the body is in them, not even the names of members that are not in this code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedBody {
    /// Bytes that are no text.
    #[error("the body is not valid UTF-8 at byte {at}: send JSON in UTF-8")]
    NotUtf8 {
        /// Bytes before the first wrong one.
        at: usize,
    },
    /// Text that is no JSON.
    #[error("the body is not valid JSON: {problem} at line {line}, column {column}")]
    NotJson {
        /// What the parser says, which is a fixed sentence.
        problem: String,
        /// The line, from 1 on.
        line: usize,
        /// The column, from 1 on.
        column: usize,
    },
    /// JSON that is no object.
    #[error("the body must be a JSON object, such as {{\"model\": \"...\"}}")]
    NotAnObject,
    /// The same member twice: readers disagree which one counts.
    #[error("{}", twice(*.field, *.at))]
    Duplicate {
        /// Its name, if this code knows it.
        field: Option<&'static str>,
        /// Where the second one begins, in bytes.
        at: usize,
    },
    /// More members than any format has.
    #[error("{} has more than {most} members: remove those that are not part of the API", owner(*.field))]
    TooManyMembers {
        /// The object that has them; `None`: the body itself.
        field: Option<&'static str>,
        /// How many are allowed.
        most: usize,
    },
    /// A member that has to be there.
    #[error("\"{field}\" is missing: {fix}")]
    Missing {
        /// Its name.
        field: &'static str,
        /// What to do.
        fix: &'static str,
    },
    /// A member in another form than its API says, or out of its bounds.
    #[error("\"{field}\" must be {expected}")]
    Invalid {
        /// Its name.
        field: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// A member that the gateway cannot carry out.
    #[error("\"{field}\" is not supported here: {fix}")]
    Unsupported {
        /// Its name.
        field: &'static str,
        /// What to do.
        fix: &'static str,
    },
}

impl MalformedBody {
    /// The field that is wrong: what OpenAI's errors call `param`.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::NotUtf8 { .. } | Self::NotJson { .. } | Self::NotAnObject => None,
            Self::Duplicate { field, .. } | Self::TooManyMembers { field, .. } => *field,
            Self::Missing { field, .. } | Self::Invalid { field, .. } | Self::Unsupported { field, .. } => Some(field),
        }
    }
}

fn twice(field: Option<&str>, at: usize) -> String {
    match field {
        Some(field) => format!("\"{field}\" stands twice in one object: send it once"),
        None => format!("a member stands twice in one object, the second time at byte {at}: send it once"),
    }
}

fn owner(field: Option<&str>) -> String {
    field.map_or_else(|| "the body".to_owned(), |field| format!("\"{field}\""))
}
