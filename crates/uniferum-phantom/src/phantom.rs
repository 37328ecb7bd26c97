//! One phantom: from a seed to a scan with its masks and labels.

use rand::Rng;
use uniferum_ct::Volume;

use crate::config::PhantomConfig;
use crate::error::Result;
use crate::finding::{Finding, Findings};
use crate::patient::Patient;
use crate::random::{Stream, stream};
use crate::render::{Mark, Paint, render};
use crate::scanner::Scanner;
use crate::texture::Texture;
use crate::viscera::Heart;
use crate::{disease, skeleton, viscera};

/// A synthetic scan of a thorax and everything that is known about it.
#[derive(Debug, Clone)]
pub struct Phantom {
    /// The scan, HU, in the orientation of its scanner.
    pub ct: Volume<i16>,
    /// TotalSegmentator v2 numbers on the same grid.
    pub mask: Volume<u8>,
    /// 1 inside lung nodules, on the same grid.
    pub nodules: Volume<u8>,
    /// What the patient has.
    pub findings: Findings,
    /// Whether the patient dies within 6 months.
    pub mortality_6m: bool,
}

/// Makes the phantom of a seed; the same seed and settings give the same voxels anywhere.
///
/// # Units
/// HU; mm in the affine.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for settings that cannot work.
///
/// ```
/// use uniferum_phantom::{PhantomConfig, generate};
/// let config = PhantomConfig { shape: [48, 40, 32], spacing_mm: [8.0; 3], ..Default::default() };
/// let phantom = generate(7, &config)?;
/// assert_eq!(phantom.ct.shape(), [48, 40, 32]);
/// assert_eq!(phantom.ct.affine, phantom.mask.affine);
/// # Ok::<(), uniferum_phantom::Error>(())
/// ```
pub fn generate(seed: u64, config: &PhantomConfig) -> Result<Phantom> {
    config.validate()?;
    generate_with(seed, draw_findings(seed, config), config)
}

/// As [`generate`], with the findings given instead of drawn.
pub(crate) fn generate_with(
    seed: u64,
    findings: Findings,
    config: &PhantomConfig,
) -> Result<Phantom> {
    let mut patient = Patient::new(seed, config.patient_variation as f32);
    disease::reshape(&mut patient, &findings);
    let heart = Heart::of(&patient);
    let scanner = Scanner::new(seed, config);
    let grid = scanner.grid(config, &patient);
    let changes = disease::lung_changes(&patient, &findings, seed);
    let paints = paints(&patient, &heart, &findings, seed);
    let rendered = render(&grid, &patient, &Texture::new(seed), &changes, &paints);
    Ok(Phantom {
        ct: scanner.volume(scanner.image(rendered.hu)),
        mask: scanner.volume(rendered.labels),
        nodules: scanner.volume(rendered.nodules),
        mortality_6m: draw_outcome(seed, &findings),
        findings,
    })
}

fn paints(patient: &Patient, heart: &Heart, findings: &Findings, seed: u64) -> Vec<Paint> {
    let mut paints = viscera::table(patient);
    paints.extend(disease::round_the_heart(heart, findings));
    let mut organs = viscera::organs(patient, heart, seed);
    if findings.has(Finding::PericardialEffusion) {
        // The heart lies inside its fluid.
        for paint in &mut organs {
            if paint.label == Mark::Set(crate::patient::label::HEART) {
                paint.over = crate::tissue::BODY;
            }
        }
    }
    paints.extend(organs);
    paints.extend(skeleton::bones(patient));
    paints.extend(disease::additions(patient, heart, findings, seed));
    paints
}

fn draw_findings(seed: u64, config: &PhantomConfig) -> Findings {
    let mut rng = stream(seed, Stream::Findings);
    let mut findings = Findings::none();
    for finding in Finding::ALL {
        // Both numbers are drawn always, so that one finding's presence never moves another's draw.
        let (present, drawn) = (
            rng.random_bool(config.prevalence),
            rng.random_range(0.0..1.0),
        );
        let least = config.least_grade as f32;
        let grade = least + (1.0 - least) * drawn;
        findings.set(finding, present.then_some(grade));
    }
    findings
}

/// Log-odds of death within 6 months: -2 without findings, more with each grave one.
fn draw_outcome(seed: u64, findings: &Findings) -> bool {
    let weights = [
        (Finding::PleuralEffusion, 1.6),
        (Finding::Consolidation, 1.2),
        (Finding::Cardiomegaly, 1.0),
        (Finding::Emphysema, 0.9),
        (Finding::PericardialEffusion, 0.8),
    ];
    let score: f64 = weights
        .iter()
        .filter(|(f, _)| findings.has(*f))
        .map(|(_, w)| w)
        .sum();
    let risk = 1.0 / (1.0 + (2.0 - score).exp());
    stream(seed, Stream::Outcome).random_bool(risk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> PhantomConfig {
        PhantomConfig {
            shape: [64, 54, 43],
            spacing_mm: [6.0; 3],
            ..Default::default()
        }
    }

    fn count(volume: &Volume<u8>, labels: &[u8]) -> usize {
        volume.voxels.iter().filter(|v| labels.contains(v)).count()
    }

    #[test]
    fn the_same_seed_gives_the_same_scan() {
        let (a, b) = (
            generate(3, &small()).unwrap(),
            generate(3, &small()).unwrap(),
        );
        assert_eq!(a.ct, b.ct);
        assert_eq!(a.mask, b.mask);
        assert_ne!(a.ct.voxels, generate(4, &small()).unwrap().ct.voxels);
    }

    #[test]
    fn every_organ_is_there_and_has_its_density() {
        let config = PhantomConfig {
            patient_variation: 0.0,
            ..Default::default()
        };
        let phantom = generate_with(1, Findings::none(), &config).unwrap();
        let mean = |label: u8| {
            let pairs = phantom.mask.voxels.iter().zip(&phantom.ct.voxels);
            let values: Vec<f64> = pairs
                .filter(|(l, _)| **l == label)
                .map(|(_, v)| f64::from(*v))
                .collect();
            assert!(values.len() > 10, "label {label}: {} voxels", values.len());
            values.iter().sum::<f64>() / values.len() as f64
        };
        for lobe in 10..=14 {
            assert!(
                (-900.0..-700.0).contains(&mean(lobe)),
                "lobe {lobe}: {}",
                mean(lobe)
            );
        }
        for (label, low, high) in [
            (51, 20.0, 70.0),
            (52, 0.0, 70.0),
            (5, 20.0, 80.0),
            (116, 60.0, 400.0),
        ] {
            assert!(
                (low..high).contains(&mean(label)),
                "{label}: {}",
                mean(label)
            );
        }
        for bone in (32..=43).chain(92..=115) {
            mean(bone);
        }
    }

    #[test]
    fn findings_change_what_they_should() {
        let with = |finding, grade| {
            let mut findings = Findings::none();
            findings.set(finding, Some(grade));
            generate_with(5, findings, &small()).unwrap()
        };
        let healthy = generate_with(5, Findings::none(), &small()).unwrap();
        let lungs = |p: &Phantom| count(&p.mask, &[10, 11, 12, 13, 14]);
        assert!(lungs(&with(Finding::PleuralEffusion, 0.2)) < lungs(&healthy));
        let heart = |p: &Phantom| count(&p.mask, &[51]) as f64;
        assert!(heart(&with(Finding::Cardiomegaly, 0.0)) > 1.4 * heart(&healthy));
        assert_eq!(count(&healthy.nodules, &[1]), 0);
        assert!(count(&with(Finding::LungNodule, 0.5).nodules, &[1]) > 0);
        let above = |p: &Phantom, hu: i16| p.ct.voxels.iter().filter(|v| **v > hu).count();
        assert!(above(&with(Finding::Pacemaker, 0.5), 1500) > above(&healthy, 1500));
        let below = |p: &Phantom| {
            let pairs = p.mask.voxels.iter().zip(&p.ct.voxels);
            pairs
                .filter(|(l, v)| (10..=14).contains(*l) && **v < -930)
                .count()
        };
        assert!(below(&with(Finding::Emphysema, 0.5)) > 2 * below(&healthy));
        for finding in Finding::ALL {
            assert_ne!(
                with(finding, 0.5).ct.voxels,
                healthy.ct.voxels,
                "{finding:?}"
            );
        }
    }

    #[test]
    fn values_stay_in_the_range_of_a_scanner() {
        let config = PhantomConfig {
            prevalence: 1.0,
            ..small()
        };
        for seed in 0..4 {
            let phantom = generate(seed, &config).unwrap();
            assert!(phantom.ct.voxels.iter().all(|v| (-1024..=3071).contains(v)));
            assert!(phantom.mask.voxels.iter().all(|v| *v <= 117));
        }
    }

    #[test]
    fn prevalence_is_what_was_asked_for() {
        let (n, config) = (2000, PhantomConfig::default());
        for finding in Finding::ALL {
            let share = (0..n)
                .filter(|&s| draw_findings(s, &config).has(finding))
                .count() as f64
                / n as f64;
            assert!((share - 0.4).abs() < 0.04, "{finding:?}: {share}");
        }
        let deaths = (0..n)
            .filter(|&s| draw_outcome(s, &draw_findings(s, &config)))
            .count();
        assert!((500..1200).contains(&deaths), "{deaths}");
    }

    #[test]
    fn impossible_settings_are_refused() {
        let bad = PhantomConfig {
            prevalence: 1.5,
            ..Default::default()
        };
        assert!(
            generate(0, &bad)
                .unwrap_err()
                .to_string()
                .contains("prevalence")
        );
    }
}
