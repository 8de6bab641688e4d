//! Metrics of the daemon itself and of probes, for `/metrics`.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::text,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use steer_core::config::Config;
use steer_probe::probe::{Measurement, ProbeFailure};

use crate::preflight;

type Labels<const N: usize> = [(&'static str, String); N];
type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// Results of a probe: the label `result`.
const RESULTS: [&str; 11] = [
    "answered",
    "timeout",
    "refused",
    "identity",
    "tls",
    "backend_down",
    "hung",
    "not_ready",
    "status",
    "malformed",
    "local",
];

/// Results of sending metrics to a collector: the label `result`.
const EXPORTS: [&str; 8] = [
    "accepted",
    "partial",
    "local",
    "unreachable",
    "tls",
    "timeout",
    "status",
    "malformed",
];

/// Work of the event loop in one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A measurement was taken in.
    Measurement,
    /// A next hop changed.
    NextHop,
    /// Interfaces were checked.
    Link,
    /// A command was obeyed.
    Command,
    /// The configuration file was read again.
    Reload,
    /// Connections were polled, and weights moved.
    Poll,
    /// Work that is due by time alone.
    Tick,
}

impl Turn {
    const ALL: [Self; 7] = [
        Self::Measurement,
        Self::NextHop,
        Self::Link,
        Self::Command,
        Self::Reload,
        Self::Poll,
        Self::Tick,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Measurement => "measurement",
            Self::NextHop => "next_hop",
            Self::Link => "link",
            Self::Command => "command",
            Self::Reload => "reload",
            Self::Poll => "poll",
            Self::Tick => "tick",
        }
    }
}

/// Counters that outlive configurations, but for those of backends that are no more.
#[derive(Clone)]
pub struct DaemonMetrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    turns: Histograms,
    probes: Family<Labels<2>, Counter>,
    round_trips: Histograms,
    written: Histogram,
    certificates: Family<Labels<1>, Gauge>,
    exports: Family<Labels<1>, Counter>,
    backends: Mutex<BTreeSet<String>>,
    /// Counters of answered probes, by backend: to find them by their labels costs more than all the rest.
    answered: Mutex<HashMap<String, Answered>>,
}

struct Answered {
    probes: Counter,
    round_trips: Histogram,
}

impl fmt::Debug for DaemonMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DaemonMetrics")
    }
}

impl Default for DaemonMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl DaemonMetrics {
    /// Counters at nought.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("steer");
        // From 10 us to 2.6 s.
        let turns: Histograms =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(1e-5, 4.0, 10)));
        // From 125 us to 512 ms.
        let round_trips: Histograms =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(1.25e-4, 2.0, 13)));
        // From 20 us to 5 s.
        let written = Histogram::new(exponential_buckets(2e-5, 2.0, 19));
        let (probes, certificates) = (Family::default(), Family::default());
        registry.register_with_unit(
            "loop_turn",
            "Time that the event loop was busy with one event, by its kind",
            Unit::Seconds,
            turns.clone(),
        );
        registry.register("probes", "Probes of backends by result", probes.clone());
        registry.register_with_unit(
            "probe_round_trip",
            "Round-trip times of answered probes",
            Unit::Seconds,
            round_trips.clone(),
        );
        registry.register_with_unit(
            "probe_to_slots",
            "Time from a probe result that changes something until members and slots are written",
            Unit::Seconds,
            written.clone(),
        );
        registry.register_with_unit(
            "certificate_end_timestamp",
            "End of validity of a certificate, in seconds since 1970",
            Unit::Seconds,
            certificates.clone(),
        );
        let exports: Family<Labels<1>, Counter> = Family::default();
        registry.register(
            "otlp_exports",
            "Exports of metrics to the collector of [telemetry], by result",
            exports.clone(),
        );
        for result in EXPORTS {
            drop(exports.get_or_create(&[("result", result.to_owned())]));
        }
        for turn in Turn::ALL {
            drop(turns.get_or_create(&[("turn", turn.name().to_owned())]));
        }
        Self(Arc::new(Inner {
            registry,
            turns,
            probes,
            round_trips,
            written,
            certificates,
            exports,
            backends: Mutex::default(),
            answered: Mutex::default(),
        }))
    }

    /// Returns metrics in which every family has a sample, for the reference: families without one
    /// are not written.
    pub(crate) fn with_all_families() -> Self {
        let metrics = Self::new();
        metrics.answered("", Duration::ZERO);
        let file = [("file", String::new())];
        drop(metrics.0.certificates.get_or_create(&file));
        metrics
    }

    /// Counts a probe.
    pub(crate) fn probed(&self, measurement: &Measurement) {
        let result = match &measurement.outcome {
            Ok(sample) => return self.answered(&measurement.backend, sample.rtt),
            Err(ProbeFailure::Timeout) => "timeout",
            Err(ProbeFailure::Refused(_) | ProbeFailure::ConnectionRefused) => "refused",
            Err(ProbeFailure::Identity(_)) => "identity",
            Err(ProbeFailure::Tls(_)) => "tls",
            Err(ProbeFailure::BackendDown) => "backend_down",
            Err(ProbeFailure::Hung { .. }) => "hung",
            Err(ProbeFailure::NotReady { .. }) => "not_ready",
            Err(ProbeFailure::Status { .. }) => "status",
            Err(ProbeFailure::Malformed(_)) => "malformed",
            Err(ProbeFailure::Local(_)) => "local",
        };
        let backend = ("backend", measurement.backend.clone());
        let labels = [backend, ("result", result.to_owned())];
        self.0.probes.get_or_create(&labels).inc();
    }

    fn answered(&self, backend: &str, rtt: Duration) {
        let mut answered = lock(&self.0.answered);
        if !answered.contains_key(backend) {
            let label = ("backend", backend.to_owned());
            let result = [label.clone(), ("result", "answered".to_owned())];
            let handles = Answered {
                probes: self.0.probes.get_or_create(&result).clone(),
                round_trips: self.0.round_trips.get_or_create(&[label]).clone(),
            };
            answered.insert(backend.to_owned(), handles);
        }
        if let Some(handles) = answered.get(backend) {
            handles.probes.inc();
            handles.round_trips.observe(rtt.as_secs_f64());
        }
    }

    /// Counts a try to send metrics, by one of [`EXPORTS`].
    pub(crate) fn exported(&self, result: &'static str) {
        debug_assert!(EXPORTS.contains(&result), "{result}");
        let labels = [("result", result.to_owned())];
        self.0.exports.get_or_create(&labels).inc();
    }

    /// Takes how long it took from a probe's result until what it changes was written.
    pub(crate) fn written(&self, time: Duration) {
        self.0.written.observe(time.as_secs_f64());
    }

    /// Takes how long the loop was busy.
    pub(crate) fn took(&self, turn: Turn, time: Duration) {
        let labels = [("turn", turn.name().to_owned())];
        self.0
            .turns
            .get_or_create(&labels)
            .observe(time.as_secs_f64());
    }

    /// Forgets backends that a configuration does not have, and looks at its certificates.
    pub fn configured(&self, config: &Config) {
        let probed = config.backends.iter().filter(|b| !b.probes.is_empty());
        let now: BTreeSet<String> = probed.map(|b| b.name.clone()).collect();
        for name in &now {
            // They are there before anything happens, so that rates have a beginning.
            for result in RESULTS {
                let labels = [("backend", name.clone()), ("result", result.to_owned())];
                drop(self.0.probes.get_or_create(&labels));
            }
        }
        let mut known = lock(&self.0.backends);
        lock(&self.0.answered).retain(|name, _| now.contains(name));
        for gone in known.difference(&now) {
            let backend = ("backend", gone.clone());
            self.0.round_trips.remove(std::array::from_ref(&backend));
            for result in RESULTS {
                let labels = [backend.clone(), ("result", result.to_owned())];
                self.0.probes.remove(&labels);
            }
        }
        *known = now;
        self.0.certificates.clear();
        for (file, end) in preflight::certificate_ends(config) {
            let end = end.duration_since(SystemTime::UNIX_EPOCH);
            let labels = [("file", file.display().to_string())];
            let seconds = end.unwrap_or_default().as_secs();
            self.0
                .certificates
                .get_or_create(&labels)
                .set(i64::try_from(seconds).unwrap_or(i64::MAX));
        }
    }

    /// Writes all of it in the text format of OpenMetrics, without the end of the page.
    ///
    /// # Errors
    /// If `text` takes no more.
    pub fn write(&self, text: &mut String) -> fmt::Result {
        text::encode_registry(text, &self.0.registry)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use steer_probe::probe::{OrcaLoadReport, Sample};

    use super::*;

    fn page(metrics: &DaemonMetrics) -> String {
        let mut text = String::new();
        metrics.write(&mut text).unwrap();
        text
    }

    fn configured(metrics: &DaemonMetrics, backends: &[&str]) {
        let mut text = String::from(
            "[node]\nname = \"n\"\nregion = \"r\"\ninterfaces = [\"eth0\"]\n[nat]\n\
             addresses = [\"10.0.0.1\"]\n[probe]\nca = \"/a\"\ncert = \"/b\"\nkey = \"/c\"\n",
        );
        for name in backends {
            let last = name.as_bytes()[0];
            text += &format!(
                "[[backend]]\nname = \"{name}\"\naddress = \"10.0.0.{last}\"\nmode = \"nat\"\n\
                 beacon = \"10.0.0.{last}:7100\"\n"
            );
        }
        text += &format!(
            "[[pool]]\nname = \"p\"\nbackends = {backends:?}\n[[service]]\nname = \"s\"\n\
             address = \"192.0.2.1\"\nport = 80\npools = [\"p\"]\n"
        );
        metrics.configured(&Config::parse(&text, "f".as_ref()).unwrap());
    }

    #[test]
    fn probes_are_counted_by_backend_and_result_and_go_with_the_backend() {
        let metrics = DaemonMetrics::new();
        configured(&metrics, &["a", "b"]);
        let probe = |backend: &str, outcome| {
            metrics.probed(&Measurement {
                backend: backend.to_owned(),
                at: Instant::now(),
                outcome,
            });
        };
        let answered = || {
            Ok(Sample {
                rtt: Duration::from_millis(3),
                handshake: None,
                report: OrcaLoadReport::default(),
                load: steer_probe::probe::Load::default(),
            })
        };
        probe("a", answered());
        probe("a", answered());
        probe("a", Err(ProbeFailure::Refused("no".to_owned())));
        probe("b", Err(ProbeFailure::Timeout));
        let text = page(&metrics);
        for line in [
            "steer_probes_total{backend=\"a\",result=\"answered\"} 2",
            "steer_probes_total{backend=\"a\",result=\"refused\"} 1",
            "steer_probes_total{backend=\"b\",result=\"timeout\"} 1",
            "steer_probes_total{backend=\"b\",result=\"answered\"} 0",
            "steer_probe_round_trip_seconds_bucket{le=\"0.004\",backend=\"a\"} 2",
            "steer_probe_round_trip_seconds_bucket{le=\"0.002\",backend=\"a\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        configured(&metrics, &["b"]);
        let text = page(&metrics);
        assert!(!text.contains("backend=\"a\""), "{text}");
        assert!(text.contains("backend=\"b\",result=\"timeout\"} 1"));
    }

    #[test]
    fn turns_are_there_before_they_happen_and_are_told_apart() {
        let metrics = DaemonMetrics::new();
        metrics.took(Turn::Tick, Duration::from_millis(1));
        let text = page(&metrics);
        assert!(text.contains("steer_loop_turn_seconds_count{turn=\"tick\"} 1"));
        assert!(text.contains("steer_loop_turn_seconds_count{turn=\"reload\"} 0"));
    }
}
