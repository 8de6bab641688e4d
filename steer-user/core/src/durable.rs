//! Durable files: after a crash at any time they have either the old or the new content.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Creates a folder accessible only to this user, if missing.
pub fn folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Opens a file of the state directory with `options`. Symbolic links are not followed and only
/// regular files are accepted: a user who can write to the folder must not choose what the daemon
/// reads or writes.
pub fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // Opening a FIFO would wait for its other end.
    let file = options
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => io::Error::new(io::ErrorKind::InvalidInput, "is a symbolic link"),
            _ => error,
        })?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "is not a regular file",
        ))
    }
}

/// Reads a file of the state directory, with the checks of [`open`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(OpenOptions::new().read(true), path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces or creates a file: writes it beside the target, syncs it, renames it, and syncs the
/// folder. On an error the old one is unchanged, and no new one is left.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    write(&beside, bytes)
        .and_then(|()| fs::rename(&beside, path))
        .inspect_err(|_| drop(fs::remove_file(&beside)))?;
    sync_folder(path)
}

/// Syncs the folder of a path, so that renamed and removed files stay so.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Returns the temporary path of a file before it gets its name. A crash may leave it; the next
/// write replaces it.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    // A leftover of a crash is not written to: it may be a link to another file.
    let mut file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            options.open(path)?
        }
        opened => opened?,
    };
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_neither_read_nor_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let [victim, path] = ["victim", "state.json"].map(|name| folder.path().join(name));
        fs::write(&victim, "untouched").unwrap();
        symlink(&victim, &path).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        symlink(&victim, beside(&path)).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
        assert_eq!(read(&path).unwrap(), b"new");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        let error = read(folder.path()).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
}
