//! Tables of another size than the pinned ones: they are made beside those, flows are copied, and
//! the programs that use the new ones take the place of those that use the old ones.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use aya::maps::MapData;
use tracing::{info, warn};

use super::{
    batch,
    pins::Pins,
    sizes::Sizes,
    specs::{SPECS, Spec},
};

/// Tables whose flows go to new ones. Dropped before it is finished, it puts the old ones back.
pub(super) struct Migration {
    tables: Vec<Table>,
    finished: bool,
}

struct Table {
    spec: &'static Spec,
    pin: PathBuf,
    /// Where the one of before is pinned meanwhile.
    old: PathBuf,
    /// It was begun by a daemon that did not live to its end: what the new table has is newer.
    continued: bool,
}

impl Migration {
    /// Sets tables of another size aside.
    ///
    /// # Errors
    /// If a pin is not as it has to be, or cannot be renamed.
    pub(super) fn begin(pins: &Pins, sizes: &Sizes) -> Result<Self> {
        let outgrown = pins.check(sizes)?;
        let mut migration = Self {
            tables: Vec::new(),
            finished: false,
        };
        for spec in &SPECS {
            let (pin, old) = (pins.map(spec.name), pins.outgrown(spec.name));
            let continued = old.exists();
            if outgrown.contains(&spec.name) {
                if continued {
                    // A copy of the same flows, of a size that is wanted no more.
                    fs::remove_file(&pin).with_context(|| format!("{}", pin.display()))?;
                } else {
                    fs::rename(&pin, &old).with_context(|| format!("{}", pin.display()))?;
                }
            } else if !continued {
                continue;
            }
            migration.tables.push(Table {
                spec,
                continued: continued && pin.exists(),
                pin,
                old,
            });
        }
        Ok(migration)
    }

    /// Copies the flows, while the programs of before go on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn copy(&self) -> Result<()> {
        for table in &self.tables {
            let flows = table.copy(table.continued)?;
            info!(
                map = table.spec.name,
                flows, "copied to a table of another size"
            );
        }
        Ok(())
    }

    /// Takes over the flows that began meanwhile, and removes the tables of before. The programs that
    /// use them must be gone.
    pub(super) fn finish(&mut self) {
        self.finished = true;
        for table in self.tables.drain(..) {
            // It is the last moment's flows at most.
            if let Err(error) = table.copy(true) {
                let error = format!("{error:#}");
                warn!(
                    map = table.spec.name,
                    error, "the last flows were not copied"
                );
            }
            remove(&table.old);
        }
    }
}

impl Table {
    fn copy(&self, keep: bool) -> Result<usize> {
        let open = |path: &Path| {
            MapData::from_pin(path).with_context(|| format!("{}: cannot be opened", path.display()))
        };
        let (from, to) = (open(&self.old)?, open(&self.pin)?);
        let lengths = [self.spec.key as usize, self.spec.value as usize];
        batch::copy(from.fd().as_fd(), to.fd().as_fd(), lengths, keep)
            .with_context(|| format!("map {}: flows cannot be copied", self.spec.name))
    }
}

impl Drop for Migration {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        for table in &self.tables {
            if let Err(error) = fs::rename(&table.old, &table.pin) {
                warn!(map = table.spec.name, %error, "the table of before is not put back");
            }
        }
    }
}

pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        warn!(path = %path.display(), %error, "a pin stays");
    }
}
