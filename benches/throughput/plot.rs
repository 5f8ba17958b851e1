//! Plots against the size of memory.

use plotters::prelude::*;

use crate::Outcome;
use crate::samples::Summary;

/// A line: its name and points (MiB, value).
type Line = (String, Vec<(f64, f64)>);

/// Draws what `value` gives for each kind of measurement of plain memory in
/// `dir`, as SVG.
pub(crate) fn against_size(
    title: &str,
    unit: &str,
    summaries: &[Summary],
    dir: &str,
    value: impl Fn(&Summary) -> Option<f64>,
) -> Outcome<String> {
    let lines = lines(summaries, dir, value);
    let points = || lines.iter().flat_map(|(_, points)| points);
    let most = |part: fn(&(f64, f64)) -> f64| points().map(part).fold(1.0, f64::max);
    let least = |part: fn(&(f64, f64)) -> f64| points().map(part).fold(f64::MAX, f64::min);
    let (x, y) = (|p: &(f64, f64)| p.0, |p: &(f64, f64)| p.1);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (860, 460)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 20))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(
                (least(x).min(most(x)) * 0.9..most(x) * 1.1).log_scale(),
                (least(y).min(most(y)).max(0.001) * 0.8..most(y) * 1.3).log_scale(),
            )?;
        chart
            .configure_mesh()
            .x_desc("MiB of memory")
            .y_desc(unit)
            .draw()?;
        for (number, (name, points)) in lines.iter().enumerate() {
            let color = Palette99::pick(number).to_rgba();
            chart
                .draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        root.present()?;
    }
    Ok(svg)
}

fn lines(summaries: &[Summary], dir: &str, value: impl Fn(&Summary) -> Option<f64>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for summary in summaries.iter().filter(|s| s.plain && s.dir == dir) {
        let Some(value) = value(summary) else {
            continue;
        };
        let point = ((summary.size >> 20) as f64, value);
        match lines.iter_mut().find(|(name, _)| *name == summary.what) {
            Some((_, points)) => points.push(point),
            None => lines.push((summary.what.clone(), vec![point])),
        }
    }
    lines
}
