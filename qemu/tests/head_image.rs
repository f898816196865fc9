//! The image that is built, as the firmware of each board sees it. `BRAMBLE_HEAD_IMAGE` names the file.

use std::path::PathBuf;
use std::time::Instant;

use qemu::firmware::{Board, Model, boot_from_card};

#[test]
fn the_built_image_boots_every_model() {
    let Some(image) = std::env::var_os("BRAMBLE_HEAD_IMAGE").map(PathBuf::from) else {
        println!("skipped: needs BRAMBLE_HEAD_IMAGE");
        return;
    };
    for model in Model::ALL {
        let board = Board { name: "head".to_owned(), mac: [2, 0, 0, 0, 0, 1], serial: 1, model };
        let start = Instant::now();
        let files =
            boot_from_card(&image, &board, false).unwrap_or_else(|error| panic!("{model:?}: {error}"));
        println!("{model:?}: kernel of {} bytes, read in {:?}", files.kernel.len(), start.elapsed());
        assert!(files.command_line.contains(" bramble.role=head "), "{}", files.command_line);
        assert!(files.initramfs.is_some());
        // Debian has no device tree for the CM5, which is told not to mind (os_check=0).
        assert_eq!(files.device_tree.is_none(), model == Model::Cm5);
    }
}
