//! `steer pki`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use steer_probe::pki::{self, Identity, IdentityKind, Validity};

use super::error::{Exit, Failure};

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Subcommand)]
pub(super) enum Pki {
    /// Create a CA: ca.pem and ca.key. Never overwrites one.
    Init {
        #[command(flatten)]
        place: Place,
    },
    /// Issue a certificate from the CA: NAME.pem and NAME.key beside it.
    Issue {
        /// Purpose of the certificate.
        kind: Kind,
        /// Name of the node, of the beacon's backend, or of the operator.
        name: String,
        /// Region, as in the configuration.
        #[arg(long)]
        region: String,
        /// Host name or address by which clients reach a server; may be repeated.
        #[arg(long, value_name = "HOST")]
        host: Vec<String>,
        /// Validity in days.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
pub(super) struct Place {
    /// Directory with the CA.
    #[arg(long, default_value = "/etc/steer/pki")]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Kind {
    /// A node, which probes.
    Node,
    /// A beacon, which answers.
    Beacon,
    /// An operator, who uses the API of a node over TCP.
    Operator,
    /// The API of a node over TCP.
    Api,
}

impl Pki {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Init { place } => {
                pki::init(&place.dir)?;
                println!("made {}", place.dir.join("ca.pem").display());
            }
            Self::Issue {
                kind,
                name,
                region,
                host,
                days,
                place,
            } => {
                let kind = match kind {
                    Kind::Node => IdentityKind::Node,
                    Kind::Beacon => IdentityKind::Beacon,
                    Kind::Operator => IdentityKind::Operator,
                    Kind::Api => IdentityKind::Api,
                };
                let identity = Identity::new(kind, &region, &name)
                    .map_err(|e| Failure::new(Exit::Usage, e))?;
                pki::issue(&place.dir, &identity, Validity::for_next(DAY * days), &host)?;
                let path = place.dir.join(format!("{name}.pem"));
                println!("issued {} for {identity}", path.display());
            }
        }
        Ok(())
    }
}
