//! A contact sheet of a scan: what a person looks at before trusting a preparation.

use ndarray::{ArrayView2, Axis};
use uniferum_ct::Volume;

use super::slices::{Plane, Window, encode_rgb, normal};

/// Lung window: -1350 to 150 HU.
const LUNG: Window = Window {
    low: -1350.0,
    high: 150.0,
};

/// Soft-tissue window: -160 to 240 HU.
const SOFT_TISSUE: Window = Window {
    low: -160.0,
    high: 240.0,
};

/// Pixels of the longest side of the scan.
const LONGEST: f64 = 320.0;
/// Pixels between tiles.
const GAP: usize = 6;
/// Colour between tiles, and of the crop box.
const GROUND: [u8; 3] = [24, 28, 34];
const BOX: [u8; 3] = [255, 190, 0];

/// Draws axial slices at a quarter, half and three quarters of the crop box, and the coronal and
/// sagittal slice through its middle: lung window above, soft-tissue window below, the box in yellow.
///
/// All tiles have the same scale. The patient's right is on the left, anterior or superior is on top;
/// in the sagittal tile anterior is on the left.
///
/// # Shapes
/// `crop_box` is `[first, past the last]` in voxels along each axis of `scan`, as
/// [`StandardiseReport::crop_box`](uniferum_ct::StandardiseReport::crop_box) has it; without one the
/// slices are those of the whole scan.
///
/// # Units
/// HU; the axes of `scan` must be RAS.
///
/// # Errors
/// Those of the PNG encoder; an empty scan gives an empty picture's.
pub fn contact_sheet(
    scan: &Volume<f32>,
    crop_box: Option<[[usize; 2]; 3]>,
) -> Result<Vec<u8>, png::EncodingError> {
    let shape = scan.shape();
    let bounds = crop_box.unwrap_or(shape.map(|n| [0, n]));
    let at = |axis: usize, share: f64| {
        let [first, past] = bounds[axis].map(|v| v as f64);
        ((first + share * (past - first)) as usize).min(shape[axis].saturating_sub(1))
    };
    let tiles = [
        (Plane::Axial, at(2, 0.25)),
        (Plane::Axial, at(2, 0.5)),
        (Plane::Axial, at(2, 0.75)),
        (Plane::Coronal, at(1, 0.5)),
        (Plane::Sagittal, at(0, 0.5)),
    ];
    let scale = Scale::of(scan);
    let tiles: Vec<(Tile, Tile)> = tiles
        .iter()
        .map(|&(plane, index)| {
            let tile = |window| Tile::draw(scan, plane, index, window, crop_box, &scale);
            (tile(LUNG), tile(SOFT_TISSUE))
        })
        .collect();
    let row_height = tiles.iter().map(|t| t.0.height).max().unwrap_or(0);
    let width = tiles.iter().map(|t| t.0.width + GAP).sum::<usize>() + GAP;
    let height = 2 * row_height + 3 * GAP;
    let mut sheet = GROUND.repeat(width * height);
    let mut left = GAP;
    for (lung, soft) in &tiles {
        let top = GAP + (row_height - lung.height) / 2;
        lung.paste(&mut sheet, width, left, top);
        soft.paste(&mut sheet, width, left, top + row_height + GAP);
        left += lung.width + GAP;
    }
    encode_rgb(&sheet, width as u32, height as u32)
}

/// Pixels a voxel along each axis.
struct Scale([f64; 3]);

impl Scale {
    fn of(scan: &Volume<f32>) -> Self {
        let (shape, spacing) = (scan.shape(), scan.spacing());
        let longest = (0..3)
            .map(|a| shape[a] as f64 * spacing[a])
            .fold(1e-9, f64::max);
        Scale(spacing.map(|mm| mm * LONGEST / longest))
    }
}

struct Tile {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Tile {
    fn draw(
        scan: &Volume<f32>,
        plane: Plane,
        index: usize,
        window: Window,
        crop_box: Option<[[usize; 2]; 3]>,
        scale: &Scale,
    ) -> Self {
        let [across, up] = match plane {
            Plane::Axial => [0, 1],
            Plane::Coronal => [0, 2],
            Plane::Sagittal => [1, 2],
        };
        let pixels = |axis: usize| (scan.shape()[axis] as f64 * scale.0[axis]).round().max(1.0);
        let (width, height) = (pixels(across), pixels(up));
        let mut tile = Tile {
            width: width as usize,
            height: height as usize,
            rgb: Vec::new(),
        };
        let slice = scan.voxels.index_axis(normal(plane), index);
        // Both axes run backwards in the picture.
        let column = |pixel: usize| (width - pixel as f64 - 0.5) / scale.0[across] - 0.5;
        let row = |pixel: usize| (height - pixel as f64 - 0.5) / scale.0[up] - 0.5;
        for y in 0..tile.height {
            for x in 0..tile.width {
                let grey = window.grey(bilinear(slice, [column(x), row(y)])).round() as u8;
                tile.rgb.extend([grey; 3]);
            }
        }
        if let Some(bounds) = crop_box {
            let edge = |axis: usize, length: f64, side: usize| {
                let pixel = length - bounds[axis][side] as f64 * scale.0[axis];
                pixel.round().clamp(0.0, length - 1.0) as usize
            };
            let (right, left) = (edge(across, width, 0), edge(across, width, 1));
            let (bottom, top) = (edge(up, height, 0), edge(up, height, 1));
            tile.outline([left, right], [top, bottom]);
        }
        tile
    }

    /// Draws a rectangle, its last pixels included.
    fn outline(&mut self, [left, right]: [usize; 2], [top, bottom]: [usize; 2]) {
        for x in left..=right {
            self.set(x, top);
            self.set(x, bottom);
        }
        for y in top..=bottom {
            self.set(left, y);
            self.set(right, y);
        }
    }

    fn set(&mut self, x: usize, y: usize) {
        let at = 3 * (y * self.width + x);
        self.rgb[at..at + 3].copy_from_slice(&BOX);
    }

    fn paste(&self, sheet: &mut [u8], sheet_width: usize, left: usize, top: usize) {
        for (y, line) in self.rgb.chunks_exact(3 * self.width).enumerate() {
            let at = 3 * ((top + y) * sheet_width + left);
            sheet[at..at + line.len()].copy_from_slice(line);
        }
    }
}

/// Value between four voxels; beyond the outer ones they are repeated.
fn bilinear(slice: ArrayView2<'_, f32>, at: [f64; 2]) -> f32 {
    let (mut low, mut high, mut share) = ([0; 2], [0; 2], [0.0f32; 2]);
    for a in 0..2 {
        let last = slice.len_of(Axis(a)).saturating_sub(1);
        let inside = at[a].clamp(0.0, last as f64);
        low[a] = inside as usize;
        high[a] = (low[a] + 1).min(last);
        share[a] = (inside - low[a] as f64) as f32;
    }
    let line = |x: usize| {
        let (p, q) = (slice[[x, low[1]]], slice[[x, high[1]]]);
        p + share[1] * (q - p)
    };
    let (p, q) = (line(low[0]), line(high[0]));
    p + share[0] * (q - p)
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use uniferum_ct::Affine;

    use super::*;

    fn decode(png: &[u8]) -> (usize, usize, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png))
            .read_info()
            .unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        (info.width as usize, info.height as usize, bytes)
    }

    /// 320 x 160 x 240 mm; the patient's right upper anterior corner is bone, the rest air.
    fn scan() -> Volume<f32> {
        let corner = |(x, y, z): (usize, usize, usize)| x >= 60 && y >= 30 && z >= 40;
        let voxels =
            Array3::from_shape_fn((80, 40, 48), |p| if corner(p) { 700.0 } else { -1000.0 });
        Volume::new(
            voxels,
            Affine::from_spacing([4.0, 4.0, 5.0], [1.0; 3], [0.0; 3]),
        )
    }

    #[test]
    fn tiles_have_one_scale_and_stand_as_the_patient_does() {
        let (width, height, rgb) = decode(&contact_sheet(&scan(), None).unwrap());
        // Three axial and one coronal tile of 320, one sagittal of 160; rows of 240.
        assert_eq!(
            (width, height),
            (4 * 320 + 160 + 6 * GAP, 2 * 240 + 3 * GAP)
        );
        let pixel = |x: usize, y: usize| rgb[3 * (y * width + x)];
        let coronal = 3 * 320 + 4 * GAP;
        let lung_air = ((-1000.0f32 + 1350.0) / 1500.0 * 255.0).round() as u8;
        assert_eq!(
            pixel(coronal + 300, GAP + 120),
            lung_air,
            "air in the lung window"
        );
        assert_eq!(
            pixel(coronal + 300, 2 * GAP + 360),
            0,
            "air in the soft-tissue window"
        );
        assert_eq!(pixel(0, 0), GROUND[0]);
        // The middle coronal slice is not anterior enough; a box in front moves it there.
        let front = [[0, 80], [36, 40], [0, 48]];
        let (_, _, rgb) = decode(&contact_sheet(&scan(), Some(front)).unwrap());
        let pixel = |x: usize, y: usize| rgb[3 * (y * width + x)];
        assert_eq!(
            pixel(coronal + 40, GAP + 20),
            255,
            "the right shoulder is top left"
        );
        assert_eq!(pixel(coronal + 280, GAP + 20), lung_air);
    }

    #[test]
    fn the_box_is_drawn_where_it_is() {
        let bounds = [[20, 60], [10, 30], [12, 36]];
        let (width, _, rgb) = decode(&contact_sheet(&scan(), Some(bounds)).unwrap());
        let pixel = |x: usize, y: usize| &rgb[3 * (y * width + x)..][..3];
        // First axial tile, 320 x 160 centred in a row of 240: x 80 to 240, y 40 to 120.
        let top = GAP + 40;
        for (x, y) in [
            (80, 40),
            (240, 40),
            (80, 120),
            (240, 120),
            (160, 40),
            (80, 77),
        ] {
            assert_eq!(pixel(GAP + x, top + y), BOX, "{x} {y}");
        }
        for (x, y) in [(79, 40), (241, 60), (160, 80), (160, 121)] {
            assert_ne!(pixel(GAP + x, top + y), BOX, "{x} {y}");
        }
    }
}
