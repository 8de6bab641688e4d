//! Array maps mapped into this process.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
};

use anyhow::{Context, Result};
use aya::Pod;

/// A mapped array of `T`s that the kernel reads and partly writes concurrently.
pub(super) struct Mapped<T> {
    start: NonNull<u8>,
    bytes: usize,
    len: u32,
    element: PhantomData<T>,
}

// SAFETY: this value owns the mapping, and threads of this process reach it only through a
// reference.
unsafe impl<T> Send for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    /// Distance of elements: the kernel rounds their size up to a multiple of eight bytes.
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps an array map of `len` elements created with `BPF_F_MMAPABLE` (Linux 5.5).
    pub(super) fn new(map: BorrowedFd<'_>, len: u32) -> Result<Self> {
        let bytes = Self::STRIDE * len as usize;
        // SAFETY: a new mapping, of the size that the map was created with.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        let start = (start != libc::MAP_FAILED)
            .then_some(start.cast::<u8>())
            .and_then(NonNull::new)
            .ok_or_else(io::Error::last_os_error)
            .context("cannot map an array map into memory")?;
        Ok(Self {
            start,
            bytes,
            len,
            element: PhantomData,
        })
    }

    /// Returns the number of elements.
    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    /// Returns the address of an element, for atomic access to parts of it.
    ///
    /// # Panics
    ///
    /// Panics if there is no such element.
    pub(super) fn at(&self, index: u32) -> NonNull<T> {
        assert!(index < self.len, "index {index} of {}", self.len);
        // SAFETY: inside the mapping, whose start is page-aligned.
        unsafe { self.start.add(Self::STRIDE * index as usize).cast() }
    }

    /// Returns a copy of an element. Parts written by the kernel may be of different times.
    pub(super) fn get(&self, index: u32) -> T {
        // SAFETY: a valid element; volatile because the kernel may write it.
        unsafe { self.at(index).read_volatile() }
    }

    /// Zeroes all elements, while no packet uses any.
    pub(super) fn clear(&mut self) {
        // SAFETY: the whole mapping, of which zeros are valid elements.
        unsafe { self.start.as_ptr().write_bytes(0, self.bytes) };
    }

    /// A copy of all elements, each in its place.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        // SAFETY: as many bytes as the mapping has, which is no part of a vector.
        unsafe { ptr::copy_nonoverlapping(self.start.as_ptr(), bytes.as_mut_ptr(), self.bytes) };
        bytes
    }

    /// Writes an element that no packet uses.
    pub(super) fn set(&mut self, index: u32, value: T) {
        // SAFETY: a valid element; volatile because the kernel may read it.
        unsafe { self.at(index).write_volatile(value) };
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping created by `new`, to which no reference remains.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
