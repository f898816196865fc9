//! The loop: wait for messages, the deadline or the end; call the machine; do what it says.
//!
//! One task. A batch is all that has come in, [`BATCH_MAX`] messages at most. When a batch makes new bindings, their
//! records are appended together and made durable once (on a blocking thread, so that reports go on), and only the
//! answers about those addresses wait for that. Meanwhile messages wait in the socket's buffer, a few hundred of them;
//! what does not fit is lost, and its sender asks again.
//!
//! A journal that cannot be written does not stop the service: boards that cannot boot are worse than numbers that may
//! change at the next power cut. It is said, and the whole journal is written anew as soon as that works.

use crate::{Journal, JournalError, neighbour::Neighbours, report, socket::Sockets};
use anyhow::Context as _;
use dhcp::{
    CLIENT_PORT, MacAddr, Message, SERVER_PORT,
    server::{Counters, Input, Output, Record, Reply, Server, To},
};
use nix::errno::Errno;
use std::{
    error::Error,
    io,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

/// Messages handled before the journal is made durable: one sync of an SD card takes up to a second or so, which 256
/// boards then share.
const BATCH_MAX: usize = 256;
/// How often the list of name servers is read again, and interface, status and a broken journal are seen to.
const CHORES_EVERY: Duration = Duration::from_secs(10);
/// A resolv.conf has some hundred octets.
const RESOLVERS_MAX_BYTES: u64 = 64 * 1024;

pub(crate) struct Driver {
    server: Server,
    /// None only while a blocking thread has it.
    journal: Option<Journal>,
    /// Whether records are missing in it.
    journal_broken: bool,
    sockets: Sockets,
    neighbours: Neighbours,
    reporter: bus::Reporter,
    resolvers: Option<&'static Path>,
    undecodable: u64,
    unsent: u64,
    status_said: (usize, Counters),
}

impl Driver {
    pub(crate) fn new(
        server: Server,
        journal: Journal,
        sockets: Sockets,
        neighbours: Neighbours,
        reporter: bus::Reporter,
        resolvers: Option<&'static Path>,
    ) -> Self {
        let status_said = (server.bound(), server.counters());
        Self {
            server,
            journal: Some(journal),
            journal_broken: false,
            sockets,
            neighbours,
            reporter,
            resolvers,
            undecodable: 0,
            unsent: 0,
            status_said,
        }
    }

    pub(crate) async fn run(mut self, ctx: &service::Context) -> anyhow::Result<()> {
        self.read_resolvers();
        let mut chores = tokio::time::interval(CHORES_EVERY);
        chores.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let deadline = self.server.deadline();
            tokio::select! {
                // Readiness stays until the socket is read.
                ready = self.sockets.readable() => {
                    ready.context("the socket is gone")?;
                    self.take_messages()?;
                }
                // The machine knows its deadline; it is asked again.
                () = until(deadline) => self.server.expire(Instant::now()),
                // A lost tick comes again.
                _ = chores.tick() => self.do_chores(ctx).await?,
                // The flag stays set.
                () = ctx.shutdown() => break,
            }
            self.do_outputs().await?;
        }
        let counters = self.server.counters();
        tracing::info!(boards = self.server.bound(), ?counters, undecodable = self.undecodable, "stopped");
        Ok(())
    }

    fn take_messages(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        for _ in 0..BATCH_MAX {
            let Some(bytes) = self.sockets.receive().context("cannot receive")? else { break };
            match Message::decode(&bytes) {
                Ok(message) => self.server.receive(Input::Message(&message), now),
                Err(error) => {
                    self.undecodable += 1;
                    tracing::trace!(%error, "not a DHCP message");
                }
            }
        }
        Ok(())
    }

    /// Does everything the machine wants done; what depends on new records once they are durable.
    async fn do_outputs(&mut self) -> anyhow::Result<()> {
        let mut stored: Vec<Record> = Vec::new();
        let mut waiting = Vec::new();
        while let Some(output) = self.server.transmit() {
            match output {
                Output::Store(record) => stored.push(record),
                output if is_about(&output, &stored) => waiting.push(output),
                output => self.do_output(output)?,
            }
        }
        if !stored.is_empty() {
            self.store(stored).await?;
        }
        for output in waiting {
            self.do_output(output)?;
        }
        Ok(())
    }

    fn do_output(&mut self, output: Output) -> anyhow::Result<()> {
        match output {
            Output::Reply(reply) => return self.send(&reply),
            Output::Wake(address) => {
                let outcome = self.sockets.send_who_has(address);
                return self.note(outcome);
            }
            Output::Pin(record) => self.neighbours.pin(record),
            Output::Unpin(address) => self.neighbours.unpin(address),
            Output::Seen(sighting) => {
                let (kind, mac, class) = (sighting.kind, sighting.mac, sighting.class);
                let ip = sighting.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
                tracing::debug!(?kind, %mac, %ip, %class, "seen");
                self.reporter.report(report::event(&sighting));
            }
            Output::Exhausted(mac) => tracing::error!(%mac, "every address is in use: a board gets none"),
            Output::Store(_) => {}
        }
        Ok(())
    }

    fn send(&mut self, reply: &Reply) -> anyhow::Result<()> {
        let payload = match reply.message.encode_within(reply.limit) {
            Ok(payload) => payload,
            Err(error) => {
                self.unsent += 1;
                tracing::debug!(%error, "answer does not fit");
                return Ok(());
            }
        };
        let outcome = match reply.to {
            To::Station { address, mac } => self.sockets.send_frame(address, mac, &payload),
            To::Broadcast => self.sockets.send_frame(Ipv4Addr::BROADCAST, MacAddr::BROADCAST, &payload),
            To::Client(address) => self.sockets.send_datagram(address, CLIENT_PORT, &payload),
            To::Relay(address) => self.sockets.send_datagram(address, SERVER_PORT, &payload),
        };
        self.note(outcome)
    }

    /// A frame that cannot be sent is one more lost frame; without the interface there is no service.
    fn note(&mut self, outcome: io::Result<()>) -> anyhow::Result<()> {
        let Err(error) = outcome else { return Ok(()) };
        let code = error.raw_os_error().map(Errno::from_raw);
        if matches!(code, Some(Errno::ENXIO | Errno::ENODEV)) {
            return Err(error).with_context(|| format!("interface {} is gone", self.sockets.interface()));
        }
        self.unsent += 1;
        tracing::debug!(%error, "cannot send");
        Ok(())
    }

    async fn store(&mut self, records: Vec<Record>) -> anyhow::Result<()> {
        for Record { address, mac } in &records {
            tracing::info!(%mac, ip = %address, "a board has its address");
        }
        if self.journal_broken {
            // The next whole journal will have them.
            return Ok(());
        }
        let bound = self.server.bound();
        let all: Vec<Record> =
            match self.journal.as_ref().is_some_and(|journal| journal.wants_compaction(bound)) {
                true => self.server.records().collect(),
                false => Vec::new(),
            };
        let outcome = self.with_journal(move |journal| match all.is_empty() {
            true => journal.append(&records),
            false => journal.compact(&all),
        });
        if let Err(error) = outcome.await? {
            self.journal_broken = true;
            tracing::error!(
                error = &error as &dyn Error,
                "addresses given from now on may change at the next power cut"
            );
        }
        Ok(())
    }

    async fn do_chores(&mut self, ctx: &service::Context) -> anyhow::Result<()> {
        self.sockets.check_interface()?;
        self.read_resolvers();
        if self.journal_broken {
            let all: Vec<Record> = self.server.records().collect();
            match self.with_journal(move |journal| journal.compact(&all)).await? {
                Ok(()) => {
                    self.journal_broken = false;
                    tracing::info!("the journal of leases is whole again");
                }
                Err(error) => tracing::debug!(%error, "the journal of leases is still broken"),
            }
        }
        let status = (self.server.bound(), self.server.counters());
        if status != self.status_said {
            self.status_said = status;
            let (bound, counters) = status;
            let refused =
                counters.ignored + counters.exhausted + counters.declines_refused + self.undecodable;
            ctx.status(format_args!("{bound} boards; {refused} messages refused, {} not sent", self.unsent));
        }
        Ok(())
    }

    /// Runs one operation of the journal on a blocking thread and waits for it.
    async fn with_journal(
        &mut self,
        operation: impl FnOnce(&mut Journal) -> Result<(), JournalError> + Send + 'static,
    ) -> anyhow::Result<Result<(), JournalError>> {
        let mut journal = self.journal.take().context("the journal is with one thread at a time")?;
        let (journal, outcome) = tokio::task::spawn_blocking(move || {
            let outcome = operation(&mut journal);
            (journal, outcome)
        })
        .await
        .context("the journal's thread ended")?;
        self.journal = Some(journal);
        Ok(outcome)
    }

    fn read_resolvers(&mut self) {
        use std::io::Read;
        let Some(file) = self.resolvers.and_then(|path| std::fs::File::open(path).ok()) else { return };
        let mut text = String::new();
        if file.take(RESOLVERS_MAX_BYTES).read_to_string(&mut text).is_ok() {
            self.server.receive(Input::DnsServers(&name_servers(&text)), Instant::now());
        }
    }
}

/// The name servers of a resolv.conf that others can ask, too.
fn name_servers(text: &str) -> Vec<Ipv4Addr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.trim().parse().ok()).filter(|ip: &Ipv4Addr| !ip.is_loopback()).collect()
}

fn is_about(output: &Output, records: &[Record]) -> bool {
    let address = match output {
        Output::Reply(reply) => Some(reply.message.yiaddr),
        Output::Seen(sighting) => sighting.address,
        Output::Wake(address) | Output::Unpin(address) => Some(*address),
        Output::Pin(record) | Output::Store(record) => Some(record.address),
        Output::Exhausted(_) => None,
    };
    address.is_some_and(|address| records.iter().any(|record| record.address == address))
}

/// Never, when there is no deadline. Cancel-safe.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_the_head_that_nodes_can_ask_are_found() {
        let text = "# made by network\nsearch lan\nnameserver 10.0.2.3\nnameserver 127.0.0.53\nnameserver fe80::1\n\
                    nameserver\t192.168.1.1 \noptions edns0\nnameserver\n";
        assert_eq!(name_servers(text), [Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(192, 168, 1, 1)]);
    }
}
