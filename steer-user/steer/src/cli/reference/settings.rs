//! Reference of the settings.

use steer_core::config::{Range, Scope, Setting};

pub(super) fn page() -> String {
    let mut page = "# Settings\n\n\
        Numbers and times of the node. A value outside its range is refused, and nothing changes. \
        `steer tune set KEY VALUE` overrides a setting of the running daemon. The override of a setting \
        that is also a key of the configuration ends when a configuration is applied or reloaded; \
        others end when the daemon exits.\n\n\
        | key | meaning | unit | range | default | configuration | `steer tune` |\n\
        |---|---|---|---|---|---|---|\n"
        .to_owned();
    for setting in Setting::ALL {
        let default = match (setting.default(), setting.range()) {
            (Some(value), _) => value.to_string(),
            (None, Range::Idle(_)) => "longest `idle_timeout` of a service".to_owned(),
            (None, _) => "as started".to_owned(),
        };
        let (configured, tuned) = match setting.scope() {
            Scope::Configuration => ("yes", "no"),
            Scope::Both => ("yes", "until a configuration is applied"),
            Scope::Tune => ("no", "until the daemon exits"),
        };
        page += &format!(
            "| `{}` | {} | {} | {} | {default} | {configured} | {tuned} |\n",
            setting.key(),
            setting.description(),
            setting.unit(),
            setting.values(),
        );
    }
    page
}
