//! A VM of `xtask::guest` boots: setup's kernel, busybox, modules and a program of this machine.

use std::process::Stdio;

use xtask::guest::Guest;
use xtask::guest::initramfs::Initramfs;
use xtask::paths;

#[test]
fn a_guest_runs_its_script_with_modules_arguments_and_a_program_of_this_machine() {
    let script = r#"
        echo "word: $(argument word)"
        uname -r
        mount -t bpf bpf /sys/fs/bpf && echo "bpffs: mounted"
        [ -e /sys/kernel/btf/vmlinux ] && echo "btf: there"
        [ -e /sys/module/cls_bpf ] && [ -e /sys/module/sch_ingress ] && echo "clsact: loaded"
        mkdir -p /dev/net && [ -c /dev/net/tun ] && echo "tun: there"
        bpftool version
    "#;
    let mut initramfs = Initramfs::new(script).expect("busybox");
    initramfs
        .add_modules(&["tun", "veth", "sch_ingress", "cls_bpf", "af_packet"])
        .expect("modules");
    let bpftool = paths::find_program("bpftool").expect("bpftool");
    initramfs
        .add_binary_with_libraries(&bpftool)
        .expect("bpftool's libraries");

    let mut guest = Guest::new(initramfs).expect("a kernel");
    guest.arguments = vec!["na.word=hello".to_owned()];
    guest.deadline_s = Some(60);
    let initrd = std::env::temp_dir().join(format!("netagent-guest-test-{}", std::process::id()));
    let mut command = guest.command(&initrd).expect("QEMU");
    let output = command.stdin(Stdio::null()).output().expect("QEMU starts");
    std::fs::remove_file(&initrd).expect("the initramfs was written");

    let console = String::from_utf8_lossy(&output.stdout);
    for wanted in [
        "word: hello",
        "bpffs: mounted",
        "btf: there",
        "clsact: loaded",
        "tun: there",
        "bpftool v",
    ] {
        assert!(
            console.contains(wanted),
            "no {wanted:?} on the console:\n{console}"
        );
    }
}
