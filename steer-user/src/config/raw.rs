//! The document as it is written, before anything is checked but types and keys.

use serde::Deserialize;
use toml::Spanned;

use super::{End, OpenFlows, Protocol, XdpMode};

pub(super) type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub name: Text,
    pub region: Text,
    pub interfaces: Spanned<Vec<Text>>,
    #[serde(default)]
    pub xdp_mode: XdpMode,
    pub state_dir: Option<Text>,
    pub socket: Option<Text>,
    pub bpffs: Option<Text>,
    pub generations: Option<Spanned<u32>>,
    pub journal_mib: Option<Spanned<u32>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nat {
    #[serde(default)]
    pub addresses: Vec<Text>,
    pub ports: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ipip {
    #[serde(default)]
    pub sources: Vec<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Probe {
    pub interval: Option<Text>,
    pub timeout: Option<Text>,
    pub rise: Option<Spanned<u32>>,
    pub fall: Option<Spanned<u32>>,
    pub handshake_every: Option<Text>,
    pub ca: Option<Text>,
    pub cert: Option<Text>,
    pub key: Option<Text>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    Nat,
    Ipip,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    pub name: Text,
    pub address: Text,
    pub mode: Mode,
    pub region: Option<Text>,
    #[serde(default)]
    pub zone: String,
    pub capacity: Option<Spanned<u32>>,
    pub beacon: Option<Text>,
    pub port: Option<Spanned<u16>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    pub name: Text,
    pub backends: Spanned<Vec<Text>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub name: Text,
    pub address: Text,
    pub port: u16,
    #[serde(default)]
    pub protocol: Protocol,
    pub pools: Spanned<Vec<Text>>,
    #[serde(default)]
    pub end: End,
    pub idle_timeout: Option<Text>,
    #[serde(default)]
    pub open_flows: OpenFlows,
}
