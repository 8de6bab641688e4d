//! Atomic operations on words of maps.

use core::arch::asm;

/// Adds to an aligned word of a map, which other CPUs and the daemon access too.
///
/// # Safety
///
/// The pointer must be to a word of a map.
#[inline(always)]
pub(crate) unsafe fn add(word: *mut u64, value: u64) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        asm!(
            "lock *(u64 *)({word} + 0) += {value}",
            word = in(reg) word,
            value = in(reg) value,
            options(nostack)
        );
    }
}
