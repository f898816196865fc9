//! Brings the kernel's network in line with what is wanted, and keeps it there while links come and go.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};

use crate::firewall;
use crate::kernel::{self, Kernel};
use crate::links::{self, Link, Settled, Wanted};
use crate::nft::{self, InterfaceName, Network, Table};
use crate::resolver;
use crate::uplink::{Report, State, Uplink};

/// What is wanted.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) cluster: Wanted,
    pub(crate) uplinks: Wanted,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    /// Where to write what resolv.conf(5) should say.
    pub(crate) resolver: Option<PathBuf>,
    /// The name to tell DHCP servers.
    pub(crate) host_name: Option<String>,
}

impl Settings {
    pub(crate) fn network(&self) -> Network {
        Network::of(self.address, self.prefix)
    }
}

/// Runs until the process is asked to stop. Everything that was set up stays in the kernel: a restart of this service must not
/// cut the nodes off from their root.
///
/// # Errors
/// When the kernel refuses what the head cannot be without: the cluster's address, the firewall, forwarding.
pub(crate) async fn run(settings: Settings, ctx: service::Context) -> anyhow::Result<()> {
    let (kernel, mut changes) = Kernel::open()?;
    let (reports, mut reported) = mpsc::channel(REPORTS_MAX);
    let mut head = Head::new(settings, kernel, reports, ctx.clone());
    let settled = Instant::now() + SETTLE;
    head.reconcile(Settled::NotYet).await?;
    let mut waiting = true;
    loop {
        tokio::select! {
            () = ctx.shutdown() => return Ok(()),
            // Nothing is lost by losing: changes wait in the socket, reports in the channel.
            change = changes.next() => {
                change.context("the kernel no longer reports changes of links")?;
                // One plug makes a dozen messages.
                sleep(CALM).await;
                while futures_util::FutureExt::now_or_never(changes.next()).flatten().is_some() {}
                let state = if waiting { Settled::NotYet } else { Settled::Yes };
                head.reconcile(state).await?;
            }
            report = reported.recv() => {
                let Report { name, state } = report.context("the uplinks have no voice")?;
                head.note(&name, state);
            }
            () = sleep_until(settled), if waiting => {
                waiting = false;
                head.reconcile(Settled::Yes).await?;
            }
        }
    }
}

struct Head {
    settings: Settings,
    kernel: Kernel,
    reports: mpsc::Sender<Report>,
    ctx: service::Context,
    cluster: Option<Link>,
    uplinks: BTreeMap<InterfaceName, Running>,
    table: Option<Table>,
    ready: bool,
    shown: String,
}

struct Running {
    link: Link,
    carrier: watch::Sender<bool>,
    task: AbortHandle,
    state: State,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Head {
    fn new(settings: Settings, kernel: Kernel, reports: mpsc::Sender<Report>, ctx: service::Context) -> Self {
        let (uplinks, cluster, table) = (BTreeMap::new(), None, None);
        Self { settings, kernel, reports, ctx, cluster, uplinks, table, ready: false, shown: String::new() }
    }

    /// Compares what there is with what is wanted, and acts. Rules come before the interfaces they are about.
    async fn reconcile(&mut self, settled: Settled) -> anyhow::Result<()> {
        let links = self.kernel.links().await?;
        let wanted = match &self.cluster {
            // Once chosen, it stays: a better one that appears later must not take the nodes' network away.
            Some(link) => Wanted::Named(vec![link.name.clone()]),
            None => self.settings.cluster.clone(),
        };
        let Some(cluster) = links::cluster(&links, &wanted, settled) else {
            self.ctx.status("waiting for the cluster's interface");
            return Ok(());
        };
        let uplinks = links::uplinks(&links, &self.settings.uplinks, &cluster.name);
        self.apply_rules(&cluster.name, &uplinks).await?;
        self.bring_up_cluster(cluster).await?;
        self.uplinks.retain(|name, running| {
            uplinks.iter().any(|link| link.name == *name && link.index == running.link.index)
        });
        for link in uplinks {
            match self.uplinks.get(&link.name) {
                Some(running) => drop(running.carrier.send_replace(link.carrier)),
                None => self.start_uplink(link),
            }
        }
        if !self.ready {
            self.ready = true;
            self.ctx.ready(self.summary());
        }
        self.publish();
        Ok(())
    }

    async fn apply_rules(&mut self, cluster: &InterfaceName, uplinks: &[&Link]) -> anyhow::Result<()> {
        let mut names: Vec<InterfaceName> = uplinks.iter().map(|link| link.name.clone()).collect();
        names.sort();
        let table = firewall::table(cluster, self.settings.network(), &names);
        if self.table.as_ref() == Some(&table) {
            return Ok(());
        }
        let wanted = table.clone();
        spawn_blocking(move || nft::apply(&wanted)).await.context("the rules were not applied")??;
        self.table = Some(table);
        // Only now: forwarding without rules would be a hole.
        kernel::switch("ipv4/ip_forward", "1")?;
        Ok(())
    }

    async fn bring_up_cluster(&mut self, link: &Link) -> anyhow::Result<()> {
        let is_new = self.cluster.as_ref().is_none_or(|known| known.index != link.index);
        if is_new {
            // A packet from the cluster that claims to be from elsewhere goes nowhere.
            kernel::switch(&format!("ipv4/conf/{}/rp_filter", link.name), "1")?;
            let Settings { address, prefix, .. } = self.settings;
            self.kernel.set_address(link.index, address, prefix, None).await?;
            self.kernel.keep_only(link.index, Some(address)).await?;
        }
        if is_new || !link.up {
            self.kernel.set_up(link.index).await?;
        }
        self.cluster = Some(link.clone());
        Ok(())
    }

    fn start_uplink(&mut self, link: &Link) {
        // With several uplinks an answer may come in by another one than its route leads out of: loose (RFC 3704 §2.4).
        if let Err(error) = kernel::switch(&format!("ipv4/conf/{}/rp_filter", link.name), "2") {
            tracing::warn!(link = link.name.as_str(), "{:#}", anyhow::Error::new(error));
        }
        let (carrier, carrier_changes) = watch::channel(link.carrier);
        let position = u32::try_from(self.uplinks.len()).unwrap_or(0);
        let uplink = Uplink {
            kernel: self.kernel.clone(),
            link: link.clone(),
            metric: METRIC_FIRST + position,
            cluster: self.settings.network(),
            host_name: self.settings.host_name.clone(),
            carrier: carrier_changes,
            reports: self.reports.clone(),
        };
        let task = tokio::spawn(uplink.run()).abort_handle();
        let running = Running { link: link.clone(), carrier, task, state: State::Asking };
        self.uplinks.insert(link.name.clone(), running);
    }

    /// Takes a report over, unless its uplink is gone by now.
    fn note(&mut self, name: &InterfaceName, state: State) {
        if let Some(running) = self.uplinks.get_mut(name)
            && running.state != state
        {
            running.state = state;
            self.publish();
        }
    }

    /// Status line and resolv.conf from what the uplinks have.
    fn publish(&mut self) {
        let summary = self.summary();
        if summary != self.shown {
            self.ctx.status(&summary);
            self.shown = summary;
        }
        let Some(path) = &self.settings.resolver else { return };
        let names = self.uplinks.values().filter_map(|running| match &running.state {
            State::Leased { names, .. } => Some(names),
            State::Asking | State::Overlaps { .. } => None,
        });
        if let Err(error) = resolver::write(path, &resolver::text(names)) {
            tracing::error!(file = %path.display(), %error, "cannot say where names are resolved");
        }
    }

    fn summary(&self) -> String {
        let mut text = String::new();
        if let Some(link) = &self.cluster {
            let cable = if link.carrier { "" } else { " (no carrier)" };
            let _ = write!(
                text,
                "cluster {} {}/{}{cable}",
                link.name, self.settings.address, self.settings.prefix
            );
        }
        if self.uplinks.is_empty() {
            text.push_str("; no uplink, so no NAT");
        }
        for (name, running) in &self.uplinks {
            let _ = match &running.state {
                State::Asking => write!(text, "; uplink {name} asks for an address"),
                State::Overlaps { address, prefix } => {
                    write!(text, "; uplink {name} unusable: {address}/{prefix} overlaps the cluster")
                }
                State::Leased { address, prefix, router: Some(router), .. } => {
                    write!(text, "; uplink {name} {address}/{prefix} via {router}")
                }
                State::Leased { address, prefix, router: None, .. } => {
                    write!(text, "; uplink {name} {address}/{prefix} without a router")
                }
            };
        }
        text
    }
}

/// A few for each uplink; a full channel makes the uplink wait, not the kernel.
const REPORTS_MAX: usize = 16;
/// USB adapters appear within two seconds of their bus.
const SETTLE: Duration = Duration::from_secs(4);
const CALM: Duration = Duration::from_millis(20);
/// Behind routes set by hand, which have 0.
const METRIC_FIRST: u32 = 100;
