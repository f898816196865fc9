use std::cell::RefCell;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::fnmatch::matches;
use super::*;

const DEP: &str = "kernel/drivers/net/usb/lan78xx.ko.xz: kernel/drivers/net/mdio/fixed.ko.xz kernel/net/phy-lib.ko.xz\n\
    kernel/drivers/net/mdio/fixed.ko.xz: kernel/net/phy-lib.ko.xz\n\
    kernel/net/phy-lib.ko.xz:\n\
    kernel/fs/ext4.ko: kernel/fs/jbd2.ko\n\
    kernel/fs/jbd2.ko:\n\
    kernel/crypto/crc32c-generic.ko:\n\
    kernel/a.ko: kernel/b.ko\n\
    kernel/b.ko: kernel/a.ko\n";

const ALIAS: &str = "# Aliases extracted from modules themselves.\n\
    alias usb:v0424p7800d*dc*dsc*dp*ic*isc*ip*in* lan78xx\n\
    alias of:N*T*Cbrcm,bcm2711-genet-v5C* genet\n\
    alias of:N*T*Cbrcm,bcm2711-genet-v5 genet\n\
    alias of:N*T*Cacme,BIG-Chip phy_lib\n\
    alias fs-ext4 ext4\n\
    alias virtio:d00000002v* jbd2\n\
    alias *catch-all jbd2\n\
    alias pci:v000010ECd00008168sv*sd*bc0[2-4]sc*i* a\n";

fn index() -> Index {
    Index::default().dep(DEP).alias(ALIAS.to_owned()).softdep("softdep ext4 pre: crc32c-generic missing\n")
}

type Log = Rc<RefCell<Vec<(String, String)>>>;

fn modules(answer: impl Fn(&str) -> io::Result<()> + 'static) -> (Modules, Log) {
    let log = Log::default();
    let written = Rc::clone(&log);
    let insert = move |path: &Path, parameters: &str| {
        let name = name_of(&path.to_string_lossy());
        written.borrow_mut().push((name.clone(), parameters.to_owned()));
        answer(&name)
    };
    let index = index()
        .listed("# comment\next4\n\nlan78xx  speed=1 mode=2\nnowhere\n")
        .builtin("kernel/fs/proc.ko\n");
    (Modules::with_insert(index, PathBuf::from("/m"), Box::new(insert)), log)
}

#[test]
fn patterns_match_as_fnmatch_does() {
    for (pattern, text, expected) in [
        ("", "", true),
        ("*", "", true),
        ("a*b*c", "axxbyyc", true),
        ("a*b*c", "axxbyy", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("*ab", "aab", true),
        ("x[0-3a]y", "x2y", true),
        ("x[0-3a]y", "xay", true),
        ("x[0-3a]y", "x4y", false),
        ("x[!0-3]y", "x4y", true),
        ("x[]]y", "x]y", true),
        ("x[y", "x[y", true),
        ("x[y", "xay", false),
        ("a*", "b", false),
        ("a*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
    ] {
        assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} against {text}");
    }
}

#[test]
fn dependencies_come_before_the_module_in_whatever_order_they_are_listed() {
    assert_eq!(index().plan("lan78xx"), ["phy_lib", "fixed", "lan78xx"]);
    assert_eq!(index().plan("ext4"), ["crc32c_generic", "jbd2", "ext4"]);
    assert_eq!(index().plan("a"), ["b", "a"], "a cycle ends");
    assert!(index().plan("unknown").is_empty());
}

#[test]
fn aliases_are_found_by_compatible_string_and_by_prefix() {
    let index = index();
    assert_eq!(index.resolve("usb:v0424p7800d0300dcFFdsc00dp01icFFisc00ipFFin00"), ["lan78xx"]);
    assert_eq!(index.resolve("of:NethernetT(null)Cbrcm,bcm2711-genet-v5"), ["genet"]);
    assert_eq!(index.resolve("of:NethernetT(null)Cbrcm,bcm2711-genet-v5Cbrcm,genet"), ["genet"]);
    assert_eq!(index.resolve("of:NxT(null)Cfoo,barCacme,BIG-Chip"), ["phy_lib"]);
    assert_eq!(index.resolve("virtio:d00000002v00001AF4"), ["jbd2"]);
    assert_eq!(index.resolve("fs-ext4"), ["ext4"]);
    assert_eq!(index.resolve("some catch-all"), ["jbd2"]);
    assert_eq!(index.resolve("pci:v000010ECd00008168sv1sd1bc03sc00i00"), ["a"]);
    assert!(index.resolve("pci:v000010ECd00008168sv1sd1bc05sc00i00").is_empty());
    assert!(index.resolve("of:N").is_empty());
    assert!(index.resolve("").is_empty());
    assert!(index.resolve(&"C".repeat(100_000)).is_empty());
}

#[test]
fn listed_modules_are_loaded_with_parameters_and_one_failure_stops_nothing() {
    let (mut modules, log) = modules(|name| match name {
        "jbd2" => Err(io::ErrorKind::PermissionDenied.into()),
        "phy_lib" => Err(io::ErrorKind::AlreadyExists.into()),
        _ => Ok(()),
    });
    let report = modules.load_listed();
    assert_eq!(report.loaded, ["crc32c_generic", "ext4", "fixed", "lan78xx"]);
    assert_eq!(report.errors.len(), 2, "{:?}", report.errors);
    assert!(log.borrow().contains(&("lan78xx".to_owned(), "speed=1 mode=2".to_owned())));
    assert!(log.borrow().contains(&("fixed".to_owned(), String::new())));
}

#[test]
fn a_module_is_tried_once_only() {
    let (mut modules, log) = modules(|_| Ok(()));
    modules.load("ext4", "");
    modules.load("ext4", "");
    modules.load_alias("fs-ext4");
    assert_eq!(log.borrow().len(), 3);
    assert!(modules.load_request("ext4").is_ok());
    assert!(modules.load_request("proc").is_ok(), "part of the kernel");
    assert!(matches!(modules.load_request("fs-unknown"), Err(Error::Unknown(_))));
}

#[test]
fn coldplug_loads_what_newly_loaded_drivers_bring_to_light() {
    let sysfs = std::env::temp_dir().join(format!("modules-coldplug-{}", std::process::id()));
    let device = |bus: &str, name: &str, modalias: &str| {
        let folder = sysfs.join("bus").join(bus).join("devices").join(name);
        fs::create_dir_all(&folder).expect("temporary folder");
        fs::write(folder.join("modalias"), format!("{modalias}\n")).expect("temporary file");
    };
    device("platform", "eth", "of:NethernetT(null)Cacme,BIG-Chip");
    let later = sysfs.clone();
    let (mut modules, log) = modules(move |name| {
        if name == "phy_lib" {
            let folder = later.join("bus/usb/devices/1-1");
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("modalias"), "usb:v0424p7800d0300dcFFdsc00dp01icFFisc00ipFFin00\n")?;
        }
        Ok(())
    });
    let report = modules.coldplug(&sysfs);
    fs::remove_dir_all(&sysfs).expect("temporary folder");
    assert_eq!(report.loaded, ["phy_lib", "fixed", "lan78xx"]);
    assert!(report.errors.is_empty());
    assert_eq!(log.borrow().len(), 3);
}

#[test]
fn ten_thousand_aliases_and_a_hundred_devices_take_milliseconds() {
    let text: String = (0..10_000)
        .map(|n| match n % 2 {
            0 => format!("alias of:N*T*Cvendor{n},chip{n}C* module{n}\n"),
            _ => format!("alias usb:v{n:04X}p{n:04X}d*dc*dsc*dp*ic*isc*ip*in* module{n}\n"),
        })
        .collect();
    let began = Instant::now();
    let index = Index::default().alias(text);
    for n in 0..100 {
        assert_eq!(index.resolve(&format!("of:NnodeT(null)Cvendor{},chip{}Cother,x", n * 2, n * 2)).len(), 1);
    }
    // Generous: a debug build on a busy machine needs about 30 ms, all against all more than a second.
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
}

#[test]
fn hostile_tables_are_survived() {
    let garbage = "alias\nalias x\n:::\nsoftdep\nsoftdep x pre:\n\0\u{fffd}: \n: a\n[[[[*: ?\n";
    let index = Index::default()
        .dep(garbage)
        .alias(garbage.to_owned())
        .softdep(garbage)
        .builtin(garbage)
        .listed(garbage);
    assert!(index.resolve("x").is_empty());
    assert!(index.plan("x").is_empty());
}

#[test]
fn modprobe_of_nothing_known_reports_failure() {
    let args = ["-q", "--", "no_such_module_at_all"].map(OsString::from);
    assert_eq!(modprobe(args), std::process::ExitCode::FAILURE);
}
