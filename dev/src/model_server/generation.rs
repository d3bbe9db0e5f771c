//! Makes an answer in the shape of an API: at once, or as a stream with the faults that only a stream has.

use std::sync::Arc;

use hyper::body::Bytes;
use serde_json::{Value, json};

use super::answer::{Answer, Script, Stop, Writer};
use super::calls::Server;
use super::engine::{Job, Work};
use super::fault::{Fault, Refusal, UsageFault};
use super::record::{End, OpenCall};
use super::refusals::{Dialect, Problem, refused};
use super::settings::Behaviour;
use super::shapes::{Data, Event, Made, Shape, insert};

/// Bytes of a line without end that are written at once.
const PIECE_OF_LINE: usize = 1 << 16;

/// Members that tell of usage, in all APIs.
const USAGE: [&str; 3] = ["usage", "prompt_eval_count", "eval_count"];

fn made(work: &Work, behaviour: &Behaviour) -> Made {
    Made { tokens: work.tokens, reasoning: work.reasoning(behaviour) }
}

/// An answer as a whole.
pub(super) async fn whole(server: &Server, mut shape: impl Shape, job: &Job, call: &OpenCall, fault: Option<&Fault>) -> Answer {
    let mut work = server.engine.begin(job, &server.behaviour(), call).await;
    let mut texts = vec![String::new(); usize::try_from(job.choices).unwrap_or(usize::MAX)];
    while let Some(piece) = work.next(&server.behaviour(), call).await {
        if let Some(text) = usize::try_from(piece.choice).ok().and_then(|choice| texts.get_mut(choice)) {
            text.push_str(&piece.text);
        }
    }
    let mut value = shape.whole(&texts, work.finish, made(&work, &server.behaviour()));
    if fault == Some(&Fault::Usage(UsageFault::Missing)) {
        without_usage(&mut value);
    }
    Answer::json(200, &value)
}

/// An answer as a stream. Its head goes out at once.
pub(super) fn stream(server: Arc<Server>, shape: impl Shape + 'static, job: Job, dialect: Dialect) -> Answer {
    let content_type = shape.stream_type();
    let script: Script =
        Box::new(move |writer| Box::pin(async move { Stream { server, shape, job, dialect }.write(writer).await }));
    Answer::stream(content_type, script)
}

struct Stream<S> {
    server: Arc<Server>,
    shape: S,
    job: Job,
    dialect: Dialect,
}

impl<S: Shape> Stream<S> {
    async fn write(mut self, writer: &mut Writer) -> Result<(), Stop> {
        // What is refused before anything is said has cost no token.
        if let Some(Fault::ErrorEvent { after: 0, refusal }) = writer.fault() {
            let refusal = *refusal;
            return self.fail(refusal, Made::default(), writer).await;
        }
        let mut work = self.server.engine.begin(&self.job, &self.server.behaviour(), &writer.call).await;
        let now = made(&work, &self.server.behaviour());
        let opening = self.shape.opening(now);
        self.events(opening, now, writer).await?;
        match writer.fault() {
            Some(Fault::EndlessStream) => work.without_end(),
            Some(Fault::EndlessLine) => return endless_line(writer).await,
            _ => {}
        }
        while let Some(piece) = work.next(&self.server.behaviour(), &writer.call).await {
            let now = made(&work, &self.server.behaviour());
            let events = self.shape.piece(piece.choice, &piece.text, now);
            self.events(events, now, writer).await?;
        }
        let now = made(&work, &self.server.behaviour());
        let closing = self.shape.closing(work.finish, now);
        self.events(closing, now, writer).await
    }

    async fn events(&mut self, events: Vec<Event>, made: Made, writer: &mut Writer) -> Result<(), Stop> {
        for mut event in events {
            match writer.fault() {
                Some(Fault::ErrorEvent { after, refusal }) if *after == writer.events => {
                    let refusal = *refusal;
                    return self.fail(refusal, made, writer).await;
                }
                Some(Fault::Usage(UsageFault::Missing)) => {
                    if let Data::Json(value) = &mut event.data
                        && without_usage(value)
                    {
                        continue;
                    }
                }
                Some(Fault::Usage(UsageFault::EveryEvent)) => {
                    if let Data::Json(value) = &mut event.data {
                        insert(value, "usage", self.shape.usage(made));
                    }
                }
                _ => {}
            }
            writer.event(self.shape.frame(&event)).await?;
        }
        Ok(())
    }

    /// Ends the stream with the error event of a refusal.
    async fn fail(&mut self, refusal: Refusal, made: Made, writer: &mut Writer) -> Result<(), Stop> {
        let refused = refused(self.dialect, self.server.settings.face, &Problem::from(refusal));
        for event in self.shape.failing(&refused.body, made) {
            writer.event(self.shape.frame(&event)).await?;
        }
        writer.call.end(End::Cut);
        Err(Stop::End)
    }
}

/// Takes all that tells of usage out of a value. Returns whether it was there for nothing else.
fn without_usage(value: &mut Value) -> bool {
    let only = value.get("usage").is_some_and(Value::is_object) && value.get("choices") == Some(&json!([]));
    remove_usage(value);
    only
}

fn remove_usage(value: &mut Value) {
    if let Some(members) = value.as_object_mut() {
        members.retain(|name, _| !USAGE.contains(&name.as_str()));
        members.values_mut().for_each(remove_usage);
    }
}

async fn endless_line(writer: &mut Writer) -> Result<(), Stop> {
    writer.write(Bytes::from_static(b"data: ")).await?;
    let piece = Bytes::from(vec![b'a'; PIECE_OF_LINE]);
    loop {
        writer.write(piece.clone()).await?;
    }
}
