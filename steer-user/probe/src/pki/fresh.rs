//! Reloading of certificates in use: open connections continue, new ones use the new certificates,
//! and invalid files change nothing.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    CertificateError, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::ring,
    pki_types::{ServerName, UnixTime},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};
use tracing::{error, info};

use super::{Credentials, Identity, IdentityKind, PkiError};

/// Interval between checks of the files.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 5000 });

/// Attributes that tell a file from its predecessor.
type Mark = Option<(u64, i64, i64, u64)>;

/// Files with their attributes at the last check.
#[derive(Debug)]
pub struct FileStamps {
    paths: Vec<PathBuf>,
    seen: Vec<Mark>,
}

impl FileStamps {
    /// Returns the current attributes of files.
    pub fn read<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        let mut marks = Self {
            paths: paths.into_iter().map(Path::to_owned).collect(),
            seen: Vec::new(),
        };
        marks.changed();
        marks
    }

    /// Returns whether any file has been replaced since the last check.
    pub fn changed(&mut self) -> bool {
        let mark = |path: &PathBuf| {
            let found = fs::metadata(path).ok()?;
            Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
        };
        let now: Vec<Mark> = self.paths.iter().map(mark).collect();
        let changed = now != self.seen;
        self.seen = now;
        changed
    }
}

/// A value built from certificates, and rebuilt when they change.
pub struct Reloaded<T> {
    held: Mutex<Arc<T>>,
    make: Box<dyn Fn() -> Result<T, PkiError> + Send + Sync>,
    marks: Mutex<FileStamps>,
}

impl<T> fmt::Debug for Reloaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fresh")
            .field("marks", &self.marks)
            .finish_non_exhaustive()
    }
}

impl<T> Reloaded<T> {
    /// Builds the value from the files with `make`.
    pub fn new(
        held: T,
        marks: FileStamps,
        make: impl Fn() -> Result<T, PkiError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            held: Mutex::new(Arc::new(held)),
            make: Box::new(make),
            marks: Mutex::new(marks),
        }
    }

    /// Returns the last valid value.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Rebuilds the value if the files have changed; returns true if it did.
    ///
    /// # Errors
    ///
    /// Returns an error if the files cannot be used. The previous value stays.
    pub fn refresh(&self) -> Result<bool, PkiError> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if !marks.changed() {
            return Ok(false);
        }
        let made = Arc::new((self.make)()?);
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = made;
        Ok(true)
    }
}

/// Checks the files every few seconds and on SIGHUP, forever. Logs contain only the names of files,
/// never their content.
pub async fn watch_files<E: fmt::Display>(
    what: &'static str,
    mut refresh: impl FnMut() -> Result<bool, E>,
) {
    let mut hangup = signal(SignalKind::hangup()).ok();
    loop {
        let asked = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = asked => {}
            () = sleep(LOOK) => {}
        }
        match refresh() {
            Ok(true) => info!(what, "new certificates are in use"),
            Ok(false) => {}
            Err(error) => {
                error!(
                    what, %error,
                    "new certificates cannot be used; the previous ones stay in use"
                );
            }
        }
    }
}

/// Refuses credentials that no peer with these roots would accept: a key of another certificate,
/// another CA or purpose, a certificate that is not valid now.
pub fn verify(
    credentials: &Credentials,
    roots: &Arc<RootCertStore>,
    kind: IdentityKind,
    path: &Path,
) -> Result<(), PkiError> {
    verify_at(credentials, roots, kind, path, UnixTime::now())
}

/// Returns whether the key belongs to the first certificate; an unusable key does not.
pub fn keys_match(credentials: &Credentials) -> bool {
    let provider = ring::default_provider();
    let key = credentials.key.clone_key();
    let Ok(key) = provider.key_provider.load_private_key(key) else {
        return false;
    };
    let pair = CertifiedKey::new(credentials.chain.clone(), key);
    pair.keys_match().is_ok()
}

/// Says in words why a certificate does not fit its CA.
fn reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::BadSignature | CertificateError::UnknownIssuer,
        ) => "another CA issued it".to_owned(),
        _ => error.to_string(),
    }
}

/// Works like [`verify`], at a given time.
pub fn verify_at(
    credentials: &Credentials,
    roots: &Arc<RootCertStore>,
    kind: IdentityKind,
    path: &Path,
    now: UnixTime,
) -> Result<(), PkiError> {
    let unfit = |reason: String| PkiError::Unfit {
        path: path.to_owned(),
        reason,
    };
    let bad = |error: &dyn fmt::Display| unfit(error.to_string());
    let Some((end, others)) = credentials.chain.split_first() else {
        return Err(unfit("no certificate in it".to_owned()));
    };
    let provider = Arc::new(ring::default_provider());
    let key = provider
        .key_provider
        .load_private_key(credentials.key.clone_key())
        .map_err(|e| bad(&e))?;
    CertifiedKey::new(credentials.chain.clone(), key)
        .keys_match()
        .map_err(|_| unfit("the key beside it belongs to another certificate".to_owned()))?;
    let identity = Identity::from_certificate(end).map_err(|e| bad(&e))?;
    if identity.kind() != kind {
        return Err(unfit(format!(
            "it is for {identity}, not of kind {}",
            kind.as_str()
        )));
    }
    if kind.serves() {
        let name = ServerName::try_from(identity.name().to_owned()).map_err(|e| bad(&e))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider);
        let verifier = verifier.build().map_err(|e| bad(&e))?;
        let verified = verifier.verify_server_cert(end, others, &name, &[], now);
        verified.map(drop).map_err(|e| unfit(reason(&e)))
    } else {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider);
        let verifier = verifier.build().map_err(|e| bad(&e))?;
        let verified = verifier.verify_client_cert(end, others, now);
        verified.map(drop).map_err(|e| unfit(reason(&e)))
    }
}
