//! Quantities of resources, as far as the downward API needs them.

const SUFFIXES: [(&str, i128); 13] = [
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
    ("", 1),
];

/// A quantity in thousandths, rounded up, such as 1500 for `1.5` and 2 for `2m`. None where it is no quantity.
fn thousandths(text: &str) -> Option<i128> {
    let (digits, suffix) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let value: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (numerator, denominator) = match suffix {
        "m" => (1, 1),
        "u" => (1, 1_000),
        "n" => (1, 1_000_000),
        suffix => (SUFFIXES.iter().find(|(name, _)| *name == suffix)?.1.checked_mul(1_000)?, 1),
    };
    Some(divided_up(value.checked_mul(numerator)?, scale.checked_mul(denominator)?))
}

/// How many times `divisor` goes into `quantity`, rounded up, as the downward API counts.
pub(super) fn in_units_of(quantity: &str, divisor: &str) -> Option<i128> {
    // A divisor of 0, which an absent one is written as, means 1.
    let divisor = thousandths(divisor).filter(|divisor| *divisor > 0).unwrap_or(1_000);
    thousandths(quantity).map(|value| divided_up(value, divisor))
}

fn divided_up(value: i128, divisor: i128) -> i128 {
    value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_counted_in_units_of_the_divisor_and_rounded_up() {
        for (quantity, divisor, units) in
            [("1500m", "1", 2), ("1.5", "1m", 1500), ("2Gi", "1Mi", 2048), ("64", "0", 64), ("1k", "1", 1000), ("100u", "1m", 1)]
        {
            assert_eq!(in_units_of(quantity, divisor), Some(units), "{quantity} in {divisor}");
        }
        assert_eq!(in_units_of("much", "1"), None);
        assert_eq!(in_units_of("1X", "1"), None);
    }
}
