//! `org.bramble.LoadBalancer1`: what the balancer knows of its back ends, on the machine's bus.

use std::sync::Arc;

use bus::zbus;
use serde::{Deserialize, Serialize};
use zbus::zvariant::Type;

use crate::balancer::Balancer;
use crate::driver::Entrance;

/// One member in an answer of `Members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Type)]
pub(crate) struct Member {
    name: String,
    address: String,
    /// `ready`, `ejected` or `probing`.
    state: String,
    in_flight: u32,
    requests: u64,
    failures: u64,
}

/// The object at [`Control::PATH`].
pub(crate) struct Control {
    balancer: Arc<Balancer>,
    entrance: Arc<Entrance>,
}

impl Control {
    pub(crate) const PATH: &'static str = "/org/bramble/LoadBalancer";

    pub(crate) fn new(balancer: Arc<Balancer>, entrance: Arc<Entrance>) -> Self {
        Self { balancer, entrance }
    }
}

#[zbus::interface(name = "org.bramble.LoadBalancer1")]
impl Control {
    /// The back ends in order of their turns.
    fn members(&self) -> Vec<Member> {
        let members = self.balancer.members().into_iter();
        members
            .map(|member| Member {
                name: member.backend.name,
                address: member.backend.address.to_string(),
                state: member.state.to_owned(),
                in_flight: member.in_flight,
                requests: member.requests,
                failures: member.failures,
            })
            .collect()
    }

    /// Requests since start, answered or not.
    #[zbus(property(emits_changed_signal = "false"))]
    fn requests(&self) -> u64 {
        self.balancer.requests()
    }

    /// Connections of clients open now.
    #[zbus(property(emits_changed_signal = "false"))]
    fn connections(&self) -> u32 {
        self.entrance.taken()
    }

    /// Connections refused because their client had too many.
    #[zbus(property(emits_changed_signal = "false"))]
    fn turned_away(&self) -> u64 {
        self.entrance.turned_away()
    }
}
