//! The trunk: wall, cage, lungs with their lobes, diaphragm, mediastinum, as functions of a point.

use rand::Rng;

use crate::geometry::{Point, smoothstep};
use crate::random::{Stream, stream};
use crate::tissue::{self, Class};

/// TotalSegmentator v2 numbers.
pub(crate) mod label {
    pub(crate) const LIVER: u8 = 5;
    pub(crate) const STOMACH: u8 = 6;
    pub(crate) const LEFT_UPPER_LOBE: u8 = 10;
    pub(crate) const LEFT_LOWER_LOBE: u8 = 11;
    pub(crate) const RIGHT_UPPER_LOBE: u8 = 12;
    pub(crate) const RIGHT_MIDDLE_LOBE: u8 = 13;
    pub(crate) const RIGHT_LOWER_LOBE: u8 = 14;
    pub(crate) const OESOPHAGUS: u8 = 15;
    pub(crate) const TRACHEA: u8 = 16;
    pub(crate) const SPLEEN: u8 = 1;
    pub(crate) const HEART: u8 = 51;
    pub(crate) const AORTA: u8 = 52;
    pub(crate) const PULMONARY_VEIN: u8 = 53;
    pub(crate) const SUPERIOR_VENA_CAVA: u8 = 62;
    pub(crate) const INFERIOR_VENA_CAVA: u8 = 63;
    pub(crate) const STERNUM: u8 = 116;
    pub(crate) const COSTAL_CARTILAGES: u8 = 117;
    /// Thoracic vertebra `n` of 1..=12.
    pub(crate) fn vertebra(n: u8) -> u8 {
        44 - n
    }
    /// Rib `n` of 1..=12.
    pub(crate) fn rib(left: bool, n: u8) -> u8 {
        n + if left { 91 } else { 103 }
    }
}

/// Sizes of one patient, mm. Axes: x to the right, y to the front, z to the head; the origin lies in the
/// middle of the chest.
#[derive(Debug, Clone)]
pub(crate) struct Patient {
    /// Half width and half depth of the trunk at the skin.
    pub(crate) trunk: [f32; 2],
    /// Thickness of skin and fat.
    pub(crate) fat: f32,
    /// Thickness of muscle and ribs.
    pub(crate) muscle: f32,
    /// Height of the lung bases and apices.
    pub(crate) base: f32,
    pub(crate) apex: f32,
    /// Height of the right dome above the base; the left is lower.
    pub(crate) dome: f32,
    /// 1 for a usual heart.
    pub(crate) heart: f32,
    /// HU of inflated lung.
    pub(crate) lung_hu: f32,
    /// Rotation about z, x, y in radians and shift in mm.
    pub(crate) tilt: [f32; 3],
    pub(crate) shift: Point,
}

/// What lies at a point before organs are painted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tissue {
    pub(crate) class: Class,
    pub(crate) hu: f32,
    pub(crate) label: u8,
}

impl Patient {
    /// Draws a patient; `variation` 0 gives the average one.
    pub(crate) fn new(seed: u64, variation: f32) -> Self {
        let mut rng = stream(seed, Stream::Patient);
        let mut vary =
            |mean: f32, spread: f32| mean + variation * spread * rng.random_range(-1.0..1.0);
        let size = vary(1.0, 0.09);
        Patient {
            trunk: [vary(166.0, 9.0) * size, vary(116.0, 9.0) * size],
            fat: vary(17.0, 8.0),
            muscle: 15.0 * size,
            base: -104.0 * size,
            apex: 112.0 * size,
            dome: vary(42.0, 12.0),
            heart: vary(1.0, 0.06) * size,
            lung_hu: vary(-855.0, 35.0),
            tilt: [vary(0.0, 0.10), vary(0.0, 0.06), vary(0.0, 0.05)],
            shift: [vary(0.0, 8.0), vary(0.0, 8.0), vary(0.0, 8.0)],
        }
    }

    /// Half axes of the inside of the rib cage at height `z`.
    pub(crate) fn cage(&self, z: f32) -> [f32; 2] {
        let inset = self.fat + self.muscle;
        let shoulder = ((z - 0.3 * self.apex) / (0.75 * self.apex)).clamp(0.0, 0.97);
        let narrowing = (1.0 - shoulder * shoulder).sqrt();
        [
            (self.trunk[0] - inset) * narrowing,
            (self.trunk[1] - inset) * (0.25 + 0.75 * narrowing),
        ]
    }

    /// Height of the diaphragm above or below a point.
    pub(crate) fn diaphragm(&self, x: f32, y: f32) -> f32 {
        let (centre, height) = if x > 0.0 {
            (72.0, self.dome)
        } else {
            (-72.0, self.dome - 11.0)
        };
        let (u, v) = ((x - centre) / 70.0, (y - 8.0) / 75.0);
        self.base + height * (-(u * u + v * v)).exp()
    }

    /// Depth inside the pleural space of either side; negative outside. The second value is the distance
    /// from the back wall, along y.
    pub(crate) fn pleura(&self, p: Point) -> (f32, f32) {
        let [a, b] = self.cage(p[2]);
        let across = 1.0 - (p[0] / a.max(1.0)).powi(2);
        let chord = b * across.max(0.0).sqrt();
        let wall = if across > 0.0 {
            chord - p[1].abs()
        } else {
            -1.0
        };
        // The mediastinum is wide at the heart, narrow in front and widest at the spine.
        let spine = 13.0 * smoothstep(-25.0, -65.0, p[1]);
        let medial = p[0].abs() - 17.0 - spine;
        let above = p[2] - self.diaphragm(p[0], p[1]);
        (
            wall.min(medial).min(above).min(self.apex - p[2]),
            p[1] + chord,
        )
    }

    /// The lobe of a point inside the lungs.
    pub(crate) fn lobe(&self, p: Point) -> u8 {
        let above_oblique_fissure = p[2] > -8.0 - 0.95 * p[1];
        match (p[0] < 0.0, above_oblique_fissure) {
            (true, true) => label::LEFT_UPPER_LOBE,
            (true, false) => label::LEFT_LOWER_LOBE,
            (false, false) => label::RIGHT_LOWER_LOBE,
            (false, true) if p[2] > 4.0 => label::RIGHT_UPPER_LOBE,
            (false, true) => label::RIGHT_MIDDLE_LOBE,
        }
    }

    /// Wall, lung, mediastinum, diaphragm, abdomen or outside.
    pub(crate) fn tissue(&self, p: Point) -> Tissue {
        let plain = |class, hu| Tissue {
            class,
            hu,
            label: 0,
        };
        let depth = self.trunk_depth(p);
        if depth < 0.0 {
            return plain(Class::Outside, tissue::AIR);
        }
        if depth < 2.5 {
            return plain(Class::Wall, tissue::SKIN);
        }
        if depth < self.fat {
            return plain(Class::Wall, tissue::FAT);
        }
        if depth < self.fat + self.muscle {
            return plain(Class::Wall, tissue::MUSCLE);
        }
        let (pleura, _) = self.pleura(p);
        if pleura > 0.0 {
            return Tissue {
                class: Class::Lung,
                hu: self.lung_hu,
                label: self.lobe(p),
            };
        }
        let below = self.diaphragm(p[0], p[1]) - p[2];
        if below > 4.0 {
            return plain(Class::Abdomen, tissue::FAT + 25.0);
        }
        if below > 0.0 {
            return plain(Class::Diaphragm, tissue::MUSCLE);
        }
        let [a, b] = self.cage(p[2]);
        let inside = (p[0] / a.max(1.0)).powi(2) + (p[1] / b.max(1.0)).powi(2) < 1.0;
        if inside && p[2] < self.apex {
            plain(Class::Mediastinum, tissue::FAT + 10.0)
        } else {
            plain(Class::Wall, tissue::MUSCLE)
        }
    }

    /// How deep a point lies under the skin, mm; the trunk tapers to the shoulders.
    fn trunk_depth(&self, p: Point) -> f32 {
        let [a, b] = self.trunk;
        let taper = 1.0 - 0.18 * smoothstep(0.75 * self.apex, 1.5 * self.apex, p[2]);
        let r = ((p[0] / (a * taper)).powi(2) + (p[1] / (b * taper)).powi(2)).sqrt();
        (1.0 - r) * b * taper
    }
}
