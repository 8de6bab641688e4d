//! The gate: one word, shared by all interfaces, that decides where packets go during a takeover.
//! Until it is opened, packets go to the previous programs, even if the daemon dies.

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
use steer_common::abi::{CUTOVER_DONE, maps};

use super::super::{gc::now_coarse_ns, mapped::Mapped, pins::Pins};

/// Upper bound of the time that a packet spends in programs, used if the kernel cannot tell.
const GRACE: Duration = Duration::from_millis(50);

/// Mapped word of the gate.
pub(crate) struct Cutover(Mapped<u64>);

impl Cutover {
    /// Returns the gate of newly loaded programs.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be mapped.
    pub(crate) fn open(ebpf: &Ebpf) -> Result<Self> {
        let Some(Map::Array(data)) = ebpf.map(maps::CUTOVER) else {
            bail!("the object has no array {}", maps::CUTOVER);
        };
        Ok(Self(Mapped::new(data.fd().as_fd(), 1)?))
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: a word of the mapping, which outlives the reference; the kernel only reads it.
        unsafe { AtomicU64::from_ptr(self.0.at(0).as_ptr()) }
    }

    /// Makes the programs drop steered packets for at most `time`, and waits until no packet is
    /// inside them.
    pub(crate) fn hold_packets(&self, time: Duration) {
        self.word().store(until(time), Ordering::SeqCst);
        wait_for_packets();
    }

    /// Sends packets to the programs of this version permanently. Returns false if the time of
    /// [`Self::hold_packets`] had expired, so that packets may have reached the previous programs.
    pub(crate) fn finish(&self) -> bool {
        let held = self.word().load(Ordering::SeqCst);
        // First prevent the hold from expiring, so that it lasted without interruption.
        self.word()
            .store(until(Duration::from_secs(1)), Ordering::SeqCst);
        if now_coarse_ns() >= held {
            self.revert();
            return false;
        }
        self.word().store(CUTOVER_DONE, Ordering::SeqCst);
        true
    }

    /// Sends packets to the previous programs.
    pub(crate) fn revert(&self) {
        self.word().store(0, Ordering::SeqCst);
    }

    /// Returns whether a takeover was started but not completed, so that the maps pinned here are
    /// not in use.
    ///
    /// # Errors
    ///
    /// Returns an error if the gate cannot be read.
    pub(crate) fn is_pending(pins: &Pins) -> Result<bool> {
        let path = pins.map(maps::CUTOVER);
        if !path.exists() {
            return Ok(false);
        }
        let read = || -> Result<u64> {
            let array: Array<MapData, u64> = Map::Array(MapData::from_pin(&path)?).try_into()?;
            Ok(array.get(&0, 0)?)
        };
        let word = read().with_context(|| format!("{}: cannot be read", path.display()))?;
        Ok(word != CUTOVER_DONE)
    }
}

fn until(time: Duration) -> u64 {
    now_coarse_ns() + time.as_nanos() as u64
}

/// Waits until every program that was processing a packet at the start of this call has finished.
fn wait_for_packets() {
    /// `MEMBARRIER_CMD_GLOBAL`, which waits for all RCU readers, including programs.
    const GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes only numbers.
    if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } != 0 {
        thread::sleep(GRACE);
    }
}
