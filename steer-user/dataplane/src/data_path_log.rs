//! Records of the data path about rare drops, which become events of `tracing`.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
};

use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use steer_common::abi::DropReason;
use tracing::{debug, error, field::display, info, warn};

/// Target of the events.
const TARGET: &str = "steer::data_path";

/// Records of the tracing copy.
pub struct DataPathLog(pub(super) EbpfLogger<Sink>);

impl DataPathLog {
    /// Logs the records that have arrived.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl fmt::Debug for DataPathLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPathLog").finish_non_exhaustive()
    }
}

impl AsRawFd for DataPathLog {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Sink of aya-log's records.
pub(super) struct Sink;

impl Log for Sink {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        let Some(dropped) = Dropped::parse(&text) else {
            warn!(target: TARGET, text, "unreadable record of the data path");
            return;
        };
        let Dropped {
            reason,
            interface,
            length,
            source,
            destination,
        } = dropped;
        let interface = name_of(interface);
        let [source, destination] = [source, destination].map(|end| end.map(display));
        macro_rules! event {
            ($level:ident) => {
                $level!(
                    target: TARGET,
                    reason,
                    interface,
                    length,
                    source,
                    destination,
                    "packet dropped"
                )
            };
        }
        match record.level() {
            log::Level::Error => event!(error),
            log::Level::Warn => event!(warn),
            log::Level::Info => event!(info),
            log::Level::Debug | log::Level::Trace => event!(debug),
        }
    }

    fn flush(&self) {}
}

/// A dropped packet.
#[derive(Debug, PartialEq, Eq)]
struct Dropped {
    reason: &'static str,
    interface: u32,
    length: u32,
    /// Source and destination; `None` if the packet was dropped before they were known.
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
}

impl Dropped {
    /// Parses the values of a record in the order in which the program writes them.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let number: u32 = words.next()?.parse().ok()?;
        let reason = DropReason::ALL
            .into_iter()
            .find(|reason| *reason as u32 == number)?;
        let interface = words.next()?.parse().ok()?;
        let length = words.next()?.parse().ok()?;
        let mut end = || {
            let address: Ipv6Addr = words.next()?.parse().ok()?;
            let port = words.next()?.parse().ok()?;
            let end = SocketAddr::new(IpAddr::V6(address).to_canonical(), port);
            Some((!address.is_unspecified()).then_some(end))
        };
        Some(Self {
            reason: reason.name(),
            interface,
            length,
            source: end()?,
            destination: end()?,
        })
    }
}

/// Returns the name of an interface, or its index if it is gone.
fn name_of(interface: u32) -> String {
    nix::net::if_::if_indextoname(interface)
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| interface.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_parsed() {
        let dropped = Dropped::parse("1 7 60 ::ffff:10.0.0.1 1024 ::ffff:10.99.0.1 80").unwrap();
        assert_eq!(dropped.reason, "malformed");
        assert_eq!((dropped.interface, dropped.length), (7, 60));
        assert_eq!(dropped.source, "10.0.0.1:1024".parse().ok());
        assert_eq!(dropped.destination, "10.99.0.1:80".parse().ok());
        let before_its_flow = Dropped::parse("1 7 60 :: 0 :: 0").unwrap();
        assert_eq!(before_its_flow.source, None);
        assert_eq!(Dropped::parse("99 7 60 :: 0 :: 0"), None);
        assert_eq!(Dropped::parse("1 7"), None);
    }
}
