//! Plots as SVG.

use std::{fs, path::Path};

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use steer_simulator::{Scenario, series::Series};

use crate::report::Table;

const SIZE: (u32, u32) = (900, 420);
/// Upper bound of a plot in milliseconds.
const MOST_MS: f64 = 4000.0;

fn file(folder: &Path, scenario: &Scenario, what: &str) -> Result<String> {
    fs::create_dir_all(folder)?;
    let parts = scenario.name.split(|c: char| !c.is_ascii_alphanumeric());
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let name = parts.join("-");
    let path = folder.join(format!("{name}-{what}.svg"));
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("{}: not a name in UTF-8", path.display()))
}

/// Plots the 95th percentile of the time to the first token, by second and policy, with the first seed.
pub(crate) fn first(table: &Table, folder: &Path) -> Result<()> {
    let scenario = &table.scenario;
    let path = file(folder, scenario, "first-token")?;
    let root = SVGBackend::new(&path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let seconds = scenario.length.as_secs_f64();
    let first = |series: &Series| series.outcomes.first().map(|o| o.first_by_second.clone());
    let lines: Vec<_> = table
        .rows
        .iter()
        .map(|row| first(&row.1).unwrap_or_default())
        .collect();
    let most = lines
        .iter()
        .flatten()
        .copied()
        .fold(100.0, f64::max)
        .min(MOST_MS);
    let title = format!(
        "{}: time to the first token, p95 of each second",
        scenario.name
    );
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..seconds, 0.0..most)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("ms")
        .draw()?;
    // Ours comes last, so that it is on top.
    for (index, ((maker, _), line)) in table.rows.iter().zip(&lines).enumerate().rev() {
        let ours = index == 0;
        let color = if ours {
            BLACK.to_rgba()
        } else {
            Palette99::pick(index).to_rgba()
        };
        let style = color.stroke_width(if ours { 3 } else { 1 });
        let points = (0..).map(f64::from).zip(line);
        let points = points.map(|(second, ms)| (second, ms.min(most)));
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(maker.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}

/// Plots the share of each server in new flows under steer, by second.
pub(crate) fn shares(table: &Table, folder: &Path) -> Result<()> {
    let scenario = &table.scenario;
    let Some(outcome) = table.rows[0].1.outcomes.first() else {
        return Ok(());
    };
    let servers: usize = scenario.regions.iter().sum();
    // More lines would be unreadable.
    if servers > 64 {
        return Ok(());
    }
    let path = file(folder, scenario, "shares")?;
    let root = SVGBackend::new(&path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let seconds = scenario.length.as_secs_f64();
    let most = outcome.shares.iter().flatten().copied().fold(0.1, f64::max);
    let title = format!(
        "{}: share of each server in new flows, under steer",
        scenario.name
    );
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..seconds, 0.0..most)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("share")
        .draw()?;
    for server in 0..servers {
        let points = (0..).map(f64::from).zip(&outcome.shares);
        let points = points.map(|(second, shares)| (second, shares[server]));
        let style = Palette99::pick(server).stroke_width(1);
        chart.draw_series(LineSeries::new(points, style))?;
    }
    root.present()?;
    Ok(())
}
