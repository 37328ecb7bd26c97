//! Values over steps: training curves.

use plotters::prelude::*;

use super::canvas::{self, Drawn, Pen, Sheet};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 260.0;

/// A value for some steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Step and value, by ascending step; values that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// The mean of each `width` neighbouring points: a training loss that the eye can follow.
    ///
    /// A last group of less than half the width joins the one before it.
    pub fn averaged(name: impl Into<String>, points: &[(f64, f64)], width: usize) -> Self {
        let width = width.max(1);
        let groups = ((points.len() + width / 2) / width).max(1);
        let group = |g: usize| {
            let end = if g + 1 == groups {
                points.len()
            } else {
                (g + 1) * width
            };
            &points[g * width..end.min(points.len())]
        };
        let mean = |part: &[(f64, f64)]| {
            let n = part.len() as f64;
            let sum = part.iter().fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
            (sum.0 / n, sum.1 / n)
        };
        Series {
            name: name.into(),
            points: (0..groups)
                .map(group)
                .filter(|g| !g.is_empty())
                .map(mean)
                .collect(),
        }
    }
}

/// Lines over a common axis of steps, from 0 upward.
pub fn series_svg(title: &str, axes: (&str, &str), series: &[Series]) -> String {
    let names: Vec<(String, Pen)> = series
        .iter()
        .enumerate()
        .map(|(i, s)| (s.name.clone(), Pen::of(i)))
        .collect();
    let (legend_width, legend_height) = canvas::legend_size(&names);
    let (width, height) = (WIDTH + 20.0 + legend_width, HEIGHT.max(legend_height));
    canvas::svg(title, width, height, |sheet| {
        let (left, right) = sheet.split_horizontally(canvas::px(WIDTH + 20.0));
        let (plot, _) = left.split_vertically(canvas::px(HEIGHT));
        chart(&plot, axes, series)?;
        canvas::legend(&right, &names)
    })
}

fn chart(area: &Sheet<'_>, axes: (&str, &str), series: &[Series]) -> Drawn {
    let finite = |s: &Series| -> Vec<(f64, f64)> {
        let points = s.points.iter().copied();
        points
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .collect()
    };
    let lines: Vec<Vec<(f64, f64)>> = series.iter().map(finite).collect();
    let most = |f: fn(&(f64, f64)) -> f64| lines.iter().flatten().map(f).fold(0.0, f64::max);
    let (right, top) = (most(|p| p.0).max(1.0), most(|p| p.1));
    let top = if top > 0.0 { 1.05 * top } else { 1.0 };
    let mut chart = canvas::chart(area, 0.0..right, 0.0..top)?;
    canvas::mesh(&mut chart, axes, &|x| format!("{x:.0}"), &|y| {
        short(*y, top)
    })?;
    for (i, line) in lines.into_iter().enumerate() {
        chart.draw_series([PathElement::new(line, Pen::of(i).style())])?;
    }
    Ok(())
}

/// As many digits as tell the ticks apart.
pub(super) fn short(value: f64, top: f64) -> String {
    let digits = (1.0 - top.log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_keep_every_point() {
        let points: Vec<(f64, f64)> = (0..11).map(|i| (f64::from(i), f64::from(2 * i))).collect();
        let s = Series::averaged("loss", &points, 5);
        assert_eq!(s.points, [(2.0, 4.0), (7.5, 15.0)]);
        assert_eq!(
            Series::averaged("one", &points[..1], 5).points,
            [(0.0, 0.0)]
        );
        assert!(Series::averaged("none", &[], 5).points.is_empty());
    }

    #[test]
    fn gaps_and_empty_series_do_no_harm() {
        let series = |points: Vec<(f64, f64)>| Series {
            name: "a".into(),
            points,
        };
        let svg = series_svg(
            "Loss",
            ("step", "loss"),
            &[
                series(vec![(1.0, 2.0), (2.0, f64::NAN), (3.0, 0.5)]),
                series(Vec::new()),
            ],
        );
        assert!(svg.contains("aria-label=\"Loss\"") && svg.contains("polyline"));
        assert!(!svg.contains("NaN"));
    }
}
