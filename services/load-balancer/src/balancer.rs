//! What all connections share: the pool behind its lock, the kept connections, the limits.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::pool::{Backend, Input, MemberId, MemberState, Output, Pick, Pool, Reached, Settings};
use crate::upstream::{self, Upstream};

/// Time-outs of the proxy that may be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the end of a request to the head of its answer.
    pub(crate) response: Duration,
    /// Between two pieces of a body, in either direction.
    pub(crate) idle: Duration,
}

/// One load balancer. Locks are held for a few instructions and never across an await.
#[derive(Debug)]
pub(crate) struct Balancer {
    pool: Mutex<Pool>,
    upstream: Arc<Upstream>,
    limits: Limits,
    /// Tells the driver that states or deadlines of the pool have changed.
    pub(crate) changed: Notify,
    members_changed: watch::Sender<()>,
    run: u32,
    requests: AtomicU64,
}

impl Balancer {
    pub(crate) fn new(limits: Limits) -> Self {
        // Not a secret: it only keeps the ids of two runs apart.
        let run = RandomState::new().build_hasher().finish() as u32;
        Self {
            pool: Mutex::new(Pool::new(Settings::default())),
            upstream: Arc::default(),
            limits,
            changed: Notify::new(),
            members_changed: watch::Sender::new(()),
            run,
            requests: AtomicU64::new(0),
        }
    }

    pub(crate) fn pick(&self, tried: &[MemberId]) -> Option<Pick> {
        self.lock().pick(tried)
    }

    /// Passes news on to the pool and does what it asks for.
    pub(crate) fn tell(&self, input: Input<'_>) {
        let outputs = {
            let mut pool = self.lock();
            pool.receive(input, Instant::now());
            drain(&mut pool)
        };
        self.log(&outputs);
    }

    /// Replaces the back ends.
    pub(crate) fn replace(&self, backends: &[Backend]) {
        self.tell(Input::Members(backends));
        self.members_changed.send_replace(());
        self.sweep();
        self.changed.notify_one();
    }

    /// Tells of each [`Self::replace`] from now on.
    pub(crate) fn member_changes(&self) -> watch::Receiver<()> {
        self.members_changed.subscribe()
    }

    pub(crate) fn has(&self, id: MemberId) -> bool {
        self.lock().has(id)
    }

    /// Starts the probes that are due.
    pub(crate) fn expire(self: &Arc<Self>) {
        let outputs = {
            let mut pool = self.lock();
            pool.expire(Instant::now());
            drain(&mut pool)
        };
        for output in outputs {
            if let Output::Probe(pick) = output {
                let balancer = self.clone();
                tokio::spawn(async move {
                    let reached = match upstream::connect_tcp(pick.address).await {
                        Ok(_) => Reached::Yes,
                        Err(_) => Reached::No,
                    };
                    balancer.tell(Input::Probed(pick.id, reached));
                    balancer.changed.notify_one();
                });
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.lock().deadline()
    }

    /// Closes kept connections that are old or lead to nobody.
    pub(crate) fn sweep(&self) {
        let members: std::collections::HashSet<_> =
            self.lock().members().map(|member| member.backend.address).collect();
        self.upstream.sweep(|address| members.contains(address));
    }

    pub(crate) fn members(&self) -> Vec<MemberState> {
        self.lock().members().collect()
    }

    pub(crate) fn count(&self) -> (usize, usize) {
        self.lock().count()
    }

    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    pub(crate) fn response_limit(&self) -> Duration {
        self.limits.response
    }

    pub(crate) fn idle_limit(&self) -> Duration {
        self.limits.idle
    }

    /// Names a request in answers, logs and back ends: unique in this run, and nearly so beyond it.
    pub(crate) fn next_request_id(&self) -> String {
        format!("{:08x}-{:x}", self.run, self.requests.fetch_add(1, Ordering::Relaxed))
    }

    /// Requests since start.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn log(&self, outputs: &[Output]) {
        for output in outputs {
            match output {
                Output::Ejected(Backend { name, address }) => {
                    tracing::warn!(node = name, %address, "gets no requests for now: it failed");
                    self.changed.notify_one();
                }
                Output::Returned(Backend { name, address }) => {
                    tracing::info!(node = name, %address, "gets requests again");
                    self.changed.notify_one();
                }
                // Only `expire` makes probes due.
                Output::Probe(_) => {}
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pool> {
        // The pool has no panics; if it had, its table would still be whole.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn drain(pool: &mut Pool) -> Vec<Output> {
    std::iter::from_fn(|| pool.transmit()).collect()
}
