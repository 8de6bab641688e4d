//! What packets come to while programs of another version take over: one word, for all interfaces at
//! once. Until it is opened for good, packets go to the programs of before, whatever becomes of the daemon.

use std::{
    os::fd::AsFd as _,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    maps::{Array, Map, MapData},
};
use steer_common::abi::{GATE_OPEN, maps};

use super::{mapped::Mapped, pins::Pins, sweep::now_ns};

/// How long a packet can at most be on its way through programs, where the kernel does not say it.
const GRACE: Duration = Duration::from_millis(50);

/// The word.
pub(super) struct Gate(Mapped<u64>);

impl Gate {
    /// That of programs which were loaded to take over.
    ///
    /// # Errors
    /// If it cannot be mapped.
    pub(super) fn of(ebpf: &Ebpf) -> Result<Self> {
        let Some(Map::Array(data)) = ebpf.map(maps::GATE) else {
            bail!("the object has no array {}", maps::GATE);
        };
        Ok(Self(Mapped::new(data.fd().as_fd(), 1)?))
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: a word of the mapping, which outlives the reference, and is read by the kernel only.
        unsafe { AtomicU64::from_ptr(self.0.at(0).as_ptr()) }
    }

    /// Has what is steered dropped for so long at most, and waits until no packet is on its way through
    /// programs any more.
    pub(super) fn hold(&self, time: Duration) {
        self.word().store(until(time), Ordering::SeqCst);
        wait_for_packets();
    }

    /// Lets packets go to the programs of this version, for good. False if the time of
    /// [`Self::hold`] was over before: packets may have gone to those of before.
    pub(super) fn open(&self) -> bool {
        let held = self.word().load(Ordering::SeqCst);
        // First it is made sure that it stays held, so that it was never otherwise.
        self.word()
            .store(until(Duration::from_secs(1)), Ordering::SeqCst);
        if now_ns() >= held {
            self.close();
            return false;
        }
        self.word().store(GATE_OPEN, Ordering::SeqCst);
        true
    }

    /// Lets packets go to the programs of before.
    pub(super) fn close(&self) {
        self.word().store(0, Ordering::SeqCst);
    }

    /// Returns whether a takeover was begun that has not come to its end: what is pinned here is
    /// not in use.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn is_closed(pins: &Pins) -> Result<bool> {
        let path = pins.map(maps::GATE);
        if !path.exists() {
            return Ok(false);
        }
        let read = || -> Result<u64> {
            let array: Array<MapData, u64> = Map::Array(MapData::from_pin(&path)?).try_into()?;
            Ok(array.get(&0, 0)?)
        };
        let word = read().with_context(|| format!("{}: cannot be read", path.display()))?;
        Ok(word != GATE_OPEN)
    }
}

fn until(time: Duration) -> u64 {
    now_ns() + time.as_nanos() as u64
}

/// Waits until each program that a packet was in when this began is through with it.
fn wait_for_packets() {
    /// `MEMBARRIER_CMD_GLOBAL`, which waits for all readers of RCU; programs are such.
    const GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes numbers.
    if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } != 0 {
        thread::sleep(GRACE);
    }
}
