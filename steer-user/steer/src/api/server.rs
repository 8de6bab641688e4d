//! Server of the API.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, Path as UrlPath, Query, State},
    http::StatusCode,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use steer_common::{
    abi::{DSCPS, Family, FlowKey},
    cid, wire,
};
use steer_core::{
    config::Protocol,
    control::{CommandError, Drain},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::oneshot,
};

use super::{
    Access, DrainRequest, ExplainQuery, Monitor, Problem, Role, SaveWarning, TuneRequest,
    WeightRequest,
    access::{self, Peer},
    config,
    listen::{self, Bodies, Local},
    openapi, packet, trace, watch,
};
use crate::{
    daemon::{Command, Commands, SettingStatus, TuneError},
    explain::{self, Question},
};

/// Maximum deadline of a drain.
const MAX_DEADLINE: Duration = Duration::from_secs(30 * 86_400);

/// Binds the socket, for root only. A socket that nobody listens on is replaced.
///
/// # Errors
///
/// Returns an error if a daemon listens there already, or the path is unusable.
pub async fn bind(path: &Path) -> Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{}: exists, and is not a socket", path.display());
        }
        Ok(_) => {
            if UnixStream::connect(path).await.is_ok() {
                bail!("{}: another daemon listens here", path.display());
            }
            fs::remove_file(path).with_context(|| format!("{}", path.display()))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("{}", path.display())),
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("{}: cannot listen here", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("{}", path.display()))?;
    Ok(listener)
}

/// Serves requests until the task is dropped.
pub async fn serve(listener: UnixListener, access: &Access, monitor: Monitor) {
    let roles = access.roles();
    listen::serve(Local { listener, roles }, routes(access, monitor)).await;
}

pub(super) fn routes(access: &Access, monitor: Monitor) -> Router {
    let role = |role| from_fn_with_state((access.roles(), role), access::require);
    let small = || from_fn_with_state(Bodies::with_limit(listen::SMALL), listen::body);
    let read = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/memory", get(memory))
        .route("/v1/explain", get(explanation))
        .route("/v1/tune", get(settings))
        .route("/v1/backends/{name}/why", get(why))
        .layer(small())
        .merge(config::reading())
        .merge(packet::explaining());
    let operate = Router::new()
        .route("/v1/backends/{name}/drain", post(drain))
        .route("/v1/backends/{name}/undrain", post(undrain))
        .route("/v1/backends/{name}/weight", post(weigh))
        .route("/v1/tune/{name}", post(tune))
        .route("/v1/trace", post(trace::trace))
        .merge(config::operating())
        .layer(small());
    Router::new()
        .merge(read.route_layer(role(Role::Read)))
        .merge(operate.route_layer(role(Role::Operate)))
        .merge(config::administering().route_layer(role(Role::Admin)))
        .with_state(monitor.commands.clone())
        .merge(watch::watching(monitor.changes.clone()).route_layer(role(Role::Read)))
        .merge(openapi::describing().route_layer(role(Role::Read)))
        .merge(monitor.clone().seeing().route_layer(role(Role::Read)))
        .merge(monitor.living())
}

/// An error with its HTTP status.
pub(super) struct ApiError(pub(super) StatusCode, pub(super) String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, Json(Problem { error: self.1 })).into_response()
    }
}

/// Sends a command to the loop, which may have ended.
pub(super) async fn call<T>(
    commands: &Commands,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, ApiError> {
    let gone = || {
        ApiError(
            StatusCode::SERVICE_UNAVAILABLE,
            "the daemon is stopping".into(),
        )
    };
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}

async fn status(State(commands): State<Commands>) -> Result<Response, ApiError> {
    let status = call(&commands, Command::Status).await?;
    let status = status
        .map_err(|error| ApiError(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))?;
    Ok(Json(status).into_response())
}

async fn memory(State(commands): State<Commands>) -> Result<Response, ApiError> {
    let memory = call(&commands, Command::Memory).await?;
    let memory = memory
        .map_err(|error| ApiError(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))?;
    Ok(Json(memory).into_response())
}

async fn explanation(
    State(commands): State<Commands>,
    Query(query): Query<ExplainQuery>,
) -> Result<Response, ApiError> {
    if query.source.is_ipv4() != query.destination.is_ipv4() {
        let text = "source and destination have different address families".to_owned();
        return Err(ApiError(StatusCode::BAD_REQUEST, text));
    }
    if usize::from(query.dscp) >= DSCPS {
        let text = format!("{} is not a DSCP; write 0 to {}", query.dscp, DSCPS - 1);
        return Err(ApiError(StatusCode::BAD_REQUEST, text));
    }
    if query.dcid.0.len() > cid::MAX_LEN {
        let text = format!("a connection id has at most {} bytes", cid::MAX_LEN);
        return Err(ApiError(StatusCode::BAD_REQUEST, text));
    }
    let key = FlowKey {
        source: query.source.ip().into(),
        destination: query.destination.ip().into(),
        source_port: query.source.port(),
        destination_port: query.destination.port(),
        protocol: query.protocol.number(),
        family: Family::of_ip(&query.source.ip()) as u8,
        member: 0,
    };
    let flags = match (query.protocol, query.open) {
        (Protocol::Udp, _) => 0,
        (Protocol::Tcp, false) => wire::SYN,
        (Protocol::Tcp, true) => wire::ACK,
    };
    let payload = match query.protocol {
        Protocol::Tcp => Vec::new(),
        Protocol::Udp => explain::quic_header(query.open, &query.dcid.0),
    };
    let question = Question {
        key,
        tcp_flags: flags,
        dscp: query.dscp,
        payload,
    };
    let explanation = call(&commands, |reply| Command::Explain(question, reply)).await?;
    Ok(Json(explanation).into_response())
}

async fn drain(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    UrlPath(name): UrlPath<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let bad = |text: String| ApiError(StatusCode::BAD_REQUEST, text);
    let request: DrainRequest = if body.is_empty() {
        DrainRequest::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?
    };
    if request.deadline.is_some_and(|d| d > MAX_DEADLINE) {
        return Err(bad(
            "the deadline is out of range; write up to 30days".into()
        ));
    }
    let until = request
        .deadline
        .map(|deadline| SystemTime::now() + deadline);
    set_drained(&commands, name, Some(Drain { until }), peer).await
}

async fn undrain(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    UrlPath(name): UrlPath<String>,
) -> Result<Response, ApiError> {
    set_drained(&commands, name, None, peer).await
}

async fn why(
    State(commands): State<Commands>,
    UrlPath(name): UrlPath<String>,
) -> Result<Response, ApiError> {
    let decisions = call(&commands, |reply| Command::Why(name, reply)).await?;
    let decisions =
        decisions.map_err(|refused| ApiError(StatusCode::NOT_FOUND, refused.to_string()))?;
    Ok(Json(decisions).into_response())
}

async fn set_drained(
    commands: &Commands,
    name: String,
    drain: Option<Drain>,
    peer: Peer,
) -> Result<Response, ApiError> {
    let drain = |reply| Command::Drain(name, drain, peer.to_string(), reply);
    said(call(commands, drain).await?)
}

async fn weigh(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    UrlPath(name): UrlPath<String>,
    Json(request): Json<WeightRequest>,
) -> Result<Response, ApiError> {
    let weigh = |reply| Command::Weigh(name, request.weight, peer.to_string(), reply);
    said(call(&commands, weigh).await?)
}

/// Returns the answer to a drain or weight, with a warning if the state directory could not store
/// it.
fn said(done: Result<Vec<String>, CommandError>) -> Result<Response, ApiError> {
    let unsaved = done.map_err(|refused| {
        let status = match refused {
            CommandError::Unknown(_) => StatusCode::NOT_FOUND,
            CommandError::Weight => StatusCode::BAD_REQUEST,
            CommandError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ApiError(status, refused.to_string())
    })?;
    Ok(if unsaved.is_empty() {
        StatusCode::NO_CONTENT.into_response()
    } else {
        let warning = Some(unsaved.join("\n"));
        Json(SaveWarning { warning }).into_response()
    })
}

async fn settings(State(commands): State<Commands>) -> Result<Json<Vec<SettingStatus>>, ApiError> {
    call(&commands, Command::Settings).await.map(Json)
}

async fn tune(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    UrlPath(name): UrlPath<String>,
    Json(request): Json<TuneRequest>,
) -> Result<Json<SettingStatus>, ApiError> {
    let tune = |reply| Command::Tune {
        name,
        value: request.value,
        by: peer.to_string(),
        reply,
    };
    let done = call(&commands, tune).await?;
    let setting = done.map_err(|error| {
        let status = match error {
            TuneError::Unknown(_) => StatusCode::NOT_FOUND,
            TuneError::Value { .. } | TuneError::Handshakes | TuneError::Band(_) => {
                StatusCode::BAD_REQUEST
            }
            TuneError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ApiError(status, error.to_string())
    })?;
    Ok(Json(setting))
}
