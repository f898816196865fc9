//! The Pi 3's way, with the bugs of its ROM.

use std::time::Duration;

use pi_boot::pxe::CONSTANT_TRANSACTION;

use super::fake_server::Behaviour;
use super::network::boot;
use super::*;
use crate::firmware::*;

fn files(model: Model) -> Files {
    let mut files = boot_files(model, "1a2b3c4d/");
    files.push(("bootcode.bin".to_owned(), vec![3; 52_000]));
    files
}

fn late_enough() -> Behaviour {
    Behaviour { offer_delay: Duration::from_millis(1200), ..Behaviour::default() }
}

#[tokio::test(start_paused = true)]
async fn pi_3b_boots_without_ever_requesting_its_address() {
    let (end, seen, ..) = boot(Model::Pi3B, Settings::default(), files(Model::Pi3B), late_enough()).await;
    let files = end.unwrap();
    assert_eq!(files.kernel, image(300_000));
    assert!(files.trace.iter().all(|entry| entry.violations.is_empty()));
    assert!(seen.requests.is_empty(), "a Pi 3 takes the OFFER for granted");
    // bootcode.bin repeats its DISCOVER every second, and so once more until the late OFFER.
    assert!(seen.discovers.len() >= 2);
    assert!(seen.discovers.iter().all(|discover| discover.xid == CONSTANT_TRANSACTION));
    let requests: Vec<&[u8]> = seen.reads.iter().take(3).map(|(_, _, bytes)| bytes.as_slice()).collect();
    assert_eq!(requests[0], b"\x00\x01bootcode.bin\0octet\0");
    assert_eq!(requests[1], b"\x00\x01bootsig.bin\0octet\0");
    assert_eq!(requests[2], b"\x00\x011a2b3c4d/start.elf\0octet\0tsize\x000\0");
    assert_eq!(seen.reads[0].0, 49152, "ports count from the first dynamic one");
}

#[tokio::test(start_paused = true)]
async fn pi_3b_rom_sends_frames_as_its_own_network_stack_would() {
    let (_, seen, ..) = boot(Model::Pi3B, Settings::default(), files(Model::Pi3B), late_enough()).await;
    let frame = seen.first_frame;
    assert_eq!(
        (frame[22], &frame[18..22], &frame[40..42]),
        (128, &[0; 4][..], &[0; 2][..]),
        "TTL, id, UDP sum"
    );
}

#[tokio::test(start_paused = true)]
async fn pi_3b_rom_locks_up_when_answered_within_a_second() {
    let behaviour = Behaviour { offer_delay: Duration::from_millis(900), ..Behaviour::default() };
    let (end, ..) = boot(Model::Pi3B, Settings::default(), files(Model::Pi3B), behaviour).await;
    assert!(matches!(end, Err(NetworkError::Dhcp(DhcpError::AnsweredTooEarly(_)))), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn pi_3b_plus_is_repaired() {
    let (end, ..) =
        boot(Model::Pi3BPlus, Settings::default(), files(Model::Pi3BPlus), Behaviour::default()).await;
    assert_eq!(end.unwrap().kernel, image(300_000));
}

#[tokio::test(start_paused = true)]
async fn pi_3b_rom_asks_five_times_and_never_again() {
    let behaviour = Behaviour { no_dhcp: true, ..Behaviour::default() };
    let (end, _, _, elapsed) = boot(Model::Pi3B, Settings::default(), files(Model::Pi3B), behaviour).await;
    assert_eq!(end.unwrap_err(), NetworkError::Dhcp(DhcpError::NoOffer { discovers: 5 }));
    assert_eq!(elapsed.as_secs(), 25);
}

#[tokio::test(start_paused = true)]
async fn pi_3b_rom_does_not_repeat_what_is_lost() {
    let behaviour = Behaviour { silent_after: Some(("bootcode.bin", 5)), ..late_enough() };
    let (end, ..) = boot(Model::Pi3B, Settings::default(), files(Model::Pi3B), behaviour).await;
    let source = TransferError::TimedOut { bytes: 5 * 512 };
    assert_eq!(end.unwrap_err(), NetworkError::Transfer { path: "bootcode.bin".to_owned(), source });
}

#[tokio::test(start_paused = true)]
async fn pi_3b_rom_answers_no_arp_while_it_loads() {
    let mut only_rom = files(Model::Pi3B);
    only_rom.retain(|(name, _)| name == "bootcode.bin");
    let behaviour = Behaviour { silent_after: Some(("bootcode.bin", 5)), ..late_enough() };
    let (_, seen, ..) = boot(Model::Pi3B, Settings::default(), only_rom, behaviour).await;
    assert_eq!(seen.arp_answers, 0);
}

#[tokio::test(start_paused = true)]
async fn later_stages_take_a_silent_server_s_file_for_missing() {
    let behaviour = Behaviour { silent_after: Some(("cmdline.txt", 0)), ..late_enough() };
    let (end, ..) = boot(Model::Pi3B, Settings::default(), files(Model::Pi3B), behaviour).await;
    assert_eq!(end.unwrap_err().to_string(), "1a2b3c4d/cmdline.txt is missing: kernel command line");
}
