//! Where a packet is seen, as the kernel wants to be told.

/// Where a packet is seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// The device whose program runs.
    pub ifindex: u32,
    /// The device by which the packet came; 0 where the host made it.
    pub ingress_ifindex: u32,
    /// Its mark.
    pub mark: u32,
    /// Payload of each segment of a super-frame.
    pub gso_size: u32,
}

/// Size of `struct __sk_buff`.
pub(super) const SK_BUFF_LEN: usize = 192;

impl Context {
    /// As `struct __sk_buff`; every field that the kernel does not take is 0.
    pub(super) fn to_bytes(self) -> [u8; SK_BUFF_LEN] {
        let mut bytes = [0; SK_BUFF_LEN];
        let segments = u32::from(self.gso_size != 0);
        let fields = [
            (8, self.mark),
            (36, self.ingress_ifindex),
            (40, self.ifindex),
            (164, segments),
        ];
        for (offset, value) in fields.into_iter().chain([(176, self.gso_size)]) {
            bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    /// As `struct xdp_md` of a frame of this length: the second field is its end, the fourth the device.
    pub(super) fn to_xdp_bytes(self, length: usize) -> Vec<u8> {
        let fields = [0, length as u32, 0, self.ifindex, 0, 0];
        fields.into_iter().flat_map(u32::to_ne_bytes).collect()
    }
}
