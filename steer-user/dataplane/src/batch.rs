//! Batch operations on maps (Linux 5.6), which aya does not have: many entries with one system
//! call.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd},
};

use aya::Pod;

/// `BPF_MAP_LOOKUP_BATCH`, `BPF_MAP_DELETE_BATCH` and `BPF_MAP_UPDATE_BATCH` of `enum bpf_cmd`.
const LOOKUP_BATCH: libc::c_long = 24;
const DELETE_BATCH: libc::c_long = 27;
const UPDATE_BATCH: libc::c_long = 26;
/// Number of entries per system call. At least one bucket of the kernel's hash must fit; it holds
/// one or two.
const BATCH: usize = 8192;
/// Number of entries per system call for large values.
const BATCH_PER_CPU: usize = 64;

/// Batch variant of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

fn call(command: libc::c_long, attributes: &mut Attributes) -> io::Result<()> {
    // SAFETY: the callers pass pointers to memory of at least `count` elements that outlives the
    // call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw mut *attributes,
            size_of::<Attributes>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Calls a function with every entry of a hash map. Concurrent insertions and deletions may be
/// missed.
///
/// # Errors
///
/// Returns an error if the kernel does not answer.
pub(super) fn for_each<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    mut show: impl FnMut(&K, &V),
) -> io::Result<()> {
    look_up(map, BATCH, 1, |key, values| show(key, &values[0]))
}

/// Works like [`for_each`], for a map with one value per CPU of `cpus`. The size of values is a
/// multiple of eight bytes.
///
/// # Errors
///
/// The same as [`for_each`].
pub(super) fn for_each_per_cpu<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    cpus: usize,
    show: impl FnMut(&K, &[V]),
) -> io::Result<()> {
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    look_up(map, BATCH_PER_CPU, cpus, show)
}

/// Reads the first `count` elements of an array with one value per CPU of `cpus`, in one system
/// call: the values of an element are adjacent. Their size is a multiple of eight bytes.
///
/// # Errors
///
/// Returns an error if the kernel does not answer.
pub(super) fn first_of_array<V: Pod>(
    map: BorrowedFd<'_>,
    cpus: usize,
    count: usize,
    values: &mut Vec<V>,
) -> io::Result<()> {
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    // SAFETY: zeros are a valid `Pod`.
    values.resize_with(count * cpus, || unsafe { mem::zeroed() });
    if count == 0 {
        return Ok(());
    }
    let mut keys = vec![0_u32; count];
    let mut next = 0_u32;
    loop {
        let mut attributes = Attributes {
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: count as u32,
            map: map.as_raw_fd() as u32,
            ..Attributes::default()
        };
        match call(LOOKUP_BATCH, &mut attributes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // End of the map.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            done => return done,
        }
    }
}

/// Calls a function with chunks of entries, each with `each` values.
fn look_up<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    batch: usize,
    each: usize,
    mut show: impl FnMut(&K, &[V]),
) -> io::Result<()> {
    // SAFETY: zeros are a valid `Pod`.
    let (mut keys, mut values) = unsafe {
        (
            vec![mem::zeroed::<K>(); batch],
            vec![mem::zeroed::<V>(); batch * each],
        )
    };
    let (mut from, mut to) = (0_u64, 0_u64);
    let mut first = true;
    loop {
        let mut attributes = Attributes {
            in_batch: if first { 0 } else { (&raw const from) as u64 },
            out_batch: (&raw mut to) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: batch as u32,
            map: map.as_raw_fd() as u32,
            ..Attributes::default()
        };
        let result = call(LOOKUP_BATCH, &mut attributes);
        let last = match result {
            Ok(()) => false,
            // End of the map; the entries of this chunk still count.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let found = keys.iter().zip(values.chunks(each));
        for (key, values) in found.take(attributes.count as usize) {
            show(key, values);
        }
        if last {
            return Ok(());
        }
        from = to;
        first = false;
    }
}

/// Callback that fills a zeroed key and value from those of another map; false skips the entry.
pub(super) type Make<'m> = dyn FnMut([&[u8]; 2], [&mut [u8]; 2]) -> io::Result<bool> + 'm;

/// Converts every entry of a map and writes it to another map. Keys and values have the sizes of
/// the system calls: per-CPU maps have one value per CPU, each a multiple of eight bytes.
///
/// # Errors
///
/// Returns an error if the kernel refuses, the map is full, or `make` fails.
pub(super) fn transfer(
    [from, to]: [BorrowedFd<'_>; 2],
    [key, value]: [usize; 2],
    [new_key, new_value]: [usize; 2],
    make: &mut Make<'_>,
) -> io::Result<usize> {
    let batch = (BATCH * 64 / value.max(new_value)).clamp(BATCH_PER_CPU, BATCH);
    let mut keys = vec![0_u8; batch * key];
    let mut values = vec![0_u8; batch * value];
    // Position at which the kernel continues: a number or a key.
    let (mut before, mut after) = (vec![0_u8; key.max(8)], vec![0_u8; key.max(8)]);
    let mut first = true;
    let mut copied = 0;
    loop {
        let mut attributes = Attributes {
            in_batch: if first { 0 } else { before.as_ptr() as u64 },
            out_batch: after.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: batch as u32,
            map: from.as_raw_fd() as u32,
            ..Attributes::default()
        };
        let last = match call(LOOKUP_BATCH, &mut attributes) {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let count = attributes.count as usize;
        let mut made = (Vec::new(), Vec::new());
        let found = keys.chunks(key).zip(values.chunks(value));
        for (old_key, old_value) in found.take(count) {
            let ends = (made.0.len(), made.1.len());
            made.0.resize(ends.0 + new_key, 0);
            made.1.resize(ends.1 + new_value, 0);
            let new = [&mut made.0[ends.0..], &mut made.1[ends.1..]];
            if !make([old_key, old_value], new)? {
                made.0.truncate(ends.0);
                made.1.truncate(ends.1);
            }
        }
        copied += update(to, &made.0, new_key, &made.1)?;
        if last {
            return Ok(copied);
        }
        mem::swap(&mut before, &mut after);
        first = false;
    }
}

/// Writes adjacent entries.
fn update(map: BorrowedFd<'_>, keys: &[u8], key: usize, values: &[u8]) -> io::Result<usize> {
    let count = keys.len() / key;
    if count > 0 {
        let mut attributes = Attributes {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: count as u32,
            map: map.as_raw_fd() as u32,
            ..Attributes::default()
        };
        call(UPDATE_BATCH, &mut attributes)?;
    }
    Ok(count)
}

/// Removes the entry of a key, whose size is that of the map's keys. A missing entry is no error.
///
/// # Errors
///
/// Returns an error if the kernel refuses.
pub(super) fn remove_bytes(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    /// `BPF_MAP_DELETE_ELEM`.
    const DELETE: libc::c_long = 3;
    let element = Element {
        map: map.as_raw_fd() as u64,
        key: key.as_ptr() as u64,
        value: 0,
        flags: 0,
    };
    match call_for_one(DELETE, &element) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Finds the key behind another one, or the first; false if there is none.
///
/// # Errors
/// If the kernel does not answer.
pub(super) fn next_key(
    map: BorrowedFd<'_>,
    key: Option<&[u8]>,
    next: &mut [u8],
) -> io::Result<bool> {
    /// `BPF_MAP_GET_NEXT_KEY`.
    const NEXT: libc::c_long = 4;
    let element = Element {
        map: map.as_raw_fd() as u64,
        key: key.map_or(0, |key| key.as_ptr() as u64),
        value: next.as_mut_ptr() as u64,
        flags: 0,
    };
    is_found(call_for_one(NEXT, &element))
}

/// Reads the value of a key; false if there is none.
///
/// # Errors
/// If the kernel does not answer.
pub(super) fn read_bytes(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    /// `BPF_MAP_LOOKUP_ELEM`.
    const LOOKUP: libc::c_long = 1;
    let element = Element {
        map: map.as_raw_fd() as u64,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    is_found(call_for_one(LOOKUP, &element))
}

/// Writes the value of a key.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn write_bytes(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    /// `BPF_MAP_UPDATE_ELEM`.
    const UPDATE: libc::c_long = 2;
    let element = Element {
        map: map.as_raw_fd() as u64,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    call_for_one(UPDATE, &element)
}

fn is_found(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads all values of an array, of so many bytes each: of all CPUs where there is one for each.
///
/// # Errors
/// If the kernel does not answer.
pub(super) fn all_of_array(map: BorrowedFd<'_>, entries: u32, value: usize) -> io::Result<Vec<u8>> {
    let mut keys = vec![0_u32; entries as usize];
    let mut values = vec![0_u8; entries as usize * value];
    let mut next = 0_u32;
    let mut attributes = Attributes {
        out_batch: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: entries,
        map: map.as_raw_fd() as u32,
        ..Attributes::default()
    };
    match call(LOOKUP_BATCH, &mut attributes) {
        // End of the map.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(values),
    }
}

/// Single-element variant of `union bpf_attr`.
#[repr(C)]
struct Element {
    map: u64,
    key: u64,
    value: u64,
    flags: u64,
}

/// Issues a bpf(2) command for a single element with key and value of the map's sizes.
fn call_for_one(command: libc::c_long, element: &Element) -> io::Result<()> {
    // SAFETY: the attributes and the memory they point to are alive, and have the map's sizes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw const *element,
            size_of::<Element>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Removes entries. Missing ones are no error.
///
/// # Errors
///
/// Returns an error if the kernel refuses.
pub(super) fn remove<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    let mut rest = keys;
    while !rest.is_empty() {
        let count = rest.len().min(BATCH);
        let mut attributes = Attributes {
            keys: rest.as_ptr() as u64,
            count: count as u32,
            map: map.as_raw_fd() as u32,
            ..Attributes::default()
        };
        match call(DELETE_BATCH, &mut attributes) {
            Ok(()) => rest = &rest[count..],
            // The kernel stops at the first missing entry, and returns the number of entries
            // removed before.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                rest = &rest[(attributes.count as usize + 1).min(count)..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns an entry of a hash map.
///
/// # Errors
///
/// Returns an error if the kernel does not answer.
pub(super) fn get<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    /// `BPF_MAP_LOOKUP_ELEM`.
    const LOOKUP: libc::c_long = 1;
    // SAFETY: zeros are a valid `Pod`.
    let mut value: V = unsafe { mem::zeroed() };
    let element = Element {
        map: map.as_raw_fd() as u64,
        key: (&raw const *key) as u64,
        value: (&raw mut value) as u64,
        flags: 0,
    };
    // SAFETY: a key of the map's size, and room for its value.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            LOOKUP,
            &raw const element,
            size_of::<Element>(),
        )
    };
    if result == 0 {
        return Ok(Some(value));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        error => Err(error),
    }
}
