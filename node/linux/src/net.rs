//! Packet sockets: frames to and from a link that has no address yet.
//!
//! Links, addresses and routes go over netlink, which needs nothing unsafe and
//! is done where it is decided on (the supervisor's `net::kernel`).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

/// Ethernet protocol number of IPv4.
const ETHERTYPE_IPV4: u16 = 0x0800;

/// The address of a packet socket: a link, and a station on it when sending.
struct LinkAddress {
    index: i32,
    station: [u8; 6],
}

// SAFETY: `with_sockaddr` hands out a pointer to a whole, initialised
// `sockaddr_ll` that lives for the call, together with its exact size.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        let [a, b, c, d, e, g] = self.station;
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET.unsigned_abs().try_into().unwrap_or(0),
            sll_protocol: ETHERTYPE_IPV4.to_be(),
            sll_ifindex: self.index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [a, b, c, d, e, g, 0, 0],
        };
        f(
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>().try_into().unwrap_or(0),
        )
    }
}

/// A socket for IPv4 packets on one link, headers included, received only when
/// they are unfragmented UDP to one port. Non-blocking.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    index: i32,
}

impl PacketSocket {
    /// Opens one on the link with index `link`, for UDP to `port`. The filter is
    /// in the kernel, so that other traffic wakes nobody.
    ///
    /// # Errors
    /// The kernel's: no such link, or no right to open packet sockets.
    pub fn open(link: u32, port: u16) -> io::Result<Self> {
        let index =
            i32::try_from(link).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // Protocol 0 receives nothing: no packet slips in before the filter.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
        attach_filter(fd.as_fd(), &udp_port_filter(port))?;
        bind(
            &fd,
            &LinkAddress {
                index,
                station: [0; 6],
            },
        )?;
        Ok(Self { fd, index })
    }

    /// Sends one IPv4 packet to every station on the link.
    ///
    /// # Errors
    /// The kernel's: link down, link gone, buffer full.
    pub fn broadcast(&self, packet: &[u8]) -> io::Result<()> {
        let everybody = LinkAddress {
            index: self.index,
            station: [0xff; 6],
        };
        sendto(&self.fd, packet, SendFlags::empty(), &everybody)?;
        Ok(())
    }

    /// Receives one packet, cut to `buffer`; returns its length.
    ///
    /// # Errors
    /// `WouldBlock` when there is none, `NetworkDown` once after the link went down.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (length, _) = recv(&self.fd, buffer, RecvFlags::empty())?;
        Ok(length)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One instruction of a classic socket filter: code, jump if true, jump if false, operand.
type Instruction = (u16, u8, u8, u32);

/// Takes unfragmented UDP packets to `port`; the packet begins with its IPv4 header.
fn udp_port_filter(port: u16) -> [Instruction; 8] {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HALF_BEHIND_HEADER: u16 = 0x48;
    const HEADER_LENGTH_TO_X: u16 = 0xb1;
    const IF_EQUAL: u16 = 0x15;
    const IF_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    [
        (LOAD_BYTE, 0, 0, 9),
        (IF_EQUAL, 0, 5, 17),
        (LOAD_HALF, 0, 0, 6),
        // Any fragment but the first has no UDP header; a first one is of no use.
        (IF_ANY_BIT, 3, 0, 0x3fff),
        (HEADER_LENGTH_TO_X, 0, 0, 0),
        (LOAD_HALF_BEHIND_HEADER, 0, 0, 2),
        (IF_EQUAL, 1, 0, u32::from(port)),
        (RETURN, 0, 0, 0),
    ]
}

/// Attaches `program`, completed by "take the whole packet", to a socket.
fn attach_filter(fd: BorrowedFd<'_>, program: &[Instruction; 8]) -> io::Result<()> {
    let mut code: Vec<libc::sock_filter> = program
        .iter()
        .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
        .collect();
    code.push(libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: 0xffff,
    });
    let length =
        u16::try_from(code.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog {
        len: length,
        filter: code.as_mut_ptr(),
    };
    let size: libc::socklen_t = size_of::<libc::sock_fprog>().try_into().unwrap_or(0);
    // SAFETY: `program` points to `length` instructions in `code`, which outlives
    // the call; the kernel copies them and writes nothing back.
    let outcome = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size,
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
