//! Reference of metrics.

use anyhow::Result;

use crate::api;

pub(super) fn page() -> Result<String> {
    let mut page = "# Metrics\n\n`/metrics` in the text format of OpenMetrics 1.0, on the API's \
                    socket and at `[api] metrics`. Labels are names of the configuration and \
                    words of fixed sets; no label contains a client.\n\n| family | type | unit | \
                    meaning |\n|---|---|---|---|\n"
        .to_owned();
    for family in api::families()? {
        page += &format!(
            "| `{}` | {} | {} | {} |\n",
            family.name, family.kind, family.unit, family.help
        );
    }
    Ok(page)
}
