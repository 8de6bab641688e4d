//! Reference of drop reasons.

use steer_common::verdict::DropReason;

pub(super) fn page() -> String {
    let mut page = "# Drop reasons\n\nEvery dropped packet has a reason, and each reason has a \
                    counter: `steer status`, and `steer_dropped_packets_total{reason=\"...\"}`. \
                    The numbers are stable.\n\n| number | reason | meaning |\n|---|---|---|\n"
        .to_owned();
    for reason in DropReason::ALL {
        page += &format!(
            "| {} | `{}` | {} |\n",
            reason as u8,
            reason.name(),
            reason.meaning()
        );
    }
    page
}
