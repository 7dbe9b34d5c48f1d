//! One instance, one uplink and one of every kind of route, as maps: where the kernel tests and the collection
//! benchmark run programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::Pod;
use bytemuck::Zeroable;
use netagent_common::flow::{Flow, FlowKey, FlowState, LAST_SEEN_STEP_NS};
use netagent_common::names::{self, ABI_VERSION, map};
use netagent_common::nat::{Holdings, Mapping, MappingKey, Reverse, ReverseKey, fill};
use netagent_common::net::{GATEWAY_MAC, GATEWAY_V6, protocol};
use netagent_common::policy::RouteKind;
use netagent_common::services::{SERVICES_HOST_MAC, Services};
use netagent_common::vm::{self, Interface, State};

use crate::deadline::{Deadline, SOON};
use crate::packet::{self, Ends, Packet};
use crate::prog_run::{Context, Datapath, Outcome, Sizes};
use crate::route::RouteTo;

/// Slot of the instance's interface.
pub const SLOT: u32 = 5;
/// Index of its TAP.
pub const TAP: u32 = vm::ifindex(SLOT, 0);
/// Index of the uplink.
pub const UPLINK: u32 = 50;
/// Index of the host's end of the veth that leads to the agent's servers.
pub const SERVICES: u32 = 60;
/// Generation of the instance.
pub const GENERATION: u32 = 77;
/// Flows that the instance may have.
pub const FLOW_LIMIT: u32 = 1_000;
/// Slot of another instance's interface, which [`Scene::add_other`] adds.
pub const OTHER_SLOT: u32 = SLOT + 1;
/// Index of its TAP.
pub const OTHER_TAP: u32 = vm::ifindex(OTHER_SLOT, 0);
/// MTU of TAP and uplink.
pub const MTU: u32 = 1_500;

/// Hardware address of the uplink.
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The guest.
pub const GUEST_MAC: [u8; 6] = [0xaa, 0xfc, 0, 0, 0, 6];
/// The guest.
pub const GUEST_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 22);
/// The guest.
pub const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xa, 0xb, SLOT as u16, 0, 0, 0, 2);
/// Its gateway.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 21);
/// The address that stands for guests.
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The address that stands for guests.
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 2);
/// Next hop of the default route.
pub const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Next hop of the default route.
pub const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1);
/// An address of the world.
pub const REMOTE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// An address of the world.
pub const REMOTE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x200, 0, 0, 0, 0, 9);

/// The gateway's IPv6 address.
#[must_use]
pub fn gateway_v6() -> Ipv6Addr {
    GATEWAY_V6.into()
}

/// Programs, maps and the instance.
pub struct Scene {
    /// Programs and maps.
    pub datapath: Datapath,
}

impl Scene {
    /// Loads the programs and writes everything.
    #[must_use]
    pub fn new(sizes: Sizes, record: &Interface) -> Self {
        let mut datapath = Datapath::load(sizes);
        datapath.add_device(TAP, GATEWAY_MAC);
        datapath.add_device(UPLINK, UPLINK_MAC);
        datapath.add_device(SERVICES, SERVICES_HOST_MAC);
        datapath.set_interface(record);
        set_services(&mut datapath, SERVICES);
        for (prefix, kind) in prefixes() {
            let (prefix, length) = prefix.split_once('/').expect("an address and a length");
            let address: IpAddr = prefix.parse().expect("an address");
            let route = route(kind, address.is_ipv4(), length == "0");
            datapath.set_route((address, length.parse().expect("a length")), &route);
        }
        Self { datapath }
    }

    /// With the usual sizes and record.
    #[must_use]
    pub fn usual() -> Self {
        Self::new(Sizes::default(), &record())
    }

    /// The guest sends a packet.
    pub fn from_vm(&mut self, bytes: &[u8]) -> Outcome {
        self.datapath.run(names::FROM_VM, bytes, FROM_VM)
    }

    /// Adds another instance, of which this is the record but for index, slot and number.
    pub fn add_other(&mut self, record: Interface) {
        self.datapath.add_device(OTHER_TAP, GATEWAY_MAC);
        self.datapath.set_interface(&Interface {
            ifindex: OTHER_TAP,
            slot: OTHER_SLOT,
            instance: OTHER_SLOT,
            ..record
        });
    }

    /// The other guest sends a packet.
    pub fn from_other(&mut self, bytes: &[u8]) -> Outcome {
        self.datapath.run(names::FROM_VM, bytes, FROM_OTHER)
    }

    /// The segment that a guest got beside what the program answers: the first one's device is 0, the other's 3. The
    /// device must be up by then.
    ///
    /// # Panics
    /// Where none comes.
    pub fn told(&mut self, device: usize) -> Packet {
        let tap = self.datapath.up(device);
        tap.receive_where(Deadline::after(SOON), |frame| {
            let packet = Packet::parse(&frame.bytes)?;
            (packet.protocol == protocol::TCP).then(|| {
                packet::assert_checksums(&frame.bytes);
                packet
            })
        })
    }

    /// A packet arrives on the uplink.
    pub fn from_uplink(&mut self, bytes: &[u8]) -> Outcome {
        self.datapath.run(names::FROM_UPLINK, bytes, FROM_UPLINK)
    }

    /// The host sends a packet to the guest.
    pub fn from_host(&mut self, bytes: &[u8]) -> Outcome {
        self.datapath.run(names::TO_VM, bytes, FROM_HOST)
    }

    /// A packet arrives from the agent's servers.
    pub fn from_services(&mut self, bytes: &[u8]) -> Outcome {
        let program = names::FROM_SERVICES;
        self.datapath.run(program, bytes, FROM_SERVICES)
    }

    /// A super-frame of segments of this size, from the guest.
    pub fn super_frame_from_vm(&mut self, bytes: &[u8], gso_size: u32) -> Outcome {
        let context = Context {
            gso_size,
            ..FROM_VM
        };
        self.datapath.run(names::FROM_VM, bytes, context)
    }

    /// A super-frame of segments of this size, on the uplink.
    pub fn super_frame_from_uplink(&mut self, bytes: &[u8], gso_size: u32) -> Outcome {
        let context = Context {
            gso_size,
            ..FROM_UPLINK
        };
        self.datapath.run(names::FROM_UPLINK, bytes, context)
    }

    /// The agent found other routes: every flow is judged anew at its next packet.
    pub fn change_route(&mut self, address: IpAddr, route: &RouteTo) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        self.datapath.set_route((address, length), route);
        let mut states = self.datapath.array::<State>(map::STATE);
        let mut state = states.get(&0, 0).expect("element 0");
        state.route_generation += 1;
        states.set(0, state, 0).expect("element 0");
    }

    /// Makes every flow of a port of the guest a moment older: its time is written anew at its next packet.
    pub fn age_flows(&mut self, guest_port: u16) {
        const MOMENT_NS: u64 = 2 * LAST_SEEN_STEP_NS;
        self.change_flows(guest_port, |last_seen_ns, _| *last_seen_ns -= MOMENT_NS);
    }

    /// Makes every flow of a port of the guest so much older, s.
    pub fn age_flows_by(&mut self, guest_port: u16, age_s: u64) {
        let age_ns = age_s * 1_000_000_000;
        self.change_flows(guest_port, |last_seen_ns, _| *last_seen_ns -= age_ns);
    }

    /// Makes every flow of a port of the guest one that was last heard of when the machine started.
    pub fn age_flows_to_boot(&mut self, guest_port: u16) {
        self.change_flows(guest_port, |last_seen_ns, _| *last_seen_ns = 0);
    }

    /// Makes every flow of a port of the guest one that nobody answered, last heard of when the machine started:
    /// nobody runs tests in the first four minutes of a boot.
    pub fn time_out_flows(&mut self, guest_port: u16) {
        self.change_flows(guest_port, |last_seen_ns, state| {
            (*last_seen_ns, *state) = (0, FlowState::Opening as u8);
        });
    }

    fn change_flows(&mut self, guest_port: u16, change: impl Fn(&mut u64, &mut u8)) {
        let of = (guest_port, &change);
        change_flows::<[u8; 4]>(&mut self.datapath, map::FLOWS_V4, of);
        change_flows::<[u8; 16]>(&mut self.datapath, map::FLOWS_V6, of);
    }

    /// Removes all reverse entries, as a race with the collection does to one.
    pub fn remove_reverses(&mut self) {
        remove_reverses::<[u8; 4]>(&mut self.datapath, map::REVERSE_V4);
        remove_reverses::<[u8; 16]>(&mut self.datapath, map::REVERSE_V6);
    }

    /// How many flows the instance has open, by its count.
    ///
    /// # Panics
    /// Where the count is not there.
    #[must_use]
    pub fn open_flows(&mut self) -> i64 {
        let open = self.datapath.array::<u64>(map::OPEN_FLOWS);
        open.get(&SLOT, 0)
            .expect("the slot is in the array")
            .cast_signed()
    }

    /// How many closing flows the instance has, by its count.
    ///
    /// # Panics
    /// Where the count is not there.
    #[must_use]
    pub fn closing_flows(&mut self) -> i64 {
        let holdings = self.datapath.array::<Holdings>(map::HOLDINGS);
        let holdings = holdings.get(&SLOT, 0).expect("the slot is in the array");
        holdings.closing.cast_signed()
    }

    /// Endpoint-independent mappings of the instance, and of all instances in both families, by their counts.
    ///
    /// # Panics
    /// Where a count is not there.
    #[must_use]
    pub fn mappings_counted(&mut self) -> (u64, u64) {
        let holdings = self.datapath.array::<Holdings>(map::HOLDINGS);
        let of_instance = holdings.get(&SLOT, 0).expect("the slot is in the array");
        let fills = self.datapath.array::<u64>(map::FILL);
        let of_all = [fill::MAPPINGS_V4, fill::MAPPINGS_V6]
            .map(|place| fills.get(&place, 0).expect("the place is in the array"));
        (of_instance.mapped, of_all.iter().sum())
    }

    /// Makes all mappings so much older, s.
    pub fn age_mappings(&mut self, age_s: u32) {
        age_mappings::<[u8; 4]>(&mut self.datapath, map::MAPPINGS_V4, age_s);
        age_mappings::<[u8; 16]>(&mut self.datapath, map::MAPPINGS_V6, age_s);
    }

    /// The ports of the guest that hold a port of the uplink's address, in either family.
    #[must_use]
    pub fn holders(&mut self, nat_port: u16) -> Vec<u16> {
        let mut found = holders::<[u8; 4]>(&mut self.datapath, map::REVERSE_V4, nat_port);
        found.extend(holders::<[u8; 16]>(
            &mut self.datapath,
            map::REVERSE_V6,
            nat_port,
        ));
        found
    }

    /// Writes `count` IPv4 flows of the instance, last seen at `last_seen_ns`, each with its reverse entry.
    pub fn add_flows(&mut self, count: u32, last_seen_ns: u64) {
        for number in 0..count {
            let ports = (number as u16).to_be_bytes();
            let remote = (u32::from(REMOTE_V4) + (number >> 16)).to_be_bytes();
            let key = FlowKey {
                instance: SLOT,
                guest: GUEST_V4.octets(),
                remote,
                guest_port: ports,
                remote_port: [0, 53],
                protocol: u32::from(protocol::UDP),
            };
            self.datapath
                .insert::<_, Flow<[u8; 4]>>(map::FLOWS_V4, key, flow(ports, last_seen_ns));
            let reverse_key = ReverseKey {
                remote,
                nat_address: HOST_V4.octets(),
                remote_port: [0, 53],
                nat_port: ports,
                protocol: u32::from(protocol::UDP),
            };
            let reverse = Reverse {
                tag: 0,
                seen: 0,
                instance: SLOT,
                slot: 0,
                generation: 0,
                policy_generation: 0,
                guest_port: ports,
                reserved: [0; 2],
                guest: GUEST_V4.octets(),
            };
            self.datapath
                .insert::<_, Reverse<[u8; 4]>>(map::REVERSE_V4, reverse_key, reverse);
        }
    }
}

/// Where [`Scene::from_vm`] sees packets.
pub const FROM_VM: Context = Context {
    ifindex: TAP,
    ingress_ifindex: TAP,
    mark: 0,
    gso_size: 0,
};
/// Where [`Scene::from_other`] sees packets.
pub const FROM_OTHER: Context = Context {
    ifindex: OTHER_TAP,
    ingress_ifindex: OTHER_TAP,
    ..FROM_VM
};
/// Where [`Scene::from_uplink`] sees packets.
pub const FROM_UPLINK: Context = Context {
    ifindex: UPLINK,
    ingress_ifindex: UPLINK,
    mark: 0,
    gso_size: 0,
};
/// Where [`Scene::from_services`] sees packets.
pub const FROM_SERVICES: Context = Context {
    ifindex: SERVICES,
    ingress_ifindex: SERVICES,
    mark: 0,
    gso_size: 0,
};
/// Where [`Scene::from_host`] sees packets.
pub const FROM_HOST: Context = Context {
    ifindex: TAP,
    ingress_ifindex: 0,
    mark: 0,
    gso_size: 0,
};

/// Says where the agent's servers are; 0 where they are not there.
///
/// # Panics
/// Where the map is not there.
pub fn set_services(datapath: &mut Datapath, ifindex: u32) {
    let services = Services {
        ifindex,
        reserved: 0,
    };
    datapath
        .array::<Services>(map::SERVICES)
        .set(0, services, 0)
        .expect("element 0");
}

fn change_flows<A>(
    datapath: &mut Datapath,
    name: &str,
    (guest_port, change): (u16, &impl Fn(&mut u64, &mut u8)),
) where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    for (key, mut flow) in datapath.entries::<FlowKey<A>, Flow<A>>(name) {
        if key.guest_port == guest_port.to_be_bytes() {
            change(&mut flow.last_seen_ns, &mut flow.state);
            // Its next packet is one that is noted.
            flow.last_seen_jiffies = flow.last_seen_jiffies.wrapping_sub(1 << 16);
            datapath.insert::<FlowKey<A>, Flow<A>>(name, key, flow);
        }
    }
}

fn age_mappings<A>(datapath: &mut Datapath, name: &str, age_s: u32)
where
    MappingKey<A>: Pod,
    Mapping<A>: Pod,
{
    for (key, mut mapping) in datapath.entries::<MappingKey<A>, Mapping<A>>(name) {
        mapping.used_s -= age_s;
        datapath.insert::<MappingKey<A>, Mapping<A>>(name, key, mapping);
    }
}

fn remove_reverses<A>(datapath: &mut Datapath, name: &str)
where
    ReverseKey<A>: Pod,
    Reverse<A>: Pod,
{
    for (key, _) in datapath.entries::<ReverseKey<A>, Reverse<A>>(name) {
        datapath.remove::<ReverseKey<A>, Reverse<A>>(name, &key);
    }
}

fn holders<A>(datapath: &mut Datapath, name: &str, nat_port: u16) -> Vec<u16>
where
    ReverseKey<A>: Pod,
    Reverse<A>: Pod,
{
    let entries = datapath.entries::<ReverseKey<A>, Reverse<A>>(name);
    let of_port = entries
        .into_iter()
        .filter(|(key, _)| key.nat_port == nat_port.to_be_bytes());
    of_port
        .map(|(_, reverse)| u16::from_be_bytes(reverse.guest_port))
        .collect()
}

fn flow(nat_port: [u8; 2], last_seen_ns: u64) -> Flow<[u8; 4]> {
    Flow {
        last_seen_ns,
        slot: SLOT,
        generation: GENERATION,
        route_generation: 1,
        uplink: UPLINK,
        state: FlowState::Opening as u8,
        nat_port,
        next_hop: ROUTER_V4.octets(),
        nat_address: HOST_V4.octets(),
        ..Flow::zeroed()
    }
}

/// The record of the instance's interface.
#[must_use]
pub fn record() -> Interface {
    let mut record = Interface::zeroed();
    record.ifindex = TAP;
    record.slot = SLOT;
    record.abi = ABI_VERSION;
    record.generation = GENERATION;
    record.instance = SLOT;
    record.policy_generation = 1;
    record.flow_limit = FLOW_LIMIT;
    record.mtu = MTU;
    record.guest_mac = GUEST_MAC;
    record.addresses = 1;
    record.has_v6 = 1;
    record.gateway_v4 = GATEWAY_V4.octets();
    record.instance_gateway_v4 = GATEWAY_V4.octets();
    record.addresses_v4[0] = GUEST_V4.octets();
    record.gateway_v6 = GATEWAY_V6;
    record.addresses_v6[0] = GUEST_V6.octets();
    record.prefixes_v6[0] = vm::WHOLE_NETWORK;
    record
}

fn prefixes() -> [(&'static str, RouteKind); 18] {
    use RouteKind::{AlwaysDenied, Host, Instance, NotUplink, Unreachable, Uplink};
    [
        ("0.0.0.0/0", Uplink),
        ("198.51.100.0/24", Uplink),
        ("198.51.100.2/32", Host),
        ("172.16.0.0/16", Instance),
        ("169.254.0.0/16", AlwaysDenied),
        ("127.0.0.0/8", AlwaysDenied),
        ("224.0.0.0/4", AlwaysDenied),
        ("255.255.255.255/32", AlwaysDenied),
        ("10.9.0.0/16", NotUplink),
        ("192.0.2.0/24", Unreachable),
        ("::/0", Uplink),
        ("2001:db8:100::/64", Uplink),
        ("2001:db8:100::2/128", Host),
        ("fd00:a:b::/48", Instance),
        ("fe80::/10", AlwaysDenied),
        ("ff00::/8", AlwaysDenied),
        ("fd09::/16", NotUplink),
        ("2001:db8:300::/48", Unreachable),
    ]
}

/// A route of this kind; the router is the next hop of the default route alone.
#[must_use]
pub fn route(kind: RouteKind, is_v4: bool, is_default: bool) -> RouteTo {
    if kind != RouteKind::Uplink {
        return RouteTo {
            kind: kind as u32,
            ifindex: 0,
            mtu: 0,
            next_hop: None,
            source: None,
        };
    }
    let (router, source): (IpAddr, IpAddr) = if is_v4 {
        (ROUTER_V4.into(), HOST_V4.into())
    } else {
        (ROUTER_V6.into(), HOST_V6.into())
    };
    RouteTo {
        kind: kind as u32,
        ifindex: UPLINK,
        mtu: MTU,
        next_hop: is_default.then_some(router),
        source: Some(source),
    }
}

/// Ends of a packet from the guest to `dst`.
#[must_use]
pub fn to(dst: impl Into<IpAddr>) -> Ends {
    let dst = dst.into();
    let src = if dst.is_ipv4() {
        IpAddr::V4(GUEST_V4)
    } else {
        IpAddr::V6(GUEST_V6)
    };
    Ends {
        src_mac: GUEST_MAC,
        dst_mac: GATEWAY_MAC,
        src,
        dst,
        ttl: 64,
    }
}

/// Ends of a packet from the world to the address that stands for guests.
#[must_use]
pub fn back(src: impl Into<IpAddr>) -> Ends {
    let src = src.into();
    let dst = if src.is_ipv4() {
        IpAddr::V4(HOST_V4)
    } else {
        IpAddr::V6(HOST_V6)
    };
    Ends {
        src_mac: [2, 0, 0, 0, 0, 1],
        dst_mac: UPLINK_MAC,
        src,
        dst,
        ttl: 60,
    }
}
