//! Conversion of text to sections. Each section is read by itself, so that one mistake does not
//! hide the next.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

use super::advice::{Place, bracketed};
use super::document::Document;
use super::merge::{self, Variables};
use super::report::Report;
use super::{
    Config, api, backends, balance, classes, limits, node, quic, raw, services, suggest, telemetry,
};

/// Upper bound of mistakes reported for one section.
const MAX_MISTAKES: usize = 8;
/// Names of all sections.
const SECTIONS: [&str; 14] = [
    "node",
    "nat",
    "encap",
    "admission",
    "limits",
    "probe",
    "balance",
    "api",
    "telemetry",
    "quic",
    "backend",
    "pool",
    "service",
    "class",
];

/// Returns whether a section may come more than once.
pub(super) fn is_list(section: &str) -> bool {
    matches!(section, "quic" | "backend" | "pool" | "service" | "class")
}

/// Sections read so far.
#[derive(Default)]
pub(super) struct Sections {
    node: Option<raw::Node>,
    nat: Single<raw::Nat>,
    encap: Single<raw::Encap>,
    admission: Single<raw::Admission>,
    limits: Single<raw::Limits>,
    probe: Single<raw::Probe>,
    balance: Single<raw::Balance>,
    api: Single<raw::Api>,
    telemetry: Single<raw::Telemetry>,
    quic: List<raw::Quic>,
    backends: List<raw::Backend>,
    pools: List<raw::Pool>,
    services: List<raw::Service>,
    classes: List<raw::Class>,
}

/// A section that occurs at most once.
#[derive(Default)]
pub(super) struct Single<T> {
    pub(super) raw: T,
    /// Whether the section exists but could not be read, so that its content is unknown.
    pub(super) broken: bool,
}

/// A section that may be repeated.
pub(super) struct List<T> {
    pub(super) items: Vec<T>,
    /// Whether some could not be read, so that a reference may point to one of them.
    pub(super) partial: bool,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            partial: false,
        }
    }
}

pub(super) fn sections(
    document: &Document,
    variable: Variables<'_>,
    report: &mut Report<'_>,
) -> Sections {
    let mut sections = Sections::default();
    let Some(table) = merge::table(document, variable, report) else {
        return sections;
    };
    if table.is_empty() {
        let todo = "`steer config example` prints a file to begin with";
        report.add(0..0, "it is empty", todo);
        return sections;
    }
    let mut unknown = false;
    for (key, mut value) in table {
        let span = key.span();
        report.section(key.get_ref(), span.clone());
        let name = key.get_ref().as_ref();
        unknown |= take_sections(name, value.get_mut(), report);
        let section = Section { name, value, span };
        match name {
            "node" => sections.node = section.one(report),
            "nat" => sections.nat = section.single(report),
            "encap" => sections.encap = section.single(report),
            "admission" => sections.admission = section.single(report),
            "limits" => sections.limits = section.single(report),
            "api" => sections.api = section.single(report),
            "telemetry" => sections.telemetry = section.single(report),
            "probe" => sections.probe = section.single(report),
            "balance" => sections.balance = section.single(report),
            "quic" => sections.quic = section.each(report),
            "backend" => sections.backends = section.each(report),
            "pool" => sections.pools = section.each(report),
            "service" => sections.services = section.each(report),
            "class" => sections.classes = section.each(report),
            _ => {
                unknown = true;
                section.unknown(report);
            }
        }
    }
    if unknown {
        sections.nothing_is_known();
    }
    if sections.node.is_none() && report.is_empty() {
        let todo = "add it, with name, region and interfaces";
        report.add(0..0, "the section [node] is missing", todo);
    }
    sections
}

/// Takes sections that stand inside another one out of it, and says so. Returns whether there were any.
fn take_sections(within: &str, value: &mut DeValue<'_>, report: &mut Report<'_>) -> bool {
    let table = match value {
        DeValue::Array(items) => {
            let mut found = false;
            for item in items.iter_mut() {
                found |= take_sections(within, item.get_mut(), report);
            }
            return found;
        }
        DeValue::Table(table) if SECTIONS.contains(&within) => table,
        _ => return false,
    };
    let is_section = |value: &DeValue<'_>| match value {
        DeValue::Table(_) => true,
        DeValue::Array(items) => {
            !items.is_empty() && items.iter().all(|item| item.get_ref().is_table())
        }
        _ => false,
    };
    let inner = table.iter().filter(|(key, value)| {
        SECTIONS.contains(&key.get_ref().as_ref()) && is_section(value.get_ref())
    });
    let inner: Vec<(String, Range<usize>)> = inner
        .map(|(key, _)| (key.get_ref().clone().into_owned(), key.span()))
        .collect();
    for (key, span) in &inner {
        table.remove(key.as_str());
        if key == within {
            let what = format!("`{key}.` stands below {} already", bracketed(key));
            report.add(span.clone(), what, format!("leave `{key}.` out"));
            continue;
        }
        let what = format!(
            "`{key}` is a section, and stands inside {}",
            bracketed(within)
        );
        let todo = format!(
            "write {} on a line of its own, and its keys below it",
            bracketed(key)
        );
        report.add(span.clone(), what, todo);
    }
    !inner.is_empty()
}

/// Upper bound of sections of one kind, equal to the number of members.
const MAX_ITEMS: usize = limits::MAX_MEMBERS;

struct Section<'s, 'v> {
    name: &'s str,
    value: Spanned<DeValue<'v>>,
    span: Range<usize>,
}

impl Section<'_, '_> {
    fn single<T: DeserializeOwned + Default>(self, report: &mut Report<'_>) -> Single<T> {
        let found = self.one(report);
        Single {
            broken: found.is_none(),
            raw: found.unwrap_or_default(),
        }
    }

    /// Reads the section. If a key is invalid, it is read again without that key to find the next
    /// mistake.
    fn one<T: DeserializeOwned>(mut self, report: &mut Report<'_>) -> Option<T> {
        if self.value.get_ref().is_array() {
            let what = format!("[{}] has two brackets", self.name);
            report.add(
                self.span,
                what,
                "write one on each side: the section occurs once",
            );
            return None;
        }
        let mut doubtful: Vec<String> = Vec::new();
        for turn in 0..MAX_MISTAKES {
            let read = T::deserialize(ValueDeserializer::from(self.value.clone()));
            let Err(error) = read else {
                return read.ok().filter(|_| turn == 0);
            };
            let span = error.span().unwrap_or_else(|| self.span.clone());
            let key = self.remove(&span);
            if key.is_none() && turn > 0 && misses_one_of(error.message(), &doubtful) {
                return None;
            }
            let advice = self
                .place(key.as_ref(), &span, report)
                .advice(error.message());
            report.add(span, advice.what, advice.todo);
            doubtful.extend(advice.meant);
            doubtful.push(key?.name);
        }
        None
    }

    /// Removes the entry at a position from the section.
    fn remove(&mut self, at: &Range<usize>) -> Option<Entry> {
        let DeValue::Table(table) = self.value.get_mut() else {
            return None;
        };
        let (name, value) = table.iter().find_map(|(key, value)| {
            let (name, value) = (key.span(), value.span());
            let belongs =
                name.contains(&at.start) || (value.start <= at.start && at.end <= value.end);
            belongs.then(|| (key.get_ref().clone().into_owned(), value))
        })?;
        table.remove(name.as_str());
        Some(Entry { name, value })
    }

    fn place<'p>(
        &'p self,
        entry: Option<&'p Entry>,
        span: &Range<usize>,
        report: &'p Report<'_>,
    ) -> Place<'p> {
        let whole = entry.map_or(0..0, |entry| entry.value.clone());
        let inside = whole.start < span.start && span.end <= whole.end;
        Place {
            section: self.name,
            key: entry.map_or("", |entry| entry.name.as_str()),
            value: report.source(if inside { span } else { &whole }),
            inside,
        }
    }

    fn each<T: DeserializeOwned>(self, report: &mut Report<'_>) -> List<T> {
        let mut list = List::default();
        let name = self.name;
        let DeValue::Array(values) = self.value.into_inner() else {
            list.partial = true;
            let todo = format!("write [[{name}]], with two brackets: the section may be repeated");
            report.add(self.span, format!("[{name}] is a list"), todo);
            return list;
        };
        if values.len() > MAX_ITEMS {
            list.partial = true;
            let what = format!(
                "{} sections of this kind, which are more than {MAX_ITEMS}",
                values.len()
            );
            report.add(self.span, what, "spread the services over several nodes");
            return list;
        }
        for value in values {
            if report.is_over() {
                list.partial = true;
                break;
            }
            let span = value.span();
            match (Section { name, value, span }).one(report) {
                Some(item) => list.items.push(item),
                None => list.partial = true,
            }
        }
        list
    }

    fn unknown(self, report: &mut Report<'_>) {
        let name = self.name;
        let is_section = self.value.get_ref().is_table()
            || self.value.get_ref().as_array().is_some_and(|items| {
                !items.is_empty() && items.iter().all(|item| item.get_ref().is_table())
            });
        if !is_section {
            let what = format!("`{name}` is outside of all sections");
            report.add(self.span, what, "move it into its section, like [node]");
            return;
        }
        let todo = match (
            suggest::foreign_key("", name),
            suggest::nearest(name, SECTIONS),
        ) {
            (Some(todo), _) => todo.to_owned(),
            (None, Some(near)) => format!("did you mean {}?", bracketed(near)),
            (None, None) => {
                let all: Vec<String> = SECTIONS.into_iter().map(bracketed).collect();
                format!("write one of {}", all.join(", "))
            }
        };
        report.add(self.span, format!("unknown section `{name}`"), todo);
    }
}

/// An invalid entry of a section.
struct Entry {
    name: String,
    value: Range<usize>,
}

/// Returns whether a message is about one of these missing keys, which were removed because they
/// are invalid.
fn misses_one_of(message: &str, keys: &[String]) -> bool {
    let missing = message.strip_prefix("missing field `");
    let missing = missing.and_then(|rest| rest.split('`').next());
    missing.is_some_and(|missing| keys.iter().any(|key| key == missing))
}

impl Sections {
    /// Marks the section that an unknown name was probably meant for as unknown, so that it is not
    /// reported as missing.
    fn nothing_is_known(&mut self) {
        self.backends.partial = true;
        self.pools.partial = true;
        self.services.partial = true;
        self.nat.broken = true;
        self.encap.broken = true;
        self.probe.broken = true;
    }

    /// Checks everything that is present. Returns `None` if too much is missing; there is a problem
    /// to report then.
    pub(super) fn build(self, report: &mut Report<'_>) -> Option<Config> {
        let node = self.node.map(|raw| node::node(raw, report));
        let nat = node::nat(self.nat, report);
        let (encap, encap_known) = node::encap(self.encap, report);
        let admission = node::admission(&self.admission.raw, report);
        let limits = limits::limits(&self.limits.raw, &nat, report);
        let with_beacons = self.backends.items.iter().any(|b| b.beacon.is_some());
        let probe = node::probe(self.probe, with_beacons, report);
        let quic = quic::layouts(self.quic, report);
        let context = backends::Context {
            quic: &quic,
            home: node.as_ref().map_or("", |n| n.region.as_str()),
            nat: nat.known.then_some(&nat.typed),
            encap: encap_known.then_some(&encap),
        };
        let balance = balance::balance(&self.balance.raw, report);
        let api = api::api(&self.api.raw, report);
        let otlp = telemetry::otlp(&self.telemetry.raw, report);
        let backends = backends::backends(self.backends, &context, report);
        let pools = backends::pools(self.pools, &backends, report);
        let mut services = services::services(self.services, &pools, &backends, report);
        classes::classes(self.classes, &mut services, &pools, &backends, report);
        let config = Config {
            node: node?,
            nat: nat.typed.clone(),
            encap,
            admission,
            limits,
            probe,
            balance,
            api,
            otlp,
            quic,
            backends: backends.all()?,
            pools: pools.all()?,
            services: services.all()?,
        };
        limits::addresses(&nat, &config, report);
        limits::sizes(&config, report);
        quic::check(&config, report);
        Some(config)
    }
}
