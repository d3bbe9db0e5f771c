//! The systems that we ask. Each answers with a value; a failed read is never a value.
