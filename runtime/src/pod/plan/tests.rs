use expect_test::{Expect, expect};
use proa_sandbox::protocol::{ContainerState, Exit};
use serde_json::{Value, json};

use super::*;
use crate::pod::observed::{ImageSeen, Outcome, reason};

/// A pod on a node that does what it is told at once: actions are performed on what is observed
/// as a perfect sandbox would, and each is written down.
struct World {
    pod: Pod,
    seen: PodObserved,
    now: Timestamp,
    story: Vec<String>,
    /// Reason with which the next start of a container is refused.
    refuse: Option<&'static str>,
}

impl World {
    fn new(spec: Value) -> Self {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c", "image": "img"}]);
        }
        let meta = json!({"name": "p", "namespace": "n", "uid": "u"});
        let pod: Pod = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
        let now = Timestamp::from_second(1_000_000).unwrap();
        let seen = PodObserved::new(&pod, now);
        World { pod, seen, now, story: Vec::new(), refuse: None }
    }

    fn tell(&mut self, outcome: Outcome) {
        for report in self.seen.apply(&self.pod, outcome, self.now) {
            self.story.push(format!("  {} {}", report.reason, report.message));
        }
    }

    /// Performs plans until nothing is left to do now.
    fn settle(&mut self) -> Option<Timestamp> {
        for _ in 0..50 {
            let plan = plan(&self.pod, &self.seen, self.now);
            if plan.actions.is_empty() || plan.actions == [Action::Finish] {
                if !plan.actions.is_empty() {
                    self.story.push("Finish".to_owned());
                }
                return plan.look_again;
            }
            for action in plan.actions {
                self.perform(action);
            }
        }
        panic!("the plan never becomes empty: {:#?}", self.story);
    }

    fn perform(&mut self, action: Action) {
        let (pod, now) = (self.pod.clone(), self.now);
        self.story.push(match &action {
            Action::Start { name, attempt } => format!("Start {name}-{attempt}"),
            Action::Terminate { name } => format!("Terminate {name}"),
            Action::Kill { name } => format!("Kill {name}"),
            Action::BackOff { .. } | Action::BeginStop { .. } => String::new(),
            other => format!("{other:?}"),
        });
        match action {
            Action::StartSandbox => self.tell(Outcome::SandboxUp([10, 42, 0, 2].into())),
            Action::SetUpVolumes => self.tell(Outcome::VolumesReady),
            Action::Start { name, attempt } => {
                self.seen.begin_start(&name, now);
                match self.refuse.take() {
                    Some(reason) => {
                        self.tell(Outcome::StartBlocked { name, reason, message: "no".to_owned() });
                    }
                    // The answer and the sandbox's own word come in either order.
                    None if attempt % 2 == 0 => {
                        self.tell(Outcome::Started(name.clone()));
                        assert_eq!(plan(&self.pod, &self.seen, self.now).actions, [], "a start is under way");
                        self.container(&name, attempt, None);
                    }
                    None => {
                        self.container(&name, attempt, None);
                        self.tell(Outcome::Started(name));
                    }
                }
            }
            Action::BackOff { name } => {
                let reports = self.seen.begin_back_off(&pod, &name);
                self.story.extend(reports.iter().map(|r| format!("  {} {}", r.reason, r.message)));
            }
            Action::BeginStop { name, message, .. } => {
                let hook = all_containers(&pod).any(|(_, c)| c.name == name && c.lifecycle.is_some());
                let report = self.seen.begin_stop(&pod, &name, &message, hook, now);
                self.story.push(format!("  {} {}", report.reason, report.message));
            }
            Action::Terminate { name } => {
                let stop = self.seen.containers.get_mut(&name).and_then(|c| c.stop.as_mut());
                stop.expect("it is being stopped").signalled = Some(now);
            }
            Action::Kill { name } => {
                let attempt = self.seen.containers[&name].runs - 1;
                self.container(&name, attempt, Some(137));
            }
            Action::GiveUp(verdict) => self.seen.verdict = Some(verdict),
            Action::CancelUnderWay => self.tell(Outcome::StartCancelled),
            Action::TearDown => self.tell(Outcome::TornDown),
            Action::Release => self.tell(Outcome::Released),
            Action::Finish => {}
        }
    }

    /// The sandbox tells that a run began, or ended with a code.
    fn container(&mut self, name: &str, attempt: u32, code: Option<i32>) {
        let at = self.now.as_millisecond();
        let reason = if code == Some(0) { "Completed" } else { "Error" };
        let exit = code.map(|code| Exit {
            signal: 0,
            code,
            reason: reason.to_owned(),
            message: String::new(),
            finished_at_ms: at,
        });
        let id = format!("{name}-{attempt}");
        self.tell(Outcome::Container(ContainerState { id, pid: 7, started_at_ms: at, exit }));
    }

    fn wait(&mut self, seconds: u64) {
        self.now = later(self.now, Duration::from_secs(seconds));
    }

    fn check(self, expected: Expect) {
        let lines: Vec<String> = self.story.into_iter().filter(|line| !line.is_empty()).collect();
        expected.assert_eq(&lines.join("\n"));
    }
}

#[test]
fn a_plain_pod_starts_and_then_nothing_is_left_to_do() {
    let mut world = World::new(json!({}));
    assert_eq!(world.settle(), None);
    world.check(expect![[r#"
        StartSandbox
        SetUpVolumes
        Start c-0
          Started Started container c"#]]);
}

#[test]
fn init_containers_run_one_by_one_and_a_failed_one_again() {
    let mut world = World::new(json!({"initContainers": [{"name": "a"}, {"name": "b"}]}));
    world.settle();
    world.container("a", 0, Some(1));
    world.settle();
    world.container("a", 1, Some(0));
    world.settle();
    world.container("b", 0, Some(0));
    world.settle();
    world.check(expect![[r#"
        StartSandbox
        SetUpVolumes
        Start a-0
          Started Started container a
        Start a-1
          Started Started container a
        Start b-0
          Started Started container b
        Start c-0
          Started Started container c"#]]);
}

#[test]
fn a_sidecar_starts_before_and_stops_after_the_others() {
    let mut world = World::new(
        json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "restartPolicy": "Never"}),
    );
    world.settle();
    world.container("c", 0, Some(0));
    let deadline = world.settle().expect("the sidecar has a grace period");
    world.now = deadline;
    world.settle();
    world.check(expect![[r#"
        StartSandbox
        SetUpVolumes
        Start s-0
          Started Started container s
        Start c-0
          Started Started container c
          Killing Stopping container s
        Terminate s
        Kill s
        TearDown"#]]);
}

/// A pod with two sidecars that is being deleted.
fn deleted_with_sidecars() -> World {
    let sidecar = |name: &str| json!({"name": name, "restartPolicy": "Always"});
    let mut world = World::new(json!({"initContainers": [sidecar("a"), sidecar("b")]}));
    world.settle();
    world.story.clear();
    world.pod.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.now));
    world.settle();
    world
}

#[test]
fn the_last_sidecar_stops_first() {
    let mut world = deleted_with_sidecars();
    world.container("c", 0, Some(0));
    world.settle();
    world.container("b", 0, Some(0));
    world.settle();
    world.container("a", 0, Some(0));
    world.settle();
    world.check(expect![[r#"
          Killing Stopping container c
          Killing Stopping container b
          Killing Stopping container a
        Terminate c
        Terminate b
        Terminate a
        TearDown
        Release
        Finish"#]]);
}

#[test]
fn all_containers_of_a_pod_have_one_grace_period_together() {
    let mut world = deleted_with_sidecars();
    world.wait(20);
    world.container("c", 0, Some(0));
    world.settle();
    world.wait(10);
    world.settle();
    world.wait(2);
    world.settle();
    world.check(expect![[r#"
          Killing Stopping container c
          Killing Stopping container b
          Killing Stopping container a
        Terminate c
        Terminate b
        Kill b
        Terminate a
        Kill a
        TearDown
        Release
        Finish"#]]);
}

#[test]
fn a_changed_image_begins_a_new_run_whatever_the_policy() {
    let mut world = World::new(json!({"restartPolicy": "Never"}));
    let image =
        |asked: &str| ImageSeen { asked: asked.to_owned(), reference: "r".to_owned(), id: "i".to_owned() };
    world.settle();
    world.tell(Outcome::Image("c".to_owned(), image("img")));
    assert_eq!(world.settle(), None);
    world.pod.spec.as_mut().expect("made with one").containers[0].image = Some("other".to_owned());
    world.settle();
    world.container("c", 0, Some(143));
    world.tell(Outcome::Image("c".to_owned(), image("other")));
    assert_eq!(world.settle(), None);
    world.check(expect![[r#"
        StartSandbox
        SetUpVolumes
        Start c-0
          Started Started container c
          Killing Container c definition changed, will be restarted
        Terminate c
        Start c-1
          Started Started container c"#]]);
}

#[test]
fn a_crash_loop_backs_off() {
    let mut world = World::new(json!({}));
    world.settle();
    for attempt in 0..4 {
        world.container("c", attempt, Some(1));
        if let Some(at) = world.settle() {
            let pause = since(at, world.now);
            world.story.push(format!("pause {pause:?}"));
            world.now = at;
            world.settle();
        }
    }
    world.check(expect![[r#"
        StartSandbox
        SetUpVolumes
        Start c-0
          Started Started container c
        Start c-1
          Started Started container c
          BackOff Back-off restarting failed container c in pod p_n(u)
        pause 10s
        Start c-2
          Started Started container c
          BackOff Back-off restarting failed container c in pod p_n(u)
        pause 20s
        Start c-3
          Started Started container c
          BackOff Back-off restarting failed container c in pod p_n(u)
        pause 40s
        Start c-4
          Started Started container c"#]]);
}

#[test]
fn an_image_that_cannot_be_pulled_backs_off() {
    let mut world = World::new(json!({}));
    world.refuse = Some(reason::ERR_IMAGE_PULL);
    let shown = world.settle().expect("the error is shown for a moment");
    world.now = shown;
    let again = world.settle().expect("it is tried again");
    let blocked = world.seen.containers["c"].blocked.clone().unwrap();
    assert_eq!(blocked.reason, reason::IMAGE_PULL_BACK_OFF);
    assert_eq!(blocked.message, "Back-off pulling image \"img\": ErrImagePull: no");
    world.now = again;
    world.settle();
    world.check(expect![[r#"
        StartSandbox
        SetUpVolumes
        Start c-0
          Failed Error: ErrImagePull
          BackOff Back-off pulling image "img"
          Failed Error: ImagePullBackOff
        Start c-0
          Started Started container c"#]]);
}

#[test]
fn restart_policies() {
    for (policy, code, again) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let mut world = World::new(json!({"restartPolicy": policy}));
        world.settle();
        world.container("c", 0, Some(code));
        world.settle();
        let last = world.story.iter().rfind(|line| !line.starts_with(' ')).unwrap();
        assert_eq!(last, if again { "Start c-1" } else { "TearDown" }, "{policy} after {code}");
    }
}

#[test]
fn a_deleted_pod_is_stopped_within_its_grace_and_released() {
    let mut world = World::new(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    world.settle();
    world.pod.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(later(world.now, Duration::from_secs(5))));
    world.pod.metadata.deletion_grace_period_seconds = Some(5);
    let deadline = world.settle().unwrap();
    assert_eq!(since(deadline, world.now), Duration::from_secs(5));
    world.container("a", 0, Some(0));
    world.wait(5);
    world.settle();
    world.check(expect![[r#"
        StartSandbox
        SetUpVolumes
        Start a-0
          Started Started container a
        Start b-0
          Started Started container b
          Killing Stopping container a
          Killing Stopping container b
        Terminate a
        Terminate b
        Kill b
        TearDown
        Release
        Finish"#]]);
}

#[test]
fn a_hook_that_takes_all_the_grace_leaves_the_signal_its_time() {
    let hook = json!({"preStop": {"sleep": {"seconds": 60}}});
    let mut world = World::new(json!({"containers": [{"name": "c", "lifecycle": hook}]}));
    world.settle();
    world.pod.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(later(world.now, Duration::from_secs(5))));
    world.pod.metadata.deletion_grace_period_seconds = Some(5);
    let deadline = world.settle().unwrap();
    assert_eq!(since(deadline, world.now), Duration::from_secs(5));
    world.wait(5);
    let deadline = world.settle().unwrap();
    assert_eq!(since(deadline, world.now), LEAST_GRACE);
    assert_eq!(world.story.last().unwrap(), "Terminate c");
    world.wait(2);
    world.settle();
    assert!(world.story.contains(&"Kill c".to_owned()));
}

#[test]
fn a_pod_that_vanished_is_stopped_without_asking_the_server() {
    let mut world = World::new(json!({"terminationGracePeriodSeconds": 0}));
    world.settle();
    world.seen.vanished = true;
    world.settle();
    world.check(expect![[r#"
        StartSandbox
        SetUpVolumes
        Start c-0
          Started Started container c
          Killing Stopping container c
        Kill c
        TearDown
        Finish"#]]);
}

#[test]
fn a_lost_sandbox_is_made_again() {
    let mut world = World::new(json!({"initContainers": [{"name": "i"}]}));
    world.settle();
    world.container("i", 0, Some(0));
    world.settle();
    world.tell(Outcome::SandboxLost);
    world.settle();
    world.container("i", 1, Some(0));
    world.settle();
    world.check(expect![[r#"
        StartSandbox
        SetUpVolumes
        Start i-0
          Started Started container i
        Start c-0
          Started Started container c
          SandboxChanged Pod sandbox changed, it will be killed and re-created.
        StartSandbox
        Start i-1
          Started Started container i
        Start c-1
          Started Started container c"#]]);
}

#[test]
fn a_lost_sandbox_ends_a_pod_that_never_restarts() {
    let mut world = World::new(json!({"restartPolicy": "Never"}));
    world.settle();
    world.tell(Outcome::SandboxLost);
    world.settle();
    world.check(expect![[r#"
        StartSandbox
        SetUpVolumes
        Start c-0
          Started Started container c
          SandboxChanged Pod sandbox changed, it will be killed and re-created.
        TearDown"#]]);
}

#[test]
fn a_failed_liveness_probe_restarts_the_container() {
    let probe = json!({"tcpSocket": {"port": 1}});
    let mut world = World::new(json!({"containers": [{"name": "c", "livenessProbe": probe}]}));
    world.settle();
    let kind = ProbeKind::Liveness;
    world.tell(Outcome::Probed { name: "c".to_owned(), attempt: 0, kind, healthy: false });
    let deadline = world.settle().unwrap();
    world.container("c", 0, Some(143));
    world.settle();
    assert_eq!(since(deadline, world.now), Duration::from_secs(30));
    world.check(expect![[r#"
        StartSandbox
        SetUpVolumes
        Start c-0
          Started Started container c
          Killing Container c failed liveness probe, will be restarted
        Terminate c
        Start c-1
          Started Started container c"#]]);
}

#[test]
fn the_probe_that_fails_says_how_long_the_end_may_take() {
    for (kind, seconds) in [(ProbeKind::Liveness, 7), (ProbeKind::Startup, 9)] {
        let probe =
            |seconds: u32| json!({"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": seconds});
        let container = json!({"name": "c", "livenessProbe": probe(7), "startupProbe": probe(9),
            "lifecycle": {"preStop": {"sleep": {"seconds": 60}}}});
        let mut world = World::new(json!({"containers": [container]}));
        world.settle();
        world.tell(Outcome::Probed { name: "c".to_owned(), attempt: 0, kind, healthy: false });
        let plan = plan(&world.pod, &world.seen, world.now);
        let Action::BeginStop { grace, .. } = &plan.actions[0] else { panic!("{plan:?}") };
        assert_eq!(*grace, Duration::from_secs(seconds), "the hook has no more than that either");
        let deadline = world.settle().unwrap();
        assert_eq!(since(deadline, world.now), Duration::from_secs(seconds));
    }
}

#[test]
fn a_pod_whose_image_has_nothing_for_the_platform_is_given_up_unless_it_has_run() {
    let blocked = || Outcome::StartBlocked {
        name: "c".to_owned(),
        reason: reason::IMAGE_PLATFORM_MISMATCH,
        message: "no match for platform".to_owned(),
    };
    let mut world = World::new(json!({}));
    world.settle();
    world.seen.containers.get_mut("c").unwrap().runs = 0;
    world.tell(blocked());
    world.settle();
    assert_eq!(world.seen.verdict.as_ref().unwrap().reason, "ImagePlatformMismatch");
    let mut world = World::new(json!({}));
    world.settle();
    world.container("c", 0, Some(1));
    world.tell(blocked());
    world.settle();
    assert_eq!(world.seen.verdict, None);
}

#[test]
fn an_active_deadline_ends_the_pod() {
    let mut world = World::new(json!({"activeDeadlineSeconds": 60, "terminationGracePeriodSeconds": 1}));
    let deadline = world.settle().unwrap();
    world.now = deadline;
    world.settle();
    world.wait(2);
    world.settle();
    assert_eq!(world.seen.verdict.as_ref().unwrap().reason, "DeadlineExceeded");
    assert_eq!(world.story.last().unwrap(), "TearDown");
}

#[test]
fn volumes_that_are_being_put_in_place_are_given_up_before_the_pod_is_torn_down() {
    let mut world = World::new(json!({}));
    world.tell(Outcome::SandboxUp([10, 42, 0, 2].into()));
    world.seen.volumes.begin();
    world.pod.metadata.deletion_timestamp =
        Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    assert_eq!(plan(&world.pod, &world.seen, world.now).actions, [Action::CancelUnderWay]);
    world.tell(Outcome::VolumesCancelled);
    assert_eq!(world.story, [""; 0], "nobody is told of what was given up");
    world.settle();
    world.check(expect![[r#"
        TearDown
        Release
        Finish"#]]);
}
