//! `wire!`: structures that cross the border between user space and eBPF, with a stated size and no padding.

/// Declares a structure that lies in a map. It is `repr(C)`, its size is stated and checked, it has no
/// padding, and every bit pattern is a value. Fields of a packet are arrays in network order; values of
/// the host (interface index, counters) are sized integers.
///
/// A structure generic over its address states two sizes, for `[u8; 4]` and for `[u8; 16]`.
#[macro_export]
macro_rules! wire {
    (
        $(#[$meta:meta])*
        pub struct $name:ident = $size:literal bytes {
            $($(#[$field_meta:meta])* pub $field:ident : $type:ty),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(not(target_arch = "bpf"), derive(Debug))]
        pub struct $name { $($(#[$field_meta])* pub $field: $type),* }

        impl $name {
            const FIELDS_SIZE: usize = 0 $(+ size_of::<$type>())*;
        }
        $crate::wire!(@pod $name, $size);
    };
    (
        $(#[$meta:meta])*
        pub struct $name:ident<$address:ident> = $size_v4:literal or $size_v6:literal bytes {
            $($(#[$field_meta:meta])* pub $field:ident : $type:ty),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(not(target_arch = "bpf"), derive(Debug))]
        pub struct $name<$address> { $($(#[$field_meta])* pub $field: $type),* }

        impl<$address> $name<$address> {
            const FIELDS_SIZE: usize = 0 $(+ size_of::<$type>())*;
        }
        $crate::wire!(@pod $name<[u8; 4]>, $size_v4);
        $crate::wire!(@pod $name<[u8; 16]>, $size_v6);
    };
    (@pod $name:ty, $size:literal) => {
        const _: () = assert!(size_of::<$name>() == $size, "the stated size is wrong");
        const _: () = assert!(<$name>::FIELDS_SIZE == $size, "padding");

        // SAFETY: every field is an integer or an array of them, for which all zeroes is a value.
        #[allow(unsafe_code, reason = "declares plain old data")]
        unsafe impl bytemuck::Zeroable for $name {}
        // SAFETY: `repr(C)`, fields of integers and arrays of them, no padding by the assertions above.
        #[allow(unsafe_code, reason = "declares plain old data")]
        unsafe impl bytemuck::Pod for $name {}
        // SAFETY: as for `bytemuck::Pod`, which demands more than `aya::Pod` does.
        #[cfg(feature = "user")]
        #[allow(unsafe_code, reason = "declares plain old data")]
        unsafe impl aya::Pod for $name {}
    };
}
