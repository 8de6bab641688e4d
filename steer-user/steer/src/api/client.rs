//! Client of the API.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use steer_core::{
    config::Document,
    control::{Decision, Status},
    generations::{Generation, History},
};
use steer_dataplane::MapMemory;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};

use super::{
    ApplyAnswer, ApplyRequest, Confirmed, DrainRequest, ExplainQuery, Problem, RollbackRequest,
    SaveWarning, TuneRequest, WeightRequest, dial::Remote,
};
use crate::{
    daemon::{Applied, Diff, SettingStatus},
    explain::Explanation,
};

/// Reason for a failed request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon listens.
    #[error("{}: no daemon answers here; `steer run` starts one, as root", path.display())]
    Unreachable {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The socket exists, but this user may not connect.
    #[error(
        "{}: permission denied; run this as root, or ask for a role in [api] of the configuration",
        path.display()
    )]
    Denied {
        /// Path of the socket.
        path: PathBuf,
    },
    /// The TLS peer is not the expected one, or does not accept our certificate.
    #[error("{url}: {reason}; see --api-ca, --api-cert and --api-key")]
    Untrusted {
        /// URL of the daemon.
        url: String,
        /// Reason.
        reason: String,
    },
    /// The daemon refused the request.
    #[error("{0}")]
    Refused(String),
    /// The configuration is invalid: one line per problem, with file and line.
    #[error("{0}")]
    Config(String),
    /// The answer is invalid.
    #[error("the daemon's answer is invalid ({0}); check that both have the same version")]
    Malformed(String),
}

/// A client of the daemon, over a Unix socket or TCP.
#[derive(Clone, Debug)]
pub struct Client(At);

#[derive(Clone, Debug)]
enum At {
    Socket(PathBuf),
    Remote(Remote),
}

impl Client {
    /// Creates a client that connects to a Unix socket for each request.
    pub fn new(socket: &Path) -> Self {
        Self(At::Socket(socket.to_owned()))
    }

    /// Creates a client that connects over TCP for each request.
    pub fn remote(remote: Remote) -> Self {
        Self(At::Remote(remote))
    }

    /// Returns the status.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Returns the memory of each map.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn memory(&self) -> Result<Vec<MapMemory>, ClientError> {
        self.get("/v1/memory").await
    }

    /// Explains the decision for a flow.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn explain(&self, query: &ExplainQuery) -> Result<Explanation, ClientError> {
        let path = format!(
            "/v1/explain?protocol={}&source={}&destination={}&open={}&dscp={}&dcid={}",
            query.protocol.as_str(),
            query
                .source
                .to_string()
                .replace('[', "%5B")
                .replace(']', "%5D"),
            query
                .destination
                .to_string()
                .replace('[', "%5B")
                .replace(']', "%5D"),
            query.open,
            query.dscp,
            query.dcid,
        );
        self.get(&path).await
    }

    /// Returns the last decisions about a backend, oldest first.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn why(&self, backend: &str) -> Result<Vec<Decision>, ClientError> {
        self.get(&format!("/v1/backends/{backend}/why")).await
    }

    /// Drains a backend.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn drain(
        &self,
        backend: &str,
        request: &DrainRequest,
    ) -> Result<SaveWarning, ClientError> {
        self.send_command(&format!("/v1/backends/{backend}/drain"), request)
            .await
    }

    /// Ends the drain of a backend.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn undrain(&self, backend: &str) -> Result<SaveWarning, ClientError> {
        self.send_command(&format!("/v1/backends/{backend}/undrain"), &())
            .await
    }

    /// Sets the weight of a backend in place of its capacity, or removes it.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn weigh(
        &self,
        backend: &str,
        request: &WeightRequest,
    ) -> Result<SaveWarning, ClientError> {
        self.send_command(&format!("/v1/backends/{backend}/weight"), request)
            .await
    }

    /// Returns the tunable settings of the running daemon.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn settings(&self) -> Result<Vec<SettingStatus>, ClientError> {
        self.get("/v1/tune").await
    }

    /// Changes a setting of the running daemon; without a value, resets it to its default.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn tune(
        &self,
        name: &str,
        value: Option<String>,
    ) -> Result<SettingStatus, ClientError> {
        let request = TuneRequest { value };
        self.post(&format!("/v1/tune/{name}"), &request).await
    }

    /// Calls `show` with each line of changes, until the daemon ends the stream.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn watch(&self, mut show: impl FnMut(&str)) -> Result<(), ClientError> {
        let mut body = self.request(Method::GET, "/v1/watch", Bytes::new()).await?;
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            // A killed daemon ends the stream in the middle of a chunk.
            let Ok(frame) = frame else { break };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                show(String::from_utf8_lossy(&line).trim_end());
            }
        }
        Ok(())
    }

    /// Returns the changes that another configuration would make.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn diff(&self, document: &Document) -> Result<Diff, ClientError> {
        self.post("/v1/config/diff", document).await
    }

    /// Applies a configuration.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn apply(&self, request: &ApplyRequest) -> Result<ApplyAnswer, ClientError> {
        self.post("/v1/config/apply", request).await
    }

    /// Confirms the pending generation.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn confirm(&self) -> Result<Confirmed, ClientError> {
        self.post("/v1/config/confirm", &()).await
    }

    /// Rolls back to a generation.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn rollback(&self, request: &RollbackRequest) -> Result<Applied, ClientError> {
        self.post("/v1/config/rollback", request).await
    }

    /// Returns the stored generations.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn history(&self) -> Result<History, ClientError> {
        self.get("/v1/config/history").await
    }

    /// Returns a generation; without a number, the one in use.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn generation(&self, number: Option<u64>) -> Result<Generation, ClientError> {
        let number = number.map_or("current".to_owned(), |number| number.to_string());
        self.get(&format!("/v1/config/generations/{number}")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.send(Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Malformed(error.to_string()))
    }

    pub(super) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let refused = |error: serde_json::Error| ClientError::Refused(error.to_string());
        let body = serde_json::to_vec(body).map_err(refused)?;
        let body = self.send(Method::POST, path, body.into()).await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Malformed(error.to_string()))
    }

    /// Sends a command, whose answer is usually empty.
    async fn send_command(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<SaveWarning, ClientError> {
        let refused = |error: serde_json::Error| ClientError::Refused(error.to_string());
        let body = serde_json::to_vec(body).map_err(refused)?;
        let answer = self.send(Method::POST, path, body.into()).await?;
        if answer.is_empty() {
            return Ok(SaveWarning::default());
        }
        serde_json::from_slice(&answer).map_err(|error| ClientError::Malformed(error.to_string()))
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let malformed = |error: hyper::Error| ClientError::Malformed(error.to_string());
        let body = self.request(method, path, body).await?;
        Ok(body.collect().await.map_err(malformed)?.to_bytes())
    }

    /// Sends a request, and returns the body of a successful answer.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Incoming, ClientError> {
        let malformed = |error: hyper::Error| ClientError::Malformed(error.to_string());
        let malformed = |error: hyper::Error| match &self.0 {
            // The server's verdict about our certificate arrives only now.
            At::Remote(remote) => remote.untrusted(&error),
            At::Socket(_) => malformed(error),
        };
        let stream: Box<dyn Stream> = match &self.0 {
            At::Socket(path) => Box::new(socket(path).await?),
            At::Remote(remote) => Box::new(remote.connect().await?),
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(malformed)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "steer")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Refused(format!("{path}: {error}")))?;
        let response = sender.send_request(request).await.map_err(malformed)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = response.into_body().collect().await.map_err(malformed)?;
        let body = body.to_bytes();
        let problem: Result<Problem, _> = serde_json::from_slice(&body);
        Err(match problem {
            Ok(problem) if status == StatusCode::UNPROCESSABLE_ENTITY => {
                ClientError::Config(problem.error)
            }
            Ok(problem) => ClientError::Refused(problem.error),
            Err(_) if status == StatusCode::NOT_FOUND => {
                ClientError::Malformed(format!("it has no route {path}"))
            }
            Err(_) => ClientError::Refused(String::from_utf8_lossy(&body).into_owned()),
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn socket(path: &Path) -> Result<UnixStream, ClientError> {
    UnixStream::connect(path).await.map_err(|source| {
        let path = path.to_owned();
        match source.kind() {
            std::io::ErrorKind::PermissionDenied => ClientError::Denied { path },
            _ => ClientError::Unreachable { path, source },
        }
    })
}
