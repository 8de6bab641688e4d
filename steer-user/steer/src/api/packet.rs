//! Explanation of a given packet.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::post,
};

use super::{
    Client, ClientError, ExplainPacket,
    server::{ApiError, call},
};
use crate::{
    daemon::{Command, Commands},
    explain::Explanation,
};

/// Frame lengths: from an Ethernet header to the largest jumbo frame.
const LENGTHS: std::ops::RangeInclusive<usize> = 14..=9216;

pub(super) fn explaining() -> Router<Commands> {
    Router::new().route("/v1/explain/packet", post(explanation))
}

async fn explanation(
    State(commands): State<Commands>,
    Json(query): Json<ExplainPacket>,
) -> Result<Response, ApiError> {
    let bytes = query.packet.0;
    if !LENGTHS.contains(&bytes.len()) {
        let text = format!(
            "the packet has {} bytes; a frame has {} to {}, with its Ethernet header",
            bytes.len(),
            LENGTHS.start(),
            LENGTHS.end()
        );
        return Err(ApiError(StatusCode::BAD_REQUEST, text));
    }
    let interface = query.interface;
    let explanation = call(&commands, |reply| {
        Command::ExplainPacket(bytes, interface, reply)
    })
    .await?;
    let explanation =
        explanation.map_err(|error| ApiError(StatusCode::BAD_REQUEST, format!("{error:#}")))?;
    Ok(Json(explanation).into_response())
}

impl Client {
    /// Explains the decision for a whole packet.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn explain_packet(&self, query: &ExplainPacket) -> Result<Explanation, ClientError> {
        self.post("/v1/explain/packet", query).await
    }
}
