use super::*;
use dhcp::MacAddr;
use std::{fs, net::Ipv4Addr};

fn record(n: u8) -> Record {
    Record { address: Ipv4Addr::new(10, 77, 0, 10 + n), mac: MacAddr([0xdc, 0xa6, 0x32, 0, 0, n]) }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases");
    (folder, path)
}

fn records_in(path: &Path) -> Vec<Record> {
    Journal::open(path).unwrap().1
}

#[test]
fn records_survive_and_read_as_documented() {
    let (_folder, path) = folder();
    let (mut journal, records) = Journal::open(&path).unwrap();
    assert_eq!(records, []);
    journal.append(&[record(1), record(2)]).unwrap();
    journal.append(&[record(3)]).unwrap();
    drop(journal);
    assert_eq!(records_in(&path), [record(1), record(2), record(3)]);
    // The checksum is that of zlib.crc32 in Python.
    assert!(fs::read_to_string(&path).unwrap().starts_with("10.77.0.11 dc:a6:32:00:00:01 7cbcf97e\n"));
}

#[test]
fn power_may_go_at_any_octet_and_the_next_record_is_still_kept() {
    let (_folder, path) = folder();
    let (mut journal, _) = Journal::open(&path).unwrap();
    let all: Vec<Record> = (1..=8).map(record).collect();
    journal.append(&all).unwrap();
    drop(journal);
    let bytes = fs::read(&path).unwrap();
    for cut in 0..=bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let whole = bytes[..cut].iter().filter(|octet| **octet == b'\n').count();
        let (mut journal, records) = Journal::open(&path).unwrap();
        assert_eq!(records, all[..whole], "cut at {cut}");
        journal.append(&[record(99)]).unwrap();
        drop(journal);
        let mut expected = all[..whole].to_vec();
        expected.push(record(99));
        assert_eq!(records_in(&path), expected, "appended after a cut at {cut}");
    }
}

#[test]
fn a_longer_torn_tail_never_shows_through_a_shorter_record() {
    let (_folder, path) = folder();
    let long = Record { address: Ipv4Addr::new(210, 177, 110, 110), mac: MacAddr([2; 6]) };
    for cut in 1..line(&long).len() {
        fs::write(&path, format!("{}{}", line(&record(1)), &line(&long)[..cut])).unwrap();
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(&[Record { address: Ipv4Addr::new(1, 1, 1, 1), mac: MacAddr([2; 6]) }]).unwrap();
        drop(journal);
        assert_eq!(records_in(&path).len(), 2, "cut at {cut}");
    }
}

#[test]
fn a_flipped_bit_costs_one_record_at_most_two_and_invents_none() {
    let (_folder, path) = folder();
    let all: Vec<Record> = (1..=4).map(record).collect();
    let bytes: String = all.iter().map(line).collect();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone().into_bytes();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &damaged).unwrap();
        let (journal, records) = Journal::open(&path).unwrap();
        assert!(records.iter().all(|record| all.contains(record)), "bit {bit}");
        assert!(records.len() >= 2, "bit {bit}");
        assert!(journal.wants_compaction(4), "bit {bit}");
    }
}

#[test]
fn a_compacted_journal_holds_what_it_was_given_and_can_grow() {
    let (_folder, path) = folder();
    let (mut journal, _) = Journal::open(&path).unwrap();
    for n in 0..100 {
        journal.append(&[record(n % 3)]).unwrap();
    }
    assert!(!journal.wants_compaction(3));
    journal.compact(&[record(0), record(2)]).unwrap();
    journal.append(&[record(7)]).unwrap();
    assert!(
        matches!(Journal::open(&path), Err(JournalError::Locked)),
        "the new file is locked as the old one was"
    );
    drop(journal);
    assert_eq!(records_in(&path), [record(0), record(2), record(7)]);
    assert!(!path.with_file_name("leases.new").exists());
}

#[test]
fn a_power_cut_while_compacting_leaves_the_old_journal() {
    let (_folder, path) = folder();
    let (mut journal, _) = Journal::open(&path).unwrap();
    journal.append(&[record(1), record(2)]).unwrap();
    drop(journal);
    fs::write(path.with_file_name("leases.new"), &line(&record(3))[..20]).unwrap();
    let (mut journal, records) = Journal::open(&path).unwrap();
    assert_eq!(records, [record(1), record(2)]);
    journal.compact(&records).unwrap();
    drop(journal);
    assert_eq!(records_in(&path), [record(1), record(2)]);
}

#[test]
fn a_journal_with_many_superseded_records_wants_compaction() {
    let (_folder, path) = folder();
    let text: String = (0..SLACK + 4).map(|_| line(&record(1))).collect();
    fs::write(&path, text).unwrap();
    let (journal, _) = Journal::open(&path).unwrap();
    assert!(journal.wants_compaction(1));
    assert!(!journal.wants_compaction(2));
}

#[test]
fn what_cannot_be_a_journal_is_refused() {
    let (folder, path) = folder();
    File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
    assert!(matches!(Journal::open(&path), Err(JournalError::TooLong)));
    assert!(matches!(Journal::open(folder.path()), Err(JournalError::Open(_))));
    assert!(matches!(Journal::open(Path::new("/nowhere/leases")), Err(JournalError::Open(_))));
}
