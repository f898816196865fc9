use super::*;
use crate::fixture;
use crate::tree::Kind;

const ID: &str = "33db85f057c8e33294279614d9a3de127e982d00c2a6fd556ed17d595356cda5";

fn sample() -> Tree {
    let folder = tempfile::tempdir().unwrap();
    let kernel = crate::kernel::Kernel::find(&fixture::kernel(folder.path())).unwrap();
    tree(&Parts {
        kernel: b"kernel",
        initramfs: b"initramfs",
        image_id: ID,
        dtbs: &kernel.dtbs,
        firmware: &fixture::firmware(folder.path()),
        settings: b"# all defaults\n",
        kernel_licence: None,
    })
    .unwrap()
}

#[test]
fn the_command_line_names_role_image_and_the_partition_by_the_disk_signature() {
    let line = command_line(ID, pi_boot::CONSOLES);
    assert_eq!(line.lines().count(), 1);
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(words.contains(&"bramble.role=head"));
    assert!(words.contains(&format!("bramble.image={ID}").as_str()));
    assert!(words.contains(&"bramble.root=PARTUUID=33db85f0-02"));
    assert_eq!(disk_signature(ID), 0x33db_85f0);
    assert_eq!(disk_signature(&"0".repeat(64)), 1);
}

#[test]
fn the_firmware_reads_all_of_config_txt() {
    let Some(Kind::File(config)) = sample().get("config.txt").map(|entry| entry.kind.clone()) else {
        panic!("no config.txt")
    };
    // Some stages look at the first 4096 bytes only, and at 80 columns of a line; `initramfs` has no `=`.
    assert!(config.len() < 4096);
    let config = String::from_utf8(config).unwrap();
    let settings: Vec<&str> = config.lines().filter(|line| !line.starts_with(['#', '['])).collect();
    for line in &settings {
        assert!(line.len() <= 80 && (line.contains('=') || line.starts_with("initramfs ")), "{line}");
    }
    let needed = [
        "arm_64bit=1",
        "enable_uart=1",
        "kernel=vmlinuz",
        "initramfs initramfs.img followkernel",
        "os_check=0",
    ];
    for setting in needed {
        assert!(settings.contains(&setting), "{setting}");
    }
}

#[test]
fn device_trees_are_there_under_both_names_with_the_same_content() {
    let tree = sample();
    for (debian, vendor) in
        [("bcm2837-rpi-3-b", "bcm2710-rpi-3-b"), ("bcm2712-d-rpi-5-b", "bcm2712d0-rpi-5-b")]
    {
        let content = |name: &str| match tree.get(&format!("{name}.dtb")).map(|entry| &entry.kind) {
            Some(Kind::File(content)) => content.clone(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(content(debian), debian.as_bytes());
        assert_eq!(content(debian), content(vendor));
    }
    assert!(tree.get("bcm2711-rpi-4-b.dtb").is_some());
    assert!(tree.get("bcm4908-other.dtb").is_none());
}

#[test]
fn a_missing_firmware_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let firmware = fixture::firmware(folder.path());
    fs::remove_file(firmware.join("usr/lib/raspi-firmware/fixup4.dat")).unwrap();
    let parts = Parts {
        kernel: b"",
        initramfs: b"",
        image_id: ID,
        dtbs: folder.path(),
        firmware: &firmware,
        settings: b"",
        kernel_licence: None,
    };
    assert!(tree(&parts).unwrap_err().to_string().contains("fixup4.dat"));
}
