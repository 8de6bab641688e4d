//! Conclusions about a backend, in words.

use crate::{
    domain::{health::State, rules::Doubt},
    journal::Base,
};

/// A changed conclusion.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Conclusion {
    pub(super) health: Option<(State, State)>,
    pub(super) ring: Option<(Option<usize>, usize)>,
    pub(super) draining: Option<bool>,
    pub(super) suppressed: Option<bool>,
    pub(super) lossy: Option<bool>,
    pub(super) hot: Option<bool>,
    pub(super) doubt: Option<Doubt>,
}

impl std::fmt::Display for Conclusion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut words = Vec::new();
        words.extend(
            self.health
                .map(|(from, to)| format!("health {from} -> {to}")),
        );
        words.extend(self.ring.map(|(from, to)| match from {
            Some(from) => format!("ring {from} -> {to}"),
            None => format!("ring {to}"),
        }));
        words.extend(self.draining.map(|draining| format!("draining {draining}")));
        words.extend(self.suppressed.map(|out| format!("ejected {out}")));
        words.extend(self.lossy.map(|lossy| format!("lossy {lossy}")));
        words.extend(self.hot.map(|hot| format!("hot {hot}")));
        words.extend(self.doubt.map(|doubt| {
            let doubt = match doubt {
                Doubt::None => "none",
                Doubt::Silent => "silent",
                Doubt::Untrusted => "untrusted",
            };
            format!("doubt {doubt}")
        }));
        if words.is_empty() {
            words.push("no change".to_owned());
        }
        f.write_str(&words.join(", "))
    }
}

/// Conclusions about a backend, in words.
pub(super) fn words(base: &Base) -> String {
    let ring = base.nearness.ring();
    let ring = ring.map_or("no ring".to_owned(), |ring| format!("ring {ring}"));
    let mut text = format!("{}, {ring}", base.health.state());
    let flags = [
        (base.draining, ", draining"),
        (base.judged.suppressed, ", ejected for flapping"),
        (base.judged.hot, ", hot"),
    ];
    for (_, word) in flags.iter().filter(|(flag, _)| *flag) {
        text += word;
    }
    text
}
