//! One socket option that no safe crate offers. Knows nothing of what is sent.
use std::io;

/// Makes every look at `socket`'s bytes (`MSG_PEEK`) begin where the last one stopped, or, with `onwards` false, at the first
/// byte again: Linux's `SO_PEEK_OFF`, for TCP from 6.9 on. Taking bytes moves the place back by as many.
///
/// # Errors
/// Where the system cannot: a look then begins at the first byte each time.
#[cfg(target_os = "linux")]
pub fn peek_onwards(socket: &impl std::os::fd::AsRawFd, onwards: bool) -> io::Result<()> {
    let start: libc::c_int = if onwards { 0 } else { -1 };
    // SAFETY: the descriptor is open while `socket` is borrowed, and the option's value is an int that lives through the
    // call, whose size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const start).cast(),
            size_of_val(&start) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Other systems have no such option.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn peek_onwards<S>(_socket: &S, _onwards: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

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
        receiver.read_exact(&mut buffer[..11]).unwrap();
        assert_eq!(&buffer[..11], b"firstsecond");
        sender.write_all(b"third").unwrap();
        let n = receiver.peek(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"third");
        peek_onwards(&receiver, false).unwrap();
        for _ in 0..2 {
            let n = receiver.peek(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"third");
        }
    }
}
