use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::{fixture, squashfs};

fn binaries() -> Binaries {
    Binaries { init: b"init".to_vec(), netroot: b"netroot".to_vec(), bramble: b"bramble".to_vec() }
}

fn options(out: &Path) -> Options {
    Options {
        repository: fixture::repository(),
        out: out.to_owned(),
        kernel: None,
        suite: "trixie-backports".to_owned(),
        profile: "quick".to_owned(),
        offline: true,
        refresh: false,
        mtime: 0,
    }
}

/// Kernel and firmware: made up ones, with a folder they live in.
fn made_up() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let kernel = fixture::kernel(&folder.path().join("kernel"));
    let firmware = fixture::firmware(&folder.path().join("firmware"));
    (folder, kernel, firmware)
}

/// Debian's kernel and firmware, where an earlier build has left them.
fn real() -> Option<(PathBuf, PathBuf)> {
    let found = packages(&options(&fixture::repository().join("out")), &mut Progress::new());
    if found.is_err() {
        eprintln!("skipped: needs the packages in out/cache (image build fetches them)");
    }
    found.ok()
}

/// SHA-256 of every file in `out` that is a result.
fn results(out: &Path) -> BTreeMap<String, String> {
    let mut sums = BTreeMap::new();
    for folder in [out.to_owned(), out.join("boot")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                sums.insert(
                    path.strip_prefix(out).unwrap().display().to_string(),
                    file::sha256(&path).unwrap(),
                );
            }
        }
    }
    sums
}

fn times(out: &Path) -> BTreeMap<String, (i64, i64)> {
    let time =
        |name: &String| fs::metadata(out.join(name)).map(|now| (now.mtime(), now.mtime_nsec())).unwrap();
    results(out).into_keys().map(|name| (name.clone(), time(&name))).collect()
}

fn build_twice_and_compare(kernel: &Path, firmware: &Path) -> Report {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let build =
        |out: &Path| assemble(&options(out), kernel, firmware, &binaries(), &mut Progress::new()).unwrap();
    let report = std::thread::scope(|scope| {
        let report = scope.spawn(|| build(first.path()));
        // Another second has begun: no clock may show in the result.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        build(second.path());
        report.join().unwrap()
    });
    let results = results(first.path());
    assert_eq!(results, self::results(second.path()));
    for name in ["root.squashfs", "initramfs.img", "vmlinuz", "head.img", "image.json", "boot/config.txt"] {
        assert!(results.contains_key(name), "{name} is missing");
    }
    assert_eq!(results["root.squashfs"], report.image_id);
    report
}

#[test]
fn two_builds_of_the_same_inputs_are_identical() {
    let (_folder, kernel, firmware) = made_up();
    build_twice_and_compare(&kernel, &firmware);
}

#[test]
fn two_builds_of_debians_kernel_are_identical_and_small_enough() {
    let Some((kernel, firmware)) = real() else { return };
    let report = build_twice_and_compare(&kernel, &firmware);
    let initramfs =
        report.artefacts.iter().find(|artefact| artefact.path.ends_with("initramfs.img")).unwrap();
    // Without our programs, which get the rest of the 1.5 MiB.
    assert!(initramfs.bytes < 900_000, "{} bytes of modules in the initramfs", initramfs.bytes);
}

#[test]
fn a_second_run_touches_nothing_and_a_changed_program_only_what_holds_it() {
    let (_folder, kernel, firmware) = made_up();
    let out = tempfile::tempdir().unwrap();
    let run = |binaries: &Binaries| {
        assemble(&options(out.path()), &kernel, &firmware, binaries, &mut Progress::new()).unwrap()
    };
    run(&binaries());
    let before = times(out.path());
    run(&binaries());
    assert_eq!(times(out.path()), before);
    run(&Binaries { init: b"another init".to_vec(), ..binaries() });
    let after = times(out.path());
    let changed: Vec<&str> =
        before.keys().filter(|name| before[*name] != after[*name]).map(String::as_str).collect();
    assert_eq!(changed, ["boot/initramfs.img", "head.img", "image.json", "initramfs.img"]);
}

#[test]
fn a_result_that_was_tampered_with_is_made_again() {
    let (_folder, kernel, firmware) = made_up();
    let out = tempfile::tempdir().unwrap();
    let run =
        || assemble(&options(out.path()), &kernel, &firmware, &binaries(), &mut Progress::new()).unwrap();
    run();
    let before = results(out.path());
    fs::write(out.path().join("initramfs.img"), b"short").unwrap();
    fs::write(out.path().join("boot/config.txt"), b"other").unwrap();
    fs::write(out.path().join("boot/left-over"), b"other").unwrap();
    fs::remove_file(out.path().join("head.img")).unwrap();
    run();
    assert_eq!(results(out.path()), before);
}

#[test]
fn the_image_id_changes_with_the_root_and_reaches_the_command_line() {
    let (_folder, kernel, firmware) = made_up();
    let id_of = |bramble: &[u8]| {
        let out = tempfile::tempdir().unwrap();
        let binaries = Binaries { bramble: bramble.to_vec(), ..binaries() };
        let report =
            assemble(&options(out.path()), &kernel, &firmware, &binaries, &mut Progress::new()).unwrap();
        let line = fs::read_to_string(out.path().join("boot/cmdline.txt")).unwrap();
        assert!(line.contains(&format!("bramble.image={}", report.image_id)), "{line}");
        report.image_id
    };
    assert_ne!(id_of(b"one"), id_of(b"two"));
}

#[test]
fn offline_without_anything_fetched_says_what_to_do() {
    let out = tempfile::tempdir().unwrap();
    let error = packages(&options(out.path()), &mut Progress::new()).unwrap_err().to_string();
    assert!(error.contains("with the network"), "{error}");
}

/// The trees of the image, with a kernel's release written as `RELEASE`.
fn listings(kernel_root: &Path, firmware: &Path) -> [(&'static str, String); 3] {
    let kernel = Kernel::find(kernel_root).unwrap();
    let select = |stage| Selection::resolve(&Declaration::shipped().unwrap(), &kernel, stage).unwrap();
    let rootfs = fixture::repository().join("rootfs");
    let initramfs = contents::initramfs(b"", b"", &select(Stage::Initramfs));
    let root = contents::root(b"", &select(Stage::Root), &rootfs).unwrap();
    let boot = boot::tree(&boot::Parts {
        kernel: b"",
        initramfs: b"",
        image_id: "",
        dtbs: &kernel.dtbs,
        firmware,
        settings: b"",
        kernel_licence: Some(b""),
    });
    let text = |tree: &Tree| tree.listing().replace(&kernel.release, "RELEASE");
    [("initramfs.txt", text(&initramfs)), ("root.txt", text(&root)), ("boot.txt", text(&boot.unwrap()))]
}

fn golden(name: &str) -> PathBuf {
    fixture::repository().join("image/golden").join(name)
}

/// `BLESS=1 cargo test -p image golden` writes the files anew; the difference is the visible effect of a change.
/// Without Debian's packages everything is compared but modules and device trees, which are the kernel's.
#[test]
fn golden_lists_name_every_shipped_path() {
    for (name, listing) in real().into_iter().flat_map(|(kernel, firmware)| listings(&kernel, &firmware)) {
        if std::env::var_os("BLESS").is_some() {
            fs::write(golden(name), &listing).unwrap();
        }
        let expected = fs::read_to_string(golden(name)).unwrap();
        assert!(listing == expected, "image/golden/{name} differs; BLESS=1 cargo test -p image golden");
    }
    let (_folder, kernel, firmware) = made_up();
    let ours = |text: &str| -> Vec<String> {
        let kernels = |line: &&str| !line.contains("/kernel") && !line.contains(".dtb");
        text.lines().filter(kernels).map(str::to_owned).collect()
    };
    for (name, listing) in listings(&kernel, &firmware) {
        assert_eq!(ours(&listing), ours(&fs::read_to_string(golden(name)).unwrap()), "image/golden/{name}");
    }
}

#[test]
fn the_squashfs_holds_the_tree_with_modes_owner_and_time() {
    let (_folder, kernel, _) = made_up();
    let kernel = Kernel::find(&kernel).unwrap();
    let modules = Selection::resolve(&Declaration::shipped().unwrap(), &kernel, Stage::Root).unwrap();
    let tree = contents::root(b"program", &modules, &fixture::repository().join("rootfs")).unwrap();
    let image = squashfs::image(&tree, 5).unwrap();
    let reader = backhand::FilesystemReader::from_reader(std::io::Cursor::new(image)).unwrap();
    let mut read = Tree::new();
    for node in reader.files().filter(|node| node.fullpath != Path::new("/")) {
        let path = node.fullpath.to_str().unwrap();
        let (mode, header) = (node.header.permissions, &node.header);
        assert_eq!((header.uid, header.gid, header.mtime), (0, 0, 5), "{path}");
        match &node.inner {
            backhand::InnerNode::Dir(_) => read.directory(path, mode),
            backhand::InnerNode::Symlink(link) => read.symlink(path, link.link.to_str().unwrap()),
            backhand::InnerNode::File(content) => {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut reader.file(content).reader(), &mut bytes).unwrap();
                read.file(path, mode, bytes);
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    assert_eq!(read.listing(), tree.listing());
    assert_eq!(read, tree);
}

#[test]
fn passwd_and_group_name_the_users_of_the_service_table() {
    let rootfs = fixture::repository().join("rootfs/etc");
    let ids = |name: &str, at: usize| -> BTreeMap<String, u32> {
        let text = fs::read_to_string(rootfs.join(name)).unwrap();
        let line = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields[0].to_owned(), fields[at].parse().unwrap())
        };
        text.lines().map(line).filter(|(_, id)| (1..65_534).contains(id)).collect()
    };
    let services = manifest::TABLE.iter().filter(|service| service.user != manifest::ROOT);
    let expected: BTreeMap<String, u32> =
        services.map(|service| (service.name.to_owned(), service.user.0)).collect();
    assert_eq!(ids("passwd", 2), expected);
    assert_eq!(ids("passwd", 3), expected);
    assert_eq!(ids("group", 2), expected);
}
