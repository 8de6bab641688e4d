//! A small HTTP client for the engine: one persistent connection, and bounded answers.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{SendRequest, handshake},
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue,
        LOCATION, RETRY_AFTER, TRANSFER_ENCODING,
    },
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Reason for a missing answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    #[error("no answer: {0}")]
    Broken(hyper::Error),
    #[error("the answer is incomplete: {0}")]
    Cut(hyper::Error),
    #[error("the answer has more than {0} bytes")]
    TooLong(usize),
}

/// An answer of the engine.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: StatusCode,
    /// Whether the answer has a `Retry-After` header.
    pub(super) retry_after: bool,
    /// Target of a redirect.
    pub(super) location: Option<String>,
    /// True if its head or its framing says where its body ends, so that it is whole.
    pub(super) is_framed: bool,
    /// Body.
    pub(super) body: Bytes,
}

/// Progress of a client, visible while it waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Reached {
    answered: Arc<AtomicBool>,
    body: Arc<AtomicBool>,
}

impl Reached {
    /// Returns whether any request has received at least the head of an answer.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Returns whether a part of the body of a successful answer to the last request has arrived.
    pub(super) fn has_body(&self) -> bool {
        self.body.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(super) struct Client {
    address: SocketAddr,
    key: Option<HeaderValue>,
    open: Option<SendRequest<Full<Bytes>>>,
    reached: Reached,
}

impl Client {
    /// Creates a client for `address`, with a bearer token if there is a key.
    pub(super) fn new(address: SocketAddr, key: Option<HeaderValue>) -> Self {
        Self {
            address,
            key,
            open: None,
            reached: Reached::default(),
        }
    }

    /// Returns a handle of its progress, usable while it waits.
    pub(super) fn reached(&self) -> Reached {
        self.reached.clone()
    }

    /// Posts `body` as JSON, or sends a GET without one. After cancellation the next request uses a
    /// new connection.
    pub(super) async fn request(
        &mut self,
        path: &str,
        body: Option<String>,
        limit: usize,
    ) -> Result<Answer, HttpError> {
        let held = self.open.take().filter(|sender| !sender.is_closed());
        if let Some(mut sender) = held {
            match self.send(&mut sender, path, body.clone(), limit).await {
                // The server closed the connection in the meantime, which says nothing about the
                // engine.
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
        // The task ends with its sender, and reports to it.
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
    ) -> Result<Answer, HttpError> {
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
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        self.reached.body.store(false, Ordering::Relaxed);
        let response = sender.send_request(request).await;
        let (head, mut body) = response.map_err(HttpError::Broken)?.into_parts();
        self.reached.answered.store(true, Ordering::Relaxed);
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(HttpError::Cut)?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            if whole.len() + data.len() > limit {
                return Err(HttpError::TooLong(limit));
            }
            whole.extend_from_slice(data);
            let has_body = head.status.is_success() && !whole.is_empty();
            self.reached.body.store(has_body, Ordering::Relaxed);
        }
        let framing = [CONTENT_LENGTH, TRANSFER_ENCODING];
        let location = head.headers.get(LOCATION);
        Ok(Answer {
            status: head.status,
            location: location.and_then(|to| to.to_str().ok()).map(str::to_owned),
            is_framed: framing.iter().any(|name| head.headers.contains_key(name)),
            retry_after: head.headers.contains_key(RETRY_AFTER),
            body: whole.freeze(),
        })
    }
}
