//! What all plots share: the sheet, colours, letters, axes and the legend.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

/// The sheet is drawn in half pixels, because the backend rounds coordinates to whole numbers.
const SCALE: f64 = 2.0;
/// Drawn with, and replaced by `currentColor` in the finished markup.
const INK: RGBColor = RGBColor(0, 0, 0);
const FONT: &str = "sans-serif";
const FONT_SIZE: f64 = 13.0;
/// An estimate: no font is at hand to measure letters with.
const LETTER: f64 = 0.54 * FONT_SIZE;

/// Middle lightness, told apart also with the common colour-vision deficiencies.
const PALETTE: [RGBColor; 8] = [
    RGBColor(0x2b, 0x8c, 0xc4),
    RGBColor(0xe0, 0x7b, 0x28),
    RGBColor(0x1f, 0xa1, 0x7a),
    RGBColor(0xc8, 0x5a, 0x9e),
    RGBColor(0x8b, 0x74, 0xd6),
    RGBColor(0xb5, 0x93, 0x1c),
    RGBColor(0xd4, 0x55, 0x4e),
    RGBColor(0x7d, 0x8a, 0x99),
];

pub(super) type Sheet<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn = Result<(), Box<dyn std::error::Error>>;

/// How a curve is drawn: eight colours, then the same dashed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pen {
    colour: RGBColor,
    opacity: f64,
    width: u32,
    dashed: bool,
}

impl Pen {
    pub(super) fn of(index: usize) -> Pen {
        Pen {
            colour: PALETTE[index % PALETTE.len()],
            opacity: 1.0,
            width: px(1.8) as u32,
            dashed: (index / PALETTE.len()) % 2 == 1,
        }
    }

    /// For lines that are not data: chance, references.
    pub(super) fn reference() -> Pen {
        Pen {
            colour: INK,
            opacity: 0.6,
            width: px(1.0) as u32,
            dashed: true,
        }
    }

    /// For axes and ticks.
    pub(super) fn ink() -> Pen {
        Pen {
            opacity: 0.7,
            dashed: false,
            ..Pen::reference()
        }
    }

    pub(super) fn thin(self) -> Pen {
        Pen {
            opacity: 0.7,
            width: px(1.0) as u32,
            dashed: false,
            ..self
        }
    }

    pub(super) fn faint(self) -> Pen {
        Pen {
            opacity: 0.45,
            width: px(1.0) as u32,
            dashed: true,
            ..self
        }
    }

    pub(super) fn style(self) -> ShapeStyle {
        ShapeStyle {
            color: self.colour.mix(self.opacity),
            filled: false,
            stroke_width: self.width,
        }
    }

    pub(super) fn filled(self) -> ShapeStyle {
        ShapeStyle {
            filled: true,
            ..self.style()
        }
    }
}

/// CSS pixels to sheet units.
pub(super) fn px(pixels: f64) -> i32 {
    (pixels * SCALE).round() as i32
}

/// Width in CSS pixels that `text` may take.
pub(super) fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * LETTER
}

/// Draws a picture of `width` x `height` CSS pixels; `title` is what a screen reader says.
pub(super) fn svg(
    title: &str,
    width: f64,
    height: f64,
    draw: impl FnOnce(&Sheet<'_>) -> Drawn,
) -> String {
    let size = (px(width) as u32, px(height) as u32);
    let mut markup = String::new();
    let drawn = {
        let sheet = SVGBackend::with_string(&mut markup, size).into_drawing_area();
        draw(&sheet).and_then(|()| Ok(sheet.present()?))
    };
    // A string takes everything; should a plot fail all the same, the report says so in its place.
    if let Err(error) = drawn {
        let error = super::super::html::escape(&error.to_string());
        return format!("<svg width=\"{width}\" height=\"40\"><text y=\"20\">{error}</text></svg>");
    }
    adapt(&markup, title, width, height, size)
}

/// Sets the size in CSS pixels, names the picture, and lets ink follow the colour of the text. The
/// name space is implied inside HTML.
fn adapt(markup: &str, title: &str, width: f64, height: f64, size: (u32, u32)) -> String {
    let body = markup.split_once('>').map_or("", |(_, body)| body);
    let ink = format!("\"#{:02X}{:02X}{:02X}\"", INK.0, INK.1, INK.2);
    let title = super::super::html::escape(title);
    format!(
        "<svg role=\"img\" aria-label=\"{title}\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {} {}\">{}",
        size.0,
        size.1,
        body.trim().replace(&ink, "\"currentColor\"")
    )
}

/// The style of letters.
fn letters() -> TextStyle<'static> {
    TextStyle::from((FONT, px(FONT_SIZE)).into_font()).color(&INK)
}

/// A plot with two linear axes.
pub(super) type Chart<'a, 'b> =
    ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Room for a plot and the words at its axes.
pub(super) fn chart<'a, 'b>(
    area: &'a Sheet<'b>,
    x: Range<f64>,
    y: Range<f64>,
) -> Result<Chart<'a, 'b>, Box<dyn std::error::Error>> {
    let chart = ChartBuilder::on(area)
        .margin(px(8.0))
        .margin_right(px(14.0))
        .x_label_area_size(px(42.0))
        .y_label_area_size(px(52.0))
        .build_cartesian_2d(x, y)?;
    Ok(chart)
}

/// Axes, ticks and their words.
pub(super) fn mesh(
    chart: &mut Chart<'_, '_>,
    axes: (&str, &str),
    x_text: &dyn Fn(&f64) -> String,
    y_text: &dyn Fn(&f64) -> String,
) -> Drawn {
    chart
        .configure_mesh()
        .x_labels(6)
        .y_labels(6)
        .max_light_lines(1)
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK.mix(0.12))
        .axis_style(ShapeStyle::from(INK.mix(0.7)).stroke_width(px(1.0) as u32))
        .label_style(letters())
        .x_label_formatter(&x_text)
        .y_label_formatter(&y_text)
        .x_desc(axes.0)
        .y_desc(axes.1)
        .axis_desc_style(letters())
        .draw()?;
    Ok(())
}

/// A square with both axes from 0 to 1, and into it each path with its pen.
pub(super) fn unit_square(
    area: &Sheet<'_>,
    axes: (&str, &str),
    paths: &[(Vec<(f64, f64)>, Pen)],
    dots: &[((f64, f64), Pen)],
) -> Drawn {
    let mut chart = chart(area, 0.0..1.0, 0.0..1.0)?;
    let tenths = |v: &f64| format!("{v:.1}");
    mesh(&mut chart, axes, &tenths, &tenths)?;
    for (path, pen) in paths {
        if pen.dashed {
            let dashes =
                DashedPathElement::new(path.iter().copied(), px(5.0), px(4.0), pen.style());
            chart.draw_series([dashes])
        } else {
            chart.draw_series([PathElement::new(path.clone(), pen.style())])
        }?;
    }
    chart.draw_series(
        dots.iter()
            .map(|&(at, pen)| Circle::new(at, px(3.5), pen.filled())),
    )?;
    Ok(())
}

/// Height in CSS pixels of one line of the legend.
const LINE: f64 = 19.0;

/// Size in CSS pixels that a legend needs.
pub(super) fn legend_size(lines: &[(String, Pen)]) -> (f64, f64) {
    let widest = lines.iter().map(|(t, _)| text_width(t)).fold(0.0, f64::max);
    (widest + 42.0, lines.len() as f64 * LINE + 24.0)
}

/// Draws a stroke of each pen and its name beside it.
pub(super) fn legend(area: &Sheet<'_>, lines: &[(String, Pen)]) -> Drawn {
    for (i, (text, pen)) in lines.iter().enumerate() {
        let y = 20.0 + i as f64 * LINE;
        line(area, &[(0.0, y), (22.0, y)], *pen)?;
        write_text(area, text, 30.0, y - 0.42 * FONT_SIZE)?;
    }
    Ok(())
}

/// Writes `text` with its upper left corner at `(x, y)` CSS pixels.
pub(super) fn write_text(area: &Sheet<'_>, text: &str, x: f64, y: f64) -> Drawn {
    area.draw(&Text::new(text.to_owned(), (px(x), px(y)), letters()))?;
    Ok(())
}

/// Strokes a line through points in CSS pixels.
pub(super) fn line(area: &Sheet<'_>, points: &[(f64, f64)], pen: Pen) -> Drawn {
    let points: Vec<(i32, i32)> = points.iter().map(|&(x, y)| (px(x), px(y))).collect();
    if pen.dashed {
        let dashes = DashedPathElement::new(points, px(5.0), px(4.0), pen.style());
        return Ok(area.draw(&dashes)?);
    }
    Ok(area.draw(&PathElement::new(points, pen.style()))?)
}

/// Fills a polygon of corners in CSS pixels.
pub(super) fn polygon(area: &Sheet<'_>, corners: &[(f64, f64)], pen: Pen) -> Drawn {
    let corners: Vec<(i32, i32)> = corners.iter().map(|&(x, y)| (px(x), px(y))).collect();
    Ok(area.draw(&Polygon::new(corners, pen.filled()))?)
}

/// Fills a dot of the usual size.
pub(super) fn dot(area: &Sheet<'_>, at: (f64, f64), pen: Pen) -> Drawn {
    let dot = Circle::new((px(at.0), px(at.1)), px(3.5), pen.filled());
    Ok(area.draw(&dot)?)
}
