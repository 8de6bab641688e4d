//! Values used by several sections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::raw::Text;
use super::report::Report;
use super::settings::{Range, Setting};
use super::spanned::Spanned;
use humantime_serde::re::humantime::{format_duration, parse_duration};

impl Report<'_> {
    /// Parses an address that can be the source or destination of packets.
    pub(super) fn address(&mut self, value: &Text) -> Option<IpAddr> {
        let usual = "write one like 192.0.2.1 or 2001:db8::1";
        let text = value.get_ref();
        let Ok(address) = text.parse::<IpAddr>() else {
            let (what, todo) = if self.is_hidden(text) {
                // A part of a value would reveal something of the rest.
                (format!("{text:?} is not an IP address"), usual.to_owned())
            } else {
                no_address(text, usual)
            };
            self.add(value.span(), what, todo);
            return None;
        };
        let kind = match address {
            _ if address.is_unspecified() => "is the unspecified address",
            _ if address.is_multicast() => "is a multicast address",
            IpAddr::V4(Ipv4Addr::BROADCAST) => "is the broadcast address",
            _ if address.to_canonical() != address => {
                let what = format!("{text} is an IPv4 address in IPv6 notation");
                let todo = format!("write {}", address.to_canonical());
                self.add(value.span(), what, todo);
                return None;
            }
            _ => return Some(address),
        };
        let what = format!("{text} {kind}, and is not a unicast address");
        self.add(value.span(), what, usual);
        None
    }

    /// Parses an address that packets can be routed to.
    pub(super) fn reached_address(&mut self, value: &Text) -> Option<IpAddr> {
        let address = self.address(value)?;
        if address.is_loopback() {
            let what = format!(
                "{} is a loopback address: no packet reaches it over a network",
                value.get_ref()
            );
            self.add(
                value.span(),
                what,
                "write the address that clients connect to",
            );
            return None;
        }
        Some(address)
    }

    /// Parses an address with a port other than 0. `examples` shows what to write.
    pub(super) fn socket_address(&mut self, value: &Text, examples: &str) -> Option<SocketAddr> {
        let text = value.get_ref();
        let usual = format!("write an address and a port, like {examples}");
        let Ok(address) = text.parse::<SocketAddr>() else {
            let (what, todo) = if self.is_hidden(text) {
                (format!("{text:?} is not an address and a port"), usual)
            } else {
                no_socket_address(text, usual, examples)
            };
            self.add(value.span(), what, todo);
            return None;
        };
        if address.port() == 0 {
            self.add(value.span(), "0 is not a port", usual);
        }
        Some(address)
    }

    /// Parses an address with an optional prefix length.
    pub(super) fn prefix(&mut self, value: &Text, todo: &str) -> Option<(IpAddr, u8)> {
        let (address, len) = match value.get_ref().split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (value.get_ref().as_str(), None),
        };
        let parsed = address.parse::<IpAddr>().ok().and_then(|address| {
            let (bits, width) = match address {
                IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
                IpAddr::V6(v6) => (v6.to_bits(), 128),
            };
            let len = match len {
                Some(len) => len.parse().ok().filter(|len| *len <= width)?,
                None => width,
            };
            let rest = bits.checked_shl(u32::from(len)).unwrap_or(0);
            let unicast = !address.is_multicast() && address.to_canonical() == address;
            (rest == 0 && unicast && (len == 0 || !address.is_unspecified()))
                .then_some((address, len))
        });
        if parsed.is_none() {
            let text = value.get_ref();
            let near = near_prefix(text).filter(|_| !self.is_hidden(text));
            let (what, todo) = near.unwrap_or_else(|| {
                let what = format!("{text:?} is not a unicast address or prefix");
                (what, todo.to_owned())
            });
            self.add(value.span(), what, todo);
        }
        parsed
    }

    pub(super) fn path(&mut self, value: Option<Text>, default: &str) -> PathBuf {
        let Some(value) = value else {
            return default.into();
        };
        let path = PathBuf::from(value.get_ref());
        // A key in place of its path would be shown wherever the path is.
        if value.get_ref().contains('\n') || value.get_ref().contains("-----BEGIN") {
            let what = "this is the content of a file, not its path";
            self.add(value.span(), what, format!("write one like {default}"));
            return path;
        }
        if !path.is_absolute() {
            let what = format!("{:?} is not an absolute path", value.get_ref());
            self.add(value.span(), what, format!("write one like {default}"));
        }
        path
    }

    /// Parses a time of the table of settings.
    pub(super) fn time(&mut self, value: Option<&Text>, setting: Setting) -> Duration {
        let (Range::Time(range, default), key) = (setting.range(), setting.key()) else {
            return Duration::ZERO;
        };
        self.duration_of(value, default, range, &format!(" for `{key}`"))
    }

    /// Parses a number of the table of settings.
    pub(super) fn count(&mut self, value: Option<&Spanned<u32>>, setting: Setting) -> u32 {
        match setting.range() {
            Range::Count(range, default) | Range::Percent(range, default) => {
                let of = format!(" for `{}`", setting.key());
                self.number_of(value, default, range, &of)
            }
            Range::Time(..) | Range::Idle(_) | Range::Level(_) | Range::Filter => 0,
        }
    }

    pub(super) fn duration(
        &mut self,
        value: Option<&Text>,
        default: Duration,
        sane: RangeInclusive<Duration>,
    ) -> Duration {
        self.duration_of(value, default, sane, "")
    }

    fn duration_of(
        &mut self,
        value: Option<&Text>,
        default: Duration,
        sane: RangeInclusive<Duration>,
        of: &str,
    ) -> Duration {
        let Some(value) = value else { return default };
        let Ok(duration) = parse_duration(value.get_ref()) else {
            let text = value.get_ref();
            let what = format!("{text:?} is not a duration");
            // 0,5s.
            let pointed = text.replace(',', ".");
            let todo = match parse_duration(&pointed) {
                Ok(_) if !self.is_hidden(text) => format!("write {pointed}"),
                _ => "write one like 100ms, 5s or 2m".to_owned(),
            };
            self.add(value.span(), what, todo);
            return default;
        };
        if !sane.contains(&duration) {
            let what = format!("{} is out of range", format_duration(duration));
            let (from, to) = (format_duration(*sane.start()), format_duration(*sane.end()));
            self.add(value.span(), what, format!("write {from} to {to}{of}"));
        }
        duration
    }

    pub(super) fn number(
        &mut self,
        value: Option<&Spanned<u32>>,
        default: u32,
        sane: RangeInclusive<u32>,
    ) -> u32 {
        self.number_of(value, default, sane, "")
    }

    fn number_of(
        &mut self,
        value: Option<&Spanned<u32>>,
        default: u32,
        sane: RangeInclusive<u32>,
        of: &str,
    ) -> u32 {
        let Some(value) = value else { return default };
        let number = *value.get_ref();
        if !sane.contains(&number) {
            let what = format!("{number} is out of range");
            let todo = format!("write {} to {}{of}", sane.start(), sane.end());
            self.add(value.span(), what, todo);
        }
        number
    }
}

/// Says what is wrong with a prefix that nearly is one, and what to write.
fn near_prefix(text: &str) -> Option<(String, String)> {
    let (address, len) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let width: u32 = if address.is_ipv4() { 32 } else { 128 };
    if let Ok(mask) = len.parse::<Ipv4Addr>() {
        let bits = mask.to_bits();
        let is_mask = bits.leading_ones() + bits.trailing_zeros() == u32::BITS;
        let what = format!("{text:?} has a mask");
        return is_mask.then(|| (what, format!("write {address}/{}", bits.leading_ones())));
    }
    let len: u32 = len.parse().ok()?;
    if len > width {
        let what = format!("{text:?} has more bits than the {width} of an address");
        return Some((what, format!("write {address}/{width}, or fewer")));
    }
    let first: IpAddr = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(width - len).unwrap_or(0);
            Ipv4Addr::from(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(width - len).unwrap_or(0);
            Ipv6Addr::from(v6.to_bits() & mask).into()
        }
    };
    (first != address && !first.is_multicast()).then(|| {
        let what = format!("{text:?} has more bits than its first {len}");
        (what, format!("write {first}/{len}, or {address} alone"))
    })
}

/// An address with leading zeros, as it is meant.
fn without_zeros(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = text.split('.').collect();
    let is_long = parts
        .iter()
        .any(|part| part.len() > 1 && part.starts_with('0'));
    let parts = parts.into_iter().map(|part| part.parse::<u8>().ok());
    let parts: Vec<u8> = parts.collect::<Option<_>>()?;
    let octets: [u8; 4] = parts.try_into().ok()?;
    is_long.then_some(octets.into())
}

/// Returns what is wrong with a text that should be an address, and what to write.
fn no_address(text: &str, usual: &str) -> (String, String) {
    if let Some((address, _)) = text.split_once('/')
        && address.parse::<IpAddr>().is_ok()
    {
        let what = format!("{text:?} is a prefix, but a single address is needed");
        return (what, format!("write {address}"));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        let what = format!("{text:?} has a port, which belongs in a key of its own");
        return (what, format!("write {}, and `port`", address.ip()));
    }
    if text.contains("://") {
        let what = format!("{text:?} is a URL, not an IP address");
        return (what, usual.to_owned());
    }
    let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
    if bare != text && bare.parse::<IpAddr>().is_ok() {
        let what = format!("{text:?} has more around it than an address");
        return (what, format!("write {bare}"));
    }
    if let Some(address) = without_zeros(text) {
        let what =
            format!("{text:?} has leading zeros, which some programs take for octal numbers");
        return (what, format!("write {address}"));
    }
    if text
        .split_once('%')
        .is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok())
    {
        let what = format!("{text:?} is an address of one link, by the name of an interface");
        return (what, "write an address that routes lead to".to_owned());
    }
    if is_name(text) {
        return name(text);
    }
    (format!("{text:?} is not an IP address"), usual.to_owned())
}

/// Returns what is wrong with a text that should be an address with a port, and what to write.
fn no_socket_address(text: &str, usual: String, examples: &str) -> (String, String) {
    // Its last group may be meant as a port.
    if let (true, Some((address, port))) = (text.parse::<Ipv6Addr>().is_ok(), text.rsplit_once(':'))
        && let (Ok(address), Ok(port)) = (address.parse::<Ipv6Addr>(), port.parse::<u16>())
    {
        let what = format!("{text:?} has no brackets, so its port cannot be told");
        return (what, format!("write [{address}]:{port}"));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let port = examples
            .split(' ')
            .next()
            .and_then(|one| one.rsplit_once(':'));
        let whole = SocketAddr::new(
            address,
            port.and_then(|(_, p)| p.parse().ok()).unwrap_or(80),
        );
        return (
            format!("{text:?} has no port"),
            format!("write one behind it, like {whole}"),
        );
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    if port.parse::<u16>().is_ok() && (host.is_empty() || host == "*") {
        let what = format!("{text:?} is a port without an address");
        return (
            what,
            format!("write 127.0.0.1:{port}, or 0.0.0.0:{port} for all addresses"),
        );
    }
    if host == "localhost" {
        let what = format!("{text:?} has a host name, but an address is needed");
        return (what, format!("write 127.0.0.1:{port}"));
    }
    if port.parse::<u16>().is_ok() && is_name(host) {
        return name(host);
    }
    let scheme = text.split_once("://").map_or(text, |(_, rest)| rest);
    let bare: String = scheme
        .trim_end_matches('/')
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect();
    if bare != text && bare.parse::<SocketAddr>().is_ok() {
        let what = format!("{text:?} has more than an address and a port");
        return (what, format!("write {bare}"));
    }
    if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() && port.parse::<u32>().is_ok() {
        let what = format!("{port} is not a port");
        return (
            what,
            format!("write {host}:7100, or another one up to 65535"),
        );
    }
    (format!("{text:?} is not an address and a port"), usual)
}

/// Returns whether it is a host name, as opposed to a misspelled address.
fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.contains(|c: char| c.is_ascii_alphabetic()) && text.chars().all(fits)
}

fn name(host: &str) -> (String, String) {
    (
        format!("{host:?} is a host name, and steer does not resolve names"),
        format!("write its address: `getent hosts {host}` prints it"),
    )
}
