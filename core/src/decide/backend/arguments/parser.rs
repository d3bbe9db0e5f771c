//! The second half of how vLLM reads its arguments: Python's argparse (3.11 to 3.13) with the options of vLLM 0.33.0, for
//! what stands behind the model and the arguments of the operator.

use super::options::{self, Arity, OptionSpec};
use super::words::{self, MissingValue, Word};
use super::{removed, values};

/// An option that was found, with its values.
#[derive(Clone, Debug)]
pub(super) struct Occurrence {
    pub option: &'static OptionSpec,
    /// The whole spelling that was meant.
    pub spelling: &'static str,
    pub values: Vec<String>,
    /// Index of the item that names the option.
    pub item: usize,
}

impl Occurrence {
    /// For a flag: whether it is set or unset.
    pub fn sets(&self) -> bool {
        !self.option.negates(self.spelling)
    }
}

/// Why an item is refused, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Index of the item.
    pub item: usize,
    /// The option that the item belongs to, if it is not about its name.
    pub option: Option<&'static str>,
    /// The `dest` of every option that the item may be short for, if it is short for several.
    pub short_for: Vec<&'static str>,
    pub problem: String,
    pub fix: String,
}

/// What argparse takes one word for.
enum Reading {
    Option { option: &'static OptionSpec, spelling: &'static str, value: Option<String> },
    Unknown,
    Ambiguous(Vec<(&'static OptionSpec, &'static str)>),
    Value,
}

/// Every option that could be read, and everything that the parser would refuse. Where argparse stops at its first error,
/// this goes on.
pub(super) fn parse(items: &[String]) -> (Vec<Occurrence>, Vec<Problem>) {
    let words = match words::of(items) {
        Ok(words) => words,
        Err(missing) => return (Vec::new(), missing.into_iter().map(path_without_value).collect()),
    };
    let mut parser = Parser { words: words.into_iter().peekable(), occurrences: Vec::new(), problems: Vec::new() };
    while let Some(word) = parser.words.next() {
        parser.step(&word);
    }
    (parser.occurrences, parser.problems)
}

fn path_without_value(MissingValue(item): MissingValue) -> Problem {
    Problem {
        item,
        option: None,
        short_for: Vec::new(),
        problem: "a dot makes it a path into a JSON option, and no value stands behind it".to_owned(),
        fix: "write --option.key=value; write a negative decimal behind `=`".to_owned(),
    }
}

struct Parser {
    words: std::iter::Peekable<std::vec::IntoIter<Word>>,
    occurrences: Vec<Occurrence>,
    problems: Vec<Problem>,
}

impl Parser {
    fn step(&mut self, word: &Word) {
        let mut refuse = |short_for, problem: String, fix: String| {
            self.problems.push(Problem { item: word.item, option: None, short_for, problem, fix });
        };
        match read(&word.text) {
            Reading::Option { option, spelling, value } => self.take(word, option, spelling, value),
            Reading::Value => {
                let before = self.occurrences.last().filter(|last| last.option.arity() == Arity::None);
                let fix = match before {
                    Some(flag) => format!("{} is a flag without a value: {}", flag.spelling, flag_fix(flag.option)),
                    None if word.text.starts_with('-') && word.text.contains(' ') => {
                        "write option and value as two items, or with `=` between them".to_owned()
                    }
                    None => "remove it, or put the option that it belongs to in front of it".to_owned(),
                };
                refuse(Vec::new(), "it belongs to no option".to_owned(), fix);
            }
            Reading::Ambiguous(candidates) => {
                let (options, names): (Vec<_>, Vec<_>) = candidates.into_iter().unzip();
                let short_for = options.into_iter().map(|option| option.dest.as_str()).collect();
                let fix = format!("write the whole name: {}", names.join(", "));
                refuse(short_for, "it is short for several options".to_owned(), fix);
                self.skip_values();
            }
            Reading::Unknown => {
                let (problem, fix) = removed::explain(&word.text);
                refuse(Vec::new(), problem, fix);
                self.skip_values();
            }
        }
    }

    fn take(&mut self, word: &Word, option: &'static OptionSpec, spelling: &'static str, value: Option<String>) {
        let mut problems = Vec::new();
        let mut refuse = |problem: String, fix: String| {
            problems.push(Problem { item: word.item, option: Some(spelling), short_for: Vec::new(), problem, fix });
        };
        let values = match (option.arity(), value) {
            (Arity::None, Some(_)) => {
                refuse("it is a flag and takes no value".to_owned(), flag_fix(option));
                Vec::new()
            }
            (Arity::None, None) => Vec::new(),
            (_, Some(value)) => vec![value],
            (Arity::Many, None) => self.values(usize::MAX),
            (Arity::One | Arity::Optional, None) => self.values(1),
        };
        if values.is_empty() && matches!(option.arity(), Arity::One | Arity::Many) {
            let fix = format!("write {spelling}=value, also where the value starts with a dash");
            refuse("its value is missing".to_owned(), fix);
        }
        for value in &values {
            if let Err(bad) = values::check(option, value) {
                refuse(bad.problem, bad.fix);
            }
        }
        self.problems.extend(problems);
        self.occurrences.push(Occurrence { option, spelling, values, item: word.item });
    }

    fn values(&mut self, most: usize) -> Vec<String> {
        let mut values = Vec::new();
        while values.len() < most
            && let Some(word) = self.words.next_if(|word| word.text != "--" && matches!(read(&word.text), Reading::Value))
        {
            values.push(word.text);
        }
        values
    }

    /// What stands behind a name that is not known is most likely its value, and is not told again.
    fn skip_values(&mut self) {
        self.values(usize::MAX);
    }
}

fn flag_fix(option: &OptionSpec) -> String {
    match option.option_strings.iter().find(|spelling| option.negates(spelling) && spelling.starts_with("--no-")) {
        Some(negation) => format!("write {} or {negation} alone", option.name()),
        None => format!("write {} alone, or leave it out", option.name()),
    }
}

/// `_parse_optional` of argparse.
fn read(text: &str) -> Reading {
    if !text.starts_with('-') || text == "-" {
        return Reading::Value;
    }
    if text == "--" {
        return Reading::Unknown;
    }
    if let Some((option, spelling)) = exactly(text) {
        return Reading::Option { option, spelling, value: None };
    }
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    if let (Some((option, spelling)), Some(value)) = (exactly(name), value) {
        return Reading::Option { option, spelling, value: Some(value.to_owned()) };
    }
    let mut candidates = candidates(text, name, value);
    match (candidates.pop(), candidates.is_empty()) {
        (Some((option, spelling, value)), true) => Reading::Option { option, spelling, value: value.map(str::to_owned) },
        (Some(last), false) => {
            candidates.push(last);
            Reading::Ambiguous(candidates.into_iter().map(|(option, spelling, _)| (option, spelling)).collect())
        }
        (None, _) if is_negative_number(text) || text.contains(' ') => Reading::Value,
        (None, _) => Reading::Unknown,
    }
}

fn spellings() -> impl Iterator<Item = (&'static OptionSpec, &'static str)> {
    options::all().iter().flat_map(|option| option.option_strings.iter().map(move |spelling| (option, spelling.as_str())))
}

fn exactly(text: &str) -> Option<(&'static OptionSpec, &'static str)> {
    spellings().find(|(_, spelling)| *spelling == text)
}

/// `_get_option_tuples` of argparse: a prefix of a long spelling, which may have a value behind `=`; a prefix of a short
/// one; or a spelling of one letter with its value glued to it.
fn candidates<'a>(text: &'a str, name: &str, value: Option<&'a str>) -> Vec<(&'static OptionSpec, &'static str, Option<&'a str>)> {
    if text.starts_with("--") {
        return spellings()
            .filter(|(_, spelling)| spelling.starts_with(name))
            .map(|(option, spelling)| (option, spelling, value))
            .collect();
    }
    let end = text.char_indices().nth(2).map_or(text.len(), |(end, _)| end);
    let (letter, glued) = text.split_at_checked(end).unwrap_or((text, ""));
    spellings()
        .filter_map(|(option, spelling)| {
            if spelling == letter {
                Some((option, spelling, Some(glued)))
            } else {
                spelling.starts_with(text).then_some((option, spelling, None))
            }
        })
        .collect()
}

/// `^-\d+$|^-\d*\.\d+$`
fn is_negative_number(text: &str) -> bool {
    let Some(number) = text.strip_prefix('-') else { return false };
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    match number.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction) && !fraction.is_empty(),
        None => digits(number) && !number.is_empty(),
    }
}
