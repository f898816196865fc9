//! The network service in a namespace of its own, against the real kernel, nft, ip and udhcpd.

mod world;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use world::{Place, World, missing};

const ONE_UPLINK: &str = include_str!("../golden/one-uplink.nft");
const ONE_INTERFACE: &str = include_str!("../golden/one-interface.nft");
const RULES: &str = "nft -s list ruleset";
const UPLINK: &str = "ip -4 -o address show dev eth1";

/// A world with the service running in it, or the word that it cannot be.
fn world() -> Option<World> {
    if let Some(tool) = missing() {
        println!("skipped: needs {tool}");
        return None;
    }
    Some(World::new())
}

fn leased(said: &str) -> bool {
    said.contains("198.51.100.50/24")
}

/// Ready, with the lease of the usual server.
fn connected_world() -> Option<World> {
    let mut world = world()?;
    world.start_dhcp("198.51.100.50", 600);
    world.start_head();
    world.await_head("the lease", UPLINK, leased);
    Some(world)
}

#[test]
fn the_kernels_rules_are_the_plan_to_the_letter() {
    let Some(mut world) = world() else { return };
    world.start_head();
    world.await_head("the rules", RULES, |said| said == ONE_UPLINK);
    assert_eq!(world.exec(Place::Head, RULES), ONE_UPLINK);
    let addresses = world.exec(Place::Head, "ip -4 -o address show dev eth0");
    assert!(addresses.contains("10.77.0.1/16 brd 10.77.255.255"), "{addresses}");
}

#[test]
fn rules_follow_an_uplink_that_goes_and_comes_back() {
    let Some(mut world) = connected_world() else { return };
    world.ip(Place::Head, "link delete eth1");
    world.await_head("rules without the uplink", RULES, |said| said == ONE_INTERFACE);
    world.plug();
    world.stop_dhcp();
    world.start_dhcp("198.51.100.50", 600);
    world.await_head("rules with the uplink", RULES, |said| said == ONE_UPLINK);
    world.await_head("the lease", UPLINK, leased);
}

#[test]
fn rules_of_others_are_left_alone_and_a_second_run_replaces_its_own() {
    let Some(mut world) = world() else { return };
    world.exec(Place::Head, "nft add table inet other");
    for _ in 0..2 {
        world.start_head();
        world.await_head("the rules", RULES, |said| said.contains("chain postrouting"));
        world.stop_head();
        let rules = world.exec(Place::Head, RULES);
        assert_eq!(rules.matches("table inet bramble").count(), 1, "{rules}");
        assert!(rules.contains("table inet other"), "{rules}");
    }
    let own = world.exec(Place::Head, "nft -s list table inet bramble");
    assert_eq!(own, ONE_UPLINK, "what was set up stays when the service ends");
}

#[test]
fn a_lease_becomes_address_route_and_name_servers() {
    let Some(world) = connected_world() else { return };
    world.await_head("the route", "ip -4 route show default", |said| {
        said.contains("via 198.51.100.1 dev eth1 proto dhcp src 198.51.100.50 metric 100")
    });
    world.await_head("the limit", UPLINK, |said| {
        said.contains("valid_lft 600sec") || said.contains("valid_lft 59")
    });
    let text = std::fs::read_to_string(world.resolver()).expect("resolv.conf is there");
    assert!(text.ends_with("search example.org\nnameserver 198.51.100.53\n"), "{text}");
}

#[test]
fn a_lease_is_renewed_lost_with_its_server_and_found_again() {
    let Some(mut world) = world() else { return };
    world.start_dhcp("198.51.100.50", 6);
    world.start_head();
    world.await_head("the lease", UPLINK, leased);
    // Twice its length: renewed by unicast, since nothing else would keep it.
    for _ in 0..12 {
        std::thread::sleep(Duration::from_secs(1));
        assert!(leased(&world.exec(Place::Head, UPLINK)), "the lease was not renewed");
    }
    world.stop_dhcp();
    world.await_head("the end of the lease", UPLINK, str::is_empty);
    assert_eq!(world.exec(Place::Head, "ip -4 route show default"), "");
    let text = std::fs::read_to_string(world.resolver()).expect("resolv.conf is there");
    assert!(!text.contains("nameserver"), "{text}");
    world.start_dhcp("198.51.100.50", 600);
    world.await_head("the lease after the outage", UPLINK, leased);
}

#[test]
fn after_a_restart_the_address_is_asked_for_again_and_never_missing() {
    let Some(mut world) = connected_world() else { return };
    world.stop_head();
    assert!(leased(&world.exec(Place::Head, UPLINK)));
    world.start_head();
    for _ in 0..20 {
        assert!(leased(&world.exec(Place::Head, UPLINK)));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn an_uplink_whose_network_is_the_clusters_is_not_used() {
    let Some(mut world) = world() else { return };
    world.ip(Place::Beyond, "address flush dev eth0");
    world.ip(Place::Beyond, "address add 10.77.9.1/24 dev eth0");
    world.start_dhcp("10.77.9.50", 600);
    world.start_head();
    world.await_head("the rules", RULES, |said| said == ONE_UPLINK);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(world.exec(Place::Head, UPLINK), "");
    assert_eq!(world.exec(Place::Head, "ip -4 route show default"), "");
}

#[test]
fn a_node_reaches_the_world_under_the_heads_address() {
    let Some(world) = connected_world() else { return };
    let server = world.enter(Place::Beyond, || {
        let listener = TcpListener::bind("198.51.100.1:8000").expect("a port");
        let (mut stream, peer) = listener.accept().expect("a client");
        stream.write_all(b"hello").expect("the client listens");
        peer.ip()
    });
    std::thread::sleep(Duration::from_millis(200));
    let node = world.enter(Place::Node, || {
        let mut stream = connect([198, 51, 100, 1], 8000).expect("the world is reached");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("the world answers");
        said
    });
    assert_eq!(node.join().expect("no panic"), "hello");
    assert_eq!(server.join().expect("no panic"), IpAddr::from([198, 51, 100, 50]));
}

#[test]
fn the_world_reaches_what_is_published_and_nothing_else() {
    let Some(world) = connected_world() else { return };
    // The route that an attacker on the uplink's network would set.
    world.ip(Place::Beyond, "route add 10.77.0.0/16 via 198.51.100.50");
    let ports = [80, 8081, 22, 10_809];
    let _listening = world
        .enter(Place::Head, move || ports.map(|port| TcpListener::bind(("0.0.0.0", port)).expect("a port")))
        .join()
        .expect("no panic");
    let _node = world
        .enter(Place::Node, || TcpListener::bind("0.0.0.0:80").expect("a port"))
        .join()
        .expect("no panic");
    let cases = [
        ([198, 51, 100, 50], 80, true),
        ([198, 51, 100, 50], 8081, true),
        ([198, 51, 100, 50], 22, false),
        ([198, 51, 100, 50], 10_809, false),
        ([10, 77, 0, 11], 80, false),
    ];
    for (address, port, reached) in cases {
        let outcome = world.enter(Place::Beyond, move || connect(address, port).is_ok()).join();
        assert_eq!(outcome.expect("no panic"), reached, "{address:?} {port}");
    }
    let from_node = world.enter(Place::Node, || connect([10, 77, 0, 1], 10_809).is_ok()).join();
    assert!(from_node.expect("no panic"), "the cluster reaches all of the head");
    world.exec(Place::Beyond, "ping -c 1 -W 2 198.51.100.50");
}

fn connect(address: [u8; 4], port: u16) -> std::io::Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::from(address), port));
    TcpStream::connect_timeout(&address, Duration::from_secs(2))
}
