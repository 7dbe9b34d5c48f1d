//! The servers' own network namespace, and the way into it: a veth whose host's end carries `from_services`
//! (design, decision 13).
//!
//! Nothing names the namespace: the servers' sockets hold it, so it ends with the agent, and what guests ask then
//! fails closed. No rule, daemon or setting of the host's own network reaches into it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netagent_common::services::{
    NEXT_HOP_V4, NEXT_HOP_V6, SERVER_V4, SERVER_V6, SERVICES_HOST_MAC, SERVICES_MAC,
    WAY_INDEX_FIRST,
};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage, State,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::apply::addresses;
use crate::apply::links::{self, LinkError};
use crate::apply::settings;
use crate::host::ServiceSockets;
use crate::netlink::{Netlink, NetlinkError};
use crate::plan::{Neighbour, SERVICES, alias_prefix};

mod sockets;

/// The servers' end of the veth, in their namespace.
const INNER: &str = "guests";
/// Whatever a guest's TAP carries fits.
const MTU: u32 = 65_535;
/// How often a name that is taken is tried again, and after which time.
const NAME_TRIES: u32 = 40;
const NAME_WAIT: Duration = Duration::from_millis(50);
/// How often a link is looked at until the kernel sends on it, and after which time.
const READY_TRIES: u32 = 200;
const READY_WAIT: Duration = Duration::from_millis(5);

/// Settings of the namespace, below `/proc/sys/net`. Its addresses are made up: nothing is to be looked for, and
/// nothing to be said about them. What guests leave behind in its TCP counts against limits of the whole host, so it
/// is little, and soon gone; what is not set here is the host's.
const SETTINGS: [(&str, &str); 16] = [
    // So that binding port 53 needs no capability.
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/forwarding", "0"),
    ("ipv6/conf/all/forwarding", "0"),
    ("ipv4/tcp_syncookies", "1"),
    // A closed connection whose guest says nothing ends within two seconds, and not after a hundred.
    ("ipv4/tcp_orphan_retries", "2"),
    ("ipv4/tcp_fin_timeout", "5"),
    ("ipv4/tcp_max_tw_buckets", "4096"),
    ("ipv4/tcp_no_metrics_save", "1"),
    ("ipv4/tcp_rmem", "4096 65536 262144"),
    ("ipv4/tcp_wmem", "4096 65536 262144"),
    // A guest whose device has a larger MTU than its interface loses large segments: smaller ones arrive.
    ("ipv4/tcp_mtu_probing", "1"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/addr_gen_mode", "1"),
];

/// Why the servers have no namespace.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// The kernel gives no namespace, or no socket in it.
    #[error("{what}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        #[source]
        errno: Errno,
    },
    /// The thread that made it could not be started, or ended early.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Somebody else's link has the name of the way.
    #[error(
        "a link '{name}' is in the way and none of this agent's: rename it, or delete it with `ip link delete {name}`"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Its links.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Its links.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A setting cannot be written.
    #[error(transparent)]
    Setting(#[from] settings::SettingError),
}

fn refused(what: &'static str) -> impl FnOnce(Errno) -> ServicesError {
    move |errno| ServicesError::Refused { what, errno }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ServicesError {
    move |source| ServicesError::Io { what, source }
}

/// The host's end of the veth: down, and without programs.
#[derive(Debug)]
pub struct HostEnd {
    /// Its interface index.
    pub ifindex: u32,
    /// Its name: the same for every agent of a store.
    pub name: String,
    inside: Netlink,
    has_v6: bool,
}

impl HostEnd {
    /// Takes the way up, and waits until it carries packets: for a moment after a link has come up the kernel drops
    /// what is sent on it, and a guest that asked then would ask in vain.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn open(&self, netlink: &Netlink) -> Result<(), ServicesError> {
        links::set_up(netlink, self.ifindex, true).await?;
        for (netlink, name) in [(netlink, self.name.as_str()), (&self.inside, INNER)] {
            let mut tries = 0;
            // One that takes longer loses packets, and nothing else.
            while !is_operational(netlink, name).await? && tries < READY_TRIES {
                tries += 1;
                tokio::time::sleep(READY_WAIT).await;
            }
        }
        let mut tries = 0;
        while self.has_v6 && !has_server_v6(&self.inside).await? && tries < READY_TRIES {
            tries += 1;
            tokio::time::sleep(READY_WAIT).await;
        }
        Ok(())
    }
}

/// Whether the servers' stack takes what comes for their IPv6 address: the kernel makes the route that says so in
/// its own time, also without duplicate detection.
async fn has_server_v6(netlink: &Netlink) -> Result<bool, NetlinkError> {
    let mut question = RouteMessage::default();
    question.header.address_family = AddressFamily::Inet6;
    question.header.destination_prefix_length = 128;
    let server = RouteAddress::Inet6(SERVER_V6.into());
    question.attributes = vec![RouteAttribute::Destination(server)];
    match netlink.get(RouteNetlinkMessage::GetRoute(question)).await {
        Ok(Some(RouteNetlinkMessage::NewRoute(found))) => Ok(found.header.kind == RouteType::Local),
        Ok(_) => Ok(false),
        // Its default route is not there yet either.
        Err(error) if error.is(Errno::ENETUNREACH) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn is_operational(netlink: &Netlink, name: &str) -> Result<bool, NetlinkError> {
    let link = links::named(netlink, name).await?;
    let up = LinkAttribute::OperState(State::Up);
    Ok(link.is_some_and(|link| link.attributes.contains(&up)))
}

/// The namespace while it is made.
struct Inside {
    namespace: OwnedFd,
    netlink: Netlink,
    sockets: ServiceSockets,
}

/// Makes the namespace with its sockets, and the veth into it. What the store of this id made earlier goes first.
///
/// # Errors
/// Where the kernel refuses; nothing is left then.
pub async fn make(
    netlink: &Netlink,
    store_id: Uuid,
) -> Result<(HostEnd, ServiceSockets), ServicesError> {
    let alias = &format!("{}{SERVICES}", alias_prefix(store_id).trim_end_matches(':'));
    let inside = enter()?;
    let [a, b, c, ..] = *store_id.as_bytes();
    let name = format!("netagent-{a:02x}{b:02x}{c:02x}");
    // An earlier agent's goes with its namespace, but when is the kernel's affair.
    if let Some(earlier) = links::named(netlink, &name).await? {
        links::remove(netlink, earlier.header.index, alias).await?;
    }
    make_veth(netlink, &name, &inside.namespace).await?;
    let link = links::named(netlink, &name).await?;
    let ifindex = link.map_or(0, |link| link.header.index);
    links::set_alias(netlink, ifindex, alias).await?;
    settings::write(&name, false)?;
    settings::switch_off_v6(&name)?;
    let has_v6 = inside.sockets.router.is_some();
    configure(&inside.netlink, has_v6).await?;
    let end = HostEnd {
        ifindex,
        name,
        has_v6,
        inside: inside.netlink,
    };
    Ok((end, inside.sockets))
}

/// One that was made a moment before its agent was killed carries no alias yet, and goes by itself.
async fn make_veth(
    netlink: &Netlink,
    name: &str,
    namespace: &OwnedFd,
) -> Result<(), ServicesError> {
    let mut tries = 0;
    loop {
        let mut made = LinkMessage::default();
        made.header.index = index();
        made.attributes = veth(name, namespace);
        let made = RouteNetlinkMessage::NewLink(made);
        match netlink.change(made, NLM_F_CREATE | NLM_F_EXCL).await {
            Err(error) if !error.is(Errno::EEXIST) => return Err(error.into()),
            Err(_) if tries < NAME_TRIES => tries += 1,
            Err(_) => {
                let name = name.to_owned();
                return Err(ServicesError::NameTaken { name });
            }
            Ok(()) => return Ok(()),
        }
        tokio::time::sleep(NAME_WAIT).await;
    }
}

/// Another index than that of the way before. After a kill the programs know the old one until the next start, and must
/// lead nobody anywhere.
fn index() -> u32 {
    let [a, b, ..] = *Uuid::new_v4().as_bytes();
    WAY_INDEX_FIRST | u32::from(u16::from_ne_bytes([a, b]))
}

fn veth(name: &str, namespace: &OwnedFd) -> Vec<LinkAttribute> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(INNER.to_owned()),
        LinkAttribute::Address(SERVICES_MAC.to_vec()),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::NetNsFd(namespace.as_raw_fd()),
    ];
    vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(SERVICES_HOST_MAC.to_vec()),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ]
}

/// Addresses, and one neighbour through whom every client is reached; a kernel without IPv6 has none of its.
async fn configure(netlink: &Netlink, has_v6: bool) -> Result<(), ServicesError> {
    let link = links::named(netlink, INNER).await?;
    let ifindex = link.map_or(0, |link| link.header.index);
    let addresses = [
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(SERVER_V4), 30)),
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(SERVER_V6), 126)),
    ];
    let is_known = |address: &IpAddr| has_v6 || address.is_ipv4();
    for address in addresses.into_iter().filter(|net| is_known(&net.addr())) {
        addresses::add_address(netlink, ifindex, address).await?;
    }
    links::set_up(netlink, ifindex, true).await?;
    let next_hops: [IpAddr; 2] = [
        Ipv4Addr::from(NEXT_HOP_V4).into(),
        Ipv6Addr::from(NEXT_HOP_V6).into(),
    ];
    for address in next_hops.into_iter().filter(is_known) {
        let mac = SERVICES_HOST_MAC;
        let neighbour = Neighbour {
            ifindex,
            address,
            mac,
        };
        addresses::add_neighbour(netlink, &neighbour).await?;
        addresses::add_default_route(netlink, ifindex, address).await?;
    }
    Ok(())
}

/// A thread of its own makes the namespace, since a thread that has left the host's cannot be used for anything else.
fn enter() -> Result<Inside, ServicesError> {
    let runtime = Handle::current();
    let made = thread::Builder::new()
        .name("services".to_owned())
        .spawn(move || {
            let _entered = runtime.enter();
            inside()
        })
        .map_err(failed("start a thread"))?;
    made.join()
        .unwrap_or_else(|_| Err(failed("make a namespace")(io::ErrorKind::Other.into())))
}

/// Runs in that thread.
fn inside() -> Result<Inside, ServicesError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(refused("make a network namespace"))?;
    let namespace = fs::File::open("/proc/thread-self/ns/net");
    let namespace = namespace.map_err(failed("open the network namespace"))?;
    for (setting, value) in SETTINGS {
        match fs::write(format!("/proc/sys/net/{setting}"), value) {
            // A kernel without IPv6 has no settings of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            written => written.map_err(failed("write a setting of the namespace"))?,
        }
    }
    Ok(Inside {
        namespace: namespace.into(),
        netlink: Netlink::open()?,
        sockets: sockets::open()?,
    })
}
