//! Links, addresses, routes and switches of the kernel, each as one act.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use dhcp::{MacAddr, Route};
use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, CacheInfo};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use tokio::sync::Mutex;

use crate::links::{Link, place};
use crate::nft::InterfaceName;

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    #[error("the kernel has no rtnetlink socket")]
    Open(#[source] io::Error),
    #[error("links cannot be listed")]
    Links(#[source] rtnetlink::Error),
    #[error("a link cannot be brought up")]
    Up(#[source] rtnetlink::Error),
    #[error("addresses cannot be listed")]
    Addresses(#[source] rtnetlink::Error),
    #[error("an address cannot be set")]
    SetAddress(#[source] rtnetlink::Error),
    #[error("an address cannot be removed")]
    RemoveAddress(#[source] rtnetlink::Error),
    #[error("a route cannot be set")]
    SetRoute(#[source] rtnetlink::Error),
    #[error("{path} cannot be written")]
    Switch {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// A route of an uplink.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UplinkRoute {
    pub(crate) route: Route,
    /// Goes away with this address.
    pub(crate) source: Ipv4Addr,
    /// Of two routes to the same place, the lower wins.
    pub(crate) metric: u32,
}

/// A connection to rtnetlink. Cheap to clone.
///
/// A socket gives one listing at a time and refuses a second with EBUSY (`__netlink_dump_start`), so listings of all
/// clones take turns. Each is answered at once by the kernel, so holding the turn across an await is short.
#[derive(Clone, Debug)]
pub(crate) struct Kernel(Handle, Arc<Mutex<()>>);

impl Kernel {
    /// Opens the connection, driven by a task of its own, and a stream that says that links may have changed.
    ///
    /// # Errors
    /// When the kernel has no rtnetlink.
    pub(crate) fn open() -> Result<(Self, impl Stream<Item = ()> + Unpin), KernelError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(KernelError::Open)?;
        tokio::spawn(connection);
        let (connection, _, changes) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(KernelError::Open)?;
        tokio::spawn(connection);
        Ok((Self(handle, Arc::default()), changes.map(|_| ())))
    }

    /// All Ethernet links.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) async fn links(&self) -> Result<Vec<Link>, KernelError> {
        let _turn = self.1.lock().await;
        let links = self.0.link().get().execute().try_collect::<Vec<LinkMessage>>().await;
        Ok(links.map_err(KernelError::Links)?.iter().filter_map(read_link).collect())
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) async fn set_up(&self, index: u32) -> Result<(), KernelError> {
        let up = LinkUnspec::new_with_index(index).up().build();
        self.0.link().set(up).execute().await.map_err(KernelError::Up)
    }

    /// The IPv4 addresses of a link.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) async fn addresses(&self, index: u32) -> Result<Vec<Ipv4Addr>, KernelError> {
        Ok(self.address_messages(index).await?.iter().filter_map(local_address).collect())
    }

    /// Sets an address, which the kernel removes by itself at the end of `lifetime` (`None`: never).
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) async fn set_address(
        &self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
        lifetime: Option<Duration>,
    ) -> Result<(), KernelError> {
        let mut request = self.0.address().add(index, IpAddr::V4(address), prefix).replace();
        // The kernel counts in seconds; all ones is for ever.
        let seconds = lifetime.map_or(u32::MAX, |lifetime| {
            u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).saturating_add(1)
        });
        let mut info = CacheInfo::default();
        (info.ifa_preferred, info.ifa_valid) = (seconds, seconds);
        request.message_mut().attributes.push(AddressAttribute::CacheInfo(info));
        request.execute().await.map_err(KernelError::SetAddress)
    }

    /// Removes every IPv4 address of a link but one, and with them the routes that name them as their source.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) async fn keep_only(&self, index: u32, keep: Option<Ipv4Addr>) -> Result<(), KernelError> {
        for message in self.address_messages(index).await? {
            if local_address(&message) != keep {
                self.0.address().del(message).execute().await.map_err(KernelError::RemoveAddress)?;
            }
        }
        Ok(())
    }

    /// Sets a route of an uplink. A router outside of the link's network is believed to be on the link (RFC 3442).
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(crate) async fn set_route(&self, index: u32, wanted: UplinkRoute) -> Result<(), KernelError> {
        self.0
            .route()
            .add(route_message(index, wanted))
            .replace()
            .execute()
            .await
            .map_err(KernelError::SetRoute)
    }

    /// Removes a route of an uplink; one that is gone already is fine.
    pub(crate) async fn remove_route(&self, index: u32, unwanted: UplinkRoute) {
        if let Err(error) = self.0.route().del(route_message(index, unwanted)).execute().await {
            tracing::debug!(%error, "a route is gone already");
        }
    }

    async fn address_messages(&self, index: u32) -> Result<Vec<AddressMessage>, KernelError> {
        let _turn = self.1.lock().await;
        let request = self.0.address().get().set_link_index_filter(index);
        let messages: Vec<_> = request.execute().try_collect().await.map_err(KernelError::Addresses)?;
        Ok(messages.into_iter().filter(|message| local_address(message).is_some()).collect())
    }
}

/// Writes a switch below `/proc/sys/net`.
///
/// # Errors
/// Without `CAP_NET_ADMIN`, or when the kernel has no such switch.
pub(crate) fn switch(path: &str, value: &str) -> Result<(), KernelError> {
    let path = format!("/proc/sys/net/{path}");
    std::fs::write(&path, value).map_err(|source| KernelError::Switch { path, source })
}

/// `None` for what is not Ethernet or has a name that cannot stand in a rule.
fn read_link(message: &LinkMessage) -> Option<Link> {
    if message.header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    let (mut name, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = text.parse::<InterfaceName>().ok(),
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    let name = name?;
    Some(Link {
        index: message.header.index,
        mac: MacAddr(mac?),
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        wired: place(&name),
        name,
    })
}

fn local_address(message: &AddressMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })
}

fn route_message(
    index: u32,
    UplinkRoute { route, source, metric }: UplinkRoute,
) -> rtnetlink::packet_route::route::RouteMessage {
    let message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination, route.prefix)
        .output_interface(index)
        .pref_source(source)
        .priority(metric)
        .protocol(RouteProtocol::Dhcp);
    if route.router.is_unspecified() {
        message.scope(RouteScope::Link).build()
    } else {
        message.gateway(route.router).onlink().build()
    }
}
