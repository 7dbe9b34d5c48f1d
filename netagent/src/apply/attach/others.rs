//! Programs of others on a device, by name.

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs};
use netagent_common::names::FROM_UPLINK;

/// A program as people know it.
fn title(program: &ProgramInfo) -> String {
    let name = program.name_as_str().unwrap_or_default();
    format!("'{name}' (id {})", program.id())
}

/// The loaded program with this id.
#[must_use]
pub fn name_of(id: u32) -> String {
    let mut loaded = loaded_programs().filter_map(Result::ok);
    let found = loaded.find(|program| program.id() == id);
    found.map_or_else(|| format!("(id {id})"), |program| title(&program))
}

/// Programs that see what arrives on a device before `from_uplink` does: all by tcx, where it is not attached or
/// attached by a filter.
#[must_use]
pub fn ahead_of_ours(device: &str) -> Vec<String> {
    let programs = by_tcx(device, TcAttachType::Ingress);
    let others = programs
        .iter()
        .take_while(|program| program.name() != FROM_UPLINK.as_bytes());
    others.map(title).collect()
}

/// Programs that see what leaves by an uplink: the agent has none there.
#[must_use]
pub fn on_the_way_out(device: &str) -> Vec<String> {
    let programs = by_tcx(device, TcAttachType::Egress);
    programs.iter().map(title).collect()
}

/// A kernel without tcx has none there.
fn by_tcx(device: &str, direction: TcAttachType) -> Vec<ProgramInfo> {
    let found = SchedClassifier::query_tcx(device, direction);
    found.map_or_else(|_| Vec::new(), |(_, programs)| programs)
}
