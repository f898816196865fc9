//! All wired links: brought up as they appear, each with a DHCP client of its own.
//!
//! One task, fed by the kernel's link multicast. It starts a [`crate::lease::keep`] task per link and ends it when
//! the link goes; what they learn goes to one channel.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use dhcp::client::Lease;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::lease;
use crate::link::{Change, LINK_GROUP, Link, Links, is_wired};
use crate::netlink::{self, Socket};
use crate::report::{Level, Reporter};

/// What the network has to tell.
#[derive(Debug)]
pub enum News {
    /// A link has a carrier.
    Carrier,
    /// In words, what is still missing for a lease.
    Missing(String),
    /// A link has a lease, new or extended.
    Lease(Link, Box<Lease>),
}

/// A board has one or two adapters; somebody may plug in more.
const MOST_LINKS: usize = 8;

#[derive(Debug)]
struct Known {
    link: Link,
    carrier: watch::Sender<bool>,
    client: JoinHandle<()>,
}

/// The task's state.
#[derive(Debug)]
pub struct Network {
    known: BTreeMap<u32, Known>,
    links: Links,
    previous: Option<(String, Ipv4Addr)>,
    news: mpsc::Sender<News>,
    report: Rc<Reporter>,
}

impl Network {
    /// Opens the sockets. `previous` is the interface and address of an earlier start.
    ///
    /// # Errors
    /// When the kernel has no rtnetlink.
    pub fn new(
        previous: Option<(String, Ipv4Addr)>,
        news: mpsc::Sender<News>,
        report: Rc<Reporter>,
    ) -> io::Result<Self> {
        Ok(Self { known: BTreeMap::new(), links: Links::open()?, previous, news, report })
    }

    /// Runs for ever.
    pub async fn watch(mut self) {
        loop {
            if let Err(error) = self.follow().await {
                self.report.log(Level::Error, format_args!("cannot follow network links: {error}"));
            }
            // Only after an overflow or a broken socket: everything is looked at afresh.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn follow(&mut self) -> io::Result<()> {
        // Listening begins before listing, so that nothing falls between the two.
        let socket = crate::awaitable(Socket::listen(SockProtocol::NetlinkRoute, LINK_GROUP)?)?;
        for link in self.links.list()? {
            self.apply(Change::Is(link)).await;
        }
        self.tell_missing().await;
        let mut datagram = vec![0; 8192];
        loop {
            let mut ready = socket.readable().await?;
            let received = ready.try_io(|socket| socket.get_ref().receive(&mut datagram).map(<[u8]>::len));
            let length = match received {
                Err(_would_block) => continue,
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(()),
                Ok(length) => length?,
            };
            let changes: Vec<Change> = netlink::messages(datagram.get(..length).unwrap_or_default())
                .filter_map(Change::parse)
                .collect();
            for change in changes {
                self.apply(change).await;
            }
            self.tell_missing().await;
        }
    }

    async fn apply(&mut self, change: Change) {
        let link = match change {
            Change::Gone(index) => {
                if let Some(known) = self.known.remove(&index) {
                    known.client.abort();
                    self.report.log(Level::Warning, format_args!("{}: adapter is gone", known.link.name));
                }
                return;
            }
            Change::Is(link) => link,
        };
        let (index, carrier) = (link.index, link.carrier);
        if !self.known.contains_key(&index) {
            if self.known.len() >= MOST_LINKS || !is_wired(&link.name) {
                return;
            }
            self.adopt(link);
        }
        let Some(known) = self.known.get_mut(&index) else { return };
        let was = known.carrier.send_replace(carrier);
        if was != carrier {
            let state = if carrier { "has a carrier" } else { "has lost its carrier" };
            self.report.log(Level::Info, format_args!("{}: {state}", known.link.name));
        }
        if carrier && !was {
            let _ = self.news.send(News::Carrier).await;
        }
    }

    fn adopt(&mut self, link: Link) {
        if let Err(error) = self.links.set_up(link.index) {
            self.report.log(Level::Error, format_args!("{}: cannot be brought up: {error}", link.name));
        }
        self.report.log(Level::Info, format_args!("{}: wired adapter {}", link.name, link.mac));
        let (carrier, changes) = watch::channel(false);
        let previous =
            self.previous.as_ref().filter(|(name, _)| *name == link.name).map(|(_, address)| *address);
        let client = lease::keep(link.clone(), previous, changes, self.news.clone(), Rc::clone(&self.report));
        self.known.insert(link.index, Known { link, carrier, client: tokio::task::spawn_local(client) });
    }

    async fn tell_missing(&self) {
        let names = |wanted: bool| {
            let some = self.known.values().filter(|known| *known.carrier.borrow() == wanted);
            some.map(|known| known.link.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let (with, without) = (names(true), names(false));
        let missing = match (with.is_empty(), without.is_empty()) {
            (true, true) => "a wired network adapter".to_owned(),
            (true, false) => format!("a carrier on {without} (cable, switch)"),
            (false, _) => format!("a DHCP lease on {with}"),
        };
        let _ = self.news.send(News::Missing(missing)).await;
    }
}
