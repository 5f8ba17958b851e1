//! Locks on TCP connections: an nftables table of our own whose chains drop
//! what goes between two addresses, so that neither end hears of what happens
//! to the other.

use std::ffi::{CStr, CString};
use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_bindings::nftables::{
    Chained, CmpOps, MetaKeys, Nfgenmsg, PayloadBase, PushExprListAttrs, Registers, VerdictCode,
};
use netlink_bindings::traits::Pusher;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// NETLINK_NETFILTER.
pub const PROTOCOL: u16 = 12;

const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
/// Before every filter of the machine's.
const PRIORITY: i32 = -300;

/// A chain, and the hook it hangs on (NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT).
const INPUT: (&CStr, u32) = (c"input", 1);
const OUTPUT: (&CStr, u32) = (c"output", 3);

/// A connection by its two ends; the first is ours.
pub type Ends = (SocketAddr, SocketAddr);

/// Makes a table called `table` that lets nothing through between these ends:
/// nothing that comes to the first one, nothing that leaves it.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN; EEXIST where there is such a table; what
/// netlink says of a kernel without nftables.
pub fn lock(table: &CStr, connections: &[Ends]) -> io::Result<()> {
    let mut batch = Batch::begin();
    let request = batch.0.request().set_create().set_excl();
    let mut new = request.op_newtable_do(&header(NFPROTO_INET));
    drop(new.encode().push_name(table));
    for (chain, hook) in [INPUT, OUTPUT] {
        let request = batch.0.request().set_create();
        let mut new = request.op_newchain_do(&header(NFPROTO_INET));
        let attributes = new.encode().push_table(table).push_name(chain);
        let hook = attributes.nested_hook().push_num(hook);
        let attributes = hook.push_priority(PRIORITY).end_nested();
        drop(attributes.push_type(c"filter"));
    }
    for (ours, theirs) in connections {
        batch.rule(table, INPUT.0, *theirs, *ours);
        batch.rule(table, OUTPUT.0, *ours, *theirs);
    }
    send(&batch.end())
}

/// The messages that remove a table, for whoever sends them.
pub fn unlocking(table: &CStr) -> Vec<u8> {
    let mut batch = Batch::begin();
    let mut delete = batch.0.request().op_deltable_do(&header(NFPROTO_INET));
    drop(delete.encode().push_name(table));
    batch.end()
}

/// Removes a table, if it is there.
pub fn unlock(table: &CStr) -> io::Result<()> {
    match send(&unlocking(table)) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// A name that no other table has, for locks on the connections of `pid`.
pub fn name(pid: u32, what: &str) -> CString {
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_nanos());
    CString::new(format!("{PREFIX}{what}-{pid}-{now:x}")).unwrap_or_default()
}

/// What the names of our tables begin with.
pub const PREFIX: &str = "icecore-";

fn header(family: u8) -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.nfgen_family = family;
    header
}

/// Changes that are made all at once or not at all.
struct Batch(Chained<'static>);

impl Batch {
    fn begin() -> Self {
        let mut chained = Chained::new(1);
        chained.request().op_batch_begin_do(&bracket());
        Self(chained)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.request().op_batch_end_do(&bracket());
        self.0.finalize().buf().clone()
    }

    /// Drops TCP from one address to another.
    fn rule(&mut self, table: &CStr, chain: &CStr, from: SocketAddr, to: SocketAddr) {
        let request = self.0.request().set_create().set_append();
        let mut new = request.op_newrule_do(&header(NFPROTO_INET));
        let rule = new.encode().push_table(table).push_chain(chain);
        let mut rule = rule.nested_expressions();
        let (from_ip, to_ip) = (from.ip().to_canonical(), to.ip().to_canonical());
        let (family, at) = match from_ip {
            IpAddr::V4(_) => (NFPROTO_IPV4, [12, 16]),
            IpAddr::V6(_) => (NFPROTO_IPV6, [8, 24]),
        };
        rule = meta(rule, MetaKeys::Nfproto, family);
        rule = meta(rule, MetaKeys::L4Proto, libc::IPPROTO_TCP as u8);
        for (ip, at) in [from_ip, to_ip].into_iter().zip(at) {
            rule = match ip {
                IpAddr::V4(ip) => payload(rule, PayloadBase::NetworkHeader, at, &ip.octets()),
                IpAddr::V6(ip) => payload(rule, PayloadBase::NetworkHeader, at, &ip.octets()),
            };
        }
        let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()];
        rule = payload(rule, PayloadBase::TransportHeader, 0, ports.as_flattened());
        let verdict = rule.nested_elem().push_name(c"immediate");
        let verdict = verdict.nested_data_immediate();
        let verdict = verdict.push_dreg(Registers::RegVerdict as u32);
        let verdict = verdict.nested_data().nested_verdict();
        drop(verdict.push_code(VerdictCode::Drop as u32));
    }
}

/// The header of a batch's begin and end.
fn bracket() -> Nfgenmsg {
    let mut header = header(0);
    header.set_res_id(NFNL_SUBSYS_NFTABLES);
    header
}

fn meta<P: Pusher>(rule: PushExprListAttrs<P>, key: MetaKeys, value: u8) -> PushExprListAttrs<P> {
    let load = rule.nested_elem().push_name(c"meta").nested_data_meta();
    let load = load.push_key(key as u32).push_dreg(Registers::Reg1 as u32);
    compare(load.end_nested().end_nested(), &[value])
}

fn payload<P: Pusher>(
    rule: PushExprListAttrs<P>,
    base: PayloadBase,
    at: u32,
    value: &[u8],
) -> PushExprListAttrs<P> {
    let load = rule.nested_elem().push_name(c"payload");
    let load = load.nested_data_payload().push_dreg(Registers::Reg1 as u32);
    let load = load.push_base(base as u32).push_offset(at);
    let load = load.push_len(value.len() as u32);
    compare(load.end_nested().end_nested(), value)
}

fn compare<P: Pusher>(rule: PushExprListAttrs<P>, value: &[u8]) -> PushExprListAttrs<P> {
    let cmp = rule.nested_elem().push_name(c"cmp").nested_data_cmp();
    let cmp = cmp.push_sreg(Registers::Reg1 as u32);
    let cmp = cmp.push_op(CmpOps::Eq as u32);
    let cmp = cmp.nested_data().push_value(value).end_nested();
    cmp.end_nested().end_nested()
}

/// Sends a batch and hears what the kernel says of it, which it does before
/// the call returns.
fn send(batch: &[u8]) -> io::Result<()> {
    const NLMSG_ERROR: u16 = 2;
    let protocol = Some(netlink::NETFILTER);
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
    rustix::net::send(&socket, batch, SendFlags::empty())?;
    let mut answer = vec![0; 64 << 10];
    let mut heard = false;
    loop {
        let n = match rustix::net::recv(&socket, &mut answer[..], RecvFlags::DONTWAIT) {
            Ok((_, n)) => n,
            Err(Errno::AGAIN) if heard => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let mut rest = answer.get(..n).unwrap_or_default();
        while let Some((len, kind, code)) = message(rest) {
            if kind == NLMSG_ERROR && code != 0 {
                return Err(io::Error::from_raw_os_error(-code));
            }
            heard = true;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Length, kind and error code of the first message.
fn message(bytes: &[u8]) -> Option<(usize, u16, i32)> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let code = i32::from_ne_bytes(*bytes.get(16..)?.first_chunk()?);
    Some((len.max(16), kind, code))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    /// Nothing gets through in either direction while it is there, and all
    /// of it afterwards.
    fn a_lock_holds_until_it_is_taken_away(address: &str) {
        let listener = TcpListener::bind(address).unwrap();
        let mut one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        let ends = (one.local_addr().unwrap(), one.peer_addr().unwrap());
        let table = name(std::process::id(), "test");
        lock(&table, &[ends]).unwrap();
        let exists = lock(&table, &[ends]).unwrap_err();
        one.write_all(b"there").unwrap();
        other.write_all(b"back").unwrap();
        let short = Some(Duration::from_millis(100));
        let mut room = [0; 5];
        for stream in [&one, &other] {
            stream.set_read_timeout(short).unwrap();
        }
        let seen = (other.read(&mut room).is_err(), one.read(&mut room).is_err());
        unlock(&table).unwrap();
        unlock(&table).unwrap();
        assert_eq!(
            (seen, exists.raw_os_error()),
            ((true, true), Some(libc::EEXIST))
        );
        for stream in [&one, &other] {
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
        }
        other.read_exact(&mut room).unwrap();
        assert_eq!(&room, b"there");
        one.read_exact(&mut room[..4]).unwrap();
        assert_eq!(&room[..4], b"back");
    }

    #[test]
    fn a_lock_on_ipv4() {
        a_lock_holds_until_it_is_taken_away("127.0.0.1:0");
    }

    #[test]
    fn a_lock_on_ipv6() {
        a_lock_holds_until_it_is_taken_away("[::1]:0");
    }
}
