//! Packets in driver memory. The only pointers into packets are here.

use core::{arch::asm, intrinsics::is_val_statically_known};

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use steer_common::frame::{Frame, MAX_LAUNDERED_BYTES, Plain};

use crate::maps::SCRATCH;

/// Upper bound of header offsets, which tells the verifier that they are small.
const MAX_OFFSET: usize = 0x7fff;

/// Returns the same value, by way of a map: the verifier follows nothing into its memory.
#[inline(always)]
pub(crate) fn launder(value: u64) -> u64 {
    SCRATCH.with_first(|[word, ..]| {
        let word = &raw mut *word;
        // SAFETY: a valid word. Volatile, because the compiler would bypass the map.
        unsafe {
            word.write_volatile(value);
            word.read_volatile()
        }
    })
}

pub(crate) struct XdpFrame {
    ctx: *mut xdp_md,
    /// Bounds of the packet, kept so that they are not read from the context for each access.
    start: usize,
    end: usize,
}

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        let mut frame = Self {
            ctx: ctx.ctx,
            start: 0,
            end: 0,
        };
        frame.read_bounds();
        frame
    }

    /// Reads the bounds, at the start and whenever the packet was adjusted.
    #[inline(always)]
    fn read_bounds(&mut self) {
        // SAFETY: the kernel hands the program a valid context. Volatile, because the compiler does
        // not know that helpers change it.
        unsafe {
            self.start = (&raw const (*self.ctx).data).read_volatile() as usize;
            self.end = (&raw const (*self.ctx).data_end).read_volatile() as usize;
        }
    }

    #[inline(always)]
    fn at<T>(&self, at: usize) -> Option<*mut T> {
        if at > MAX_OFFSET {
            return None;
        }
        if is_val_statically_known(at) {
            // SAFETY: packets lie nowhere near the end of the address space. Knowing that the sum
            // does not overflow, the compiler omits checks that an earlier one further on implies.
            let end = unsafe { self.start.unchecked_add(at + size_of::<T>()) };
            // SAFETY: as above.
            let pointer = unsafe { self.start.unchecked_add(at) };
            return (end <= self.end).then_some(pointer as *mut T);
        }
        let mut pointer = self.start + at;
        // SAFETY: a move of a register to itself. It keeps the compiler from checking one register
        // and using another one computed differently, about which the verifier knows nothing.
        unsafe { asm!("{0} = {0}", inout(reg) pointer, options(pure, nomem, nostack)) };
        if pointer + size_of::<T>() > self.end {
            return None;
        }
        Some(pointer as *mut T)
    }

    #[inline(always)]
    fn adjust_head(&mut self, by: i32) -> Option<()> {
        // SAFETY: the context is valid; the helper checks the room.
        let done = unsafe { bpf_xdp_adjust_head(self.ctx, by) } == 0;
        self.read_bounds();
        done.then_some(())
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    fn load<T: Plain>(&self, at: usize) -> Option<T> {
        let pointer = self.at::<T>(at)?;
        // SAFETY: inside the packet, and any bytes are a valid T. Packet memory is aligned for every
        // T as far as this target goes: where XDP runs, an access at any address is one instruction
        // of the width asked for. (`read_unaligned` would become single bytes; allowing misaligned
        // access to the whole program makes the compiler merge accesses to the stack, too, which
        // the verifier wants aligned.)
        Some(unsafe { pointer.read() })
    }

    #[inline(always)]
    fn store<T: Plain>(&mut self, at: usize, value: T) -> Option<()> {
        let pointer = self.at::<T>(at)?;
        // SAFETY: inside the packet, which is ours alone; for alignment see `load`.
        unsafe { pointer.write(value) };
        Some(())
    }

    #[inline(always)]
    fn grow_head(&mut self, by: usize) -> Option<()> {
        self.adjust_head(-(by as i32))
    }

    #[inline(always)]
    fn shrink_head(&mut self, by: usize) -> Option<()> {
        self.adjust_head(by as i32)
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> Option<()> {
        let by = len as i32 - self.len() as i32;
        // SAFETY: the context is valid; the helper checks the length.
        let done = unsafe { bpf_xdp_adjust_tail(self.ctx, by) } == 0;
        self.read_bounds();
        done.then_some(())
    }

    #[inline(always)]
    fn launder(&self, value: u64) -> u64 {
        launder(value)
    }

    #[inline(always)]
    fn unlink(&self, mut value: usize) -> usize {
        // SAFETY: a move of a register to itself, at which the verifier drops the link of a sum.
        unsafe { asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
        value
    }

    #[inline(always)]
    fn launder_struct<T: Copy>(&self, value: T) -> T {
        const { assert!(size_of::<T>() <= MAX_LAUNDERED_BYTES && align_of::<T>() <= align_of::<u64>()) };
        let mut copy = SCRATCH.first().cast::<T>();
        // SAFETY: large and aligned enough, per CPU, and a program is not interrupted by another of its
        // kind. The assembly may change the memory, as far as the compiler knows.
        unsafe {
            copy.write(value);
            asm!("{0} = {0}", inout(reg) copy, options(nostack));
            copy.read()
        }
    }
}
