//! What tells a call from all others, in its answer and in the routing log.

use serde::{Serialize, Serializer};

/// 128 bits by chance, as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallId([u8; 32]);

impl CallId {
    /// That of a new call.
    pub fn by_chance() -> Self {
        Self::of(fastrand::u128(..))
    }

    fn of(number: u128) -> Self {
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
            if let [high, low] = pair {
                (*high, *low) = (digit(byte >> 4), digit(byte & 15));
            }
        }
        Self(digits)
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + (value - 10) }
}

impl Serialize for CallId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_all_digits_of_its_number() {
        for number in [0, 9, 10, 0x0123_4567_89ab_cdef, u128::MAX, fastrand::u128(..)] {
            assert_eq!(CallId::of(number).as_str(), format!("{number:032x}"));
        }
    }
}
