//! The value of one element, repeated over a buffer by the device itself: nothing is uploaded, so captured work may do it.

/// A pattern of 1, 2, 4 or 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Of bytes.
    U8(u8),
    /// Of 16-bit words.
    U16(u16),
    /// Of 32-bit words.
    U32(u32),
    /// Of 64-bit words.
    U64(u64),
}

impl Fill {
    /// Repeats the pattern over host memory whose size is a multiple of the pattern's.
    pub(super) fn write(self, target: &mut [u8]) {
        fn repeat<const N: usize>(target: &mut [u8], pattern: [u8; N]) {
            target.chunks_exact_mut(N).for_each(|chunk| chunk.copy_from_slice(&pattern));
        }
        match self {
            Self::U8(value) => target.fill(value),
            Self::U16(value) => repeat(target, value.to_ne_bytes()),
            Self::U32(value) => repeat(target, value.to_ne_bytes()),
            Self::U64(value) => repeat(target, value.to_ne_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_fills_whole() {
        let mut bytes = [9u8; 16];
        Fill::U8(3).write(&mut bytes);
        assert_eq!(bytes, [3; 16]);
        Fill::U16(0x3F80).write(&mut bytes);
        assert_eq!(bytemuck::cast::<_, [u16; 8]>(bytes), [0x3F80; 8]);
        Fill::U32(7).write(&mut bytes);
        assert_eq!(bytemuck::cast::<_, [u32; 4]>(bytes), [7; 4]);
        Fill::U64(1 << 40).write(&mut bytes);
        assert_eq!(bytemuck::cast::<_, [u64; 2]>(bytes), [1 << 40; 2]);
    }
}
