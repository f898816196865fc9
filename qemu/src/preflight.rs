//! What must be so before a cluster is started, checked before anything is touched.
//!
//! Each check says in one line what is wrong and what to do.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::Settings;
use crate::machine::command_line::TRANSLATION_CACHE_MIB;

/// The first version with `-netdev stream` over unix sockets.
const OLDEST_QEMU: (u32, u32) = (7, 2);

/// QEMU itself beside guest memory and translated code: measured with 7.2, of which half is the unpacked kernel.
const QEMU_OVERHEAD_MIB: u64 = 100;

/// Why a cluster cannot be started here.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// No QEMU.
    #[error("{program} cannot be started ({source}): install it with `apt install {package}`")]
    Missing {
        /// What was tried.
        program: String,
        /// Who ships it in Debian.
        package: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An old QEMU.
    #[error("{program} says {said:?}; QEMU {}.{} or newer is needed", OLDEST_QEMU.0, OLDEST_QEMU.1)]
    TooOld {
        /// What was asked.
        program: PathBuf,
        /// Its first line.
        said: String,
    },
    /// No image.
    #[error("there is no image at {0}: build it with `./bramble image`")]
    NoImage(PathBuf),
    /// A card smaller than the image.
    #[error(
        "the image has {image_mib} MiB and does not fit a card of {card_mib} MiB: give a bigger --card-size"
    )]
    CardTooSmall {
        /// Of head.img, rounded up.
        image_mib: u64,
        /// As asked for.
        card_mib: u64,
    },
    /// Somebody listens.
    #[error("port {port} of 127.0.0.1 is not free ({source}): choose another with {option}")]
    Port {
        /// Which port.
        port: u16,
        /// How to choose another.
        option: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The same port twice.
    #[error("port {0} is asked for twice")]
    PortTwice(u16),
    /// Not enough free memory.
    #[error(
        "{machines} machines need about {needed_mib} MiB of memory and {available_mib} MiB are available: \
         take fewer --nodes, or less --memory-head and --memory-node"
    )]
    Memory {
        /// Head and nodes.
        machines: u64,
        /// By all of them, with QEMU's own.
        needed_mib: u64,
        /// `MemAvailable`.
        available_mib: u64,
    },
}

/// Checks everything.
///
/// # Errors
/// The first thing that is not so.
pub fn check(settings: &Settings) -> Result<(), PreflightError> {
    check_image(settings)?;
    check_qemu(&settings.qemu)?;
    run(Path::new("setpriv"), "util-linux")?;
    check_ports(settings)?;
    // A system without /proc/meminfo is not one this check can speak for.
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match available_mib(&meminfo) {
        Some(available) => check_memory(settings, available),
        None => Ok(()),
    }
}

fn check_image(settings: &Settings) -> Result<(), PreflightError> {
    let image = settings.image();
    let metadata = std::fs::metadata(&image).map_err(|_| PreflightError::NoImage(image))?;
    let image_mib = metadata.len().div_ceil(1 << 20);
    let card_mib = settings.card_size_mib;
    if image_mib > card_mib { Err(PreflightError::CardTooSmall { image_mib, card_mib }) } else { Ok(()) }
}

fn check_qemu(program: &Path) -> Result<(), PreflightError> {
    let said = run(program, "qemu-system-arm")?;
    match version(&said) {
        Some(version) if version >= OLDEST_QEMU => Ok(()),
        _ => Err(PreflightError::TooOld { program: program.to_owned(), said }),
    }
}

/// The first line of `program --version`.
fn run(program: &Path, package: &'static str) -> Result<String, PreflightError> {
    let output = Command::new(program).arg("--version").output().map_err(|source| {
        PreflightError::Missing { program: program.display().to_string(), package, source }
    })?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

/// Major and minor of "QEMU emulator version 7.2.22 (Debian ...)".
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.strip_prefix("QEMU emulator version ")?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn check_ports(settings: &Settings) -> Result<(), PreflightError> {
    let mut ports = vec![(settings.http, "--http"), (settings.dashboard, "--dashboard")];
    ports.extend(settings.forwards.iter().map(|forward| (forward.host, "--forward")));
    let mut held = Vec::new();
    for (port, option) in &ports {
        if ports.iter().filter(|(other, _)| other == port).count() > 1 {
            return Err(PreflightError::PortTwice(*port));
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *port))
            .map_err(|source| PreflightError::Port { port: *port, option, source })?;
        held.push(listener);
    }
    Ok(())
}

fn check_memory(settings: &Settings, available_mib: u64) -> Result<(), PreflightError> {
    let nodes = u64::from(settings.nodes);
    let machines = nodes + 1;
    let own = QEMU_OVERHEAD_MIB + u64::from(TRANSLATION_CACHE_MIB);
    let needed_mib =
        u64::from(settings.memory_head_mib) + nodes * u64::from(settings.memory_node_mib) + machines * own;
    if needed_mib > available_mib {
        return Err(PreflightError::Memory { machines, needed_mib, available_mib });
    }
    Ok(())
}

/// `MemAvailable` of /proc/meminfo (proc(5)).
fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 10.0.50 (v10.0.0-rc1)"), Some((10, 0)));
        assert!(version("QEMU emulator version 10.0.2") >= Some(OLDEST_QEMU));
        assert!(version("QEMU emulator version 6.9.0") < Some(OLDEST_QEMU));
        assert_eq!(version("Usage: qemu"), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn available_memory_is_read_from_meminfo() {
        assert_eq!(available_mib("MemTotal: 9 kB\nMemFree: 8 kB\nMemAvailable:   2048 kB\n"), Some(2));
        assert_eq!(available_mib("MemTotal: 9 kB\n"), None);
        assert_eq!(available_mib("MemAvailable: lots\n"), None);
    }

    #[test]
    fn too_little_memory_is_said_in_one_line_with_both_figures() {
        let mut settings = Settings::new("out".into(), "run".into());
        settings.nodes = 3;
        let error = check_memory(&settings, 100).unwrap_err().to_string();
        assert!(error.contains("4 machines") && error.contains("100 MiB are available"), "{error}");
        assert_eq!(error.lines().count(), 1);
        assert!(check_memory(&settings, 64 << 10).is_ok());
    }

    #[test]
    fn a_port_in_use_names_the_option_that_changes_it() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut settings = Settings::new("out".into(), "run".into());
        settings.http = free;
        settings.dashboard = taken.local_addr().unwrap().port();
        let error = check_ports(&settings).unwrap_err().to_string();
        assert!(error.contains("--dashboard") && error.contains("not free"), "{error}");
    }

    #[test]
    fn the_same_port_twice_is_refused() {
        let mut settings = Settings::new("out".into(), "run".into());
        settings.dashboard = settings.http;
        assert!(
            matches!(check_ports(&settings), Err(PreflightError::PortTwice(port)) if port == settings.http)
        );
    }

    #[test]
    fn a_missing_image_names_the_command_that_builds_it() {
        let settings = Settings::new("/nonexistent".into(), "run".into());
        let error = check(&settings).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/head.img") && error.contains("./bramble image"), "{error}");
    }

    #[test]
    fn an_image_bigger_than_the_card_is_refused() {
        let image = tempfile::tempdir().unwrap();
        std::fs::File::create(image.path().join("head.img")).unwrap().set_len(3 << 20).unwrap();
        let mut settings = Settings::new(image.path().to_owned(), "run".into());
        settings.card_size_mib = 2;
        assert!(matches!(check(&settings), Err(PreflightError::CardTooSmall { image_mib: 3, card_mib: 2 })));
    }

    #[test]
    fn a_missing_qemu_names_its_package() {
        let error = check_qemu(Path::new("/nonexistent/qemu")).unwrap_err().to_string();
        assert!(error.contains("apt install qemu-system-arm"), "{error}");
    }
}
