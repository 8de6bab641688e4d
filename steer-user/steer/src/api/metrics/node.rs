//! Metric families from the node's status. Labels are names of the configuration and words of a
//! fixed set; no label ever contains a client.

use std::fmt;

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use steer_common::{abi::AdmissionDrops, verdict::DropReason};
use steer_core::control::{BackendStatus, ClassStatus, MemberStatus, ServiceStatus, Status};

use super::writer::{Writer, family};

/// States of a member.
const STATES: [&str; 4] = ["up", "draining", "down", "absent"];
/// Health states of a backend.
const HEALTH: [&str; 5] = ["up", "degraded", "down", "unknown", "unprobed"];

#[derive(Debug)]
pub(super) struct Node(pub(super) Status);

impl Collector for Node {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Writer(encoder);
        self.node(&mut page)?;
        self.services(&mut page)?;
        self.classes(&mut page)?;
        self.members(&mut page)?;
        self.backends(&mut page)
    }
}

impl Node {
    fn node(&self, page: &mut Writer<'_>) -> fmt::Result {
        let Self(status) = self;
        let info = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("node", &status.node),
        ];
        page.gauges(
            family(
                "steer_build_info",
                "Version of the daemon and name of the node; always 1.",
            ),
            [(info, 1.0)],
        )?;
        page.gauge(
            family(
                "steer_generation",
                "Generation of the configuration in use; 0 if it is not stored.",
            ),
            status.generation.unwrap_or(0) as f64,
        )?;
        page.gauge(
            family(
                "steer_generation_unconfirmed",
                "1 while the configuration is pending confirmation.",
            ),
            flag(status.confirm_by.is_some()),
        )?;
        page.gauge(
            family(
                "steer_frozen",
                "1 while tables are frozen because not all backends have been measured since the \
                 daemon started.",
            ),
            flag(status.frozen),
        )?;
        page.counters(
            family(
                "steer_contradicted_verdicts",
                "Signals against backends that were contradicted, for instance by answers to \
                 clients.",
            ),
            [([("node", status.node.as_str())], status.contradicted)],
        )?;
        let drops = DropReason::ALL.iter().map(|reason| {
            let name = reason.name();
            let count = status.drops.get(name).copied().unwrap_or(0);
            ([("reason", name)], count)
        });
        page.counters(
            family(
                "steer_dropped_packets",
                "Packets dropped, or answered in a backend's place, by reason.",
            ),
            drops,
        )
    }

    fn services(&self, page: &mut Writer<'_>) -> fmt::Result {
        let each = |value: fn(&ServiceStatus) -> f64| {
            let services = self.0.services.iter();
            services.map(move |service| ([("service", service.name.as_str())], value(service)))
        };
        page.gauges(
            family("steer_service_slots", "Slots in the table of the service."),
            each(|service| service.slots as f64),
        )?;
        page.gauges(
            family(
                "steer_service_migrating_slots",
                "Slots whose open flows go to another member than new ones.",
            ),
            each(|service| service.migrating as f64),
        )?;
        page.gauges(
            family("steer_service_members_up", "Members that take new flows."),
            each(|service| {
                let up = service.members.iter().filter(|member| member.state == "up");
                up.count() as f64
            }),
        )?;
        self.refused(page)
    }

    /// Writes the refused flows of services and of their classes.
    fn refused(&self, page: &mut Writer<'_>) -> fmt::Result {
        let policies = || {
            let services = self.0.services.iter();
            services.flat_map(|service| {
                let own = (service.name.as_str(), "", service.shed, &service.refused);
                let classes = service.classes.iter();
                let classes = classes.map(|class| {
                    (
                        service.name.as_str(),
                        class.name.as_str(),
                        class.shed,
                        &class.refused,
                    )
                });
                std::iter::once(own).chain(classes)
            })
        };
        page.counters(
            family(
                "steer_refused_packets",
                "Refused packets by service or class, and reason.",
            ),
            policies().flat_map(|(service, class, _, refused)| {
                AdmissionDrops::REASONS.into_iter().map(move |reason| {
                    let count = refused.get(reason.name()).copied().unwrap_or(0);
                    let labels = [
                        ("service", service),
                        ("class", class),
                        ("reason", reason.name()),
                    ];
                    (labels, count)
                })
            }),
        )?;
        page.gauges(
            family(
                "steer_shedding",
                "1 while new flows are shed because of their priority.",
            ),
            policies().map(|(service, class, shed, _)| {
                ([("service", service), ("class", class)], flag(shed))
            }),
        )
    }

    fn classes(&self, page: &mut Writer<'_>) -> fmt::Result {
        let classes = || {
            let services = self.0.services.iter();
            services.flat_map(|service| {
                let name = service.name.as_str();
                service.classes.iter().map(move |class| (name, class))
            })
        };
        let each = |value: fn(&ClassStatus) -> f64| {
            classes().map(move |(service, class)| {
                let labels = [("service", service), ("class", class.name.as_str())];
                (labels, value(class))
            })
        };
        page.gauges(
            family("steer_class_slots", "Slots in the table of the class."),
            each(|class| class.slots as f64),
        )?;
        page.gauges(
            family(
                "steer_class_migrating_slots",
                "Slots of the class whose open flows go to another member than new ones.",
            ),
            each(|class| class.migrating as f64),
        )?;
        let shares = classes().flat_map(|(service, class)| {
            class.shares.iter().map(move |(backend, share)| {
                let labels = [
                    ("service", service),
                    ("class", class.name.as_str()),
                    ("backend", backend.as_str()),
                ];
                (labels, *share)
            })
        });
        page.gauges(
            family(
                "steer_class_share_ratio",
                "Share of the class's slots whose new flows go to the backend, from 0 to 1.",
            ),
            shares,
        )
    }

    fn members(&self, page: &mut Writer<'_>) -> fmt::Result {
        let members = || {
            let services = self.0.services.iter();
            services.flat_map(|service| {
                let labels = move |member: &'_ MemberStatus| {
                    [
                        ("service", service.name.clone()),
                        ("backend", member.backend.clone()),
                    ]
                };
                service.members.iter().map(move |m| (labels(m), m))
            })
        };
        let counts = |value: fn(&MemberStatus) -> u64| {
            members().map(move |(labels, member)| (labels, value(member)))
        };
        page.counters(
            family(
                "steer_member_packets",
                "Packets from clients sent to the backend.",
            ),
            counts(|member| member.packets),
        )?;
        page.counters(
            family(
                "steer_member",
                "Bytes of these packets as received, with Ethernet headers.",
            )
            .bytes(),
            counts(|member| member.bytes),
        )?;
        page.counters(
            family(
                "steer_member_flows",
                "New flows: TCP connections, and all flows of mode nat.",
            ),
            counts(|member| member.flows),
        )?;
        page.counters(
            family(
                "steer_member_replies",
                "Packets from the backend translated back to clients, in mode nat.",
            ),
            counts(|member| member.replies),
        )?;
        page.gauges(
            family(
                "steer_member_share_ratio",
                "Share of the service's slots whose new flows go to the backend, from 0 to 1.",
            ),
            members().map(|(labels, member)| (labels, member.share)),
        )?;
        let states = members().flat_map(|(labels, member)| {
            let [service, backend] = labels;
            STATES.map(|state| {
                let labels = [
                    service.clone(),
                    backend.clone(),
                    ("state", state.to_owned()),
                ];
                (labels, flag(member.state == state))
            })
        });
        page.gauges(
            family(
                "steer_member_state",
                "State of the member in the kernel: 1 for the current one.",
            ),
            states,
        )
    }

    fn backends(&self, page: &mut Writer<'_>) -> fmt::Result {
        let each = |value: fn(&BackendStatus) -> Option<f64>| {
            let backends = self.0.backends.iter();
            backends.filter_map(move |backend| {
                Some(([("backend", backend.name.as_str())], value(backend)?))
            })
        };
        let health = self.0.backends.iter().flat_map(|backend| {
            HEALTH.map(|health| {
                let labels = [("backend", backend.name.as_str()), ("health", health)];
                (labels, flag(backend.health == health))
            })
        });
        page.gauges(
            family(
                "steer_backend_health",
                "Health of the backend by its probes: 1 for the current one.",
            ),
            health,
        )?;
        page.gauges(
            family(
                "steer_backend_round_trip",
                "Smoothed round-trip time of probes.",
            )
            .seconds(),
            each(|backend| backend.rtt_us.map(|us| us as f64 / 1e6)),
        )?;
        page.gauges(
            family(
                "steer_backend_ring",
                "Ring of round-trip times; 0 is the nearest.",
            ),
            each(|backend| backend.ring.map(|ring| ring as f64)),
        )?;
        page.gauges(
            family(
                "steer_backend_last_probe_age",
                "Time since the last probe of the backend.",
            )
            .seconds(),
            each(|backend| backend.measured_ms_ago.map(|ms| ms as f64 / 1e3)),
        )?;
        page.gauges(
            family(
                "steer_backend_weight",
                "Weight relative to other backends: set by the operator, or the capacity.",
            ),
            each(|backend| Some(f64::from(backend.weight))),
        )?;
        page.gauges(
            family(
                "steer_backend_utilization_ratio",
                "Smoothed utilization used for the weight; 1 is full. Absent without a recent \
                 load report.",
            ),
            each(|backend| backend.used),
        )?;
        page.gauges(
            family(
                "steer_backend_drained",
                "1 while the operator drains the backend.",
            ),
            each(|backend| Some(flag(backend.drained))),
        )?;
        page.gauges(
            family(
                "steer_backend_draining",
                "1 while its beacon reports that the backend drains.",
            ),
            each(|backend| Some(flag(backend.draining))),
        )?;
        page.gauges(
            family(
                "steer_backend_resolved",
                "1 while the next hop is resolved: interface and MAC address.",
            ),
            each(|backend| Some(flag(backend.resolved))),
        )
    }
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}
