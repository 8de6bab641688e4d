//! `steer trace`: live packets with their outcome.

mod pcapng;
mod words;

use std::{
    fs::File,
    io::{self, Write},
    path::PathBuf,
};

use clap::{ArgGroup, Args};
use ipnet::IpNet;

use self::pcapng::Pcapng;
use super::{
    ask::{Target, failure},
    error::Failure,
};
use crate::{
    api::{TraceLine, TracedPacket},
    daemon::TraceRequest,
    packet_words::from_hex,
};

/// Protocols by name.
const PROTOCOLS: [(&str, u8); 4] = [("tcp", 6), ("udp", 17), ("icmp", 1), ("icmpv6", 58)];

/// Options select the packets to show (default: all). While a trace runs, every packet costs more,
/// including those not shown.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("form").args(["json", "pcapng"]))]
pub(super) struct Trace {
    /// Packets from or to this address or prefix; under `nat` also a client's answers, which
    /// backends send to an address of the node.
    #[arg(long, value_parser = prefix)]
    address: Option<IpNet>,
    /// Packets from or to this port.
    #[arg(long)]
    port: Option<u16>,
    /// Packets of this protocol: tcp, udp, icmp, icmpv6, or a number.
    #[arg(long, value_parser = protocol)]
    protocol: Option<u8>,
    /// Packets of the service with this name.
    #[arg(long)]
    service: Option<String>,
    /// Packets to or from the backend with this name.
    #[arg(long)]
    backend: Option<String>,
    /// Packets that are passed, dropped, sent or answered. May be repeated.
    #[arg(long)]
    verdict: Vec<String>,
    /// Packets that are dropped or answered for this reason, with its name in `steer status`. May
    /// be repeated.
    #[arg(long)]
    reason: Vec<String>,
    /// Sample one of this many matching packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sample: Option<u32>,
    /// Exit after this many packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Write a capture for Wireshark, with the verdicts as comments, to a file, or to standard
    /// output as `-`.
    #[arg(long, value_name = "FILE")]
    pcapng: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
    address
        .or_else(|_| text.parse().map(|prefix: IpNet| prefix.trunc()))
        .map_err(|_| "write an address or a prefix, like 198.51.100.0/24".to_owned())
}

fn protocol(text: &str) -> Result<u8, String> {
    let named = PROTOCOLS.iter().find(|(name, _)| *name == text);
    named
        .map(|(_, number)| *number)
        .or_else(|| text.parse().ok())
        .ok_or_else(|| "write tcp, udp, icmp, icmpv6 or a number".to_owned())
}

impl Trace {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        let request = TraceRequest {
            address: self.address,
            port: self.port,
            protocol: self.protocol,
            service: self.service,
            backend: self.backend,
            verdicts: self.verdict,
            reasons: self.reason,
            sample: self.sample,
            count: self.count,
        };
        let mut out = match &self.pcapng {
            Some(path) if path.as_os_str() == "-" => Out::pcapng(io::stdout().lock())?,
            Some(path) => {
                let file = File::create(path).map_err(|error| {
                    anyhow::anyhow!("{}: cannot be written: {error}", path.display())
                })?;
                Out::pcapng(file)?
            }
            None if self.target.json => Out::Json(io::stdout().lock()),
            None => Out::Words(io::stdout().lock()),
        };
        let client = self.target.client()?;
        let mut stream = client.trace(&request).await.map_err(failure)?;
        eprintln!("steer: tracing; Ctrl-C ends it");
        let mut lost = 0;
        while let Some(line) = stream.next().await.map_err(failure)? {
            let written = match line {
                TraceLine::Packet(packet) => out.packet(&packet),
                TraceLine::Lost(now) if now > lost => {
                    lost = now;
                    out.lost(now)
                }
                TraceLine::Lost(_) => Ok(()),
            };
            match written {
                // The reader of the output is gone.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
        }
        Ok(())
    }
}

/// Destination and format of packets.
enum Out {
    Words(io::StdoutLock<'static>),
    Json(io::StdoutLock<'static>),
    Pcapng(Pcapng<Box<dyn Write>>),
}

impl Out {
    fn pcapng(out: impl Write + 'static) -> io::Result<Self> {
        Pcapng::start(Box::new(out) as Box<dyn Write>).map(Self::Pcapng)
    }

    fn packet(&mut self, packet: &TracedPacket) -> io::Result<()> {
        let bytes = |hex: &str| from_hex(hex).unwrap_or_default();
        match self {
            Self::Words(out) => {
                let [before, after] = [bytes(&packet.before), bytes(&packet.after)];
                writeln!(out, "{}", words::packet(packet, &before, &after))?;
                out.flush()
            }
            Self::Json(out) => {
                writeln!(out, "{}", serde_json::to_string(packet)?)?;
                out.flush()
            }
            Self::Pcapng(out) => {
                let [before, after] = [bytes(&packet.before), bytes(&packet.after)];
                let comment = words::verdict(packet);
                let time = packet.time_ns;
                out.packet(
                    &packet.interface,
                    time,
                    (&before, packet.len),
                    &comment,
                    false,
                )?;
                if let Some(interface) = &packet.sent_by {
                    let comment = format!("what was sent in place of the packet before: {comment}");
                    out.packet(interface, time, (&after, packet.sent_len), &comment, true)?;
                }
                Ok(())
            }
        }
    }

    /// Reports lost packets, except to a program that would not understand it.
    fn lost(&mut self, lost: u64) -> io::Result<()> {
        if let Self::Json(out) = self {
            writeln!(out, "{}", serde_json::json!({ "lost": lost }))?;
            return out.flush();
        }
        eprintln!(
            "steer: {lost} packets were lost, because they arrived too fast; use a filter, or \
             --sample"
        );
        Ok(())
    }
}
