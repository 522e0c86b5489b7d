//! A seeded simulation of the cluster: two control planes, each with the real controllers, scheduler,
//! leader election, registry, way of every write and store, on one backend in memory that both write
//! to, with nodes that start pods and users who change their minds.
//!
//! Chance picks who steps next and what goes wrong: stores and watches lag, commits wait, fail or are
//! made without an answer, control planes stop, die and take over from each other, the machine that
//! stores everything crashes, clocks differ and jump, nodes go silent or vanish, pods are evicted,
//! quotas refuse. What must hold is checked at every step. Then
//! the faults stop and the world must come to rest in the state that the specs ask for, where no
//! controller plans anything.
//!
//! A failure prints its seed; `PROA_SIM_SEED` replays it, `PROA_SIM_STEPS` sets the length,
//! `PROA_SIM_RUNS` how many seeds. Those that have found a fault are kept in [`seeds`].

mod api;
mod binds;
mod random;

mod control;
mod keys;
mod oracle;
mod planes;

mod deployments;
mod nodes;
mod policies;
mod scaling;
mod scheduling;
mod storage;
mod sundry;
mod workloads;

mod seeds;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use proa_logic::world::Controller;
use serde_json::{Value, json};

use api::{Api, reference};
use planes::Plane;
use random::Random;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const APPS: [&str; 3] = ["a", "b", "c"];

struct World {
    api: Api,
    planes: [Plane; 2],
    random: Random,
    /// Nodes that do nothing.
    silent: BTreeSet<&'static str>,
    addresses: u32,
    /// Nodes that an operator has tainted.
    tainted: BTreeSet<String>,
    /// Per Deployment, the most pods that any of its specs since it was at rest allows, and the
    /// fewest available ones.
    bounds: BTreeMap<String, (i64, i64)>,
    /// True while nothing but the roll-out itself takes pods away.
    calm: bool,
    /// What users change.
    users: Users,
    /// What has been seen of ReplicaSets.
    once: deployments::Once,
    /// What has been seen of the workloads.
    ledger: workloads::Ledger,
    /// What has been seen of claims and volumes.
    storage: storage::Ledger,
    /// What the pods that are scaled have to do, in thousandths of a CPU.
    load: i64,
}

/// What users change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Users {
    /// Deployments and Services.
    Deployments,
    /// The other workloads.
    Workloads,
    /// Budgets and quotas, and what has to keep to them.
    Policies,
    /// Pods that are hard to place.
    Scheduling,
    /// All of it at once, and the rest of what there is.
    Everything,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs the kept seeds of one sort and then others. `meets` is what has to come about in them: a
/// simulation in which nothing happens proves nothing.
fn run(users: Users, calm: bool, meets: &[&str]) {
    let replayed = number("PROA_SIM_SEED");
    let is_replay = replayed.is_some();
    let first = replayed.unwrap_or(if calm { 1000 } else { 1 });
    let runs = if is_replay { 1 } else { number("PROA_SIM_RUNS").unwrap_or(8) };
    let steps = number("PROA_SIM_STEPS").unwrap_or(1500);
    let kept = seeds::KEPT.iter().filter(|k| !is_replay && (k.users, k.calm) == (users, calm));
    let kept = kept.map(|k| (k.seed, k.steps, k.story));
    let mut met: BTreeMap<&'static str, u64> = BTreeMap::new();
    for (seed, steps, story) in kept.chain((first..first + runs).map(|seed| (seed, steps, ""))) {
        let result = std::panic::catch_unwind(|| World::new(seed, users, calm).run(steps));
        match result {
            Ok(one) => one.into_iter().for_each(|(what, times)| *met.entry(what).or_default() += times),
            Err(panic) => {
                eprintln!(
                    "the simulation of {users:?} failed with PROA_SIM_SEED={seed} PROA_SIM_STEPS={steps} {story}"
                );
                std::panic::resume_unwind(panic);
            }
        }
    }
    eprintln!("{users:?}: {met:?}");
    for what in meets.iter().filter(|_| !is_replay) {
        assert!(met.contains_key(what), "it never came about that {what}");
    }
}

#[test]
fn a_seed_is_a_history() {
    let history = || {
        let mut world = World::new(7, Users::Deployments, false);
        (0..600).for_each(|_| world.step());
        world.api.tail(usize::MAX)
    };
    assert_eq!(history(), history());
}

#[test]
fn converges_after_any_faults() {
    let faults = ["a commit is refused", "an answer is lost", "a crash loses what is not durable"];
    let meets = ["a Lease is taken over", "a write comes too late", "a watch begins anew"];
    run(Users::Deployments, false, &[faults, meets].concat());
}

#[test]
fn roll_outs_stay_within_their_bounds() {
    run(Users::Deployments, true, &["a Lease is taken over"]);
}

#[test]
fn workloads_converge_after_any_faults() {
    run(Users::Workloads, false, &["a Lease is taken over"]);
}

#[test]
fn workloads_keep_their_promises_at_every_step() {
    run(Users::Workloads, true, &["a Lease is taken over"]);
}

#[test]
fn policies_are_kept_at_every_step() {
    let meets = ["a quota refuses", "a refusal is shown", "a budget refuses", "a commit is outdated"];
    run(Users::Policies, true, &meets);
}

#[test]
fn the_scheduler_keeps_its_promises_at_every_decision() {
    let meets =
        ["a pod makes room", "room can be made within all budgets", "a pod is spread", "a gate was opened"];
    run(Users::Scheduling, true, &meets);
}

#[test]
fn everything_together_converges_after_any_faults() {
    let meets = ["an autoscaler scales", "a namespace goes", "a pod makes room", "a budget refuses"];
    run(Users::Everything, false, &meets);
}

impl World {
    fn new(seed: u64, users: Users, calm: bool) -> Self {
        let mut api = Api::new(Timestamp::from_second(1_800_000_000).unwrap(), seed, 2);
        for name in ["kube-system", "default", "kube-node-lease"] {
            api.create("v1", "Namespace", "", json!({"metadata": {"name": name}})).unwrap();
        }
        let mut random = Random(seed);
        let mut plane = |server, identity| Plane::new(server, identity, 95 + random.below(11) as u64);
        let planes = [plane(0, "one"), plane(1, "two")];
        let mut world = World {
            api,
            planes,
            random,
            silent: BTreeSet::new(),
            addresses: 0,
            tainted: BTreeSet::new(),
            bounds: BTreeMap::new(),
            calm,
            users,
            once: deployments::Once::default(),
            ledger: workloads::Ledger::default(),
            storage: storage::Ledger::default(),
            load: 0,
        };
        for node in NODES {
            world.register(node);
        }
        world.start_storage();
        world.start_scheduling();
        world
    }

    fn run(mut self, steps: u64) -> BTreeMap<&'static str, u64> {
        for _ in 0..steps {
            let before = self.api.log.len();
            self.step();
            self.check_leaders();
            if self.api.log.len() > before {
                self.check_step();
            }
        }
        self.silent.clear();
        for node in NODES {
            if self.api.get("v1 Node", "", node).is_none() {
                self.register(node);
            }
        }
        for plane in &mut self.planes {
            plane.is_stopped = false;
            plane.ahead = SignedDuration::ZERO;
        }
        self.stop_workloads();
        self.stop_policies();
        self.stop_scheduling();
        self.api.flush();
        self.rest();
        self.check_rest();
        self.api.end()
    }

    /// What must hold after every write.
    fn check_step(&mut self) {
        self.check_bounds();
        self.check_once();
        self.check_workloads();
        self.check_quotas();
        self.check_storage();
        self.check_sundry();
        self.check_taints();
    }

    fn step(&mut self) {
        self.elect();
        let at = self.choose_plane();
        let choice = self.random.below(20);
        if choice < 7 && !self.random.one_in(3) {
            self.api.turn(self.planes[at].server);
        }
        let (api, random) = (&mut self.api, &mut self.random);
        let now = self.planes[at].now(api);
        let control = if self.planes[at].is_stopped { None } else { self.planes[at].control(api) };
        match (choice, control) {
            (0..6, Some(control)) => {
                let (kind, count) = (random.below(60), 1 + random.below(30));
                control.watch(api, now, Some(kind), count);
            }
            (6, Some(control)) => control.watch(api, now, None, usize::MAX),
            (7..11, Some(control)) => {
                control.decide(api, now, random);
            }
            (11..15, Some(control)) => {
                control.execute(api, now, random, true);
            }
            (0..15, _) => {}
            (15..18, _) => self.step_nodes(),
            (18, _) => {
                let millis = self.random.below(4000) as i64;
                self.pass(SignedDuration::from_millis(millis));
            }
            _ => self.disturb(),
        }
    }

    /// Time passes. No request takes so long.
    fn pass(&mut self, time: SignedDuration) {
        self.api.flush();
        self.api.now += time;
    }

    /// The election goes on all the time.
    fn elect(&mut self) {
        for plane in self.planes.iter_mut().filter(|plane| !plane.is_stopped) {
            plane.stand(&mut self.api, &mut self.random, true);
        }
    }

    /// Mostly the one that leads: the other has nothing to do.
    fn choose_plane(&mut self) -> usize {
        let leader = self.planes.iter().position(|plane| plane.leads(&self.api));
        leader.filter(|_| !self.random.one_in(8)).unwrap_or_else(|| self.random.below(self.planes.len()))
    }

    /// Never do two decide in the same moment.
    fn check_leaders(&self) {
        let leaders = self.planes.iter().filter(|plane| plane.leads(&self.api)).count();
        assert!(leaders <= 1, "two lead at once:\n{}", self.api.tail(20));
    }

    fn disturb(&mut self) {
        for plane in self.planes.iter_mut().filter(|plane| plane.is_stopped) {
            plane.is_stopped = !self.random.one_in(10);
        }
        if self.random.one_in(8) {
            return self.disturb_planes();
        }
        let app = APPS[self.random.below(APPS.len())];
        match self.users {
            Users::Policies => return self.disturb_policies(app),
            Users::Scheduling => return self.disturb_scheduling(),
            _ => {}
        }
        match self.random.below(10) {
            0..7 => self.change_something(app),
            _ if self.calm => {}
            7 => self.disturb_node(),
            8 => {
                let pods: Vec<Value> = self.api.list("v1 Pod").cloned().collect();
                if !pods.is_empty() {
                    let pod = &pods[self.random.below(pods.len())];
                    self.api.delete(&reference(pod), None, None);
                }
            }
            _ if self.users != Users::Deployments && self.random.one_in(2) => self.delete_a_claim(),
            _ => self.change_service(app),
        }
    }

    fn change_something(&mut self, app: &str) {
        match (self.users, self.random.below(12)) {
            (Users::Workloads, _) => self.change_workload(app),
            (Users::Everything, 0..3) => self.change_workload(app),
            (Users::Everything, 3..5) => self.disturb_policies(app),
            (Users::Everything, 5..7) => self.disturb_scheduling(),
            (Users::Everything, 7..9) => self.disturb_sundry(),
            (Users::Everything, 9) => self.disturb_scaling(),
            _ => self.change_deployment(app),
        }
    }

    /// A control plane stops, dies, resigns or has its clock set.
    fn disturb_planes(&mut self) {
        let reach = if self.calm { 4_000 } else { 240_000 };
        let ahead = SignedDuration::from_millis(self.random.below(reach) as i64 - reach as i64 / 2);
        let plane = &mut self.planes[self.random.below(2)];
        let commits = self.random.one_in(2);
        match self.random.below(8) {
            0 => {
                plane.restart();
                self.api.restart(plane.server, commits);
            }
            1 if !plane.is_stopped => plane.resign(&mut self.api),
            2 => plane.ahead = ahead,
            3 => {
                for plane in &mut self.planes {
                    plane.restart();
                    self.api.restart(plane.server, commits);
                }
            }
            4 => {
                self.planes.iter_mut().for_each(Plane::restart);
                self.api.crash();
            }
            _ => plane.is_stopped = true,
        }
    }

    /// No more faults: everybody works until nothing is left to do.
    fn rest(&mut self) {
        let (mut ticks, mut read) = (0, 0);
        for _ in 0..30_000 {
            let worked = self.work();
            for node in NODES {
                let object = self.api.get("v1 Node", "", node);
                if object.is_some_and(|n| n.pointer("/status/conditions/0/status") != Some(&"True".into())) {
                    self.heartbeat(node);
                }
            }
            let pods: Vec<Value> = self.api.list("v1 Pod").filter(|p| self.needs_node(p)).cloned().collect();
            let bound: Vec<&Value> = pods.iter().filter(|p| p["spec"]["nodeName"].is_string()).collect();
            bound.iter().for_each(|p| self.play(p));
            let provisioned = storage::provision_everywhere(self);
            if worked || provisioned || !bound.is_empty() {
                continue;
            }
            let news = self.api.log[read..].iter().any(|e| e.kind != "coordination.k8s.io/v1 Lease");
            ticks = if news { 0 } else { ticks + 1 };
            read = self.api.log.len();
            if ticks > 110 {
                return;
            }
            // Time passes, and the nodes are heard of.
            self.pass(SignedDuration::from_secs(4));
            NODES.into_iter().for_each(|node| self.heartbeat(node));
            if ticks % 4 == 0 && self.users == Users::Everything {
                self.measure();
            }
        }
        let leader = self.planes.iter_mut().find(|plane| plane.leads(&self.api));
        let busy = leader.and_then(|plane| plane.control(&self.api)).map(|control| control.show());
        panic!("the world does not come to rest; last writes:\n{}\n{busy:?}", self.api.tail(30));
    }

    /// The control plane that leads does what there is to do; true if there is something.
    fn work(&mut self) -> bool {
        // Nobody is late any more.
        self.api.catch_up();
        for _ in 0..8 {
            let (api, random) = (&mut self.api, &mut self.random);
            self.planes.iter_mut().for_each(|plane| plane.stand(api, random, false));
        }
        let Some(leader) = self.planes.iter_mut().find(|plane| plane.leads(&self.api)) else { return false };
        let now = leader.now(&self.api);
        let Some(control) = leader.control(&self.api) else { return false };
        control.watch(&mut self.api, now, None, usize::MAX);
        let decided = control.decide(&mut self.api, now, &mut self.random);
        let executed = control.execute(&mut self.api, now, &mut self.random, false);
        decided || executed
    }

    /// The pods are measured for the one that leads.
    fn measure(&mut self) {
        let Some(leader) = self.planes.iter().position(|plane| plane.leads(&self.api)) else { return };
        let sample = self.sample(leader);
        if let Some(control) = self.planes[leader].control(&self.api) {
            control.measure(sample);
        }
    }

    fn check_rest(&mut self) {
        // The Lease may just have run out.
        while !self.planes.iter().any(|plane| plane.leads(&self.api)) {
            self.pass(SignedDuration::from_secs(1));
            self.work();
        }
        self.work();
        self.api.check_servers();
        let now = self.api.now;
        let leader = self.planes.iter_mut().find(|plane| plane.leads(&self.api)).expect("one leads");
        let plans = leader.control(&self.api).expect("it leads").all_plans(now);
        for (controller, key, plan) in plans {
            // A claim that nobody needs any more says for ever what it waits for.
            let rests = plan.is_empty() || plan.actions.is_empty() && controller == Controller::ClaimBinder;
            assert!(rests, "{controller:?} of {key:?} is not at rest: {plan:?}");
        }
        for deployment in self.api.list("apps/v1 Deployment") {
            self.check_deployment(deployment);
        }
        for service in self.api.list("v1 Service") {
            self.check_service(service);
        }
        for object in self.api.objects.values() {
            let stuck = object["metadata"]["deletionTimestamp"].is_string();
            assert!(!stuck || self.is_held_by_a_pod(object), "still on its way out: {object}");
        }
        self.check_policies_at_rest();
        self.check_scheduling_at_rest();
        self.check_workloads_at_rest();
        self.check_storage();
        self.check_storage_at_rest();
        self.check_sundry_at_rest();
        self.check_scaling_at_rest();
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
    ready && pod["metadata"]["deletionTimestamp"].is_null()
}
