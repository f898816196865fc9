use std::collections::BTreeSet;

use super::*;

#[test]
fn names_are_unique_and_fit_for_a_folder_and_a_line() {
    let names: BTreeSet<_> = TABLE.iter().map(|service| service.name).collect();
    assert_eq!(names.len(), TABLE.len());
    for name in names {
        assert!(!name.is_empty() && name.len() <= 32);
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
    }
}

#[test]
fn a_row_waits_for_earlier_rows_only() {
    for (index, service) in TABLE.iter().enumerate() {
        for earlier in service.after {
            assert!(TABLE[..index].iter().any(|row| row.name == *earlier), "{}: {earlier}", service.name);
        }
    }
}

#[test]
fn the_first_row_and_no_other_is_the_root_keeper_in_the_initramfs() {
    let initramfs: Vec<_> = TABLE.iter().filter(|service| service.stage == Stage::Initramfs).collect();
    assert_eq!(initramfs.len(), 1);
    assert_eq!(initramfs[0], &TABLE[0]);
    assert_eq!(TABLE[0].command(), ["/sbin/netroot"]);
    assert_eq!(TABLE[0].role, Role::Both);
    assert_eq!(TABLE[0].start_timeout, None, "a machine waits for its root for ever");
}

#[test]
fn every_user_other_than_root_belongs_to_one_row() {
    let users: Vec<_> = TABLE.iter().map(|service| service.user).filter(|user| *user != ROOT).collect();
    let distinct: BTreeSet<_> = users.iter().map(|user| user.0).collect();
    assert_eq!(distinct.len(), users.len());
    assert!(distinct.iter().all(|number| *number >= 100));
    let root: Vec<_> =
        TABLE.iter().filter(|service| service.user == ROOT).map(|service| service.name).collect();
    assert_eq!(root, ["netroot", "storage"]);
}

#[test]
fn a_row_that_others_wait_for_cannot_hold_them_up_for_ever() {
    for service in TABLE.iter().filter(|service| service.stage == Stage::Root) {
        assert!(service.start_timeout.is_some(), "{}", service.name);
    }
}

#[test]
fn back_off_is_usable() {
    for BackOff { initial, max, limit, window, retry } in TABLE.iter().map(|service| service.back_off) {
        assert!(!initial.is_zero() && initial <= max && max <= window && initial <= retry);
        assert!(limit >= 2);
    }
}

#[test]
fn directories_lie_in_a_writable_mount_or_in_a_directory_of_an_earlier_row() {
    let mut known = BTreeSet::from(["/run", "/data"]);
    for directory in TABLE.iter().flat_map(|service| service.directories) {
        let parent = directory.path.rsplit_once('/').expect("absolute").0;
        assert!(known.contains(parent), "{directory:?}");
        assert_eq!(directory.mode & !0o777, 0);
        known.insert(directory.path);
    }
}

#[test]
fn nobody_is_offered_a_boot_before_it_can_be_served() {
    let dhcp = TABLE.iter().find(|service| service.name == "dhcp-server").expect("a row");
    assert!(dhcp.after.contains(&"tftp-server") && dhcp.after.contains(&"nbd-server"));
}

#[test]
fn the_rows_of_a_machine_are_those_of_its_role() {
    let node: Vec<_> = rows(MachineRole::Node).map(|service| service.name).collect();
    assert_eq!(node, ["netroot", "devices", "bus-broker", "web", "agent"]);
    let head: Vec<_> = rows(MachineRole::Head).map(|service| service.name).collect();
    assert_eq!(head.len(), TABLE.len() - 1);
    assert!(!head.contains(&"web"));
}

#[test]
fn role_names_are_those_of_the_kernel_command_line() {
    assert_eq!(MachineRole::from_name("head"), Some(MachineRole::Head));
    assert_eq!(MachineRole::from_name("node"), Some(MachineRole::Node));
    assert_eq!(MachineRole::from_name("Head"), None);
}

#[test]
fn capability_sets_hold_what_they_list() {
    let set = Capabilities::of(&[Capability::Chown, Capability::SysModule]);
    assert_eq!(set.bits(), 1 | 1 << 16);
    assert!(set.contains(16) && !set.contains(15) && !set.contains(200));
    assert_eq!(Capabilities::ALL.bits(), u64::MAX);
}
