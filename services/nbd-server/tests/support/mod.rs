//! A server on a thread of its own, on a free port of the loopback, and a client made of the `nbd` crate.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use disk::Disk;
use nbd::client::Handshake;
use nbd::transmission::{Request, SIMPLE_REPLY_BYTES, SimpleReply};
use nbd::{Command, client::Attached};
use nbd_server::exports::Exports;
use nbd_server::listener::Listener;

/// Serves the exports; ends with the test.
pub fn serve(exports: Exports) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let address = "127.0.0.1:0".parse().unwrap();
            let listener = Listener::bind(address, exports, bus::Reporter::disconnected()).unwrap();
            tell.send(listener.local_address()).unwrap();
            listener.serve().await.unwrap();
        });
    });
    told.recv().unwrap()
}

/// Serves one disk under the name `disk`.
pub fn serve_disk(disk: impl Disk + 'static) -> SocketAddr {
    serve(Exports::new(vec![("disk".into(), "a test".into(), Arc::new(disk))]))
}

/// Serves files: `NAME=PATH[,rw]`.
pub fn serve_files(definitions: &[String]) -> SocketAddr {
    let definitions: Vec<_> = definitions.iter().map(|text| text.parse().unwrap()).collect();
    serve(Exports::open(&definitions).unwrap())
}

/// Bytes that differ everywhere.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| ((index / 251) ^ index) as u8).collect()
}

/// A client that has attached.
pub struct Client {
    /// The connection.
    pub stream: TcpStream,
    /// What the server said of the export.
    pub attached: Attached,
}

impl Client {
    /// Attaches to the export of this name.
    pub fn attach(server: SocketAddr, export: &str) -> Self {
        let mut stream = connect(server);
        let mut handshake = Handshake::new(export);
        while handshake.wanted() > 0 {
            let mut bytes = vec![0; handshake.wanted()];
            stream.read_exact(&mut bytes).unwrap();
            handshake.receive(&bytes).unwrap();
            if let Some(bytes) = handshake.transmit() {
                stream.write_all(&bytes).unwrap();
            }
        }
        Self { stream, attached: handshake.attached().unwrap() }
    }

    /// Sends a request.
    pub fn request(&mut self, command: Command, flags: u16, cookie: u64, offset: u64, length: u32) {
        let request = Request { flags, command, cookie, offset, length };
        self.stream.write_all(&request.encode()).unwrap();
    }

    /// Receives a reply's head.
    pub fn reply(&mut self) -> SimpleReply {
        let mut head = [0; SIMPLE_REPLY_BYTES];
        self.stream.read_exact(&mut head).unwrap();
        SimpleReply::decode(&head).unwrap()
    }

    /// Reads a range.
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, u32> {
        self.request(Command::Read, 0, offset, offset, length);
        let reply = self.reply();
        assert_eq!(reply.cookie, offset);
        if reply.error != 0 {
            return Err(reply.error);
        }
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data).unwrap();
        Ok(data)
    }

    /// Writes a range.
    pub fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        self.request(Command::Write, flags, 1, offset, data.len() as u32);
        self.stream.write_all(data).unwrap();
        self.reply().error
    }

    /// Any other request.
    pub fn command(&mut self, command: Command, offset: u64, length: u32) -> u32 {
        self.request(command, 0, 2, offset, length);
        self.reply().error
    }
}

/// A connection on which nobody waits for ever.
pub fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}
