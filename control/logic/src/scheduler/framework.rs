//! Framework: the words that plugins and the scheduling cycle share.
//!
//! A plugin is a row of functions, its [`Points`]. They are given a [`Cycle`] (the pod and the world
//! it is to be placed in) and say of a node a [`Misfit`] or a score. Nothing here allocates for a
//! node that fits, and a text is only written once it is known that no node fits. The rows
//! themselves are in the registry of [`super::plugins`], which nothing here knows.

use std::sync::Arc;

use super::node_info::{NodeIndex, NodeInfo};
use super::nominated::Nominated;
use super::plugin::Plugin;
use super::profile::Profile;
use super::snapshot::Snapshot;
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
    /// An object of another kind that the scheduler looks at has come, changed or gone.
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
    pub plugin: Plugin,
    /// Why.
    pub misfit: Misfit,
}

/// Of [`Points::filter`].
pub type Filter<K> = fn(&Cycle<'_>, &K, &NodeInfo) -> Result<(), Misfit>;
/// Of [`Points::count_pod`].
pub type CountPod<K> = fn(&Cycle<'_>, &mut K, &Pod, &NodeInfo, i64);
/// Of [`Points::pre_score`].
pub type PreScore<K> = fn(&Cycle<'_>, &mut K, &[&NodeInfo]) -> bool;

/// What a plugin has to say, and at which points: a function for each. `K` is what the plugins of
/// a registry keep of the pod that is being placed, each in a field of its own.
pub struct Points<K> {
    /// Whose they are.
    pub plugin: Plugin,
    /// How much its score counts unless a profile says otherwise.
    pub weight: i64,
    /// Once per pod. Works out what the filter needs and keeps it. May say that it has nothing to
    /// say of the pod ([`PreFilter::Skip`]), or that the pod fits nowhere.
    pub pre_filter: Option<fn(&Cycle<'_>, &mut K) -> PreFilter>,
    /// Once per node. Allocates nothing for a node that fits. The node may be another than the
    /// snapshot has at its place: preemption tries nodes without some of their pods.
    pub filter: Option<Filter<K>>,
    /// Counts another pod on the node in (1) or out (-1), to keep true what is kept while preemption
    /// tries what happens without that pod, or with a nominated one.
    pub count_pod: Option<CountPod<K>>,
    /// Once per pod, with the nodes that it fits on. False if all nodes are alike to the plugin: it
    /// is not asked for scores then.
    pub pre_score: Option<PreScore<K>>,
    /// Once per such node: how good it is for the pod; to be normalized.
    pub score: Option<fn(&Cycle<'_>, &K, &NodeInfo) -> i64>,
    /// Brings the scores to 0..=[`MAX_SCORE`]; none where they are so already.
    pub normalize: Option<fn(&mut [i64])>,
    /// Before the pod is bound to the node that was chosen: what has to be done or waited for
    /// first, such as a volume. Asked again, with nothing kept, until it is ready.
    pub pre_bind: Option<fn(&Cycle<'_>, &K, &NodeInfo) -> PreBind>,
    /// What may void its rejections at all, whatever the pod.
    pub listens: Listens,
    /// True if the event may void its rejection of the pod. To err is to err on the side of true: a
    /// pod that is woken in vain costs a little time.
    pub may_fit_after: fn(&Pod, &Event<'_>) -> bool,
}

/// To which events about other pods a plugin listens. To all others each does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listens {
    /// To none.
    ToNoPod,
    /// When pods leave nodes or change.
    ToPodsThatLeave,
    /// When they come, too.
    ToAllPods,
}

impl Listens {
    /// True if it hears of this event.
    pub fn hears(self, event: &Event<'_>) -> bool {
        match event {
            Event::PodPlaced(_) => self == Listens::ToAllPods,
            Event::PodGone(_) | Event::PodChanged { .. } => self != Listens::ToNoPod,
            _ => true,
        }
    }
}

impl<K> Points<K> {
    /// A plugin with nothing to say.
    pub const fn of(plugin: Plugin) -> Self {
        Points {
            plugin,
            weight: 1,
            pre_filter: None,
            filter: None,
            count_pod: None,
            pre_score: None,
            score: None,
            normalize: None,
            pre_bind: None,
            listens: Listens::ToAllPods,
            may_fit_after: |_, _| false,
        }
    }
}

/// What the plugins have worked out about one pod.
#[derive(Clone, Debug, Default)]
pub struct CycleState<K> {
    /// The plugins that have nothing to say of the pod when nodes are filtered: bits.
    skip_filter: u64,
    /// The same when nodes are scored.
    skip_score: u64,
    /// What each of them keeps.
    pub kept: K,
}

impl<K> CycleState<K> {
    /// True if the plugin's filter is not called for this pod.
    pub fn skips_filter(&self, plugin: Plugin) -> bool {
        self.skip_filter & bit(plugin) != 0
    }

    /// True if the plugin gives no scores for this pod.
    pub fn skips_score(&self, plugin: Plugin) -> bool {
        self.skip_score & bit(plugin) != 0
    }

    /// Says that the plugin's filter is not called.
    pub fn skip_filter(&mut self, plugin: Plugin) {
        self.skip_filter |= bit(plugin);
    }

    /// Says that the plugin gives no scores.
    pub fn skip_score(&mut self, plugin: Plugin) {
        self.skip_score |= bit(plugin);
    }
}

const fn bit(plugin: Plugin) -> u64 {
    1 << plugin as u64
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
