//! Access to the bytes of a packet, always checked.

/// Types for which any bytes are a valid value.
///
/// # Safety
///
/// Every bit pattern must be a valid value, and there must be no padding.
pub unsafe trait Plain: Copy {}

// SAFETY: an integer, or an array of them.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: arrays have no padding of their own.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Maximum size of a value for [`Frame::launder_struct`] in bytes.
pub const MAX_LAUNDERED_BYTES: usize = 192;

/// A packet from its Ethernet header on, with headroom.
pub trait Frame {
    /// Returns the length in bytes.
    fn len(&self) -> usize;

    /// Returns whether the packet is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the value at an offset, in the byte order of the packet. `None` if it is not
    /// completely inside.
    fn load<T: Plain>(&self, at: usize) -> Option<T>;

    /// Writes a value at an offset. `None` if it is not completely inside.
    fn store<T: Plain>(&mut self, at: usize, value: T) -> Option<()>;

    /// Inserts `by` bytes of unspecified content before the first byte. `None` without room.
    fn grow_head(&mut self, by: usize) -> Option<()>;

    /// Removes the first `by` bytes. `None` if there are fewer.
    fn shrink_head(&mut self, by: usize) -> Option<()>;

    /// Truncates the packet to `len` bytes. `None` if it is shorter already.
    fn truncate(&mut self, len: usize) -> Option<()>;

    /// Returns the same value, about which the verifier has lost all knowledge.
    #[inline(always)]
    fn launder(&self, value: u64) -> u64 {
        value
    }

    /// Returns the same value, whose link to the value it was computed from the verifier has lost.
    /// Linux 6.12 loses the bounds of the latter when a sum of it and a constant is compared with a
    /// known value.
    #[inline(always)]
    fn unlink(&self, value: usize) -> usize {
        value
    }

    /// Works like [`Self::launder`], for each field of a value of up to [`MAX_LAUNDERED_BYTES`] bytes without
    /// pointers.
    #[inline(always)]
    fn launder_struct<T: Copy>(&self, value: T) -> T {
        value
    }
}

/// A packet in host memory.
#[derive(Debug)]
pub struct Buffer<'a> {
    bytes: &'a mut [u8],
    start: usize,
    end: usize,
}

impl<'a> Buffer<'a> {
    /// Creates a packet in `bytes`, of which the first `headroom` bytes are headroom.
    ///
    /// # Panics
    ///
    /// Panics if `headroom` exceeds the length.
    pub fn new(bytes: &'a mut [u8], headroom: usize) -> Self {
        assert!(headroom <= bytes.len());
        let end = bytes.len();
        Self {
            bytes,
            start: headroom,
            end,
        }
    }

    /// Returns the bytes of the packet.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }
}

impl Frame for Buffer<'_> {
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn load<T: Plain>(&self, at: usize) -> Option<T> {
        let bytes = self.bytes().get(at..at.checked_add(size_of::<T>())?)?;
        // SAFETY: the slice has the size of a T, and any bytes are a valid T.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn store<T: Plain>(&mut self, at: usize, value: T) -> Option<()> {
        let packet = &mut self.bytes[self.start..self.end];
        let bytes = packet.get_mut(at..at.checked_add(size_of::<T>())?)?;
        // SAFETY: the slice has the size of a T.
        unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(value) };
        Some(())
    }

    fn grow_head(&mut self, by: usize) -> Option<()> {
        self.start = self.start.checked_sub(by)?;
        Some(())
    }

    fn shrink_head(&mut self, by: usize) -> Option<()> {
        if by > self.len() {
            return None;
        }
        self.start += by;
        Some(())
    }

    fn truncate(&mut self, len: usize) -> Option<()> {
        if len > self.len() {
            return None;
        }
        self.end = self.start + len;
        Some(())
    }
}
