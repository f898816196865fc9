use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const IMAGE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn cache() -> Cache {
    Cache::new(1 << 20)
}

/// A folder `root` with something to steal beside it.
fn folder() -> (tempfile::TempDir, Tree) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    fs::write(root.join("file"), "file").unwrap();
    fs::write(root.join("sub/file"), "below").unwrap();
    fs::write(root.join("%2e%2e"), "odd").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    symlink("../secret", root.join("up")).unwrap();
    symlink(dir.path().join("secret"), root.join("absolute")).unwrap();
    symlink("/proc/self/exe", root.join("magic")).unwrap();
    symlink("..", root.join("sub/deep/out")).unwrap();
    symlink("../..", root.join("sub/parent")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink("sub/file", root.join("inside")).unwrap();
    nix::unistd::mkfifo(&root.join("pipe"), Mode::S_IRWXU).unwrap();
    let tree = Tree::Folder(Folder::open(&root).unwrap());
    (dir, tree)
}

#[test]
fn names_within_the_folder_are_found() {
    let (_dir, tree) = folder();
    for (name, content) in [
        (&b"file"[..], "file"),
        (b"/file", "file"),
        (b"///sub/file", "below"),
        (b"./sub/../file", "file"),
        (b"inside", "below"),
        (b"sub/deep/out/file", "below"),
        (b"%2e%2e", "odd"),
        (b"empty", ""),
    ] {
        let found = tree.lookup(name, &cache()).unwrap();
        assert_eq!(*found, content.as_bytes(), "{}", name.escape_ascii());
    }
}

#[test]
fn nothing_outside_the_folder_and_nothing_but_files_can_be_reached() {
    let (dir, tree) = folder();
    let absolute = dir.path().join("secret");
    let names: [&[u8]; 22] = [
        b"",
        b"/",
        b".",
        b"..",
        b"../secret",
        b"/../secret",
        b"sub/../../secret",
        b"//..//secret",
        b"..\\secret",
        b"%2e%2e/secret",
        b"%2e%2e%2fsecret",
        b"\xc0\xae\xc0\xae/secret",
        b"up",
        b"absolute",
        b"magic",
        b"sub/parent/secret",
        b"sub/parent/../secret",
        b"loop",
        b"pipe",
        b"sub",
        b"file/",
        absolute.as_os_str().as_bytes(),
    ];
    for name in names {
        let found = tree.lookup(name, &cache());
        assert!(matches!(found, Err(LookupError::Missing)), "{}: {found:?}", name.escape_ascii());
    }
    let long = vec![b'a'; 5000];
    assert!(matches!(tree.lookup(&long, &cache()), Err(LookupError::Missing)));
}

fn boot_partition() -> (tempfile::TempDir, Tree) {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "vmlinuz",
        "initramfs.img",
        "bootcode.bin",
        "start.elf",
        "start4.elf",
        "fixup4.dat",
        "bcm2711-rpi-4-b.dtb",
        "bcm2837-rpi-3-b.dtb",
        "config.txt",
        "cmdline.txt",
        "bramble.toml",
        "recovery.elf",
        "autoboot.txt",
    ] {
        fs::write(dir.path().join(name), format!("the head's {name}")).unwrap();
    }
    fs::write(dir.path().join("start4x.elf"), "").unwrap();
    fs::create_dir(dir.path().join("start4cd.elf")).unwrap();
    fs::create_dir(dir.path().join("0a1b2c3d")).unwrap();
    let nodes = NodeTree::new(dir.path(), IMAGE, Ipv4Addr::new(10, 77, 0, 1), "info").unwrap();
    (dir, Tree::Nodes(nodes))
}

fn text(tree: &Tree, name: &str) -> Option<String> {
    match tree.lookup(name.as_bytes(), &cache()) {
        Ok(content) => Some(String::from_utf8(content.to_vec()).unwrap()),
        Err(LookupError::Missing) => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

#[test]
fn board_finds_its_files_under_its_serial_number() {
    let (_dir, tree) = boot_partition();
    for name in ["vmlinuz", "initramfs.img", "start.elf", "start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb"] {
        assert_eq!(text(&tree, &format!("0a1b2c3d/{name}")), Some(format!("the head's {name}")));
    }
}

#[test]
fn device_tree_is_found_under_the_name_the_board_has_for_it() {
    let (_dir, tree) = boot_partition();
    let found = text(&tree, "0a1b2c3d/bcm2710-rpi-3-b.dtb");
    assert_eq!(found.as_deref(), Some("the head's bcm2837-rpi-3-b.dtb"));
    assert_eq!(text(&tree, "0a1b2c3d/bcm2712-rpi-5-b.dtb"), None);
}

#[test]
fn settings_are_made_for_the_board_and_the_same_each_time() {
    let (_dir, tree) = boot_partition();
    let line = text(&tree, "0a1b2c3d/cmdline.txt").unwrap();
    for part in ["bramble.serial=0a1b2c3d", "bramble.server=10.77.0.1", &format!("bramble.image={IMAGE}")] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert_eq!(text(&tree, "0a1b2c3d/cmdline.txt"), Some(line));
    assert!(text(&tree, "0a1b2c3d/config.txt").unwrap().contains("kernel=vmlinuz"));
}

#[test]
fn boards_are_not_given_what_would_divert_or_betray() {
    let (_dir, tree) = boot_partition();
    for name in [
        "0a1b2c3d/bramble.toml",
        "0a1b2c3d/recovery.elf",
        "0a1b2c3d/autoboot.txt",
        "0a1b2c3d/start4x.elf",
        "0a1b2c3d/start4cd.elf",
        "0a1b2c3d/missing.dtb",
        "0a1b2c3d/",
        "0a1b2c3d",
        "0a1b2c3d/../vmlinuz",
        "0a1b2c3d//vmlinuz",
        "0a1b2c3d/start/../start.elf",
        "0A1B2C3D/vmlinuz",
        "dc-a6-32-01-36-c2/vmlinuz",
        "vmlinuz",
        "config.txt",
        "cmdline.txt",
        "start4.elf",
        "/0a1b2c3d/vmlinuz",
        "",
    ] {
        assert_eq!(text(&tree, name), None, "{name}");
    }
    assert!(matches!(tree.lookup(b"0a1b2c3d/\xff", &cache()), Err(LookupError::Missing)));
}

#[test]
fn only_the_first_file_of_a_pi_3_is_found_without_prefix() {
    let (_dir, tree) = boot_partition();
    assert!(text(&tree, "bootcode.bin").is_some());
}

#[test]
fn image_id_that_is_none_is_refused() {
    let server = Ipv4Addr::LOCALHOST;
    for image in ["", "00", &"g".repeat(64), &"+f".repeat(32), &"0".repeat(65)] {
        assert!(NodeTree::new(Path::new("/"), image, server, "info").is_err(), "{image}");
    }
}
