//! Which board has which address.
//!
//! A board's identity is its Ethernet address: firmware and running system of one board share it, and Pi 3 ROMs show
//! nothing else that differs between boards. A binding lasts for ever; what ends is the lease on it. New boards get
//! the lowest address that nobody ever had; only when there is none left, the address whose lease ended first.
//!
//! Invariants: at most one board per address and one address per board; an address outside of the pools, reserved or
//! set aside is never bound.

use super::{Class, Record, Subnet};
use crate::MacAddr;
use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// Set aside for so long after a DECLINE: whoever squats there has likely gone by then.
const QUARANTINE: Duration = Duration::from_secs(3600);
/// Addresses set aside at once; then a DECLINE is not believed, so that no client can drain the pool.
const MAX_QUARANTINED: usize = 64;
/// ... and of a small pool not more than a quarter.
const QUARANTINED_SHARE: usize = 4;
/// A board that declines more often than this within [`QUARANTINE`] declines everything.
const MAX_DECLINES: u8 = 3;
/// Boards whose declines are counted at once.
const MAX_DECLINERS: usize = 256;

#[derive(Debug)]
pub(super) struct Binding {
    pub(super) mac: MacAddr,
    /// When the lease is over; the address stays this board's.
    pub(super) ends: Instant,
    /// Whether the board ever took the address: a REQUEST came, or it is a Pi, which may never send one.
    pub(super) confirmed: bool,
    /// The last DISCOVER's transaction and class. A Pi 4's REQUEST lacks option 60.
    pub(super) last: Option<(u32, Class)>,
    /// From option 97.
    pub(super) serial: Option<u32>,
    /// The neighbour entry stands until then.
    pub(super) pinned_until: Option<Instant>,
}

/// Why a board gets no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhausted;

#[derive(Debug)]
pub(super) struct Bindings {
    pools: Vec<Pool>,
    reserved: Vec<Ipv4Addr>,
    by_address: BTreeMap<Ipv4Addr, Binding>,
    by_mac: BTreeMap<MacAddr, Ipv4Addr>,
    /// Oldest first.
    quarantine: VecDeque<(Instant, Ipv4Addr)>,
    decliners: BTreeMap<MacAddr, (u8, Instant)>,
}

#[derive(Debug)]
struct Pool {
    first: u32,
    last: u32,
    /// Everything below is bound, reserved or set aside.
    cursor: u32,
}

impl Bindings {
    /// The table after a restart. How long the leases still run is not known (a Pi has no clock that survives a power
    /// cut), so each counts as granted just now. Of contradicting records the later one holds.
    pub(super) fn restore(
        subnets: &[Subnet],
        reserved: Vec<Ipv4Addr>,
        records: impl IntoIterator<Item = Record>,
        ends: Instant,
    ) -> Self {
        let pool = |s: &Subnet| Pool { first: s.first.into(), last: s.last.into(), cursor: s.first.into() };
        let mut table = Self {
            pools: subnets.iter().map(pool).collect(),
            reserved,
            by_address: BTreeMap::new(),
            by_mac: BTreeMap::new(),
            quarantine: VecDeque::new(),
            decliners: BTreeMap::new(),
        };
        for Record { address, mac } in records {
            if table.is_usable(address) && mac.is_station() {
                table.insert(address, Binding { confirmed: true, ..Binding::new(mac, ends) });
            }
        }
        table
    }

    pub(super) fn len(&self) -> usize {
        self.by_address.len()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        self.by_address.iter().map(|(address, binding)| Record { address: *address, mac: binding.mac })
    }

    pub(super) fn get(&self, address: Ipv4Addr) -> Option<&Binding> {
        self.by_address.get(&address)
    }

    pub(super) fn get_mut(&mut self, address: Ipv4Addr) -> Option<&mut Binding> {
        self.by_address.get_mut(&address)
    }

    pub(super) fn address_of(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        self.by_mac.get(&mac).copied()
    }

    /// The board's address in the pool, an old or a new one. A new one comes with the record to store.
    pub(super) fn bind(
        &mut self,
        pool: usize,
        mac: MacAddr,
        now: Instant,
    ) -> Result<(Ipv4Addr, Option<Record>), Exhausted> {
        if let Some(address) = self.address_of(mac).filter(|a| self.pool_of(*a) == Some(pool)) {
            return Ok((address, None));
        }
        self.end_quarantine(now);
        let address = self.lowest_free(pool).or_else(|| self.longest_over(pool, now)).ok_or(Exhausted)?;
        self.insert(address, Binding::new(mac, now));
        Ok((address, Some(Record { address, mac })))
    }

    /// Takes over an address that a board says it has and nobody else ever had: the leases were lost, the board's root
    /// file system hangs on the address.
    pub(super) fn adopt(
        &mut self,
        pool: usize,
        mac: MacAddr,
        address: Ipv4Addr,
        now: Instant,
    ) -> Option<Record> {
        self.end_quarantine(now);
        let free = self.is_usable(address)
            && self.pool_of(address) == Some(pool)
            && self.get(address).is_none()
            && !self.is_quarantined(address);
        if !free || self.address_of(mac).is_some() {
            return None;
        }
        self.insert(address, Binding::new(mac, now));
        Some(Record { address, mac })
    }

    /// Believes that somebody else uses the board's address, within limits. Answers whether it did.
    pub(super) fn decline(&mut self, mac: MacAddr, address: Ipv4Addr, now: Instant) -> bool {
        self.end_quarantine(now);
        if self.address_of(mac) != Some(address) {
            return false;
        }
        let size = self.pool_of(address).and_then(|index| self.pools.get(index)).map_or(0, Pool::size);
        if self.quarantine.len() >= MAX_QUARANTINED.min(size / QUARANTINED_SHARE) {
            return false;
        }
        self.decliners.retain(|_, (_, since)| now.saturating_duration_since(*since) < QUARANTINE);
        if self.decliners.len() >= MAX_DECLINERS && !self.decliners.contains_key(&mac) {
            return false;
        }
        let (count, _) = self.decliners.entry(mac).or_insert((0, now));
        if *count >= MAX_DECLINES {
            return false;
        }
        *count += 1;
        self.by_mac.remove(&mac);
        self.by_address.remove(&address);
        self.quarantine.push_back((now + QUARANTINE, address));
        true
    }

    fn insert(&mut self, address: Ipv4Addr, binding: Binding) {
        if let Some(former) = self.by_mac.insert(binding.mac, address).filter(|former| *former != address) {
            self.by_address.remove(&former);
            self.freed(former);
        }
        let mac = binding.mac;
        if let Some(former) = self.by_address.insert(address, binding).filter(|former| former.mac != mac) {
            self.by_mac.remove(&former.mac);
        }
    }

    fn lowest_free(&mut self, pool: usize) -> Option<Ipv4Addr> {
        let Pool { last, cursor, .. } = *self.pools.get(pool)?;
        let taken = |n: &u32| {
            let address = Ipv4Addr::from(*n);
            self.by_address.contains_key(&address)
                || self.reserved.contains(&address)
                || self.is_quarantined(address)
        };
        let free = (cursor..=last).find(|n| !taken(n));
        let pool = self.pools.get_mut(pool)?;
        // `last` never is the last address there is: that is the limited broadcast.
        pool.cursor = free.unwrap_or(last + 1);
        free.map(Ipv4Addr::from)
    }

    /// Never taken addresses go first, then the one whose lease ended first.
    fn longest_over(&self, pool: usize, now: Instant) -> Option<Ipv4Addr> {
        let Pool { first, last, .. } = self.pools.get(pool)?;
        self.by_address
            .range(Ipv4Addr::from(*first)..=Ipv4Addr::from(*last))
            .filter(|(_, binding)| binding.ends <= now)
            .min_by_key(|(_, binding)| (binding.confirmed, binding.ends))
            .map(|(address, _)| *address)
    }

    fn end_quarantine(&mut self, now: Instant) {
        while let Some(address) = super::pop_due(&mut self.quarantine, now) {
            self.freed(address);
        }
    }

    fn is_quarantined(&self, address: Ipv4Addr) -> bool {
        self.quarantine.iter().any(|(_, set_aside)| *set_aside == address)
    }

    fn freed(&mut self, address: Ipv4Addr) {
        if let Some(pool) = self.pool_of(address).and_then(|index| self.pools.get_mut(index)) {
            pool.cursor = pool.cursor.min(address.into());
        }
    }

    fn is_usable(&self, address: Ipv4Addr) -> bool {
        self.pool_of(address).is_some() && !self.reserved.contains(&address)
    }

    fn pool_of(&self, address: Ipv4Addr) -> Option<usize> {
        self.pools.iter().position(|pool| (pool.first..=pool.last).contains(&u32::from(address)))
    }
}

impl Pool {
    fn size(&self) -> usize {
        usize::try_from(self.last - self.first).unwrap_or(usize::MAX).saturating_add(1)
    }
}

impl Binding {
    fn new(mac: MacAddr, ends: Instant) -> Self {
        Self { mac, ends, confirmed: false, last: None, serial: None, pinned_until: None }
    }
}
