//! The programs in the kernel without a network: map state and a packet in, verdict, packet and map state out
//! (`BPF_PROG_TEST_RUN`).
//!
//! The kernel takes no VLAN tags off such packets and follows no redirect: that is for the system tests.

mod context;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, HashOfMaps, LpmTrie, MapData, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use netagent_common::drop::{AUDITED, DropKey, DropReason};
use netagent_common::flow::Collected;
use netagent_common::limit::FLOWS_PER_MAPPING;
use netagent_common::names::{self, ABI_VERSION, global, map};
use netagent_common::nat::EIM_PORTS;
use netagent_common::policy::{PolicyId, Route, Verdict};
use netagent_common::publish::SenderKey;
use netagent_common::timeouts::Timeouts;
use netagent_common::vm::{Active, Interface, State, active_place, record_index};

pub use context::Context;

use context::SK_BUFF_LEN;

use crate::netns::NetNs;
use crate::packet::hex;
use crate::route::{RouteTo, v4_octets, v6_octets};
use crate::tap::Tap;
use crate::world::link_layer;

/// Flag of tries.
const BPF_F_NO_PREALLOC: u32 = 1;

/// The mark of redirected frames.
pub const MARK: u32 = 0x6e65_7461;

/// What a program may decide.
pub mod verdict {
    /// Not ours: the next program, then the kernel.
    pub const NEXT: i32 = -1;
    /// To the kernel at once.
    pub const OK: i32 = 0;
    /// Dropped.
    pub const DROP: i32 = 2;
    /// Sent elsewhere.
    pub const REDIRECT: i32 = 7;

    /// What passes an XDP program goes on to the next one, by these names.
    pub(super) fn of_xdp(action: u32) -> i32 {
        match action {
            1 => DROP,
            2 => NEXT,
            other => panic!("XDP action {other}"),
        }
    }
}

/// How the programs are loaded.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// First port of the NAT range.
    pub nat_port_first: u16,
    /// Ports in the NAT range.
    pub nat_port_count: u16,
    /// Flows of each family.
    pub flows_max: u32,
    /// External ports by endpoint-independent mappings of one instance.
    pub eim_ports: u16,
    /// Whether anybody reaches a guest on such a port.
    pub filters_nobody: bool,
    /// Time after which an established TCP flow without a packet is removed, s.
    pub tcp_established: u16,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            nat_port_first: 16_384,
            nat_port_count: 13_616,
            flows_max: 4_096,
            eim_ports: EIM_PORTS,
            filters_nobody: false,
            tcp_established: Timeouts::DEFAULT.tcp_established,
        }
    }
}

/// Fragmented packets that are remembered of each family: few, so that loading takes no time.
const FRAGMENTS_MAX: u32 = 8_192;

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// One of [`verdict`].
    pub verdict: i32,
    /// The packet afterwards.
    pub bytes: Vec<u8>,
    /// Its mark afterwards.
    pub mark: u32,
}

/// Loaded programs with maps of their own, in a namespace of their own.
pub struct Datapath {
    netns: NetNs,
    ebpf: Ebpf,
    taps: Vec<Tap>,
}

/// Every program on packets, but for `drop_all`.
pub const PROGRAMS: [&str; 6] = [
    names::FROM_VM,
    names::TO_VM,
    names::FROM_UPLINK,
    names::FROM_SERVICES,
    names::COLLECT_FLOWS,
    names::COLLECT_ORPHANS,
];

impl Datapath {
    /// Loads the object and every program in it.
    ///
    /// # Panics
    /// With the verifier's log, where the kernel refuses one.
    #[must_use]
    pub fn load(sizes: Sizes) -> Self {
        let path = object();
        let mut loader = EbpfLoader::new();
        loader.override_global(global::MARK, &MARK, true);
        loader.override_global(global::NAT_PORT_FIRST, &sizes.nat_port_first, true);
        loader.override_global(global::NAT_PORT_COUNT, &sizes.nat_port_count, true);
        loader.override_global(global::EIM_PORTS, &sizes.eim_ports, true);
        let filters_nobody = u16::from(sizes.filters_nobody);
        loader.override_global(global::FILTERS_NOBODY, &filters_nobody, true);
        let tcp_established = sizes.tcp_established;
        loader.override_global(global::TIMEOUT_TCP_ESTABLISHED, &tcp_established, true);
        for name in [
            map::FLOWS_V4,
            map::FLOWS_V6,
            map::REVERSE_V4,
            map::REVERSE_V6,
        ] {
            loader.map_max_entries(name, sizes.flows_max);
        }
        for name in [map::FRAGMENTS_V4, map::FRAGMENTS_V6] {
            loader.map_max_entries(name, FRAGMENTS_MAX);
        }
        for name in [map::MAPPINGS_V4, map::MAPPINGS_V6] {
            let mappings_max = (sizes.flows_max / FLOWS_PER_MAPPING).max(1);
            loader.map_max_entries(name, mappings_max);
        }
        let loaded = loader.load_file(&path);
        let mut ebpf =
            loaded.unwrap_or_else(|error| panic!("load {} as root: {error:?}", path.display()));
        for name in PROGRAMS {
            let loaded = classifier(&mut ebpf, name).load();
            loaded.unwrap_or_else(|error| panic!("the kernel refuses {name}: {error:?}"));
        }
        let loaded = drop_all(&mut ebpf).load();
        loaded.unwrap_or_else(|error| panic!("the kernel refuses drop_all: {error:?}"));
        let mut datapath = Self {
            netns: NetNs::new(),
            ebpf,
            taps: Vec::new(),
        };
        let state = State {
            abi: ABI_VERSION,
            mark: MARK,
            route_generation: 1,
            object: 0,
        };
        datapath
            .array::<State>(map::STATE)
            .set(0, state, 0)
            .expect("element 0");
        datapath
    }

    /// How many instructions the verifier followed in a program.
    ///
    /// # Panics
    /// Where the kernel does not say.
    pub fn verified_instructions(&mut self, program: &str) -> u32 {
        let info = classifier(&mut self.ebpf, program).info();
        let count = info
            .expect("the program is loaded")
            .verified_instruction_count();
        count.expect("Linux 5.16 says it")
    }

    /// Makes a device with this interface index and hardware address, so that packets can be seen there.
    pub fn add_device(&mut self, ifindex: u32, mac: [u8; 6]) {
        let name = format!("t{}", self.taps.len());
        self.taps.push(Tap::create(&self.netns, &name, ifindex));
        self.netns
            .ip(&format!("link set {name} address {}", link_layer(mac)));
    }

    /// Sets the device that was made as the first, the second, ... up, and gives it.
    ///
    /// # Panics
    /// Where there is none.
    pub fn up(&mut self, device: usize) -> &Tap {
        self.netns.ip(&format!("link set t{device} up"));
        &self.taps[device]
    }

    /// Writes the first copy of a record and puts it in force.
    ///
    /// # Panics
    /// Where the slot is none.
    pub fn set_interface(&mut self, record: &Interface) {
        let mut records = self.array::<Interface>(map::INTERFACES);
        records
            .set(record_index(record.slot, 1), record, 0)
            .expect("the slot is in the array");
        self.set_active(record.slot, 1);
    }

    /// Says which copy of a slot's record is in force.
    ///
    /// # Panics
    /// Where the slot is none.
    pub fn set_active(&mut self, slot: u32, copy: u8) {
        let (chunk, place) = active_place(slot);
        let mut active = self.array::<Active>(map::ACTIVE);
        let mut copies = active.get(&chunk, 0).expect("the slot is in the array");
        copies[place] = copy;
        active
            .set(chunk, copies, 0)
            .expect("the slot is in the array");
    }

    /// Says what a destination is.
    ///
    /// # Panics
    /// When the map is full.
    pub fn set_route(&mut self, (address, length): (IpAddr, u8), route: &RouteTo) {
        let prefix = u32::from(length);
        match address {
            IpAddr::V4(address) => {
                let mut routes: LpmTrie<_, [u8; 4], Route<[u8; 4]>> = self.map(map::ROUTES_V4);
                let value = route.wire(v4_octets);
                routes
                    .insert(&Key::new(prefix, address.octets()), value, 0)
                    .expect("room for a route");
            }
            IpAddr::V6(address) => {
                let mut routes: LpmTrie<_, [u8; 16], Route<[u8; 16]>> = self.map(map::ROUTES_V6);
                let value = route.wire(v6_octets);
                routes
                    .insert(&Key::new(prefix, address.octets()), value, 0)
                    .expect("room for a route");
            }
        }
    }

    /// Leads to a slot by the address of its guest.
    ///
    /// # Panics
    /// Where the map is full.
    pub fn add_guest(&mut self, slot: u32, (address, length): (IpAddr, u8)) {
        let prefix = u32::from(length);
        match address {
            IpAddr::V4(address) => {
                let mut guests: LpmTrie<_, [u8; 4], u32> = self.map(map::GUESTS_V4);
                guests
                    .insert(&Key::new(prefix, address.octets()), slot, 0)
                    .expect("room for a guest");
            }
            IpAddr::V6(address) => {
                let mut guests: LpmTrie<_, [u8; 16], u32> = self.map(map::GUESTS_V6);
                guests
                    .insert(&Key::new(prefix, address.octets()), slot, 0)
                    .expect("room for a guest");
            }
        }
    }

    /// Lets an address use a published port of limited use.
    ///
    /// # Panics
    /// When the map is full.
    pub fn add_sender(&mut self, id: u32, (address, length): (IpAddr, u8)) {
        let prefix = u32::BITS + u32::from(length);
        match address {
            IpAddr::V4(address) => {
                let address = address.octets();
                let key = Key::new(prefix, SenderKey { id, address });
                let mut senders: LpmTrie<_, SenderKey<[u8; 4]>, u32> = self.map(map::SENDERS_V4);
                senders.insert(&key, 1, 0).expect("room for a sender");
            }
            IpAddr::V6(address) => {
                let address = address.octets();
                let key = Key::new(prefix, SenderKey { id, address });
                let mut senders: LpmTrie<_, SenderKey<[u8; 16]>, u32> = self.map(map::SENDERS_V6);
                senders.insert(&key, 1, 0).expect("room for a sender");
            }
        }
    }

    /// Runs a program on a packet.
    ///
    /// # Panics
    /// When the kernel cannot.
    pub fn run(&mut self, program: &str, bytes: &[u8], context: Context) -> Outcome {
        let outcome = self.try_run(program, bytes, context);
        outcome.unwrap_or_else(|| panic!("the kernel takes no such packet: {}", hex(bytes)))
    }

    /// Runs a program on a packet; `None` where the kernel takes no such packet: it wants whole IP headers.
    ///
    /// # Panics
    /// When the kernel cannot run the program.
    pub fn try_run(&mut self, program: &str, bytes: &[u8], context: Context) -> Option<Outcome> {
        if program == names::DROP_ALL {
            return Some(self.time(program, (bytes, context), 1).1);
        }
        let (ctx_in, mut ctx_out) = (context.to_bytes(), [0; SK_BUFF_LEN]);
        let mut data_out = vec![0; bytes.len() + 256];
        let options = TestRunOptions {
            data_in: Some(bytes),
            data_out: Some(&mut data_out),
            ctx_in: Some(&ctx_in),
            ctx_out: Some(&mut ctx_out),
            ..TestRunOptions::new()
        };
        let netns = self.netns.clone();
        let program = &*classifier(&mut self.ebpf, program);
        let result = match netns.run(|| program.test_run(options)) {
            Ok(result) => result,
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == ErrorKind::InvalidInput =>
            {
                return None;
            }
            Err(error) => panic!("test run of {} bytes: {error:?}", bytes.len()),
        };
        data_out.truncate(result.data_size_out as usize);
        let mark = u32::from_ne_bytes(ctx_out[8..12].try_into().expect("four bytes"));
        Some(Outcome {
            verdict: result.return_value.cast_signed(),
            bytes: data_out,
            mark,
        })
    }

    /// Runs a program on a packet `repeat` times, each time on what the run before left of it, and says what one run
    /// took on average, and what became of the packet at last.
    ///
    /// # Panics
    /// When the kernel cannot.
    pub fn time(
        &mut self,
        program: &str,
        (bytes, context): (&[u8], Context),
        repeat: u32,
    ) -> (Duration, Outcome) {
        let mut data_out = vec![0; bytes.len() + 256];
        let of_xdp = context.to_xdp_bytes(bytes.len());
        let of_classifier = context.to_bytes();
        let is_xdp = program == names::DROP_ALL;
        let options = TestRunOptions {
            data_in: Some(bytes),
            data_out: Some(&mut data_out),
            ctx_in: Some(if is_xdp { &of_xdp } else { &of_classifier }),
            repeat,
            ..TestRunOptions::new()
        };
        let netns = self.netns.clone();
        let result = if is_xdp {
            let program = &*drop_all(&mut self.ebpf);
            netns.run(|| program.test_run(options))
        } else {
            let program = &*classifier(&mut self.ebpf, program);
            netns.run(|| program.test_run(options))
        };
        let result = result.unwrap_or_else(|error| panic!("{program}: {error:?}"));
        data_out.truncate(result.data_size_out as usize);
        let outcome = Outcome {
            verdict: if is_xdp {
                verdict::of_xdp(result.return_value)
            } else {
                result.return_value.cast_signed()
            },
            bytes: data_out,
            mark: 0,
        };
        (result.duration, outcome)
    }

    /// Runs one collection pass, and says what it did and how long it took.
    ///
    /// # Panics
    /// When the kernel cannot.
    pub fn collect(&mut self, program: &str) -> (Collected, Duration) {
        let packet = [0; 64];
        let options = TestRunOptions {
            data_in: Some(&packet),
            ..TestRunOptions::new()
        };
        let started = crate::deadline::now();
        let result = classifier(&mut self.ebpf, program).test_run(options);
        let took = started.elapsed();
        result.expect("the kernel runs the pass");
        (
            self.array::<Collected>(map::COLLECTED)
                .get(&0, 0)
                .expect("element 0"),
            took,
        )
    }

    /// Packets dropped, by slot and reason.
    ///
    /// # Panics
    /// Where a reason has no name.
    #[must_use]
    pub fn drops(&mut self) -> BTreeMap<(u32, DropReason), u64> {
        self.counted(0)
    }

    /// Packets that a policy in audit mode would have dropped, by slot and reason.
    #[must_use]
    pub fn audited(&mut self) -> BTreeMap<(u32, DropReason), u64> {
        self.counted(AUDITED)
    }

    fn counted(&mut self, bit: u32) -> BTreeMap<(u32, DropReason), u64> {
        let drops = self.entries::<DropKey, u64>(map::DROPS).into_iter();
        let known = |number| DropReason::from_number(number).expect("programs count known reasons");
        drops
            .filter(|(key, _)| key.reason & AUDITED == bit)
            .map(|(key, count)| ((key.slot, known(key.reason & !AUDITED)), count))
            .collect()
    }

    /// Writes a compiled policy.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn set_policy(&mut self, id: PolicyId, entries: &[((IpAddr, u8), Verdict)]) {
        let mut v4: LpmTrie<MapData, [u8; 4], u32> =
            LpmTrie::create(entries.len() as u32 + 1, BPF_F_NO_PREALLOC).expect("a trie");
        let mut v6: LpmTrie<MapData, [u8; 16], u32> =
            LpmTrie::create(entries.len() as u32 + 1, BPF_F_NO_PREALLOC).expect("a trie");
        for ((address, length), verdict) in entries {
            let (length, verdict) = (u32::from(*length), *verdict as u32);
            let inserted = match address {
                IpAddr::V4(address) => v4.insert(&Key::new(length, address.octets()), verdict, 0),
                IpAddr::V6(address) => v6.insert(&Key::new(length, address.octets()), verdict, 0),
            };
            inserted.expect("room for an entry");
        }
        let mut policies: HashOfMaps<_, PolicyId, _> = self.map(map::POLICIES_V4);
        policies.insert(id, &v4, 0).expect("room for a policy");
        let mut policies: HashOfMaps<_, PolicyId, _> = self.map(map::POLICIES_V6);
        policies.insert(id, &v6, 0).expect("room for a policy");
    }

    /// Everything in a hash map.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn entries<K: Pod, V: Pod>(&mut self, name: &str) -> Vec<(K, V)> {
        let entries: HashMap<&mut MapData, K, V> = self.map(name);
        entries
            .iter()
            .map(|entry| entry.expect("nobody else changes the map"))
            .collect()
    }

    /// Writes an entry of a hash map.
    ///
    /// # Panics
    /// When it is full.
    pub fn insert<K: Pod, V: Pod>(
        &mut self,
        name: &str,
        key: impl Borrow<K>,
        value: impl Borrow<V>,
    ) {
        let mut entries: HashMap<&mut MapData, K, V> = self.map(name);
        entries.insert(key, value, 0).expect("room for an entry");
    }

    /// Removes an entry of a hash map.
    ///
    /// # Panics
    /// Where it is not there.
    pub fn remove<K: Pod, V: Pod>(&mut self, name: &str, key: &K) {
        let mut entries: HashMap<&mut MapData, K, V> = self.map(name);
        entries.remove(key).expect("the entry is there");
    }

    /// The copies of all CPUs of an element.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn per_cpu<V: Pod>(&mut self, name: &str, index: u32) -> Vec<V> {
        let array: PerCpuArray<&mut MapData, V> = self.map(name);
        array
            .get(&index, 0)
            .expect("the index is in the array")
            .to_vec()
    }

    /// An array.
    ///
    /// # Panics
    /// Where there is none of this name and type.
    pub fn array<V: Pod>(&mut self, name: &str) -> Array<&mut MapData, V> {
        self.map(name)
    }

    fn map<'a, M: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>>(
        &'a mut self,
        name: &str,
    ) -> M {
        let found = self
            .ebpf
            .map_mut(name)
            .unwrap_or_else(|| panic!("the object has no map {name}"));
        M::try_from(found).unwrap_or_else(|error| panic!("map {name}: {error}"))
    }
}

fn drop_all(ebpf: &mut Ebpf) -> &mut Xdp {
    let program = ebpf.program_mut(names::DROP_ALL);
    let program = program.expect("the object has drop_all");
    program.try_into().expect("drop_all is an XDP program")
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program = ebpf
        .program_mut(name)
        .unwrap_or_else(|| panic!("the object has no program {name}"));
    program
        .try_into()
        .unwrap_or_else(|error| panic!("{name} is no classifier: {error}"))
}

/// The eBPF object: `NETAGENT_EBPF`, or what the build of netagent left.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn object() -> PathBuf {
    let built = || {
        let target = crate::agent::target_dir();
        let target = target
            .parent()
            .expect("a profile's directory lies in the target directory");
        target.join("ebpf/bpfel-unknown-none/ebpf/netagent-ebpf")
    };
    let path = std::env::var_os("NETAGENT_EBPF").map_or_else(built, PathBuf::from);
    assert!(
        path.is_file(),
        "no eBPF object at {}: run `cargo xtask test`, it builds it",
        path.display()
    );
    path
}
