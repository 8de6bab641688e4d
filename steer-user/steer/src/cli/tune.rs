//! `steer tune`.

use clap::Subcommand;

use super::{
    ask::{Target, failure},
    error::{Exit, Failure},
};
use crate::daemon::SettingStatus;

#[derive(Debug, Subcommand)]
pub(super) enum Tune {
    /// List the settings with values, defaults and ranges.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Show a setting.
    Get {
        /// Name of the setting.
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Override a setting at once, until the daemon exits or, if the file has it too, a configuration is applied.
    Set {
        /// Name of the setting.
        name: String,
        /// New value.
        value: String,
        #[command(flatten)]
        target: Target,
    },
    /// Remove the override: the setting has its configured value or default again.
    Reset {
        /// Name of the setting.
        name: String,
        #[command(flatten)]
        target: Target,
    },
}

impl Tune {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        let (target, setting) = match self {
            Self::List { target } => {
                let settings = target.client()?.settings().await.map_err(failure)?;
                if target.json {
                    println!("{}", serde_json::to_string_pretty(&settings)?);
                } else {
                    print!("{}", table(&settings));
                }
                return Ok(());
            }
            Self::Get { name, target } => {
                let settings = target.client()?.settings().await.map_err(failure)?;
                let found = settings.into_iter().find(|setting| setting.name == name);
                let setting = found.ok_or_else(|| {
                    let text =
                        format!("there is no setting {name:?}; `steer tune list` lists them");
                    Failure::new(Exit::Refused, anyhow::anyhow!(text))
                })?;
                (target, setting)
            }
            Self::Set {
                name,
                value,
                target,
            } => {
                let setting = target.client()?.tune(&name, Some(value)).await;
                (target, setting.map_err(failure)?)
            }
            Self::Reset { name, target } => {
                let setting = target.client()?.tune(&name, None).await;
                (target, setting.map_err(failure)?)
            }
        };
        if target.json {
            println!("{}", serde_json::to_string_pretty(&setting)?);
        } else {
            println!("{} = {}", setting.name, setting.value);
        }
        Ok(())
    }
}

fn table(settings: &[SettingStatus]) -> String {
    let mut text = format!(
        "{:<22}{:<10}{:<10}{:<18}{:<14}{}\n",
        "name", "value", "default", "range", "after reload", "what"
    );
    for setting in settings {
        // Levels and the log filter describe their values in words.
        let range = if matches!(&*setting.unit, "level" | "filter") {
            "-"
        } else {
            &setting.values
        };
        let after = if setting.outlives_reload {
            "stays"
        } else {
            "default"
        };
        text += &format!(
            "{:<22}{:<10}{:<10}{range:<18}{after:<14}{}\n",
            setting.name, setting.value, setting.default, setting.what
        );
    }
    text += "log.data_path: off, error (internal faults), warn (full tables), info (malformed packets), debug (all \
             drops); at most one record a second for each reason.\n";
    text += "Overrides end with the daemon, and those marked \"default\" when a configuration is applied.\n";
    text
}
