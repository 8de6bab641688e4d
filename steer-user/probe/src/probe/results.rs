//! Channel from the probers to the control loop.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use super::Measurement;

/// Sending side. Measurements arrive in the order in which they were sent.
#[derive(Clone, Debug)]
pub struct ResultSender {
    queue: mpsc::Sender<Measurement>,
    urgent: Arc<Notify>,
}

/// Receiving side.
#[derive(Debug)]
pub struct ResultReceiver {
    queue: mpsc::Receiver<Measurement>,
    urgent: Arc<Notify>,
}

/// Creates a channel with room for a number of measurements.
#[must_use]
pub fn channel(room: usize) -> (ResultSender, ResultReceiver) {
    let (sender, receiver) = mpsc::channel(room);
    let urgent = Arc::new(Notify::new());
    let outbox = ResultSender {
        queue: sender,
        urgent: Arc::clone(&urgent),
    };
    let inbox = ResultReceiver {
        queue: receiver,
        urgent,
    };
    (outbox, inbox)
}

impl ResultSender {
    /// Sends a measurement once there is room; returns false if the receiver is gone.
    pub(super) async fn send(&self, measurement: Measurement) -> bool {
        let is_urgent = measurement.outcome.is_err();
        let room = match self.queue.try_reserve() {
            Ok(room) => room,
            Err(_) => {
                self.urgent.notify_one();
                match self.queue.reserve().await {
                    Ok(room) => room,
                    Err(_) => return false,
                }
            }
        };
        room.send(measurement);
        if is_urgent {
            self.urgent.notify_one();
        }
        true
    }

    /// Waits until the receiver is gone.
    pub(super) async fn closed(&self) {
        self.queue.closed().await;
    }
}

impl ResultReceiver {
    /// Waits for something to process at once: a failure, or a full channel. Good results may wait,
    /// since thousands of backends would wake the reader for each.
    pub async fn urgent(&self) {
        self.urgent.notified().await;
    }

    /// Marks the remaining measurements as urgent.
    pub fn mark_urgent(&self) {
        self.urgent.notify_one();
    }

    /// Returns the next measurement, if there is one.
    pub fn try_next(&mut self) -> Option<Measurement> {
        self.queue.try_recv().ok()
    }

    /// Waits for the next measurement; `None` if all senders are gone.
    pub async fn next(&mut self) -> Option<Measurement> {
        self.queue.recv().await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, poll_fn},
        pin::pin,
        task::Poll,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::probe::{Load, OrcaLoadReport, ProbeFailure, Sample};

    fn measurement(backend: &str, good: bool) -> Measurement {
        let sample = Sample {
            rtt: Duration::from_millis(1),
            handshake: None,
            report: OrcaLoadReport::default(),
            load: Load::default(),
        };
        Measurement {
            backend: backend.to_owned(),
            at: Instant::now(),
            outcome: if good {
                Ok(sample)
            } else {
                Err(ProbeFailure::Timeout)
            },
        }
    }

    /// Returns whether something is urgent by now.
    async fn is_urgent(inbox: &ResultReceiver) -> bool {
        let mut urgent = pin!(inbox.urgent());
        poll_fn(|cx| Poll::Ready(urgent.as_mut().poll(cx).is_ready())).await
    }

    #[tokio::test]
    async fn a_failure_is_urgent_and_comes_after_what_was_good_before() {
        let (outbox, mut inbox) = channel(4);
        assert!(outbox.send(measurement("a", true)).await);
        assert!(!is_urgent(&inbox).await);
        assert!(outbox.send(measurement("a", false)).await);
        assert!(is_urgent(&inbox).await);
        inbox.mark_urgent();
        assert!(is_urgent(&inbox).await);
        assert!(inbox.try_next().unwrap().outcome.is_ok());
        assert!(inbox.try_next().unwrap().outcome.is_err());
        assert_eq!(inbox.try_next(), None);
        assert!(!is_urgent(&inbox).await);
    }

    #[tokio::test]
    async fn without_room_it_is_urgent_as_well() {
        let (outbox, mut inbox) = channel(1);
        assert!(outbox.send(measurement("a", true)).await);
        let more = tokio::spawn(async move { outbox.send(measurement("b", true)).await });
        inbox.urgent().await;
        assert_eq!(inbox.try_next().unwrap().backend, "a");
        assert_eq!(inbox.next().await.unwrap().backend, "b");
        assert!(more.await.unwrap());
    }

    #[tokio::test]
    async fn nobody_sends_to_one_that_is_gone() {
        let (outbox, inbox) = channel(1);
        drop(inbox);
        outbox.closed().await;
        assert!(!outbox.send(measurement("a", true)).await);
    }
}
