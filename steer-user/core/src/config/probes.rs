//! The keys `probes` and `require` of `[[backend]]`.

use steer_probe::probe::Method;

use super::{
    raw::{self, Require},
    report::Report,
};

/// Advice about a probe method.
const PROBES: &str = "write beacon, tcp:8000, http:8000/health, https:443/health or h3:443/health";

/// Returns the replacement for a URL, a path, or a probe kind without a port.
fn instead(raw: &raw::Backend, text: &str) -> Option<String> {
    let port = raw.port.as_ref().map_or(8000, |port| *port.get_ref());
    let write = |probe: String| {
        let is_one = probe.parse::<Method>().is_ok();
        is_one.then(|| format!("write {probe}: the address is the backend's"))
    };
    if text.starts_with('/') {
        return write(format!("http:{port}{text}"));
    }
    if let Some((kind, rest)) = text.split_once("://") {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let usual = if kind == "http" { "80" } else { "443" };
        let port = match authority.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => port,
            _ => usual,
        };
        return write(format!("{kind}:{port}{path}"));
    }
    match text {
        "tcp" | "http" | "https" | "h3" => write(format!("{text}:{port}")),
        _ => None,
    }
}

/// Maximum number of probe methods of one backend.
const MAX_PROBES: usize = 32;

/// Returns the probe methods of a backend, the beacon first, and the number that must succeed.
pub(super) fn probes(raw: &raw::Backend, report: &mut Report<'_>) -> (Vec<Method>, usize) {
    let mut methods: Vec<Method> = Vec::new();
    match &raw.probes {
        None => methods.extend(raw.beacon.as_ref().map(|_| Method::Beacon)),
        Some(list) => {
            if list.get_ref().len() > MAX_PROBES {
                let what = format!("more than {MAX_PROBES} probes of one backend");
                report.add(list.span(), what, "remove some");
            }
            for text in list.get_ref().iter().take(MAX_PROBES) {
                match text.get_ref().parse::<Method>() {
                    Ok(method) if methods.contains(&method) => {
                        let what = format!("probe {:?} is listed twice", text.get_ref());
                        report.add(text.span(), what, "remove one of them");
                    }
                    Ok(method) => {
                        if method == Method::Beacon && raw.beacon.is_none() {
                            let todo = "write its address and port: beacon = \"192.0.2.1:7100\"";
                            report.add(text.span(), "the backend has no `beacon`", todo);
                        }
                        methods.push(method);
                    }
                    Err(_) => {
                        let what = format!("{:?} is not a probe method", text.get_ref());
                        let todo = match report.is_hidden(text.get_ref()) {
                            true => None,
                            false => instead(raw, text.get_ref()),
                        };
                        report.add(text.span(), what, todo.unwrap_or_else(|| PROBES.to_owned()));
                    }
                }
            }
            if let Some(beacon) = raw
                .beacon
                .as_ref()
                .filter(|_| !methods.contains(&Method::Beacon))
            {
                let todo = "add \"beacon\" to `probes`, or remove this";
                report.add(beacon.span(), "`probes` does not include this beacon", todo);
            }
        }
    }
    // The beacon has the most information, and speaks for the other methods.
    methods.sort_by_key(|method| *method != Method::Beacon);
    let all = methods.len().max(1);
    let Some(require) = &raw.require else {
        return (methods, all);
    };
    let number = match require.get_ref() {
        Require::Word(word) if word == "all" => Some(all),
        Require::Word(word) if word == "any" => Some(1),
        Require::Word(_) => None,
        Require::Number(number) => usize::try_from(*number)
            .ok()
            .filter(|n| (1..=all).contains(n)),
    };
    let number = number.unwrap_or_else(|| {
        let what = "`require` is not all, any, or a number of its probes";
        report.add(
            require.span(),
            what,
            format!("write all, any, or 1 to {all}"),
        );
        all
    });
    (methods, number)
}
