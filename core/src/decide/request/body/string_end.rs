//! Where a string of JSON ends, and how long it is in UTF-8, found by 64 bytes at once.
//!
//! A prompt is one string of hundreds of KiB, and code in it has an escape in every line or several. Each block becomes three masks, a
//! bit for each byte; which bytes are escaped is then a sum with carries over the backslashes, as Langdale and Lemire describe
//! it in "Parsing Gigabytes of JSON per Second" (2019), and only what is escaped is looked at byte by byte.

use wide::u8x16;

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// Every second byte of a block, from its second on.
const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;

/// Where a string ends that goes on at this place: its closing quotation mark, and how many bytes shorter in UTF-8 it is than its
/// escapes make it. `None` where it does not end, and where something in it may not stand in a string.
pub(super) fn string_end(bytes: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let mut saved = 0_usize;
    // Whether the block before ended in a backslash that escapes the first byte of this one.
    let mut carried = 0_u64;
    loop {
        let rest = bytes.get(at..)?;
        let mut padded = [0; BLOCK];
        let block = match rest.first_chunk::<BLOCK>() {
            Some(block) => block,
            // Zeros may not stand in a string: it ends before them, or not at all.
            None => {
                padded.get_mut(..rest.len())?.copy_from_slice(rest);
                &padded
            }
        };
        let Masks { quotes, backslashes, controls } = Masks::of(block);
        let mut escaped = 0;
        if backslashes | carried != 0 {
            (escaped, carried) = escaped_by(backslashes, carried);
        }
        let closing = quotes & !escaped;
        // The bytes up to the closing quotation mark, or all.
        let inside = closing ^ closing.wrapping_sub(1);
        if controls & inside != 0 {
            return None;
        }
        saved += usize::try_from((escaped & inside).count_ones()).ok()?;
        // An escaped quotation mark or backslash stands for itself.
        let mut others = escaped & inside & !(quotes | backslashes);
        while others != 0 {
            let index = usize::try_from(others.trailing_zeros()).ok()?;
            others &= others - 1;
            match block.get(index)? {
                b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                b'u' => saved += saved_by_code(rest.get(index + 1..)?.first_chunk()?)?,
                _ => return None,
            }
        }
        if closing != 0 {
            return Some((at + usize::try_from(closing.trailing_zeros()).ok()?, saved));
        }
        at += BLOCK;
    }
}

/// Bits of a block, the first byte's being the lowest.
struct Masks {
    quotes: u64,
    backslashes: u64,
    /// Control characters, which may not stand in a string.
    controls: u64,
}

impl Masks {
    fn of(block: &[u8; BLOCK]) -> Self {
        let (quotes, backslashes) = (u8x16::splat(b'"'), u8x16::splat(b'\\'));
        let mut masks = Self { quotes: 0, backslashes: 0, controls: 0 };
        let mut lowest = u8x16::splat(u8::MAX);
        for (shift, bytes) in quarters(block) {
            masks.quotes |= bits(bytes.simd_eq(quotes), shift);
            masks.backslashes |= bits(bytes.simd_eq(backslashes), shift);
            lowest = lowest.min(bytes);
        }
        // Few blocks have any.
        if bits(is_control(lowest), 0) != 0 {
            masks.controls = quarters(block).fold(0, |controls, (shift, bytes)| controls | bits(is_control(bytes), shift));
        }
        masks
    }
}

/// What is looked at with one instruction, and which bit of a mask is that of its first byte.
fn quarters(block: &[u8; BLOCK]) -> impl Iterator<Item = (u32, u8x16)> {
    let (quarters, _) = block.as_chunks();
    (0..u64::BITS).step_by(16).zip(quarters.iter().copied().map(u8x16::new))
}

fn is_control(bytes: u8x16) -> u8x16 {
    bytes.simd_eq(bytes.min(u8x16::splat(0x1f)))
}

fn bits(is: u8x16, shift: u32) -> u64 {
    u64::from(is.to_bitmask()) << shift
}

/// The bytes of a block that are escaped, and whether the first one of the next is.
///
/// A backslash that is not escaped escapes what follows it, so that in a run of them every second one does. The subtraction carries
/// through each run, and leaves bits of one parity or the other by where the run began.
fn escaped_by(backslashes: u64, carried: u64) -> (u64, u64) {
    let begin = backslashes & !carried;
    let alternating = ((begin << 1) | ODD).wrapping_sub(begin) ^ ODD;
    (alternating ^ (backslashes | carried), (alternating & backslashes) >> (u64::BITS - 1))
}

/// How many bytes shorter in UTF-8 a character is than `uXXXX`, by its four digits. Half a pair of surrogates is half of a
/// character of four bytes.
fn saved_by_code(digits: &[u8; 4]) -> Option<usize> {
    let digits = digits.iter().map(|digit| char::from(*digit).to_digit(16));
    Some(match digits.reduce(|high, low| Some((high? << 4) | low?)).flatten()? {
        0..=0x7f => 4,
        0x80..=0x7ff | 0xd800..=0xdfff => 3,
        _ => 2,
    })
}

#[cfg(test)]
#[path = "string_end_tests.rs"]
mod tests;
