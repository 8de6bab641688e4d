//! Loaded programs that one test after the other uses: the verifier takes seconds for them.

use std::{
    collections::BTreeMap,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
    thread,
};

use steer_dataplane::{OpenOptions, Sizes, Xdp, testing};

/// Maps of programs and their constants, which packets do not change.
const CONSTANT: [&str; 3] = ["OLD_PROGRAMS", "PROGRAMS", ".rodata"];
/// Programs that no test uses, with maps as after a load.
static IDLE: Mutex<Vec<Xdp>> = Mutex::new(Vec::new());

/// Loaded programs, which go back to the pool.
pub(crate) struct Lease(ManuallyDrop<Xdp>);

impl Lease {
    /// Takes programs with tables of these sizes from the pool, or loads them.
    pub(crate) fn take(sizes: Sizes) -> Self {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let found = idle.iter().position(|xdp| xdp.sizes() == sizes);
        let found = found.map(|index| idle.swap_remove(index));
        drop(idle);
        Self(ManuallyDrop::new(found.unwrap_or_else(|| load(sizes))))
    }
}

fn load(sizes: Sizes) -> Xdp {
    let bpffs = None;
    Xdp::open(&OpenOptions { bpffs, sizes }).unwrap()
}

impl Deref for Lease {
    type Target = Xdp;

    fn deref(&self) -> &Xdp {
        &self.0
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Xdp {
        &mut self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // SAFETY: nothing uses the field any more.
        let mut xdp = unsafe { ManuallyDrop::take(&mut self.0) };
        // Of a test that failed nobody knows what it has left.
        if !thread::panicking() && testing::reset(&mut xdp).is_ok() {
            let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(xdp);
        }
    }
}

#[test]
fn used_programs_become_like_those_just_loaded() {
    let sizes = Sizes::of_each(2048);
    let mut xdp = load(sizes);
    let fresh = testing::dump(&xdp).unwrap();
    testing::fill(&mut xdp).unwrap();
    let used = testing::dump(&xdp).unwrap();
    for (name, entries) in &used {
        let is_filled = entries.len() > fresh[name].len();
        assert!(is_filled || CONSTANT.contains(&&**name), "{name}");
    }
    testing::reset(&mut xdp).unwrap();
    assert_eq!(testing::dump(&xdp).unwrap(), fresh);
    assert!(fresh.values().all(BTreeMap::is_empty), "{fresh:?}");
}
