//! Everything that a guest sends and receives is charged to its instance and counted here (P-11, P-13), and nowhere
//! else: so no counter counts what a limit dropped.

use netagent_common::bucket::{self, Owed};
use netagent_common::drop::DropReason;
use netagent_common::limit::{Rate, SUPER_FRAME_LEN};
use netagent_common::vm::Interface;

use crate::kernel::{self, Skb};
use crate::{apart, maps};

/// Charges and counts packets and bytes that the guest sends, as the wire will carry them.
///
/// # Errors
/// [`DropReason::PacketRate`] and [`DropReason::Bandwidth`].
#[inline(always)]
pub fn from_vm(skb: Skb, interface: &Interface, on_the_wire: (u32, u32)) -> Result<(), DropReason> {
    if interface.packets.price | interface.bandwidth.price != 0 {
        let bill = Bill::new(interface, Direction::FromVm, on_the_wire);
        apart::charge(skb, bill).passes(DropReason::Bandwidth)?;
    }
    maps::count_from_vm(interface.slot, on_the_wire);
    Ok(())
}

/// Charges and counts packets and bytes that go to the guest, as the wire carried them.
///
/// # Errors
/// [`DropReason::PacketRate`] and [`DropReason::BandwidthIn`].
#[inline(always)]
pub fn to_vm(skb: Skb, interface: &Interface, on_the_wire: (u32, u32)) -> Result<(), DropReason> {
    if interface.packets.price | interface.bandwidth_in.price != 0 {
        let bill = Bill::new(interface, Direction::ToVm, on_the_wire);
        apart::charge(skb, bill).passes(DropReason::BandwidthIn)?;
    }
    maps::count_to_vm(interface.slot, on_the_wire);
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    FromVm = 0,
    ToVm = 1,
}

/// Most packets that a bill can hold: more than any super-frame has that passes.
const BILLED_MAX: u32 = 0x7fff;

/// What is to be charged to whom, in one register: slot, direction, packets, bytes.
#[derive(Clone, Copy)]
pub struct Bill(u64);

impl Bill {
    #[inline(always)]
    fn new(interface: &Interface, direction: Direction, (packets, bytes): (u32, u32)) -> Self {
        let packets = u64::from(if packets > BILLED_MAX {
            BILLED_MAX
        } else {
            packets
        });
        Self(
            u64::from(interface.slot) << 48
                | (direction as u64) << 47
                | packets << 32
                | u64::from(bytes),
        )
    }

    /// The register.
    #[inline(always)]
    #[must_use]
    pub const fn to_number(self) -> u64 {
        self.0
    }

    /// What was [`Bill::to_number`].
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    const fn slot(self) -> u32 {
        (self.0 >> 48) as u32
    }

    const fn is_to_vm(self) -> bool {
        self.0 >> 47 & 1 != 0
    }

    const fn packets(self) -> u32 {
        (self.0 >> 32) as u32 & 0x7fff
    }

    const fn bytes(self) -> u32 {
        self.0 as u32
    }
}

/// What became of a bill.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Charged(u64);

impl Charged {
    /// It was paid.
    pub const PAID: Self = Self(0);
    /// There are too many packets.
    pub const PACKETS: Self = Self(1);
    /// There are too many bytes.
    pub const BYTES: Self = Self(2);

    /// The register.
    #[inline(always)]
    #[must_use]
    pub const fn to_number(self) -> u64 {
        self.0
    }

    /// What was [`Charged::to_number`].
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// # Errors
    /// Where it was not paid.
    #[inline(always)]
    fn passes(self, too_many_bytes: DropReason) -> Result<(), DropReason> {
        if self == Self::PAID {
            Ok(())
        } else if self == Self::PACKETS {
            Err(DropReason::PacketRate)
        } else {
            Err(too_many_bytes)
        }
    }
}

/// Charges a bill to the instance.
#[inline(always)]
pub fn charge(skb: Skb, bill: Bill) -> Charged {
    let Ok(interface) = maps::record(bill.slot()) else {
        return Charged::BYTES;
    };
    let Some(buckets) = maps::buckets(interface.instance) else {
        return Charged::BYTES;
    };
    if bill.is_to_vm() {
        charge_to(
            skb,
            (&mut buckets.to_vm, &interface.bandwidth_in),
            interface,
            bill,
        )
    } else {
        charge_to(
            skb,
            (&mut buckets.from_vm, &interface.bandwidth),
            interface,
            bill,
        )
    }
}

#[inline(always)]
fn charge_to(
    skb: Skb,
    (owed, bandwidth): (&mut Owed, &Rate),
    interface: &Interface,
    bill: Bill,
) -> Charged {
    let packets = &interface.packets;
    if packets.price != 0
        && pay(&mut owed.packets_ns, packets, (bill.packets(), PACKETS_MAX)).is_none()
    {
        return Charged::PACKETS;
    }
    if bandwidth.price != 0 {
        let Some(owed_ns) = pay(
            &mut owed.bytes_ns,
            bandwidth,
            (bill.bytes(), SUPER_FRAME_LEN),
        ) else {
            if packets.price != 0 {
                maps::give_back(&mut owed.packets_ns, packets.cost_ns(bill.packets()));
            }
            return Charged::BYTES;
        };
        if owed_ns > bandwidth.burst_ns / 2 {
            skb.mark_congestion();
        }
    }
    Charged::PAID
}

/// Packets of a super-frame at most: a card may hand over more segments than a guest.
const PACKETS_MAX: u32 = 1_024;
/// How often a bucket is tried that other CPUs change at the same time.
const TRIES: u32 = 4;

/// Charges an amount, of at most the second one, and says how much is owed then, ns; `None` where it is too much.
#[inline(always)]
fn pay(paid_ns: &mut u64, rate: &Rate, amounts: (u32, u32)) -> Option<u64> {
    let mut now = kernel::now_ns();
    let mut old = maps::read_paid(paid_ns);
    for _ in 0..TRIES {
        let mut new = bucket::charge(rate, amounts, old, now);
        if new.is_none() {
            // The coarse clock refuses too much: it lags behind by a tick at most.
            now = kernel::precise_now_ns();
            new = bucket::charge(rate, amounts, old, now);
        }
        let new = new?;
        let found = maps::exchange_paid(paid_ns, old, new);
        if found == old {
            return Some(new - now);
        }
        old = found;
    }
    None
}
