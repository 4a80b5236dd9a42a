//! What the host offers, for `doctor`. Nothing is changed by asking.

use std::io;

use gantry_sys::netlink::{ACK, CREATE, EXCL, Family, Message, REQUEST, Socket, Writer};
use gantry_sys::nft;

const NEW_LINK: u16 = 16;
/// `IFLA_ADDRESS`.
const ADDRESS: u16 = 1;
/// `IFLA_IFNAME`.
const NAME: u16 = 3;
/// `IFLA_LINKINFO`, and `IFLA_INFO_KIND` in it.
const INFO: u16 = 18;
const KIND: u16 = 1;

/// What was looked at, whether it is well, and a sentence for people.
pub fn probe() -> Vec<(String, bool, String)> {
    vec![tables(), link_kind("veth"), link_kind("bridge"), forwarding(), foreign_drops()]
}

fn tables() -> (String, bool, String) {
    let tables = Socket::open(Family::Netfilter).and_then(|socket| nft::table_exists(&socket, ""));
    let says = match &tables {
        Ok(_) => "nf_tables answers".to_owned(),
        Err(error) => format!("nf_tables does not answer ({error}); load the module nf_tables and run as root"),
    };
    ("nf_tables".to_owned(), tables.is_ok(), says)
}

/// Asks for a link with an address that no link can have: a kernel that knows the kind refuses the address, another one the kind.
fn link_kind(kind: &str) -> (String, bool, String) {
    let (name, asked) = (kind.to_owned(), ask_for(kind));
    match asked.as_ref().map_err(io::Error::raw_os_error) {
        Err(Some(code)) if code == nix::libc::EINVAL => (name, true, format!("links of kind {kind} can be made")),
        Err(Some(code)) if code == nix::libc::EPERM => {
            (name, false, format!("links of kind {kind} cannot be made: no CAP_NET_ADMIN; run as root"))
        }
        _ => (name, false, format!("this kernel makes no links of kind {kind}; load the module {kind}")),
    }
}

fn ask_for(kind: &str) -> io::Result<()> {
    let socket = Socket::open(Family::Route)?;
    let mut writer = Writer::default();
    writer.message(NEW_LINK, REQUEST | ACK | CREATE | EXCL, 1, &[0; 16]);
    writer.put_text(NAME, "gantry-probe");
    writer.put(ADDRESS, &[2]);
    writer.nest(INFO, |info| info.put(KIND, kind.as_bytes()));
    socket.send(&writer.finish())?;
    socket.receive()?.iter().find_map(Message::error).map_or(Ok(()), Err)
}

fn forwarding() -> (String, bool, String) {
    let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").map(|text| text.trim() == "1");
    let says = match forward {
        Ok(true) => "net.ipv4.ip_forward is 1",
        Ok(false) => "net.ipv4.ip_forward is 0; the engine sets it to 1 with the first network",
        Err(_) => "net.ipv4.ip_forward cannot be read; mount /proc",
    };
    ("ip_forward".to_owned(), forward.is_ok(), says.to_owned())
}

/// Another program's chain that drops what it does not know also drops containers' packets, whatever our table says.
fn foreign_drops() -> (String, bool, String) {
    let name = "forward policy".to_owned();
    match Socket::open(Family::Netfilter).and_then(|socket| nft::forward_drops(&socket)) {
        Ok(drops) if drops.is_empty() => (name, true, "no other program drops forwarded packets by default".to_owned()),
        Ok(drops) => {
            let list = drops.join(", ");
            let remedy = "containers reach nothing beyond this host, and are reached from this host only; accept their bridges there";
            (name, false, format!("forwarded packets are dropped by default in {list}: {remedy} (Docker: in the chain DOCKER-USER)"))
        }
        Err(error) => (name, false, format!("the chains of other programs cannot be read ({error}); run as root")),
    }
}
