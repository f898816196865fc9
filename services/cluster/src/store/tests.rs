//! The database after the worst that can happen to it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

fn record(number: u32) -> Record {
    Record {
        mac: format!("dc:a6:32:00:{:02x}:{:02x}", number >> 8, number & 255),
        boots: 1,
        ..Record::default()
    }
}

/// Not a test of its own: the writer that the next test kills. It tells each number once it is durable.
#[test]
fn writer() {
    let Ok(path) = std::env::var("BRAMBLE_TEST_STORE") else { return };
    let store = Store::open(Path::new(&path)).expect("the database opens");
    for number in 0..65_536 {
        store.keep(&[record(number)]).expect("the record is written");
        println!("kept {number}");
    }
}

#[test]
fn what_was_kept_before_a_kill_is_there_after_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.redb");
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "store::tests::writer", "--nocapture"])
            .env("BRAMBLE_TEST_STORE", &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the writer starts");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut kept = None;
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.split("kept ").nth(1).and_then(|number| number.parse::<u32>().ok()) {
                kept = Some(number);
                if number >= 20 + round * 7 {
                    break;
                }
            }
        }
        child.kill().expect("the writer is killed");
        child.wait().expect("the writer has ended");
        let kept = kept.expect("the writer wrote");
        let (store, replaced) = Store::open_or_replace(&path).expect("the database opens");
        assert!(replaced.is_none(), "round {round}: {replaced:?}");
        let (records, unreadable) = store.records().expect("the records are read");
        assert_eq!(unreadable, 0);
        for number in 0..=kept {
            assert!(records.contains(&record(number)), "round {round}: record {number} of {kept} is gone");
        }
    }
}

#[test]
fn a_file_that_is_no_database_is_put_aside_and_not_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.redb");
    std::fs::write(&path, b"this is no database, but somebody may want it").expect("the file is written");
    let (store, replaced) = Store::open_or_replace(&path).expect("a new database is made");
    assert!(replaced.is_some());
    assert_eq!(store.records().expect("the records are read"), (Vec::new(), 0));
    let aside = std::fs::read(path.with_extension("unusable")).expect("the file is aside");
    assert!(aside.starts_with(b"this is no database"));
}

#[test]
fn a_database_of_a_later_version_is_not_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.redb");
    {
        let store = Store::open(&path).expect("the database opens");
        let transaction = store.database.begin_write().expect("a transaction");
        transaction.open_table(META).expect("the table").insert("schema", SCHEMA + 1).expect("written");
        transaction.commit().expect("committed");
    }
    assert!(matches!(Store::open(&path), Err(StoreError::Schema { found, .. }) if found == SCHEMA + 1));
}
