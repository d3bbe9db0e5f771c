//! Short names for long values: two values with the same hash count as the same.

use sha2::{Digest as _, Sha256};

/// The first 64 bits of the SHA-256 of `bytes`, as 16 hexadecimal digits. It is kept in annotations and statuses: another
/// function here would look like a change of every spec.
pub fn of(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn hashes_that_are_stored_in_clusters_stay_what_they_are() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(super::of("abc"), "ba7816bf8f01cfea");
    }
}
