//! Makes tokens: a limited number of places to work, a queue before them, a prefix cache, and a pace. Every token is told to
//! the record when it is made, so that what a cut or cancelled call has cost is known.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::prefix_cache::PrefixCache;
use super::record::{OpenCall, Tokens};
use super::settings::{Behaviour, Settings};
use super::tokens::Prompt;

/// Tokens of an answer where neither prompt nor request nor settings say how many.
const OUTPUT: u64 = 16;

/// How an API uses the prefix cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caching {
    /// Every prompt is cached; fewer found tokens than this many do not count.
    Automatic(u64),
    /// Only what the request marks is cached, and writing has a price.
    Asked,
    /// The server tells nobody.
    Untold,
}

/// What is to be made.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub prompt: Prompt,
    /// Most tokens of each answer that the request allows; none: as many as the context has room for.
    pub limit: Option<u64>,
    /// Answers to the same prompt.
    pub choices: u64,
    pub caching: Caching,
    /// Keeps what is cached apart: the model, and what else the request says.
    pub salt: String,
    /// Most tokens of prompt and answer together.
    pub context_length: u64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// The model had no more to say.
    Stop,
    /// It had, but was allowed no more.
    Length,
}

impl Job {
    /// How many tokens each answer gets, and why it ends then.
    fn length(&self, behaviour: &Behaviour) -> (u64, Finish) {
        let room = self.context_length.saturating_sub(self.prompt.len()).max(1);
        let allowed = self.limit.map_or(room, |limit| limit.min(room));
        let wanted = self.prompt.wanted.or(behaviour.output_tokens).unwrap_or(if self.limit.is_some() { allowed } else { OUTPUT });
        if wanted >= allowed { (allowed, Finish::Length) } else { (wanted, Finish::Stop) }
    }
}

/// The engine of one server.
#[derive(Debug)]
pub(super) struct Engine {
    slots: Arc<Semaphore>,
    all_slots: usize,
    queue: Option<usize>,
    waiting: AtomicUsize,
    tokens_held: Arc<AtomicU64>,
    capacity: u64,
    cache: Mutex<PrefixCache>,
}

impl Engine {
    pub fn new(settings: &Settings) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(settings.slots)),
            all_slots: settings.slots,
            queue: settings.queue,
            waiting: AtomicUsize::default(),
            tokens_held: Arc::default(),
            capacity: settings.blocks.saturating_mul(settings.block_size).max(1),
            cache: Mutex::new(PrefixCache::new(settings.block_size, settings.blocks)),
        }
    }

    /// Calls that are worked on.
    pub fn running(&self) -> usize {
        self.all_slots.saturating_sub(self.slots.available_permits())
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Tokens that running calls hold, and the most that there is room for.
    pub fn held(&self) -> (u64, u64) {
        (self.tokens_held.load(Ordering::Relaxed), self.capacity)
    }

    /// Whether one more call could not even wait.
    pub fn is_full(&self) -> bool {
        self.slots.available_permits() == 0 && self.queue.is_some_and(|queue| self.waiting() >= queue)
    }

    /// Waits for a place and reads the prompt. Its tokens count once it is read.
    pub async fn begin(&self, job: &Job, behaviour: &Behaviour, call: &OpenCall) -> Work {
        let waiting = Counted::new(&self.waiting);
        let slot = self.slots.clone().acquire_owned().await;
        drop(waiting);
        let held = Held { all: self.tokens_held.clone(), own: job.prompt.len() };
        held.all.fetch_add(held.own, Ordering::Relaxed);
        pause(behaviour.first_token_milliseconds).await;
        let (cached, cache_written) = match job.caching {
            Caching::Untold => (0, 0),
            Caching::Automatic(least) => {
                let (found, _) = self.read(job);
                (if found < least { 0 } else { found }, 0)
            }
            Caching::Asked => self.read(job),
        };
        let tokens = Tokens { input: job.prompt.len(), cached, cache_written, output: 0 };
        call.made(tokens);
        let (length, finish) = job.length(behaviour);
        Work { _slot: slot.ok(), held, tokens, length, finish, choices: job.choices, made: 0 }
    }

    fn read(&self, job: &Job) -> (u64, u64) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).read(&job.salt, &job.prompt.tokens)
    }
}

/// A call that has a place. The place is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Work {
    _slot: Option<OwnedSemaphorePermit>,
    held: Held,
    /// What was made so far.
    pub tokens: Tokens,
    /// Tokens of each answer.
    length: u64,
    /// Why the answers end.
    pub finish: Finish,
    choices: u64,
    /// Steps that are done; a step is some tokens of one answer.
    made: u64,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub choice: u64,
    pub text: String,
}

impl Work {
    /// It goes on until somebody stops it.
    pub fn without_end(&mut self) {
        self.length = u64::MAX;
    }

    /// The next tokens of one of the answers, which take turns; none: they have ended.
    pub async fn next(&mut self, behaviour: &Behaviour, call: &OpenCall) -> Option<Piece> {
        let per_step = behaviour.tokens_per_event.max(1);
        let choices = self.choices.max(1);
        let (step, choice) = (self.made / choices, self.made % choices);
        let first = step.checked_mul(per_step).filter(|first| *first < self.length)?;
        let mut text = String::new();
        for index in first..first.saturating_add(per_step).min(self.length) {
            // The answers to one prompt are made at the same time.
            if index > 0 && choice == 0 {
                pause(behaviour.token_milliseconds).await;
            }
            call.made(Tokens { output: 1, ..Tokens::default() });
            self.tokens.output += 1;
            self.held.own += 1;
            self.held.all.fetch_add(1, Ordering::Relaxed);
            text.push_str(&token(index));
        }
        self.made += 1;
        Some(Piece { choice, text })
    }

    /// How many of the tokens of the answer were for reasoning.
    pub fn reasoning(&self, behaviour: &Behaviour) -> u64 {
        behaviour.reasoning_tokens.min(self.tokens.output)
    }
}

/// The token with this index in an answer.
pub(super) fn token(index: u64) -> String {
    format!(" t{index}")
}

async fn pause(milliseconds: u64) {
    if milliseconds > 0 {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}

/// One more, while it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The tokens that a call holds in memory, while it lives.
#[derive(Debug)]
struct Held {
    all: Arc<AtomicU64>,
    own: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_the_prompt_or_the_settings_or_the_request_say() {
        let length = |wanted, output_tokens, limit| {
            let prompt = Prompt { tokens: vec![0; 90], wanted };
            let job = Job { prompt, limit, choices: 1, caching: Caching::Untold, salt: String::new(), context_length: 100 };
            job.length(&Behaviour { output_tokens, ..Behaviour::default() })
        };
        assert_eq!(length(Some(3), Some(5), Some(7)), (3, Finish::Stop));
        assert_eq!(length(None, Some(5), Some(7)), (5, Finish::Stop));
        assert_eq!(length(None, None, Some(7)), (7, Finish::Length));
        assert_eq!(length(Some(8), None, Some(7)), (7, Finish::Length));
        assert_eq!(length(None, None, None), (10, Finish::Length), "the context has room for ten more");
        assert_eq!(length(Some(0), None, None), (0, Finish::Stop));
    }
}
