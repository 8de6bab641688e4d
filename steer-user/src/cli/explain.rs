//! `steer explain`: of a flow by its ends, or of a whole packet by its bytes.

use std::{
    io::{self, Read as _},
    net::SocketAddr,
};

use clap::Args;
use steer_probe::quic::Hex;

use super::{
    ask::{Target, failure},
    error::{Exit, Failure},
    hexdump,
};
use crate::{
    api::{ExplainPacket, ExplainQuery},
    config::Protocol,
};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// tcp or udp.
    #[arg(required_unless_present = "packet")]
    protocol: Option<Protocol>,
    /// The client: address and port.
    #[arg(required_unless_present = "packet")]
    source: Option<SocketAddr>,
    /// The VIP: address and port.
    #[arg(required_unless_present = "packet")]
    destination: Option<SocketAddr>,
    /// Ask for a packet in the midst of a connection, not for its SYN or QUIC Initial.
    #[arg(long)]
    open: bool,
    /// The packet's DSCP.
    #[arg(long, default_value_t = 0)]
    dscp: u8,
    /// The destination connection id of a QUIC packet.
    #[arg(
        long,
        value_name = "HEX",
        default_value = "",
        hide_default_value = true
    )]
    dcid: Hex,
    /// Ask for a whole packet instead, whatever it is: its frame in hexadecimal digits, or as a dump of tcpdump -XX,
    /// tshark -x, xxd or hexdump -C. "-" reads that from the standard input.
    #[arg(
        long,
        value_name = "HEX",
        conflicts_with_all = ["protocol", "open", "dscp", "dcid"]
    )]
    packet: Option<String>,
    /// The interface that the packet comes in by; the first of the configuration if it is not said.
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
            // Its arguments say so.
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
#[error("neither a flow nor a packet to explain")]
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
