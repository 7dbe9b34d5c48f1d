//! Entry points: each turns the verdict of its direction into the kernel's action, and nothing else.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
    use aya_ebpf::bindings::{__sk_buff, bpf_sock_addr, xdp_md};
    use netagent_ebpf::kernel::{Skb, Xdp};
    use netagent_ebpf::socket::{self, Call};
    use netagent_ebpf::verdict::{Action, Dropped};
    use netagent_ebpf::{collect, drop_all, from_services, from_uplink, from_vm, maps, to_vm};

    /// The next program, and where there is none, the kernel: the same for tcx and for clsact.
    const NEXT: i32 = -1;
    const SHOT: i32 = 2;

    fn code(verdict: Result<Action, Dropped>) -> i32 {
        match verdict {
            Ok(Action::Next) => NEXT,
            Ok(Action::Redirect(code)) => code,
            Err(dropped) => {
                maps::count_drop(dropped);
                SHOT
            }
        }
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier/from_vm")]
    extern "C" fn from_vm(context: *mut __sk_buff) -> i32 {
        // SAFETY: the kernel calls this with the program's context.
        code(from_vm::judge(unsafe { Skb::new(context) }))
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier/to_vm")]
    extern "C" fn to_vm(context: *mut __sk_buff) -> i32 {
        // SAFETY: as in `from_vm`.
        code(to_vm::judge(unsafe { Skb::new(context) }))
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier/from_uplink")]
    extern "C" fn from_uplink(context: *mut __sk_buff) -> i32 {
        // SAFETY: as in `from_vm`.
        code(from_uplink::judge(unsafe { Skb::new(context) }))
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier/from_services")]
    extern "C" fn from_services(context: *mut __sk_buff) -> i32 {
        // SAFETY: as in `from_vm`.
        code(from_services::judge(unsafe { Skb::new(context) }))
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "xdp")]
    extern "C" fn drop_all(context: *mut xdp_md) -> u32 {
        // SAFETY: as in `from_vm`.
        match drop_all::judge(unsafe { Xdp::new(context) }) {
            Ok(()) => XDP_PASS,
            Err(dropped) => {
                maps::count_drop(dropped);
                XDP_DROP
            }
        }
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier/collect_flows")]
    extern "C" fn collect_flows(_context: *mut __sk_buff) -> i32 {
        collect::flows();
        0
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "classifier/collect_orphans")]
    extern "C" fn collect_orphans(_context: *mut __sk_buff) -> i32 {
        collect::orphans();
        0
    }

    /// Programs on sockets lead and tell; they refuse nothing.
    const GO_ON: i32 = 1;

    macro_rules! socket_programs {
        ($($name:ident = $section:literal, $function:path;)+) => {$(
            #[unsafe(no_mangle)]
            #[unsafe(link_section = $section)]
            extern "C" fn $name(context: *mut bpf_sock_addr) -> i32 {
                // SAFETY: the kernel calls this with the program's context.
                $function(unsafe { Call::new(context) });
                GO_ON
            }
        )+};
    }

    socket_programs! {
        connect_v4 = "cgroup/connect4", socket::lead_v4;
        connect_v6 = "cgroup/connect6", socket::lead_v6;
        sendmsg_v4 = "cgroup/sendmsg4", socket::lead_v4;
        sendmsg_v6 = "cgroup/sendmsg6", socket::lead_v6;
        recvmsg_v4 = "cgroup/recvmsg4", socket::tell_v4;
        recvmsg_v6 = "cgroup/recvmsg6", socket::tell_v6;
        peer_v4 = "cgroup/getpeername4", socket::tell_v4;
        peer_v6 = "cgroup/getpeername6", socket::tell_v6;
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "license")]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}
