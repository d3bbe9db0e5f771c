//! What a list of arguments sets, as vLLM reads it.

use super::options;
use super::parser::{self, Occurrence};
use super::values;

/// The options of a list of arguments. Of several with the same `dest` the last one counts.
#[derive(Clone, Debug)]
pub struct Given(Vec<Occurrence>);

impl Given {
    /// Reads the arguments. What cannot be read is left to [`super::extra::check`].
    pub fn of(arguments: &[String]) -> Self {
        Self(parser::parse(arguments).0)
    }

    /// The value of an option, by its `dest`. None where it is absent or unset.
    pub fn value(&self, dest: &str) -> Option<&str> {
        let last = self.last(dest)?;
        let value = last.values.last()?;
        let unset = last.option.is_optional() && matches!(value.as_str(), "" | "None");
        (!unset).then_some(value)
    }

    /// All values of an option that takes several, such as `served_model_name`.
    pub fn values(&self, dest: &str) -> &[String] {
        match self.last(dest) {
            Some(last) => &last.values,
            None => &[],
        }
    }

    /// The same as [`Self::value`], as a number that is not negative.
    pub fn number(&self, dest: &str) -> Option<u64> {
        values::human_readable_int(self.value(dest)?).ok()?.try_into().ok()
    }

    /// Whether a flag is set.
    pub fn flag(&self, dest: &str) -> bool {
        self.last(dest).is_some_and(Occurrence::sets)
    }

    fn last(&self, dest: &str) -> Option<&Occurrence> {
        self.0.iter().rev().find(|occurrence| occurrence.option.dest == dest)
    }
}

/// The ranks that `--max-lora-rank` takes, ascending.
pub fn lora_ranks() -> Vec<u64> {
    let option = options::all().iter().find(|option| option.dest == "max_lora_rank");
    let mut ranks: Vec<u64> =
        option.iter().flat_map(|option| option.choices.iter().flatten()).filter_map(|rank| rank.as_u64()).collect();
    ranks.sort_unstable();
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_several_counts_and_none_unsets() {
        let given =
            Given::of(&["--max-loras=4", "--max_loras", "2", "--max-cpu-loras=8", "--max-cpu-loras=None"].map(str::to_owned));
        assert_eq!((given.number("max_loras"), given.number("max_cpu_loras")), (Some(2), None));
    }

    #[test]
    fn the_ranks_are_those_of_the_table() {
        assert_eq!(lora_ranks(), [1, 8, 16, 32, 64, 128, 256, 320, 512]);
    }
}
