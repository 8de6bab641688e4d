//! Maximum number of concurrent requests, from a document of the engine.

use std::time::{Duration, Instant};

use hyper::header::HeaderValue;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::time::timeout;

use super::{exposition::MAX_PAGE, http::Client, profile::Limits};

/// Pause after a failed attempt.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Timeout of the request.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Capacity reported by an engine; read once, and again after a restart.
#[derive(Debug, Default)]
pub(super) struct Capacity {
    told: Option<f64>,
    tried: Option<Instant>,
}

impl Capacity {
    /// Clears the capacity: a restarted engine may have other settings.
    pub(super) fn invalidate(&mut self) {
        *self = Self::default();
    }

    /// Returns the capacity, and reads it first if unknown.
    pub(super) async fn get(
        &mut self,
        limits: &Limits,
        api: SocketAddr,
        key: Option<&HeaderValue>,
        now: Instant,
    ) -> Option<f64> {
        let is_due = |at| now.saturating_duration_since(at) >= REFRESH_INTERVAL;
        if self.told.is_none() && self.tried.is_none_or(is_due) {
            self.tried = Some(now);
            self.told = timeout(TIMEOUT, read(limits, api, key))
                .await
                .ok()
                .flatten();
        }
        self.told
    }
}

async fn read(limits: &Limits, api: SocketAddr, key: Option<&HeaderValue>) -> Option<f64> {
    let mut client = Client::new(api, key.cloned());
    for path in &limits.path {
        let Ok(answer) = client.request(path, None, MAX_PAGE).await else {
            return None;
        };
        let document: Option<Value> = serde_json::from_slice(&answer.body).ok();
        if let Some(document) = document.filter(|_| answer.status.is_success()) {
            let mut pointers = limits.capacity.iter();
            return pointers.find_map(|pointer| number(&document, pointer));
        }
    }
    None
}

/// Returns the number at a JSON pointer, or the sum over a pointer with `*`.
fn number(document: &Value, pointer: &str) -> Option<f64> {
    let number = match pointer.split_once("/*") {
        None => document.pointer(pointer)?.as_f64()?,
        Some((array, rest)) => {
            let elements = document.pointer(array)?.as_array()?;
            let numbers = elements.iter().map(|element| number(element, rest));
            numbers.sum::<Option<f64>>()?
        }
    };
    (number.is_finite() && number > 0.0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_find_one_number_or_the_sum_of_several() {
        let document: Value = serde_json::from_str(
            r#"{"max": null, "slots": 4, "zero": 0, "text": "8",
                "states": [{"n": 3}, {"n": 5}], "none": [], "half": [{"n": 1}, {}]}"#,
        )
        .unwrap();
        for (pointer, want) in [
            ("/slots", Some(4.0)),
            ("/states/*/n", Some(8.0)),
            ("/max", None),
            ("/zero", None),
            ("/text", None),
            ("/none/*/n", None),
            ("/half/*/n", None),
            ("/absent", None),
        ] {
            assert_eq!(number(&document, pointer), want, "{pointer}");
        }
    }
}
