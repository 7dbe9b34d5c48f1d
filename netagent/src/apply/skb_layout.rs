//! Where the running kernel keeps the partial checksum of a packet, read from its BTF.
//!
//! A VMM may say of every frame from where to where a checksum is still to be computed and where it goes
//! (`virtio_net_hdr.csum_start`, `csum_offset`). The kernel or the network card does so **after** every
//! program has judged the frame, so a guest could have its source address written over. The programs check
//! both, but tc programs see neither; they read them from `struct sk_buff`, at the offsets found here.
//!
//! A reader of our own instead of a crate: it borrows the file once and keeps nothing, where the crates build
//! every type of the kernel in memory, more than the agent may use in all.

use std::path::Path;

/// The running kernel's types.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Offsets in `struct sk_buff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkbLayout {
    /// Of `ip_summed`, bits.
    pub ip_summed_bit: u16,
    /// Of `csum_start`, with `csum_offset` behind it, bytes.
    pub csum_start: u16,
    /// Of `network_header`, bytes.
    pub network_header: u16,
}

/// Why the layout is not known.
#[derive(Debug, thiserror::Error)]
pub enum SkbLayoutError {
    /// The file is not there or cannot be read.
    #[error(
        "the kernel's types cannot be read from {path}: run a kernel built with CONFIG_DEBUG_INFO_BTF"
    )]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ends too early, or says what no BTF says.
    #[error("the kernel's BTF is damaged at byte {0}")]
    Damaged(usize),
    /// The structure has no such member.
    #[error("the kernel's struct sk_buff has no member {0}: this kernel is not supported")]
    Missing(&'static str),
}

impl SkbLayout {
    /// Reads the layout from a BTF file, [`KERNEL_BTF`].
    ///
    /// # Errors
    /// Where there is no such file, or the kernel's structure is another one.
    pub fn read(path: &Path) -> Result<Self, SkbLayoutError> {
        let bytes = std::fs::read(path).map_err(|source| SkbLayoutError::Read {
            path: path.display().to_string(),
            source,
        })?;
        let btf = Btf::parse(&bytes)?;
        let skb = btf
            .find_struct("sk_buff")?
            .ok_or(SkbLayoutError::Missing("at all"))?;
        let bit = |name| {
            btf.member(skb, name, 0)?
                .ok_or(SkbLayoutError::Missing(name))
        };
        let byte = |name| bit(name).map(|bit| bit / 8);
        Ok(Self {
            ip_summed_bit: bit("ip_summed")?,
            csum_start: byte("csum_start")?,
            network_header: byte("network_header")?,
        })
    }
}

/// Depth to which unnamed structures and unions may be nested.
const NESTING_MAX: u32 = 8;

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

struct Btf<'a> {
    bytes: &'a [u8],
    strings: usize,
    /// Where each type starts, by its id; id 0 is `void`.
    types: Vec<usize>,
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, SkbLayoutError> {
        const MAGIC: u32 = 0xeb9f;
        let mut btf = Self {
            bytes,
            strings: 0,
            types: vec![0],
        };
        if btf.word(0)? & 0xffff != MAGIC {
            return Err(SkbLayoutError::Damaged(0));
        }
        let header_len = btf.word(4)? as usize;
        let types = header_len + btf.word(8)? as usize;
        let end = types + btf.word(12)? as usize;
        btf.strings = header_len + btf.word(16)? as usize;
        let mut at = types;
        while at < end {
            btf.types.push(at);
            at += 12 + btf.tail_len(at)?;
        }
        Ok(btf)
    }

    fn word(&self, at: usize) -> Result<u32, SkbLayoutError> {
        let bytes = self
            .bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<4>());
        bytes
            .map(|bytes| u32::from_ne_bytes(*bytes))
            .ok_or(SkbLayoutError::Damaged(at))
    }

    fn kind(&self, at: usize) -> Result<u32, SkbLayoutError> {
        Ok(self.word(at + 4)? >> 24 & 0x1f)
    }

    /// Number of members, parameters or values.
    fn count(&self, at: usize) -> Result<usize, SkbLayoutError> {
        Ok((self.word(at + 4)? & 0xffff) as usize)
    }

    /// Bytes behind the twelve that every type has (`include/uapi/linux/btf.h`).
    fn tail_len(&self, at: usize) -> Result<usize, SkbLayoutError> {
        let count = self.count(at)?;
        Ok(match self.kind(at)? {
            1 | 14 | 17 => 4,
            3 => 12,
            KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * count,
            6 | 13 => 8 * count,
            2 | 7..=12 | 16 | 18 => 0,
            _ => return Err(SkbLayoutError::Damaged(at)),
        })
    }

    fn name_is(&self, offset: u32, name: &str) -> bool {
        let start = self.strings + offset as usize;
        let text = self
            .bytes
            .get(start..)
            .and_then(|rest| rest.get(..=name.len()));
        text.is_some_and(|text| text.strip_suffix(&[0]) == Some(name.as_bytes()))
    }

    fn find_struct(&self, name: &str) -> Result<Option<usize>, SkbLayoutError> {
        for at in self.types.iter().skip(1) {
            if self.kind(*at)? == KIND_STRUCT && self.name_is(self.word(*at)?, name) {
                return Ok(Some(*at));
            }
        }
        Ok(None)
    }

    /// Offset of a member in bits, also of one in an unnamed structure or union.
    fn member(&self, at: usize, name: &str, depth: u32) -> Result<Option<u16>, SkbLayoutError> {
        if depth > NESTING_MAX {
            return Err(SkbLayoutError::Damaged(at));
        }
        let has_bit_fields = self.word(at + 4)? >> 31 == 1;
        for index in 0..self.count(at)? {
            let member = at + 12 + 12 * index;
            let (member_name, id) = (self.word(member)?, self.word(member + 4)? as usize);
            let offset = self.word(member + 8)?
                & if has_bit_fields {
                    0x00ff_ffff
                } else {
                    u32::MAX
                };
            let offset = u16::try_from(offset).unwrap_or(u16::MAX);
            if self.name_is(member_name, name) {
                return Ok(Some(offset));
            }
            if member_name != 0 {
                continue;
            }
            let inner = *self.types.get(id).ok_or(SkbLayoutError::Damaged(member))?;
            if matches!(self.kind(inner)?, KIND_STRUCT | KIND_UNION)
                && let Some(within) = self.member(inner, name, depth + 1)?
            {
                return Ok(Some(offset.saturating_add(within)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_keeps_the_offset_behind_the_start_and_all_three_close_together() {
        let layout = SkbLayout::read(Path::new("/sys/kernel/btf/vmlinux")).unwrap();
        let btf_bytes = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        let btf = Btf::parse(&btf_bytes).unwrap();
        let skb = btf.find_struct("sk_buff").unwrap().unwrap();
        let offset = btf.member(skb, "csum_offset", 0).unwrap().unwrap() / 8;
        assert_eq!(offset, layout.csum_start + 2);
        assert!(layout.network_header > layout.csum_start);
        assert!(layout.network_header - layout.ip_summed_bit / 8 < 62);
    }

    #[test]
    fn a_file_that_is_no_btf_is_refused_and_never_read_past_its_end() {
        for bytes in [
            &b""[..],
            b"\x9f\xeb",
            b"not a BTF file at all, but long enough for a header",
        ] {
            assert!(Btf::parse(bytes).is_err());
        }
        let whole = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        for len in [24, 100, 5_000] {
            assert!(Btf::parse(&whole[..len]).is_err(), "{len}");
        }
    }
}
