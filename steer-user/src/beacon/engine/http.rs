//! A small HTTP client towards the engine: one connection, kept open, and bounded answers.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{SendRequest, handshake},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    #[error("no answer: {0}")]
    Broken(hyper::Error),
    #[error("the answer is cut off: {0}")]
    Cut(Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer has more than {0} bytes")]
    TooLong(usize),
}

#[derive(Debug)]
pub(super) struct Client {
    address: SocketAddr,
    key: Option<HeaderValue>,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// One that asks at `address`, with a bearer token if there is a key.
    pub(super) fn new(address: SocketAddr, key: Option<HeaderValue>) -> Self {
        Self {
            address,
            key,
            open: None,
        }
    }

    /// Posts `body` as JSON, or gets without one. If this is cancelled the next one connects anew.
    pub(super) async fn ask(
        &mut self,
        path: &str,
        body: Option<String>,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let held = self.open.take().filter(|sender| !sender.is_closed());
        if let Some(mut sender) = held {
            match self.send(&mut sender, path, body.clone(), limit).await {
                // Closed in the meantime; that says nothing of the engine.
                Err(HttpError::Broken(e)) if e.is_canceled() || e.is_incomplete_message() => {}
                answer => {
                    self.open = answer.is_ok().then_some(sender);
                    return answer;
                }
            }
        }
        let stream = TcpStream::connect(self.address).await;
        let io = TokioIo::new(stream.map_err(HttpError::Connect)?);
        let (mut sender, connection) = handshake(io).await.map_err(HttpError::Broken)?;
        // It ends with its sender, and reports to it.
        tokio::spawn(async move { drop(connection.await) });
        let answer = self.send(&mut sender, path, body, limit).await;
        self.open = answer.is_ok().then_some(sender);
        answer
    }

    async fn send(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        path: &str,
        body: Option<String>,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        sender.ready().await.map_err(HttpError::Broken)?;
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::from_str(&self.address.to_string()) {
            headers.insert(HOST, host);
        }
        if let Some(key) = &self.key {
            headers.insert(AUTHORIZATION, key.clone());
        }
        if let Some(body) = body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.method_mut() = hyper::Method::POST;
            *request.body_mut() = Full::new(body.into());
        } else {
            let plain = "text/plain;version=0.0.4, application/json;q=0.5, */*;q=0.1";
            headers.insert(ACCEPT, HeaderValue::from_static(plain));
        }
        let response = sender.send_request(request).await;
        let (head, body) = response.map_err(HttpError::Broken)?.into_parts();
        match Limited::new(body, limit).collect().await {
            Ok(body) => Ok((head.status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(HttpError::TooLong(limit)),
            Err(error) => Err(HttpError::Cut(error)),
        }
    }
}
