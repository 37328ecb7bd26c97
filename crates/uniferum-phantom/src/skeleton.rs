//! Spine, ribs, sternum, costal cartilages, shoulder girdle.

use crate::geometry::{Point, Solid, tube};
use crate::patient::{Patient, label};
use crate::render::{Mark, Paint};
use crate::tissue::{BODY, CARTILAGE, COMPACT_BONE, Class, MARROW};

/// All bones.
pub(crate) fn bones(patient: &Patient) -> Vec<Paint> {
    let mut out = spine(patient);
    for left in [false, true] {
        for n in 1..=12 {
            out.extend(rib(patient, left, n));
        }
    }
    out.extend(sternum(patient));
    out
}

fn bone(solid: Solid, hu: f32, label: u8) -> Paint {
    Paint {
        solid,
        over: BODY,
        class: Class::Bone,
        hu,
        label: Mark::Set(label),
    }
}

/// Height of the middle of thoracic vertebra `n`: T1 at the apices, T12 below the bases.
fn vertebra_height(patient: &Patient, n: u8) -> f32 {
    let top = patient.apex - 2.0;
    let bottom = patient.base - 6.0;
    top + (bottom - top) * f32::from(n - 1) / 11.0
}

/// The front of the vertebral bodies.
fn spine_front(patient: &Patient) -> f32 {
    -(patient.trunk[1] - patient.fat) + 52.0
}

fn spine(patient: &Patient) -> Vec<Paint> {
    let mut out = Vec::new();
    let height = (vertebra_height(patient, 1) - vertebra_height(patient, 12)) / 11.0;
    let y = spine_front(patient) - 17.0;
    for n in 1..=12u8 {
        let z = vertebra_height(patient, n);
        let number = label::vertebra(n);
        let width = 13.0 + 0.5 * f32::from(n);
        let disc = |dy: f32, radii: [f32; 2], share: f32| Solid::Disc {
            centre: [0.0, y + dy, z],
            radii,
            half_height: share * height / 2.0,
        };
        out.push(bone(disc(0.0, [width, 14.0], 0.86), MARROW, number));
        // Arch and processes behind the canal.
        out.push(bone(
            disc(-26.0, [14.0, 6.0], 0.6),
            COMPACT_BONE * 0.6,
            number,
        ));
        let tip: Point = [0.0, y - 42.0, z - 8.0];
        out.push(bone(
            Solid::capsule([0.0, y - 28.0, z], tip, 4.0),
            COMPACT_BONE * 0.7,
            number,
        ));
        for side in [-1.0, 1.0] {
            let from = [side * 8.0, y - 18.0, z];
            let to = [side * 26.0, y - 22.0, z + 3.0];
            out.push(bone(
                Solid::capsule(from, to, 4.0),
                COMPACT_BONE * 0.6,
                number,
            ));
        }
    }
    out
}

/// A rib runs from its vertebra round the cage, falling towards the front.
fn rib(patient: &Patient, left: bool, n: u8) -> Vec<Paint> {
    let side = if left { -1.0 } else { 1.0 };
    let start = vertebra_height(patient, n) + 3.0;
    // The lower ribs are long and steep; the last two float.
    let reach = match n {
        11 => 0.55,
        12 => 0.35,
        _ => 0.86,
    };
    let fall = 28.0 + 3.0 * f32::from(n.min(8));
    let points: Vec<(Point, f32)> = (0..=9)
        .map(|i| {
            let t = reach * i as f32 / 9.0;
            // From the back (-90 degrees) round the side to the front (90 degrees).
            let angle = (-80.0 + 160.0 * t).to_radians();
            let z = start - fall * t;
            let [a, b] = patient.cage(z.min(patient.apex * 0.93));
            let (a, b) = (a + patient.muscle * 0.45, b + patient.muscle * 0.45);
            ([side * a * angle.cos(), b * angle.sin(), z], 5.0)
        })
        .collect();
    let number = label::rib(left, n);
    let mut out: Vec<Paint> = tube(&points)
        .map(|s| bone(s, COMPACT_BONE, number))
        .collect();
    if n <= 7
        && let Some(&(end, _)) = points.last()
    {
        let sternal = [
            side * 12.0,
            sternum_front(patient, end[2]) - 3.0,
            end[2] + 4.0,
        ];
        let cartilage = Solid::capsule(end, sternal, 5.0);
        out.push(bone(cartilage, CARTILAGE, label::COSTAL_CARTILAGES));
    }
    out
}

fn sternum_front(patient: &Patient, z: f32) -> f32 {
    patient.cage(z.min(patient.apex * 0.8))[1] + patient.muscle * 0.5
}

fn sternum(patient: &Patient) -> Vec<Paint> {
    let heights = [
        0.62 * patient.apex,
        0.2 * patient.apex,
        -0.25 * patient.apex,
    ];
    let points: Vec<(Point, f32)> = heights
        .iter()
        .map(|&z| ([0.0, sternum_front(patient, z), z], 8.0))
        .collect();
    tube(&points)
        .map(|s| bone(s, MARROW * 1.4, label::STERNUM))
        .collect()
}
