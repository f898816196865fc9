//! Who this machine is: the keys `bramble.*` of the kernel command line (ARCHITECTURE.md).

use std::net::{Ipv4Addr, SocketAddrV4};

/// What the command line says, parsed into types that cannot be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmdline {
    /// Head or node, as it will stand in the machine facts.
    pub role: Role,
    /// SHA-256 of the root squashfs, 64 hex digits in lower case.
    pub image: String,
    /// Where the root is.
    pub root: Root,
    /// The head's cluster address; nodes only.
    pub server: Option<Ipv4Addr>,
    /// Board serial number, 8 hex digits, when the head knew it.
    pub serial: Option<String>,
    /// `bramble.log=debug`.
    pub debug: bool,
}

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Boots from its card and serves the others.
    Head,
    /// Boots from the head.
    Node,
}

/// Where the root squashfs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// Exported by an NBD server under the image id.
    Nbd(SocketAddrV4),
    /// A partition of the disk with this MBR signature.
    Card {
        /// Disk signature, offset 440 of the MBR.
        disk: u32,
        /// Partition number from 1.
        partition: u8,
    },
}

/// What is wrong with the command line: nothing can be done without the head being told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// A key that must be there.
    #[error("the kernel command line has no {0}")]
    Missing(&'static str),
    /// A value that cannot be used.
    #[error("the kernel command line has a bad value for {0}")]
    Bad(&'static str),
}

/// arm64's `COMMAND_LINE_SIZE`.
const LONGEST: usize = 2048;

impl Cmdline {
    /// Parses the text of `/proc/cmdline`. Of a repeated key the last one counts, as for the kernel.
    ///
    /// # Errors
    /// The first key that is missing or bad.
    pub fn parse(text: &str) -> Result<Self, CmdlineError> {
        let text = text.get(..LONGEST).unwrap_or(text);
        let get = |key: &str| text.split_ascii_whitespace().rev().find_map(|word| word.strip_prefix(key));
        let need = |key: &'static str| get(key).ok_or(CmdlineError::Missing(key));
        let role = match need("bramble.role=")? {
            "head" => Role::Head,
            "node" => Role::Node,
            _ => return Err(CmdlineError::Bad("bramble.role=")),
        };
        let image = hex(need("bramble.image=")?, 64).ok_or(CmdlineError::Bad("bramble.image="))?;
        let root = root(need("bramble.root=")?).ok_or(CmdlineError::Bad("bramble.root="))?;
        let server = match (get("bramble.server="), root) {
            (Some(text), _) => Some(text.parse().map_err(|_| CmdlineError::Bad("bramble.server="))?),
            (None, Root::Nbd(address)) => Some(*address.ip()),
            (None, Root::Card { .. }) => None,
        };
        // A wrong serial number is no reason to stay down: there are other sources for it.
        let serial = get("bramble.serial=").and_then(|text| hex(text, 8));
        Ok(Self { role, image, root, server, serial, debug: get("bramble.log=") == Some("debug") })
    }
}

/// Exactly so many hex digits, in lower case.
pub fn hex(text: &str, digits: usize) -> Option<String> {
    let legal = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    legal.then(|| text.to_ascii_lowercase())
}

fn root(text: &str) -> Option<Root> {
    if let Some(address) = text.strip_prefix("nbd:") {
        return address.parse().ok().map(Root::Nbd);
    }
    let (disk, partition) = text.strip_prefix("PARTUUID=")?.split_once('-')?;
    let disk = u32::from_str_radix(&hex(disk, 8)?, 16).ok()?;
    let partition = u8::from_str_radix(&hex(partition, 2)?, 16).ok()?;
    (partition > 0).then_some(Root::Card { disk, partition })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = "0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef";

    fn node(more: &str) -> String {
        format!("quiet bramble.role=node bramble.image={IMAGE} bramble.root=nbd:10.77.0.1:10809 {more}\n")
    }

    #[test]
    fn a_nodes_line_is_understood() {
        let cmdline =
            Cmdline::parse(&node("bramble.server=10.77.0.1 bramble.serial=1000ABCD")).expect("right");
        assert_eq!(cmdline.role, Role::Node);
        assert_eq!(cmdline.image, IMAGE.to_lowercase());
        assert_eq!(cmdline.root, Root::Nbd("10.77.0.1:10809".parse().expect("an address")));
        assert_eq!(cmdline.server, Some(Ipv4Addr::new(10, 77, 0, 1)));
        assert_eq!(cmdline.serial.as_deref(), Some("1000abcd"));
        assert!(!cmdline.debug);
    }

    #[test]
    fn a_heads_line_is_understood() {
        let text = format!("bramble.role=head bramble.image={IMAGE} bramble.root=PARTUUID=deadBEEF-02");
        let cmdline = Cmdline::parse(&text).expect("right");
        assert_eq!(cmdline.root, Root::Card { disk: 0xdead_beef, partition: 2 });
        assert_eq!(cmdline.server, None);
    }

    #[test]
    fn the_server_defaults_to_the_one_with_the_root_and_the_last_key_counts() {
        let cmdline = Cmdline::parse(&node("bramble.log=info bramble.log=debug")).expect("right");
        assert_eq!(cmdline.server, Some(Ipv4Addr::new(10, 77, 0, 1)));
        assert!(cmdline.debug);
    }

    #[test]
    fn a_bad_serial_number_does_not_keep_a_machine_down() {
        assert_eq!(Cmdline::parse(&node("bramble.serial=../../x")).expect("right").serial, None);
    }

    #[test]
    fn what_is_missing_or_bad_is_named() {
        for (text, expected) in [
            (String::new(), CmdlineError::Missing("bramble.role=")),
            (node("bramble.role=king"), CmdlineError::Bad("bramble.role=")),
            (node("bramble.image=12"), CmdlineError::Bad("bramble.image=")),
            (node("bramble.root=nbd:head:10809"), CmdlineError::Bad("bramble.root=")),
            (node("bramble.root=PARTUUID=deadbeef-00"), CmdlineError::Bad("bramble.root=")),
            (node("bramble.root=PARTUUID=deadbeef"), CmdlineError::Bad("bramble.root=")),
            (node("bramble.server=10.77.0"), CmdlineError::Bad("bramble.server=")),
        ] {
            assert_eq!(Cmdline::parse(&text), Err(expected), "{text}");
        }
    }
}
