//! The text of an object, compressed by gzip.

use std::io::{self, Read as _, Write as _};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

/// The longest text that is read, in bytes. What is written is at most a few MiB; what was not written by an operator must not fill the
/// memory of one.
const TEXT_LIMIT: u64 = 64 << 20;

/// What is in an object is no text of a ledger.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is no text that gzip has compressed, or not all of it.
    #[error("it is not what gzip makes of a text: {0}")]
    Gzip(#[from] io::Error),
    /// It is too long.
    #[error("it is a text of more than {} MiB", TEXT_LIMIT >> 20)]
    TooLong,
}

/// Compresses a text. The same text gives the same bytes.
///
/// # Errors
///
/// None that is known: it is written into memory.
pub fn encode(text: &str) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()
}

/// The text that was compressed.
///
/// # Errors
///
/// It is cut, or something else, or too long.
pub fn decode(binary: &[u8]) -> Result<String, DecodeError> {
    let mut text = Vec::new();
    GzDecoder::new(binary).take(TEXT_LIMIT + 1).read_to_end(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > TEXT_LIMIT) {
        return Err(DecodeError::TooLong);
    }
    String::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_as_it_was_written_and_written_the_same_each_time() {
        for text in ["", "{}", &"naïve tokens, ".repeat(10_000)] {
            let binary = encode(text).unwrap();
            assert_eq!(decode(&binary).unwrap(), text);
            assert_eq!(encode(text).unwrap(), binary);
        }
        assert!(encode(&"tokens, ".repeat(10_000)).unwrap().len() < 1000);
    }

    #[test]
    fn what_is_cut_or_damaged_or_something_else_is_no_text() {
        let binary = encode(r#"{"schemaVersion":1,"budgets":{}}"#).unwrap();
        let mut damaged = binary.clone();
        let last = damaged.len() - 6;
        damaged[last] ^= 1;
        for wrong in [&binary[..binary.len() / 2], &binary[..binary.len() - 1], &damaged, b"{}", b""] {
            assert!(matches!(decode(wrong), Err(DecodeError::Gzip(_))), "{wrong:?}");
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&[0xff, 0xfe]).unwrap();
        assert!(matches!(decode(&encoder.finish().unwrap()), Err(DecodeError::Gzip(_))), "no UTF-8");
    }

    #[test]
    fn what_would_fill_the_memory_is_not_read() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let zeros = vec![b'0'; 1 << 20];
        for _ in 0..65 {
            encoder.write_all(&zeros).unwrap();
        }
        assert!(matches!(decode(&encoder.finish().unwrap()), Err(DecodeError::TooLong)));
    }
}
