//! Metrics of a real site at an OpenTelemetry collector that behaves well or badly. Needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod collector;
mod series;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use steer_probe::pki::{self, Identity, IdentityKind, Validity};
use steer_tests::{
    fleet::{Fleet, HTTP, Plan, binary, wait},
    load::Load,
    process::Process,
};

use self::{
    collector::{Collector, Mood},
    series::{histogram, numbers, resource, unit},
};

const SOON: Duration = Duration::from_secs(30);
const COLLECTOR: &str = "127.0.0.1:4318";
const SECURE: &str = "127.0.0.1:4319";

struct Node {
    fleet: Fleet,
    _daemon: Process,
}

impl Node {
    /// Starts a node with this section of the configuration.
    fn start(telemetry: &str) -> Self {
        let fleet = Fleet::new(Plan::new(&["one", "two"], "nat")).unwrap();
        fs::write(fleet.config_path(), fleet.config() + telemetry).unwrap();
        let mut daemon = Command::new(binary("steer").unwrap());
        daemon.args(["run", "--config"]).arg(fleet.config_path());
        daemon.stderr(File::create(fleet.path("log")).unwrap());
        let daemon = fleet.site.node.spawn(daemon).unwrap();
        wait(SOON, "both are up", || {
            let health = fleet.health().unwrap_or_default();
            Ok(health.len() == 2 && health.iter().all(|(_, health)| health == "up"))
        })
        .unwrap();
        Self {
            fleet,
            _daemon: daemon,
        }
    }

    fn apply(&self, telemetry: &str) {
        let path = self.fleet.path("next.toml");
        fs::write(&path, self.fleet.config() + telemetry).unwrap();
        let path = path.display().to_string();
        self.fleet.cli(&["config", "apply", &path]).unwrap();
    }

    fn page(&self) -> String {
        let socket = self.fleet.path("steer.sock").display().to_string();
        let curl = ["curl", "-sS", "-m", "5", "--unix-socket", &socket];
        let curl = [&curl[..], &["http://x/metrics"]].concat();
        self.fleet.site.node.run(&curl).unwrap()
    }

    /// Returns a number on the page.
    fn value(&self, series: &str) -> f64 {
        let page = self.page();
        let line = page.lines().find_map(|line| line.strip_prefix(series));
        let line = line.unwrap_or_else(|| panic!("no {series} in\n{page}"));
        line.trim().parse().unwrap()
    }

    fn exports(&self, result: &str) -> f64 {
        self.value(&format!("steer_otlp_exports_total{{result=\"{result}\"}}"))
    }

    fn wait_for(&self, result: &str, more: f64) {
        let before = self.exports(result);
        let what = format!("{more} more {result} than {before}");
        wait(SOON, &what, || Ok(self.exports(result) >= before + more)).unwrap();
    }

    /// Returns how often a text occurs in the log.
    fn said(&self, what: &str) -> usize {
        let log = fs::read_to_string(self.fleet.path("log")).unwrap();
        log.lines().filter(|line| line.contains(what)).count()
    }

    /// Puts load on the service until both backends have answered.
    fn load(&self) {
        let load = Load {
            duration: Duration::from_millis(300),
            ..Load::new(SocketAddr::new(self.fleet.vip(), HTTP))
        };
        let mut answered = BTreeSet::new();
        wait(SOON, "both backends answer", || {
            let samples = load.run_in(&self.fleet.site.client)?;
            let good = samples.into_iter().filter(|s| s.error.is_none());
            answered.extend(good.filter_map(|sample| sample.backend));
            Ok(answered.len() == 2)
        })
        .unwrap();
    }
}

fn to(url: &str) -> String {
    format!("\n[telemetry]\notlp = \"{url}\"\notlp_interval = \"1s\"\n")
}

#[test]
fn a_collector_gets_what_the_page_says() {
    let node = Node::start(&to(&format!("http://{COLLECTOR}/base")));
    // The collector does not exist yet, which does no harm.
    wait(SOON, "nobody is there", || {
        Ok(node.exports("unreachable") > 0.0)
    })
    .unwrap();
    let namespace = &node.fleet.site.node;
    let collector = Collector::start(namespace, COLLECTOR, None).unwrap();
    node.load();
    let flows = |backend: &str| {
        let labels = format!("{{service=\"chat\",backend=\"{backend}\"}}");
        node.value(&format!("steer_member_flows_total{labels}"))
    };
    wait(SOON, "counters are equal", || {
        let got = collector.got();
        let Some(last) = got.last() else {
            return Ok(false);
        };
        let sent = numbers(&last.request, "steer_member_flows", &["chat", "one"]);
        Ok(sent.is_some_and(|point| point.value > 0.0 && point.value == flows("one")))
    })
    .unwrap();
    let count = "steer_member_first_byte_seconds_count{service=\"chat\",backend=\"two\"}";
    let done = wait(SOON, "histograms are equal", || {
        let got = collector.got();
        let sent = got.last().and_then(|last| {
            histogram(
                &last.request,
                "steer_member_first_byte_seconds",
                &["chat", "two"],
            )
        });
        Ok(sent.is_some_and(|point| {
            assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
            assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
            point.count > 0 && point.count as f64 == node.value(count)
        }))
    });
    if let Err(error) = done {
        let log = fs::read_to_string(node.fleet.path("log")).unwrap();
        panic!("{error:#}\n{}\n{log}", node.page());
    }

    let heard = collector.got().len();
    wait(SOON, "it gets more", || Ok(collector.got().len() > heard)).unwrap();
    let got = collector.got();
    let (first, last) = (&got[0], got.last().unwrap());
    assert_eq!(last.line, "POST /base/v1/metrics HTTP/1.1");
    assert!(
        last.headers
            .contains("content-type: application/x-protobuf"),
        "{}",
        last.headers
    );
    for (key, value) in [
        ("service.name", "steer"),
        ("service.instance.id", "edge"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("cloud.region", "home"),
    ] {
        assert_eq!(
            resource(&last.request, key).as_deref(),
            Some(value),
            "{key}"
        );
    }
    assert_eq!(unit(&last.request, "steer_member_bytes").unwrap(), "By");
    assert_eq!(
        unit(&last.request, "steer_probe_round_trip_seconds").unwrap(),
        "s"
    );
    let series =
        |of: &collector::Got| numbers(&of.request, "steer_member_flows", &["chat", "one"]).unwrap();
    let (first, last) = (series(first), series(last));
    assert_eq!(first.start, first.time, "nobody knows when it began");
    assert_eq!(first.start, last.start);
    assert!(last.time > last.start);
    assert!(last.is_monotonic);
    // Every family with samples is present by its name.
    let page = node.page();
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for family in families.map(|line| line.split(' ').next().unwrap()) {
        let has_samples = page.lines().any(|line| line.starts_with(family));
        let sent = unit(&got.last().unwrap().request, family).is_some();
        assert!(sent || !has_samples, "{family} was not sent");
    }
}

#[test]
fn a_bad_collector_disturbs_nothing_and_is_served_again_when_it_is_good() {
    let node = Node::start(&to(&format!("http://{COLLECTOR}")));
    let namespace = &node.fleet.site.node;
    let collector = Collector::start(namespace, COLLECTOR, None).unwrap();
    wait(SOON, "it works", || Ok(node.exports("accepted") > 0.0)).unwrap();
    let memory = node.value("process_resident_memory_bytes");
    for (mood, result) in [
        (Mood::Hangs, "timeout"),
        (Mood::Trickles, "timeout"),
        (Mood::Fails, "status"),
        (Mood::Boasts, "malformed"),
        (Mood::Mumbles, "malformed"),
    ] {
        let (failed, worked) = (
            node.said("cannot be exported"),
            node.said("metrics are being exported"),
        );
        collector.is_now(mood);
        node.wait_for(result, 2.0);
        let begun = Instant::now();
        node.page();
        node.fleet.status().unwrap();
        node.load();
        let health = node.fleet.health().unwrap();
        assert!(
            health.iter().all(|(_, health)| health == "up"),
            "{mood:?}: {health:?}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{mood:?}: {:?}",
            begun.elapsed()
        );
        assert_eq!(node.said("cannot be exported"), failed + 1, "{mood:?}");
        collector.is_now(Mood::Good);
        node.wait_for("accepted", 2.0);
        assert_eq!(
            node.said("metrics are being exported"),
            worked + 1,
            "{mood:?}"
        );
    }
    let more = node.value("process_resident_memory_bytes") - memory;
    assert!(more < 30e6, "{more} bytes more");
    assert_eq!(collector.most_at_once(), 1);

    collector.is_now(Mood::Partial);
    node.wait_for("partial", 2.0);
    assert_eq!(node.said("two are too many"), 1);

    // A collector that asks for time gets it.
    collector.is_now(Mood::Overloaded);
    let before = collector.got().len();
    node.wait_for("status", 2.0);
    let got = collector.got();
    let times: Vec<Instant> = got[before..].iter().map(|got| got.at).collect();
    let pauses: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let last = *pauses.last().unwrap();
    assert!(last >= Duration::from_millis(2_900), "{pauses:?}");
}

#[test]
fn the_target_follows_the_configuration_by_tls_as_well() {
    let node = Node::start("");
    let namespace = &node.fleet.site.node;
    let plain = Collector::start(namespace, COLLECTOR, None).unwrap();
    let authority = |name: &str| {
        let folder = node.fleet.path(name);
        pki::init(&folder).unwrap();
        let identity = Identity::new(IdentityKind::Api, "home", "collector").unwrap();
        let validity = Validity::for_next(Duration::from_secs(86_400));
        pki::issue(&folder, &identity, validity, &["127.0.0.1".to_owned()]).unwrap();
        folder
    };
    let (own, foreign) = (authority("own"), authority("foreign"));
    let (cert, key) = (own.join("collector.pem"), own.join("collector.key"));
    let secure = Collector::start(namespace, SECURE, Some((&cert, &key))).unwrap();
    node.apply(&to(&format!("http://{COLLECTOR}")));
    wait(SOON, "the first gets them", || Ok(!plain.got().is_empty())).unwrap();

    let by_tls = |ca: &Path| {
        let ca = ca.join("ca.pem");
        to(&format!("https://{SECURE}")) + &format!("otlp_ca = \"{}\"\n", ca.display())
    };
    node.apply(&by_tls(&foreign));
    node.wait_for("tls", 1.0);
    assert!(secure.got().is_empty());
    node.apply(&by_tls(&own));
    wait(SOON, "the second gets them", || Ok(secure.got().len() > 1)).unwrap();
    let before = plain.got().len();

    node.apply("");
    let after = secure.got().len();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(plain.got().len(), before);
    assert!(secure.got().len() <= after + 1);
}
