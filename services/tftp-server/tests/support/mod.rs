//! A server on a thread of its own, on a free port of the loopback.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::path::Path;

use clap::Parser;
use tftp_server::Args;
use tftp_server::listener::Listener;
use tftp_server::tree::{Folder, NodeTree, Tree};

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    args: Args,
}

/// Serves a folder; ends with the test.
pub fn serve(root: &Path, flags: &[&str]) -> SocketAddr {
    start(Tree::Folder(Folder::open(root).unwrap()), flags)
}

/// Serves boards from a boot partition's files; ends with the test.
pub fn serve_boards(boot: &Path) -> SocketAddr {
    let image = "ab".repeat(32);
    start(Tree::Nodes(NodeTree::new(boot, &image, [10, 77, 0, 1].into(), "info").unwrap()), &[])
}

fn start(tree: Tree, flags: &[&str]) -> SocketAddr {
    let line = ["tftp-server", "--root", "/"].iter().chain(flags);
    let args = CommandLine::parse_from(line).args;
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let address = "127.0.0.1:0".parse().unwrap();
            let listener = Listener::bind(address, tree, &args, bus::Reporter::disconnected()).unwrap();
            tell.send(listener.local_address()).unwrap();
            listener.serve().await.unwrap();
        });
    });
    told.recv().unwrap()
}
