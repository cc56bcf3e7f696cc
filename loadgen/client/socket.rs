//! A non-blocking connection: TCP, or TLS over it.
//!
//! Owns which bytes are the answer's and when they arrived. Knows nothing of HTTP.
use std::io::{self, IoSlice, Read, Write};

use minisgl_kernels::socket;
use mio::net::TcpStream;
use rustls::ClientConnection;

use super::stamps::Stamps;

/// A connection; reads and writes end with `WouldBlock` where they would wait.
pub(crate) enum Socket {
    /// TCP.
    Plain(Plain),
    /// TLS over TCP.
    Tls(Box<Tls>),
}

/// A TCP socket whose arrivals are noted, where the system can.
struct Tcp {
    stream: TcpStream,
    is_noted: bool,
}

/// A TCP socket, and how it is read.
pub(crate) struct Plain {
    tcp: Tcp,
    /// Whether reads of it leave what they took in the socket's queue.
    peeks: Peeks,
}

/// Reading without taking.
///
/// A read that empties a socket sends an acknowledgement of its own, which is more than half of its cost: chunks of 250
/// bytes every 20 ms over loopback cost 5.4 µs a read, and 1.9 µs where reads only look on from where the last one stopped
/// (`SO_PEEK_OFF`, Linux 6.9) and the bytes are thrown away several chunks at a time. The acknowledgement then comes with that,
/// or by the kernel's own timer within 40 ms.
#[derive(Clone, Copy)]
enum Peeks {
    /// Never asked for.
    No,
    /// The system cannot.
    Cannot,
    /// What was looked at and lies there still.
    Behind { bytes: usize, reads: u32 },
}

/// What may lie in the queue. A packet takes a kilobyte of it however small it is, and the window is 64.
const MOST_READS_BEHIND: u32 = 32;
const MOST_BYTES_BEHIND: usize = 32 << 10;

/// A TLS session and what it runs over.
pub(crate) struct Tls {
    tcp: Tcp,
    session: ClientConnection,
    /// When the bytes that the session has taken last arrived.
    arrived: u64,
}

impl Socket {
    /// TCP alone.
    pub(crate) fn plain(tcp: TcpStream) -> Self {
        Self::Plain(Plain { tcp: Tcp::new(tcp), peeks: Peeks::No })
    }

    /// TLS over `tcp`. What is written before the handshake is over waits in the session.
    pub(crate) fn tls(tcp: TcpStream, mut session: ClientConnection) -> Self {
        session.set_buffer_limit(None); // a request is written whole, and is in memory anyhow
        Self::Tls(Box::new(Tls { tcp: Tcp::new(tcp), session, arrived: 0 }))
    }

    /// The TCP socket, to be registered.
    pub(crate) fn tcp(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(plain) => &mut plain.tcp.stream,
            Self::Tls(tls) => &mut tls.tcp.stream,
        }
    }

    /// Writes as much as is taken now.
    pub(crate) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(plain) => not_yet(plain.tcp.stream.write_vectored(slices)),
            Self::Tls(tls) => tls.session.writer().write_vectored(slices),
        }
    }

    /// Sends what a TLS session holds back; true when all is sent.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        let Self::Tls(tls) = self else { return Ok(true) };
        while tls.session.wants_write() {
            match not_yet(tls.session.write_tls(&mut tls.tcp.stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(!tls.session.is_handshaking())
    }

    /// Reads some of the answer's bytes, and says when the last of them arrived. 0 bytes are the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8], stamps: &mut Stamps) -> io::Result<(usize, u64)> {
        match self {
            Self::Plain(plain) => plain.read(buffer, stamps),
            Self::Tls(tls) => tls.read(buffer, stamps),
        }
    }

    /// Makes further reads cheap, where the system can; see [`Peeks`].
    pub(crate) fn save_acknowledgements(&mut self) {
        if let Self::Plain(plain) = self {
            plain.start_to_peek();
        }
    }

    /// Reads as ever again. Nothing may lie in the queue that was looked at: see [`Self::take_all`].
    pub(crate) fn stop_saving(&mut self) {
        if let Self::Plain(plain) = self {
            plain.stop_peeking();
        }
    }

    /// Takes what was only looked at: a socket that is closed with bytes in its queue resets the connection.
    pub(crate) fn take_all(&mut self) {
        if let Self::Plain(plain) = self {
            // What cannot be taken from a broken connection needs not be.
            let _ = plain.catch_up();
        }
    }

    /// Whether there is no TLS.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Whether a read that did not fill the buffer has taken all there was, so that the next would only say so.
    pub(crate) fn is_drained_by_short_read(&self) -> bool {
        self.is_plain()
    }
}

impl Tcp {
    fn new(stream: TcpStream) -> Self {
        let is_noted = socket::stamp_arrivals(&stream).is_ok();
        Self { stream, is_noted }
    }

    /// Takes bytes, or looks at them; how many, and when the last arrived.
    fn receive(&mut self, buffer: &mut [u8], peek: bool, stamps: &mut Stamps) -> io::Result<(usize, u64)> {
        let (n, arrived) = match (self.is_noted, peek) {
            (true, _) => socket::receive(&self.stream, buffer, peek)?,
            (false, true) => (self.stream.peek(buffer)?, None),
            (false, false) => (self.stream.read(buffer)?, None),
        };
        // The end of a stream has no bytes that arrived.
        Ok((n, if n == 0 { stamps.clock().now() } else { stamps.of(arrived) }))
    }
}

impl Plain {
    fn read(&mut self, buffer: &mut [u8], stamps: &mut Stamps) -> io::Result<(usize, u64)> {
        let Peeks::Behind { bytes, reads } = self.peeks else {
            return self.tcp.receive(buffer, false, stamps);
        };
        let (n, at) = self.tcp.receive(buffer, true, stamps)?;
        let (bytes, reads) = (bytes + n, reads + 1);
        self.peeks = Peeks::Behind { bytes, reads };
        if bytes >= MOST_BYTES_BEHIND || reads >= MOST_READS_BEHIND {
            self.catch_up()?;
        }
        Ok((n, at))
    }

    fn start_to_peek(&mut self) {
        if matches!(self.peeks, Peeks::No) {
            self.peeks = match socket::peek_onwards(&self.tcp.stream, true) {
                Ok(()) => Peeks::Behind { bytes: 0, reads: 0 },
                Err(_) => Peeks::Cannot,
            };
        }
    }

    fn stop_peeking(&mut self) {
        if let Peeks::Behind { bytes: 0, .. } = self.peeks
            && socket::peek_onwards(&self.tcp.stream, false).is_ok()
        {
            self.peeks = Peeks::No;
        }
    }

    /// Takes the bytes that were looked at.
    fn catch_up(&mut self) -> io::Result<()> {
        let Peeks::Behind { bytes, reads } = &mut self.peeks else { return Ok(()) };
        *reads = 0;
        while *bytes > 0 {
            // The kernel moves the place where the next look begins back by as much.
            let n = socket::discard(&self.tcp.stream, *bytes)?;
            *bytes -= n;
            if n == 0 {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Tls {
    fn read(&mut self, buffer: &mut [u8], stamps: &mut Stamps) -> io::Result<(usize, u64)> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that closes without saying so in TLS: HTTP's own framing tells whether anything is missing.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((0, self.arrived)),
                other => return other.map(|n| (n, self.arrived)),
            }
            let Self { tcp, session, arrived } = self;
            let n = session.read_tls(&mut Received { tcp, stamps, arrived })?;
            session.process_new_packets().map_err(io::Error::other)?;
            if n == 0 && session.is_handshaking() {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the connection closed within the TLS handshake",
                ));
            }
            // The handshake and key updates have answers.
            if session.wants_write() {
                match not_yet(session.write_tls(&mut tcp.stream)) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
        }
    }
}

/// A socket as a session reads it, which notes when what it took arrived.
struct Received<'a> {
    tcp: &'a mut Tcp,
    stamps: &'a mut Stamps,
    arrived: &'a mut u64,
}

impl Read for Received<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (n, at) = self.tcp.receive(buffer, false, self.stamps)?;
        *self.arrived = at;
        Ok(n)
    }
}

/// A socket that is still connecting is one that takes no bytes yet.
fn not_yet(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Err(io::ErrorKind::WouldBlock.into()),
        other => other,
    }
}
