//! Kubernetes quantities, read as whole bytes or whole units.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity that cannot be read as a whole, non-negative number.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a whole, non-negative quantity: write for example 80Gi, 16G or 8")]
pub struct ParseQuantityError(pub String);

/// Binary suffixes are powers of 1024, decimal ones powers of 1000 (`resource.Quantity` of apimachinery).
const SUFFIXES: [(&str, u128); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

/// The whole number that a quantity stands for, rounded up as Kubernetes rounds (`1500m` is 2).
pub fn to_u64(quantity: &Quantity) -> Result<u64, ParseQuantityError> {
    scaled(quantity, 1)
}

/// The millionths that a quantity stands for, rounded up: `0.1` and `100m` are 100,000.
pub fn to_millionths(quantity: &Quantity) -> Result<u64, ParseQuantityError> {
    scaled(quantity, 1_000_000)
}

/// The quantity as a whole number of parts, rounded up.
fn scaled(quantity: &Quantity, parts: u128) -> Result<u64, ParseQuantityError> {
    let text = quantity.0.trim();
    let invalid = || ParseQuantityError(quantity.0.clone());
    let (number, multiplier, divisor) = SUFFIXES
        .iter()
        .find_map(|(suffix, multiplier)| text.strip_suffix(suffix).map(|number| (number, *multiplier, 1_u128)))
        .or_else(|| text.strip_suffix('m').map(|number| (number, 1, 1_000)))
        .unwrap_or((text, 1, 1));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits_only = |part: &str| part.len() <= 18 && part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits_only(whole) || !digits_only(fraction) {
        return Err(invalid());
    }
    let mut numerator: u128 = format!("{whole}{fraction}").parse().map_err(|_| invalid())?;
    numerator = numerator.checked_mul(multiplier).and_then(|number| number.checked_mul(parts)).ok_or_else(invalid)?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| invalid())?) * divisor;
    u64::try_from(numerator.div_ceil(scale)).map_err(|_| invalid())
}

/// Bytes as a quantity in the largest binary unit that divides them.
pub fn from_bytes(bytes: u64) -> Quantity {
    let (suffix, unit) = [("Ti", 1_u64 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)]
        .into_iter()
        .find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit))
        .unwrap_or(("", 1));
    Quantity(format!("{}{suffix}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_quantities_are_read_as_whole_numbers() {
        for (text, value) in [("80Gi", 80 << 30), ("16G", 16_000_000_000), ("8", 8), ("1500m", 2), ("1.5Gi", 3 << 29), ("0", 0)] {
            assert_eq!(to_u64(&Quantity(text.into())), Ok(value), "{text}");
        }
    }

    #[test]
    fn parts_of_one_are_read_in_millionths() {
        for (text, value) in [("0.1", 100_000), ("100m", 100_000), ("0", 0), ("2", 2_000_000), ("0.0000001", 1)] {
            assert_eq!(to_millionths(&Quantity(text.into())), Ok(value), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "lots", "-1Gi", "1_0", "Gi", "1e3", "9999999999999999999999", "1.2.3"] {
            assert!(to_u64(&Quantity(text.into())).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_written_in_the_largest_unit_that_divides_them() {
        assert_eq!(from_bytes(80 << 30).0, "80Gi");
        assert_eq!(from_bytes(1536 << 20).0, "1536Mi");
        assert_eq!(from_bytes(7).0, "7");
        assert_eq!(from_bytes(0).0, "0");
    }
}
