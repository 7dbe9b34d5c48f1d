//! What the programs know of an instance and its interfaces.

use crate::limit::Rate;
use crate::policy::PolicyId;
use crate::wire;

/// Slots of interfaces: sixteen bits of the interface index.
pub const SLOTS_MAX: u32 = 65_536;
/// Slots in one element of the array that says which records are in force: the agent reads all of it at its start.
pub const ACTIVE_CHUNK: usize = 1024;
/// Elements of that array.
pub const ACTIVE_CHUNKS: u32 = SLOTS_MAX / ACTIVE_CHUNK as u32;
/// Interfaces that one instance may have (I-2).
pub const INTERFACES_MAX: usize = 4;

/// A pool interface may use all of its /64, of which it is the only member.
pub const WHOLE_NETWORK: u8 = 64;
/// A custom interface may use its own IPv6 address alone: others may share its prefix.
pub const EXACT_ADDRESS: u8 = 128;

/// The interface index that the agent gives to the TAP in `slot`. The low sixteen bits name the slot, so a
/// program finds the record without a search; the upper ones count how often the slot was used, so no index
/// comes back within 32,767 uses.
#[must_use]
pub const fn ifindex(slot: u32, use_count: u32) -> u32 {
    ((use_count % 0x7fff + 1) << 16) | (slot & 0xffff)
}

/// The slot of an interface index made by [`ifindex`]. One that the agent did not make, a lent TAP's, is looked
/// up in [`crate::names::map::ADOPTED`].
#[must_use]
pub const fn slot(ifindex: u32) -> u32 {
    ifindex & 0xffff
}

/// Which of its two records is in force, for each slot of a chunk: 0 none, 1 first, 2 second.
pub type Active = [u8; ACTIVE_CHUNK];

/// Where a slot's entry of [`Active`] is: the element, and the place in it.
#[must_use]
pub const fn active_place(slot: u32) -> (u32, usize) {
    let slot = slot & 0xffff;
    (slot / ACTIVE_CHUNK as u32, slot as usize % ACTIVE_CHUNK)
}

/// Place in the array of records of the copy that `active` (1 or 2) names.
#[must_use]
pub const fn record_index(slot: u32, active: u32) -> u32 {
    (slot & 0xffff) * 2 + ((active - 1) & 1)
}

wire! {
    /// One interface of an instance. There are two copies of each: the agent writes the idle one and then
    /// flips the slot's entry of `ACTIVE`, since an array element is overwritten byte by byte under a reader.
    pub struct Interface = 248 bytes {
        /// Repeats the key: interface index of the TAP. Programs drop where it is not the packet's. In the record of a
        /// leg, the index of the relay's TAP; 0 while the relay is not there.
        pub ifindex: u32,
        /// Repeats the key: slot.
        pub slot: u32,
        /// [`crate::names::ABI_VERSION`] of the writer.
        pub abi: u32,
        /// Counts the starts of instances: the same for all interfaces of one instance, unlike that of every
        /// other start. Flows carry it, so a reused slot inherits none (S-5).
        pub generation: u32,
        /// Number of the instance: the slot of its first interface.
        pub instance: u32,
        /// Moves with every change of the policy; flows carry the value under which they were allowed.
        pub policy_generation: u32,
        /// Flows that the instance may have open.
        pub flow_limit: u32,
        /// MTU of the TAP, bytes.
        pub mtu: u32,
        /// MAC address of the guest.
        pub guest_mac: [u8; 6],
        /// Number of entries of `addresses_v4` that are in use.
        pub addresses: u8,
        /// 1 where this interface has IPv6.
        pub has_v6: u8,
        /// Address of the gateway on this interface, IPv4.
        pub gateway_v4: [u8; 4],
        /// Address that the guest is told as its gateway, IPv4 (I-15): another interface's, one outside every
        /// network of the instance, or `gateway_v4`. It is answered on every interface of the instance.
        pub instance_gateway_v4: [u8; 4],
        /// Own addresses, IPv4: this interface's first, then the instance's other interfaces'.
        pub addresses_v4: [[u8; 4]; INTERFACES_MAX],
        /// Address of the gateway, IPv6: link-local.
        pub gateway_v6: [u8; 16],
        /// Own addresses, IPv6, in the order of `addresses_v4`.
        pub addresses_v6: [[u8; 16]; INTERFACES_MAX],
        /// How many leading bits of the entry of `addresses_v6` a source must share: [`WHOLE_NETWORK`],
        /// [`EXACT_ADDRESS`], or 0 where there is no such entry.
        pub prefixes_v6: [u8; INTERFACES_MAX],
        /// The host's address under which the guest leaves towards the world, IPv4 (N-8); all zeroes for that of the
        /// route.
        pub snat_v4: [u8; 4],
        /// As `snat_v4`, for IPv6.
        pub snat_v6: [u8; 16],
        /// The policy by which the guest's destinations are judged.
        pub policy: PolicyId,
        /// Bits of [`crate::policy::policy_flag`].
        pub policy_flags: u32,
        /// Number of the account, where its instances reach each other (P-12); else 0.
        pub account: u32,
        /// What the instance may send, by bytes (P-11).
        pub bandwidth: Rate,
        /// What the instance may receive, by bytes.
        pub bandwidth_in: Rate,
        /// Packets that the instance may send, and as many that it may receive (P-13).
        pub packets: Rate,
        /// Slot of the record that stands for this interface on the far side of its relay, where
        /// [`crate::policy::policy_flag::RELAYED`] is set: its *leg*. Towards the world the leg is what any other
        /// interface is, with this one's addresses, a slot, an instance number and flows of its own, and the relay's TAP
        /// and MAC address: so the two halves of one five-tuple never meet in a table.
        pub leg: u32,
        /// In the record of a leg, the slot of the interface that it stands for; else 0.
        pub client: u32,
    }
}

wire! {
    /// The interface whose address may come in by its relay's TAP, and go out there. The key is an address; of an
    /// IPv6 interface that may use all of its /64, the network.
    pub struct Client = 8 bytes {
        /// Slot of the interface.
        pub slot: u32,
        /// Slot of its leg.
        pub leg: u32,
    }
}

/// Entries of the maps of clients: one for each slot.
pub const CLIENTS_MAX: u32 = SLOTS_MAX;

wire! {
    /// What holds for all programs and may change while they run.
    pub struct State = 16 bytes {
        /// [`crate::names::ABI_VERSION`] of the maps.
        pub abi: u32,
        /// Mark of redirected frames, kept here for every later load.
        pub mark: u32,
        /// Moves with every change of the routes; flows carry the value under which their way was found.
        pub route_generation: u32,
        /// Which programs run on the maps, and with which constants: part of a hash of both. 0 until they are
        /// loaded and everything that was attached before has them.
        pub object: u32,
    }
}

wire! {
    /// Packets and bytes (of the link layer) of one interface, in the VM's directions.
    pub struct Traffic = 32 bytes {
        /// Packets that the guest sent and that were passed on.
        pub from_vm_packets: u64,
        /// Bytes of them.
        pub from_vm_bytes: u64,
        /// Packets that were passed to the guest.
        pub to_vm_packets: u64,
        /// Bytes of them.
        pub to_vm_bytes: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_index_names_its_slot_and_stays_positive() {
        for (slot_number, uses) in [(0, 0), (65_535, 0), (7, 0x7ffe), (7, u32::MAX)] {
            let index = ifindex(slot_number, uses);
            assert_eq!(slot(index), slot_number);
            assert!(
                i32::try_from(index).is_ok_and(|index| index >= 0x1_0000),
                "{index:#x}"
            );
        }
        assert_ne!(ifindex(1, 1), ifindex(1, 2));
    }
}
