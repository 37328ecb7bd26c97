//! Slices of a model array as pictures, with a mask laid over in colour.

use std::io::Write as _;

use ndarray::{Array2, Array3, ArrayView2, Axis};

/// Which plane a slice is cut along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// Constant z: the picture shows x to the left (patient's right is on the left) and y upward.
    Axial,
    /// Constant y: x across, z upward.
    Coronal,
    /// Constant x: y across, z upward.
    Sagittal,
}

/// A colour laid over the grey values where a mask is high.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// The mask in the image's own grid, `[X, Y, Z]`, values in `[0, 1]`.
    pub mask: &'a Array3<f32>,
    /// Red, green, blue.
    pub colour: [u8; 3],
    /// Opacity where the mask is 1.
    pub opacity: f32,
}

/// The grey level window of a picture, in the units of the image.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Shown black.
    pub low: f32,
    /// Shown white.
    pub high: f32,
}

impl Window {
    /// Soft tissue and lung both visible: -1000 to 400 HU in model units (HU/2000 + 0.5).
    pub const CHEST: Window = Window {
        low: 0.0,
        high: 0.7,
    };

    pub(super) fn grey(self, value: f32) -> f32 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0) * 255.0
    }
}

/// The index of the slice in which `mask` is largest, or the middle slice of an empty mask.
///
/// # Shapes
/// `mask` is `[X, Y, Z]`; the result counts along the plane's normal.
pub fn fullest_slice(mask: &Array3<f32>, plane: Plane) -> usize {
    let axis = normal(plane);
    let sums: Vec<f32> = mask.axis_iter(axis).map(|slice| slice.sum()).collect();
    let best = (0..sums.len()).max_by(|&a, &b| sums[a].total_cmp(&sums[b]));
    match best {
        Some(index) if sums[index] > 0.0 => index,
        _ => mask.len_of(axis) / 2,
    }
}

/// Draws one slice as an 8-bit RGB picture encoded as PNG.
///
/// Columns run to the patient's left (radiological convention), rows run downward from anterior
/// (axial) or from superior (coronal, sagittal); sagittal columns run from anterior to posterior.
///
/// # Shapes
/// `image` and the mask of `overlay` are `[X, Y, Z]` RAS+.
///
/// # Errors
/// Those of the PNG encoder.
pub fn slice_png(
    image: &Array3<f32>,
    plane: Plane,
    index: usize,
    window: Window,
    overlays: &[Overlay<'_>],
) -> Result<Vec<u8>, png::EncodingError> {
    let grey = oriented(image.index_axis(normal(plane), index));
    let (height, width) = grey.dim();
    let mut rgb: Vec<f32> = grey.iter().flat_map(|&v| [window.grey(v); 3]).collect();
    for overlay in overlays {
        let mask = oriented(overlay.mask.index_axis(normal(plane), index));
        for (pixel, &weight) in rgb.chunks_exact_mut(3).zip(mask.iter()) {
            let alpha = (weight.clamp(0.0, 1.0)) * overlay.opacity;
            for (value, &colour) in pixel.iter_mut().zip(&overlay.colour) {
                *value += alpha * (f32::from(colour) - *value);
            }
        }
    }
    let bytes: Vec<u8> = rgb.iter().map(|v| v.round() as u8).collect();
    encode_rgb(&bytes, width as u32, height as u32)
}

/// An `<img>` element with the PNG inside, `[width, height]` CSS pixels large.
pub fn inline_image(png: &[u8], [width, height]: [u32; 2], alt: &str) -> String {
    use base64::Engine as _;
    let data = base64::engine::general_purpose::STANDARD.encode(png);
    let alt = super::html::escape(alt);
    format!(
        "<img width=\"{width}\" height=\"{height}\" alt=\"{alt}\" src=\"data:image/png;base64,{data}\">"
    )
}

pub(super) fn normal(plane: Plane) -> Axis {
    match plane {
        Plane::Axial => Axis(2),
        Plane::Coronal => Axis(1),
        Plane::Sagittal => Axis(0),
    }
}

/// From `[first, second]` RAS+ axes to picture rows and columns: both flipped and transposed, so that
/// the patient's right is on the viewer's left and anterior or superior is on top.
fn oriented(slice: ArrayView2<'_, f32>) -> Array2<f32> {
    let (columns, rows) = slice.dim();
    Array2::from_shape_fn((rows, columns), |(row, column)| {
        slice[[columns - 1 - column, rows - 1 - row]]
    })
}

pub(super) fn encode_rgb(
    bytes: &[u8],
    width: u32,
    height: u32,
) -> Result<Vec<u8>, png::EncodingError> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(bytes)?;
    writer.finish()?;
    out.flush()?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(png: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png))
            .read_info()
            .unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        (info.width, info.height, bytes)
    }

    #[test]
    fn right_is_left_and_anterior_is_up() {
        let mut image = Array3::<f32>::zeros((4, 3, 2));
        image[[3, 2, 1]] = 1.0; // right-most, most anterior voxel of the upper slice
        let window = Window {
            low: 0.0,
            high: 1.0,
        };
        let (width, height, bytes) =
            decode(&slice_png(&image, Plane::Axial, 1, window, &[]).unwrap());
        assert_eq!((width, height), (4, 3));
        assert_eq!(&bytes[..3], &[255, 255, 255], "top left of the picture");
        assert_eq!(bytes.iter().filter(|&&b| b > 0).count(), 3);
    }

    #[test]
    fn overlay_colours_only_where_the_mask_is() {
        let image = Array3::<f32>::zeros((2, 2, 1));
        let mut mask = Array3::<f32>::zeros((2, 2, 1));
        mask[[0, 0, 0]] = 1.0;
        let overlay = Overlay {
            mask: &mask,
            colour: [200, 100, 0],
            opacity: 0.5,
        };
        let png = slice_png(&image, Plane::Axial, 0, Window::CHEST, &[overlay]).unwrap();
        let (_, _, bytes) = decode(&png);
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 50, 0]);
        assert_eq!(fullest_slice(&mask, Plane::Sagittal), 0);
    }
}
