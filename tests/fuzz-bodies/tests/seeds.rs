//! Every fuzz target over its seeds and over mutations of them, on a stable compiler, each time all tests run.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fuzz_bodies::TARGETS;

/// Enough to meet the mistakes that are near; the far ones are libFuzzer's.
const MUTATIONS: usize = 20_000;
/// Where one input costs more, as a card's does, there are fewer of them: all targets together take half a minute.
const TIME_PER_TARGET: Duration = Duration::from_secs(3);

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this lies in tests/").join("fuzz")
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = fuzz_folder().join("corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a seed")).collect()
}

/// Runs one input; what breaks a target is shown as the text of a seed file.
fn run(target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let mut hex = String::new();
        for byte in input {
            write!(hex, "{byte:02x}").expect("a text takes what is written");
        }
        eprintln!("broken by (xxd -r -p makes a file of it): {hex}");
        resume_unwind(panic);
    }
}

fn run_seeds_and_mutations(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "{name} has no seed");
    for seed in &seeds {
        run(*target, seed);
    }
    run(*target, &[]);
    let mut random = Random(name.bytes().fold(1u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte)));
    let end = Instant::now() + TIME_PER_TARGET;
    for _ in 0..MUTATIONS {
        run(*target, &mutated(&seeds, &mut random));
        if Instant::now() >= end {
            break;
        }
    }
}

fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        let until = at + random.below((input.len() - at).min(64) + 1);
        match random.below(8) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..until)),
            2 => {
                let piece = input[at..until].to_vec();
                input.splice(at..at, piece);
            }
            3 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                let to = from + random.below(other.len() - from + 1);
                input.splice(at..until, other[from..to].iter().copied());
            }
            4 => input.insert(at, random.next() as u8),
            5 | 6 => {
                const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'=', b'/'];
                if let Some(byte) = input.get_mut(at) {
                    *byte = EDGES[random.below(EDGES.len())];
                }
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
    input
}

/// xorshift64: the same inputs at every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

macro_rules! no_input_breaks {
    ($($name:ident),+ $(,)?) => {
        mod no_input_breaks {
            $(#[test]
            fn $name() {
                super::run_seeds_and_mutations(stringify!($name));
            })+
        }
        const TESTED: &[&str] = &[$(stringify!($name)),+];
    };
}

no_input_breaks! {
    dhcp_message, dhcp_frame, dhcp_server, dhcp_client, tftp_packet, tftp_server, tftp_client, nbd_client, nbd_server,
    nbd_request, pi_boot_config, pi_boot_names, pi_boot_sequence, card_image, partition_table, ext4_superblock,
    config_toml, machine_facts, kernel_command_line, init_request, module_files, api_json, proxy_head,
}

#[test]
fn every_target_is_tested_here_and_has_its_libfuzzer_program() {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(TESTED, names);
    let manifest = std::fs::read_to_string(fuzz_folder().join("Cargo.toml")).expect("a manifest");
    for name in names {
        let program = std::fs::read_to_string(fuzz_folder().join(format!("fuzz_targets/{name}.rs")));
        assert!(program.is_ok_and(|text| text.contains(&format!("fuzz_bodies::{name}"))), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}
