use std::collections::BTreeMap;

use super::*;
use crate::model::Model;
use proptest::prelude::*;

const SERIAL: u32 = 0x1a2b_3c4d;
const TREE: &[u8] = b"\xd0\x0d\xfe\xed tree";

type Files<'a> = &'a [(&'a str, &'a [u8])];

/// Boots from `files`; returns what was asked (`!` behind what was missing, `?` behind a probe) and the end.
fn boot(model: Model, medium: Medium, files: Files<'_>) -> (Vec<String>, Result<Loaded, Halt>) {
    let files: BTreeMap<&str, &[u8]> = files.iter().copied().collect();
    let facts = Facts { model, serial: SERIAL, tryboot: false, partition: 0 };
    let mut sequence = Sequence::new(facts, medium);
    let mut asked = Vec::new();
    loop {
        match sequence.next() {
            Next::Ask(request) => {
                let content = files.get(request.path.as_str());
                let mark = if content.is_none() { "!" } else { "" };
                asked.push(format!("{}{}{mark}", request.path, if request.probe { "?" } else { "" }));
                sequence.answer(match content {
                    None => Answer::Missing,
                    Some(_) if request.probe => Answer::Exists,
                    Some(content) => Answer::Content(content.to_vec()),
                });
            }
            Next::Discover => {
                asked.push("DISCOVER".to_owned());
                sequence.rediscovered();
            }
            Next::Boot | Next::Halt(_) => return (asked, sequence.finish()),
        }
        assert!(asked.len() < 1000, "a boot does not ask for ever");
    }
}

const CONFIG: &[u8] = b"arm_64bit=1\nkernel=vmlinuz\ninitramfs initramfs.img followkernel\n";

#[test]
fn pi_4_asks_in_the_order_of_the_captures() {
    let (asked, end) = boot(
        Model::Pi4,
        Medium::Network,
        &[
            ("1a2b3c4d/start4.elf", b"s"),
            ("1a2b3c4d/fixup4.dat", b"f"),
            ("1a2b3c4d/config.txt", CONFIG),
            ("1a2b3c4d/cmdline.txt", b"quiet root=x\nsecond line"),
            ("1a2b3c4d/initramfs.img", b"init"),
            ("1a2b3c4d/vmlinuz", b"kernel"),
            ("1a2b3c4d/bcm2711-rpi-4-b.dtb", TREE),
        ],
    );
    let expected = [
        "start4.elf?",
        "config.txt",
        "vl805.sig!",
        "pieeprom.sig!",
        "recover4.elf!",
        "recovery.elf!",
        "start4.elf",
        "fixup4.dat",
        "recovery.elf!",
        "config.txt",
        "config.txt",
        "dt-blob.bin!",
        "bootcfg.txt!",
        "initramfs.img",
        "bcm2711-rpi-4-b.dtb",
        "overlays/overlay_map.dtb!",
        "config.txt",
        "cmdline.txt",
        "armstub8-gic.bin!",
        "vmlinuz",
    ];
    assert_eq!(asked, expected.map(|name| format!("1a2b3c4d/{name}")));
    let loaded = end.unwrap();
    assert_eq!(loaded.kernel, b"kernel");
    assert_eq!(loaded.initramfs.as_deref(), Some(&b"init"[..]));
    assert_eq!(loaded.device_tree.as_deref(), Some(TREE));
    assert_eq!(loaded.command_line, "quiet root=x");
}

#[test]
fn pi_3_starts_in_the_root_and_discovers_twice() {
    let (asked, end) = boot(
        Model::Pi3B,
        Medium::Network,
        &[
            ("bootcode.bin", b"b"),
            ("1a2b3c4d/start.elf", b"s"),
            ("1a2b3c4d/fixup.dat", b"f"),
            ("1a2b3c4d/config.txt", CONFIG),
            ("1a2b3c4d/cmdline.txt", b"quiet"),
            ("1a2b3c4d/initramfs.img", b"init"),
            ("1a2b3c4d/vmlinuz", b"kernel"),
            ("1a2b3c4d/bcm2710-rpi-3-b.dtb", TREE),
        ],
    );
    assert_eq!(
        asked[..5],
        ["bootcode.bin", "bootsig.bin!", "DISCOVER", "1a2b3c4d/start.elf?", "1a2b3c4d/autoboot.txt!"]
    );
    assert!(asked.contains(&"1a2b3c4d/bcm2710-rpi-3-b.dtb?".to_owned()));
    assert!(end.is_ok());
}

#[test]
fn pi_5_falls_back_to_the_root_by_its_config() {
    let (asked, end) = boot(
        Model::Pi5,
        Medium::Network,
        &[
            ("config.txt", b"initramfs i followkernel"),
            ("cmdline.txt", b""),
            ("i", b"init"),
            ("kernel8.img", b"kernel"),
            ("bcm2712-rpi-5-b.dtb", TREE),
        ],
    );
    assert_eq!(
        asked,
        [
            "1a2b3c4d/config.txt!",
            "config.txt",
            "pieeprom.sig!",
            "bcm2712-rpi-5-b.dtb",
            "overlays/overlay_map.dtb!",
            "cmdline.txt",
            "i",
            "armstub8-2712.bin!",
            "kernel_2712.img!",
            "kernel8.img",
        ]
    );
    assert_eq!(end.unwrap().kernel_path, "kernel8.img");
}

#[test]
fn prefix_is_dropped_only_when_both_start_files_are_missing() {
    let (asked, end) = boot(Model::Pi4, Medium::Network, &[]);
    assert_eq!(asked[..3], ["1a2b3c4d/start4.elf?!", "1a2b3c4d/start.elf?!", "config.txt!"]);
    assert!(matches!(end, Err(Halt::Missing { path, .. }) if path == "start4.elf"));
    let (asked, _) = boot(Model::Pi4, Medium::Network, &[("1a2b3c4d/start.elf", b"")]);
    assert_eq!(asked[1..3], ["1a2b3c4d/start.elf?", "1a2b3c4d/config.txt!"]);
}

/// What each missing file of the minimal set does.
#[test]
fn every_missing_file_of_the_minimal_set_halts_with_its_name() {
    let sets: [(Model, Files<'_>); 3] = [
        (
            Model::Pi3BPlus,
            &[
                ("config.txt", CONFIG),
                ("start.elf", b"s"),
                ("fixup.dat", b"f"),
                ("cmdline.txt", b""),
                ("initramfs.img", b"i"),
                ("vmlinuz", b"k"),
                ("bcm2710-rpi-3-b-plus.dtb", TREE),
            ],
        ),
        (
            Model::Cm4,
            &[
                ("start4.elf", b"s"),
                ("config.txt", CONFIG),
                ("fixup4.dat", b"f"),
                ("cmdline.txt", b""),
                ("initramfs.img", b"i"),
                ("vmlinuz", b"k"),
                ("bcm2711-rpi-cm4.dtb", TREE),
            ],
        ),
        (
            Model::Pi5,
            &[
                ("config.txt", CONFIG),
                ("cmdline.txt", b""),
                ("initramfs.img", b"i"),
                ("vmlinuz", b"k"),
                ("bcm2712-rpi-5-b.dtb", TREE),
            ],
        ),
    ];
    for (model, files) in sets {
        let card = Medium::Card { tryboot_file: false };
        assert!(boot(model, card, files).1.is_ok(), "{model:?} boots from the whole set");
        for (name, _) in files {
            let rest: Vec<_> = files.iter().copied().filter(|(other, _)| other != name).collect();
            let halt = boot(model, card, &rest).1.unwrap_err();
            match halt {
                Halt::Missing { path, .. } | Halt::OsCheck { path } if path == *name => {}
                Halt::ThirtyTwoBit if *name == "config.txt" => {}
                // Without config.txt a Pi 4 looks for the default kernel.
                Halt::Missing { path, .. } if *name == "config.txt" && path == "kernel8.img" => {}
                other => panic!("{model:?} without {name}: {other}"),
            }
        }
    }
}

#[test]
fn recovery_files_divert_the_boot() {
    let (_, end) =
        boot(Model::Pi4, Medium::Network, &[("1a2b3c4d/start4.elf", b""), ("1a2b3c4d/recover4.elf", b"")]);
    assert_eq!(end, Err(Halt::Diverted { path: "1a2b3c4d/recover4.elf".to_owned() }));
}

fn pi_5_with(config: &'static [u8], more: &[(&str, &'static [u8])]) -> (Vec<String>, Result<Loaded, Halt>) {
    let mut files: Vec<(&str, &[u8])> =
        vec![("config.txt", config), ("cmdline.txt", b""), ("kernel8.img", b"root")];
    files.extend(more);
    boot(Model::Pi5, Medium::Card { tryboot_file: false }, &files)
}

#[test]
fn os_check_decides_whether_a_pi_5_starts_without_its_tree() {
    assert_eq!(pi_5_with(b"", &[]).1, Err(Halt::OsCheck { path: "bcm2712-rpi-5-b.dtb".to_owned() }));
    assert_eq!(pi_5_with(b"os_check=0", &[]).1.unwrap().device_tree, None);
    assert_eq!(pi_5_with(b"device_tree=", &[]).1, Err(Halt::NoDeviceTree));
    let (_, end) = pi_5_with(b"", &[("bcm2712-rpi-5-b.dtb", b"<html>")]);
    assert_eq!(end, Err(Halt::NotADeviceTree { path: "bcm2712-rpi-5-b.dtb".to_owned() }));
}

#[test]
fn os_prefix_counts_only_with_kernel_and_tree_under_it() {
    let tree = ("bcm2712-rpi-5-b.dtb", TREE);
    let config = b"os_prefix=v2/\nkernel=kernel8.img\n";
    let loaded = pi_5_with(config, &[tree, ("v2/kernel8.img", b"new")]).1.unwrap();
    assert_eq!(loaded.kernel, b"root");
    let all: [(&str, &[u8]); 4] =
        [tree, ("v2/kernel8.img", b"new"), ("v2/bcm2712-rpi-5-b.dtb", TREE), ("v2/cmdline.txt", b"v2")];
    let (asked, end) = pi_5_with(config, &all);
    let loaded = end.unwrap();
    assert_eq!((loaded.kernel.as_slice(), loaded.command_line.as_str()), (&b"new"[..], "v2"));
    assert!(asked.contains(&"overlays/overlay_map.dtb!".to_owned()), "overlays without README stay outside");
    let bypass = b"os_prefix=v2/\nkernel=/kernel8.img\n";
    assert_eq!(pi_5_with(bypass, &all).1.unwrap().kernel, b"root");
}

#[test]
fn automatic_initramfs_follows_the_kernel_that_was_found() {
    let tree = ("bcm2712-rpi-5-b.dtb", TREE);
    let (asked, end) = pi_5_with(b"auto_initramfs=1", &[tree, ("initramfs8", b"auto")]);
    assert_eq!(asked.last().map(String::as_str), Some("initramfs8"));
    assert_eq!(end.unwrap().initramfs.as_deref(), Some(&b"auto"[..]));
}

#[test]
fn several_archives_become_one() {
    let more: [(&str, &[u8]); 3] = [("bcm2712-rpi-5-b.dtb", TREE), ("a", b"one"), ("b", b"two")];
    let (_, end) = pi_5_with(b"initramfs a,b followkernel", &more);
    assert_eq!(end.unwrap().initramfs.as_deref(), Some(&b"onetwo"[..]));
}

#[test]
fn mainline_names_are_asked_first_with_upstream_kernel() {
    let files: [(&str, &[u8]); 6] = [
        ("config.txt", b"arm_64bit=1\nupstream_kernel=1\n"),
        ("start.elf", b"s"),
        ("fixup.dat", b"f"),
        ("cmdline.txt", b""),
        ("kernel8.img", b"k"),
        ("bcm2837-rpi-3-b.dtb", TREE),
    ];
    let (asked, end) = boot(Model::Pi3B, Medium::Card { tryboot_file: false }, &files);
    assert!(asked.contains(&"upstream/kernel8.img?!".to_owned()));
    assert!(end.is_ok(), "{asked:?}");
}

#[test]
fn what_is_not_modelled_halts_by_name() {
    let network = |config: &'static [u8]| {
        boot(Model::Pi4, Medium::Network, &[("1a2b3c4d/start4.elf", b""), ("1a2b3c4d/config.txt", config)]).1
    };
    assert_eq!(network(b"boot_ramdisk=1"), Err(Halt::NotModelled("boot_ramdisk")));
    assert_eq!(network(b"include extra.txt"), Err(Halt::NotModelled("include")));
    assert_eq!(network(b"arm_64bit=0"), Err(Halt::ThirtyTwoBit));
}

#[test]
fn tryboot_reads_its_own_file() {
    let medium = Medium::Card { tryboot_file: true };
    let (asked, _) = boot(Model::Pi5, medium, &[("config.txt", b"")]);
    assert_eq!(asked, ["tryboot.txt!"]);
}

proptest! {
    #[test]
    fn every_sequence_ends_whatever_is_answered(
        model in proptest::sample::select(Model::ALL.to_vec()),
        network: bool,
        config in "((os_prefix|kernel|auto_initramfs|initramfs|dtoverlay|upstream_kernel|cmdline|device_tree|os_check)[= ][a-z/,01]{0,6}\n){0,40}",
        answers in proptest::collection::vec(0u8..4, 0..400),
    ) {
        let medium = if network { Medium::Network } else { Medium::Card { tryboot_file: false } };
        let mut sequence = Sequence::new(Facts { model, serial: 1, tryboot: false, partition: 1 }, medium);
        let mut answers = answers.into_iter();
        let mut steps = 0;
        loop {
            steps += 1;
            prop_assert!(steps < 1000);
            match sequence.next() {
                Next::Ask(request) if request.path.ends_with("config.txt") => {
                    sequence.answer(Answer::Content(config.clone().into_bytes()));
                }
                Next::Ask(request) => sequence.answer(match answers.next() {
                    Some(0) | None => Answer::Missing,
                    _ if request.probe => Answer::Exists,
                    Some(1) => Answer::Content(TREE.to_vec()),
                    Some(_) => Answer::Content(vec![0; 3]),
                }),
                Next::Discover => sequence.rediscovered(),
                Next::Boot | Next::Halt(_) => break,
            }
        }
    }
}
