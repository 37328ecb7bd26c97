//! The forest plot: one estimate with its interval a line.

use super::canvas::{self, Pen};

/// One line of a forest plot.
#[derive(Debug, Clone, PartialEq)]
pub struct ForestRow {
    /// What is estimated.
    pub name: String,
    /// The estimate; `None` writes `undefined`.
    pub value: Option<f64>,
    /// Its confidence interval.
    pub ci: Option<(f64, f64)>,
    /// A summary (a macro average) is drawn as a diamond below a rule.
    pub summary: bool,
}

/// The axis of a forest plot.
#[derive(Debug, Clone, PartialEq)]
pub struct ForestAxis {
    /// Name of the quantity.
    pub label: String,
    /// Where the dashed line stands: no effect, or chance.
    pub reference: Option<f64>,
    /// Limits that the axis does not leave, whatever the data.
    pub limits: (f64, f64),
}

impl ForestAxis {
    /// AUROC with chance at one half.
    pub fn auroc() -> Self {
        ForestAxis {
            label: "AUROC".into(),
            reference: Some(0.5),
            limits: (0.0, 1.0),
        }
    }

    /// Difference of two AUROCs with equality at zero.
    pub fn difference() -> Self {
        ForestAxis {
            label: "Difference of AUROC".into(),
            reference: Some(0.0),
            limits: (-1.0, 1.0),
        }
    }
}

const ROW: f64 = 22.0;
const PLOT: f64 = 340.0;
const TOP: f64 = 10.0;
const FOOT: f64 = 44.0;

/// Estimates with intervals below one another, their numbers beside them.
pub fn forest_svg(rows: &[ForestRow], axis: &ForestAxis) -> String {
    let scale = Scale::around(rows, axis);
    let names = rows.iter().map(|r| canvas::text_width(&r.name));
    let left = names.fold(60.0, f64::max) + 16.0;
    let right = canvas::text_width("-0.000 (-0.000 to -0.000)") + 24.0;
    let (width, height) = (left + PLOT + right, TOP + rows.len() as f64 * ROW + FOOT);
    let title = format!("Forest plot of {}", axis.label);
    canvas::svg(&title, width, height, |sheet| {
        let x = |value: f64| left + scale.at(value) * PLOT;
        let bottom = TOP + rows.len() as f64 * ROW;
        draw_axis(sheet, axis, &scale, &x, bottom)?;
        for (i, row) in rows.iter().enumerate() {
            let y = TOP + (i as f64 + 0.5) * ROW;
            canvas::write_text(sheet, &row.name, 4.0, y - 5.5)?;
            canvas::write_text(sheet, &numbers(row), left + PLOT + 16.0, y - 5.5)?;
            draw_row(sheet, row, &scale, &x, y)?;
        }
        Ok(())
    })
}

fn draw_axis(
    sheet: &canvas::Sheet<'_>,
    axis: &ForestAxis,
    scale: &Scale,
    x: &impl Fn(f64) -> f64,
    bottom: f64,
) -> canvas::Drawn {
    let ends = [(x(scale.low), bottom), (x(scale.high), bottom)];
    canvas::line(sheet, &ends, Pen::ink())?;
    for tick in scale.ticks() {
        let text = scale.label(tick);
        canvas::line(
            sheet,
            &[(x(tick), bottom), (x(tick), bottom + 4.0)],
            Pen::ink(),
        )?;
        let start = x(tick) - 0.5 * canvas::text_width(&text);
        canvas::write_text(sheet, &text, start, bottom + 7.0)?;
    }
    let middle = 0.5 * (x(scale.low) + x(scale.high));
    let start = middle - 0.5 * canvas::text_width(&axis.label);
    canvas::write_text(sheet, &axis.label, start, bottom + 25.0)?;
    match axis.reference {
        Some(at) if scale.holds(at) => {
            canvas::line(sheet, &[(x(at), TOP), (x(at), bottom)], Pen::reference())
        }
        _ => Ok(()),
    }
}

fn draw_row(
    sheet: &canvas::Sheet<'_>,
    row: &ForestRow,
    scale: &Scale,
    x: &impl Fn(f64) -> f64,
    y: f64,
) -> canvas::Drawn {
    let Some(value) = row.value else {
        return Ok(());
    };
    let pen = Pen::of(0);
    if row.summary {
        let (low, high) = row.ci.unwrap_or((value, value));
        let (low, high) = (scale.clamp(low), scale.clamp(high));
        let half = 6.0;
        // A summary without interval is still seen.
        let (west, east) = (x(low).min(x(value) - 3.0), x(high).max(x(value) + 3.0));
        let corners = [
            (west, y),
            (x(value), y - half),
            (east, y),
            (x(value), y + half),
        ];
        return canvas::polygon(sheet, &corners, pen);
    }
    if let Some((low, high)) = row.ci {
        let (low, high) = (scale.clamp(low), scale.clamp(high));
        canvas::line(sheet, &[(x(low), y), (x(high), y)], pen)?;
        for end in [low, high] {
            canvas::line(sheet, &[(x(end), y - 4.0), (x(end), y + 4.0)], pen)?;
        }
    }
    canvas::dot(sheet, (x(value), y), pen)
}

fn numbers(row: &ForestRow) -> String {
    match (row.value, row.ci) {
        (None, _) => "undefined".to_owned(),
        (Some(value), None) => format!("{value:.3} (no interval)"),
        (Some(value), Some((low, high))) => format!("{value:.3} ({low:.3} to {high:.3})"),
    }
}

/// The stretch of the axis that is shown.
struct Scale {
    low: f64,
    high: f64,
    step: f64,
}

impl Scale {
    /// Wide enough for every interval and the reference, ends on whole steps.
    fn around(rows: &[ForestRow], axis: &ForestAxis) -> Scale {
        let seen = rows.iter().flat_map(|r| {
            let ci = r.ci.into_iter().flat_map(|(low, high)| [low, high]);
            r.value.into_iter().chain(ci)
        });
        let seen: Vec<f64> = seen.chain(axis.reference).collect();
        let low = seen.iter().copied().fold(f64::INFINITY, f64::min);
        let high = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if low < high { (low, high) } else { axis.limits };
        let steps = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2];
        let step = steps.into_iter().find(|s| (high - low) / s <= 6.0);
        let step = step.unwrap_or(0.5);
        Scale {
            low: ((low / step).floor() * step).max(axis.limits.0),
            high: ((high / step).ceil() * step).min(axis.limits.1),
            step,
        }
    }

    fn at(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn holds(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    fn clamp(&self, value: f64) -> f64 {
        value.clamp(self.low, self.high)
    }

    fn ticks(&self) -> Vec<f64> {
        let first = (self.low / self.step - 1e-9).ceil() as i64;
        let last = (self.high / self.step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * self.step).collect()
    }

    fn label(&self, tick: f64) -> String {
        let digits = if self.step < 0.01 {
            3
        } else if self.step < 0.1 {
            2
        } else {
            1
        };
        // No tick is written -0.0.
        format!("{:.digits$}", tick + 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, value: Option<f64>, ci: Option<(f64, f64)>) -> ForestRow {
        ForestRow {
            name: name.into(),
            value,
            ci,
            summary: false,
        }
    }

    #[test]
    fn every_row_has_its_numbers() {
        let rows = [
            row("nodule", Some(0.91), Some((0.85, 0.95))),
            row("mass & more", None, None),
            row("cyst", Some(1.0), None),
            ForestRow {
                summary: true,
                ..row("macro", Some(0.9), Some((0.87, 0.93)))
            },
        ];
        let svg = forest_svg(&rows, &ForestAxis::auroc());
        for text in [
            "0.910 (0.850 to 0.950)",
            "undefined",
            "mass &amp; more",
            "1.000 (no interval)",
            "AUROC",
            "<polygon",
        ] {
            assert!(svg.contains(text), "{text} is missing");
        }
    }

    #[test]
    fn the_axis_holds_everything_and_the_reference() {
        let rows = [row("a", Some(0.012), Some((-0.031, 0.055)))];
        let scale = Scale::around(&rows, &ForestAxis::difference());
        assert!(scale.low <= -0.031 && scale.high >= 0.055 && scale.holds(0.0));
        assert!(scale.ticks().len() >= 4 && scale.ticks().len() <= 9);
        assert!(scale.ticks().iter().any(|t| scale.label(*t) == "0.00"));
        let scale = Scale::around(&[], &ForestAxis::auroc());
        assert_eq!((scale.low, scale.high), (0.0, 1.0));
    }
}
