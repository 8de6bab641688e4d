//! Overrides: settings that the operator changes while the daemon runs.

use std::time::Duration;

use steer_common::data_path_log::LogLevel;
use steer_core::{
    config::{Config, Scope, Setting, Value},
    control::Tuning,
    journal::Event,
};
use steer_telemetry as telemetry;
use tracing::info;

use super::{
    event_loop::Daemon,
    settings::{self, SettingStatus, TuneError},
};

impl Daemon {
    /// Returns the settings that can be changed, with their values.
    pub(crate) fn settings(&self) -> Vec<SettingStatus> {
        // What the configuration says where nothing is set. It was good when it was applied.
        let plain = self.in_use.document.config().ok();
        let plain = plain.as_ref().unwrap_or(self.controller.view().config());
        Setting::all_tunable()
            .map(|setting| self.setting(setting, plain))
            .collect()
    }

    fn setting(&self, setting: Setting, plain: &Config) -> SettingStatus {
        SettingStatus {
            name: setting.key().to_owned(),
            what: setting.description().to_owned(),
            value: self.value(setting).to_string(),
            default: default(setting, plain, self.cpus).to_string(),
            unit: setting.unit().to_owned(),
            values: setting.values(),
            outlives_reload: setting.scope() == Scope::Tune,
        }
    }

    fn value(&self, setting: Setting) -> Value {
        if setting == Setting::Log {
            return Value::Filter(telemetry::filter());
        }
        if setting == Setting::LogDataPath {
            return Value::Level(self.trace.log_level());
        }
        value(
            setting,
            self.controller.view().config(),
            self.controller.view().tuning(),
            self.cpus,
        )
    }

    /// Changes a setting; without a value, to its default.
    pub(crate) fn tune(
        &mut self,
        name: &str,
        value: Option<&str>,
        by: &str,
    ) -> Result<SettingStatus, TuneError> {
        let setting = Setting::tunable(name).ok_or_else(|| TuneError::Unknown(name.to_owned()))?;
        let plain = self
            .in_use
            .document
            .config()
            .map_err(|e| TuneError::Failed(e.into()))?;
        let parse = |text: &str| {
            setting.parse(text).ok_or_else(|| TuneError::Value {
                setting,
                value: text.to_owned(),
            })
        };
        let given = value.map(parse).transpose()?;
        let wanted = given
            .clone()
            .unwrap_or_else(|| default(setting, &plain, self.cpus));
        let before = self.value(setting);
        self.set(setting, given, &wanted)?;
        let (from, to) = (before.to_string(), wanted.to_string());
        info!(name, from, to, by, "tuned");
        self.controller.recorder.record(Event::Tuned {
            by: by.to_owned(),
            name: name.to_owned(),
            from,
            to,
        });
        Ok(self.setting(setting, &plain))
    }

    fn set(
        &mut self,
        setting: Setting,
        given: Option<Value>,
        wanted: &Value,
    ) -> Result<(), TuneError> {
        if let (Setting::Log, Value::Filter(directives)) = (setting, wanted) {
            return telemetry::set_filter(directives).map_err(|_| TuneError::Value {
                setting,
                value: directives.clone(),
            });
        }
        if let (Setting::LogDataPath, Value::Level(level)) = (setting, wanted) {
            return self.set_data_path_log(*level).map_err(TuneError::Failed);
        }
        let mut config = self.controller.view().config().clone();
        if settings::set(&mut config, setting, wanted) {
            settings::fits(&config)?;
            return self.put_to_work(config).map_err(TuneError::Failed);
        }
        let time: Option<Duration> = match given {
            Some(Value::Time(time)) => Some(time),
            _ => None,
        };
        let mut tuning = *self.controller.view().tuning();
        if let Some(value) = settings::tuned(&mut tuning, setting) {
            *value = time;
        }
        self.controller.tune(tuning).map_err(TuneError::Failed)
    }
}

fn default(setting: Setting, plain: &Config, cpus: u32) -> Value {
    match setting {
        Setting::Log => Value::Filter(telemetry::first_filter()),
        Setting::LogDataPath => Value::Level(LogLevel::Off),
        _ => value(setting, plain, &Tuning::default(), cpus),
    }
}

fn value(setting: Setting, config: &Config, tuning: &Tuning, cpus: u32) -> Value {
    let in_kernel = tuning.settings(config, cpus);
    settings::value(setting, config, &in_kernel, tuning.gc_interval())
        .unwrap_or_else(|| Value::Filter(String::new()))
}
