//! Containers that run: what is asked of them and answered at once, what they write, and their end where
//! something takes too long.

use std::time::Instant;

use crate::cgroup;
use crate::containers::Entry;
use crate::protocol::{Event, Reply, VERSION};
use crate::sandbox::{Sandbox, failed};

impl Sandbox {
    /// Sends a signal to a container's first process, or to all of them.
    pub(crate) fn signal(&mut self, connection: u64, id: &str, number: i32, all: bool) {
        let Some(index) = self.find(connection, id) else { return };
        let entry = &self.containers[index];
        let reply = if !(1..=libc::SIGRTMAX()).contains(&number) {
            failed("InvalidRequest", format!("{number} is not a signal"))
        } else if !entry.running() {
            failed("ContainerNotRunning", format!("container {id} is not running"))
        } else if all {
            entry.cgroup.signal(number);
            Reply::Done
        } else {
            match cgroup::send_signal(entry.state.pid, number) {
                // It has ended, and will be reaped next.
                Ok(()) | Err(nix::Error::ESRCH) => Reply::Done,
                Err(error) => failed("KillContainerError", error),
            }
        };
        self.reply(connection, &reply);
    }

    /// Tells how all containers are.
    pub(crate) fn list(&mut self, connection: u64) {
        let known = self.containers.iter().filter(|entry| entry.visible());
        let containers = known.map(|entry| entry.state.clone()).collect();
        self.reply(connection, &Reply::Containers { version: VERSION, containers });
    }

    /// Tells how all containers are, and from here on whenever one changes.
    pub(crate) fn watch(&mut self, connection: u64) {
        if let Some(watcher) = self.connections.get_mut(&connection) {
            watcher.watching = true;
            for entry in self.containers.iter().filter(|entry| entry.visible()) {
                watcher.send(&Event::Container(entry.state.clone()));
            }
        }
    }

    /// Takes in what a container has written, and answers whoever waits for it to be ready.
    pub(crate) fn listen(&mut self, index: usize) {
        // What was removed since the poll shifts the others; reading one too many does no harm.
        let Some(entry) = self.containers.get_mut(index) else { return };
        if entry.read()
            && let Some((connection, _)) = entry.starting.take()
        {
            self.reply(connection, &Reply::Done);
        }
    }

    /// Deals with everything that has taken too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.expire_tasks(now);
        self.expire_execs(now);
        for index in 0..self.containers.len() {
            if let Some((connection, at)) = self.containers[index].starting
                && at <= now
            {
                self.containers[index].starting = None;
                self.containers[index].cgroup.signal(libc::SIGKILL);
                self.reply(connection, &failed("RunContainerError", "context deadline exceeded"));
            }
        }
    }

    /// Ends all containers and all work.
    pub(crate) fn kill_all(&self) {
        for task in self.tasks.values() {
            task.helper.kill();
        }
        for entry in &self.containers {
            entry.cgroup.signal(libc::SIGKILL);
        }
    }

    /// Whether a container runs or work is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.containers.iter().any(Entry::running) || !self.tasks.is_empty() || !self.execs.is_empty()
    }

    /// Whether somebody has still to read what a container has written.
    pub(crate) fn is_listened_to(&self) -> bool {
        self.containers.iter().any(|entry| entry.taps.pending())
    }
}
