//! A kernel with its modules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::apt;

/// Expected result on a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// steer refuses to run, with a reason.
    Refused,
    /// steer works.
    Works,
}

/// Modules required by the guest.
const MODULES: [&str; 10] = [
    "virtio_pci",
    "virtio_net",
    "veth",
    "8021q",
    "bonding",
    "ipip",
    "sit",
    "ip6_tunnel",
    "fou",
    "fou6",
];

/// An unpacked kernel.
pub(super) struct Kernel {
    pub(super) release: String,
    root: PathBuf,
}

impl Kernel {
    /// Returns the newest kernel of a series; downloads it if necessary.
    pub(super) fn get(apt: &apt::Root, series: &str, folder: &Path) -> Result<Self> {
        let Some(release) = apt.releases(series)?.pop() else {
            bail!("apt offers no cloud kernel {series}");
        };
        let root = folder.join(&release);
        let kernel = Self { release, root };
        let complete = kernel.root.join("complete");
        if !complete.exists() {
            // Newer packages are split.
            for part in ["image", "base", "binary", "modules"] {
                let package = format!("linux-{part}-{}", kernel.release);
                if part == "image" || apt.has(&package) {
                    apt.unpack(&package, &kernel.root)?;
                }
            }
            fs::write(&complete, "")?;
        }
        Ok(kernel)
    }

    /// Returns the file to boot.
    pub(super) fn image(&self) -> Result<PathBuf> {
        for folder in [
            "boot".to_owned(),
            format!("usr/lib/modules/{}", self.release),
        ] {
            for name in [format!("vmlinuz-{}", self.release), "vmlinuz".to_owned()] {
                let path = self.root.join(&folder).join(name);
                if path.exists() {
                    return Ok(path);
                }
            }
        }
        bail!("{}: no vmlinuz in it", self.root.display())
    }

    /// Returns the required modules and their dependencies, in the order to load them.
    pub(super) fn modules(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let folder = ["lib/modules", "usr/lib/modules"]
            .map(|place| self.root.join(place).join(&self.release))
            .into_iter()
            .find(|folder| folder.join("kernel").exists())
            .with_context(|| format!("{}: no modules in it", self.root.display()))?;
        let mut found = BTreeMap::new();
        walk(&folder.join("kernel"), &mut found)?;
        let builtin = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        let builtin: BTreeSet<String> = builtin.lines().map(|l| name_of(Path::new(l))).collect();
        let mut order = Order {
            found,
            builtin,
            seen: BTreeSet::new(),
            modules: Vec::new(),
        };
        for name in MODULES {
            order.add(name)?;
        }
        Ok(order.modules)
    }
}

struct Order {
    found: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    seen: BTreeSet<String>,
    modules: Vec<(String, Vec<u8>)>,
}

impl Order {
    /// Adds a module after its dependencies.
    fn add(&mut self, name: &str) -> Result<()> {
        if self.builtin.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.found.get(name) else {
            bail!("this kernel has no module {name}");
        };
        let bytes = read(path)?;
        for needed in depends(&bytes) {
            self.add(&needed)?;
        }
        self.modules.push((name.to_owned(), bytes));
        Ok(())
    }
}

fn walk(folder: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, found)?;
        } else {
            found.insert(name_of(&path), path);
        }
    }
    Ok(())
}

/// Returns the kernel's name for a module file.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}

/// Returns the uncompressed bytes of a module.
fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(bytes);
    }
    let output = Command::new("xz").arg("-dc").arg(path).output()?;
    if !output.status.success() {
        bail!("xz cannot unpack {}", path.display());
    }
    Ok(output.stdout)
}

/// Returns the dependencies listed in a module.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let rest = &module[at + KEY.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&rest[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}
