//! The datagrams of `steer-probe/1`.
//!
//! A ping is `"STPR"`, version (1), kind (1 = ping), two zero bytes and a 64-bit sequence number in
//! network order. A reply is the same with kind 2, followed by a length-delimited
//! [`OrcaLoadReport`] and nothing else.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::orca::{BACKEND_UP, DRAINING, OrcaLoadReport, ReportError, TROUBLE, TROUBLE_FOR};
use super::{HINT, HINT_FOR, NO_SIGNAL, NOTES, PROBE_BUDGET};

/// Length of a ping, and of the header of a reply.
pub const HEADER_LEN: usize = 16;
/// Maximum length of a datagram, whatever the path allows.
pub const MAX_DATAGRAM: usize = 1200;

const MAGIC: [u8; 4] = *b"STPR";
const VERSION: u8 = 1;
const PING: u8 = 1;
const REPLY: u8 = 2;

/// Error for an invalid datagram.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WireError {
    /// Wrong length.
    #[error(
        "datagram of {got} bytes instead of {want}; check that both sides run the same version"
    )]
    Length {
        /// Actual length.
        got: usize,
        /// Expected length.
        want: usize,
    },
    /// Longer than the maximum.
    #[error("datagram of {0} bytes; {MAX_DATAGRAM} is the limit, report fewer metrics")]
    TooLong(usize),
    /// Not a datagram of this protocol, version and kind.
    #[error(
        "datagram starts with {:016x}, not with the header of steer-probe/1; check the peer",
        u64::from_be_bytes(*.0)
    )]
    Header([u8; 8]),
    /// The report cannot be decoded.
    #[error("load report cannot be decoded: {0}; check that both sides run the same version")]
    Decode(#[from] prost::DecodeError),
    /// The report contains impossible numbers.
    #[error(transparent)]
    Report(#[from] ReportError),
}

fn header(kind: u8) -> [u8; 8] {
    let [a, b, c, d] = MAGIC;
    [a, b, c, d, VERSION, kind, 0, 0]
}

fn split(datagram: &[u8], kind: u8) -> Result<(u64, &[u8]), WireError> {
    let length = WireError::Length {
        got: datagram.len(),
        want: HEADER_LEN,
    };
    let Some((head, rest)) = datagram.split_first_chunk::<8>() else {
        return Err(length);
    };
    if *head != header(kind) {
        return Err(WireError::Header(*head));
    }
    let Some((sequence, rest)) = rest.split_first_chunk::<8>() else {
        return Err(length);
    };
    Ok((u64::from_be_bytes(*sequence), rest))
}

/// Encodes a ping.
pub fn encode_ping(sequence: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_LEN);
    out.put_slice(&header(PING));
    out.put_u64(sequence);
    out.freeze()
}

/// Decodes the sequence number of a ping.
pub fn decode_ping(datagram: &[u8]) -> Result<u64, WireError> {
    match split(datagram, PING)? {
        (sequence, []) => Ok(sequence),
        _ => Err(WireError::Length {
            got: datagram.len(),
            want: HEADER_LEN,
        }),
    }
}

/// Encodes a reply of at most `limit` bytes (and never more than [`MAX_DATAGRAM`]).
///
/// A report that is too long loses its maps, except for entries that steering depends on: whether
/// the backend is down or drains, and why there is no load.
pub fn encode_reply(
    sequence: u64,
    report: &OrcaLoadReport,
    limit: usize,
) -> Result<Bytes, WireError> {
    let limit = limit.min(MAX_DATAGRAM);
    let full = assemble(sequence, report);
    if full.len() <= limit {
        return Ok(full);
    }
    let mut short = report.clone();
    short.request_cost.clear();
    short.utilization.clear();
    let kept = [
        BACKEND_UP,
        DRAINING,
        TROUBLE,
        TROUBLE_FOR,
        NO_SIGNAL,
        HINT,
        HINT_FOR,
        NOTES,
        PROBE_BUDGET,
    ];
    short
        .named_metrics
        .retain(|key, _| kept.contains(&key.as_str()));
    let out = assemble(sequence, &short);
    if out.len() <= limit {
        Ok(out)
    } else {
        Err(WireError::TooLong(out.len()))
    }
}

fn assemble(sequence: u64, report: &OrcaLoadReport) -> Bytes {
    let mut out = BytesMut::with_capacity(MAX_DATAGRAM);
    out.put_slice(&header(REPLY));
    out.put_u64(sequence);
    out.put_slice(&report.encode_length_delimited_to_vec());
    out.freeze()
}

/// Decodes the sequence number and the report of a reply; the report's numbers are valid.
pub fn decode_reply(datagram: &[u8]) -> Result<(u64, OrcaLoadReport), WireError> {
    if datagram.len() > MAX_DATAGRAM {
        return Err(WireError::TooLong(datagram.len()));
    }
    let (sequence, mut rest) = split(datagram, REPLY)?;
    let length = prost::decode_length_delimiter(&mut rest)?;
    if length != rest.len() {
        let want = (datagram.len() - rest.len()).saturating_add(length);
        return Err(WireError::Length {
            got: datagram.len(),
            want,
        });
    }
    let report = OrcaLoadReport::decode(rest)?;
    report.validate()?;
    Ok((sequence, report))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report() -> OrcaLoadReport {
        let mut report = OrcaLoadReport {
            cpu_utilization: 0.5,
            ..Default::default()
        };
        report.named_metrics.insert(BACKEND_UP.to_owned(), 0.0);
        report
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        assert_eq!(decode_ping(&encode_ping(7)), Ok(7));
        let good = encode_reply(7, &report(), MAX_DATAGRAM).unwrap();
        assert_eq!(decode_reply(&good), Ok((7, report())));
        for cut in 0..good.len() {
            assert!(decode_reply(&good[..cut]).is_err(), "{cut}");
        }
        let mut long = good.to_vec();
        long.push(0);
        assert!(decode_reply(&long).is_err());
        assert!(decode_ping(&good).is_err());
        assert_eq!(decode_reply(&[0; 1201]), Err(WireError::TooLong(1201)));
    }

    #[test]
    fn a_long_report_is_cut_to_what_steering_needs() {
        let mut big = report();
        for i in 0..200 {
            big.named_metrics.insert(format!("metric-{i}"), 1.0);
        }
        let out = encode_reply(1, &big, MAX_DATAGRAM).unwrap();
        assert_eq!(
            decode_reply(&out).unwrap().1.failure(),
            Some(crate::probe::ProbeFailure::BackendDown)
        );
        assert!(matches!(
            encode_reply(1, &big, 20),
            Err(WireError::TooLong(_))
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..1300)) {
            let _ = decode_ping(&tail);
            let _ = decode_reply(&tail);
            let mut framed = encode_ping(1).to_vec();
            framed[5] = REPLY;
            framed.extend(tail);
            if let Ok((_, report)) = decode_reply(&framed) {
                prop_assert!(report.validate().is_ok());
            }
        }
    }
}
