//! The DHCP server of the head: addresses that stay, and what a board's firmware needs to boot from here.
//!
//! The protocol and every decision are in [`dhcp::server`]; this crate adds sockets ([`socket`]), the journal that
//! bindings survive restarts and power cuts in ([`journal`]), neighbour entries for boards that do not answer ARP
//! ([`neighbour`]), and reports to the cluster's state over D-Bus.
//!
//! Specification: RFC 2131 and those named in `dhcp`; the quirks of Pi and UEFI firmware at the place they are met.
//!
//! *Not supported*: more than one interface per process; DHCPv6; reloading of settings (init restarts the service).
//!
//! Rights: `CAP_NET_BIND_SERVICE` for port 67 and `CAP_NET_RAW` for frames; with `CAP_NET_ADMIN` neighbour entries
//! too, without it those are left out and that is said once.
//!
//! To watch it: `bramble logs dhcp-server`, `bramble.log=debug` for every message; the journal is a text file.

mod driver;
mod journal;
mod neighbour;
mod report;
mod settings;
mod socket;

pub use journal::{Journal, JournalError};
pub use settings::Args;

use anyhow::Context as _;
use dhcp::server::Server;
use std::time::Instant;

/// Serves until the process is asked to stop.
///
/// # Errors
/// When settings make no sense, the interface lacks the address, the port or the right to send frames is refused, or the
/// journal can be neither read nor made.
pub async fn run(args: Args, ctx: service::Context) -> anyhow::Result<()> {
    let settings = args.resolve()?;
    let sockets = socket::Sockets::open(settings.interface.as_deref(), settings.server)?;
    let (mut journal, records) = Journal::open(&settings.leases)
        .with_context(|| format!("cannot use the leases in {}", settings.leases.display()))?;
    let known = records.len();
    let server = Server::new(settings.dhcp, records, Instant::now());
    if journal.wants_compaction(server.bound()) {
        let records: Vec<_> = server.records().collect();
        // On a full disk the journal stays as it is, which is good enough.
        if let Err(error) = journal.compact(&records) {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot shorten the journal of leases");
        }
    }
    tracing::info!(known, interface = sockets.interface(), address = %settings.server, "serving");
    let neighbours = neighbour::Neighbours::start(sockets.interface_index());
    let reporter = match settings.machine {
        true => bus::Reporter::start("dhcp-server"),
        false => bus::Reporter::disconnected(),
    };
    ctx.ready(format_args!("{} on {}, {known} known boards", settings.pool, sockets.interface()));
    let driver = driver::Driver::new(server, journal, sockets, neighbours, reporter, settings.resolvers);
    driver.run(&ctx).await
}
