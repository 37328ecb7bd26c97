//! Findings: what they change in the patient, in the lung, and what they add.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::finding::{Finding, Findings};
use crate::geometry::{Point, Solid, add, length, smoothstep, sub};
use crate::patient::{Patient, label};
use crate::random::{Stream, stream};
use crate::render::{Alter, Mark, Paint};
use crate::texture::Texture;
use crate::tissue::{COLLAPSED_LUNG, Class, EFFUSION, EMPHYSEMA, METAL, Over, TRUNK, VISCERA};
use crate::viscera::{Heart, INSIDE_CHEST};

/// Changes that come before anything is built: a heart 1.27 to 1.5 times as large.
pub(crate) fn reshape(patient: &mut Patient, findings: &Findings) {
    if let Some(grade) = findings.grade(Finding::Cardiomegaly) {
        patient.heart *= 1.27 + 0.23 * grade;
    }
}

/// Changes of the lung's own tissue.
pub(crate) fn lung_changes(
    patient: &Patient,
    findings: &Findings,
    seed: u64,
) -> Vec<Box<dyn Alter>> {
    let mut rng = stream(seed, Stream::Disease);
    let sides = [rng.random_bool(0.5), rng.random_bool(0.35)];
    let spots: Vec<Point> = (0..2)
        .map(|_| lung_point(patient, &mut rng, 30.0))
        .collect();
    let count = rng.random_range(1..=2usize);
    let mut out: Vec<Box<dyn Alter>> = Vec::new();
    if let Some(grade) = findings.grade(Finding::Emphysema) {
        out.push(Box::new(Emphysema {
            threshold: 0.28 - 0.33 * grade,
            apex: patient.apex,
        }));
    }
    if let Some(grade) = findings.grade(Finding::Consolidation) {
        let radius = 20.0 + 18.0 * grade;
        out.push(Box::new(Consolidation {
            spots: spots[..count].to_vec(),
            radius,
        }));
    }
    if let Some(grade) = findings.grade(Finding::PleuralEffusion) {
        let [left, both] = sides;
        out.push(Box::new(Effusion {
            patient: patient.clone(),
            left: left || both,
            right: !left || both,
            depth: 18.0 + 40.0 * grade,
        }));
    }
    out
}

/// Solids painted under the heart: pericardial fluid.
pub(crate) fn round_the_heart(heart: &Heart, findings: &Findings) -> Vec<Paint> {
    let Some(grade) = findings.grade(Finding::PericardialEffusion) else {
        return Vec::new();
    };
    vec![Paint {
        solid: heart.solid(9.0 + 10.0 * grade),
        over: VISCERA,
        class: Class::Fluid,
        hu: EFFUSION + 4.0,
        label: Mark::Set(0),
    }]
}

/// Solids painted over everything else.
pub(crate) fn additions(
    patient: &Patient,
    heart: &Heart,
    findings: &Findings,
    seed: u64,
) -> Vec<Paint> {
    let mut rng = stream(seed ^ 0x5eed, Stream::Disease);
    let mut out = Vec::new();
    if let Some(grade) = findings.grade(Finding::LungNodule) {
        out.extend(nodules(patient, grade, &mut rng));
    }
    if let Some(grade) = findings.grade(Finding::HiatalHernia) {
        out.extend(hernia(patient, grade));
    }
    if let Some(grade) = findings.grade(Finding::CoronaryCalcification) {
        out.extend(plaques(heart, grade, &mut rng));
    }
    if findings.has(Finding::Pacemaker) {
        out.extend(pacemaker(patient, heart, &mut rng));
    }
    out
}

/// A point of the lungs at least `margin` mm from their surface.
fn lung_point(patient: &Patient, rng: &mut ChaCha8Rng, margin: f32) -> Point {
    let mut best = ([70.0, 0.0, 0.0], f32::MIN);
    for _ in 0..400 {
        let p = [
            rng.random_range(-1.0..1.0) * patient.trunk[0],
            rng.random_range(-1.0..1.0) * patient.trunk[1],
            rng.random_range(patient.base..patient.apex),
        ];
        let depth = patient.pleura(p).0;
        if depth > margin {
            return p;
        }
        if depth > best.1 {
            best = (p, depth);
        }
    }
    best.0
}

struct Emphysema {
    threshold: f32,
    apex: f32,
}

impl Alter for Emphysema {
    fn alter(&self, p: Point, texture: &Texture) -> Option<(Class, f32)> {
        let upper = smoothstep(-0.9 * self.apex, 0.6 * self.apex, p[2]);
        let field = texture.at(p, 13.0) + 0.3 * texture.at(p, 6.0);
        (field > self.threshold + 0.25 * (1.0 - upper)).then_some((Class::Lung, EMPHYSEMA))
    }
}

struct Consolidation {
    spots: Vec<Point>,
    radius: f32,
}

impl Alter for Consolidation {
    fn alter(&self, p: Point, texture: &Texture) -> Option<(Class, f32)> {
        let ragged = self.radius * (1.0 + 0.35 * texture.at(p, 16.0));
        let inside = self.spots.iter().any(|spot| length(sub(p, *spot)) < ragged);
        // Open bronchi stay black inside the dense lung.
        let bronchus = texture.at(p, 5.0) > 0.62;
        inside.then_some((
            Class::Lung,
            if bronchus {
                -700.0
            } else {
                COLLAPSED_LUNG + 10.0
            },
        ))
    }
}

struct Effusion {
    patient: Patient,
    left: bool,
    right: bool,
    depth: f32,
}

impl Alter for Effusion {
    fn alter(&self, p: Point, _texture: &Texture) -> Option<(Class, f32)> {
        if !(if p[0] < 0.0 { self.left } else { self.right }) {
            return None;
        }
        let from_back = self.patient.pleura(p).1;
        // A crescent: deepest at the base, gone at two thirds of the chest's height.
        let height = (p[2] - self.patient.base) / (0.75 * (self.patient.apex - self.patient.base));
        let depth = self.depth * (1.0 - height).max(0.0).sqrt();
        if from_back < depth {
            Some((Class::Fluid, EFFUSION))
        } else if from_back < depth + 5.0 {
            Some((Class::Lung, COLLAPSED_LUNG))
        } else {
            None
        }
    }
}

fn nodules(patient: &Patient, grade: f32, rng: &mut ChaCha8Rng) -> Vec<Paint> {
    let radius = 6.0 + 8.0 * grade;
    (0..rng.random_range(1..=3))
        .map(|_| Paint {
            solid: Solid::sphere(lung_point(patient, rng, radius + 2.0), radius),
            over: Over::these(&[Class::Lung]),
            class: Class::Lung,
            hu: 45.0,
            label: Mark::Nodule,
        })
        .collect()
}

fn hernia(patient: &Patient, grade: f32) -> Vec<Paint> {
    let r = 19.0 + 13.0 * grade;
    let centre: Point = [-8.0, -34.0, patient.base + 0.5 * patient.dome + r];
    let sac = Solid::ellipsoid(centre, [1.15 * r, r, r]);
    let gas = Solid::ellipsoid(
        add(centre, [0.0, 0.35 * r, 0.1 * r]),
        [0.8 * r, 0.45 * r, 0.6 * r],
    );
    let paint = |solid, over, hu| Paint {
        solid,
        over,
        class: Class::Organ,
        hu,
        label: Mark::Set(label::STOMACH),
    };
    let within = Over::these(&[Class::Organ, Class::Lung, Class::Mediastinum]);
    vec![paint(sac, INSIDE_CHEST, 34.0), paint(gas, within, -820.0)]
}

fn plaques(heart: &Heart, grade: f32, rng: &mut ChaCha8Rng) -> Vec<Paint> {
    let count = 5 + (7.0 * grade) as usize;
    (0..count)
        .map(|i| {
            // Along the grooves between the chambers: a ring across the long axis, and one along it.
            let t = rng.random_range(-1.1f32..1.1);
            let direction = if i % 2 == 0 {
                [0.15, t.cos(), t.sin()]
            } else {
                [t.sin(), t.cos(), 0.25]
            };
            Paint {
                solid: Solid::sphere(heart.surface(direction), 3.2 + 2.4 * grade),
                over: VISCERA,
                class: Class::Hard,
                hu: rng.random_range(600.0..1300.0),
                label: Mark::Keep,
            }
        })
        .collect()
}

fn pacemaker(patient: &Patient, heart: &Heart, rng: &mut ChaCha8Rng) -> Vec<Paint> {
    let side = if rng.random_bool(0.75) { -1.0f32 } else { 1.0 };
    let z = patient.apex * rng.random_range(0.55..0.75);
    let depth = patient.fat * 0.6 + 7.0;
    let x = side * 0.52 * patient.trunk[0];
    let y = patient.trunk[1] * (1.0 - (x / patient.trunk[0]).powi(2)).sqrt() - depth;
    let paint = |solid, hu| Paint {
        solid,
        over: TRUNK,
        class: Class::Hard,
        hu,
        label: Mark::Keep,
    };
    let can = Solid::ellipsoid([x, y, z], [25.0, 7.0, 22.0]);
    let vein: Point = [side * 22.0, 16.0, patient.apex * 0.62];
    let atrium = add(heart.centre, [34.0, 0.0, 14.0]);
    let tip = heart.surface([0.8, 0.1, -0.2]);
    [([x, y, z], vein), (vein, atrium), (atrium, tip)]
        .into_iter()
        .map(|(from, to)| paint(Solid::capsule(from, to, 2.4), 2400.0))
        .chain([paint(can, METAL)])
        .collect()
}
