//! The parts of this process beside the API server: each is kept going on its own, and none takes the
//! others along.

use proa_supervise::{Ending, Task, keep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// All parts that have been started.
#[derive(Default)]
pub struct Parts {
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Parts {
    /// Starts a part, which ends when its token is cancelled, and starts it again if it ends before.
    pub fn start<F>(
        &self,
        component: &'static str,
        name: &'static str,
        mut part: impl FnMut(CancellationToken) -> F + Send + 'static,
    ) where
        F: Future<Output: Ending> + Send,
    {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            keep(Task { component, name }, &shutdown, || part(shutdown.clone())).await;
        });
    }

    /// Starts a part that keeps its own parts going.
    pub fn start_kept<F>(&self, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(part(self.shutdown.clone()));
    }

    /// Ends all and waits for it.
    pub async fn end(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
