//! The unquantised formats, as blocks of one element.

use super::{QuantBlock, bf16_to_f32, f16_to_f32};

macro_rules! float_block {
    ($(#[$doc:meta])* $block:ident, $name:literal, $bytes:literal, $value:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(target_arch = "nvptx64"), derive(bytemuck::Pod, bytemuck::Zeroable))]
        #[repr(C)]
        pub struct $block(pub [u8; $bytes]);

        impl $block {
            /// The element's value. Exact.
            #[inline(always)]
            pub fn value(&self) -> f32 {
                let value: fn([u8; $bytes]) -> f32 = $value;
                value(self.0)
            }
        }

        impl QuantBlock for $block {
            const NAME: &'static str = $name;
            const ELEMENTS: usize = 1;
            const BYTES: usize = $bytes;

            #[inline(always)]
            fn decode(&self, out: &mut [f32]) {
                let out: &mut [f32; 1] = out.try_into().expect("one value");
                out[0] = self.value();
            }
        }
    };
}

float_block!(
    /// One IEEE single.
    F32, "f32", 4, f32::from_le_bytes
);
float_block!(
    /// One IEEE half.
    F16, "f16", 2, |bytes| f16_to_f32(u16::from_le_bytes(bytes))
);
float_block!(
    /// One bfloat16.
    BF16, "bf16", 2, |bytes| bf16_to_f32(u16::from_le_bytes(bytes))
);
