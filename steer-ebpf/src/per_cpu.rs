//! Per-CPU arrays.

use core::arch::asm;

use aya_ebpf::maps::PerCpuArray;

/// A per-CPU array, whose elements are accessed through references.
#[repr(transparent)]
pub(crate) struct PerCpu<T>(PerCpuArray<T>);

impl<T> PerCpu<T> {
    pub(crate) const fn with_max_entries(entries: u32, flags: u32) -> Self {
        Self(PerCpuArray::with_max_entries(entries, flags))
    }

    /// Returns a pointer to an element of this CPU.
    #[inline(always)]
    pub(crate) fn pointer(&self, index: u32) -> Option<*mut T> {
        self.0.get_ptr_mut(index)
    }

    /// Returns a pointer to the first element, which always exists. Linux before 6.14 does not know
    /// that, and would follow the rest of the program a second time for the other case, so that case
    /// ends the program.
    #[inline(always)]
    pub(crate) fn first(&self) -> *mut T {
        let Some(element) = self.pointer(0) else {
            // SAFETY: exits the program, which is one function, with XDP_DROP.
            unsafe { asm!("r0 = 1", "exit", options(noreturn, nostack)) }
        };
        element
    }

    /// Calls a function with an element of this CPU. The function must not access the map.
    #[inline(always)]
    pub(crate) fn with<R>(&self, index: u32, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let element = self.pointer(index)?;
        // SAFETY: the element belongs to this CPU, on which a program is not interrupted by another of its
        // kind, and no other reference to it exists while `f` runs.
        Some(f(unsafe { &mut *element }))
    }

    /// Calls a function with the first element of this CPU. The function must not access the map.
    #[inline(always)]
    pub(crate) fn with_first<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: as in `with`.
        f(unsafe { &mut *self.first() })
    }
}
