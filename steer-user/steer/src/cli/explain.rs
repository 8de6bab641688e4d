//! `steer explain`: explains a flow by its addresses, or a whole packet by its bytes.

use std::{
    io::{self, Read as _},
    net::SocketAddr,
};

use clap::Args;
use steer_core::config::Protocol;
use steer_probe::quic::Hex;

use super::{
    ask::{Target, failure},
    error::{Exit, Failure},
    hexdump,
};
use crate::api::{ExplainPacket, ExplainQuery};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Protocol: tcp or udp.
    #[arg(required_unless_present = "packet")]
    protocol: Option<Protocol>,
    /// Client address and port.
    #[arg(required_unless_present = "packet")]
    source: Option<SocketAddr>,
    /// VIP and port.
    #[arg(required_unless_present = "packet")]
    destination: Option<SocketAddr>,
    /// Explain a packet of an open connection, instead of a SYN or QUIC Initial.
    #[arg(long)]
    open: bool,
    /// DSCP of the packet.
    #[arg(long, default_value_t = 0)]
    dscp: u8,
    /// Destination connection id of a QUIC packet.
    #[arg(
        long,
        value_name = "HEX",
        default_value = "",
        hide_default_value = true
    )]
    dcid: Hex,
    /// Explain a whole packet instead: its frame in hexadecimal digits, or as a dump of tcpdump
    /// -XX, tshark -x, xxd or hexdump -C. "-" reads standard input.
    #[arg(
        long,
        value_name = "HEX",
        conflicts_with_all = ["protocol", "open", "dscp", "dcid"]
    )]
    packet: Option<String>,
    /// Interface on which the packet arrives (default: the first one of the configuration).
    #[arg(long, requires = "packet")]
    interface: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Explain {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        let client = self.target.client()?;
        let explanation = match (
            self.packet,
            self.protocol,
            self.source.zip(self.destination),
        ) {
            (Some(text), ..) => {
                let query = ExplainPacket {
                    packet: Hex(bytes(&text)?),
                    interface: self.interface,
                };
                client.explain_packet(&query).await
            }
            (None, Some(protocol), Some((source, destination))) => {
                let query = ExplainQuery {
                    protocol,
                    source,
                    destination,
                    open: self.open,
                    dscp: self.dscp,
                    dcid: self.dcid,
                };
                client.explain(&query).await
            }
            // clap enforces this.
            (None, ..) => return Err(Failure::new(Exit::Usage, Nothing)),
        }
        .map_err(failure)?;
        if self.target.json {
            println!("{}", serde_json::to_string_pretty(&explanation)?);
            return Ok(());
        }
        for (number, step) in (1..).zip(&explanation.steps) {
            println!("{number}. {step}");
        }
        println!("=> {}", explanation.verdict);
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("give a flow or a packet to explain")]
struct Nothing;

fn bytes(text: &str) -> Result<Vec<u8>, Failure> {
    let mut dump = String::new();
    if text == "-" {
        io::stdin().read_to_string(&mut dump)?;
    } else {
        dump.push_str(text);
    }
    hexdump::parse(&dump).map_err(|error| Failure::new(Exit::Usage, error))
}
