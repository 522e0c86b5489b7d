//! The control planes: two that stand for election over one Lease, each with clocks of its own.
//!
//! As the shell does, each begins its term with a fresh list of everything and forgets it all when
//! the term is over. Either may stand still for a while in the middle of a plan, or die and come
//! back; the clocks of one go faster than those of the other, and the time of day may jump.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use proa_logic::controllers::election::{Election, NAME, NAMESPACE};
use serde_json::json;

use super::api::Api;
use super::control::Control;
use super::random::Random;

pub struct Plane {
    /// The one that it works with, and no other does.
    pub server: usize,
    identity: &'static str,
    election: Election,
    /// A Lease that is about to be written, and the clock when it was decided upon.
    standing: Option<(Lease, Duration)>,
    stands_at: Duration,
    /// How fast its clock goes, in hundredths.
    rate: u64,
    /// How far its time of day is ahead of the true one.
    pub ahead: SignedDuration,
    /// It does nothing at all.
    pub is_stopped: bool,
    /// What it knows in the term that it is in.
    control: Option<(u64, Control)>,
}

impl Plane {
    pub fn new(server: usize, identity: &'static str, rate: u64) -> Self {
        Plane {
            server,
            identity,
            election: Election::new(identity),
            standing: None,
            stands_at: Duration::ZERO,
            rate,
            ahead: SignedDuration::ZERO,
            is_stopped: false,
            control: None,
        }
    }

    /// It dies and comes back, and knows nothing any more.
    pub fn restart(&mut self) {
        *self = Plane {
            stands_at: self.stands_at,
            ahead: self.ahead,
            ..Plane::new(self.server, self.identity, self.rate)
        };
    }

    /// The time of day as it knows it.
    pub fn now(&self, api: &Api) -> Timestamp {
        api.now + self.ahead
    }

    /// Its clock that only ever goes on.
    fn clock(&self, api: &Api) -> Duration {
        let millis = api.now.as_millisecond() - api.began.as_millisecond();
        Duration::from_millis(u64::try_from(millis).expect("time goes on") * self.rate / 100)
    }

    /// True while it may decide, by its own reckoning.
    pub fn leads(&self, api: &Api) -> bool {
        self.election.leads_until().is_some_and(|until| self.clock(api) < until)
    }

    /// What it knows, while it leads.
    pub fn control(&mut self, api: &Api) -> Option<&mut Control> {
        if !self.leads(api) {
            self.control = None;
            return None;
        }
        let term = self.election.term();
        if self.control.as_ref().is_none_or(|(of, _)| *of != term) {
            self.control = Some((term, Control::start(api, self.server, self.now(api))));
        }
        self.control.as_mut().map(|(_, control)| control)
    }

    /// A step in the election: it looks at the Lease, or writes what it has decided upon.
    pub fn stand(&mut self, api: &mut Api, random: &mut Random, faults: bool) {
        let clock = self.clock(api);
        if let Some((lease, clock)) = self.standing.take_if(|_| random.one_in(2)) {
            let is_refused = faults && random.one_in(10);
            // It may be written without its writer being told.
            let is_told = !faults || !random.one_in(20);
            if !is_refused && self.write(api, &lease) && is_told {
                self.election.written(clock);
            }
        } else if self.standing.is_none() && clock >= self.stands_at {
            let current = self.lease(api);
            let holder = current.as_ref().and_then(|l| l.spec.as_ref()?.holder_identity.clone());
            if let Some(lease) = self.election.stand(current.as_ref(), clock, self.now(api)) {
                if holder.is_some_and(|holder| holder != self.identity) {
                    api.meet("a Lease is taken over");
                }
                self.standing = Some((lease, clock));
            }
            self.stands_at = clock + self.election.pause(clock);
        }
    }

    /// It ends in an orderly way.
    pub fn resign(&mut self, api: &mut Api) {
        // What it has begun comes before.
        api.flush();
        let Some(current) = self.lease(api) else { return };
        if let Some(lease) = self.election.resign(&current) {
            self.write(api, &lease);
            api.meet("a Lease is given back");
        }
        self.restart();
    }

    /// The Lease as its server knows it.
    fn lease(&self, api: &Api) -> Option<Lease> {
        let leases = api.registry(self.server).collection("leases.coordination.k8s.io");
        leases.get(NAMESPACE, NAME).map(|lease| lease.decode().unwrap())
    }

    /// Writes a Lease unless it has changed; true if it is written.
    fn write(&self, api: &mut Api, lease: &Lease) -> bool {
        api.write_lease(self.server, NAMESPACE, NAME, json!(lease))
    }
}
