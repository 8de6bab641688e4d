//! The sections `[[quic]]`, and QUIC server ids of backends.

use std::collections::{HashMap, HashSet};

use ring::digest::{SHA256, digest};
use steer_common::{
    abi::MAX_SERVER_IDS,
    cid::{Layout, MAX_SERVER_ID, ROTATIONS},
};
use steer_probe::quic::{CidKeyError, Hex, read_key};

use super::{Backend, CidLayout, Config, raw, read::List, report::Report};

/// Default layout: a server id long enough that random connection ids do not match by chance, and a
/// nonce that gives ids of the usual twelve bytes.
const USUAL: CidLayout = CidLayout {
    rotation: 0,
    server_id: 4,
    nonce: 7,
    key_file: None,
};
/// Maximum number of server ids; the rest of the map is reserved for members being removed.
const MAX_CIDS: usize = MAX_SERVER_IDS as usize * 3 / 4;

pub(super) fn layouts(raw: List<raw::Quic>, report: &mut Report<'_>) -> Vec<CidLayout> {
    if raw.items.is_empty() {
        return vec![USUAL];
    }
    let mut layouts: Vec<CidLayout> = Vec::new();
    for raw in raw.items {
        let most = u32::from(ROTATIONS) - 1;
        let rotation = report.number(Some(&raw.rotation), 0, 0..=most) as u8;
        if layouts.iter().any(|layout| layout.rotation == rotation) {
            let what = format!("rotation {rotation} is listed twice");
            let todo = "give each section another one, 0 to 6";
            report.add(raw.rotation.span(), what, todo);
        }
        let id = raw.server_id_length.as_ref();
        let server_id = report.number(id, USUAL.server_id as u32, 1..=MAX_SERVER_ID as u32);
        // At most 19 bytes together: a connection id has 20.
        let nonce = raw.nonce_length.as_ref();
        let nonce = report.number(nonce, USUAL.nonce as u32, 4..=19 - server_id.min(8));
        layouts.push(CidLayout {
            rotation,
            server_id: server_id as usize,
            nonce: nonce as usize,
            key_file: raw
                .key_file
                .map(|file| report.path(Some(file), "/etc/steer/quic.key")),
        });
    }
    layouts
}

/// Returns the configured server ids of a backend, each of a different length.
pub(super) fn server_ids(
    raw: &raw::Backend,
    layouts: &[CidLayout],
    report: &mut Report<'_>,
) -> Vec<Hex> {
    let mut ids: Vec<Hex> = Vec::new();
    for value in &raw.server_ids {
        if report.is_over() {
            break;
        }
        let todo = "write bytes as hexadecimal digits, like \"0a1b2c3d\"";
        let Some(id) = report.parse::<Hex>(value, "a server id", todo) else {
            continue;
        };
        let len = id.0.len();
        if !layouts.iter().any(|layout| layout.server_id == len) {
            let what = format!(
                "a server id of {len} bytes, but no layout of connection ids has \
                                that length"
            );
            let todo =
                "write as many bytes as `server_id_length` of a [[quic]] says (4 without one)";
            report.add(value.span(), what, todo);
        }
        if ids.iter().any(|other| other.0.len() == len) {
            let what = format!("two server ids of {len} bytes");
            report.add(value.span(), what, "keep one of each length");
        }
        ids.push(id);
    }
    ids
}

/// Checks that server ids are unique within each service, and not too many.
pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    let services = config.services.iter().filter(|service| service.quic);
    let services: Vec<Vec<usize>> = services.map(|s| config.members(s)).collect();
    let members: usize = services.iter().map(Vec::len).sum();
    let entries = members * config.quic.len();
    if entries > MAX_CIDS {
        let what = format!("{entries} server ids over all services, more than {MAX_CIDS}");
        let todo = "remove a [[quic]] that is no longer in use, or spread the services over nodes";
        report.add(report.find("quic"), what, todo);
    }
    let mut reported = HashSet::new();
    for (layout, members) in config
        .quic
        .iter()
        .flat_map(|l| services.iter().map(move |m| (l, m)))
    {
        let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
        for index in members {
            let backend = &config.backends[*index];
            let id = backend.server_id(layout.server_id);
            let Some(other) = known.insert(id.clone(), *index).filter(|o| o != index) else {
                continue;
            };
            let is_new = reported.insert((layout.rotation, other, *index));
            if !is_new || is_one_host(&config.backends[other], backend, &id) {
                continue;
            }
            let what = format!(
                "backends {:?} and {:?} have the server id {} of rotation {}",
                config.backends[other].name,
                backend.name,
                Hex(id),
                layout.rotation
            );
            let todo = "give one of them another by `server_ids`; only the IPv4 and the IPv6 \
                        address of one host share one, which must be set on both";
            report.add(report.find("backend"), what, todo);
        }
    }
}

/// Returns whether two backends are addresses of one host, whose server has a single id: both were
/// given that id, and their address families differ.
fn is_one_host(one: &Backend, other: &Backend, id: &[u8]) -> bool {
    let is_given = |backend: &Backend| backend.server_ids.iter().any(|given| given.0 == id);
    is_given(one) && is_given(other) && one.address.is_ipv4() != other.address.is_ipv4()
}

impl CidLayout {
    /// Returns the fields after the first octet.
    #[must_use]
    pub fn layout(&self) -> Option<Layout> {
        Layout::new(self.server_id, self.nonce)
    }

    /// Reads the key, if there is one.
    ///
    /// # Errors
    ///
    /// Returns an error if its file cannot be read or holds no key.
    pub fn key(&self) -> Result<Option<[u8; 16]>, CidKeyError> {
        self.key_file.as_deref().map(read_key).transpose()
    }
}

impl Backend {
    /// Returns its server id with a length of at most 8 bytes: the configured one, or the first
    /// bytes of the SHA-256 of its name.
    #[must_use]
    pub fn server_id(&self, len: usize) -> Vec<u8> {
        let given = self.server_ids.iter().find(|id| id.0.len() == len);
        given.map_or_else(
            || digest(&SHA256, self.name.as_bytes()).as_ref()[..len].to_vec(),
            |id| id.0.clone(),
        )
    }
}
