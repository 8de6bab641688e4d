//! Verification of the programs, and its cost.

use anyhow::Result;
use aya::VerifierLogLevel;
use steer_dataplane::{OpenOptions, Xdp};
use steer_tests::programs;

use crate::{machine, results::Results};

/// Loads all programs, and then the data path like the daemon does.
pub(crate) fn all(results: &mut Results) -> Result<()> {
    if let Err(error) = steer_dataplane::check_kernel() {
        return results.refuse(&error);
    }
    let only = machine::value("only");
    let is_wanted = |name: &str| only.as_ref().is_none_or(|only| name.contains(only));
    // The complete log would be a gigabyte; the steps to a refusal are short enough for a few
    // programs.
    let level = if only.is_some() {
        VerifierLogLevel::DEBUG | VerifierLogLevel::STATS
    } else {
        VerifierLogLevel::STATS
    };
    programs::load_each(is_wanted, level, |name, loaded| {
        let figures = loaded.map(|loaded| [loaded.verified, loaded.jited]);
        results.program(name, figures)
    })?;
    if only.is_some() {
        return Ok(());
    }
    let opened = Xdp::open(&OpenOptions::default()).map(drop);
    results.tell("open", opened)?;
    Ok(())
}
