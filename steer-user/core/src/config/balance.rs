//! The section `[balance]`.

use std::time::Duration;

use super::raw;
use super::report::Report;
use super::settings::Setting;
use super::spanned::Spanned;
use crate::domain::{
    balance::{COLD, Policy, Settings},
    load::{HotBounds, WHOLE},
};

/// Distribution of new flows. Utilizations and shares are in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Rule by which weights change.
    pub policy: Policy,
    /// Interval between updates of the weights.
    pub interval: Duration,
    /// Largest part of a table that moves in one update.
    pub max_shift: u32,
    /// Lower bound of a weight, as a part of the full weight.
    pub floor: u32,
    /// Time until a recovered backend has its full weight.
    pub slow_start: Duration,
    /// Utilization above which new flows spill to the next ring.
    pub spill_above: u32,
    /// Utilization below which they return.
    pub spill_below: u32,
    /// Utilization from which a backend is hot.
    pub hot_above: u32,
    /// Utilization below which it is no longer hot.
    pub hot_below: u32,
    /// Share of healthy backends below which a service or class enters panic mode.
    pub panic_below: u32,
    /// Age from which a load report is ignored.
    pub stale_after: Duration,
}

impl Balance {
    /// Returns the settings of a table, given the objective of its service and the largest
    /// percentage of new flows that a change of its split moves per second.
    #[must_use]
    pub fn settings(&self, objective: Option<Duration>, split_shift: u32) -> Settings {
        let percent = |share: u32| share * (WHOLE / 100);
        let part = |whole: f64| (whole.clamp(1.0, f64::from(WHOLE))) as u32;
        let interval = self.interval.as_secs_f64();
        let steps = (self.slow_start.as_secs_f64() / interval).max(1.0);
        Settings {
            policy: self.policy,
            floor: percent(self.floor),
            spill_above: percent(self.spill_above),
            spill_below: percent(self.spill_below),
            max_shift: percent(self.max_shift),
            warming: part(f64::from(WHOLE - COLD) / steps),
            split_step: part(f64::from(percent(split_shift)) * interval),
            objective_us: objective.map(|o| u32::try_from(o.as_micros()).unwrap_or(u32::MAX)),
        }
    }

    /// Returns the bounds for the hot bit.
    #[must_use]
    pub fn hot(&self) -> HotBounds {
        HotBounds {
            above: self.hot_above * (WHOLE / 100),
            below: self.hot_below * (WHOLE / 100),
        }
    }
}

pub(super) fn balance(raw: &raw::Balance, report: &mut Report<'_>) -> Balance {
    let (spill_above, spill_below) = band(
        "spill",
        (&raw.spill_above, Setting::SpillAbove),
        (&raw.spill_below, Setting::SpillBelow),
        report,
    );
    let (hot_above, hot_below) = band(
        "hot",
        (&raw.hot_above, Setting::HotAbove),
        (&raw.hot_below, Setting::HotBelow),
        report,
    );
    Balance {
        policy: match raw.policy {
            None | Some(raw::BalancePolicy::Adaptive) => Policy::Adaptive,
            Some(raw::BalancePolicy::Capacity) => Policy::Capacity,
            Some(raw::BalancePolicy::Utilization) => Policy::Utilization,
        },
        interval: report.time(raw.interval.as_ref(), Setting::BalanceInterval),
        slow_start: report.time(raw.slow_start.as_ref(), Setting::BalanceSlowStart),
        stale_after: report.time(raw.stale_after.as_ref(), Setting::StaleAfter),
        max_shift: report.count(raw.max_shift.as_ref(), Setting::BalanceMaxShift),
        floor: report.count(raw.floor.as_ref(), Setting::BalanceFloor),
        spill_above,
        spill_below,
        hot_above,
        hot_below,
        panic_below: report.count(raw.panic_below.as_ref(), Setting::PanicBelow),
    }
}

/// Returns two bounds, which must differ: with a single bound the decision would oscillate.
fn band(
    name: &str,
    (above, high): (&Option<Spanned<u32>>, Setting),
    (below, low): (&Option<Spanned<u32>>, Setting),
    report: &mut Report<'_>,
) -> (u32, u32) {
    let from = report.count(above.as_ref(), high);
    let to = report.count(below.as_ref(), low);
    if let Some(value) = above.as_ref().or(below.as_ref()).filter(|_| to >= from) {
        let what = format!("`{name}_above` is {from}, and `{name}_below` is {to}");
        let todo = format!("write a value of `{name}_below` well below `{name}_above`");
        report.add(value.span(), what, todo);
    }
    (from, to)
}
