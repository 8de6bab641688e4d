//! Initramfs of a machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{archive::Archive, kernel::Kernel};
use crate::run::{check, output};

/// Programs used by the guest.
const PROGRAMS: [&str; 3] = ["ip", "ethtool", "nsenter"];

/// The guest with its files, by their paths.
pub(super) struct Guest(BTreeMap<String, Vec<u8>>);

impl Guest {
    pub(super) fn new(program: &Path) -> Result<Self> {
        let stripped = program.with_extension("stripped");
        // Most of it is symbols, which only cost boot time.
        check(Command::new("strip").arg("-o").arg(&stripped).arg(program))?;
        let mut files = BTreeMap::from([("/init".to_owned(), fs::read(&stripped)?)]);
        add_libraries(&mut files, program)?;
        for name in PROGRAMS {
            let path = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
                .map(|folder| Path::new(folder).join(name))
                .into_iter()
                .find(|path| path.exists())
                .with_context(|| format!("no program {name} here"))?;
            files.insert(format!("/bin/{name}"), fs::read(&path)?);
            add_libraries(&mut files, &path)?;
        }
        Ok(Self(files))
    }
}

/// Adds the libraries of a program, and the loader.
fn add_libraries(files: &mut BTreeMap<String, Vec<u8>>, program: &Path) -> Result<()> {
    let text = output(Command::new("ldd").arg(program)).unwrap_or_default();
    for word in text.split_whitespace().filter(|word| word.starts_with('/')) {
        if !files.contains_key(word) {
            let bytes = fs::read(word).with_context(|| format!("{word}: cannot be read"))?;
            files.insert(word.to_owned(), bytes);
        }
    }
    Ok(())
}

/// Writes the archive for a kernel.
pub(super) fn build(kernel: &Kernel, guest: &Guest, folder: &Path) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for path in ["/dev", "/proc", "/sys", "/run", "/tmp"] {
        archive.folder(path);
    }
    for (path, content) in &guest.0 {
        archive.file(path, content);
    }
    archive.folder("/modules");
    for (number, (name, content)) in kernel.modules()?.iter().enumerate() {
        archive.file(&format!("/modules/{number:02}-{name}.ko"), content);
    }
    let path = folder.join("initrd");
    fs::write(&path, archive.finish())
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    Ok(path)
}
