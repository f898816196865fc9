//! What the firmware model reads: config.txt, autoboot.txt, paths, boot menus; and its walk through a boot.

use pi_boot::{
    AUTOBOOT_LIMIT, Answer, Autoboot, CONFIG_LIMIT, Config, Facts, Medium, Model, Next, Prefix, Sequence,
    device_tree_alias, pxe,
};

use crate::input::Input;

pub(crate) fn facts(input: &mut Input<'_>) -> Facts {
    let choice = input.u8();
    let model = Model::ALL[usize::from(choice >> 1) % Model::ALL.len()];
    Facts { model, serial: 0x1a2b_3c4d, tryboot: choice & 1 != 0, partition: u32::from(input.u8() & 3) }
}

/// Nothing beyond the limits is looked at, and a partition chosen is one that can be.
pub fn pi_boot_config(data: &[u8]) {
    let mut input = Input(data);
    let facts = facts(&mut input);
    let bytes = input.0;
    let config = Config::parse(bytes, &facts);
    let seen = &bytes[..bytes.len().min(CONFIG_LIMIT)];
    assert_eq!(config, Config::parse(&[seen, b"\nkernel=beyond"].concat()[..seen.len()], &facts));
    if bytes.len() >= CONFIG_LIMIT {
        assert_eq!(config, Config::parse(&[seen, b"\nkernel=beyond\n"].concat(), &facts));
    }
    assert!(config.overlays.len() + config.initramfs.len() <= CONFIG_LIMIT);
    let _ = config.firmware_files(facts.model);
    let autoboot = Autoboot::parse(bytes, &facts);
    assert_ne!(autoboot.boot_partition, Some(0));
    let seen = &bytes[..bytes.len().min(AUTOBOOT_LIMIT)];
    assert_eq!(autoboot, Autoboot::parse(seen, &facts));
}

/// A path that was split is put together again; an alias leads back; a menu is walked to its end.
pub fn pi_boot_names(data: &[u8]) {
    let _ = pxe::menu_names_the_pi(data);
    let Ok(path) = std::str::from_utf8(data) else { return };
    if let Some((prefix, file)) = Prefix::split(path) {
        assert_eq!(format!("{prefix}{file}"), path);
    }
    if let Some(alias) = device_tree_alias(path) {
        assert_eq!(device_tree_alias(alias), Some(path));
    }
}

/// Whatever a server or card answers, a boot ends after a number of files that its settings bound.
pub fn pi_boot_sequence(data: &[u8]) {
    let mut input = Input(data);
    let facts = facts(&mut input);
    let medium = match input.u8() & 3 {
        0 => Medium::Card { tryboot_file: false },
        1 => Medium::Card { tryboot_file: true },
        _ => Medium::Network,
    };
    let settings = input.counted();
    let mut sequence = Sequence::new(facts, medium);
    // Each file that settings name takes two bytes of them at least; each is asked for under two prefixes at most.
    for _ in 0..2 * CONFIG_LIMIT {
        let request = match sequence.next() {
            Next::Boot | Next::Halt(_) => {
                let halted = matches!(sequence.next(), Next::Halt(_));
                assert_eq!(sequence.finish().is_err(), halted);
                return;
            }
            Next::Discover => {
                sequence.rediscovered();
                continue;
            }
            Next::Ask(request) => request,
        };
        let is_settings = request.path.ends_with("config.txt") || request.path.ends_with("tryboot.txt");
        sequence.answer(match input.u8() & 7 {
            0 => Answer::Exists,
            1 | 2 => Answer::Missing,
            3 => Answer::Content(input.counted().to_vec()),
            _ if input.is_empty() => Answer::Missing,
            _ if is_settings => Answer::Content(settings.to_vec()),
            _ if request.path.ends_with(".dtb") => Answer::Content(vec![0xd0, 0x0d, 0xfe, 0xed]),
            _ if request.probe => Answer::Exists,
            _ => Answer::Content(b"content".to_vec()),
        });
    }
    panic!("a boot without end");
}
