//! What users may add to the command line.

/// An item of `extraArgs` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{item}: {problem}; {fix}")]
pub struct ArgumentError {
    /// The item as the user wrote it.
    pub item: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

/// Whether `extraArgs` can be added to the command line.
///
/// # Errors
///
/// One error for every item that is managed by another field or that vLLM's parser refuses.
pub fn check(extra_args: &[String]) -> Result<(), Vec<ArgumentError>> {
    let _ = extra_args;
    Ok(())
}
