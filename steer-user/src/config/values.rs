//! Values that several sections have.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::raw::Text;
use super::report::Report;
use super::spanned::Spanned;
use humantime_serde::re::humantime::{format_duration, parse_duration};

impl Report<'_> {
    /// An address that packets can have as source or destination.
    pub(super) fn address(&mut self, value: &Text) -> Option<IpAddr> {
        let todo = "write one like 192.0.2.1 or 2001:db8::1";
        let address: IpAddr = self.parse(value, "an IP address", todo)?;
        if address.is_unspecified() || address.is_multicast() || address.to_canonical() != address {
            let what = format!("{address} is not a unicast address");
            self.add(value.span(), what, todo);
            return None;
        }
        Some(address)
    }

    /// An address with the number of bits that count; all without a number.
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
            let what = format!("{:?} is not a unicast address or prefix", value.get_ref());
            self.add(value.span(), what, todo);
        }
        parsed
    }

    pub(super) fn path(&mut self, value: Option<Text>, default: &str) -> PathBuf {
        let Some(value) = value else {
            return default.into();
        };
        let path = PathBuf::from(value.get_ref());
        // A key in the place of its path would be told wherever the path is.
        if value.get_ref().contains('\n') || value.get_ref().contains("-----BEGIN") {
            let what = "this is what is in a file, and not its path";
            self.add(value.span(), what, format!("write one like {default}"));
            return path;
        }
        if !path.is_absolute() {
            let what = format!("{:?} is not an absolute path", value.get_ref());
            self.add(value.span(), what, format!("write one like {default}"));
        }
        path
    }

    pub(super) fn duration(
        &mut self,
        value: Option<&Text>,
        default: Duration,
        sane: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(value) = value else { return default };
        let Ok(duration) = parse_duration(value.get_ref()) else {
            let what = format!("{:?} is not a duration", value.get_ref());
            self.add(value.span(), what, "write one like 100ms, 5s or 2m");
            return default;
        };
        if !sane.contains(&duration) {
            let what = format!("{} is out of range", format_duration(duration));
            let (from, to) = (format_duration(*sane.start()), format_duration(*sane.end()));
            self.add(value.span(), what, format!("write {from} to {to}"));
        }
        duration
    }

    pub(super) fn number(
        &mut self,
        value: Option<&Spanned<u32>>,
        default: u32,
        sane: RangeInclusive<u32>,
    ) -> u32 {
        let Some(value) = value else { return default };
        let number = *value.get_ref();
        if !sane.contains(&number) {
            let what = format!("{number} is out of range");
            let todo = format!("write {} to {}", sane.start(), sane.end());
            self.add(value.span(), what, todo);
        }
        number
    }
}
