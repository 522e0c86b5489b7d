//! Puts a pod's volumes in place, and keeps those that come out of the API up to date.
//!
//! Called by the pod's worker in tasks of their own. All that touches files is done away from the
//! threads that serve others, for so many pods at a time, and begins nothing new once the pod is
//! being stopped: what is under way then is waited for, as the pod's directories are removed next.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::away::away;
use crate::node::host::Host;
use crate::pod::objects::Watched;
use crate::volume::{self, claim};

/// Pods whose directories are made at a time. The disk under one of them may be slow to answer.
static DIRECTORIES: Semaphore = Semaphore::const_new(16);

/// One pod, and what its volumes are made with.
#[derive(Clone)]
pub struct Volumes {
    /// What all pods share.
    pub host: Arc<Host>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its address, if it has one yet. Fields that tell it are the only ones that wait for that.
    pub ip: Option<IpAddr>,
    /// The pod is being stopped.
    pub cancelled: CancellationToken,
}

impl Volumes {
    /// Puts all of them in place; nothing if that was cancelled. Doing it again changes nothing.
    pub async fn set_up(self) -> Option<Result<(), String>> {
        let done = async {
            self.directories().await?;
            self.files().await
        };
        let done = done.await;
        (!self.cancelled.is_cancelled()).then_some(done)
    }

    /// Brings the files that come out of the API up to date; nothing if that was cancelled.
    pub async fn refresh(self) -> Option<Result<(), String>> {
        let done = self.files().await;
        (!self.cancelled.is_cancelled()).then_some(done)
    }

    async fn directories(&self) -> Result<(), String> {
        let wanted = self.away(|volumes| Ok(claim::wanted(&volumes.pod, &volumes.host.paths))).await?;
        let claims =
            self.unless_cancelled(Box::pin(self.host.objects.fetch_claims(&self.pod, &wanted))).await?;
        // Taken last: while a turn is held nothing is waited for but the disk.
        let turn = self.unless_cancelled(async { Ok(DIRECTORIES.acquire().await.ok()) }).await?;
        let found = self
            .away(move |volumes| {
                let _turn = turn;
                let facts = volumes.host.facts(volumes.address());
                volume::prepare(&volumes.pod, &volumes.host.paths, &claims, &facts, &volumes.cancelled)
            })
            .await?;
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        for claimed in found {
            self.unless_cancelled(volume::hand_over(&self.host.paths, uid, &claimed)).await?;
        }
        Ok(())
    }

    async fn files(&self) -> Result<(), String> {
        let objects = &self.host.objects;
        let fetched = async {
            let turn = objects.turn().await;
            Ok((turn, objects.fetch_for_volumes(&self.pod).await?))
        };
        let (turn, fetched) = self.unless_cancelled(fetched).await?;
        self.away(move |volumes| {
            let _turn = turn;
            let facts = volumes.host.facts(volumes.address());
            volume::write_files(&volumes.pod, &volumes.host.paths, &fetched, &facts, &volumes.cancelled)
        })
        .await
    }

    fn address(&self) -> IpAddr {
        self.ip.unwrap_or(self.host.config.node_ip)
    }

    /// Waits for something that may be dropped at any time.
    async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let done = self.cancelled.run_until_cancelled(work).await;
        done.unwrap_or_else(|| Err("the pod is being stopped".to_owned()))
    }

    /// Does something on a thread that nobody else waits for, to its end.
    async fn away<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Volumes) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let volumes = self.clone();
        away(move || work(&volumes)).await
    }
}

/// Keeps volumes up to date.
#[derive(Default)]
pub(super) struct Refresh {
    /// What they are made of, and the change of each that they show; `None` until they are there.
    pub(super) objects: Option<Vec<(Arc<Watched>, u64)>>,
    /// When they are looked at next.
    pub(super) due: Option<Timestamp>,
    /// True while that is being done.
    pub(super) running: bool,
    /// Ends what is being done.
    pub(super) cancel: CancellationToken,
}
