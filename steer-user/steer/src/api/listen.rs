//! HTTP server loop with bounds that keep slow, huge and hostile clients cheap.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, info, warn};

use super::{
    access::{Peer, Roles},
    quota::{ConnectionPermit, ConnectionQuota, Holder},
    server::ApiError,
};

/// Time from connecting, or from the last answer, to the end of the next request's header.
const HEADER: Duration = Duration::from_secs(10);
/// Time from the end of the header to the end of the body.
const BODY: Duration = Duration::from_secs(30);
/// Time for which a client may read nothing of an answer.
const STALL: Duration = Duration::from_secs(30);
/// Maximum size of a request's line and headers together.
const HEADER_BYTES: usize = 32 << 10;
/// Maximum number of bodies above [`SMALL`] received concurrently.
const LARGE_BODIES: usize = 2;
/// Size up to which bodies count as small; most requests have none, or a few words.
pub(super) const SMALL: usize = 64 << 10;
/// Pause after a failure to accept, such as too many open files.
const RETRY: Duration = Duration::from_millis(200);

/// A source of connections.
pub(super) trait Listen: Send + Sync + 'static {
    /// Type of an accepted connection.
    type Raw: Send + 'static;
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    type Peer: Clone + Send + Sync + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Raw>> + Send;

    /// Returns the peer that the connection counts for.
    fn holder(&self, raw: &Self::Raw) -> Holder;

    /// Performs the initial handshake, at the peer's pace.
    fn handshake(
        raw: Self::Raw,
    ) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;
}

/// The Unix socket, with the roles of its users.
pub(super) struct Local {
    pub(super) listener: UnixListener,
    pub(super) roles: watch::Receiver<Roles>,
}

impl Listen for Local {
    type Raw = (UnixStream, Peer);
    type Stream = UnixStream;
    type Peer = Peer;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        let peer = Peer::from_stream(&stream);
        Ok((stream, peer))
    }

    fn holder(&self, (_, peer): &Self::Raw) -> Holder {
        let has_role = self.roles.borrow().role_of(peer).is_some();
        match peer.uid() {
            _ if peer.is_root() => Holder::Root,
            Some(uid) if has_role => Holder::User(uid),
            uid => Holder::Stranger(uid),
        }
    }

    async fn handshake(raw: Self::Raw) -> io::Result<(UnixStream, Peer)> {
        Ok(raw)
    }
}

impl Listen for TcpListener {
    type Raw = (TcpStream, SocketAddr);
    type Stream = TcpStream;
    type Peer = ();

    async fn accept(&self) -> io::Result<Self::Raw> {
        Self::accept(self).await
    }

    fn holder(&self, (_, from): &Self::Raw) -> Holder {
        address(*from)
    }

    async fn handshake((stream, _): Self::Raw) -> io::Result<(TcpStream, ())> {
        Ok((stream, ()))
    }
}

/// Returns the holder of a TCP connection.
pub(super) fn address(from: SocketAddr) -> Holder {
    Holder::Address(match from.ip().to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    })
}

/// Serves `routes` until the task is dropped.
pub(super) async fn serve<L: Listen>(listener: L, routes: Router) -> Infallible {
    let quota = ConnectionQuota::default();
    let mut failures = 0_u64;
    loop {
        let raw = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Usually too many open files: logged once, however long it lasts.
                if failures == 0 {
                    warn!(%error, "connections to the API are not accepted");
                }
                failures += 1;
                sleep(RETRY).await;
                continue;
            }
        };
        if std::mem::take(&mut failures) > 0 {
            info!("connections to the API are accepted again");
        }
        let holder = listener.holder(&raw);
        let Some(place) = quota.admit(holder) else {
            debug!(%holder, "connection to the API closed: its peer has too many");
            continue;
        };
        let routes = routes.clone();
        tokio::spawn(async move {
            match timeout(HEADER, L::handshake(raw)).await {
                Ok(Ok((stream, peer))) => connection(stream, peer, routes, place).await,
                Ok(Err(error)) => debug!(%error, "a connection to the API failed to start"),
                Err(_) => debug!("a connection to the API took too long to start"),
            }
        });
    }
}

async fn connection<S, P>(stream: S, peer: P, routes: Router, place: ConnectionPermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Clone + Send + Sync + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALL));
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer.clone()));
        let routes = routes.clone();
        async move {
            let answer = tower_call(routes, request.map(Body::new)).await;
            Ok::<_, Infallible>(answer)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection to the API ended");
    }
    drop(place);
}

async fn tower_call(mut routes: Router, request: Request) -> Response {
    use tower_service::Service as _;
    match routes.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Limits for reading bodies.
#[derive(Clone, Debug)]
pub(super) struct Bodies {
    bytes: usize,
    large: Arc<Semaphore>,
}

impl Bodies {
    pub(super) fn with_limit(bytes: usize) -> Self {
        Self {
            bytes,
            large: Arc::new(Semaphore::new(LARGE_BODIES)),
        }
    }
}

/// Middleware that reads a request's body before it is processed.
pub(super) async fn body(State(bodies): State<Bodies>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let _place = if bodies.bytes > SMALL {
        bodies.large.acquire().await.ok()
    } else {
        None
    };
    let taken = match timeout(BODY, to_bytes(body, bodies.bytes)).await {
        Ok(Ok(taken)) => taken,
        Ok(Err(error)) if is_too_long(&error) => {
            let text = format!("the request's body has more than {} bytes", bodies.bytes);
            return ApiError(StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
        }
        Ok(Err(error)) => {
            let text = format!("the request's body cannot be read: {error}");
            return ApiError(StatusCode::BAD_REQUEST, text).into_response();
        }
        Err(_) => {
            let text = format!("the request's body did not arrive within {BODY:?}");
            return ApiError(StatusCode::REQUEST_TIMEOUT, text).into_response();
        }
    };
    next.run(Request::from_parts(parts, Body::from(taken)))
        .await
}

/// Returns whether a body is too long, as opposed to unreadable.
fn is_too_long(error: &axum::Error) -> bool {
    let mut cause = Some(error as &dyn std::error::Error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use axum::{middleware::from_fn_with_state, routing::post};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::Instant,
    };

    use super::*;

    /// Starts a server that answers with the length of bodies.
    async fn server() -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route(
                "/len",
                post(|body: String| async move { body.len().to_string() }),
            )
            .layer(from_fn_with_state(Bodies::with_limit(SMALL), body));
        tokio::spawn(serve(listener, routes));
        address
    }

    /// Returns the answer of a server to some bytes, up to the end of the connection.
    async fn says(address: std::net::SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        String::from_utf8_lossy(&said).into_owned()
    }

    fn request(length: usize, body: &str) -> Vec<u8> {
        format!(
            "POST /len HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_and_the_server_goes_on() {
        let address = server().await;
        let said = says(address, &request(SMALL + 1, &"x".repeat(SMALL + 1))).await;
        assert!(said.starts_with("HTTP/1.1 413"), "{said}");
        let mut long = b"POST /len HTTP/1.1\r\nhost: x\r\nx-long: ".to_vec();
        long.extend(vec![b'x'; 2 * HEADER_BYTES]);
        let said = says(address, &long).await;
        assert!(said.starts_with("HTTP/1.1 431"), "{said}");
        let said = says(address, b"\x16\x03\x01 this is no HTTP\r\n\r\n").await;
        assert!(said.starts_with("HTTP/1.1 400"), "{said}");
        let said = says(address, &request(SMALL, &"x".repeat(SMALL))).await;
        assert!(said.ends_with("\r\n\r\n65536"), "{said}");
    }

    /// Checks that slow clients are disconnected. The clock advances whenever everything waits for
    /// it.
    #[tokio::test(start_paused = true)]
    async fn who_is_slow_is_left() {
        let address = server().await;
        for (bytes, limit, wanted) in [
            (&b""[..], HEADER, ""),
            (b"POST /len HTTP/1.1\r\nhost", HEADER, ""),
            (&request(10, "12345"), BODY, "HTTP/1.1 408"),
        ] {
            let begun = Instant::now();
            let said = says(address, bytes).await;
            assert!(said.starts_with(wanted), "{said}");
            assert_eq!(wanted.is_empty(), said.is_empty(), "{said}");
            let took = begun.elapsed();
            assert!(took >= limit && took < 2 * limit, "{took:?}");
        }
    }

    #[tokio::test]
    async fn malformed_chunks_are_refused_at_once() {
        let address = server().await;
        let head = "POST /len HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        for (body, wanted) in [
            ("zz\r\nab\r\n0\r\n\r\n", "HTTP/1.1 400"),
            ("-1\r\nab\r\n0\r\n\r\n", "HTTP/1.1 400"),
            ("2\r\nabcd\r\n0\r\n\r\n", "HTTP/1.1 400"),
            ("fffffffffffffffff\r\nab\r\n0\r\n\r\n", "HTTP/1.1 400"),
            ("2\r\nab\r\n0\r\n\r\n", "HTTP/1.1 200"),
        ] {
            let said = says(address, format!("{head}{body}").as_bytes()).await;
            assert!(said.starts_with(wanted), "{body:?}: {said}");
        }
    }

    /// Sends a message when dropped.
    struct Guard(tokio::sync::mpsc::UnboundedSender<&'static str>);

    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.send("dropped");
        }
    }

    /// Checks that the work for a client ends with its connection.
    #[tokio::test]
    async fn a_request_ends_with_its_client() {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wait = move |_: String| {
            let guard = Guard(tell.clone());
            let _ = guard.0.send("begun");
            async move {
                std::future::pending::<()>().await;
                drop(guard);
            }
        };
        tokio::spawn(serve(listener, Router::new().route("/len", post(wait))));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&request(2, "ab")).await.unwrap();
        assert_eq!(told.recv().await, Some("begun"));
        drop(stream);
        assert_eq!(told.recv().await, Some("dropped"));
    }

    #[tokio::test]
    async fn so_many_connections_are_served_at_a_time_and_then_others_again() {
        let address = server().await;
        let mut idle = Vec::new();
        // The limit of one address.
        for _ in 0..48 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&request(1, "")).await.unwrap();
            idle.push(stream);
        }
        // The earlier ones are accepted in order.
        assert_eq!(says(address, &request(2, "ab")).await, "");
        idle.truncate(24);
        let end = Instant::now() + Duration::from_secs(10);
        while !says(address, &request(2, "ab")).await.ends_with("\r\n2") {
            assert!(Instant::now() < end, "no place came free");
            sleep(Duration::from_millis(5)).await;
        }
    }
}
