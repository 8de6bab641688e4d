//! Overrides: settings that the operator changes while the daemon runs.

use std::time::Duration;

use steer_core::{
    config::Config,
    control::{GC_INTERVAL, Tuning},
    journal::Event,
};
use steer_telemetry as telemetry;
use tracing::info;

use super::{
    event_loop::Daemon,
    settings::{self, Knob, KnobStatus, TuneError, Value},
};

impl Daemon {
    /// All knobs as they are set.
    pub(crate) fn knobs(&self) -> Vec<KnobStatus> {
        // What the configuration says where nothing is set. It was good when it was applied.
        let plain = self.in_use.document.config().ok();
        let plain = plain.as_ref().unwrap_or(self.controller.view().config());
        let all = Knob::ALL.into_iter();
        all.map(|knob| self.knob(knob, plain)).collect()
    }

    fn knob(&self, knob: Knob, plain: &Config) -> KnobStatus {
        KnobStatus {
            name: knob.name().to_owned(),
            what: knob.what().to_owned(),
            value: self.value(knob).to_string(),
            default: default(knob, plain, self.cpus).to_string(),
            unit: knob.unit().to_owned(),
            values: knob.values(),
            outlives_reload: knob.outlives_reload(),
        }
    }

    fn value(&self, knob: Knob) -> Value {
        if knob == Knob::Log {
            return Value::Filter(telemetry::filter());
        }
        if knob == Knob::LogDataPath {
            return Value::Level(self.trace.log_level());
        }
        value(
            knob,
            self.controller.view().config(),
            self.controller.view().tuning(),
            self.cpus,
        )
    }

    /// Sets a knob; without a value, to its default.
    pub(crate) fn tune(
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
        let wanted = given
            .clone()
            .unwrap_or_else(|| default(knob, &plain, self.cpus));
        let before = self.value(knob);
        self.set(knob, given, &wanted)?;
        let (from, to) = (before.to_string(), wanted.to_string());
        info!(name, from, to, by, "tuned");
        self.controller.recorder.record(Event::Tuned {
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
        if let (Knob::LogDataPath, Value::Level(level)) = (knob, wanted) {
            return self.set_data_path_log(*level).map_err(TuneError::Failed);
        }
        let mut config = self.controller.view().config().clone();
        if settings::set(&mut config, knob, wanted) {
            settings::fits(&config)?;
            return self.put_to_work(config).map_err(TuneError::Failed);
        }
        let time: Option<Duration> = match given {
            Some(Value::Time(time)) => Some(time),
            _ => None,
        };
        let mut tuning = *self.controller.view().tuning();
        if let Some(value) = settings::tuned(&mut tuning, knob) {
            *value = time;
        }
        self.controller.tune(tuning).map_err(TuneError::Failed)
    }
}

fn default(knob: Knob, plain: &Config, cpus: u32) -> Value {
    match knob {
        Knob::Log => Value::Filter(telemetry::first_filter()),
        _ => value(knob, plain, &Tuning::default(), cpus),
    }
}

fn value(knob: Knob, config: &Config, tuning: &Tuning, cpus: u32) -> Value {
    let in_kernel = tuning.settings(config, cpus);
    let gc_interval = tuning.gc_interval.unwrap_or(GC_INTERVAL);
    settings::value(knob, config, &in_kernel, gc_interval)
}
