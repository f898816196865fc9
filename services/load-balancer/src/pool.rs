//! Which back end gets the next request: members, selection, ejection. No socket, no clock, no protocol.
//!
//! ```text
//!            enough failures in a row            time is up
//!    READY ───────────────────────────▶ EJECTED ───────────▶ PROBING
//!      ▲                                   ▲                  │   │
//!      │                                   └──── unreachable ─┘   │
//!      └──────────────── reachable, or any answer ────────────────┘
//! ```
//!
//! Selection is round robin over the ready members. When none is ready, ejection is ignored: a guess that everyone is
//! broken is worth less than one more try.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How quickly a member is given up and tried again.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Broken answers in a row that eject a member. A refused connection ejects at once.
    pub failures_to_eject: u32,
    /// How long the first ejection lasts; each further one without an answer between lasts twice as long.
    pub ejection: Duration,
    /// No ejection lasts longer.
    pub ejection_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        // A node that restarts its web server is back within a second; one that is off costs a probe every 30 s.
        Self { failures_to_eject: 3, ejection: Duration::from_secs(1), ejection_max: Duration::from_secs(30) }
    }
}

/// A back end as configured or reported by the cluster state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// For people: `node-1`.
    pub name: String,
    /// Where it listens; what makes it the same member after a change.
    pub address: SocketAddr,
}

/// Names one member for as long as it is in the pool; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberId(u64);

/// Who gets a request. The caller owes the pool one [`Input::Done`] for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// To be named in every later input.
    pub id: MemberId,
    /// Where to connect.
    pub address: SocketAddr,
}

/// What the pool is told.
#[derive(Debug)]
pub enum Input<'a> {
    /// These are all back ends from now on.
    Members(&'a [Backend]),
    /// The member sent the head of an answer.
    Answered(MemberId),
    /// The member failed a request.
    Failed(MemberId, Fault),
    /// Nothing is under way any more for one [`Pick`].
    Done(MemberId),
    /// A probe asked for by [`Output::Probe`] is over.
    Probed(MemberId, Reached),
}

/// How a member failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No connection could be made.
    Unreachable,
    /// The connection ended early, was silent for too long, or carried nonsense.
    Broken,
}

/// The outcome of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The member accepted a connection.
    Yes,
    /// It did not.
    No,
}

/// What the pool asks of its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Find out whether the member accepts connections, and say so with [`Input::Probed`].
    Probe(Pick),
    /// For the log.
    Ejected(Backend),
    /// For the log.
    Returned(Backend),
}

/// One member as the world may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberState {
    /// Name and address.
    pub backend: Backend,
    /// `ready`, `ejected` or `probing`.
    pub state: &'static str,
    /// Requests under way.
    pub in_flight: u32,
    /// Requests given to it since it joined.
    pub requests: u64,
    /// Those of them that it failed.
    pub failures: u64,
}

/// More members than this are left out: the largest cluster planned for has 10,000 boards.
pub const MEMBERS_MAX: usize = 16_384;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready { failures_in_a_row: u32 },
    Ejected { until: Instant },
    Probing,
}

#[derive(Debug)]
struct Member {
    id: MemberId,
    backend: Backend,
    state: State,
    /// Ejections since the last answer; sets how long the next one lasts.
    ejections: u32,
    in_flight: u32,
    requests: u64,
    failures: u64,
}

/// The members and whose turn it is.
#[derive(Debug)]
pub struct Pool {
    settings: Settings,
    members: Vec<Member>,
    place: HashMap<MemberId, usize>,
    turn: usize,
    next_id: u64,
    outputs: VecDeque<Output>,
}

impl Pool {
    /// A pool without members.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            members: Vec::new(),
            place: HashMap::new(),
            turn: 0,
            next_id: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Chooses who gets the next request: the next ready member that is not among `tried`, else the next one at all.
    /// `None` when all have been tried or there are none.
    pub fn pick(&mut self, tried: &[MemberId]) -> Option<Pick> {
        let ready = |member: &Member| matches!(member.state, State::Ready { .. });
        let at = self.next_place(tried, ready).or_else(|| self.next_place(tried, |_| true))?;
        self.turn = at + 1;
        let member = self.members.get_mut(at)?;
        member.in_flight = member.in_flight.saturating_add(1);
        member.requests += 1;
        Some(Pick { id: member.id, address: member.backend.address })
    }

    /// Takes note of what happened.
    pub fn receive(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Members(backends) => self.replace(backends),
            Input::Answered(id) => {
                if let Some(member) = self.member(id) {
                    member.ejections = 0;
                    self.make_ready(id);
                }
            }
            Input::Failed(id, fault) => self.failed(id, fault, now),
            Input::Done(id) => {
                if let Some(member) = self.member(id) {
                    member.in_flight = member.in_flight.saturating_sub(1);
                }
            }
            Input::Probed(id, Reached::Yes) => self.make_ready(id),
            Input::Probed(id, Reached::No) => {
                if self.member(id).is_some_and(|member| member.state == State::Probing) {
                    self.eject(id, now);
                }
            }
        }
    }

    /// Asks for a probe of every member whose ejection is over.
    pub fn expire(&mut self, now: Instant) {
        for member in &mut self.members {
            if matches!(member.state, State::Ejected { until } if until <= now) {
                member.state = State::Probing;
                let pick = Pick { id: member.id, address: member.backend.address };
                self.outputs.push_back(Output::Probe(pick));
            }
        }
    }

    /// When [`Pool::expire`] has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        let ends = self.members.iter().filter_map(|member| match member.state {
            State::Ejected { until } => Some(until),
            State::Ready { .. } | State::Probing => None,
        });
        ends.min()
    }

    /// The next thing to do for the driver; to be asked until `None` after each other call.
    pub fn transmit(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// All members, in order of their turns.
    pub fn members(&self) -> impl Iterator<Item = MemberState> + '_ {
        self.members.iter().map(|member| MemberState {
            backend: member.backend.clone(),
            state: match member.state {
                State::Ready { .. } => "ready",
                State::Ejected { .. } => "ejected",
                State::Probing => "probing",
            },
            in_flight: member.in_flight,
            requests: member.requests,
            failures: member.failures,
        })
    }

    /// Whether the member is still one.
    pub fn has(&self, id: MemberId) -> bool {
        self.place.contains_key(&id)
    }

    /// How many members are ready, and how many there are.
    pub fn count(&self) -> (usize, usize) {
        let ready = self.members.iter().filter(|member| matches!(member.state, State::Ready { .. })).count();
        (ready, self.members.len())
    }

    fn next_place(&self, tried: &[MemberId], fit: impl Fn(&Member) -> bool) -> Option<usize> {
        let count = self.members.len();
        (0..count)
            .map(|step| (self.turn + step) % count)
            .find(|&at| self.members.get(at).is_some_and(|member| fit(member) && !tried.contains(&member.id)))
    }

    fn member(&mut self, id: MemberId) -> Option<&mut Member> {
        let at = *self.place.get(&id)?;
        self.members.get_mut(at)
    }

    /// Members that stay keep their state and their figures; those that go are forgotten at once, and what is under way
    /// for them ends on its own.
    fn replace(&mut self, backends: &[Backend]) {
        let mut known: HashMap<SocketAddr, Member> =
            self.members.drain(..).map(|member| (member.backend.address, member)).collect();
        let mut taken = std::collections::HashSet::new();
        for backend in backends.iter().take(MEMBERS_MAX) {
            if !taken.insert(backend.address) {
                continue;
            }
            let mut member = known.remove(&backend.address).unwrap_or_else(|| {
                self.next_id += 1;
                Member::new(MemberId(self.next_id), backend.clone())
            });
            member.backend = backend.clone();
            self.members.push(member);
        }
        self.place = self.members.iter().enumerate().map(|(at, member)| (member.id, at)).collect();
        self.turn = self.turn.checked_rem(self.members.len()).unwrap_or(0);
    }

    fn failed(&mut self, id: MemberId, fault: Fault, now: Instant) {
        let limit = self.settings.failures_to_eject;
        let Some(member) = self.member(id) else { return };
        member.failures += 1;
        // What still fails while ejected or being probed says nothing new.
        let State::Ready { failures_in_a_row } = &mut member.state else { return };
        *failures_in_a_row += 1;
        if fault == Fault::Unreachable || *failures_in_a_row >= limit {
            let backend = member.backend.clone();
            self.outputs.push_back(Output::Ejected(backend));
            self.eject(id, now);
        }
    }

    fn eject(&mut self, id: MemberId, now: Instant) {
        let Settings { ejection, ejection_max, .. } = self.settings;
        let Some(member) = self.member(id) else { return };
        let factor = 1u32.checked_shl(member.ejections).unwrap_or(u32::MAX);
        member.ejections = (member.ejections + 1).min(u32::BITS);
        member.state = State::Ejected { until: now + ejection.saturating_mul(factor).min(ejection_max) };
    }

    fn make_ready(&mut self, id: MemberId) {
        let Some(member) = self.member(id) else { return };
        let was_ready = matches!(member.state, State::Ready { .. });
        member.state = State::Ready { failures_in_a_row: 0 };
        if !was_ready {
            let backend = member.backend.clone();
            self.outputs.push_back(Output::Returned(backend));
        }
    }
}

impl Member {
    fn new(id: MemberId, backend: Backend) -> Self {
        let state = State::Ready { failures_in_a_row: 0 };
        Self { id, backend, state, ejections: 0, in_flight: 0, requests: 0, failures: 0 }
    }
}

#[cfg(test)]
mod tests;
