//! Threads of the network's own for what waits on the kernel.
//!
//! The pool that tokio has for such work is everybody's: whatever fills it must not keep the network's
//! changes waiting.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use tokio::sync::oneshot;

/// A value that lives on a thread of its own, where it is changed in the order that is asked for. The
/// thread ends with this.
pub struct OwnThread<T> {
    jobs: mpsc::Sender<Job<T>>,
}

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

impl<T: Send + 'static> OwnThread<T> {
    /// Starts the thread, in the network namespace of this one.
    pub fn start(name: &str, mut value: T) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job<T>>();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            for job in queue {
                // Whoever waits for it is told; the next one may fare better.
                let _ = catch_unwind(AssertUnwindSafe(|| job(&mut value)));
            }
        })?;
        Ok(OwnThread { jobs })
    }

    /// Does this with the value, also if nobody waits for it any more.
    pub async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> io::Result<R> {
        let (sender, receiver) = oneshot::channel();
        let job: Job<T> = Box::new(move |value: &mut T| drop(sender.send(work(value))));
        self.jobs.send(job).map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())
    }
}

/// Does this on a thread that ends with it.
pub async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> io::Result<R> + Send + 'static,
) -> io::Result<R> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new().name("net".to_owned()).spawn(move || drop(sender.send(work())))?;
    receiver.await.unwrap_or_else(|_| Err(gone()))
}

fn gone() -> io::Error {
    io::Error::other("the thread of the network that did it has panicked")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever keeps tokio's own pool from doing anything else.
    #[test]
    fn a_full_pool_keeps_nothing_waiting() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (release, held) = mpsc::channel::<()>();
            let full = tokio::task::spawn_blocking(move || held.recv());
            let thread = OwnThread::start("test", Vec::new()).unwrap();
            thread.run(|values| values.push(1)).await.unwrap();
            let fault = thread.run(|_| panic!("a change that fails")).await;
            assert!(fault.is_err());
            assert_eq!(thread.run(|values| values.clone()).await.unwrap(), [1]);
            assert_eq!(blocking(|| Ok(2)).await.unwrap(), 2);
            drop(release);
            let _ = full.await;
        });
    }
}
