//! What a fuzzer does with its bytes: one function per decoder of hostile input.
//!
//! Each takes any bytes and panics when a promise is broken: that nothing panics, and what the function itself asserts
//! (what was decoded is encoded back, lengths add up, tables stay bounded, deadlines move on, every machine ends).
//! `tests/fuzz` runs them under libFuzzer; `tests/seeds.rs` here runs each over its seeds and 20,000 mutations of
//! them on every `./bramble test`, so that no target can rot.
//!
//! Pure modules of programs (`init`, `netroot`) and of services (`storage`, `load-balancer`) are compiled in by path: a
//! dependency would bring their drivers, and make public what only they need.
//!
//! *Not fuzzed here*: HTTP framing and D-Bus, which are hyper's and zbus' to decode, and what the kernel says over netlink.

mod boot;
mod card;
mod dhcp_machines;
mod dhcp_messages;
mod input;
mod json;
mod nbd;
mod proxy;
mod storage;
mod text;
mod tftp;

// The folder is named, not the file, so that what lies beneath `head` is found where it is.
#[allow(dead_code)]
#[path = "../../../services/load-balancer/src/proxy"]
mod load_balancer {
    pub(crate) mod head;
}
// `init/src/request.rs` finds its neighbour as `crate::supervisor`.
#[allow(dead_code)]
#[path = "../../../init/src/request.rs"]
mod request;
#[allow(dead_code)]
#[path = "../../../init/src/supervisor/mod.rs"]
mod supervisor;

/// A target: its name, which is that of its corpus and of its libFuzzer program, and what it does.
pub type Target = (&'static str, fn(&[u8]));

macro_rules! targets {
    ($($module:ident: $($name:ident),+;)+) => {
        $(pub use $module::{$($name),+};)+
        /// Every target.
        pub const TARGETS: &[Target] = &[$($((stringify!($name), $name)),+),+];
    };
}

targets! {
    dhcp_messages: dhcp_message, dhcp_frame;
    dhcp_machines: dhcp_server, dhcp_client;
    tftp: tftp_packet, tftp_server, tftp_client;
    nbd: nbd_client, nbd_server, nbd_request;
    boot: pi_boot_config, pi_boot_names, pi_boot_sequence;
    card: card_image;
    storage: partition_table, ext4_superblock;
    text: config_toml, machine_facts, kernel_command_line, init_request, module_files;
    json: api_json;
    proxy: proxy_head;
}
