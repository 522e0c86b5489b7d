//! Keeps this control plane's part in the leader election going.
//!
//! Reads and writes the Lease through the registry as [`Election`] says, and publishes until when
//! the shell may decide, and in which term. It never decides anything else.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use proa_api::Refusal;
use proa_kinds::{Kind, Part};
use proa_logic::controllers::election::{Election, NAME, NAMESPACE};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::registry::{Caller, Registry, WriteOptions};

/// Wait after a refusal: at a first start the namespace may not be there yet.
const RETRY: Duration = Duration::from_millis(100);

/// Whether this control plane leads; shared by everything that acts for it.
#[derive(Clone)]
pub struct Leadership(watch::Receiver<Option<Term>>);

/// One time of leading.
#[derive(Clone, Copy, Debug)]
struct Term {
    number: u64,
    until: Instant,
}

impl Leadership {
    /// The number of the term, while no other control plane may decide.
    pub fn term(&self) -> Option<u64> {
        self.0.borrow().filter(|term| Instant::now() < term.until).map(|term| term.number)
    }

    /// Waits until it has been won, lost or prolonged.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The election is over, which only the end of the shell brings.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until this control plane leads, and gives the number of the term.
    pub async fn won(&mut self) -> u64 {
        loop {
            if let Some(term) = self.term() {
                return term;
            }
            self.changed().await;
        }
    }
}

/// Stands for election for as long as it is polled.
pub struct Candidate {
    registry: Registry,
    kind: Arc<Kind>,
    caller: Caller,
    election: Election,
    start: Instant,
    publish: watch::Sender<Option<Term>>,
}

impl Candidate {
    /// A control plane with this identity; `None` where there are no Leases.
    pub fn new(registry: &Registry, identity: &str) -> Option<(Self, Leadership)> {
        let kind = registry.kinds().by_kind("coordination.k8s.io/v1", "Lease")?.clone();
        let (publish, leadership) = watch::channel(None);
        let candidate = Candidate {
            registry: registry.clone(),
            kind,
            caller: Caller::system("system:kube-controller-manager"),
            election: Election::new(identity),
            start: Instant::now(),
            publish,
        };
        Some((candidate, Leadership(leadership)))
    }

    /// Stands again and again.
    pub async fn run(&mut self) -> Infallible {
        loop {
            let clock = self.start.elapsed();
            let mut pause = self.election.pause(clock);
            match self.stand(clock).await {
                Ok(true) => {
                    self.election.written(clock);
                    pause = self.election.pause(clock);
                }
                Ok(false) => {}
                // Another one was faster.
                Err(refusal) if refusal.code() == 409 => {}
                Err(refusal) => {
                    tracing::debug!(%refusal, "the Lease of the controllers was not renewed");
                    pause = RETRY;
                }
            }
            self.publish();
            tokio::time::sleep(pause).await;
        }
    }

    /// Gives the Lease back, if it is this one's.
    pub async fn resign(&mut self) {
        let given_back = match self.current() {
            Ok(Some(lease)) => self.election.resign(&lease),
            _ => None,
        };
        self.publish();
        if let Some(lease) = given_back
            && let Err(refusal) = self.write(&lease).await
        {
            tracing::debug!(%refusal, "the Lease of the controllers was not given back");
        }
    }

    /// True if the Lease is this one's now.
    async fn stand(&mut self, clock: Duration) -> Result<bool, Refusal> {
        let current = self.current()?;
        let Some(lease) = self.election.stand(current.as_ref(), clock, Timestamp::now()) else {
            return Ok(false);
        };
        self.write(&lease).await.map(|()| true)
    }

    fn current(&self) -> Result<Option<Lease>, Refusal> {
        match self.registry.get(&self.kind, NAMESPACE, NAME) {
            Ok(object) => object.decode().map(Some).map_err(Refusal::internal),
            Err(refusal) if refusal.code() == 404 => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    async fn write(&self, lease: &Lease) -> Result<(), Refusal> {
        let (registry, kind, caller) = (&self.registry, &self.kind, &self.caller);
        let body = serde_json::to_value(lease).map_err(Refusal::internal)?;
        let options = WriteOptions::default();
        match lease.metadata.resource_version {
            None => registry.create(caller, kind, NAMESPACE, body, &options).await.map(drop),
            Some(_) => {
                registry.update(caller, kind, NAMESPACE, NAME, Part::Main, body, &options).await.map(drop)
            }
        }
    }

    fn publish(&self) {
        let number = self.election.term();
        let until = self.election.leads_until().map(|until| self.start + until);
        self.publish.send_replace(until.map(|until| Term { number, until }));
    }
}
