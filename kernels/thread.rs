//! One wish of a thread to the system's scheduler that no safe crate offers. Knows nothing of what the thread does.
use std::io;
use std::time::Duration;

/// As `sched_getattr(2)` and `sched_setattr(2)` have it in their first version.
#[cfg(target_os = "linux")]
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for turns of `slice` at a time (Linux 6.12: 0.1 to 100 ms), in place of the system's one to three milliseconds. A
/// thread of short turns that becomes ready gets one sooner, and gives it up sooner: it has no more of the processor than
/// before. Other threads are not touched, but those that this one starts.
///
/// # Errors
/// Where the system cannot, or the thread has another policy than the usual one: all is then as it was.
#[cfg(target_os = "linux")]
pub fn prefer_short_turns(slice: Duration) -> io::Result<()> {
    const THIS_THREAD: libc::c_int = 0;
    const SIZE: libc::c_uint = size_of::<SchedAttr>() as libc::c_uint;
    const NONE: libc::c_uint = 0;
    let mut attr = SchedAttr::default();
    // SAFETY: the system writes at most SIZE bytes, which `attr` has, and `attr` lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, THIS_THREAD, &raw mut attr, SIZE, NONE) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if attr.policy != libc::SCHED_OTHER as u32 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // Policy and nice value stay as they were read.
    attr.size = SIZE;
    attr.runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: the system reads `attr.size` bytes, which `attr` has, and `attr` lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, &raw const attr, NONE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Other systems have no such wish.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn prefer_short_turns(_slice: Duration) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_ask_and_stays_what_it_was() {
        let nice = || std::fs::read_to_string("/proc/thread-self/stat").unwrap().split(' ').nth(18).map(str::to_owned);
        let before = nice();
        // A system that cannot says so, and nothing else happens.
        let _ = prefer_short_turns(Duration::from_micros(100));
        assert_eq!(nice(), before);
    }
}
