//! The kernel floor: netagent loads its programs and forwards a ping inside Debian's own 6.1 kernel.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use netagent_tests::agent;
use xtask::guest::Guest;
use xtask::guest::initramfs::Initramfs;
use xtask::paths::find_program;

use crate::vm::Vm;

/// The verifier takes its time on an emulated processor.
const LIMIT: Duration = Duration::from_secs(300);

const SCRIPT: &str = r#"
    # By their paths: the shell has an `ip` of its own.
    uname -r
    mkdir -p /run/netns /etc/netagent /var/lib /dev/net
    [ -c /dev/net/tun ] || mknod /dev/net/tun c 10 200
    mount -t bpf bpf /sys/fs/bpf
    /bin/ip netns add world
    /bin/ip link add uplink0 type veth peer name world0 netns world
    /bin/ip addr add 198.51.100.2/24 dev uplink0
    /bin/ip link set uplink0 up
    /bin/ip -n world addr add 198.51.100.1/24 dev world0
    /bin/ip -n world addr add 203.0.113.1/32 dev lo
    /bin/ip -n world link set lo up
    /bin/ip -n world link set world0 up
    /bin/ip route add default via 198.51.100.1
    cat >/netagent.toml <<END
[datapath]
flows = 4096
END
    agent="--socket /run/netagent.sock"
    netagent run $agent --config /netagent.toml --state-dir /run/state --bpf-dir /sys/fs/bpf/netagent --uplink uplink0 >/run/log 2>&1 &
    pid=$!
    until netagent ls $agent >/dev/null 2>&1 || ! kill -0 $pid; do sleep 1; done
    netagent create $agent --name floor --json
    ls /sys/fs/bpf/netagent/v1
    if tap-ping tap0 AA:FC:00:00:00:01 172.16.0.2 172.16.0.1 172.16.0.1 198.51.100.1 203.0.113.1; then
        echo "floor: pinged"
    else
        echo "floor: FAILED"
    fi
    netagent inspect $agent floor
    /bin/tc filter show dev tap0 ingress
    cat /run/log
    echo "floor: end"
    read -r line
"#;

/// A copy without debugging information, which is all that fits into a small guest's memory.
fn stripped(directory: &std::path::Path, program: PathBuf) -> PathBuf {
    let copy = directory.join(program.file_name().unwrap());
    let status = Command::new("strip")
        .arg("-o")
        .arg(&copy)
        .arg(&program)
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "strip (binutils) works on {}",
        program.display()
    );
    copy
}

#[test]
fn the_oldest_supported_kernel_takes_the_programs_and_a_ping_passes() {
    let directory = tempfile::TempDir::with_prefix("netagent-test-floor-").unwrap();
    let mut initramfs = Initramfs::new(SCRIPT).unwrap();
    initramfs
        .add_modules(&["tun", "veth", "sch_ingress", "cls_bpf", "af_packet"])
        .unwrap();
    let programs = [
        agent::binary(),
        PathBuf::from(env!("CARGO_BIN_EXE_tap-ping")),
    ];
    for program in programs {
        initramfs
            .add_binary_with_libraries(&stripped(directory.path(), program))
            .unwrap();
    }
    for name in ["ip", "tc"] {
        initramfs
            .add_binary_with_libraries(&find_program(name).unwrap())
            .unwrap();
    }
    let mut guest = Guest::new(initramfs).unwrap();
    guest.memory_mib = 1_024;
    let mut vm = Vm::boot(&guest);
    vm.wait_for_line("floor: end", LIMIT);
    let console = vm.console();
    assert!(console.contains("6.1."), "the floor is 6.1: {console}");
    assert!(console.contains("floor: pinged"), "{console}");
    assert!(!console.contains("panicked"), "{console}");
}
