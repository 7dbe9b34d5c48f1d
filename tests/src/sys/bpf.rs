//! bpf(2): programs given as instructions, where they are attached, and a map of devices.

use std::ffi::{CString, c_int};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

use super::check;

/// One instruction of eBPF.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Source register in the upper half, destination in the lower.
    pub registers: u8,
    /// Offset.
    pub offset: i16,
    /// Immediate value.
    pub immediate: i32,
}

/// A program that does nothing but return a value.
#[must_use]
pub const fn returns(value: i32) -> [Instruction; 2] {
    let to_register_0 = Instruction {
        code: 0xb7,
        registers: 0,
        offset: 0,
        immediate: value,
    };
    let exit = Instruction {
        code: 0x95,
        registers: 0,
        offset: 0,
        immediate: 0,
    };
    [to_register_0, exit]
}

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads here.
#[repr(C)]
#[derive(Default)]
struct LoadProgram {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    rest: [u64; 12],
}

/// The part of `union bpf_attr` that BPF_LINK_CREATE reads here.
#[repr(C)]
#[derive(Default)]
struct CreateLink {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    rest: [u64; 6],
}

/// The part of `union bpf_attr` that BPF_PROG_TEST_RUN reads and writes here.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    return_value: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    /// Of one run, ns.
    duration: u32,
    rest: [u64; 5],
}

/// Runs a program on a packet `repeat` times, and says what one run took on average, ns.
///
/// # Errors
/// What the kernel says.
pub fn time_program(program: &OwnedFd, packet: &[u8], repeat: u32) -> io::Result<u32> {
    const BPF_PROG_TEST_RUN: c_int = 10;
    let mut attributes = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        data_size_in: u32::try_from(packet.len()).expect("a short packet"),
        data_in: packet.as_ptr().expose_provenance() as u64,
        repeat,
        ..TestRun::default()
    };
    let address = &raw mut attributes;
    // SAFETY: the kernel reads and writes at most the stated size at `attributes`, and `packet` outlives the call.
    let code = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            address,
            size_of::<TestRun>(),
        )
    };
    check(c_int::try_from(code).expect("0 or -1"))?;
    Ok(attributes.duration)
}

fn bpf<T>(command: c_int, attributes: &T) -> io::Result<OwnedFd> {
    let address: *const T = attributes;
    // SAFETY: the kernel reads at most the stated size from `attributes`, whose pointers the callers keep alive.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, address, size_of::<T>()) };
    let fd = c_int::try_from(fd).expect("a file descriptor is an int");
    check(fd)?;
    // SAFETY: both commands return a descriptor that is ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Loads a tc program given as instructions.
///
/// # Errors
/// What the kernel says.
pub fn load_classifier(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    load_program(BPF_PROG_TYPE_SCHED_CLS, instructions)
}

/// Loads an XDP program given as instructions.
///
/// # Errors
/// What the kernel says.
pub fn load_xdp(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    const BPF_PROG_TYPE_XDP: u32 = 6;
    load_program(BPF_PROG_TYPE_XDP, instructions)
}

fn load_program(kind: u32, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: c_int = 5;
    let license = CString::new("GPL").expect("holds no zero byte");
    let attributes = LoadProgram {
        kind,
        instruction_count: u32::try_from(instructions.len()).expect("a short program"),
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
        ..LoadProgram::default()
    };
    bpf(BPF_PROG_LOAD, &attributes)
}

/// Attaches a tc program to what arrives on an interface of the calling thread's namespace, by tcx.
///
/// # Errors
/// What the kernel says.
pub fn attach_tcx_ingress(program: &OwnedFd, ifindex: u32) -> io::Result<OwnedFd> {
    const BPF_TCX_INGRESS: u32 = 46;
    attach(program, ifindex, BPF_TCX_INGRESS)
}

/// The same to what leaves by it.
///
/// # Errors
/// What the kernel says.
pub fn attach_tcx_egress(program: &OwnedFd, ifindex: u32) -> io::Result<OwnedFd> {
    const BPF_TCX_EGRESS: u32 = 47;
    attach(program, ifindex, BPF_TCX_EGRESS)
}

/// Attaches an XDP program to an interface of the calling thread's namespace.
///
/// # Errors
/// What the kernel says.
pub fn attach_xdp(program: &OwnedFd, ifindex: u32) -> io::Result<OwnedFd> {
    const BPF_XDP: u32 = 37;
    attach(program, ifindex, BPF_XDP)
}

/// The part of `union bpf_attr` that BPF_MAP_CREATE reads here.
#[repr(C)]
#[derive(Default)]
struct CreateMap {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    rest: [u64; 6],
}

/// The part of `union bpf_attr` that BPF_MAP_UPDATE_ELEM reads.
#[repr(C)]
#[derive(Default)]
struct UpdateMap {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Makes a map of devices with one entry: this interface of the calling thread's namespace.
///
/// # Errors
/// What the kernel says.
pub fn device_map(ifindex: u32) -> io::Result<OwnedFd> {
    const BPF_MAP_CREATE: c_int = 0;
    const BPF_MAP_UPDATE_ELEM: c_int = 2;
    const BPF_MAP_TYPE_DEVMAP: u32 = 14;
    let attributes = CreateMap {
        kind: BPF_MAP_TYPE_DEVMAP,
        key_size: 4,
        value_size: 4,
        entries: 1,
        ..CreateMap::default()
    };
    let map = bpf(BPF_MAP_CREATE, &attributes)?;
    let key = 0_u32;
    let update = UpdateMap {
        map: map.as_raw_fd().cast_unsigned(),
        key: (&raw const key).expose_provenance() as u64,
        value: (&raw const ifindex).expose_provenance() as u64,
        ..UpdateMap::default()
    };
    let (address, size) = (&raw const update, size_of::<UpdateMap>());
    // SAFETY: the kernel reads `update`, and through it one key and one value of four bytes, all of which live.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_ELEM, address, size) };
    check(if result < 0 { -1 } else { 0 })?;
    Ok(map)
}

fn attach(program: &OwnedFd, ifindex: u32, attach_type: u32) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: c_int = 28;
    let attributes = CreateLink {
        program: program.as_raw_fd().cast_unsigned(),
        target: ifindex,
        attach_type,
        ..CreateLink::default()
    };
    bpf(BPF_LINK_CREATE, &attributes)
}
