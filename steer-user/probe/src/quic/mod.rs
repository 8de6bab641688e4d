//! Connection ids for QUIC servers behind steer: connection ids by which a node finds the server again when a
//! client changes its address, as draft-ietf-quic-load-balancers-21 has them.
//!
//! `steer cid config` prints the [`CidConfig`] of a backend as JSON. A server that uses quinn hands it
//! to [`CidGenerator`]:
//!
//! ```
//! use steer_probe::quic::{CidConfig, CidGenerator};
//!
//! let config: CidConfig =
//!     serde_json::from_str(r#"{"rotation": 0, "server_id": "0a1b2c3d", "nonce_length": 7}"#)?;
//! let generator = CidGenerator::new(config)?;
//! let mut endpoint = quinn::EndpointConfig::default();
//! endpoint.cid_generator(move || Box::new(generator.clone()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Servers that share the key of [`quinn::EndpointConfig::new`] can end each other's connections by
//! stateless resets: clients of a server that has died learn of it at once.

mod hex;
mod key;

use std::{fmt, time::Duration};

use quinn::{ConnectionId, ConnectionIdGenerator};
use rand::RngCore as _;
use serde::{Deserialize, Serialize};
use steer_common::cid::{self, Cid, Layout, LowBits, Server};

pub use self::hex::{Hex, NotHex};
pub use self::key::{CidKeyError, read_key};

/// Parameters of a server's connection ids.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CidConfig {
    /// Config rotation: the first three bits, 0 to 6.
    pub rotation: u8,
    /// Server id, 1 to 8 bytes.
    pub server_id: Hex,
    /// Length of the random nonce after it: at least 4, and with the server id at most 19.
    pub nonce_length: usize,
    /// Whether the last five bits of the first octet encode the remaining length, for hardware that
    /// needs it; they are random otherwise.
    #[serde(default)]
    pub encode_length: bool,
    /// Key of 16 bytes that encrypts server id and nonce; without it they are readable. Anyone with
    /// the key can read which server a connection id names: keep it as secret as the key of a
    /// certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Hex>,
}

impl fmt::Debug for CidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CidConfig")
            .field("rotation", &self.rotation)
            .field("server_id", &self.server_id)
            .field("nonce_length", &self.nonce_length)
            .field("is_encrypted", &self.key.is_some())
            .finish_non_exhaustive()
    }
}

/// Error for a configuration that allows no connection ids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCidConfig {
    /// The draft does not allow these lengths or this rotation.
    #[error(
        "rotation {rotation} with a server id of {server_id} and a nonce of {nonce} bytes: the \
         rotation must be 0 to 6, the server id 1 to 8 bytes long, the nonce at least 4, both \
         together at most 19"
    )]
    Layout {
        /// Config rotation.
        rotation: u8,
        /// Length of the server id in bytes.
        server_id: usize,
        /// Length of the nonce in bytes.
        nonce: usize,
    },
    /// The key has the wrong length.
    #[error("a key of {0} bytes; AES-128 needs 16")]
    Key(usize),
}

/// Generator of connection ids by which a node finds this server.
#[derive(Clone)]
pub struct CidGenerator {
    server: Server,
    layout: Layout,
    encode_length: bool,
    key: Option<[u8; 16]>,
    lifetime: Option<Duration>,
}

impl fmt::Debug for CidGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CidGenerator")
            .field("server", &self.server)
            .field("layout", &self.layout)
            .field("is_encrypted", &self.key.is_some())
            .finish_non_exhaustive()
    }
}

impl CidGenerator {
    /// Creates a generator for the server that the configuration names.
    ///
    /// # Errors
    ///
    /// Returns an error if the draft allows no such connection ids.
    pub fn new(config: CidConfig) -> Result<Self, BadCidConfig> {
        let id = &config.server_id.0;
        let server = Server::new(config.rotation, id);
        let layout = Layout::new(id.len(), config.nonce_length);
        let key = config.key.map(|key| key.0.try_into());
        let key = key
            .transpose()
            .map_err(|key: Vec<u8>| BadCidConfig::Key(key.len()))?;
        match (server, layout) {
            (Some(server), Some(layout)) => Ok(Self {
                server,
                layout,
                encode_length: config.encode_length,
                key,
                lifetime: None,
            }),
            _ => Err(BadCidConfig::Layout {
                rotation: config.rotation,
                server_id: id.len(),
                nonce: config.nonce_length,
            }),
        }
    }

    /// Makes quinn replace connection ids after this time, needed when the server gets another
    /// configuration.
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// Returns a new connection id with a random nonce.
    #[must_use]
    pub fn make(&self) -> Cid {
        let mut random = [0; cid::MAX_LEN];
        rand::rng().fill_bytes(&mut random);
        let (low, nonce) = (random[0], &random[1..=self.layout.nonce()]);
        let low = if self.encode_length {
            LowBits::Length
        } else {
            LowBits::Random(low)
        };
        match (cid::encode(self.server, nonce, low), &self.key) {
            (Some(cid), Some(key)) => cid.encrypted(key),
            (Some(cid), None) => cid,
            (None, _) => unreachable!("the lengths were checked by `new`"),
        }
    }
}

impl ConnectionIdGenerator for CidGenerator {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(self.make().bytes())
    }

    // `validate` stays as it is: an id of another server, forwarded because that server is down,
    // needs a stateless reset.

    fn cid_len(&self) -> usize {
        self.layout.cid_len()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        self.lifetime
    }
}

#[cfg(test)]
mod tests {
    use steer_common::abi::{CidCipher, CidLayouts};

    use super::*;

    fn config() -> CidConfig {
        serde_json::from_str(r#"{"rotation":5,"server_id":"0a1b2c3d","nonce_length":7}"#).unwrap()
    }

    #[test]
    fn generated_ids_lead_to_the_server_and_differ() {
        let mut generator = CidGenerator::new(config()).unwrap();
        let layouts = CidLayouts::default().with(5, Layout::new(4, 7));
        let ids: Vec<_> = (0..100).map(|_| generator.generate_cid()).collect();
        for id in &ids {
            assert_eq!(id.len(), generator.cid_len());
            let server = cid::decode(id, &layouts).unwrap();
            assert_eq!((server.rotation, server.id), (5, 0x0a1b_2c3d));
        }
        let first: std::collections::HashSet<_> = ids.iter().map(|id| id[0]).collect();
        assert!(first.len() > 8, "the first octet's low bits are random");
        let all: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(all.len(), 100);
    }

    #[test]
    fn ids_of_a_server_with_a_key_are_found_by_who_has_it() {
        let key = [0x5a; 16];
        let config = CidConfig {
            key: Some(Hex(key.to_vec())),
            ..config()
        };
        let generator = CidGenerator::new(config.clone()).unwrap();
        let layout = Layout::new(4, 7).unwrap();
        let cipher = CidCipher::new(&key, layout);
        for _ in 0..100 {
            let id = generator.make();
            let server = cipher.decode(id.bytes()).unwrap();
            assert_eq!((server.rotation, server.id), (5, 0x0a1b_2c3d));
            let other = CidCipher::new(&[0x5b; 16], layout);
            assert_ne!(other.decode(id.bytes()), Some(server));
        }
        let short = CidConfig {
            key: Some(Hex(vec![1; 15])),
            ..config
        };
        assert_eq!(CidGenerator::new(short).unwrap_err(), BadCidConfig::Key(15));
    }

    #[test]
    fn the_length_is_encoded_where_it_is_asked_for() {
        let config = CidConfig {
            encode_length: true,
            ..config()
        };
        let generator = CidGenerator::new(config).unwrap();
        assert_eq!(generator.make().bytes()[0], 5 << 5 | 11);
    }

    #[test]
    fn what_the_draft_does_not_allow_is_refused() {
        for (rotation, id, nonce_length) in [(7, 4, 7), (0, 0, 7), (0, 9, 7), (0, 4, 3), (0, 8, 12)]
        {
            let config = CidConfig {
                rotation,
                server_id: Hex(vec![1; id]),
                nonce_length,
                encode_length: false,
                key: None,
            };
            let said = CidGenerator::new(config).unwrap_err().to_string();
            assert!(said.contains(&format!("rotation {rotation}")), "{said}");
        }
    }
}
