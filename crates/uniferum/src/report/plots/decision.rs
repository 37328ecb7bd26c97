//! Decision curves.

use plotters::element::DashedPathElement;
use plotters::prelude::*;
use uniferum_metrics::DecisionPoint;

use super::canvas::{self, Drawn, Pen, Sheet};
use super::series::short;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 320.0;

/// The net benefit of acting on a task's probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionCurve {
    /// Name in the legend.
    pub name: String,
    /// Net benefits by ascending threshold.
    pub points: Vec<DecisionPoint>,
}

/// Net benefits over thresholds, each beside that of treating all (dashed); treating none has 0. What lies far
/// below 0 is drawn on the lower edge.
pub fn decision_svg(curves: &[DecisionCurve]) -> String {
    let named = |(i, curve): (usize, &DecisionCurve)| (curve.name.clone(), Pen::of(i));
    let mut names: Vec<(String, Pen)> = curves.iter().enumerate().map(named).collect();
    names.push(("treat all".to_owned(), Pen::reference()));
    let (legend_width, legend_height) = canvas::legend_size(&names);
    let (width, height) = (WIDTH + 20.0 + legend_width, HEIGHT.max(legend_height));
    canvas::svg("Decision curves", width, height, |sheet| {
        let (left, right) = sheet.split_horizontally(canvas::px(WIDTH + 20.0));
        let (plot, _) = left.split_vertically(canvas::px(HEIGHT));
        chart(&plot, curves)?;
        canvas::legend(&right, &names)
    })
}

fn chart(area: &Sheet<'_>, curves: &[DecisionCurve]) -> Drawn {
    let points = curves.iter().flat_map(|c| &c.points);
    let most = points.fold(0.0, |most: f64, p| most.max(p.model).max(p.treat_all));
    let top = if most > 0.0 { 1.05 * most } else { 1.0 };
    let bottom = -0.2 * top;
    let mut chart = canvas::chart(area, 0.0..1.0, bottom..top)?;
    let axes = ("Threshold probability", "Net benefit");
    canvas::mesh(&mut chart, axes, &|x| format!("{x:.1}"), &|y| {
        short(*y, top)
    })?;
    let line = |curve: &DecisionCurve, benefit: fn(&DecisionPoint) -> f64| {
        let points = curve.points.iter();
        let points = points.map(|p| (p.threshold, benefit(p).max(bottom)));
        points.collect::<Vec<(f64, f64)>>()
    };
    for (i, curve) in curves.iter().enumerate() {
        let all = line(curve, |p| p.treat_all).into_iter();
        let pen = Pen::of(i).faint();
        let dashes = DashedPathElement::new(all, canvas::px(5.0), canvas::px(4.0), pen.style());
        chart.draw_series([dashes])?;
        let model = line(curve, |p| p.model);
        chart.draw_series([PathElement::new(model, Pen::of(i).style())])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_far_below_zero_stays_in_the_plot() {
        let point = |threshold: f64, treat_all: f64| DecisionPoint {
            threshold,
            model: 0.1,
            treat_all,
            standardised: 0.5,
        };
        let curve = DecisionCurve {
            name: "a<b".into(),
            points: vec![point(0.05, 0.16), point(0.5, -0.6), point(0.95, -15.0)],
        };
        let svg = decision_svg(&[curve]);
        for text in ["Net benefit", "Threshold", "treat all", "a&lt;b"] {
            assert!(svg.contains(text), "{text} is missing");
        }
        let lines = svg.split("points=\"").skip(1);
        let points = lines.filter_map(|rest| rest.split('"').next());
        let heights =
            points.flat_map(|line| line.split_whitespace().filter_map(|p| p.split_once(',')));
        let heights: Vec<f64> = heights.map(|(_, y)| y.parse().unwrap()).collect();
        let sheet = 0.0..f64::from(canvas::px(HEIGHT));
        assert!(heights.len() > 5 && heights.iter().all(|y| sheet.contains(y)));
        assert!(decision_svg(&[]).ends_with("</svg>"));
    }
}
