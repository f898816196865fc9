use super::*;
use proptest::prelude::*;

const PI4: Facts = Facts { model: Model::Pi4, serial: 0x1a2b_3c4d, tryboot: false, partition: 1 };

fn kernel_chosen(text: &str, facts: &Facts) -> Option<String> {
    Config::parse(text.as_bytes(), facts).kernel
}

#[test]
fn filters_select_lines_as_documented() {
    let cases: [(&str, bool); 22] = [
        ("[pi4]\nkernel=k", true),
        ("[pi3]\nkernel=k", false),
        ("[pi3]\n[pi4]\nkernel=k", true),
        ("[pi4]\n[0xdeadbeef]\nkernel=k", false),
        ("[pi4]\n[0x1a2b3c4d]\nkernel=k", true),
        ("[0xdeadbeef]\n[0x1A2B3C4D]\nkernel=k", true),
        ("[pi3]\n[0x1a2b3c4d]\nkernel=k", false),
        ("[none]\nkernel=k", false),
        ("[none]\n[pi4]\nkernel=k", false),
        ("[none]\n[all]\nkernel=k", true),
        ("[board-type=0x11]\nkernel=k", true),
        ("[board-type=0x17]\nkernel=k", false),
        ("[gpio4=1]\nkernel=k", true),
        ("[gpio4=0]\nkernel=k", false),
        ("[gpio17=0]\nkernel=k", true),
        ("[EDID=VSC-TD2220]\nkernel=k", false),
        ("[tryboot]\nkernel=k", false),
        ("[boot_partition=1]\nkernel=k", true),
        ("[boot_partition=2]\nkernel=k", false),
        ("[pi17]\nkernel=k", false),
        ("  [pi4]  \r\n  kernel=k  \r\n", true),
        ("#kernel=k", false),
    ];
    for (text, selected) in cases {
        assert_eq!(kernel_chosen(text, &PI4).is_some(), selected, "{text:?}");
    }
}

#[test]
fn tryboot_section_is_read_only_in_a_tryboot() {
    let text = "kernel=old\n[tryboot]\nkernel=new\n";
    assert_eq!(kernel_chosen(text, &PI4).as_deref(), Some("old"));
    assert_eq!(kernel_chosen(text, &Facts { tryboot: true, ..PI4 }).as_deref(), Some("new"));
}

#[test]
fn initramfs_is_a_directive_without_equals_sign() {
    let config = Config::parse(b"initramfs a.img,b.img followkernel\n", &PI4);
    assert_eq!(config.initramfs, ["a.img", "b.img"]);
    assert_eq!(Config::parse(b"initramfs a.img 0x00800000\n", &PI4).initramfs, ["a.img"]);
    assert!(Config::parse(b"initramfs=a.img followkernel\n", &PI4).initramfs.is_empty());
    assert!(Config::parse(b"initramfs\n", &PI4).initramfs.is_empty());
}

#[test]
fn nothing_beyond_4096_bytes_has_an_effect() {
    let mut text = vec![b'#'; CONFIG_LIMIT - 1];
    text.extend_from_slice(b"\nkernel=k\n");
    let config = Config::parse(&text, &PI4);
    assert_eq!(config.kernel, None);
    assert_eq!(
        Config::parse(&text[1..], &PI4).kernel,
        None,
        "a line cut at the limit counts as far as it goes"
    );
    assert_eq!(Config::parse(&text[9..], &PI4).kernel.as_deref(), Some("k"));
}

#[test]
fn nothing_beyond_column_98_has_an_effect() {
    let name = "k".repeat(120);
    let config = Config::parse(format!("kernel={name}").as_bytes(), &PI4);
    assert_eq!(config.kernel.unwrap().len(), LINE_LIMIT - "kernel=".len());
}

#[test]
fn firmware_variants_follow_config() {
    let files =
        |text: &str, model| Config::parse(text.as_bytes(), &Facts { model, ..PI4 }).firmware_files(model);
    let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
    assert_eq!(files("", Model::Pi4), pair("start4.elf", "fixup4.dat"));
    assert_eq!(files("gpu_mem=16", Model::Pi4), pair("start4cd.elf", "fixup4cd.dat"));
    assert_eq!(files("gpu_mem=16\ngpu_mem=64", Model::Pi3B), pair("start.elf", "fixup.dat"));
    assert_eq!(files("start_x=1", Model::Pi3B), pair("start_x.elf", "fixup_x.dat"));
    assert_eq!(files("start_debug=1", Model::Pi400), pair("start4db.elf", "fixup4db.dat"));
    assert_eq!(files("start_file=s\nfixup_file=f", Model::Pi4), pair("s", "f"));
    assert_eq!(files("start_file=s", Model::Pi5), None);
}

#[test]
fn sixty_four_bit_default_depends_on_the_model() {
    let arm_64bit = |text: &str, model| Config::parse(text.as_bytes(), &Facts { model, ..PI4 }).arm_64bit;
    assert!(!arm_64bit("", Model::Pi3B) && arm_64bit("arm_64bit=1", Model::Pi3B));
    assert!(arm_64bit("", Model::Pi4) && !arm_64bit("arm_64bit=0", Model::Pi4));
    assert!(arm_64bit("arm_64bit=0", Model::Pi5));
}

#[test]
fn device_tree_may_be_named_or_refused() {
    let choice = |text: &str| Config::parse(text.as_bytes(), &PI4).device_tree;
    assert_eq!(choice(""), DeviceTreeChoice::ByModel);
    assert_eq!(choice("device_tree=x.dtb"), DeviceTreeChoice::Named("x.dtb".to_owned()));
    assert_eq!(choice("device_tree="), DeviceTreeChoice::Absent);
}

#[test]
fn overlays_are_listed_without_their_parameters() {
    let config = Config::parse(b"dtoverlay=vc4-kms-v3d,cma-256\ndtoverlay=\ndtoverlay=disable-bt\n", &PI4);
    assert_eq!(config.overlays, ["vc4-kms-v3d", "disable-bt"]);
}

#[test]
fn autoboot_swaps_partitions_in_a_tryboot() {
    let text = b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n";
    let plain = Autoboot::parse(text, &PI4);
    assert_eq!(plain, Autoboot { boot_partition: Some(2), tryboot_a_b: true });
    let tryboot = Autoboot::parse(text, &Facts { tryboot: true, ..PI4 });
    assert_eq!(tryboot, Autoboot { boot_partition: Some(3), tryboot_a_b: true });
    assert_eq!(Autoboot::parse(b"boot_partition=0\n", &PI4).boot_partition, None);
}

#[test]
fn autoboot_is_read_up_to_one_sector() {
    let mut text = vec![b'\n'; AUTOBOOT_LIMIT];
    text.extend_from_slice(b"boot_partition=2");
    assert_eq!(Autoboot::parse(&text, &PI4), Autoboot::default());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
        for model in Model::ALL {
            let facts = Facts { model, ..PI4 };
            Config::parse(&bytes, &facts);
            Autoboot::parse(&bytes, &facts);
        }
    }

    #[test]
    fn any_text_of_config_words_is_read_without_panic(
        lines in proptest::collection::vec("(\\[(all|none|pi4|gpio9?=?1?|0x[0-9a-f]{0,9}|board-type=.?)\\]?|initramfs ?[a-z,]* ?|[a-z_0-9]{1,14}=?.{0,9})", 0..60),
    ) {
        let config = Config::parse(lines.join("\n").as_bytes(), &PI4);
        prop_assert!(config.initramfs.iter().all(|name| !name.is_empty()));
    }
}
