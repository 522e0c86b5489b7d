//! What a sandbox is at one moment: its containers, the work that is under way, and whom it tells.
//!
//! `server` waits and acts; `requests`, `sessions` and `running` do what is asked; all of them on this.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::WaitStatus;

use crate::cgroup::Cgroup;
use crate::connection::Connection;
use crate::containers::Entry;
use crate::helper::Helper;
use crate::protocol::{Event, Reply, Resources, SandboxConfig};
use crate::shm::Shm;
use crate::task::{Exec, Purpose, Task};

/// As long as the kubelet waits for a container runtime.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// What a pod weighs at least while a container or a command is started: a quarter of a CPU.
const WORKING_SHARES: u64 = 256;

/// One pod's sandbox.
pub(crate) struct Sandbox {
    pub(crate) dir: PathBuf,
    pub(crate) config: SandboxConfig,
    /// The first process of the process namespace that all containers share, if they do.
    pub(crate) init: Option<i32>,
    pub(crate) pod: Cgroup,
    /// What its containers have in common at `/dev/shm`, once there has been one that is not Wasm.
    shm: Option<Shm>,
    /// In the order they were started.
    pub(crate) containers: Vec<Entry>,
    pub(crate) tasks: BTreeMap<u64, Task>,
    pub(crate) execs: BTreeMap<u64, Exec>,
    /// Children that ended before their helper could say what they are.
    pub(crate) ended_early: BTreeMap<i32, WaitStatus>,
    pub(crate) connections: BTreeMap<u64, Connection>,
    counter: u64,
}

impl Sandbox {
    /// One without containers.
    pub(crate) fn new(dir: PathBuf, config: SandboxConfig, init: Option<i32>) -> Self {
        let pod = Cgroup::at(&config.cgroup);
        Self {
            dir,
            config,
            init,
            pod,
            shm: None,
            containers: Vec::new(),
            tasks: BTreeMap::new(),
            execs: BTreeMap::new(),
            ended_early: BTreeMap::new(),
            connections: BTreeMap::new(),
            counter: 0,
        }
    }

    /// What a container is started with: its configuration, and values of Secrets in it.
    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.dir.join("bundles").join(id)
    }

    /// What containers have at `/dev/shm`, for a helper that makes one.
    pub(crate) fn shm(&mut self) -> io::Result<Shm> {
        match &self.shm {
            Some(shm) => shm.try_clone(),
            None => self.shm.insert(Shm::make()?).try_clone(),
        }
    }

    /// A command is being started.
    pub(crate) fn add_exec(&mut self, helper: Helper, exec: Exec) {
        let (id, connection) = (self.next_id(), exec.connection);
        self.execs.insert(id, exec);
        self.add_task(helper, connection, Purpose::Exec { id });
    }

    /// A helper is at work.
    pub(crate) fn add_task(&mut self, helper: Helper, connection: u64, purpose: Purpose) {
        let id = self.next_id();
        self.tasks.insert(id, Task { helper, connection, purpose });
        self.weigh();
    }

    /// Takes a helper's work off the list.
    pub(crate) fn remove_task(&mut self, id: u64) -> Option<Task> {
        let task = self.tasks.remove(&id)?;
        self.weigh();
        Some(task)
    }

    /// What a helper does is the node's work, and the pod's weight may be next to nothing.
    fn weigh(&self) {
        let Some(own) = self.config.resources.cpu_shares.filter(|own| *own < WORKING_SHARES) else { return };
        let shares = if self.tasks.is_empty() { own } else { WORKING_SHARES };
        // Without it the work takes longer.
        let _ = self.pod.limit(&Resources { cpu_shares: Some(shares), ..Resources::default() });
    }

    /// Tells everyone who watches how a container is now.
    pub(crate) fn announce(&mut self, index: usize) {
        let event = Event::Container(self.containers[index].state.clone());
        for connection in self.connections.values_mut().filter(|connection| connection.watching) {
            connection.send(&event);
        }
    }

    /// Answers a request, and lets its connection go on to the next.
    pub(crate) fn reply(&mut self, connection: u64, reply: &Reply) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.busy = false;
            connection.send(reply);
        }
    }

    /// Answers with descriptors. The request goes on, so its connection stays busy.
    pub(crate) fn reply_with(&mut self, connection: u64, reply: &Reply, descriptors: &[OwnedFd]) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.send_with(reply, descriptors);
        }
    }

    /// A request has been answered in another way: its connection goes on to the next.
    pub(crate) fn finish(&mut self, connection: u64) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.busy = false;
        }
    }

    /// Whether anybody is there for an answer.
    pub(crate) fn connected(&self, connection: u64) -> bool {
        self.connections.contains_key(&connection)
    }

    /// The container with this id; if there is none, the request is answered so.
    pub(crate) fn find(&mut self, connection: u64, id: &str) -> Option<usize> {
        let index = self.containers.iter().position(|entry| entry.state.id == id);
        if index.is_none() {
            self.reply(connection, &failed("ContainerNotFound", format!("container {id} not found")));
        }
        index
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}

/// A refusal.
pub(crate) fn failed(reason: &str, message: impl ToString) -> Reply {
    Reply::Failed { reason: reason.to_owned(), message: message.to_string() }
}
