//! A single request to a collector, on a connection of its own so that a collector that is gone
//! holds none, with bounds on everything the peer controls.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1,
    header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustls::{ClientConfig, crypto::ring, pki_types::ServerName};
use steer_core::config::Otlp;
use steer_probe::pki::load_roots;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    message::ExportMetricsServiceResponse,
    outcome::{Accepted, Failure},
};

/// Upper bound of the timeout; the interval if that is shorter.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Upper bound of the bytes read from an answer. A good one has a few bytes.
const MAX_ANSWER: usize = 64 << 10;
/// Upper bound of the length of a collector's message in logs.
const MAX_LOGGED_BYTES: usize = 200;
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const EXPORT_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("steer/", env!("CARGO_PKG_VERSION")));

/// Posts metrics. Dropping the future closes the connection.
pub(super) async fn send(otlp: &Otlp, body: Bytes) -> Result<Accepted, Failure> {
    let patience = TIMEOUT.min(otlp.interval);
    let answer = timeout(patience, connect(otlp, body)).await;
    answer.map_err(|_| Failure::Timeout(patience))?
}

async fn connect(otlp: &Otlp, body: Bytes) -> Result<Accepted, Failure> {
    let tls = otlp.ca.as_ref().map(|ca| {
        // Read for each request, because files are renewed.
        let roots = load_roots(ca).map_err(|e| Failure::Local(e.to_string()))?;
        let name = ServerName::try_from(otlp.host.clone());
        let name = name.map_err(|e| Failure::Local(e.to_string()))?;
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .map_err(|e| Failure::Local(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok((TlsConnector::from(Arc::new(tls)), name))
    });
    let tls = tls.transpose()?;
    let stream = TcpStream::connect((&*otlp.host, otlp.port)).await;
    let stream = stream.map_err(|e| Failure::Unreachable(e.to_string()))?;
    match tls {
        None => post(stream, otlp, body).await,
        Some((tls, name)) => {
            let stream = tls.connect(name, stream).await;
            let stream = stream.map_err(|e| Failure::Tls(e.to_string()))?;
            post(stream, otlp, body).await
        }
    }
}

async fn post(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    otlp: &Otlp,
    body: Bytes,
) -> Result<Accepted, Failure> {
    let broken = |e: hyper::Error| {
        if e.is_parse() {
            Failure::Malformed(e.to_string())
        } else {
            Failure::Unreachable(e.to_string())
        }
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let exchange = async {
        let request = Request::post(&otlp.path)
            .header(HOST, otlp.authority())
            .header(CONTENT_TYPE, PROTOBUF)
            .header(USER_AGENT, EXPORT_AGENT)
            .header(CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|e| Failure::Local(e.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        classify_response(response).await
    };
    tokio::pin!(exchange);
    // Both run in this task, so that the connection ends with the wait for it.
    tokio::select! {
        biased;
        outcome = &mut exchange => outcome,
        // The exchange reports how the connection ended.
        _ = connection => exchange.await,
    }
}

async fn classify_response(response: Response<Incoming>) -> Result<Accepted, Failure> {
    let (head, body) = response.into_parts();
    if !head.status.is_success() {
        return Err(Failure::Status {
            code: head.status.as_u16(),
            retry_after: retry_after(&head.headers, SystemTime::now()),
        });
    }
    let body = match Limited::new(body, MAX_ANSWER).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let what = format!("it has more than {MAX_ANSWER} bytes");
            return Err(Failure::Malformed(what));
        }
        Err(error) => return Err(Failure::Malformed(error.to_string())),
    };
    Ok(accepted(&body))
}

/// Parses an answer of success. It may be empty, and some collectors write JSON.
fn accepted(body: &[u8]) -> Accepted {
    let answer = ExportMetricsServiceResponse::decode(body).unwrap_or_default();
    match answer.partial_success {
        Some(partial) if partial.rejected_data_points > 0 => Accepted::Partly {
            rejected: partial.rejected_data_points,
            why: partial
                .error_message
                .chars()
                .take(MAX_LOGGED_BYTES)
                .collect(),
        },
        _ => Accepted::Whole,
    }
}

/// Parses `Retry-After`: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(now).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::message::ExportMetricsPartialSuccess;

    #[test]
    fn answers_of_success_are_read_and_bounded() {
        assert_eq!(accepted(b""), Accepted::Whole);
        assert_eq!(accepted(b"{\"partialSuccess\":{}}"), Accepted::Whole);
        let answer = |rejected_data_points| {
            let answer = ExportMetricsServiceResponse {
                partial_success: Some(ExportMetricsPartialSuccess {
                    rejected_data_points,
                    error_message: "no".repeat(1_000),
                }),
            };
            accepted(&answer.encode_to_vec())
        };
        // With no rejected points it is only a warning.
        assert_eq!(answer(0), Accepted::Whole);
        let Accepted::Partly { rejected, why } = answer(3) else {
            panic!("all of it");
        };
        assert_eq!((rejected, why.len()), (3, MAX_LOGGED_BYTES));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (text, seconds) in [
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", None),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "{text}");
        }
    }
}
