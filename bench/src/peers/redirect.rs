//! A tcx program that redirects, and one that drops.

use std::os::fd::OwnedFd;

use netagent_tests::netns::NetNs;
use netagent_tests::sys::{self, Instruction};
use netagent_tests::world::{FAR_END, World};

use super::{PATHS, TAPS, take_queues_away};

/// `return TCX_DROP;`
const DROP: i32 = 2;

pub(super) const EXIT: Instruction = Instruction {
    code: 0x95,
    registers: 0,
    offset: 0,
    immediate: 0,
};

pub(super) fn set_up(host: &NetNs) -> Vec<OwnedFd> {
    host.ip_all(&TAPS.map(|tap| format!("link set {tap} up")));
    take_queues_away(host, &TAPS);
    let attach = |(from, to)| {
        let (program, from) = (program(host.ifindex(to)), host.ifindex(from));
        let link = host.run(|| sys::attach_tcx_ingress(&program, from));
        link.expect("this kernel has tcx")
    };
    PATHS.map(attach).into()
}

pub(super) const fn move_immediate(register: u8, immediate: i32) -> Instruction {
    Instruction {
        code: 0xb7,
        registers: register,
        offset: 0,
        immediate,
    }
}

pub(super) const fn call(helper: i32) -> Instruction {
    Instruction {
        code: 0x85,
        registers: 0,
        offset: 0,
        immediate: helper,
    }
}

/// `return bpf_redirect(ifindex, 0);`
pub(crate) fn program(ifindex: u32) -> OwnedFd {
    const REDIRECT: i32 = 23;
    let program = [
        move_immediate(1, ifindex.cast_signed()),
        move_immediate(2, 0),
        call(REDIRECT),
        EXIT,
    ];
    sys::load_classifier(&program).expect("root may load programs")
}

/// Lets the far end of the uplink count what arrives, and drop it, for as long as the answer is held.
///
/// # Panics
/// Without the rights to.
#[must_use]
pub fn drop_at_far_end(world: &World) -> OwnedFd {
    let far_end = world.outside.ifindex(FAR_END);
    let program = sys::load_classifier(&sys::returns(DROP)).expect("root may load programs");
    let attach = || sys::attach_tcx_ingress(&program, far_end);
    world.outside.run(attach).expect("this kernel has tcx")
}
