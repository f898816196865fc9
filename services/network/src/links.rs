//! Which interface leads to the cluster and which lead away from it. Pure, but for [`place`].

use std::path::Path;

use dhcp::MacAddr;

use crate::nft::InterfaceName;

/// An Ethernet link, as the kernel and sysfs describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: InterfaceName,
    pub(crate) mac: MacAddr,
    pub(crate) up: bool,
    pub(crate) carrier: bool,
    /// Where the device sits; `None` for bridges, tunnels and radios.
    pub(crate) wired: Option<Place>,
}

/// Where a device sits. Sorted as preferred for the cluster: on-board and expansion buses before USB, then by path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    usb: bool,
    path: String,
}

impl Place {
    pub(crate) fn new(path: &str) -> Self {
        Self { usb: path.split('/').any(|part| part.starts_with("usb")), path: path.to_owned() }
    }
}

/// Which interfaces are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// What [`cluster`] and [`uplinks`] find.
    Automatic,
    /// These and no others; any kind of Ethernet.
    Named(Vec<InterfaceName>),
}

/// Whether all devices that are plugged in have had time to appear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    NotYet,
    Yes,
}

/// The interface that leads to the cluster.
///
/// A USB one is taken only when nothing better will appear: on a Pi 3 the on-board adapter is behind USB, on all others
/// USB means a dongle to the world outside, which must never get to see the cluster's boot servers.
pub(crate) fn cluster<'a>(links: &'a [Link], wanted: &Wanted, settled: Settled) -> Option<&'a Link> {
    match wanted {
        Wanted::Named(names) => links.iter().find(|link| names.contains(&link.name)),
        Wanted::Automatic => links
            .iter()
            .filter_map(|link| Some((link.wired.as_ref()?, link)))
            .filter(|(place, _)| !place.usb || settled == Settled::Yes)
            .min_by_key(|(place, _)| *place)
            .map(|(_, link)| link),
    }
}

/// The interfaces that lead away from the cluster, at most [`UPLINKS_MAX`], by place and name.
pub(crate) fn uplinks<'a>(links: &'a [Link], wanted: &Wanted, cluster: &InterfaceName) -> Vec<&'a Link> {
    let meant = |link: &Link| match wanted {
        Wanted::Named(names) => names.contains(&link.name),
        Wanted::Automatic => link.wired.is_some(),
    };
    let mut found: Vec<&Link> = links.iter().filter(|link| link.name != *cluster && meant(link)).collect();
    found.sort_by_key(|link| (&link.wired, &link.name));
    found.truncate(UPLINKS_MAX);
    found
}

/// Reads from sysfs where the device of an interface sits.
pub(crate) fn place(name: &InterfaceName) -> Option<Place> {
    let folder = Path::new("/sys/class/net").join(name.as_str());
    let radio = folder.join("wireless").exists() || folder.join("phy80211").exists();
    let device = std::fs::canonicalize(folder.join("device")).ok()?;
    (!radio).then(|| Place::new(&device.to_string_lossy()))
}

/// A Pi has one port and four USB sockets.
pub(crate) const UPLINKS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const PI4: &str = "/sys/devices/platform/scb/fd580000.ethernet";
    const PI3: &str = "/sys/devices/platform/soc/3f980000.usb/usb1/1-1/1-1.1/1-1.1:1.0";
    const DONGLE: &str = "/sys/devices/platform/soc/3f980000.usb/usb1/1-1/1-1.3/1-1.3:1.0";

    fn link(index: u32, name: &str, path: Option<&str>) -> Link {
        Link {
            index,
            name: name.parse().expect("a legal name"),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            up: true,
            carrier: true,
            wired: path.map(Place::new),
        }
    }

    fn name(text: &str) -> InterfaceName {
        text.parse().expect("a legal name")
    }

    fn chosen(links: &[Link], settled: Settled) -> Option<&str> {
        cluster(links, &Wanted::Automatic, settled).map(|link| link.name.as_str())
    }

    #[test]
    fn the_on_board_port_is_the_clusters_whatever_it_is_called() {
        let links = [link(2, "eth0", Some(DONGLE)), link(3, "eth1", Some(PI4))];
        assert_eq!(chosen(&links, Settled::Yes), Some("eth1"));
        let uplinks = uplinks(&links, &Wanted::Automatic, &name("eth1"));
        assert_eq!(uplinks.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["eth0"]);
    }

    #[test]
    fn a_usb_port_is_the_clusters_only_when_nothing_better_came() {
        let links = [link(2, "eth0", Some(DONGLE)), link(3, "eth1", Some(PI3))];
        assert_eq!(chosen(&links, Settled::NotYet), None);
        assert_eq!(chosen(&links, Settled::Yes), Some("eth1"));
    }

    #[test]
    fn of_two_expansion_cards_the_first_slot_is_the_clusters() {
        let slot =
            |number| format!("/sys/devices/platform/4010000000.pcie/pci0000:00/0000:00:0{number}.0/virtio1");
        let links = [link(2, "eth0", Some(&slot(2))), link(3, "eth1", Some(&slot(1)))];
        assert_eq!(chosen(&links, Settled::NotYet), Some("eth1"));
    }

    #[test]
    fn bridges_tunnels_and_radios_are_only_taken_by_name() {
        let links = [link(1, "br0", None), link(2, "eth0", Some(PI4)), link(3, "wlan0", None)];
        assert_eq!(chosen(&links, Settled::Yes), Some("eth0"));
        assert!(uplinks(&links, &Wanted::Automatic, &name("eth0")).is_empty());
        let wanted = Wanted::Named(vec![name("br0"), name("eth0")]);
        let found = uplinks(&links, &wanted, &name("eth0"));
        assert_eq!(found.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["br0"]);
        assert_eq!(cluster(&links, &Wanted::Named(vec![name("eth9")]), Settled::Yes), None);
    }

    #[test]
    fn more_uplinks_than_sockets_are_not_used() {
        let links: Vec<Link> =
            (1..9).map(|number| link(number, &format!("eth{number}"), Some(DONGLE))).collect();
        assert_eq!(uplinks(&links, &Wanted::Automatic, &name("eth0")).len(), UPLINKS_MAX);
    }
}
