//! apt with its own root: packages of other suites are downloaded, but not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::run::{check, output};

/// Suites with kernels: Debian 11, 12 and 13, and their backports.
const SUITES: [&str; 5] = [
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt's lists and settings in a folder of ours.
pub(super) struct Root {
    config: PathBuf,
}

impl Root {
    /// Creates the folder and reads the lists of all suites.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let mirror = mirror()?;
        for name in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let sources = folder.join("sources.list");
        let lines =
            SUITES.map(|suite| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"));
        fs::write(&sources, lines.concat())?;
        let config = folder.join("apt.conf");
        let at = |name: &str| folder.join(name).display().to_string();
        fs::write(
            &config,
            format!(
                "Dir::State \"{}\";\nDir::State::status \"/dev/null\";\nDir::Cache \"{}\";\n\
                 Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"-\";\n\
                 Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n\
                 Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
                 APT::Sandbox::User \"root\";\n",
                at("state"),
                at("cache"),
                sources.display(),
            ),
        )?;
        let root = Self { config };
        println!("vm: reading lists of packages");
        check(root.command("apt-get").args(["-q", "-q", "update"]))?;
        Ok(root)
    }

    /// Returns the releases in a series of cloud kernels, newest last.
    pub(super) fn releases(&self, series: &str) -> Result<Vec<String>> {
        let pattern = format!(
            "^linux-image-{}\\.[0-9].*-cloud-amd64$",
            series.replace('.', "\\.")
        );
        let found = output(
            self.command("apt-cache")
                .args(["search", "--names-only", &pattern]),
        )
        .context("apt-cache cannot search its lists")?;
        let mut releases: Vec<String> = found
            .lines()
            .filter_map(|line| line.split(' ').next()?.strip_prefix("linux-image-"))
            .map(str::to_owned)
            .collect();
        releases.sort_by_key(|release| numbers(release));
        Ok(releases)
    }

    /// Returns whether a package exists.
    pub(super) fn has(&self, package: &str) -> bool {
        output(self.command("apt-cache").args(["show", package])).is_some()
    }

    /// Downloads a package into a folder, and unpacks it there.
    pub(super) fn unpack(&self, package: &str, folder: &Path) -> Result<()> {
        println!("vm: downloading {package}");
        let downloads = folder.join("deb");
        fs::create_dir_all(&downloads)?;
        check(
            self.command("apt-get")
                .args(["-q", "-q", "download", package])
                .current_dir(&downloads),
        )?;
        for entry in fs::read_dir(&downloads)? {
            let file = entry?.path();
            check(Command::new("dpkg-deb").arg("-x").arg(&file).arg(folder))?;
            fs::remove_file(&file)?;
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").arg("-c").arg(&self.config);
        command
    }
}

/// Returns the Debian mirror of this host.
fn mirror() -> Result<String> {
    let format = "$(ORIGIN) $(RELEASE) $(REPO_URI)";
    let targets = output(Command::new("apt-get").args(["indextargets", "--format", format]));
    let Some(targets) = targets else {
        bail!("there is no apt-get here, or it has no lists: kernels come from Debian's packages");
    };
    let of_debian = targets.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["Debian", release, uri] if !release.contains("security") => Some(uri.to_owned()),
            _ => None,
        }
    });
    of_debian.context("apt's sources name no mirror of Debian, where kernels come from")
}

/// Returns the numbers in a release, for comparison.
fn numbers(release: &str) -> Vec<u32> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|text| text.parse().ok())
        .collect()
}
