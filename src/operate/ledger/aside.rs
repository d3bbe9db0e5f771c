//! Work that takes a while, on a thread that nothing else waits for: whoever keeps ledgers also lets time pass for all namespaces.

use std::panic::resume_unwind;

use tokio::task::spawn_blocking;

/// Does the work. A panic in it is one of the caller.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await.map_err(|error| error.try_into_panic()) {
        Ok(done) => done,
        Err(Ok(panic)) => resume_unwind(panic),
        // It was not begun because the runtime ends, and with it whoever waits.
        Err(Err(_)) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_task_that_waits_is_not_the_one_that_works_and_hears_of_a_panic() {
        let own = std::thread::current().id();
        assert_ne!(aside(|| std::thread::current().id()).await, own);
        let panicked = tokio::spawn(aside(|| -> u64 { panic!("as the test wants") })).await;
        assert!(panicked.unwrap_err().is_panic());
    }
}
