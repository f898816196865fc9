#![no_main]
// The card reader catches the panics of the FAT crate, so here a caught panic must not abort. One that is not caught still
// ends the program: libFuzzer's own wrapper sees to that.
libfuzzer_sys::fuzz_target!(init: std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))), |data: &[u8]| {
    fuzz_bodies::card_image(data);
});
