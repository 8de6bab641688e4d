//! Access control: by the peer credentials of a socket, or by a certificate.

use std::{
    fmt, fs, io, mem,
    net::SocketAddr,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use nix::unistd::geteuid;
use steer_core::config::{Api, Principal};
use tokio::{net::UnixStream, sync::watch};
use tracing::warn;

use super::server::ApiError;
use crate::preflight::principal_id;

/// Upper bound of a peer's groups.
const MAX_GROUPS: usize = 1024;

/// Permissions of a user. Each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read.
    Read,
    /// Drain backends, confirm, roll back.
    Operate,
    /// Apply configurations.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        })
    }
}

/// Roles of users and groups, by number, and of certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Roles {
    users: Vec<(u32, Role)>,
    groups: Vec<(u32, Role)>,
    /// Roles by certificate name.
    certificates: Vec<(String, Role)>,
}

impl Roles {
    /// Resolves names. Unknown ones are skipped with a warning.
    fn resolve(api: &Api) -> Self {
        let mut roles = Self::default();
        for (role, names) in [
            (Role::Read, &api.read),
            (Role::Operate, &api.operate),
            (Role::Admin, &api.admin),
        ] {
            for name in names {
                match (principal_id(name), name) {
                    (Some(id), Principal::User(_)) => roles.users.push((id, role)),
                    (Some(id), Principal::Group(_)) => roles.groups.push((id, role)),
                    (_, Principal::Certificate(name)) => {
                        roles.certificates.push((name.clone(), role));
                    }
                    (None, _) => warn!(%name, %role, "this host has no such user or group"),
                }
            }
        }
        roles
    }

    pub(super) fn role_of(&self, peer: &Peer) -> Option<Role> {
        if let Some(shown) = &peer.certificate {
            let certificates = self.certificates.iter().filter(|(name, _)| name == shown);
            return certificates.map(|(_, role)| *role).max();
        }
        let uid = peer.uid?;
        if peer.is_root() {
            return Some(Role::Admin);
        }
        let users = self.users.iter().filter(|(id, _)| *id == uid);
        let groups = self
            .groups
            .iter()
            .filter(|(id, _)| peer.groups.contains(id));
        users.chain(groups).map(|(_, role)| *role).max()
    }

    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

/// Current roles, and the permissions of the socket.
#[derive(Debug)]
pub struct Access {
    socket: PathBuf,
    roles: watch::Sender<Roles>,
}

impl Access {
    /// Creates roles for root only, for a socket created by [`bind`](super::bind).
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            roles: watch::Sender::default(),
        }
    }

    /// Applies the roles of a configuration.
    pub fn set(&self, api: &Api) {
        let roles = Roles::resolve(api);
        // Anyone who can connect still needs a role for each request.
        let mode = if roles.is_empty() { 0o600 } else { 0o666 };
        self.roles.send_replace(roles);
        if let Err(error) = fs::set_permissions(&self.socket, fs::Permissions::from_mode(mode)) {
            warn!(socket = %self.socket.display(), %error, "its mode is unchanged");
        }
    }

    pub(super) fn roles(&self) -> watch::Receiver<Roles> {
        self.roles.subscribe()
    }
}

/// Middleware that requires a role.
pub(super) async fn require(
    State((roles, needed)): State<(watch::Receiver<Roles>, Role)>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let role = roles.borrow().role_of(&peer);
    if let Some(role) = role.filter(|role| *role >= needed) {
        request.extensions_mut().insert(role);
        return next.run(request).await;
    }
    let has = role.map_or("none".to_owned(), |role| role.to_string());
    let text = format!(
        "this needs the role {needed}, but {peer} has {has}; roles are set in [api] of the \
         configuration"
    );
    ApiError(StatusCode::FORBIDDEN, text).into_response()
}

/// Identity of the peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// Address of a TCP peer.
    from: Option<SocketAddr>,
    /// Operator in the certificate of a TCP peer.
    certificate: Option<String>,
    uid: Option<u32>,
    pid: Option<i32>,
    groups: Vec<u32>,
}

impl Peer {
    /// Returns the peer of a Unix socket.
    pub(super) fn from_stream(stream: &UnixStream) -> Self {
        let Ok(credentials) = stream.peer_cred() else {
            return Self::default();
        };
        let mut groups = supplementary(stream.as_fd()).unwrap_or_default();
        groups.push(credentials.gid());
        Self {
            uid: Some(credentials.uid()),
            pid: credentials.pid(),
            groups,
            ..Self::default()
        }
    }

    /// Returns the peer of a TCP connection.
    pub(super) fn remote(from: SocketAddr, certificate: Option<String>) -> Self {
        Self {
            from: Some(from),
            certificate,
            ..Self::default()
        }
    }

    /// Returns the user id of a Unix socket's peer.
    pub(super) fn uid(&self) -> Option<u32> {
        self.uid
    }

    /// Returns whether it is root, or the daemon's own user.
    pub(super) fn is_root(&self) -> bool {
        self.uid
            .is_some_and(|uid| uid == 0 || uid == geteuid().as_raw())
    }
}

/// Returns the peer's supplementary groups at connection time (`SO_PEERGROUPS`, unix(7)).
fn supplementary(stream: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; MAX_GROUPS];
    let mut len = mem::size_of_val(&groups[..]) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `groups`.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(len as usize / size_of::<u32>());
    Ok(groups)
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(from) = self.from {
            return match &self.certificate {
                Some(name) => write!(f, "cert:{name} ({from})"),
                None => write!(f, "a client without an operator's certificate ({from})"),
            };
        }
        match self.uid {
            Some(uid) => write!(f, "uid {uid}")?,
            None => write!(f, "an unknown user")?,
        }
        match self.pid {
            Some(pid) => write!(f, " (pid {pid})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principals(names: &[&str]) -> Vec<Principal> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn the_highest_role_counts_and_who_has_none_gets_none() {
        let roles = Roles::resolve(&Api {
            read: principals(&["1001", "@2001"]),
            operate: principals(&["1002", "@2002"]),
            admin: principals(&["1003", "no-such-user", "@root", "cert:alice"]),
            metrics: None,
            metrics_hosts: Vec::new(),
            remote: None,
        });
        let peer = |uid, groups: &[u32]| Peer {
            uid: Some(uid),
            pid: None,
            groups: groups.to_vec(),
            ..Peer::default()
        };
        let from = SocketAddr::from(([192, 0, 2, 1], 4711));
        let shown = |name: Option<&str>| Peer::remote(from, name.map(str::to_owned));
        assert_eq!(roles.role_of(&shown(Some("alice"))), Some(Role::Admin));
        assert_eq!(roles.role_of(&shown(Some("root"))), None);
        assert_eq!(roles.role_of(&shown(None)), None);
        for (peer, role) in [
            (peer(1001, &[]), Some(Role::Read)),
            (peer(1001, &[2002]), Some(Role::Operate)),
            (peer(1002, &[2001]), Some(Role::Operate)),
            (peer(1003, &[9]), Some(Role::Admin)),
            (peer(9999, &[5, 2001]), Some(Role::Read)),
            (peer(9999, &[0]), Some(Role::Admin)),
            (peer(9999, &[1001]), None),
            (peer(0, &[]), Some(Role::Admin)),
            (Peer::default(), None),
        ] {
            assert_eq!(roles.role_of(&peer), role, "{peer:?}");
        }
        assert!(Roles::resolve(&Api::default()).is_empty());
    }
}
