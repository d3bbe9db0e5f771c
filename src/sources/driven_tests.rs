//! A connection is driven when there is something to do for it, and wakes its task when that is elsewhere.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::task::ready;

use super::*;

/// The task, which counts how often it is woken.
#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection that wakes its own task `wakes` times whenever it is driven, and keeps the waker that it was driven with.
#[derive(Clone, Default)]
struct Restless {
    wakes: Rc<Cell<usize>>,
    driven: Rc<Cell<usize>>,
    waker: Rc<Cell<Option<Waker>>>,
    ends: Rc<Cell<bool>>,
}

impl Future for Restless {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.driven.set(self.driven.get() + 1);
        self.waker.set(Some(context.waker().clone()));
        if let Some(left) = self.wakes.get().checked_sub(1) {
            self.wakes.set(left);
            context.waker().wake_by_ref();
        }
        if self.ends.get() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Restless {
    fn wake(&self) {
        self.waker.take().unwrap().wake();
    }
}

/// A connection, its task, and what it feeds: ready after it was driven so often.
struct Setup {
    connection: Restless,
    driven: Driven<Restless>,
    task: Arc<Task>,
}

impl Setup {
    fn new(wakes: usize) -> Self {
        let connection = Restless { wakes: Rc::new(wakes.into()), ..Restless::default() };
        Self { driven: Driven::new(connection.clone()), connection, task: Arc::default() }
    }

    fn poll(&mut self, ready_after: usize) -> Poll<()> {
        let (waker, driven) = (Waker::from(Arc::clone(&self.task)), Rc::clone(&self.connection.driven));
        self.driven.poll(&Context::from_waker(&waker), |_| if driven.get() < ready_after { Poll::Pending } else { Poll::Ready(()) })
    }

    /// How often the connection was driven, and its task woken.
    fn counts(&self) -> (usize, usize) {
        (self.connection.driven.get(), self.task.0.load(Ordering::Relaxed))
    }
}

#[test]
fn a_new_connection_is_driven_and_one_that_has_nothing_to_do_is_not() {
    let mut setup = Setup::new(0);
    assert_eq!(setup.poll(9), Poll::Pending);
    assert_eq!(setup.poll(9), Poll::Pending);
    assert_eq!(setup.counts(), (1, 0));
}

#[test]
fn what_is_ready_is_taken_without_driving_the_connection() {
    let mut setup = Setup::new(0);
    assert_eq!(setup.poll(0), Poll::Ready(()));
    assert_eq!(setup.counts(), (0, 0));
}

#[test]
fn a_connection_that_wakes_its_task_while_that_drives_it_is_driven_on_and_wakes_nobody() {
    let mut setup = Setup::new(3);
    assert_eq!(setup.poll(9), Poll::Pending);
    assert_eq!(setup.counts(), (4, 0));
}

#[test]
fn a_connection_that_never_rests_lets_others_run_and_goes_on() {
    let mut setup = Setup::new(usize::MAX);
    assert_eq!(setup.poll(usize::MAX), Poll::Pending);
    assert_eq!(setup.counts(), (ROUNDS, 1));
    assert_eq!(setup.poll(2 * ROUNDS), Poll::Ready(()));
}

#[test]
fn a_connection_that_has_something_to_do_while_its_task_waits_wakes_it() {
    let mut setup = Setup::new(0);
    assert_eq!(setup.poll(2), Poll::Pending);
    setup.connection.wake();
    assert_eq!(setup.counts(), (1, 1));
    assert_eq!(setup.poll(2), Poll::Ready(()));
}

#[test]
fn the_task_that_polled_last_is_the_one_that_is_woken() {
    let mut setup = Setup::new(0);
    assert_eq!(setup.poll(2), Poll::Pending);
    let first = std::mem::take(&mut setup.task);
    assert_eq!(setup.poll(2), Poll::Pending);
    setup.connection.wake();
    assert_eq!((first.0.load(Ordering::Relaxed), setup.counts()), (0, (1, 1)));
}

#[test]
fn a_connection_that_is_left_alone_wakes_nobody_holds_no_task_and_tells_its_end_when_asked() {
    let mut setup = Setup::new(0);
    assert_eq!(setup.poll(9), Poll::Pending);
    setup.driven.leave();
    assert_eq!(Arc::strong_count(&setup.task), 1);
    assert!(!setup.driven.has_ended());
    setup.connection.ends.set(true);
    setup.connection.wake();
    assert!(setup.driven.has_ended());
    assert_eq!(setup.counts(), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_happens_at_the_moment_in_which_the_task_goes_to_wait_is_missed() {
    /// Counts what another thread has sent, and wakes itself for each of it.
    struct Counting(tokio::sync::mpsc::UnboundedReceiver<()>, Arc<AtomicUsize>);
    impl Future for Counting {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            while ready!(self.0.poll_recv(context)).is_some() {
                self.1.fetch_add(1, Ordering::Relaxed);
            }
            Poll::Ready(())
        }
    }
    const SENT: usize = 20_000;
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let (answer, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let count = Arc::new(AtomicUsize::new(0));
    let mut driven = Driven::new(Counting(receiver, Arc::clone(&count)));
    let reading = tokio::spawn(async move {
        for expected in 1..=SENT {
            let arrived =
                |_: &mut Context<'_>| if count.load(Ordering::Relaxed) < expected { Poll::Pending } else { Poll::Ready(()) };
            std::future::poll_fn(|context| driven.poll(context, arrived)).await;
            answer.send(()).unwrap();
        }
    });
    // Each is sent when the one before has been seen, which is when the reader goes to wait.
    let sending = async {
        for _ in 0..SENT {
            sender.send(()).unwrap();
            answers.recv().await.unwrap();
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), sending).await.expect("a wake was lost");
    reading.await.unwrap();
}
