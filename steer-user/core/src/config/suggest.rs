//! Suggestions for unknown names.

/// Number of names from which none are compared, because each comparison takes time.
const MAX_NAMES: usize = 256;

/// Returns the known name nearest to a written one, if any is near.
pub(super) fn nearest<'n>(
    written: &str,
    known: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    let written = plain(written);
    let near = |name: &&'n str| {
        let known = plain(name);
        if known.is_empty() {
            return None;
        }
        // Numbered names are all equally near to each other.
        if written != known && letters(&written) == letters(&known) {
            return None;
        }
        let distance = strsim::damerau_levenshtein(&written, &known);
        // A third of the letters may differ; in short names one, or none.
        let len = known.chars().count();
        let allowed = if len < 3 { 0 } else { (len / 3).max(1) };
        let extends =
            written.len() >= 4 && (known.starts_with(&written) || written.starts_with(&known));
        // Whole words of it are nearer than letters.
        let is_begin = written.len() >= 4 && known.starts_with(&format!("{written}_"));
        let distance = if is_begin { distance.min(1) } else { distance };
        (distance <= allowed || extends).then_some((distance, *name))
    };
    known
        .into_iter()
        .take(MAX_NAMES)
        .filter_map(|name| near(&name))
        .min()
        .map(|(_, name)| name)
}

/// Returns a name in the form used for comparison.
fn plain(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

/// Returns a name without its digits.
fn letters(name: &str) -> String {
    name.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Keys and sections of other programs, with their replacement: section, key, advice.
const KEYS: &[(&str, &str, &str)] = &[
    ("node", "nic", "write `interfaces`"),
    ("node", "device", "write `interfaces`"),
    ("node", "devices", "write `interfaces`"),
    ("node", "hostname", "write `name`"),
    (
        "backend",
        "weight",
        "write `capacity`, its weight relative to other backends",
    ),
    ("backend", "host", "write `address`"),
    ("backend", "ip", "write `address`"),
    (
        "backend",
        "url",
        "write `address`, and `port` in mode \"nat\"",
    ),
    (
        "backend",
        "server",
        "write `address`, and `port` in mode \"nat\"",
    ),
    ("backend", "maxconn", "write `max_in_flight`"),
    ("backend", "max_connections", "write `max_in_flight`"),
    (
        "backend",
        "check",
        "write `probes`, like [\"http:8000/health\"]",
    ),
    (
        "backend",
        "health",
        "write `probes`, like [\"http:8000/health\"]",
    ),
    (
        "backend",
        "health_check",
        "write `probes`, like [\"http:8000/health\"]",
    ),
    (
        "backend",
        "healthcheck",
        "write `probes`, like [\"http:8000/health\"]",
    ),
    (
        "backend",
        "probe",
        "write `probes`, like [\"http:8000/health\"]",
    ),
    ("pool", "servers", "write `backends`"),
    ("pool", "members", "write `backends`"),
    ("pool", "endpoints", "write `backends`"),
    ("pool", "targets", "write `backends`"),
    ("service", "listen", "write `address` and `port`"),
    ("service", "bind", "write `address` and `port`"),
    ("service", "vip", "write `address`"),
    (
        "service",
        "backends",
        "write `pools`, and put the backends into a [[pool]]",
    ),
    ("service", "upstream", "write `pools`"),
    ("service", "pool", "write `pools`, a list"),
    ("service", "new_flows", "write `new_flows_per_second`"),
    ("service", "timeout", "write `idle_timeout`"),
    (
        "service",
        "classes",
        "write [[class]], with `service` and the name of this one",
    ),
    ("", "frontend", "write [[service]]"),
    ("", "listener", "write [[service]]"),
    ("", "vip", "write [[service]]"),
    ("", "upstream", "write [[pool]]"),
    ("", "cluster", "write [[pool]]"),
    ("", "server", "write [[backend]]"),
    ("", "endpoint", "write [[backend]]"),
    ("", "tunnel", "write [encap]"),
    ("", "metrics", "write `metrics` in [api], or [telemetry]"),
];

/// Returns the replacement for another program's key; `section` is empty for sections.
pub(super) fn foreign_key(section: &str, key: &str) -> Option<&'static str> {
    let key = key.to_lowercase().replace('-', "_");
    let mut found = KEYS.iter();
    found
        .find(|(of, name, _)| *of == section && *name == key)
        .map(|(_, _, todo)| *todo)
}

/// Returns the replacement for another program's value.
pub(super) fn foreign_value(key: &str, value: &str) -> Option<&'static str> {
    match (key, value.to_lowercase().as_str()) {
        ("protocol", "http" | "https" | "http1" | "http2" | "h2" | "grpc" | "tls" | "ssl") => {
            Some("write `tcp`, which carries it: steer sees connections and not requests")
        }
        ("protocol", "quic" | "h3" | "http3") => Some("write `udp`, and `quic = true`"),
        ("mode", "dsr" | "dr" | "direct") => Some(
            "write `l2` for backends on the same link, or `ipip` or `gue`: in all three they answer clients directly",
        ),
        ("mode", "snat" | "dnat" | "masquerade" | "fullnat" | "full-nat") => Some("write `nat`"),
        ("mode", "tunnel" | "tun" | "ip-in-ip" | "ipip6") => Some("write `ipip`"),
        ("xdp_mode", "skb") => Some("write `generic`"),
        ("xdp_mode", "drv" | "driver") => Some("write `native`"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_suggested_and_what_is_not_is_not() {
        let known = ["name", "region", "interfaces", "xdp_mode", "rise", "fall"];
        for (written, meant) in [
            ("interface", Some("interfaces")),
            ("interfacse", Some("interfaces")),
            ("Region", Some("region")),
            ("xdp-mode", Some("xdp_mode")),
            ("raise", Some("rise")),
            ("nmae", Some("name")),
            ("colour", None),
            ("zzz", None),
            ("", None),
            ("xdp", None),
            ("fall_after", Some("fall")),
        ] {
            assert_eq!(nearest(written, known), meant, "{written}");
        }
        let rates = ["open_flows", "new_flows_burst"];
        assert_eq!(nearest("new_flows", rates), Some("new_flows_burst"));
        assert_eq!(nearest("gpu", [""]), None);
        assert_eq!(nearest("gpu-3", ["gpu-1", "gpu-2"]), None);
        assert_eq!(nearest("b3", ["b1", "bx"]), None);
        assert_eq!(nearest("gpx-1", ["gpu-2", "gpu-1"]), Some("gpu-1"));
    }
}
