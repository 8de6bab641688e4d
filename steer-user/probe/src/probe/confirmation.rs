//! TCP connections that confirm or contradict what packets look like.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{ProbeFailure, http::tcp, tcp_close::close_in_order};

/// Outcome of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The backend accepted it.
    Connected,
    /// The backend refused it.
    Refused,
    /// No answer arrived in time, or the network reported an error.
    NoAnswer,
    /// This node could not send it.
    NotTried,
}

/// Tries a TCP connection, to confirm or contradict what packets suggest.
pub async fn confirm(address: SocketAddr, limit: Duration) -> Outcome {
    match tcp(address, limit).await {
        Ok(stream) => {
            close_in_order(stream);
            Outcome::Connected
        }
        Err(ProbeFailure::ConnectionRefused) => Outcome::Refused,
        Err(ProbeFailure::Local(_)) => Outcome::NotTried,
        Err(_) => Outcome::NoAnswer,
    }
}
