//! From text to sections. Each is read by itself, so that one mistake doesn't hide the next.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

use super::document::Document;
use super::merge::{self, Variables};
use super::report::Report;
use super::{
    Config, api, backends, balance, classes, limits, node, quic, raw, services, telemetry,
};

/// The sections that could be read.
#[derive(Default)]
pub(super) struct Sections {
    node: Option<raw::Node>,
    nat: raw::Nat,
    encap: raw::Encap,
    admission: raw::Admission,
    limits: raw::Limits,
    probe: raw::Probe,
    balance: raw::Balance,
    api: raw::Api,
    telemetry: raw::Telemetry,
    quic: List<raw::Quic>,
    backends: List<raw::Backend>,
    pools: List<raw::Pool>,
    services: List<raw::Service>,
    classes: List<raw::Class>,
}

/// A section that may come more than once.
pub(super) struct List<T> {
    pub(super) items: Vec<T>,
    /// Some could not be read, so that a reference may point to one of them.
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
    for (key, value) in table {
        let span = key.span();
        report.section(key.get_ref(), span.clone());
        let section = Section { value, span };
        match key.get_ref().as_ref() {
            "node" => sections.node = section.one(report),
            "nat" => sections.nat = section.one(report).unwrap_or_default(),
            "encap" => sections.encap = section.one(report).unwrap_or_default(),
            "admission" => {
                sections.admission = section.one(report).unwrap_or_default();
            }
            "limits" => sections.limits = section.one(report).unwrap_or_default(),
            "api" => sections.api = section.one(report).unwrap_or_default(),
            "telemetry" => sections.telemetry = section.one(report).unwrap_or_default(),
            "probe" => sections.probe = section.one(report).unwrap_or_default(),
            "balance" => sections.balance = section.one(report).unwrap_or_default(),
            "quic" => sections.quic = section.each(report),
            "backend" => sections.backends = section.each(report),
            "pool" => sections.pools = section.each(report),
            "service" => sections.services = section.each(report),
            "class" => sections.classes = section.each(report),
            other => report.add(
                section.span,
                format!("unknown section `{other}`"),
                "write [node], [nat], [encap], [admission], [limits], [probe], [balance], [api], \
                 [telemetry], [[quic]], [[backend]], [[pool]], [[service]] or [[class]]",
            ),
        }
    }
    if sections.node.is_none() && report.is_empty() {
        let todo = "add it, with name, region and interfaces";
        report.add(0..0, "there is no section [node]", todo);
    }
    sections
}

/// Sections of one kind: no more than members there may be.
const MAX_ITEMS: usize = limits::MAX_MEMBERS;

struct Section<'a> {
    value: Spanned<DeValue<'a>>,
    span: Range<usize>,
}

impl Section<'_> {
    fn one<T: DeserializeOwned>(self, report: &mut Report<'_>) -> Option<T> {
        T::deserialize(ValueDeserializer::from(self.value))
            .inspect_err(|e| report.add_toml(e, self.span))
            .ok()
    }

    fn each<T: DeserializeOwned>(self, report: &mut Report<'_>) -> List<T> {
        let mut list = List::default();
        let DeValue::Array(values) = self.value.into_inner() else {
            list.partial = true;
            let todo = "write it with two brackets on each side: it may come more than once";
            report.add(self.span, "this section is a list", todo);
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
            match (Section { value, span }).one(report) {
                Some(item) => list.items.push(item),
                None => list.partial = true,
            }
        }
        list
    }
}

impl Sections {
    /// Checks all that is there. `None` if too much is missing; then there is a problem to report.
    pub(super) fn build(self, report: &mut Report<'_>) -> Option<Config> {
        let node = self.node.map(|raw| node::node(raw, report));
        let nat = node::nat(self.nat, report);
        let encap = node::encap(self.encap, report);
        let admission = node::admission(&self.admission, report);
        let limits = limits::limits(&self.limits, &nat, report);
        let with_beacons = self.backends.items.iter().any(|b| b.beacon.is_some());
        let probe = node::probe(self.probe, with_beacons, report);
        let quic = quic::layouts(self.quic, report);
        let context = backends::Context {
            quic: &quic,
            home: node.as_ref().map_or("", |n| n.region.as_str()),
            nat: &nat.typed,
            encap: &encap,
        };
        let balance = balance::balance(&self.balance, report);
        let api = api::api(&self.api, report);
        let otlp = telemetry::otlp(&self.telemetry, report);
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
