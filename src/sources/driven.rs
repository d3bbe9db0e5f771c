//! A connection that is driven by the task that uses it, with a waker of its own.
//!
//! hyper's connection wakes its task for all that may be of interest to it: a piece of a body was put where the reader takes it, the
//! reader wants the next one, a call was handed over. Where both are the same task, it has done that itself a moment ago, and
//! would be polled again for nothing, several times for each piece of a stream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// How often a connection is driven in a row before its task lets others run.
const ROUNDS: usize = 8;

/// A connection, whose user's task drives it.
pub(super) struct Driven<C> {
    /// None once it has ended.
    connection: Option<Pin<Box<C>>>,
    bell: Arc<Bell>,
    /// Rings the bell.
    waker: Waker,
}

/// Notes that there is something to do for a connection.
struct Bell {
    has_rung: AtomicBool,
    /// Whether the task is at it, and looks once more whether the bell has rung before it waits.
    is_attended: AtomicBool,
    /// The task, for when it is not.
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // In one order for all: either the task sees that it rang, or it is seen here that the task has left.
        self.has_rung.store(true, Ordering::SeqCst);
        if !self.is_attended.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

impl<C: Future> Driven<C> {
    /// A connection that nobody has driven yet.
    pub(super) fn new(connection: C) -> Self {
        let bell =
            Arc::new(Bell { has_rung: AtomicBool::new(true), is_attended: AtomicBool::new(false), task: AtomicWaker::new() });
        Self { connection: Some(Box::pin(connection)), waker: Waker::from(Arc::clone(&bell)), bell }
    }

    /// Whether it has ended, which is looked at without waiting. How it did is told to the call that it carried.
    pub(super) fn has_ended(&mut self) -> bool {
        self.attend();
        self.connection.is_none()
    }

    /// Polls what the connection feeds, and drives the connection while it has something to do and that is not ready. `fed` gets a
    /// context that wakes nobody: nothing but this connection may bring it on.
    pub(super) fn poll<T>(&mut self, context: &Context<'_>, mut fed: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.bell.task.register(context.waker());
        let mut silent = Context::from_waker(Waker::noop());
        for _ in 0..ROUNDS {
            self.bell.is_attended.store(true, Ordering::SeqCst);
            let mut polled = fed(&mut silent);
            if polled.is_pending() && self.attend() {
                polled = fed(&mut silent);
            }
            self.bell.is_attended.store(false, Ordering::SeqCst);
            if polled.is_ready() || !self.bell.has_rung.load(Ordering::SeqCst) {
                return polled;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Leaves it alone: it wakes nobody until it is polled again.
    pub(super) fn leave(&self) {
        drop(self.bell.task.take());
    }

    /// Drives it if there is something to do, and says whether there was.
    fn attend(&mut self) -> bool {
        let rang = self.bell.has_rung.swap(false, Ordering::SeqCst);
        if rang && let Some(connection) = &mut self.connection {
            let mut context = Context::from_waker(&self.waker);
            if connection.as_mut().poll(&mut context).is_ready() {
                self.connection = None;
            }
        }
        rang
    }
}

#[cfg(test)]
#[path = "driven_tests.rs"]
mod tests;
