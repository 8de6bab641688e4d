//! Log output to the systemd journal: each field becomes one of the entry (`STEER_BACKEND=`), and
//! also appears in its text, so that `journalctl -u steer` shows as much as a line on standard
//! error.

use std::fmt::{Debug, Write as _};

use libsystemd::logging::{Priority, journal_send};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

/// Layer that sends events to the journal.
pub(super) struct Journal;

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        let priority = match *event.metadata().level() {
            Level::ERROR => Priority::Error,
            Level::WARN => Priority::Warning,
            Level::INFO => Priority::Info,
            _ => Priority::Debug,
        };
        let text = entry.text();
        if journal_send(priority, &text, entry.fields.iter().map(|(k, v)| (k, v))).is_err() {
            eprintln!("{text}");
        }
    }
}

/// Fields of an event.
#[derive(Debug, Default)]
struct Entry {
    message: String,
    /// Fields by their journal names.
    fields: Vec<(String, String)>,
    rest: String,
}

impl Entry {
    fn text(&self) -> String {
        format!("{}{}", self.message, self.rest)
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
            return;
        }
        // Writing to a string cannot fail.
        let _ = if value.contains(char::is_whitespace) {
            write!(self.rest, " {}={value:?}", field.name())
        } else {
            write!(self.rest, " {}={value}", field.name())
        };
        let name = format!("STEER_{}", field.name().to_uppercase());
        self.fields.push((name, value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::subscriber::with_default;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    struct Collect(Arc<Mutex<Vec<Entry>>>);

    impl<S: Subscriber> Layer<S> for Collect {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut entry = Entry::default();
            event.record(&mut entry);
            self.0.lock().unwrap().push(entry);
        }
    }

    #[test]
    fn fields_are_in_the_text_and_beside_it() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Collect(Arc::clone(&seen)));
        with_default(subscriber, || {
            let failure = "no answer in 200ms";
            tracing::info!(
                backend = "gpu-1",
                ring = 2,
                ?failure,
                "backend {}",
                "changed"
            );
        });
        let seen = seen.lock().unwrap();
        let text = "backend changed backend=gpu-1 ring=2 failure=\"\\\"no answer in 200ms\\\"\"";
        assert_eq!(seen[0].text(), text);
        let fields = [
            ("STEER_BACKEND", "gpu-1"),
            ("STEER_RING", "2"),
            ("STEER_FAILURE", "\"no answer in 200ms\""),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(seen[0].fields, fields);
    }
}
