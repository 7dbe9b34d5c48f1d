//! XDP programs that redirect by a map of devices.
//!
//! A TAP runs its program before there is a socket buffer where the frame fits a page; super-frames go another way, on
//! which a redirect refuses what is longer than the MTU.

use std::os::fd::{AsRawFd, OwnedFd};

use netagent_tests::netns::NetNs;
use netagent_tests::sys::{self, Instruction};
use netagent_tests::world::{FAR_END, UPLINK, World};

use super::redirect::{EXIT, call, move_immediate};
use super::{PATHS, TAPS, take_queues_away};

/// `return XDP_PASS;`
const PASS: i32 = 2;

pub(super) fn set_up(world: &World) -> Vec<OwnedFd> {
    let host = &world.host;
    host.ip_all(&TAPS.map(|tap| format!("link set {tap} up")));
    take_queues_away(host, &TAPS);
    let mut held = Vec::new();
    for (from, to) in PATHS {
        let (from, to) = (host.ifindex(from), host.ifindex(to));
        let link = host.run(|| {
            let map = sys::device_map(to)?;
            sys::attach_xdp(&program(&map), from)
        });
        held.push(link.expect("this kernel has XDP"));
    }
    // A veth takes frames of XDP only where its other end has a program as well.
    let far_end = world.outside.ifindex(FAR_END);
    let program = sys::load_xdp(&sys::returns(PASS)).expect("root may load programs");
    let link = world.outside.run(|| sys::attach_xdp(&program, far_end));
    held.push(link.expect("this kernel has XDP"));
    held
}

/// Where the kernel runs the programs: in the driver, or behind it.
pub(crate) fn modes(host: &NetNs) -> String {
    let mode = |name: &str| {
        let link = host.json(&format!("ip -json link show dev {name}"));
        let is_native = link[0]["xdp"]["mode"] == 1;
        format!("{} on {name}", if is_native { "native" } else { "generic" })
    };
    [UPLINK, TAPS[0]].map(mode).join(", ")
}

/// `return bpf_redirect_map(map, 0, 0);`
fn program(map: &OwnedFd) -> OwnedFd {
    const REDIRECT_MAP: i32 = 51;
    // Both halves of a load of 64 bits: the first names a map by its descriptor.
    let load_map = Instruction {
        code: 0x18,
        registers: 0x11,
        offset: 0,
        immediate: map.as_raw_fd(),
    };
    let rest = Instruction {
        code: 0,
        registers: 0,
        offset: 0,
        immediate: 0,
    };
    let program = [
        load_map,
        rest,
        move_immediate(2, 0),
        move_immediate(3, 0),
        call(REDIRECT_MAP),
        EXIT,
    ];
    sys::load_xdp(&program).expect("root may load programs")
}
