//! Tasks and agents over time, drawn as SVG.

use plotters::prelude::*;
use quartermaster_core::decide::pool::simulation::{Moment, Outcome};

use crate::cli::CommandError;

const SIZE: (u32, u32) = (1000, 640);

/// Two charts, one below the other: tasks that wait and are in flight, and the agents that are wanted and there.
pub fn svg(name: &str, outcome: &Outcome) -> Result<String, CommandError> {
    let mut drawing = String::new();
    draw(&mut drawing, name, outcome).map_err(|error| CommandError::Failed(format!("failed to draw: {error}")))?;
    Ok(drawing)
}

type Line<'a> = (&'a str, RGBColor, fn(&Moment) -> u64);

fn draw(drawing: &mut String, name: &str, outcome: &Outcome) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(drawing, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (upper, lower) = area.split_vertically(SIZE.1 / 2);
    let tasks: [Line<'_>; 2] = [("waiting", RED, |moment| moment.waiting), ("in flight", BLUE, |moment| moment.in_flight)];
    let agents: [Line<'_>; 2] =
        [("desired", BLACK, |moment| u64::from(moment.desired)), ("there", GREEN, |moment| u64::from(moment.agents))];
    chart(&upper, &format!("{name}: tasks"), &tasks, outcome)?;
    chart(&lower, &format!("{name}: agents"), &agents, outcome)?;
    area.present()?;
    Ok(())
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    lines: &[Line<'_>],
    outcome: &Outcome,
) -> Result<(), Box<dyn std::error::Error>> {
    let most = outcome.moments.iter().flat_map(|moment| lines.iter().map(|(_, _, of)| of(moment))).max().unwrap_or(0).max(1);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(50)
        .build_cartesian_2d(0..outcome.seconds.max(1), 0..most + most.div_ceil(10))?;
    chart.configure_mesh().x_desc("seconds").draw()?;
    for (label, color, of) in lines {
        let color = *color;
        let series = LineSeries::new(steps(outcome, *of), color.stroke_width(2));
        chart.draw_series(series)?.label(*label).legend(move |(x, y)| PathElement::new([(x, y), (x + 15, y)], color));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    Ok(())
}

/// A number stays what it is until the next look.
fn steps(outcome: &Outcome, of: fn(&Moment) -> u64) -> Vec<(u64, u64)> {
    let mut points: Vec<(u64, u64)> = Vec::new();
    for moment in &outcome.moments {
        if let Some((_, before)) = points.last().copied() {
            points.push((moment.second, before));
        }
        points.push((moment.second, of(moment)));
    }
    points
}
