//! Chance for decisions, which draw none themselves.

/// 32 random bytes for a new key, in hexadecimal; empty when the system has none, which the decision reports.
pub fn entropy() -> String {
    let mut bytes = [0_u8; 32];
    match getrandom::fill(&mut bytes) {
        Ok(()) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        Err(_) => String::new(),
    }
}
