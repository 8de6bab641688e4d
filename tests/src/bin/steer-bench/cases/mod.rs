//! Benchmark cases by feature. A feature has its cases, their tables, and its goals.

mod admission;
pub(crate) mod bare;
mod classes;
mod encap;
mod memory;
mod nat;
mod quic;
pub(crate) mod trace;

use anyhow::Result;

use crate::{case::Case, goal::Goal, scene::Scene};

/// Returns all cases. The first one is the baseline.
pub(crate) fn all() -> Vec<Case> {
    let features: [&[Case]; 8] = [
        &bare::CASES,
        &encap::CASES,
        &memory::CASES,
        &admission::CASES,
        &classes::CASES,
        &nat::CASES,
        &quic::CASES,
        &trace::CASES,
    ];
    features.concat()
}

/// Returns all goals.
pub(crate) fn goals() -> Vec<Goal> {
    let features: [&[Goal]; 7] = [
        &encap::GOALS,
        &memory::GOALS,
        &admission::GOALS,
        &classes::GOALS,
        &nat::GOALS,
        &quic::GOALS,
        &trace::GOALS,
    ];
    features.concat()
}

/// Fills the tables.
pub(crate) fn prepare(mut scene: Scene<'_>) -> Result<()> {
    encap::prepare(&mut scene);
    memory::prepare(&mut scene)?;
    admission::prepare(&mut scene);
    classes::prepare(&mut scene);
    nat::prepare(&mut scene)?;
    quic::prepare(&mut scene)?;
    trace::prepare(&mut scene);
    scene.publish()
}
