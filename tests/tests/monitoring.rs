//! Metrics, rules and dashboard: checked by promtool, and by a real Prometheus beside a complete
//! site. Needs root, and the programs of Debian's package prometheus.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use steer_tests::{
    fleet::{Fleet, HTTP, Plan, wait},
    load::Load,
};

const METRICS: &str = "127.0.0.1:9464";
const PROMETHEUS: &str = "127.0.0.1:9465";

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(deploy("prometheus"))
        .output()
        .expect("promtool is not installed: `cargo xtask setup` does it");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

#[test]
fn rules_are_rules_and_fire_when_they_should() {
    assert!(promtool(&["check", "rules", "steer.rules.yml"]).contains("rules found"));
    assert!(promtool(&["test", "rules", "steer.rules.test.yml"]).contains("SUCCESS"));
}

/// Returns the sample names of a page, including those of families without samples.
fn names(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let mut names: BTreeSet<String> = samples
        .map(|line| line.split(['{', ' ']).next().unwrap().to_owned())
        .collect();
    for line in page.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        names.insert(match kind {
            "counter" => format!("{name}_total"),
            "histogram" => format!("{name}_bucket"),
            _ => name.to_owned(),
        });
    }
    names
}

/// Returns the words of a text that look like names of our metrics.
fn words(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c));
    words
        .filter(|word| word.starts_with("steer_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// Collects every query of a dashboard.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "expr" || key == "query" => {
                        found.push(text.clone());
                    }
                    _ => queries(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

/// Checks that rules and dashboard use only metrics on the page.
fn names_fit(page: &str) {
    let known = names(page);
    let rules = fs::read_to_string(deploy("prometheus/steer.rules.yml")).unwrap();
    let dashboard = fs::read_to_string(deploy("grafana/steer.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut asked = Vec::new();
    queries(&dashboard, &mut asked);
    assert!(asked.len() > 20, "{asked:?}");
    for text in asked.iter().chain([&rules]) {
        for word in words(text) {
            assert!(known.contains(&word), "no metric {word}: {text}\n{known:?}");
        }
    }
    // Every metric for people is shown somewhere.
    let shown: BTreeSet<String> = asked.iter().flat_map(|text| words(text)).collect();
    for name in [
        "steer_member_flows_total",
        "steer_dropped_packets_total",
        "steer_member_share_ratio",
    ] {
        assert!(shown.contains(name), "{name} is on no panel");
    }
}

fn get(fleet: &Fleet, url: &str) -> (u16, String) {
    let said = fleet
        .site
        .node
        .run(&["curl", "-s", "-m", "10", "-w", "\n%{http_code}", url])
        .unwrap();
    let (body, code) = said.rsplit_once('\n').unwrap();
    (code.parse().unwrap(), body.to_owned())
}

/// Returns the first value of a query.
fn query(fleet: &Fleet, expression: &str) -> Option<f64> {
    let url = format!("http://{PROMETHEUS}/api/v1/query?query={expression}");
    let (_, body) = get(fleet, &url);
    let answer: Value = serde_json::from_str(&body).ok()?;
    answer["data"]["result"][0]["value"][1]
        .as_str()?
        .parse()
        .ok()
}

/// Returns Prometheus' answer to a panel's query, with the default values of Grafana's variables:
/// labels that distinguish the series, and values.
fn panel_series(fleet: &Fleet, expression: &str) -> Vec<(String, String)> {
    let expression = expression
        .replace("$instance", ".*")
        .replace("$service", ".*")
        .replace("$__rate_interval", "30s");
    let said = fleet
        .site
        .node
        .run(&[
            "curl",
            "-s",
            "-m",
            "10",
            "--data-urlencode",
            &format!("query={expression}"),
            &format!("http://{PROMETHEUS}/api/v1/query"),
        ])
        .unwrap();
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(answer["status"], "success", "{expression}: {said}");
    let series = answer["data"]["result"].as_array().unwrap();
    let labels = |of: &Value| {
        let all = of["metric"].as_object().unwrap().iter();
        let tell =
            all.filter(|(name, _)| !["__name__", "instance", "job"].contains(&name.as_str()));
        tell.map(|(_, value)| value.as_str().unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let value = |of: &Value| of["value"][1].as_str().unwrap().to_owned();
    let mut found: Vec<_> = series.iter().map(|one| (labels(one), value(one))).collect();
    found.sort();
    found
}

/// Panels that show data only if something is wrong, or that need something this site lacks.
const MAY_BE_EMPTY: [&str; 6] = [
    "Use",
    "Dropped packets",
    "Probes that failed",
    "Drained, draining, way not known",
    "Refused, unanswered, reset",
    "Shares of classes",
];

/// Checks that every panel has data, and new flows while there are some; the values are written to
/// `target/monitoring/panels.txt`.
fn panels_show_what_is(fleet: &Fleet) {
    let dashboard = fs::read_to_string(deploy("grafana/steer.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut page = String::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        if panel["type"] == "row" {
            page += &format!("\n{title}\n");
            continue;
        }
        let targets = panel["targets"].as_array().unwrap();
        let expressions = targets
            .iter()
            .map(|target| target["expr"].as_str().unwrap());
        let series: Vec<_> = expressions
            .flat_map(|expression| panel_series(fleet, expression))
            .collect();
        let is_number = |(_, value): &(_, String)| value.parse::<f64>().unwrap().is_finite();
        assert!(
            series.iter().any(is_number) || MAY_BE_EMPTY.contains(&title),
            "panel {title} shows nothing"
        );
        if title == "New flows" {
            let all: f64 = series.iter().map(|(_, v)| v.parse::<f64>().unwrap()).sum();
            assert!(all > 0.0, "{series:?}");
        }
        page += &format!("  {title}\n");
        for (labels, value) in series {
            let value: f64 = value.parse().unwrap();
            page += &format!("    {labels:<32}{value:>16.4}\n");
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/monitoring");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("panels.txt"), page).unwrap();
}

#[test]
fn a_real_prometheus_takes_the_metrics_of_a_real_site() {
    let mut fleet = Fleet::new(Plan::new(&["one", "two"], "nat")).unwrap();
    let config = format!("{}\n[api]\nmetrics = \"{METRICS}\"\n", fleet.config());
    fs::write(fleet.config_path(), config).unwrap();
    fleet.start().unwrap();
    wait(Duration::from_secs(10), "the node is ready", || {
        Ok(get(&fleet, &format!("http://{METRICS}/readyz")).0 == 200)
    })
    .unwrap();
    assert_eq!(
        get(&fleet, &format!("http://{METRICS}/healthz")),
        (200, "ok\n".to_owned())
    );
    // The address serves nothing else, and nothing that changes anything.
    for path in ["v1/status", "v1/config/history", "", "debug"] {
        assert_eq!(
            get(&fleet, &format!("http://{METRICS}/{path}")).0,
            404,
            "{path}"
        );
    }

    let folder = fleet.path("prometheus");
    fs::create_dir(&folder).unwrap();
    fs::copy(
        deploy("prometheus/steer.rules.yml"),
        folder.join("steer.rules.yml"),
    )
    .unwrap();
    let settings = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 1s}}\n\
         rule_files: [steer.rules.yml]\n\
         scrape_configs: [{{job_name: steer, static_configs: [{{targets: ['{METRICS}']}}]}}]\n"
    );
    fs::write(folder.join("prometheus.yml"), settings).unwrap();
    let mut prometheus = Command::new("prometheus");
    prometheus
        .arg(format!(
            "--config.file={}",
            folder.join("prometheus.yml").display()
        ))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.join("data").display()
        ))
        .arg(format!("--web.listen-address={PROMETHEUS}"))
        .arg("--log.level=warn");
    let _prometheus = fleet.site.node.spawn(prometheus).unwrap();

    let load = Load {
        duration: Duration::from_millis(300),
        ..Load::new(SocketAddr::new(fleet.vip(), HTTP))
    };
    let samples = load.run_in(&fleet.site.client).unwrap();
    let answered = samples.iter().filter(|s| s.error.is_none()).count();
    assert!(answered > 0);
    wait(Duration::from_secs(20), "Prometheus has all of it", || {
        let flows = query(&fleet, "sum(steer_member_flows_total)");
        Ok(query(&fleet, "up") == Some(1.0)
            && flows.is_some_and(|flows| flows >= answered as f64)
            && query(&fleet, "sum(steer_backend_health%7Bhealth=%22up%22%7D)") == Some(2.0)
            && query(&fleet, "sum(steer_probe_round_trip_seconds_count)") > Some(0.0)
            && query(
                &fleet,
                "min(steer_certificate_end_timestamp_seconds)-time()",
            ) > Some(0.0)
            && query(&fleet, "sum(steer_member_first_byte_seconds_count)") > Some(0.0)
            && query(&fleet, "steer_generation") == Some(1.0))
    })
    .unwrap();
    let load = Load {
        duration: Duration::from_secs(3),
        ..load
    };
    load.run_in(&fleet.site.client).unwrap();
    // Histograms are read less often than counters.
    wait(Duration::from_secs(20), "histograms have grown", || {
        let grown = "sum(rate(steer_member_first_byte_seconds_count%5B30s%5D))";
        Ok(query(&fleet, grown) > Some(0.0))
    })
    .unwrap();
    panels_show_what_is(&fleet);
    let (_, rules) = get(&fleet, &format!("http://{PROMETHEUS}/api/v1/rules"));
    let rules: Value = serde_json::from_str(&rules).unwrap();
    for rule in rules["data"]["groups"][0]["rules"].as_array().unwrap() {
        assert_eq!(rule["lastError"].as_str().unwrap_or(""), "", "{rule}");
    }

    // Without the key the address is free again.
    let plain = fleet.path("plain.toml");
    fs::write(&plain, fleet.config()).unwrap();
    fleet
        .cli(&["config", "apply", &plain.display().to_string()])
        .unwrap();
    wait(Duration::from_secs(5), "the address is free", || {
        let curl = ["curl", "-s", "-m", "2", "-o", "/dev/null", METRICS];
        Ok(fleet.site.node.run(&curl).is_err())
    })
    .unwrap();
    // The socket still serves them.
    let socket = fleet.path("steer.sock").display().to_string();
    let page = fleet
        .site
        .node
        .run(&[
            "curl",
            "-s",
            "--unix-socket",
            &socket,
            "http://steer/metrics",
        ])
        .unwrap();
    assert!(page.ends_with("# EOF\n"), "{page}");
    assert!(
        page.contains("steer_member_flows_total{service=\"chat\""),
        "{page}"
    );
    names_fit(&page);
}
