//! `steer cid`: connection ids of QUIC servers behind this node.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use steer_common::{
    abi::{CidCipher, CidLayouts},
    cid::{self, Server},
};
use steer_core::config::{self, CidLayout};
use steer_probe::quic::{CidConfig, CidGenerator, Hex};

use super::error::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum Cid {
    /// Print the parameters with which a backend's QUIC server makes connection ids, as JSON.
    Config(Whose),
    /// Generate connection ids of a backend's QUIC server, one per line.
    Make(Make),
    /// Show which server a connection id names.
    Decode(Decode),
}

/// Options that select a backend's connection ids.
#[derive(Debug, Args)]
pub(super) struct Whose {
    /// Name of the backend.
    backend: String,
    /// Rotation of the [[quic]] section (default: the last section).
    #[arg(long)]
    rotation: Option<u8>,
    #[command(flatten)]
    file: File,
}

#[derive(Debug, Args)]
struct File {
    /// Path of the configuration.
    #[arg(long, default_value = "/etc/steer/steer.toml")]
    config: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Make {
    #[command(flatten)]
    whose: Whose,
    /// Number of ids.
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Encode the remaining length in the first octet.
    #[arg(long)]
    encode_length: bool,
}

#[derive(Debug, Args)]
pub(super) struct Decode {
    /// Connection id, in hexadecimal digits.
    id: Hex,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: File,
}

impl File {
    fn load(&self) -> Result<config::Config, Failure> {
        config::Config::load(&self.config).map_err(|error| Failure::new(Exit::Config, error))
    }
}

impl Whose {
    fn config(&self) -> Result<CidConfig, Failure> {
        let config = self.file.load()?;
        let mut backends = config.backends.iter();
        let backend = backends
            .find(|backend| backend.name == self.backend)
            .with_context(|| format!("the configuration has no backend \"{}\"", self.backend))?;
        let mut layouts = config.quic.iter().rev();
        let layout: &CidLayout = layouts
            .find(|layout| {
                self.rotation
                    .is_none_or(|rotation| rotation == layout.rotation)
            })
            .with_context(|| "the configuration has no [[quic]] of this rotation")?;
        let key = layout.key()?;
        Ok(CidConfig {
            key: key.map(|key| Hex(key.to_vec())),
            rotation: layout.rotation,
            server_id: Hex(backend.server_id(layout.server_id)),
            nonce_length: layout.nonce,
            encode_length: false,
        })
    }
}

impl Cid {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Config(whose) => {
                println!("{}", serde_json::to_string(&whose.config()?)?);
                Ok(())
            }
            Self::Make(make) => make.run(),
            Self::Decode(decode) => decode.run(),
        }
    }
}

impl Make {
    fn run(self) -> Result<(), Failure> {
        let config = CidConfig {
            encode_length: self.encode_length,
            ..self.whose.config()?
        };
        let generator = CidGenerator::new(config).map_err(|error| anyhow!(error))?;
        for _ in 0..self.count {
            println!("{}", Hex(generator.make().bytes().to_vec()));
        }
        Ok(())
    }
}

impl Decode {
    /// Returns the server that the id names, if there is one.
    fn server(&self, config: &config::Config) -> Result<Option<Server>, Failure> {
        let id = &self.id.0;
        let rotation = id.first().map(|first| first >> 5);
        let mut layouts = config.quic.iter();
        let Some(one) = layouts.find(|one| Some(one.rotation) == rotation) else {
            return Ok(None);
        };
        let layout = one.layout();
        if let (Some(key), Some(layout)) = (one.key()?, layout) {
            return Ok(CidCipher::new(&key, layout).decode(id));
        }
        let layouts = CidLayouts::default().with(one.rotation, layout);
        Ok(cid::decode(id, &layouts))
    }

    fn run(self) -> Result<(), Failure> {
        let config = self.file.load()?;
        let Some(server) = self.server(&config)? else {
            let why = "its rotation has no [[quic]] section, or it is too short";
            return Err(anyhow!("{} names no server: {why}", self.id).into());
        };
        let len = usize::from(server.len);
        let id = Hex(server.id.to_be_bytes()[8 - len..].to_vec());
        let mut backends = config.backends.iter();
        let backend = backends.find(|backend| backend.server_id(len) == id.0);
        let backend = backend.map(|backend| backend.name.as_str());
        if self.json {
            let said = serde_json::json!({
                "rotation": server.rotation,
                "server_id": id,
                "backend": backend,
            });
            println!("{said}");
        } else {
            println!(
                "server id {id} of rotation {}: {}",
                server.rotation,
                backend.unwrap_or("no backend in the configuration")
            );
        }
        Ok(())
    }
}
