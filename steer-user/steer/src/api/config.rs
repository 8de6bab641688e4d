//! Routes that change the configuration.

use std::time::Duration;

use axum::{
    Extension, Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Path as UrlPath, State},
    http::StatusCode,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use steer_core::{
    config::{ConfigError, Document},
    generations::{Generation, History, StateError},
};

use super::{
    Role,
    access::Peer,
    listen::{self, Bodies},
    server::{ApiError, call},
    work::{Cancellation, WorkSlot},
};
use crate::daemon::{
    Applied, ApplyError, Command, Commands, Configure, Diff, Prepared, ReadOptions, Reply,
    RunningConfig,
};

/// Upper bound of a document's size.
const MAX_BODY: usize = 32 << 20;
const MIN_WINDOW: Duration = Duration::from_secs(1);
const MAX_WINDOW: Duration = Duration::from_secs(86_400);

/// Request to apply a configuration.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// Configuration with variables unexpanded; the daemon expands them.
    pub document: Document,
    /// Confirm window, after which an unconfirmed configuration is reverted; 1 s to one day.
    #[serde(default, with = "humantime_serde")]
    #[schemars(with = "Option<String>")]
    pub confirm_within: Option<Duration>,
}

/// Answer to an apply.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ApplyAnswer {
    /// Applied generation.
    #[serde(flatten)]
    pub applied: Applied,
    /// Changes found before it was applied.
    pub diff: Diff,
}

/// Request to roll back.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Generation; the previous one by default.
    #[serde(default)]
    pub generation: Option<u64>,
}

/// Answer to a confirmation.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Confirmed {
    /// Confirmed generation.
    pub generation: u64,
}

pub(super) fn reading() -> Router<Commands> {
    Router::new()
        .route("/v1/config/history", get(history))
        .route("/v1/config/generations/current", get(current))
        .route("/v1/config/generations/{number}", get(generation))
        .route("/v1/config/diff", post(diff))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(
            Bodies::with_limit(MAX_BODY),
            listen::body,
        ))
}

pub(super) fn operating() -> Router<Commands> {
    Router::new()
        .route("/v1/config/confirm", post(confirm))
        .route("/v1/config/rollback", post(rollback))
}

pub(super) fn administering() -> Router<Commands> {
    Router::new()
        .route("/v1/config/apply", post(apply))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(
            Bodies::with_limit(MAX_BODY),
            listen::body,
        ))
}

async fn configure<T>(
    commands: &Commands,
    configure: impl FnOnce(Reply<T>) -> Configure,
) -> Result<T, ApiError> {
    let done = call(commands, |reply| Command::Configure(configure(reply))).await?;
    done.map_err(|error| ApiError(status(&error), error.to_string()))
}

fn status(error: &ApplyError) -> StatusCode {
    match error {
        ApplyError::Invalid(ConfigError::Invalid { .. } | ConfigError::Read { .. }) => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        ApplyError::Invalid(ConfigError::Stopped) => StatusCode::SERVICE_UNAVAILABLE,
        ApplyError::Variables(_) | ApplyError::ForeignFile(_) => StatusCode::FORBIDDEN,
        ApplyError::State(StateError::Unknown(_)) => StatusCode::NOT_FOUND,
        ApplyError::State(
            StateError::Io { .. } | StateError::Damaged { .. } | StateError::Lost(_),
        ) => StatusCode::INSUFFICIENT_STORAGE,
        ApplyError::Trial { .. }
        | ApplyError::NoTrial
        | ApplyError::Current(_)
        | ApplyError::Oldest
        | ApplyError::Changed
        | ApplyError::FlowSeed
        | ApplyError::NoGeneration
        | ApplyError::Fixed { .. }
        | ApplyError::TooSmall { .. } => StatusCode::CONFLICT,
        ApplyError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn running_config(commands: &Commands) -> Result<RunningConfig, ApiError> {
    call(commands, |reply| {
        Command::Configure(Configure::RunningConfig(reply))
    })
    .await
}

/// Runs long work outside the loop.
async fn work<T: Send + 'static>(
    slot: &WorkSlot,
    work: impl FnOnce(&Cancellation) -> Result<T, ApplyError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = slot.work(work).await?;
    done.map_err(|error| ApiError(status(&error), error.to_string()))
}

async fn history(State(commands): State<Commands>) -> Result<Json<History>, ApiError> {
    let slot = WorkSlot::for_history().await?;
    let running = running_config(&commands).await?;
    work(&slot, move |_| running.history()).await.map(Json)
}

async fn current(commands: State<Commands>) -> Result<Json<Generation>, ApiError> {
    show(commands, None).await
}

async fn generation(
    commands: State<Commands>,
    UrlPath(number): UrlPath<u64>,
) -> Result<Json<Generation>, ApiError> {
    show(commands, Some(number)).await
}

async fn show(
    State(commands): State<Commands>,
    number: Option<u64>,
) -> Result<Json<Generation>, ApiError> {
    let slot = WorkSlot::for_history().await?;
    let running = running_config(&commands).await?;
    let found = work(&slot, move |_| running.generation(number)).await?;
    Ok(Json(found))
}

/// Reads a document, and computes the changes it would make.
async fn compare(
    commands: &Commands,
    slot: &WorkSlot,
    role: Role,
    document: Document,
) -> Result<(Box<Prepared>, Diff), ApiError> {
    let running = running_config(commands).await?;
    let prepare = move |stop: &Cancellation| {
        running.prepare(
            document,
            ReadOptions {
                may_expand: role == Role::Admin,
                stop: &|| stop.is_cancelled(),
            },
        )
    };
    let prepared = Box::new(work(slot, prepare).await?);
    let command = |reply| Command::Configure(Configure::DryRun(reply));
    let dry_run = call(commands, command).await?;
    let diff = move |stop: &Cancellation| {
        let diff = prepared.diff(&dry_run, &|| stop.is_cancelled())?;
        Ok((prepared, diff))
    };
    work(slot, diff).await
}

async fn diff(
    State(commands): State<Commands>,
    Extension(role): Extension<Role>,
    Json(document): Json<Document>,
) -> Result<Json<Diff>, ApiError> {
    let slot = WorkSlot::acquire(role).await?;
    let (_, diff) = compare(&commands, &slot, role, document).await?;
    Ok(Json(diff))
}

async fn apply(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Extension(role): Extension<Role>,
    Json(request): Json<ApplyRequest>,
) -> Result<Json<ApplyAnswer>, ApiError> {
    let within = request.confirm_within;
    if within.is_some_and(|window| !(MIN_WINDOW..=MAX_WINDOW).contains(&window)) {
        let text = "the confirm window is out of range; write 1s to 1day".to_owned();
        return Err(ApiError(StatusCode::BAD_REQUEST, text));
    }
    let slot = WorkSlot::acquire(role).await?;
    let (prepared, diff) = compare(&commands, &slot, role, request.document).await?;
    let apply = |reply| Configure::Apply {
        prepared,
        within,
        by: peer.to_string(),
        reply,
    };
    let applied = configure(&commands, apply).await?;
    Ok(Json(ApplyAnswer { applied, diff }))
}

async fn confirm(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Result<Response, ApiError> {
    let by = peer.to_string();
    let confirm = |reply| Configure::Confirm { by, reply };
    let generation = configure(&commands, confirm).await?;
    Ok(Json(Confirmed { generation }).into_response())
}

async fn rollback(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Extension(role): Extension<Role>,
    Json(request): Json<RollbackRequest>,
) -> Result<Json<Applied>, ApiError> {
    let slot = WorkSlot::acquire(role).await?;
    let running = running_config(&commands).await?;
    let prepare = move |stop: &Cancellation| {
        let options = ReadOptions {
            // A document that was applied before is not the caller's own.
            may_expand: true,
            stop: &|| stop.is_cancelled(),
        };
        running.prepare_generation(request.generation, options)
    };
    let (to, prepared) = work(&slot, prepare).await?;
    let rollback = |reply| Configure::Rollback {
        to,
        prepared: Box::new(prepared),
        by: peer.to_string(),
        reply,
    };
    configure(&commands, rollback).await.map(Json)
}
