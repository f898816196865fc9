//! How the services of one machine meet: D-Bus names, paths and typed interfaces, in one place.
//!
//! The bus is a system bus at [`ADDRESS`] (D-Bus Specification, "Well-known Message Bus Instances"), so `busctl`
//! and `gdbus` can look at a running machine. Every service owns `org.bramble.<Name>` and shows
//! [`Service1`](Identity) there. No service needs the bus to do its work: [`Reporter`] drops what it cannot deliver
//! and counts it, and callers keep their last known state.
//!
//! Not supported: activation of services by name; file descriptors in messages.

pub mod event;
mod identity;
mod reporter;

use std::time::Duration;

pub use event::Event;
pub use identity::Identity;
pub use reporter::Reporter;
pub use zbus;

/// Where the broker listens.
pub const ADDRESS: &str = "unix:path=/run/dbus/system_bus_socket";

/// Object that every service shows its [`Identity`] at.
pub const SERVICE_PATH: &str = "/org/bramble/Service";

/// Object of the cluster's state, at the name [`CLUSTER_NAME`].
pub const CLUSTER_PATH: &str = "/org/bramble/Cluster";

/// Name of the cluster state service.
pub const CLUSTER_NAME: &str = "org.bramble.Cluster";

/// The longest a call may take. The callee is a process of the same machine: a second is an outage.
const METHOD_TIME_OUT: Duration = Duration::from_secs(5);

/// A node that may be given requests: its name and the address of its web server.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, zbus::zvariant::Type)]
pub struct Backend {
    /// `node-1`.
    pub name: String,
    /// `10.77.0.11:80`.
    pub address: String,
}

/// The cluster state service, seen from the other services of the head.
#[zbus::proxy(
    interface = "org.bramble.Cluster1",
    default_service = "org.bramble.Cluster",
    default_path = "/org/bramble/Cluster"
)]
pub trait Cluster {
    /// Tells what a service has seen, oldest first. At most [`Reporter::BATCH_MAX`] events a call.
    fn report(&self, source: &str, events: &[Event]) -> zbus::Result<()>;

    /// The nodes that may be given requests now.
    fn backends(&self) -> zbus::Result<Vec<Backend>>;

    /// The nodes that may be given requests have changed; carries all of them.
    #[zbus(signal)]
    fn backends_changed(&self, backends: Vec<Backend>) -> zbus::Result<()>;
}

/// Connects to the bus as the service `name` (such as `dhcp-server`), owning `org.bramble.DhcpServer` and showing
/// the service's [`Identity`].
///
/// # Errors
/// When there is no broker, it refuses, or the name is taken.
pub async fn connect(name: &str) -> zbus::Result<zbus::Connection> {
    connect_to(ADDRESS, name).await
}

/// As [`connect`], to a bus anywhere.
///
/// # Errors
/// As [`connect`].
pub async fn connect_to(address: &str, name: &str) -> zbus::Result<zbus::Connection> {
    builder(address, name)?.build().await
}

/// As [`connect`], for a service that adds objects of its own before its name appears on the bus.
///
/// # Errors
/// When the address or the name is malformed.
pub fn builder(address: &str, name: &str) -> zbus::Result<zbus::connection::Builder<'static>> {
    let address: zbus::Address = address.parse()?;
    Ok(zbus::connection::Builder::address(address)
        .method_timeout(METHOD_TIME_OUT)
        .serve_at(SERVICE_PATH, Identity::new(name))
        .name(well_known_name(name)))
}

/// `dhcp-server` -> `org.bramble.DhcpServer`.
pub fn well_known_name(service: &str) -> String {
    let mut name = String::from("org.bramble.");
    for word in service.split('-') {
        let mut characters = word.chars();
        name.extend(characters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(characters.as_str());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_services_name_becomes_its_bus_name() {
        assert_eq!(well_known_name("dhcp-server"), "org.bramble.DhcpServer");
        assert_eq!(well_known_name("web"), "org.bramble.Web");
        assert_eq!(well_known_name("cluster"), CLUSTER_NAME);
    }
}
