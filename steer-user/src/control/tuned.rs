//! Setting knobs while the daemon runs.

use std::time::Duration;

use steer_telemetry as telemetry;
use tracing::info;

use super::{
    controller::SWEEP_EVERY,
    run::Daemon,
    tune::{self, Knob, KnobStatus, TuneError, Tuning, Value},
};
use crate::{config::Config, journal::Event};

impl Daemon {
    /// All knobs as they are set.
    pub(super) fn knobs(&self) -> Vec<KnobStatus> {
        // What the configuration says where nothing is set. It was good when it was applied.
        let plain = self.in_use.document.config().ok();
        let plain = plain.as_ref().unwrap_or(self.controller.config());
        let all = Knob::ALL.into_iter();
        all.map(|knob| self.knob(knob, plain)).collect()
    }

    fn knob(&self, knob: Knob, plain: &Config) -> KnobStatus {
        KnobStatus {
            name: knob.name().to_owned(),
            what: knob.what().to_owned(),
            value: self.value(knob).to_string(),
            default: default(knob, plain).to_string(),
            unit: knob.unit().to_owned(),
            values: knob.values(),
            outlives_reload: knob.outlives_reload(),
        }
    }

    fn value(&self, knob: Knob) -> Value {
        if knob == Knob::Log {
            return Value::Filter(telemetry::filter());
        }
        let tuning = &self.controller.tuning;
        let config = self.controller.config();
        tune::value(
            knob,
            config,
            &tuning.settings(config),
            tuning.sweep_every.unwrap_or(SWEEP_EVERY),
        )
    }

    /// Sets a knob; without a value, to its default.
    pub(super) fn tune(
        &mut self,
        name: &str,
        value: Option<&str>,
        by: &str,
    ) -> Result<KnobStatus, TuneError> {
        let knob = Knob::named(name).ok_or_else(|| TuneError::Unknown(name.to_owned()))?;
        let plain = self
            .in_use
            .document
            .config()
            .map_err(|e| TuneError::Failed(e.into()))?;
        let given = value.map(|text| knob.parse(text)).transpose()?;
        let wanted = given.clone().unwrap_or_else(|| default(knob, &plain));
        let before = self.value(knob);
        self.set(knob, given, &wanted)?;
        let (from, to) = (before.to_string(), wanted.to_string());
        info!(name, from, to, by, "tuned");
        self.controller.recorder.tell(Event::Tuned {
            by: by.to_owned(),
            name: name.to_owned(),
            from,
            to,
        });
        Ok(self.knob(knob, &plain))
    }

    fn set(&mut self, knob: Knob, given: Option<Value>, wanted: &Value) -> Result<(), TuneError> {
        if let (Knob::Log, Value::Filter(directives)) = (knob, wanted) {
            return telemetry::set_filter(directives).map_err(|_| TuneError::Value {
                knob,
                value: directives.clone(),
            });
        }
        let mut config = self.controller.config().clone();
        if tune::set(&mut config, knob, wanted) {
            tune::fits(&config)?;
            return self.put_to_work(config).map_err(TuneError::Failed);
        }
        let time: Option<Duration> = match given {
            Some(Value::Time(time)) => Some(time),
            _ => None,
        };
        if let Some(place) = self.controller.tuning.place(knob) {
            *place = time;
        }
        self.controller.retune().map_err(TuneError::Failed)
    }
}

fn default(knob: Knob, plain: &Config) -> Value {
    match knob {
        Knob::Log => Value::Filter(telemetry::first_filter()),
        _ => tune::value(knob, plain, &Tuning::default().settings(plain), SWEEP_EVERY),
    }
}
