//! Loads the eBPF object, all or nothing, and pins its maps and programs.

mod fit;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{Array, Map, MapData, MapError};
use aya::pin::PinError;
use aya::programs::{CgroupSockAddr, ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_obj::programs::XdpAttachType;
use aya_obj::{Object, ParseError};
use netagent_common::limit::FLOWS_PER_MAPPING;
use netagent_common::names::{
    ABI_VERSION, COLLECT_FLOWS, COLLECT_ORPHANS, DROP_ALL, FROM_SERVICES, FROM_UPLINK, FROM_VM,
    TO_VM, global, map, socket,
};
use netagent_common::nat::tick_shift;
use netagent_common::vm::State;
use nix::time::{ClockId, clock_getres};
use sha2::{Digest, Sha256};

use crate::apply::host_sockets;
use crate::apply::pins::{NewPins, Pins};
use crate::apply::programs::fit::check_pinned;
use crate::apply::skb_layout::{KERNEL_BTF, SkbLayout, SkbLayoutError};
use crate::host::HostOptions;

/// The programs, compiled by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netagent-ebpf"));

/// Every program on packets, but for [`DROP_ALL`].
const PROGRAMS: [&str; 6] = [
    FROM_VM,
    TO_VM,
    FROM_UPLINK,
    FROM_SERVICES,
    COLLECT_FLOWS,
    COLLECT_ORPHANS,
];

/// Why the datapath is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The object in this binary cannot be read.
    #[error("read the eBPF object")]
    Parse(#[from] ParseError),
    /// The kernel or the loader refused maps or relocations.
    #[error("load the eBPF object")]
    Load(#[from] EbpfError),
    /// It is not known where the kernel keeps partial checksums.
    #[error(transparent)]
    Layout(#[from] SkbLayoutError),
    /// The object lacks something that the agent needs.
    #[error("the eBPF object has no {0}")]
    Absent(&'static str),
    /// The verifier refused a program.
    #[error("load program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// The verifier's words.
        #[source]
        source: ProgramError,
    },
    /// A map cannot be opened, written or asked.
    #[error("map {name}")]
    Map {
        /// The map.
        name: &'static str,
        /// Why.
        #[source]
        source: MapError,
    },
    /// A pinned map is not what the programs expect.
    #[error("pinned map {name} has {what} {found}, the programs need {wanted}")]
    Unfit {
        /// The map.
        name: &'static str,
        /// What is different.
        what: &'static str,
        /// What the pinned map has.
        found: u32,
        /// What the object declares.
        wanted: u32,
    },
    /// A pinned map of maps takes others than the programs look into.
    #[error("pinned map {name} takes other maps than the programs need")]
    UnfitInner {
        /// The map.
        name: &'static str,
    },
    /// A pin cannot be made.
    #[error("pin {0}")]
    Pin(PathBuf, #[source] PinError),
    /// A directory or an old pin is in the way.
    #[error("prepare {0}")]
    Prepare(PathBuf, #[source] io::Error),
}

impl LoadError {
    fn map(name: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map { name, source }
    }
}

/// The programs in the kernel, opened from their pins.
#[derive(Debug)]
pub struct Programs {
    /// On what a guest sends.
    pub from_vm: SchedClassifier,
    /// On what is sent to a guest.
    pub to_vm: SchedClassifier,
    /// On what arrives on an uplink.
    pub from_uplink: SchedClassifier,
    /// On what the agent's servers answer.
    pub from_services: SchedClassifier,
    /// On what a guest sends of which nearly nothing is to pass.
    pub drop_all: Xdp,
    /// Removes flows.
    pub collect_flows: SchedClassifier,
    /// Removes reverse entries without a flow.
    pub collect_orphans: SchedClassifier,
    /// On sockets of the host's processes, with their names.
    pub sockets: Vec<(&'static str, CgroupSockAddr)>,
}

impl Programs {
    /// Opens the pinned programs; `None` where one is missing.
    ///
    /// # Errors
    /// Where a pin is there but cannot be opened.
    pub fn open(pins: &Pins) -> Result<Option<Self>, LoadError> {
        let mut names = PROGRAMS.iter().chain(&socket::ALL).chain([&DROP_ALL]);
        if !names.all(|name| exists(&pins.program(name))) {
            return Ok(None);
        }
        let open = |name: &'static str| {
            SchedClassifier::from_pin(pins.program(name))
                .map_err(|source| LoadError::Program { name, source })
        };
        Ok(Some(Self {
            from_vm: open(FROM_VM)?,
            to_vm: open(TO_VM)?,
            from_uplink: open(FROM_UPLINK)?,
            from_services: open(FROM_SERVICES)?,
            drop_all: Xdp::from_pin(pins.program(DROP_ALL), XdpAttachType::Interface).map_err(
                |source| LoadError::Program {
                    name: DROP_ALL,
                    source,
                },
            )?,
            collect_flows: open(COLLECT_FLOWS)?,
            collect_orphans: open(COLLECT_ORPHANS)?,
            sockets: socket::ALL
                .into_iter()
                .map(|name| {
                    CgroupSockAddr::from_pin(pins.program(name), host_sockets::call(name))
                        .map(|program| (name, program))
                        .map_err(|source| LoadError::Program { name, source })
                })
                .collect::<Result<_, _>>()?,
        }))
    }
}

/// Loads programs and maps and pins them. Maps that are pinned already are used where all of them fit, or else
/// all are made anew: what is attached goes on with the old ones until it has the new programs. Programs are
/// always loaded anew. Where anything fails, no new pin is left.
///
/// # Errors
/// Where the kernel refuses a map or a program.
pub fn load(pins: &Pins, options: &HostOptions) -> Result<(), LoadError> {
    pins.make_directories()
        .map_err(|source| LoadError::Prepare(pins.map(""), source))?;
    let sizes = sizes(options);
    let kept = find_kept(pins, &sizes)?;
    let state = kept.as_ref().map_or(
        State {
            abi: ABI_VERSION,
            mark: options.mark,
            route_generation: 1,
            object: 0,
        },
        |kept| kept.state,
    );
    let pinned = kept.map(|kept| kept.names).unwrap_or_default();

    let mut loader = EbpfLoader::new();
    // The loader parses the kernel's type information first thing; we relocate nothing against it.
    loader.btf(None);
    let globals = Globals::of(options)?;
    loader.override_global(global::MARK, &state.mark, true);
    loader.override_global(global::NETNS_COOKIE, &globals.netns_cookie, true);
    for (name, value) in &globals.words {
        loader.override_global(name, value, true);
    }
    for (name, size) in &sizes {
        loader.map_max_entries(name, *size);
    }
    for name in &pinned {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut object = loader.load(OBJECT)?;
    for name in PROGRAMS {
        program(&mut object, name)?
            .load()
            .map_err(|source| LoadError::Program { name, source })?;
    }
    for name in socket::ALL {
        socket_program(&mut object, name)?
            .load()
            .map_err(|source| LoadError::Program { name, source })?;
    }
    drop_all(&mut object)?
        .load()
        .map_err(|source| LoadError::Program {
            name: DROP_ALL,
            source,
        })?;
    write_state(&mut object, State { object: 0, ..state })?;
    if pinned.is_empty() {
        unpin_maps(pins)?;
    }
    let mut made = NewPins::default();
    pin_maps(&mut object, pins, &pinned, &mut made)?;
    pin_programs(&mut object, pins, &mut made)?;
    made.keep();
    Ok(())
}

/// Whether a load would go on with the maps that are pinned.
///
/// # Errors
/// Where the object cannot be read.
pub fn keeps_maps(pins: &Pins, options: &HostOptions) -> Result<bool, LoadError> {
    let kept = find_kept(pins, &sizes(options))?;
    Ok(kept.is_some_and(|kept| kept.names.len() == map::ALL.len()))
}

/// What this binary would load with these options: the first bytes of a hash, never 0. The mark is not in it,
/// for a load keeps the one that is in use.
///
/// # Errors
/// Where it is not known where the kernel keeps partial checksums.
pub fn object(options: &HostOptions) -> Result<u32, LoadError> {
    let mut hash = Sha256::new_with_prefix(OBJECT);
    let globals = Globals::of(options)?;
    hash.update(globals.netns_cookie.to_ne_bytes());
    for (name, value) in globals.words {
        hash.update(name);
        hash.update(value.to_ne_bytes());
    }
    for (name, size) in sizes(options) {
        hash.update(name);
        hash.update(size.to_ne_bytes());
    }
    let bytes: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, ..] = bytes;
    Ok(u32::from_ne_bytes([a, b, c, d]).max(1))
}

/// Constants of the programs, the mark apart.
struct Globals {
    netns_cookie: u64,
    words: [(&'static str, u16); 14],
}

impl Globals {
    fn of(options: &HostOptions) -> Result<Self, LoadError> {
        let (first, count) = options.nat_ports;
        let skb = SkbLayout::read(Path::new(KERNEL_BTF))?;
        let timeouts = options.timeouts;
        let words = [
            (global::NAT_PORT_FIRST, first),
            (global::NAT_PORT_COUNT, count),
            (global::EIM_PORTS, options.eim_ports),
            (global::FILTERS_NOBODY, options.filters_nobody.into()),
            (global::TIMEOUT_TCP_ESTABLISHED, timeouts.tcp_established),
            (global::TIMEOUT_TCP_TRANSITORY, timeouts.tcp_transitory),
            (global::TIMEOUT_TCP_CLOSING, timeouts.tcp_closing),
            (global::TIMEOUT_UDP, timeouts.udp),
            (global::TIMEOUT_UDP_UNREPLIED, timeouts.udp_unreplied),
            (global::TIMEOUT_ICMP, timeouts.icmp),
            (global::TICK_SHIFT, tick_shift(jiffy_ns())),
            (global::SKB_IP_SUMMED_BIT, skb.ip_summed_bit),
            (global::SKB_CSUM_START, skb.csum_start),
            (global::SKB_NETWORK_HEADER, skb.network_header),
        ];
        Ok(Self {
            netns_cookie: host_sockets::netns_cookie(),
            words,
        })
    }
}

/// Time of a tick of the kernel's timer, ns: the resolution of its coarse clock (`CONFIG_HZ`).
fn jiffy_ns() -> u64 {
    /// 250 Hz.
    const USUAL_NS: u64 = 4_000_000;
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE);
    resolution.map_or(USUAL_NS, |time| {
        Duration::from(time)
            .as_nanos()
            .try_into()
            .unwrap_or(USUAL_NS)
    })
}

/// Pinned maps that the programs can go on with.
struct Kept {
    names: BTreeSet<&'static str>,
    state: State,
}

/// The maps that are pinned already; `None` where they cannot all be used. `STATE` is pinned last and unpinned
/// first: without it, the others may be what is left of a load that did not come to its end.
fn find_kept(pins: &Pins, sizes: &BTreeMap<&'static str, u32>) -> Result<Option<Kept>, LoadError> {
    let names: BTreeSet<&'static str> = map::ALL
        .into_iter()
        .filter(|name| exists(&pins.map(name)))
        .collect();
    if !names.contains(map::STATE) {
        return Ok(None);
    }
    let object = Object::parse(OBJECT)?;
    let checked = names
        .iter()
        .try_for_each(|name| check_pinned(pins, name, &object, sizes))
        .and_then(|()| read_state(&pins.map(map::STATE)));
    match checked {
        Ok(Some(state)) => Ok(Some(Kept { names, state })),
        Ok(None) => Ok(None),
        Err(
            error
            @ (LoadError::Unfit { .. } | LoadError::UnfitInner { .. } | LoadError::Map { .. }),
        ) => {
            tracing::warn!(%error, "the pinned maps are made anew, and no flow lives on");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Maps whose size the configuration decides.
fn sizes(options: &HostOptions) -> BTreeMap<&'static str, u32> {
    let flows = [
        map::FLOWS_V4,
        map::FLOWS_V6,
        map::REVERSE_V4,
        map::REVERSE_V6,
    ];
    let mappings = [map::MAPPINGS_V4, map::MAPPINGS_V6];
    let mappings_max = (options.flows_max / FLOWS_PER_MAPPING).max(1);
    let flows = flows.map(|name| (name, options.flows_max));
    let mappings = mappings.map(|name| (name, mappings_max));
    flows.into_iter().chain(mappings).collect()
}

/// The state, where it was written by this version.
fn read_state(pin: &Path) -> Result<Option<State>, LoadError> {
    let open =
        || Array::<_, State>::try_from(Map::from_map_data(MapData::from_pin(pin)?)?)?.get(&0, 0);
    let state: State = open().map_err(LoadError::map(map::STATE))?;
    Ok((state.abi == ABI_VERSION && state.mark != 0).then_some(state))
}

fn write_state(object: &mut Ebpf, state: State) -> Result<(), LoadError> {
    let map = object
        .map_mut(map::STATE)
        .ok_or(LoadError::Absent(map::STATE))?;
    Array::try_from(map)
        .and_then(|mut map| map.set(0, state, 0))
        .map_err(LoadError::map(map::STATE))
}

/// Removes the pins of maps that cannot be used, and by the first one says so.
fn unpin_maps(pins: &Pins) -> Result<(), LoadError> {
    let others = map::ALL.into_iter().filter(|name| *name != map::STATE);
    for name in iter::once(map::STATE).chain(others) {
        remove_if_there(&pins.map(name))?;
    }
    Ok(())
}

fn pin_maps(
    object: &mut Ebpf,
    pins: &Pins,
    pinned: &BTreeSet<&'static str>,
    made: &mut NewPins,
) -> Result<(), LoadError> {
    let others = map::ALL.into_iter().filter(|name| *name != map::STATE);
    for name in others.chain([map::STATE]) {
        if pinned.contains(name) {
            continue;
        }
        let path = pins.map(name);
        let map = object.map_mut(name).ok_or(LoadError::Absent(name))?;
        map.pin(&path)
            .map_err(|source| LoadError::Pin(path.clone(), source))?;
        made.add(path);
    }
    Ok(())
}

/// Pins under another name and renames, so that at every instant there is a program at the pin.
fn pin_programs(object: &mut Ebpf, pins: &Pins, made: &mut NewPins) -> Result<(), LoadError> {
    for name in PROGRAMS {
        let pin = |to: &Path, object: &mut Ebpf| Ok(program(object, name)?.pin(to));
        pin_program(object, pins, (name, &pin), made)?;
    }
    for name in socket::ALL {
        let pin = |to: &Path, object: &mut Ebpf| Ok(socket_program(object, name)?.pin(to));
        pin_program(object, pins, (name, &pin), made)?;
    }
    let pin = |to: &Path, object: &mut Ebpf| Ok(drop_all(object)?.pin(to));
    pin_program(object, pins, (DROP_ALL, &pin), made)
}

type PinTo<'a> = dyn Fn(&Path, &mut Ebpf) -> Result<Result<(), PinError>, LoadError> + 'a;

fn pin_program(
    object: &mut Ebpf,
    pins: &Pins,
    (name, pin): (&'static str, &PinTo<'_>),
    made: &mut NewPins,
) -> Result<(), LoadError> {
    let path = pins.program(name);
    let fresh = pins.program(&format!("{name}-new"));
    remove_if_there(&fresh)?;
    pin(&fresh, object)?.map_err(|source| LoadError::Pin(fresh.clone(), source))?;
    let replaced = exists(&path);
    fs::rename(&fresh, &path).map_err(|source| LoadError::Prepare(path.clone(), source))?;
    if !replaced {
        made.add(path);
    }
    Ok(())
}

fn drop_all(object: &mut Ebpf) -> Result<&mut Xdp, LoadError> {
    let name = DROP_ALL;
    let program = object.program_mut(name).ok_or(LoadError::Absent(name))?;
    program
        .try_into()
        .map_err(|source| LoadError::Program { name, source })
}

fn socket_program<'a>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut CgroupSockAddr, LoadError> {
    let program = object.program_mut(name).ok_or(LoadError::Absent(name))?;
    program
        .try_into()
        .map_err(|source| LoadError::Program { name, source })
}

fn program<'a>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, LoadError> {
    let program = object.program_mut(name).ok_or(LoadError::Absent(name))?;
    program
        .try_into()
        .map_err(|source| LoadError::Program { name, source })
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn remove_if_there(path: &Path) -> Result<(), LoadError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LoadError::Prepare(path.to_owned(), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
