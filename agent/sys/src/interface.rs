//! Network interfaces, as far as a supervisor without netlink needs them.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// From `linux/sockios.h` and `linux/ethtool.h`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GLINK: u32 = 0x0a;

/// Raises `lo` of this process's network namespace.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN over the namespace.
pub fn raise_loopback() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    for (slot, byte) in name.iter_mut().zip(b"lo") {
        *slot = byte.cast_signed();
    }
    let flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    let request = libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which lives over the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the kernel act at once on a change of carrier of a link of this thread's network namespace, and says whether it has one.
///
/// Such changes wait for a worker otherwise, and a bridge drops what comes in by a port until then. Kernels before 6.7 only answer.
///
/// # Errors
/// `ENODEV` without such a link; `EINVAL` for a name that no link can have.
pub fn carrier(name: &str) -> io::Result<bool> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut raw_name = [0; libc::IFNAMSIZ];
    for (slot, byte) in raw_name.iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
    // `struct ethtool_value`: the command, and room for its answer.
    let mut value: [u32; 2] = [ETHTOOL_GLINK, 0];
    let data = libc::__c_anonymous_ifr_ifru { ifru_data: value.as_mut_ptr().cast() };
    let request = libc::ifreq { ifr_name: raw_name, ifr_ifru: data };
    // SAFETY: SIOCETHTOOL with ETHTOOL_GLINK reads an `ifreq` and reads and writes the eight bytes that it points to; both live over the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw const request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value[1] != 0) }
}
