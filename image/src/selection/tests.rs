use std::path::Path;

use super::*;
use crate::fixture;
use crate::modinfo::ModuleInfo;

fn resolve(text: &str, stage: Stage) -> Result<Selection> {
    let folder = tempfile::tempdir().unwrap();
    let kernel = Kernel::find(&fixture::kernel(folder.path())).unwrap();
    Selection::resolve(&Declaration::parse(text).unwrap(), &kernel, stage)
}

#[test]
fn hard_dependencies_are_taken_and_listed_deepest_last() {
    let selection =
        resolve("load = []\n[a]\ninitramfs = [\"smsc95xx\"]\nroot = []", Stage::Initramfs).unwrap();
    assert_eq!(selection.names().collect::<Vec<_>>(), ["mii", "smsc95xx", "usbcore", "usbnet"]);
    assert_eq!(
        selection.dep_table(),
        "kernel/net/mii.ko:\n\
         kernel/drivers/smsc95xx.ko: kernel/net/usbnet.ko kernel/net/usbcore.ko kernel/net/mii.ko\n\
         kernel/net/usbcore.ko:\n\
         kernel/net/usbnet.ko: kernel/net/usbcore.ko kernel/net/mii.ko\n"
    );
}

#[test]
fn wishes_are_taken_where_they_exist_even_in_a_circle() {
    let selection = resolve("load = []\n[a]\ninitramfs = [\"genet\"]\nroot = []", Stage::Initramfs).unwrap();
    assert_eq!(selection.names().collect::<Vec<_>>(), ["genet", "late", "mdio_bcm_unimac"]);
    assert_eq!(selection.softdep_table(), "softdep genet pre: mdio-bcm-unimac gone post: late\n");
    assert_eq!(selection.alias_table(), "alias of:N*T*Cbrcm,genetC* genet\n");
}

#[test]
fn the_root_has_all_that_the_initramfs_has() {
    let text = "load = []\n[a]\ninitramfs = [\"nbd\"]\nroot = [\"loop\"]";
    assert_eq!(resolve(text, Stage::Initramfs).unwrap().names().collect::<Vec<_>>(), ["nbd"]);
    assert_eq!(resolve(text, Stage::Root).unwrap().names().collect::<Vec<_>>(), ["loop", "nbd"]);
}

#[test]
fn a_built_in_module_ships_nothing_and_is_not_loaded() {
    let text = "load = [\"virtio_blk\"]\n[a]\ninitramfs = [\"virtio-blk\", \"nbd\"]\nroot = []";
    let mut tree = Tree::new();
    resolve(text, Stage::Initramfs).unwrap().ship(&mut tree);
    let folder = format!("lib/modules/{}", fixture::RELEASE);
    assert!(tree.get(&format!("{folder}/modules.load")).is_none());
    let Some(crate::tree::Entry { kind: crate::tree::Kind::File(builtin), .. }) =
        tree.get(&format!("{folder}/modules.builtin"))
    else {
        panic!("no modules.builtin")
    };
    assert_eq!(builtin, b"kernel/drivers/block/virtio_blk.ko\n");
}

#[test]
fn a_wrong_declaration_says_which_name_is_wrong() {
    let error = |text| format!("{:#}", resolve(text, Stage::Initramfs).unwrap_err());
    let missing = error("load = []\n[a]\ninitramfs = [\"nbx\"]\nroot = []");
    assert!(missing.contains("nbx") && missing.contains("\"nbx?\""), "{missing}");
    let unlisted = error("load = [\"loop\"]\n[a]\ninitramfs = []\nroot = []");
    assert!(unlisted.contains("loop"), "{unlisted}");
    assert!(resolve("load = []\n[a]\ninitramfs = [\"nbx?\"]\nroot = []", Stage::Initramfs).is_ok());
    assert!(Declaration::parse("load = []\n[a]\ninitramfs = []\nroot = []\nother = []").is_err());
}

#[test]
fn what_is_mandatory_on_one_machine_is_mandatory() {
    let text = "load = []\n[a]\ninitramfs = [\"nbx?\"]\nroot = []\n[b]\ninitramfs = [\"nbx\"]\nroot = []";
    assert!(resolve(text, Stage::Initramfs).is_err());
}

#[test]
fn modules_that_need_each_other_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = fixture::kernel(folder.path());
    let path = |name: &str| root.join(format!("usr/lib/modules/{}/kernel/net/{name}.ko", fixture::RELEASE));
    std::fs::write(path("a"), fixture::module(&["depends=b"])).unwrap();
    std::fs::write(path("b"), fixture::module(&["depends=a"])).unwrap();
    let kernel = Kernel::find(&root).unwrap();
    let declaration = Declaration::parse("load = []\n[x]\ninitramfs = [\"a\"]\nroot = []").unwrap();
    let error = Selection::resolve(&declaration, &kernel, Stage::Initramfs).unwrap_err().to_string();
    assert!(error.contains("a -> b -> a"), "{error}");
}

#[test]
fn the_board_reads_the_tables_as_they_were_meant() {
    let text =
        "load = [\"nbd\"]\n[a]\ninitramfs = [\"smsc95xx\", \"genet\", \"virtio_blk\", \"nbd\"]\nroot = []";
    let selection = resolve(text, Stage::Initramfs).unwrap();
    let index = modules::Index::default()
        .dep(&selection.dep_table())
        .alias(selection.alias_table())
        .softdep(&selection.softdep_table())
        .builtin("kernel/drivers/block/virtio_blk.ko\n")
        .listed("nbd\n");
    assert_eq!(index.plan("smsc95xx"), ["mii", "usbcore", "usbnet", "smsc95xx"]);
    assert_eq!(index.plan("genet"), ["mdio_bcm_unimac", "genet", "late"]);
    assert_eq!(index.resolve("usb:v0424pEC00d0200dc"), ["smsc95xx"]);
    assert_eq!(index.resolve("of:NethernetT(null)Cbrcm,genetCother"), ["genet"]);
    assert_eq!(index.path("usbnet"), Some("kernel/net/usbnet.ko"));
}

#[test]
fn the_shipped_declaration_fits_a_kernel_that_has_all_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = Kernel::find(&fixture::kernel(folder.path())).unwrap();
    let declaration = Declaration::shipped().unwrap();
    let root = Selection::resolve(&declaration, &kernel, Stage::Root).unwrap();
    for name in fixture::declared().iter().map(|name| canonical(name)).filter(|name| name != "virtio_blk") {
        assert!(root.names().any(|shipped| shipped == name), "{name}");
    }
    assert!(root.names().all(|name| name != "unwanted"));
}

#[test]
fn a_damaged_module_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let root = fixture::kernel(folder.path());
    let path = root.join(format!("usr/lib/modules/{}/kernel/drivers/nbd.ko", fixture::RELEASE));
    std::fs::write(Path::new(&path), b"not an ELF file").unwrap();
    let error = format!("{:#}", Kernel::find(&root).unwrap().module("nbd").unwrap_err());
    assert!(error.contains("nbd.ko"), "{error}");
    assert_eq!(ModuleInfo::read(&fixture::module(&["depends=a,b"])).unwrap().depends, ["a", "b"]);
}
