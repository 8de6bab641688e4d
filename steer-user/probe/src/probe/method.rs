//! Probe methods.

use std::{fmt, str::FromStr};

/// A method of checking a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Its beacon over QUIC, which also reports its load.
    Beacon,
    /// A connection to a TCP port.
    Tcp {
        /// Port.
        port: u16,
    },
    /// A GET that succeeds with a status from 200 to 399.
    Get {
        /// Protocol.
        over: Transport,
        /// Port.
        port: u16,
        /// Path with its query.
        path: String,
    },
}

/// Protocol of a GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP/1.1 over TCP.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/3 over QUIC.
    H3,
}

impl Transport {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H3 => "h3",
        }
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{text:?} is not a probe method: write beacon, tcp:8000, http:8000/health, \
                 https:443/health or h3:443/health"
            )
        };
        if text == "beacon" {
            return Ok(Self::Beacon);
        }
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        let (port, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let port: u16 = port.parse().map_err(|_| bad())?;
        let over = match kind {
            "tcp" if path.is_empty() && port > 0 => return Ok(Self::Tcp { port }),
            "http" => Transport::Http,
            "https" => Transport::Https,
            "h3" => Transport::H3,
            _ => return Err(bad()),
        };
        let path = if path.is_empty() { "/" } else { path };
        if port == 0 || path.len() > 1024 || path.parse::<hyper::Uri>().is_err() {
            return Err(bad());
        }
        Ok(Self::Get {
            over,
            port,
            path: path.to_owned(),
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beacon => f.write_str("beacon"),
            Self::Tcp { port } => write!(f, "tcp:{port}"),
            Self::Get { over, port, path } => write!(f, "{}:{port}{path}", over.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_read_and_written() {
        for text in [
            "beacon",
            "tcp:8000",
            "http:80/",
            "https:443/health",
            "h3:443/v1?x=y",
        ] {
            assert_eq!(text.parse::<Method>().unwrap().to_string(), text);
        }
        assert_eq!("h3:443".parse::<Method>().unwrap().to_string(), "h3:443/");
        for text in [
            "",
            "tcp",
            "tcp:",
            "tcp:0",
            "tcp:1/x",
            "http:0/",
            "http:70000/",
            "ftp:21",
            "beacon:1",
            "https:443/a b",
        ] {
            assert!(text.parse::<Method>().is_err(), "{text}");
        }
    }
}
