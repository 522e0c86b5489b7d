//! Leader election: of several control planes on one store, only one decides.
//!
//! Asked by the shell every few seconds with the Lease as it is; what it gives is to be written,
//! unless the Lease has changed since. It never looks at the clock of another control plane: a
//! Lease has run out when it has not changed for its duration by this one's own clock, which must
//! not jump. The leader stops before the others may think that it has.
//!
//! The Lease and its fields are those of <https://kubernetes.io/docs/concepts/architecture/leases/>.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

/// Where the Lease is.
pub const NAMESPACE: &str = "kube-system";
/// What it is called. The scheduler runs where the controllers do.
pub const NAME: &str = "kube-controller-manager";

/// A Lease that has not been renewed for so long is free.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew its Lease for so long does not decide any more.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a leader renews its Lease.
const RENEWAL: Duration = Duration::from_secs(5);
/// How often the others look at it.
const RETRY: Duration = Duration::from_secs(2);

/// One control plane's part in the election.
#[derive(Clone, Debug)]
pub struct Election {
    identity: String,
    /// The version of the Lease that was seen last, and since when it has been this one.
    seen: Option<(Option<String>, Duration)>,
    leads_until: Option<Duration>,
    term: u64,
}

impl Election {
    /// Nobody else may have this identity. A control plane that comes back under its own takes its
    /// Lease up again at once.
    pub fn new(identity: &str) -> Self {
        Election { identity: identity.to_owned(), seen: None, leads_until: None, term: 0 }
    }

    /// The Lease to write in the place of the one that is there, if it is this control plane's to
    /// write. `clock` only ever goes on; `now` is for people.
    pub fn stand(&mut self, current: Option<&Lease>, clock: Duration, now: Timestamp) -> Option<Lease> {
        let Some(current) = current else {
            return Some(self.lease(ObjectMeta::default(), LeaseSpec::default(), now));
        };
        let version = current.metadata.resource_version.clone();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, clock));
        }
        let since = self.seen.as_ref().map_or(clock, |(_, since)| *since);
        let spec = current.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
        let runs_out = since + seconds.map_or(DURATION, Duration::from_secs);
        let is_taken = !holder.is_empty() && holder != self.identity && clock < runs_out;
        (!is_taken).then(|| self.lease(current.metadata.clone(), spec, now))
    }

    /// What [`Election::stand`] gave at this `clock` was written.
    pub fn written(&mut self, clock: Duration) {
        if self.leads_until.is_none_or(|until| until <= clock) {
            self.term += 1;
        }
        self.leads_until = Some(clock + DEADLINE);
    }

    /// Until when this control plane decides.
    pub fn leads_until(&self) -> Option<Duration> {
        self.leads_until
    }

    /// A number that grows whenever this control plane begins to lead. Another one may have decided
    /// before, and what it wrote last may not have been seen yet: each term has to begin with a
    /// fresh look at everything, or the same is created twice.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// How long to wait before standing again.
    pub fn pause(&self, clock: Duration) -> Duration {
        if self.leads_until.is_some_and(|until| clock < until) { RENEWAL } else { RETRY }
    }

    /// The Lease given back, so that another control plane need not wait; `None` if it is not this
    /// one's.
    pub fn resign(&mut self, current: &Lease) -> Option<Lease> {
        self.leads_until = None;
        let mut lease = current.clone();
        let spec = lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(&self.identity))?;
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        Some(lease)
    }

    fn lease(&self, metadata: ObjectMeta, old: LeaseSpec, now: Timestamp) -> Lease {
        let now = Some(MicroTime(now));
        let is_own = old.holder_identity.as_deref() == Some(&self.identity);
        let transitions = old.lease_transitions.map_or(0, |before| before + i32::from(!is_own));
        Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                ..metadata
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: if is_own { old.acquire_time } else { now.clone() },
                renew_time: now,
                lease_transitions: Some(transitions),
                ..old
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// What the API server makes of a write.
    fn stored(mut lease: Lease, version: &str) -> Lease {
        lease.metadata.resource_version = Some(version.to_owned());
        lease
    }

    fn stand(election: &mut Election, lease: Option<&Lease>, clock: u64) -> Option<Lease> {
        election.stand(lease, seconds(clock), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_first_to_write_leads_and_the_other_waits_for_silence() {
        let (mut one, mut other) = (Election::new("one"), Election::new("other"));
        let lease = stored(stand(&mut one, None, 0).unwrap(), "1");
        one.written(seconds(0));
        assert_eq!(one.leads_until(), Some(seconds(10)));
        // The clocks of two control planes have nothing to do with each other.
        assert_eq!(stand(&mut other, Some(&lease), 1000), None);
        assert_eq!(stand(&mut other, Some(&lease), 1014), None);
        let renewed = stored(stand(&mut one, Some(&lease), 5).unwrap(), "2");
        assert_eq!(stand(&mut other, Some(&renewed), 1015), None, "it was renewed");
        assert_eq!(stand(&mut other, Some(&renewed), 1029), None);
        let taken = stand(&mut other, Some(&renewed), 1030).unwrap();
        let spec = taken.spec.as_ref().unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some("other"));
        assert_eq!(spec.lease_transitions, Some(1));
        assert_eq!(taken.metadata.resource_version.as_deref(), Some("2"), "a lost race is refused");
    }

    #[test]
    fn a_leader_stops_before_another_may_begin() {
        let mut one = Election::new("one");
        let lease = stored(stand(&mut one, None, 100).unwrap(), "1");
        one.written(seconds(100));
        let mut other = Election::new("other");
        // It sees the Lease in the moment of the write at the earliest.
        assert_eq!(stand(&mut other, Some(&lease), 100), None);
        let free = (100..).find(|clock| stand(&mut other, Some(&lease), *clock).is_some()).unwrap();
        assert!(one.leads_until().unwrap() < seconds(free));
    }

    #[test]
    fn a_term_lasts_as_long_as_it_is_renewed_in_time() {
        let mut one = Election::new("one");
        for (clock, term) in [(0, 1), (5, 1), (14, 1), (24, 2), (29, 2), (100, 3)] {
            one.written(seconds(clock));
            assert_eq!(one.term(), term, "at {clock} s");
        }
    }

    #[test]
    fn one_that_comes_back_goes_on_at_once() {
        let lease = stored(stand(&mut Election::new("one"), None, 0).unwrap(), "1");
        let again = stand(&mut Election::new("one"), Some(&lease), 0).unwrap();
        assert_eq!(again.spec.as_ref().unwrap().lease_transitions, Some(0));
        assert_eq!(again.spec.unwrap().acquire_time, lease.spec.unwrap().acquire_time);
    }

    #[test]
    fn one_that_resigns_leaves_the_lease_to_the_others() {
        let (mut one, mut other) = (Election::new("one"), Election::new("other"));
        let lease = stored(stand(&mut one, None, 0).unwrap(), "1");
        one.written(seconds(0));
        assert_eq!(other.resign(&lease), None);
        assert_eq!(stand(&mut other, Some(&lease), 0), None);
        let resigned = stored(one.resign(&lease).unwrap(), "2");
        assert_eq!(one.leads_until(), None);
        assert!(stand(&mut other, Some(&resigned), 0).is_some());
    }
}
