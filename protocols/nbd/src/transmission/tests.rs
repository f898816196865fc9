use super::*;
use crate::export::{BlockSizes, Durability, Export, Hole, Work};
use crate::{ErrorNumber, MAXIMUM_PAYLOAD};

fn export(read_only: bool) -> Export {
    Export {
        name: "root".into(),
        description: String::new(),
        size: 1 << 30,
        read_only,
        block_sizes: BlockSizes::default(),
    }
}

fn request(command: Command, flags: u16, offset: u64, length: u32) -> Request {
    Request { flags, command, cookie: 0x0102_0304_0506_0708, offset, length }
}

#[test]
fn request_of_the_kernel_is_read_and_written_alike() {
    let wire =
        [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x10, 0];
    let decoded = request(Command::Write, FUA, 0x1_0000, 4096);
    assert_eq!(Request::decode(&wire), Ok(decoded));
    assert_eq!(decoded.encode(), wire);
}

#[test]
fn every_command_number_survives() {
    for number in 0..=u16::MAX {
        let wire = request(Command::of(number), 0, 0, 0).encode();
        assert_eq!(Request::decode(&wire).map(|request| request.command.number()), Ok(number));
    }
}

#[test]
fn header_out_of_step_is_noticed() {
    let mut wire = request(Command::Read, 0, 0, 512).encode();
    wire[0] = 0;
    assert_eq!(Request::decode(&wire), Err(BadMagic { found: 0x0060_9513 }));
    assert_eq!(SimpleReply::decode(&[0; 16]), Err(BadMagic { found: 0 }));
}

#[test]
fn replies_have_the_protocols_bytes() {
    let cookie = 7;
    let simple = ReplyHead::data(ReplyStyle::Simple, cookie, 512, 4096);
    assert_eq!(simple.as_bytes(), [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    let failed = ReplyHead::error(ReplyStyle::Simple, Command::Read, cookie, ErrorNumber::InputOutput);
    let decoded = SimpleReply::decode(failed.as_bytes().try_into().unwrap());
    assert_eq!(decoded, Ok(SimpleReply { error: 5, cookie }));
    let chunk = ReplyHead::data(ReplyStyle::Structured, cookie, 512, 4096);
    assert_eq!(
        chunk.as_bytes(),
        [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 2, 0]
    );
    let nothing = ReplyHead::data(ReplyStyle::Structured, cookie, 512, 0);
    assert_eq!(nothing.as_bytes(), [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0]);
    let error = ReplyHead::error(ReplyStyle::Structured, Command::Read, cookie, ErrorNumber::Invalid);
    assert_eq!(
        error.as_bytes(),
        [0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 6, 0, 0, 0, 22, 0, 0]
    );
    let write = ReplyHead::error(ReplyStyle::Structured, Command::Write, cookie, ErrorNumber::Invalid);
    assert_eq!(write.as_bytes().len(), SIMPLE_REPLY_BYTES);
}

#[test]
fn requests_are_admitted_or_refused_with_the_protocols_numbers() {
    const END: u64 = 1 << 30;
    use ErrorNumber::{Invalid, NoSpace, NotPermitted};
    let visible = Durability::Visible;
    let cases = [
        (Command::Read, 0, 0, 0, Ok(Work::Read { offset: 0, length: 0 })),
        (Command::Read, DF, END - 1, 1, Ok(Work::Read { offset: END - 1, length: 1 })),
        (Command::Read, FUA, 3, 5, Ok(Work::Read { offset: 3, length: 5 })),
        (Command::Read, 0, END - 1, 2, Err(Invalid)),
        (Command::Read, 0, u64::MAX, 2, Err(Invalid)),
        (Command::Read, 1 << 9, 0, 1, Err(Invalid)),
        (Command::Read, NO_HOLE, 0, 1, Err(Invalid)),
        (Command::Read, 0, 0, MAXIMUM_PAYLOAD, Ok(Work::Read { offset: 0, length: MAXIMUM_PAYLOAD })),
        (Command::Read, 0, 0, MAXIMUM_PAYLOAD + 1, Err(Invalid)),
        (Command::Write, 0, 0, 512, Ok(Work::Write { offset: 0, length: 512, durability: visible })),
        (
            Command::Write,
            FUA,
            0,
            512,
            Ok(Work::Write { offset: 0, length: 512, durability: Durability::Durable }),
        ),
        (Command::Write, 0, END, 1, Err(NoSpace)),
        (Command::Write, 0, 0, MAXIMUM_PAYLOAD + 1, Err(Invalid)),
        (Command::Flush, 0, 77, 77, Ok(Work::Flush)),
        // Nothing is carried, so nothing but the end limits it.
        (Command::Trim, 0, 0, 1 << 30, Ok(Work::Trim { offset: 0, length: 1 << 30, durability: visible })),
        (Command::Trim, NO_HOLE, 0, 1, Err(Invalid)),
        (
            Command::WriteZeroes,
            NO_HOLE,
            0,
            1,
            Ok(Work::Zero { offset: 0, length: 1, durability: visible, hole: Hole::Forbidden }),
        ),
        (Command::WriteZeroes, 0, END, 1, Err(NoSpace)),
        (Command::Disconnect, 0xffff, 0, 0, Ok(Work::Disconnect)),
        (Command::Other(5), 0, 0, 0, Err(Invalid)),
        (Command::Other(7), 0, 0, 512, Err(Invalid)),
    ];
    for (command, flags, offset, length, verdict) in cases {
        let request = request(command, flags, offset, length);
        assert_eq!(export(false).admit(&request), verdict, "{request:?}");
        if matches!(command, Command::Write | Command::Trim | Command::WriteZeroes) {
            let verdict = if verdict == Err(Invalid) && flags != 0 { Invalid } else { NotPermitted };
            assert_eq!(export(true).admit(&request), Err(verdict), "read-only {request:?}");
        }
    }
}

#[test]
fn minimum_block_size_is_enforced() {
    let block_sizes = BlockSizes { minimum: 512, preferred: 4096, maximum: 1 << 20 };
    let export = Export { block_sizes, ..export(false) };
    for (offset, length, legal) in [(512, 512, true), (1, 512, false), (512, 1, false), (0, 2 << 20, false)] {
        assert_eq!(export.admit(&request(Command::Read, 0, offset, length)).is_ok(), legal);
    }
}

#[test]
fn read_only_export_promises_no_writes() {
    let flags = export(true).transmission_flags();
    assert!(
        flags.contains(TransmissionFlags::READ_ONLY) && flags.contains(TransmissionFlags::CAN_MULTI_CONN)
    );
    assert!(!flags.contains(TransmissionFlags::SEND_TRIM) && !flags.contains(TransmissionFlags::SEND_FUA));
}
