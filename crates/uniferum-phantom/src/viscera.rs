//! Heart, vessels, airway, oesophagus, upper abdominal organs, lung vessels, table.

use rand::Rng;

use crate::geometry::{Point, Solid, add, frame_along, scaled, tube};
use crate::patient::{Patient, label};
use crate::random::{Stream, stream};
use crate::render::{Mark, Paint};
use crate::tissue::{
    AIR, BLOOD, CHEST, Class, LIVER, MUSCLE, MYOCARDIUM, Over, SPLEEN, TRUNK, VISCERA,
};

fn organ(solid: Solid, over: Over, hu: f32, number: u8) -> Paint {
    Paint {
        solid,
        over,
        class: Class::Organ,
        hu,
        label: Mark::Set(number),
    }
}

/// Where the heart lies and how large it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heart {
    pub(crate) centre: Point,
    pub(crate) axes: [Point; 3],
    pub(crate) radii: Point,
}

impl Heart {
    /// The axis points to the left, the front and the feet.
    pub(crate) fn of(patient: &Patient) -> Self {
        let s = patient.heart;
        let radii = [58.0 * s, 40.0 * s, 42.0 * s];
        let z = patient.base + 0.45 * patient.dome + 36.0 + 6.0 * (s - 1.0);
        Heart {
            centre: [-20.0 * s, 14.0, z],
            axes: frame_along([-0.75, 0.45, -0.48]),
            radii,
        }
    }

    /// The heart grown by `margin` mm.
    pub(crate) fn solid(&self, margin: f32) -> Solid {
        Solid::oriented(self.centre, self.axes, self.radii.map(|r| r + margin))
    }

    /// A point on the surface in the direction `(u, v, w)` of the heart's own axes.
    pub(crate) fn surface(&self, u: Point) -> Point {
        let length = u.iter().map(|c| c * c).sum::<f32>().sqrt().max(1e-6);
        (0..3).fold(self.centre, |p, i| {
            add(p, scaled(self.axes[i], self.radii[i] * u[i] / length))
        })
    }
}

/// Organs in the order in which they are painted.
pub(crate) fn organs(patient: &Patient, heart: &Heart, seed: u64) -> Vec<Paint> {
    let mut out = abdomen(patient);
    out.extend(lung_vessels(patient, seed));
    out.push(organ(heart.solid(0.0), VISCERA, MYOCARDIUM, label::HEART));
    out.extend(great_vessels(patient, heart));
    out.extend(airway(patient));
    out
}

fn abdomen(patient: &Patient) -> Vec<Paint> {
    let below = Over::these(&[Class::Abdomen, Class::Diaphragm]);
    let z = patient.base;
    let [a, _] = patient.cage(z);
    let liver = Solid::ellipsoid(
        [0.40 * a, 6.0, z - 18.0],
        [0.62 * a, 70.0, patient.dome + 34.0],
    );
    let stomach = Solid::ellipsoid(
        [-0.45 * a, 12.0, z - 12.0],
        [38.0, 44.0, patient.dome + 14.0],
    );
    let gas = Solid::ellipsoid([-0.45 * a, 34.0, z - 2.0], [26.0, 16.0, 18.0]);
    let spleen = Solid::ellipsoid([-0.72 * a, -45.0, z - 22.0], [26.0, 34.0, 46.0]);
    let inside_stomach = Over::these(&[Class::Organ]);
    vec![
        organ(liver, below, LIVER, label::LIVER),
        organ(spleen, below, SPLEEN, label::SPLEEN),
        organ(stomach, below, 32.0, label::STOMACH),
        Paint {
            solid: gas,
            over: inside_stomach,
            class: Class::Organ,
            hu: -880.0,
            label: Mark::Set(label::STOMACH),
        },
    ]
}

fn great_vessels(patient: &Patient, heart: &Heart) -> Vec<Paint> {
    let arch = patient.apex * 0.42;
    let spine = -(patient.trunk[1] - patient.fat) + 62.0;
    let root = add(heart.centre, [14.0, 6.0, 26.0]);
    let aorta = [
        (root, 16.0),
        ([12.0, 18.0, arch - 12.0], 15.5),
        ([2.0, 6.0, arch + 6.0], 14.0),
        ([-14.0, -14.0, arch], 13.0),
        ([-20.0, spine, arch - 24.0], 12.5),
        ([-16.0, spine, patient.base - 30.0], 11.5),
    ];
    let svc = [
        ([30.0, 10.0, arch + 20.0], 9.0),
        (add(heart.centre, [40.0, -8.0, 26.0]), 10.0),
    ];
    let ivc = [
        (add(heart.centre, [38.0, -14.0, -16.0]), 12.0),
        ([26.0, -16.0, patient.base - 30.0], 12.0),
    ];
    let veins =
        [[-1.0, 0.0], [-1.0, -16.0], [1.0, 0.0], [1.0, -16.0]].map(|[side, dz]: [f32; 2]| {
            let from = add(heart.centre, [side * 6.0 + 12.0, -26.0, 22.0 + dz]);
            [(from, 8.0), (add(from, [side * 34.0, -10.0, 4.0]), 6.0)]
        });
    let pulmonary_artery = [
        (add(heart.centre, [2.0, 22.0, 28.0]), 14.0),
        ([-6.0, 8.0, arch - 26.0], 14.0),
        ([-34.0, -6.0, arch - 28.0], 10.0),
    ];
    let mut out: Vec<Paint> = tube(&pulmonary_artery)
        .map(|s| organ(s, VISCERA, BLOOD, 0))
        .collect();
    for vein in veins {
        out.extend(tube(&vein).map(|s| organ(s, VISCERA, BLOOD, label::PULMONARY_VEIN)));
    }
    out.extend(tube(&svc).map(|s| organ(s, VISCERA, BLOOD, label::SUPERIOR_VENA_CAVA)));
    out.extend(tube(&ivc).map(|s| organ(s, VISCERA, BLOOD, label::INFERIOR_VENA_CAVA)));
    out.extend(tube(&aorta).map(|s| organ(s, VISCERA, BLOOD, label::AORTA)));
    out
}

fn airway(patient: &Patient) -> Vec<Paint> {
    let carina: Point = [2.0, -18.0, patient.apex * 0.30];
    let top: Point = [0.0, -4.0, patient.apex + 30.0];
    let back = [0.0, -20.0, 0.0];
    let mut out: Vec<Paint> = tube(&[
        (add(top, back), 8.0),
        (add(carina, back), 8.0),
        ([-6.0, -44.0, patient.base + 4.0], 8.0),
        ([-20.0, -20.0, patient.base - 20.0], 8.0),
    ])
    .map(|s| organ(s, TRUNK, MUSCLE - 14.0, label::OESOPHAGUS))
    .collect();
    let mut lumen = |from: Point, to: Point, radius: f32| {
        out.push(organ(
            Solid::capsule(from, to, radius + 2.0),
            TRUNK,
            MUSCLE - 10.0,
            0,
        ));
        out.push(organ(
            Solid::capsule(from, to, radius),
            TRUNK,
            AIR + 5.0,
            label::TRACHEA,
        ));
    };
    lumen(top, carina, 9.0);
    lumen(carina, add(carina, [34.0, -6.0, -26.0]), 6.5);
    lumen(carina, add(carina, [-38.0, -6.0, -30.0]), 6.0);
    out
}

/// Vessels that branch from the hila and thin out towards the pleura.
fn lung_vessels(patient: &Patient, seed: u64) -> Vec<Paint> {
    let mut rng = stream(seed, Stream::LungTree);
    let lung = Over::these(&[Class::Lung]);
    let mut out = Vec::new();
    for side in [-1.0f32, 1.0] {
        let hilum: Point = [side * 30.0, -10.0, patient.apex * 0.12];
        for _ in 0..26 {
            let direction: Point = [
                side * rng.random_range(0.25..1.0),
                rng.random_range(-0.9..0.9),
                rng.random_range(-1.0..0.9),
            ];
            let middle = add(hilum, scaled(direction, 40.0));
            let bend: Point = std::array::from_fn(|_| rng.random_range(-14.0..14.0));
            let end = add(add(hilum, scaled(direction, 88.0)), bend);
            let line = [(hilum, 4.0), (middle, 2.8), (end, 1.6)];
            out.extend(tube(&line).map(|solid| Paint {
                solid,
                over: lung,
                class: Class::Lung,
                hu: BLOOD - 20.0,
                label: Mark::Keep,
            }));
        }
    }
    out
}

/// The couch under the patient: a thin hard shell.
pub(crate) fn table(patient: &Patient) -> Vec<Paint> {
    let y = -patient.trunk[1] - 9.0;
    let outside = Over::these(&[Class::Outside]);
    [-3.0f32, 3.0]
        .into_iter()
        .map(|dy| Paint {
            solid: Solid::ellipsoid([0.0, y + dy, 0.0], [220.0, 4.0, 400.0]),
            over: outside,
            class: Class::Outside,
            hu: -120.0,
            label: Mark::Keep,
        })
        .collect()
}

/// Solids of the chest itself.
pub(crate) const INSIDE_CHEST: Over = CHEST;
