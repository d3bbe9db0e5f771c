//! A curve drawn with characters: what was used over a time, and the limit.

/// A cell, filled by so many eighths from below.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Chart<'a> {
    /// A time in seconds and what was used until then, in the order of time. What is before the first and after the last one is
    /// not known, and stays empty.
    pub points: &'a [(i64, u64)],
    /// The time that is drawn: its first second, and the first one after it.
    pub span: (i64, i64),
    /// What may be used.
    pub limit: u64,
    /// Columns.
    pub width: usize,
    /// Lines, at least one.
    pub height: usize,
}

/// A chart, as lines of as many characters as it is wide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// The highest line first.
    pub lines: Vec<String>,
    /// Which of them is that of the limit.
    pub limit: usize,
}

impl Chart<'_> {
    /// Draws it.
    pub fn draw(&self) -> Drawn {
        let most = self.points.iter().map(|(_, used)| *used).max().unwrap_or(0).max(self.limit).max(1);
        let levels: Vec<usize> = (0..self.width).map(|column| self.level(column, most)).collect();
        let limit = scaled(self.limit, self.height, most).saturating_sub(1);
        let line = |row: usize| -> String {
            let cell = |level: &usize| {
                let filled = level.saturating_sub(row * 8).min(8);
                let empty = if row == limit { '─' } else { ' ' };
                EIGHTHS.get(filled).copied().filter(|_| filled > 0).unwrap_or(empty)
            };
            levels.iter().map(cell).collect()
        };
        let lines: Vec<String> = (0..self.height).rev().map(line).collect();
        Drawn { lines, limit: self.height.saturating_sub(1 + limit) }
    }

    /// How many eighths of lines are filled in a column.
    fn level(&self, column: usize, most: u64) -> usize {
        let (start, end) = self.span;
        let at = |column: usize| {
            let part = u128::try_from(end.saturating_sub(start)).unwrap_or(0) * wide(column);
            let part = part.checked_div(wide(self.width)).unwrap_or(0);
            start.saturating_add(i64::try_from(part).unwrap_or(i64::MAX))
        };
        let Some((last, _)) = self.points.last() else { return 0 };
        let (from, to) = (at(column), at(column + 1));
        // A column that ends later than what is known shows that, and one that begins later nothing.
        if from > *last || (from == *last && self.points.len() > 1) {
            return 0;
        }
        self.value(to.min(*last)).map_or(0, |value| scaled(value, self.height * 8, most))
    }

    /// What was used until a time, evenly between two points; none: before the first.
    fn value(&self, at: i64) -> Option<u64> {
        let after = self.points.partition_point(|(time, _)| *time <= at);
        let (before, used) = *self.points.get(after.checked_sub(1)?)?;
        let Some((next, then)) = self.points.get(after) else { return Some(used) };
        let [at, before, next] = [at, before, *next].map(i128::from);
        let grown = (at - before).checked_mul(i128::from(*then) - i128::from(used))?.checked_div(next - before)?;
        u64::try_from(i128::from(used) + grown).ok()
    }
}

/// A value in parts of the most that there is: at least one where it is not 0.
fn scaled(value: u64, parts: usize, most: u64) -> usize {
    let scaled = (u128::from(value) * wide(parts)).div_ceil(u128::from(most).max(1));
    usize::try_from(scaled).unwrap_or(usize::MAX).min(parts)
}

fn wide(count: usize) -> u128 {
    u128::try_from(count).unwrap_or(u128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(points: &[(i64, u64)], limit: u64) -> (Vec<String>, usize) {
        let Drawn { lines, limit } = Chart { points, span: (0, 80), limit, width: 8, height: 4 }.draw();
        assert!(lines.iter().all(|line| line.chars().count() == 8), "{lines:?}");
        (lines, limit)
    }

    #[test]
    fn it_rises_evenly_between_points_and_ends_with_what_is_known() {
        let rising = [(0, 0), (40, 32)];
        assert_eq!(drawn(&rising, 32).0, ["───█────", "  ██    ", " ███    ", "████    "]);
        assert_eq!(drawn(&rising, 64).0, ["────────", "        ", "  ▄█    ", "▄███    "]);
    }

    #[test]
    fn the_limit_is_a_line_above_which_there_is_room_for_what_passed_it() {
        let (lines, limit) = drawn(&[(0, 0), (80, 64)], 32);
        assert_eq!(lines, ["      ▄█", "    ▄███", "──▄█████", "▄███████"]);
        assert_eq!((limit, drawn(&[(0, 0), (80, 8)], 32).1), (2, 0));
    }

    #[test]
    fn what_is_not_known_is_empty_and_what_is_little_can_be_seen() {
        assert_eq!(drawn(&[(20, 8), (60, 8)], 32).0, ["────────", "        ", "        ", " █████  "]);
        assert_eq!(drawn(&[(0, 0), (80, 1)], 1000).0[3], "       ▁");
        assert_eq!(drawn(&[], 32).0, ["────────", "        ", "        ", "        "]);
    }

    #[test]
    fn nothing_is_too_large_or_too_small_to_be_drawn() {
        for points in [vec![(i64::MIN, 0), (i64::MAX, u64::MAX)], vec![(0, u64::MAX)], vec![(0, 0), (1, u64::MAX), (80, 0)]] {
            drawn(&points, 0);
            drawn(&points, u64::MAX);
        }
        let nowhere = Chart { points: &[(0, 1)], span: (5, 5), limit: 1, width: 0, height: 0 }.draw();
        assert_eq!(nowhere, Drawn { lines: Vec::new(), limit: 0 });
    }
}
