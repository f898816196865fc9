//! Network boot as the Pi 4 and 5 do it. Time is virtual: nothing here sleeps.

use std::time::Duration;

use dhcp::code;
use tokio::time::Instant;

use super::fake_server::{Behaviour, Flood, NODE, SERVER, Seen, start};
use super::*;
use crate::firmware::*;

type End = Result<BootFiles, NetworkError>;

const PREFIX: &str = "1a2b3c4d/";

/// Boots against a server; gives the end, what the server saw, what was shown, and how long it took.
pub(super) async fn boot(
    model: Model,
    settings: Settings,
    files: Files,
    behaviour: Behaviour,
) -> (End, Seen, Vec<Progress>, Duration) {
    let (mut port, server) = start(files, behaviour);
    let mut shown = Vec::new();
    let mut show = |progress| shown.push(progress);
    let begin = Instant::now();
    let end = boot_from_network_with(&mut port, &board(model), &settings, &mut show).await;
    let elapsed = begin.elapsed();
    drop(port);
    (end, server.await.unwrap(), shown, elapsed)
}

async fn pi_4(behaviour: Behaviour) -> (End, Seen, Vec<Progress>, Duration) {
    boot(Model::Pi4, Settings::default(), boot_files(Model::Pi4, PREFIX), behaviour).await
}

fn assert_booted(end: End) -> Vec<TraceEntry> {
    let files = end.unwrap();
    assert_eq!(files.kernel, image(300_000));
    assert_eq!(files.initramfs, Some(vec![7; 20_000]));
    assert_eq!(files.device_tree.as_deref(), Some(TREE));
    assert_eq!(files.command_line, "bramble.role=node quiet");
    files.trace
}

fn violations(trace: &[TraceEntry]) -> Vec<Violation> {
    trace.iter().flat_map(|entry| entry.violations.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn pi_4_boots_from_a_good_server_without_a_violation() {
    let (end, seen, shown, _) = pi_4(Behaviour::default()).await;
    let trace = assert_booted(end);
    assert_eq!(violations(&trace), []);
    assert_eq!(trace[0].outcome, Outcome::Exists);
    assert_eq!(trace.last().map(|entry| entry.path.as_str()), Some("1a2b3c4d/vmlinuz"));
    assert_eq!(shown[0], Progress::Discover { attempt: 1 });
    assert!(shown.contains(&Progress::Lease { address: NODE, tftp_server: SERVER }));

    assert_eq!((seen.discovers.len(), seen.requests.len(), seen.early_terminates), (1, 1, 1));
    assert!(!seen.requests[0].options.has(code::VENDOR_CLASS), "the REQUEST lacks option 60");
    assert!(seen.arp_answers > 10, "the board answers ARP while it loads");
    let (_, _, first) = &seen.reads[0];
    assert_eq!(first, b"\x00\x011a2b3c4d/start4.elf\0octet\0tsize\x000\0blksize\x001468\0");
    let ports: std::collections::BTreeSet<u16> = seen.reads.iter().map(|(port, ..)| *port).collect();
    assert_eq!(ports.len(), seen.reads.len(), "each transfer has a port of its own");
}

#[tokio::test(start_paused = true)]
async fn every_model_of_the_fourth_and_fifth_generation_boots() {
    for model in [Model::Pi400, Model::Cm4, Model::Pi5, Model::Cm5] {
        let (end, ..) =
            boot(model, Settings::default(), boot_files(model, PREFIX), Behaviour::default()).await;
        assert_eq!(violations(&assert_booted(end)), []);
    }
}

#[tokio::test(start_paused = true)]
async fn files_in_the_root_are_found_when_the_prefix_is_missing() {
    for model in [Model::Pi4, Model::Pi5] {
        let (end, ..) = boot(model, Settings::default(), boot_files(model, ""), Behaviour::default()).await;
        assert_booted(end);
    }
}

#[tokio::test(start_paused = true)]
async fn lost_frames_delay_a_boot_but_do_not_stop_it() {
    // Only the board repeats here, every 2 s; a real server repeats sooner.
    for lose_every in [60, 100] {
        let behaviour = Behaviour { lose_every: Some(lose_every), ..Behaviour::default() };
        let (end, _, _, elapsed) = pi_4(behaviour).await;
        assert_booted(end);
        assert!(elapsed > Duration::from_secs(1), "a packet is repeated after 2 s");
    }
}

#[tokio::test(start_paused = true)]
async fn duplicated_frames_change_nothing() {
    let (end, ..) = pi_4(Behaviour { duplicate: true, ..Behaviour::default() }).await;
    assert_booted(end);
}

#[tokio::test(start_paused = true)]
async fn damaged_frames_never_damage_a_file() {
    for corrupt_every in [2, 3, 11] {
        let behaviour = Behaviour { corrupt_every: Some(corrupt_every), ..Behaviour::default() };
        let (end, ..) = pi_4(behaviour).await;
        match end {
            Ok(files) => assert_eq!(files.kernel, image(300_000)),
            Err(error) => {
                assert!(matches!(error, NetworkError::Transfer { .. } | NetworkError::Dhcp(_)), "{error}")
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_server_the_eeprom_asks_for_45_seconds() {
    let (end, seen, _, elapsed) = pi_4(Behaviour { no_dhcp: true, ..Behaviour::default() }).await;
    assert_eq!(end.unwrap_err(), NetworkError::Dhcp(DhcpError::NoOffer { discovers: 12 }));
    assert_eq!(seen.discovers.len(), 12);
    assert_eq!(elapsed.as_secs(), 45);
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_says_nothing_about_booting_is_not_taken() {
    let (end, seen, ..) = pi_4(Behaviour { no_boot_options: true, ..Behaviour::default() }).await;
    assert_eq!(end.unwrap_err(), NetworkError::Dhcp(DhcpError::NoBootServer { address: NODE }));
    assert!(seen.requests.is_empty());
}

#[tokio::test(start_paused = true)]
async fn option_66_alone_is_enough_for_an_eeprom() {
    let (end, ..) = pi_4(Behaviour { only_option_66: true, ..Behaviour::default() }).await;
    assert_booted(end);
}

#[tokio::test(start_paused = true)]
async fn an_address_and_a_proxy_s_menu_are_put_together_in_either_order() {
    for proxy_first in [true, false] {
        let (end, ..) = pi_4(Behaviour { proxy_first: Some(proxy_first), ..Behaviour::default() }).await;
        assert_eq!(violations(&assert_booted(end)), []);
    }
}

#[tokio::test(start_paused = true)]
async fn an_ack_that_forgets_the_boot_options_is_a_violation() {
    let (end, _, shown, _) = pi_4(Behaviour { forgets_at_ack: true, ..Behaviour::default() }).await;
    assert_booted(end);
    assert!(shown.contains(&Progress::Violation(Violation::AckForgetsBoot)));
}

#[tokio::test(start_paused = true)]
async fn a_nak_starts_over_and_silence_gives_up() {
    let (end, seen, ..) = pi_4(Behaviour { naks: 2, ..Behaviour::default() }).await;
    assert_booted(end);
    assert_eq!(seen.discovers.len(), 3);
    let (end, ..) = pi_4(Behaviour { no_ack: true, ..Behaviour::default() }).await;
    assert_eq!(end.unwrap_err(), NetworkError::Dhcp(DhcpError::NoAck { address: NODE }));
}

#[tokio::test(start_paused = true)]
async fn a_server_without_oack_has_no_files() {
    let (end, _, shown, _) = pi_4(Behaviour { no_oack: true, ..Behaviour::default() }).await;
    assert!(matches!(end, Err(NetworkError::Halt(_))), "{end:?}");
    assert!(shown.contains(&Progress::Violation(Violation::NoOptionAcknowledgement)));
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_falls_silent_times_out_after_30_seconds() {
    let behaviour = Behaviour { silent_after: Some(("vmlinuz", 3)), ..Behaviour::default() };
    let (end, _, _, elapsed) = pi_4(behaviour).await;
    let source = TransferError::TimedOut { bytes: 3 * 1468 };
    assert_eq!(end.unwrap_err(), NetworkError::Transfer { path: "1a2b3c4d/vmlinuz".to_owned(), source });
    assert_eq!(elapsed.as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn each_rule_a_server_breaks_is_recorded() {
    async fn one(behaviour: Behaviour) -> Vec<Violation> {
        violations(&assert_booted(pi_4(behaviour).await.0))
    }
    let wrong_size = one(Behaviour { boasts: Some("initramfs.img"), ..Behaviour::default() }).await;
    assert_eq!(wrong_size, [Violation::WrongSize { announced: 20_001, sent: 20_000 }]);
    let refusal_delay = Duration::from_millis(60);
    let late = one(Behaviour { refusal_delay, ..Behaviour::default() }).await;
    assert!(!late.is_empty() && late.iter().all(|violation| matches!(violation, Violation::LateRefusal(_))));
    let reused = one(Behaviour { one_port: true, ..Behaviour::default() }).await;
    assert!(!reused.is_empty() && reused.iter().all(|violation| *violation == Violation::PortReused(40_000)));
    let no_blksize = one(Behaviour { no_blksize: true, ..Behaviour::default() }).await;
    assert!(no_blksize.contains(&Violation::OptionNotAcknowledged));
}

#[tokio::test(start_paused = true)]
async fn old_eeproms_ask_for_smaller_blocks_and_cannot_count_beyond_65535() {
    // Blocks of 8 bytes make a small kernel a long file.
    let mut files = boot_files(Model::Pi4, PREFIX);
    for (name, content) in &mut files {
        if name.ends_with("vmlinuz") {
            *content = image(8 * 65_600);
        }
    }
    let behaviour = || Behaviour { block_size: Some(8), ..Behaviour::default() };
    let (end, ..) = boot(Model::Pi4, Settings::default(), files.clone(), behaviour()).await;
    assert_eq!(end.unwrap().kernel, image(8 * 65_600));

    let old = Settings { eeprom: EepromDate::new(2020, 9, 3), ..Settings::default() };
    let (end, seen, ..) = boot(Model::Pi4, old, files, behaviour()).await;
    let source = TransferError::TooManyBlocks { blocks_max: 65_535 };
    assert_eq!(end.unwrap_err(), NetworkError::Transfer { path: "1a2b3c4d/vmlinuz".to_owned(), source });
    assert!(seen.reads[0].2.ends_with(b"tsize\x000\0blksize\x001024\0"));
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_is_none_does_not_boot() {
    let mut files = boot_files(Model::Pi4, PREFIX);
    for (name, content) in &mut files {
        if name.ends_with("vmlinuz") {
            *content = vec![0x4d; 4096];
        }
    }
    let (end, ..) = boot(Model::Pi4, Settings::default(), files, Behaviour::default()).await;
    let path = "1a2b3c4d/vmlinuz".to_owned();
    assert_eq!(end.unwrap_err(), NetworkError::Kernel { path, source: KernelError::NotAnImage });
}

#[tokio::test(start_paused = true)]
async fn a_missing_kernel_halts_by_name() {
    let mut files = boot_files(Model::Pi4, PREFIX);
    files.retain(|(name, _)| !name.ends_with("vmlinuz"));
    let (end, ..) = boot(Model::Pi4, Settings::default(), files, Behaviour::default()).await;
    assert_eq!(end.unwrap_err().to_string(), "1a2b3c4d/vmlinuz is missing: kernel");
}

#[tokio::test(start_paused = true)]
async fn a_pulled_cable_ends_the_boot() {
    let (mut port, server) = start(Vec::new(), Behaviour::default());
    server.abort();
    let _ = server.await;
    let end = boot_from_network(&mut port, &board(Model::Pi4), &mut |_| {}).await;
    assert_eq!(end.unwrap_err(), NetworkError::Cable(CableError));
}

/// In real time, because virtual time stands still while anybody is busy.
#[tokio::test]
async fn a_flood_of_other_frames_does_not_hold_up_any_deadline() {
    let settings = Settings {
        dhcp_timeout: Duration::from_millis(400),
        dhcp_request_timeout: Duration::from_millis(100),
        file_timeout: Duration::from_millis(400),
        ..Settings::default()
    };
    for flood in [Flood::AfterDiscover, Flood::AfterRead] {
        let behaviour = Behaviour { flood: Some(flood), ..Behaviour::default() };
        let attempt = boot(Model::Pi4, settings, boot_files(Model::Pi4, PREFIX), behaviour);
        let (end, _, _, elapsed) = tokio::time::timeout(Duration::from_secs(20), attempt).await.unwrap();
        assert!(matches!(end, Err(NetworkError::Dhcp(_) | NetworkError::Transfer { .. })), "{end:?}");
        assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    }
}
