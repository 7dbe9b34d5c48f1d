//! Another build of the agent: its binary with an eBPF object whose instructions are in another order. It does the same,
//! and to the kernel its programs are others.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aya::programs::{SchedClassifier, TcAttachType};

use crate::agent::binary;
use crate::netns::NetNs;

/// How an ELF file for the BPF machine begins: 64 bits, little endian.
const MAGIC: &[u8] = b"\x7fELF\x02\x01\x01";
/// Where its header says which machine it is for, and which.
const MACHINE: (usize, u16) = (18, 247);
/// A section of instructions: its type, and its flags.
const PROGRAM_BITS: u32 = 1;
const EXECUTABLE: u64 = 4;

/// Length of an instruction.
const INSTRUCTION: usize = 8;
/// `dst = immediate`, of 64 bits and of 32.
const MOVES: [u8; 2] = [0xb7, 0xb4];
/// A load of 64 bits, which is as long as two instructions.
const LONG_LOAD: u8 = 0x18;
/// Calls and returns, which go nowhere in the section, and the jump whose distance is the immediate.
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LONG_JUMP: u8 = 0x06;

/// Writes another build of the agent into a directory, and says where.
///
/// # Panics
/// Where the binary holds no object, or nothing in it can change its place.
#[must_use]
pub fn rebuild(directory: &Path) -> PathBuf {
    let mut bytes = fs::read(binary()).expect("it was there a moment ago");
    let start = object(&bytes);
    let sections = executable_sections(&bytes[start..]).into_iter();
    let swapped: usize = sections
        .map(|(from, length)| swap_moves(&mut bytes[start + from..start + from + length]))
        .sum();
    assert!(swapped > 0, "no instructions can change places");
    let path = directory.join("netagent-rebuilt");
    fs::write(&path, bytes).expect("a directory of ours");
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&path, executable).expect("a file of ours");
    path
}

/// Ids and tags of the programs that an interface runs on what arrives, and on what leaves.
///
/// # Panics
/// Where the kernel does not say.
#[must_use]
pub fn programs(netns: &NetNs, interface: &str) -> Vec<(u32, u64)> {
    netns.run(|| {
        let attached = [TcAttachType::Ingress, TcAttachType::Egress].map(|direction| {
            let (_, programs) =
                SchedClassifier::query_tcx(interface, direction).expect("this kernel has tcx");
            programs
        });
        let all = attached.iter().flatten();
        all.map(|program| (program.id(), program.tag())).collect()
    })
}

/// Where the object begins.
fn object(bytes: &[u8]) -> usize {
    let begins = |place: &usize| {
        let header = &bytes[*place..];
        header.starts_with(MAGIC) && number(header, MACHINE.0, 2) == u64::from(MACHINE.1)
    };
    (0..bytes.len() - 64)
        .find(begins)
        .expect("the agent holds its eBPF object")
}

/// A little-endian number of so many bytes.
fn number(bytes: &[u8], place: usize, length: usize) -> u64 {
    let bytes = bytes[place..place + length].iter().rev();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Where the sections of instructions are, and how long.
fn executable_sections(object: &[u8]) -> Vec<(usize, usize)> {
    let headers = number(object, 40, 8) as usize;
    let (size, count) = (number(object, 58, 2), number(object, 60, 2));
    (0..count as usize)
        .map(|index| &object[headers + index * size as usize..])
        .filter(|header| number(header, 4, 4) == u64::from(PROGRAM_BITS))
        .filter(|header| number(header, 8, 8) & EXECUTABLE != 0)
        .map(|header| {
            (
                number(header, 24, 8) as usize,
                number(header, 32, 8) as usize,
            )
        })
        .collect()
}

/// Lets all neighbours change places that set two registers to numbers, and between which nothing jumps; how many pairs
/// there were.
fn swap_moves(section: &mut [u8]) -> usize {
    let targets = targets(section);
    let (mut index, mut swapped) = (0, 0);
    while (index + 2) * INSTRUCTION <= section.len() {
        let pair = &mut section[index * INSTRUCTION..(index + 2) * INSTRUCTION];
        let (first, second) = pair.split_at_mut(INSTRUCTION);
        let are_moves = MOVES.contains(&first[0]) && MOVES.contains(&second[0]);
        let differ = first[1] & 0xf != second[1] & 0xf;
        if are_moves && differ && !targets.contains(&(index + 1)) {
            first.swap_with_slice(second);
            swapped += 1;
            index += 2;
        } else {
            index += width(first);
        }
    }
    swapped
}

/// Instructions that a load takes.
fn width(instruction: &[u8]) -> usize {
    1 + usize::from(instruction[0] == LONG_LOAD)
}

/// The instructions to which others jump.
fn targets(section: &[u8]) -> BTreeSet<usize> {
    let mut targets = BTreeSet::new();
    let mut index = 0;
    while let Some(instruction) = section.get(index * INSTRUCTION..(index + 1) * INSTRUCTION) {
        let code = instruction[0];
        let is_jump = matches!(code & 0x07, 0x05 | 0x06) && code != CALL && code != EXIT;
        if is_jump {
            let distance = if code == LONG_JUMP {
                (number(instruction, 4, 4) as u32).cast_signed() as isize
            } else {
                (number(instruction, 2, 2) as u16).cast_signed() as isize
            };
            targets.extend((index + 1).checked_add_signed(distance));
        }
        index += width(instruction);
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_MOVES: [u8; 24] = [
        0xb7, 1, 0, 0, 7, 0, 0, 0, // r1 = 7
        0xb7, 2, 0, 0, 8, 0, 0, 0, // r2 = 8
        0x95, 0, 0, 0, 0, 0, 0, 0, // exit
    ];

    #[test]
    fn two_moves_change_places() {
        let mut section = TWO_MOVES;
        assert_eq!(swap_moves(&mut section), 1);
        assert_eq!(section[..16], [&TWO_MOVES[8..16], &TWO_MOVES[..8]].concat());
    }

    #[test]
    fn moves_to_the_same_register_or_with_a_jump_between_them_stay() {
        let mut same = TWO_MOVES;
        same[9] = 1;
        assert_eq!(swap_moves(&mut same), 0);
        // Back by two: to the second move.
        let mut jumped_to = TWO_MOVES;
        jumped_to[16..].copy_from_slice(&[0x05, 0, 0xfe, 0xff, 0, 0, 0, 0]);
        assert_eq!(swap_moves(&mut jumped_to), 0);
    }
}
