use super::*;
use crate::balancer::Limits;
use bus::zbus;
use tokio::time::timeout;

fn reported(name: &str, address: &str) -> bus::Backend {
    bus::Backend { name: name.into(), address: address.into() }
}

fn node(number: u8) -> bus::Backend {
    reported(&format!("node-{number}"), &format!("10.77.0.{}:80", 10 + number))
}

#[test]
fn a_report_replaces_the_last_and_leaves_out_what_is_no_address() {
    let (sender, mut receiver) = watch::channel(Vec::new());
    publish(&sender, &[node(1), reported("node-2", "nowhere")]);
    let known = receiver.borrow_and_update().clone();
    assert_eq!(known, [Backend { name: "node-1".into(), address: ([10, 77, 0, 11], 80).into() }]);
    publish(&sender, &[node(1)]);
    assert!(!receiver.has_changed().expect("the sender lives"), "nothing new was said");
    publish(&sender, &[]);
    assert!(receiver.borrow_and_update().is_empty());
}

/// What the cluster state service shows on the bus, as far as the balancer looks at it.
struct Cluster(Vec<bus::Backend>);

#[zbus::interface(name = "org.bramble.Cluster1")]
impl Cluster {
    fn backends(&self) -> Vec<bus::Backend> {
        self.0.clone()
    }

    #[zbus(signal)]
    async fn backends_changed(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        backends: Vec<bus::Backend>,
    ) -> zbus::Result<()>;
}

/// A broker in a process of its own, so that its end is that of all its connections: this test program again, running the
/// one test below.
struct Broker(std::process::Child);

const BROKER_ADDRESS: &str = "BRAMBLE_TEST_BUS";

#[test]
fn broker_process() {
    // Run as a test like any other, there is nothing to do.
    let Ok(address) = std::env::var(BROKER_ADDRESS) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        let mut broker = busd::bus::Bus::for_address(Some(&address)).await.expect("the broker listens");
        let _ = broker.run().await;
    });
}

impl Broker {
    async fn start(address: &str) -> Self {
        let program = std::env::current_exe().expect("a program knows its file");
        let child = std::process::Command::new(program)
            .args(["--exact", "membership::tests::broker_process"])
            .env(BROKER_ADDRESS, address)
            .stdout(std::process::Stdio::null())
            .spawn();
        let broker = Self(child.expect("the broker starts"));
        let connected = async {
            while bus::connect_to(address, "probe").await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), connected).await.expect("the broker answers");
        broker
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start_cluster(address: &str, backends: Vec<bus::Backend>) -> zbus::Connection {
    let builder = bus::builder(address, "cluster").expect("a legal address");
    builder.serve_at(bus::CLUSTER_PATH, Cluster(backends)).build().await.expect("the bus takes the service")
}

async fn say(connection: &zbus::Connection, backends: Vec<bus::Backend>) {
    let emitter =
        zbus::object_server::SignalEmitter::new(connection, bus::CLUSTER_PATH).expect("a legal path");
    Cluster::backends_changed(&emitter, backends).await.expect("the bus takes the signal");
}

async fn until(members: &mut watch::Receiver<Vec<Backend>>, numbers: &[u8]) {
    let expected: Vec<Backend> =
        numbers.iter().map(|&number| parse(&node(number)).expect("an address")).collect();
    let waiting = members.wait_for(|known| *known == expected);
    let outcome = timeout(Duration::from_secs(10), waiting).await.map(|known| known.is_ok());
    assert_eq!(outcome, Ok(true), "waited for {numbers:?}");
}

#[tokio::test]
async fn news_comes_over_the_bus_and_the_last_of_it_outlives_cluster_and_bus() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("bus");
    let address: &'static str = format!("unix:path={}", socket.display()).leak();
    let limits = Limits { response: Duration::from_secs(1), idle: Duration::from_secs(1) };
    // The balancer is there first, as after a restart of everything else.
    let mut members = from_bus(address, Arc::new(Balancer::new(limits)), Entrance::new(16));
    let broker = Broker::start(address).await;
    let cluster = start_cluster(address, vec![node(1)]).await;
    until(&mut members, &[1]).await;
    say(&cluster, vec![node(1), node(2)]).await;
    until(&mut members, &[1, 2]).await;

    cluster.close().await.expect("the cluster service goes");
    sleep(Duration::from_millis(300)).await;
    until(&mut members, &[1, 2]).await;
    let cluster = start_cluster(address, vec![node(3)]).await;
    until(&mut members, &[3]).await;

    let shown = cluster
        .call_method(
            Some("org.bramble.LoadBalancer"),
            Control::PATH,
            Some("org.bramble.LoadBalancer1"),
            "Members",
            &(),
        )
        .await
        .expect("the balancer shows its members");
    assert_eq!(shown.body().signature().to_string(), "a(sssutt)");

    drop(broker);
    drop(cluster);
    std::fs::remove_file(&socket).expect("the dead broker's socket is there");
    sleep(Duration::from_millis(300)).await;
    until(&mut members, &[3]).await;
    let _broker = Broker::start(address).await;
    let _cluster = start_cluster(address, vec![node(4)]).await;
    until(&mut members, &[4]).await;
}
