//! The server over real sockets.

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use disk::{Access, Disk, DiskError, FileDisk, MemoryDisk, Space};
use nbd::transmission::{FUA, TransmissionFlags};
use nbd::{Command, MAXIMUM_PAYLOAD};
use support::{Client, connect, pattern, serve_disk, serve_files};

const SIZE: usize = 3_000_000;

fn image() -> (tempfile::NamedTempFile, Vec<u8>) {
    let (file, content) = (tempfile::NamedTempFile::new().unwrap(), pattern(SIZE));
    std::fs::write(file.path(), &content).unwrap();
    (file, content)
}

#[test]
fn ranges_of_files_and_of_other_disks_are_read_as_they_are() {
    let (file, content) = image();
    let path = file.path().display();
    let servers = [serve_files(&[format!("disk={path}")]), serve_disk(MemoryDisk::new(content.clone()))];
    for server in servers {
        let mut client = Client::attach(server, "disk");
        assert_eq!(client.attached.size, SIZE as u64);
        for (offset, length) in
            [(0, 1), (0, 512), (1, 4096), (65_535, 65_538), (0, SIZE), (SIZE - 1, 1), (SIZE, 0)]
        {
            let read = client.read(offset as u64, length as u32).unwrap();
            assert!(read == content[offset..][..length], "{length} at {offset}");
        }
    }
}

#[test]
fn senseless_requests_are_refused_and_the_client_is_served_on() {
    let (file, content) = image();
    let server = serve_files(&[format!("disk={}", file.path().display())]);
    let mut client = Client::attach(server, "disk");
    assert!(client.attached.flags.contains(TransmissionFlags::READ_ONLY));
    assert_eq!(client.read(SIZE as u64 - 1, 2), Err(22));
    assert_eq!(client.read(u64::MAX, 1), Err(22));
    assert_eq!(client.read(0, MAXIMUM_PAYLOAD + 1), Err(22));
    assert_eq!(client.write(0, 0, &pattern(100_000)), 1);
    assert_eq!(client.command(Command::Trim, 0, 512), 1);
    assert_eq!(client.command(Command::WriteZeroes, 0, 512), 1);
    assert_eq!(client.command(Command::Other(7), 0, 512), 22);
    assert_eq!(client.command(Command::Flush, 0, 0), 0);
    assert_eq!(client.read(7, 100).unwrap(), content[7..107]);
}

#[test]
fn writes_are_read_back_by_others_and_found_in_the_file() {
    let (file, mut content) = image();
    let server = serve_files(&[format!("disk={},rw", file.path().display())]);
    let (mut one, mut two) = (Client::attach(server, "disk"), Client::attach(server, "disk"));
    let data = pattern(1_000_001);
    assert_eq!(one.write(0, 4097, &data), 0);
    content[4097..][..data.len()].copy_from_slice(&data);
    assert_eq!(one.write(FUA, 0, b"begin"), 0);
    content[..5].copy_from_slice(b"begin");
    assert_eq!(one.command(Command::WriteZeroes, 2_000_000, 500_000), 0);
    content[2_000_000..2_500_000].fill(0);
    assert_eq!(one.command(Command::Flush, 0, 0), 0);
    assert!(two.read(0, SIZE as u32).unwrap() == content);
    assert!(std::fs::read(file.path()).unwrap() == content);
    // Beyond the end, and behind it something that is in step.
    assert_eq!(one.write(0, SIZE as u64 - 1, &[0; 70_000]), 28);
    assert_eq!(one.write(0, 0, &[]), 0);
    assert_eq!(one.command(Command::Trim, 0, 4096), 0);
    assert_eq!(one.read(4096, 1).unwrap(), content[4096..4097]);
}

#[test]
fn stream_out_of_step_and_endless_write_end_the_connection() {
    let (file, _) = image();
    let server = serve_files(&[format!("disk={},rw", file.path().display())]);
    let mut client = Client::attach(server, "disk");
    client.stream.write_all(&[0; 28]).unwrap();
    assert!(is_closed(&mut client));
    let mut client = Client::attach(server, "disk");
    client.request(Command::Write, 0, 0, 0, MAXIMUM_PAYLOAD + 1);
    assert!(is_closed(&mut client));
}

fn is_closed(client: &mut Client) -> bool {
    match client.stream.read(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn goodbye_is_said_after_the_last_reply() {
    let (file, content) = image();
    let server = serve_files(&[format!("disk={}", file.path().display())]);
    let mut client = Client::attach(server, "disk");
    client.request(Command::Read, 0, 0, 0, SIZE as u32);
    client.request(Command::Disconnect, 0, 0, 0, 0);
    let mut answer = Vec::new();
    client.stream.read_to_end(&mut answer).unwrap();
    assert!(answer[16..] == content);
}

#[test]
fn client_that_leaves_at_any_byte_of_the_handshake_or_a_request_hurts_nobody() {
    let (file, content) = image();
    let server = serve_files(&[format!("disk={}", file.path().display())]);
    let go = [&[0, 0, 0, 3][..], b"IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x04disk\0\0"].concat();
    let request = nbd::Request { flags: 0, command: Command::Read, cookie: 1, offset: 0, length: 1 << 20 };
    let bytes = [go, request.encode().to_vec()].concat();
    for end in 0..=bytes.len() {
        connect(server).write_all(&bytes[..end]).unwrap();
    }
    assert_eq!(Client::attach(server, "disk").read(5, 5).unwrap(), content[5..10]);
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let (file, content) = image();
    let server = serve_files(&[format!("disk={}", file.path().display())]);
    let mut client = Client::attach(server, "disk");
    let mut sender = client.stream.try_clone().unwrap();
    const COUNT: u64 = 2000;
    let ask = std::thread::spawn(move || {
        for cookie in 0..COUNT {
            let request = nbd::Request {
                flags: 0,
                command: Command::Read,
                cookie,
                offset: cookie * 1400,
                length: 1000 + cookie as u32,
            };
            sender.write_all(&request.encode()).unwrap();
        }
    });
    let mut seen = vec![false; COUNT as usize];
    for _ in 0..COUNT {
        let reply = client.reply();
        let mut data = vec![0; 1000 + reply.cookie as usize];
        client.stream.read_exact(&mut data).unwrap();
        let offset = reply.cookie as usize * 1400;
        assert!(reply.error == 0 && data == content[offset..][..data.len()]);
        assert!(!std::mem::replace(&mut seen[reply.cookie as usize], true));
    }
    ask.join().unwrap();
}

#[test]
fn client_that_never_reads_does_not_hold_up_others() {
    let (file, content) = image();
    let server = serve_files(&[format!("disk={}", file.path().display())]);
    // More than threads, so that each has some.
    let mut mute: Vec<_> = (0..16).map(|_| Client::attach(server, "disk")).collect();
    for client in &mut mute {
        client.stream.set_nonblocking(true).unwrap();
        for cookie in 0..100_000 {
            let request =
                nbd::Request { flags: 0, command: Command::Read, cookie, offset: 0, length: SIZE as u32 };
            if client.stream.write(&request.encode()).is_err() {
                break;
            }
        }
    }
    let begin = Instant::now();
    for _ in 0..8 {
        assert!(Client::attach(server, "disk").read(0, SIZE as u32).unwrap() == content);
    }
    assert!(begin.elapsed() < Duration::from_secs(10));
}

/// A disk with one slow, and one broken operation.
#[derive(Debug)]
struct Troubled(MemoryDisk);

impl Disk for Troubled {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn block_size(&self) -> u32 {
        self.0.block_size()
    }

    fn access(&self) -> Access {
        Access::ReadWrite
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        match offset {
            8192.. => Err(DiskError::InputOutput(std::io::Error::other("scratched"))),
            _ => self.0.read_at(buffer, offset),
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        match offset {
            65_536.. => Err(DiskError::InputOutput(std::io::ErrorKind::StorageFull.into())),
            _ => self.0.write_at(data, offset),
        }
    }

    fn flush(&self) -> Result<(), DiskError> {
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.0.discard(offset, length)
    }

    fn zero(&self, offset: u64, length: u64, space: Space) -> Result<(), DiskError> {
        self.0.zero(offset, length, space)
    }
}

#[test]
fn slow_request_is_overtaken() {
    let server = serve_disk(Troubled(MemoryDisk::new(pattern(1 << 20))));
    let mut client = Client::attach(server, "disk");
    client.request(Command::Flush, 0, 77, 0, 0);
    assert_eq!(client.read(0, 100).unwrap(), pattern(100));
    assert_eq!(client.reply().cookie, 77);
}

#[test]
fn broken_medium_is_an_error_of_the_request_alone() {
    let server = serve_disk(Troubled(MemoryDisk::new(pattern(1 << 20))));
    let mut client = Client::attach(server, "disk");
    assert_eq!(client.read(8192, 100), Err(5));
    // The first pieces are written, one fails, and the rest is read past.
    assert_eq!(client.write(0, 0, &pattern(300_000)), 28);
    assert_eq!(client.read(0, 100).unwrap(), pattern(100));
}

#[test]
fn shrunken_file_is_an_error_of_requests_beyond_its_end() {
    let (file, content) = image();
    let disk = FileDisk::open(file.path(), Access::ReadOnly).unwrap();
    let server = serve_disk(disk);
    let mut client = Client::attach(server, "disk");
    file.as_file().set_len(8192).unwrap();
    assert_eq!(client.read(0, 1 << 20), Err(5));
    assert_eq!(client.read(0, 100).unwrap(), content[..100]);
}
