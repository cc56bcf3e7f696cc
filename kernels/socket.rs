//! What of Linux's sockets no safe crate offers: looks that go on where the last one stopped, and when bytes arrived. Knows
//! nothing of what is sent.
use std::io;
use std::time::Duration;

/// Makes every look at `socket`'s bytes (`MSG_PEEK`) begin where the last one stopped, or, with `onwards` false, at the first
/// byte again: Linux's `SO_PEEK_OFF`, for TCP from 6.9 on. Taking bytes moves the place back by as many.
///
/// # Errors
/// Where the system cannot: a look then begins at the first byte each time.
#[cfg(target_os = "linux")]
pub fn peek_onwards(socket: &impl std::os::fd::AsRawFd, onwards: bool) -> io::Result<()> {
    set(socket, libc::SO_PEEK_OFF, if onwards { 0 } else { -1 })
}

/// Lets the kernel note when each packet for `socket`, or for one that it accepts, arrived: `SO_TIMESTAMPNS`. See [`receive`].
///
/// # Errors
/// Where the system cannot.
#[cfg(target_os = "linux")]
pub fn stamp_arrivals(socket: &impl std::os::fd::AsRawFd) -> io::Result<()> {
    set(socket, libc::SO_TIMESTAMPNS, 1)
}

#[cfg(target_os = "linux")]
fn set(socket: &impl std::os::fd::AsRawFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open while `socket` is borrowed, and the option's value is an int that lives through the
    // call, whose size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes bytes from `socket`, or only looks at them with `peek`: how many, 0 at the end of the stream, and when the last of
/// them arrived, as a time since 1970 by the system's clock. No time where none was noted: before [`stamp_arrivals`], or in
/// the milliseconds behind a machine's first call of it.
///
/// # Errors
/// As those of a read; `WouldBlock` where the socket would wait.
#[cfg(target_os = "linux")]
pub fn receive(
    socket: &impl std::os::fd::AsRawFd,
    buffer: &mut [u8],
    peek: bool,
) -> io::Result<(usize, Option<Duration>)> {
    /// Room for one time and more than its header, aligned as a header must be.
    const CONTROL: usize = 8;
    let mut control = [0_u64; CONTROL];
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a message of zeros is one without a name, buffers or control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = if peek { libc::MSG_PEEK } else { 0 };
    // SAFETY: the descriptor is open while `socket` is borrowed; the message names one buffer and room for control data,
    // both borrowed for writing here, with their lengths.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    let mut arrived = None;
    // SAFETY: `recvmsg` has left whole control messages in the part of `control` whose length the message now says, and these
    // macros stay within it; each is read where it lies, and a time only where its length is that of one.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(control) = header.as_ref() {
            if (control.cmsg_level, control.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS)
                && control.cmsg_len >= libc::CMSG_LEN(size_of::<libc::timespec>() as u32) as _
            {
                let time = libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned();
                arrived = Some(Duration::new(time.tv_sec as u64, time.tv_nsec as u32));
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((n, arrived))
}

/// Throws away at most `most` of the bytes that wait in a TCP `socket`, without copying them (`MSG_TRUNC`): how many.
///
/// # Errors
/// As those of a read; `WouldBlock` where the socket would wait.
#[cfg(target_os = "linux")]
pub fn discard(socket: &impl std::os::fd::AsRawFd, most: usize) -> io::Result<usize> {
    // SAFETY: the descriptor is open while `socket` is borrowed. With this flag TCP writes nothing; what is no TCP socket finds
    // no buffer to write to, which is an error of the call.
    let n = unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), most, libc::MSG_TRUNC) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Other systems have no such option.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn peek_onwards<S>(_socket: &S, _onwards: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Other systems have no such option.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn stamp_arrivals<S>(_socket: &S) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Other systems cannot.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn discard<S>(_socket: &S, _most: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Other systems note no arrivals.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn receive<S>(_socket: &S, _buffer: &mut [u8], _peek: bool) -> io::Result<(usize, Option<Duration>)> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn looks_go_on_and_taking_moves_them_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut receiver = listener.accept().unwrap().0;
        if peek_onwards(&receiver, true).is_err() {
            return; // a kernel that cannot, for TCP; its callers read as ever
        }
        let mut buffer = [0; 16];
        sender.write_all(b"first").unwrap();
        assert_eq!(receiver.peek(&mut buffer).unwrap(), 5);
        sender.write_all(b"second").unwrap();
        let n = receiver.peek(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"second");
        receiver.read_exact(&mut buffer[..5]).unwrap();
        assert_eq!(&buffer[..5], b"first");
        assert_eq!(discard(&receiver, 6).unwrap(), 6);
        sender.write_all(b"third").unwrap();
        let n = receiver.peek(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"third");
        peek_onwards(&receiver, false).unwrap();
        for _ in 0..2 {
            let n = receiver.peek(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"third");
        }
    }
    #[test]
    fn what_is_discarded_is_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut receiver = listener.accept().unwrap().0;
        sender.write_all(b"thrown away, read").unwrap();
        let mut buffer = [0; 32];
        while receiver.peek(&mut buffer).unwrap() < 17 {}
        assert_eq!(discard(&receiver, 13).unwrap(), 13);
        let n = receiver.read(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"read");
        receiver.set_nonblocking(true).unwrap();
        assert_eq!(discard(&receiver, 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // What has messages in place of a stream is refused.
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        datagrams.send_to(b"one", datagrams.local_addr().unwrap()).unwrap();
        assert!(discard(&datagrams, 3).is_err());
    }

    #[test]
    fn bytes_arrive_when_they_are_sent_however_late_they_are_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        if stamp_arrivals(&listener).is_err() {
            return; // a kernel that cannot; its callers take the time of the read
        }
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let receiver = listener.accept().unwrap().0;
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut buffer = [0; 16];
        // A machine's first such socket switches the notes on a little later.
        for round in 0..100 {
            let before = now();
            sender.write_all(b"some").unwrap();
            // The look sees that all has arrived.
            while receiver.peek(&mut buffer).unwrap() < 4 {}
            let after = now();
            std::thread::sleep(Duration::from_millis(10));
            let looked = receive(&receiver, &mut buffer, true).unwrap();
            let taken = receive(&receiver, &mut buffer, false).unwrap();
            assert_eq!((looked.0, taken, &buffer[..4]), (4, looked, &b"some"[..]));
            if let Some(arrived) = taken.1 {
                assert!(before <= arrived && arrived <= after, "{before:?} {arrived:?} {after:?} in round {round}");
                break;
            }
        }
        receiver.set_nonblocking(true).unwrap();
        assert_eq!(receive(&receiver, &mut buffer, false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(sender);
        receiver.set_nonblocking(false).unwrap();
        assert_eq!(receive(&receiver, &mut buffer, false).unwrap().0, 0);
    }
}
