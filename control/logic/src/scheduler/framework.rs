//! Framework: the words that plugins and the scheduling cycle share.
//!
//! A [`Plugin`](super::plugins::Plugin) is given a [`Cycle`] (the pod and the world it is to be
//! placed in) and says of a node a [`Misfit`] or a score. Nothing here allocates for a node that
//! fits, and a text is only written once it is known that no node fits.

use std::sync::Arc;

use super::nominated::Nominated;
use super::profile::Profile;
use super::snapshot::{NodeIndex, NodeInfo, Snapshot};
use crate::world::facts::{Key, Node, Pod, Wishes};
use crate::world::observed::Observed;
use crate::world::plan::Plan;

/// The highest score that a plugin gives.
pub const MAX_SCORE: i64 = 100;

/// One pod that is to be placed, and the world at that moment.
#[derive(Clone, Copy, Debug)]
pub struct Cycle<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What it wishes of its node; never of a pod that is bound.
    pub wishes: &'a Wishes,
    /// The nodes and what is on them, assumed pods included.
    pub snapshot: &'a Snapshot,
    /// Those for whom room is being made.
    pub nominated: &'a Nominated,
    /// Everything else: claims, volumes, namespaces.
    pub seen: &'a Observed,
    /// The settings under which the pod is placed.
    pub profile: &'a Profile,
}

/// Why a pod cannot run on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// True if no pod that leaves the node can change it: the stock scheduler's
    /// `UnschedulableAndUnresolvable`. Preemption is not tried then.
    pub unresolvable: bool,
    /// What to tell people.
    pub reason: Reason,
}

/// The text or texts of a [`Misfit`], written when somebody reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A constant.
    Text(&'static str),
    /// Several constants, each counted on its own.
    Texts(Box<[&'static str]>),
    /// A text that names something.
    Named(Box<str>),
    /// The node's taint at this place is not tolerated.
    Taint(usize),
    /// Resources that are missing: bits of [`Reason::TOO_MANY_PODS`] and so on; from
    /// [`Reason::EXTENDED`] on, those that the pod asks for by name, in the order of the names.
    Insufficient(u64),
}

impl Reason {
    /// The node has all the pods it can take.
    pub const TOO_MANY_PODS: u64 = 1;
    /// CPU is missing.
    pub const CPU: u64 = 1 << 1;
    /// Memory is missing.
    pub const MEMORY: u64 = 1 << 2;
    /// Local disk is missing.
    pub const EPHEMERAL_STORAGE: u64 = 1 << 3;
    /// The place of the first resource that has a name of its own.
    pub const EXTENDED: u32 = 4;

    /// Gives each text to `tell`.
    pub fn tell(&self, pod: &Pod, node: Option<&Node>, mut tell: impl FnMut(&str)) {
        match self {
            Reason::Text(text) => tell(text),
            Reason::Texts(texts) => texts.iter().for_each(|t| tell(t)),
            Reason::Named(text) => tell(text),
            Reason::Taint(place) => {
                let taint = node.and_then(|n| n.taints.get(*place));
                let key = taint.map_or("", |t| &t.key);
                let value = taint.and_then(|t| t.value.as_deref()).unwrap_or_default();
                tell(&format!("node(s) had untolerated taint {{{key}: {value}}}"));
            }
            Reason::Insufficient(missing) => {
                let plain = [
                    (Reason::TOO_MANY_PODS, "Too many pods"),
                    (Reason::CPU, "Insufficient cpu"),
                    (Reason::MEMORY, "Insufficient memory"),
                    (Reason::EPHEMERAL_STORAGE, "Insufficient ephemeral-storage"),
                ];
                plain.iter().filter(|(bit, _)| missing & bit != 0).for_each(|(_, text)| tell(text));
                for (place, name) in pod.requests.extended.keys().enumerate().take(60) {
                    if missing & (1 << (Reason::EXTENDED as usize + place)) != 0 {
                        tell(&format!("Insufficient {name}"));
                    }
                }
            }
        }
    }
}

impl Misfit {
    /// A node that may take the pod once others have left it.
    pub const fn unschedulable(text: &'static str) -> Self {
        Misfit { unresolvable: false, reason: Reason::Text(text) }
    }

    /// A node that does not take the pod, whoever leaves it.
    pub const fn unresolvable(text: &'static str) -> Self {
        Misfit { unresolvable: true, reason: Reason::Text(text) }
    }
}

/// What a plugin says of a pod before any node is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreFilter {
    /// It has nothing to say of this pod: its filter is not called.
    Skip,
    /// Its filter is to be called for every node.
    Filter,
    /// No other nodes than these need be looked at.
    Only(Vec<Arc<str>>),
    /// The pod fits nowhere.
    Reject(Misfit),
}

/// What is to be done for a pod before it is bound to the node that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum PreBind {
    /// Nothing, or it has been done.
    Ready,
    /// This, or nothing if it is enough to wait. The pod keeps its place on the node; the plugin
    /// is asked again after these have been executed and after each [`Event::Other`].
    Wait(Plan),
    /// The node will not do after all; the pod looks for another one.
    Refuse,
}

/// What has happened, for the plugins whose rejection may be void because of it.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A node has come.
    NodeAdded(&'a Node),
    /// A node is not what it was.
    NodeChanged {
        /// What it was.
        old: &'a Node,
        /// What it is.
        new: &'a Node,
    },
    /// A pod is on a node that was not.
    PodPlaced(&'a Pod),
    /// A pod on a node is not what it was.
    PodChanged {
        /// What it was.
        old: &'a Pod,
        /// What it is.
        new: &'a Pod,
    },
    /// A pod has left its node, or ended there.
    PodGone(&'a Pod),
    /// The waiting pod itself is not what it was.
    Itself {
        /// What it was.
        old: &'a Pod,
        /// What it is.
        new: &'a Pod,
    },
    /// An object of another kind has come, changed or gone.
    Other {
        /// `PersistentVolumeClaim`.
        kind: &'a str,
        /// Namespace and name.
        key: &'a Key,
    },
}

/// A node that a plugin has rejected.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// Which node.
    pub node: NodeIndex,
    /// By whom.
    pub plugin: super::plugins::Plugin,
    /// Why.
    pub misfit: Misfit,
}

/// Brings scores to 0..=[`MAX_SCORE`] in proportion to the highest; `reverse` makes the lowest
/// the best. What most plugins do.
pub fn normalize(scores: &mut [i64], reverse: bool) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    if highest == 0 {
        if reverse {
            scores.fill(MAX_SCORE);
        }
        return;
    }
    for score in scores {
        *score = MAX_SCORE * *score / highest;
        if reverse {
            *score = MAX_SCORE - *score;
        }
    }
}

impl<'a> Cycle<'a> {
    /// The node at this place.
    pub fn node(&self, index: NodeIndex) -> &'a NodeInfo {
        self.snapshot.node(index)
    }
}
