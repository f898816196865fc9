//! Resolved settings: what is in force once a file has been read.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::error::ConfigErrors;
use crate::{CONFIG_MAX_BYTES, CONFIG_PATH, raw};

/// All settings of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[cluster]`: the network that the nodes are on.
    pub cluster: Cluster,
    /// `[uplink]`: the network beyond the head.
    pub uplink: Uplink,
    /// `[api]`: who may give orders.
    pub api: Api,
    /// `[log]`: how much is written.
    pub log: Log,
}

/// The network that the nodes are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `interface`: where the cluster's switch is.
    pub interface: Interface,
    /// `address`: the head's address; never the network's or the broadcast address.
    pub address: Ipv4Addr,
    /// `address`: length of the prefix, 8 to 29.
    pub prefix: u8,
    /// `nodes`: the address of node-1.
    pub first_node: Ipv4Addr,
    /// `nodes`: the last address given to a node; not before `first_node`.
    pub last_node: Ipv4Addr,
    /// `lease-time`: two minutes to a week.
    pub lease_time: Duration,
}

/// The network beyond the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// `interface`; automatic means every one that is not the cluster's.
    pub interface: Interface,
}

/// Who may give orders.
#[derive(Clone, PartialEq, Eq)]
pub struct Api {
    /// `token`: 16 to 128 printable characters; without one, orders are refused.
    pub token: Option<String>,
}

/// A token never reaches a log.
impl fmt::Debug for Api {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = if self.token.is_some() { "set" } else { "none" };
        formatter.debug_struct("Api").field("token", &token).finish()
    }
}

/// How much is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `level` of head and nodes.
    pub level: Level,
}

/// Which interface is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Whatever the head finds.
    Automatic,
    /// The one of this name, 1 to 15 bytes.
    Named(String),
}

/// A log level, as tracing names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// The level's name as it is written in the file and on the kernel command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace]
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or(())
    }
}

/// Why the configuration in force could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than [`CONFIG_MAX_BYTES`].
    #[error("{path} is larger than {CONFIG_MAX_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// The file has mistakes.
    #[error(transparent)]
    Mistakes(#[from] ConfigErrors),
}

impl Default for Config {
    fn default() -> Self {
        raw::parse("").expect("an empty file leaves every default, and a test reads it")
    }
}

impl Config {
    /// Reads a whole file.
    ///
    /// # Errors
    /// Every mistake in it, with line and column.
    pub fn parse(text: &str) -> Result<Self, ConfigErrors> {
        raw::parse(text)
    }

    /// Reads the configuration in force on this head, which `storage` has put in place.
    ///
    /// # Errors
    /// When it is not there or not right; `storage` never leaves it so.
    pub fn load() -> Result<Self, LoadError> {
        Self::load_from(Path::new(CONFIG_PATH))
    }

    /// Reads a configuration from any place.
    ///
    /// # Errors
    /// When it cannot be read, is too large, or has mistakes.
    pub fn load_from(path: &Path) -> Result<Self, LoadError> {
        use std::io::Read;
        let name = || path.display().to_string();
        let read = |source| LoadError::Read { path: name(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(read)?;
        file.take(CONFIG_MAX_BYTES + 1).read_to_string(&mut text).map_err(read)?;
        if text.len() as u64 > CONFIG_MAX_BYTES {
            return Err(LoadError::TooLarge { path: name() });
        }
        Ok(Self::parse(&text)?)
    }
}

impl Cluster {
    /// The number of the node with this address: 1 for the first. `None` outside of the nodes' range.
    pub fn node_number(&self, address: Ipv4Addr) -> Option<u32> {
        (self.first_node..=self.last_node)
            .contains(&address)
            .then(|| u32::from(address) - u32::from(self.first_node) + 1)
    }

    /// `node-1` for the first address of the range.
    pub fn node_name(&self, address: Ipv4Addr) -> Option<String> {
        self.node_number(address).map(|number| format!("node-{number}"))
    }

    /// True when the address is on the cluster's network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.address)) & mask(self.prefix) == 0
    }

    /// The network's mask as an address.
    pub fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from(mask(self.prefix))
    }

    /// The network's broadcast address.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | !mask(self.prefix))
    }
}

/// The network bits of a prefix of 0 to 32 bits.
pub(crate) fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}
