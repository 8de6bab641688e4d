//! The part of the API that changes the configuration.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Path as UrlPath, State},
    http::StatusCode,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use super::{
    access::Peer,
    listen::{self, Bodies},
    server::{Refusal, ask},
};
use crate::{
    config::{ConfigError, Document},
    control::{Applied, Command, Commands, Configure, ConfigureError, Diff, Reply},
    generations::{Generation, History, StateError},
};

/// Of a document; what is larger is no configuration.
const MAX_BODY: usize = 32 << 20;
const MIN_WINDOW: Duration = Duration::from_secs(1);
const MAX_WINDOW: Duration = Duration::from_secs(86_400);

/// What to apply.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The configuration, variables unexpanded: the daemon expands them.
    pub document: Document,
    /// How long to wait for a confirmation before it is taken back; 1 s to a day.
    #[serde(default, with = "humantime_serde")]
    #[schemars(with = "Option<String>")]
    pub confirm_within: Option<Duration>,
}

/// What was applied.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ApplyAnswer {
    /// What was done.
    #[serde(flatten)]
    pub applied: Applied,
    /// What it was found to change before.
    pub diff: Diff,
}

/// What to go back to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The generation; without it, the one before.
    #[serde(default)]
    pub generation: Option<u64>,
}

/// What was confirmed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Confirmed {
    /// The generation.
    pub generation: u64,
}

pub(super) fn reading() -> Router<Commands> {
    Router::new()
        .route("/v1/config/history", get(history))
        .route("/v1/config/generations/current", get(current))
        .route("/v1/config/generations/{number}", get(generation))
        .route("/v1/config/diff", post(diff))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(Bodies::of(MAX_BODY), listen::body))
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
        .layer(from_fn_with_state(Bodies::of(MAX_BODY), listen::body))
}

async fn configure<T>(
    commands: &Commands,
    configure: impl FnOnce(Reply<T>) -> Configure,
) -> Result<T, Refusal> {
    let done = ask(commands, |reply| Command::Configure(configure(reply))).await?;
    done.map_err(|error| Refusal(status(&error), error.to_string()))
}

fn status(error: &ConfigureError) -> StatusCode {
    match error {
        ConfigureError::Invalid(ConfigError::Invalid { .. } | ConfigError::Read { .. }) => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        ConfigureError::State(StateError::Unknown(_)) => StatusCode::NOT_FOUND,
        ConfigureError::State(
            StateError::Io { .. } | StateError::Damaged { .. } | StateError::Lost(_),
        ) => StatusCode::INSUFFICIENT_STORAGE,
        ConfigureError::Trial { .. }
        | ConfigureError::NoTrial
        | ConfigureError::Current(_)
        | ConfigureError::Oldest
        | ConfigureError::NoGeneration
        | ConfigureError::Fixed { .. }
        | ConfigureError::TooSmall { .. } => StatusCode::CONFLICT,
        ConfigureError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn history(State(commands): State<Commands>) -> Result<Json<History>, Refusal> {
    configure(&commands, Configure::History).await.map(Json)
}

async fn current(State(commands): State<Commands>) -> Result<Json<Generation>, Refusal> {
    let show = |reply| Configure::Show(None, reply);
    configure(&commands, show).await.map(Json)
}

async fn generation(
    State(commands): State<Commands>,
    UrlPath(number): UrlPath<u64>,
) -> Result<Json<Generation>, Refusal> {
    let show = |reply| Configure::Show(Some(number), reply);
    configure(&commands, show).await.map(Json)
}

/// Finds out what a document would change, on a thread of its own and not in the loop.
async fn rehearse(commands: &Commands, document: Document) -> Result<Diff, Refusal> {
    let rehearse = |reply| Configure::Rehearse(document, reply);
    let prepared = configure(commands, rehearse).await?;
    let found = tokio::task::spawn_blocking(|| prepared.diff()).await;
    let found =
        found.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    found.map_err(|error| Refusal(status(&error), error.to_string()))
}

async fn diff(
    State(commands): State<Commands>,
    Json(document): Json<Document>,
) -> Result<Json<Diff>, Refusal> {
    rehearse(&commands, document).await.map(Json)
}

async fn apply(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<ApplyRequest>,
) -> Result<Json<ApplyAnswer>, Refusal> {
    let within = request.confirm_within;
    if within.is_some_and(|window| !(MIN_WINDOW..=MAX_WINDOW).contains(&window)) {
        let text = "the confirm window is out of range; write 1s to 1day".to_owned();
        return Err(Refusal(StatusCode::BAD_REQUEST, text));
    }
    let diff = rehearse(&commands, request.document.clone()).await?;
    let apply = |reply| Configure::Apply {
        document: request.document,
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
) -> Result<Response, Refusal> {
    let by = peer.to_string();
    let confirm = |reply| Configure::Confirm { by, reply };
    let generation = configure(&commands, confirm).await?;
    Ok(Json(Confirmed { generation }).into_response())
}

async fn rollback(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<RollbackRequest>,
) -> Result<Json<Applied>, Refusal> {
    let rollback = |reply| Configure::Rollback {
        to: request.generation,
        by: peer.to_string(),
        reply,
    };
    configure(&commands, rollback).await.map(Json)
}
