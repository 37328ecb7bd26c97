//! Attenuation of tissues in Hounsfield units, and what a voxel belongs to.
//!
//! Values lie within the ranges that textbooks of CT give for 120 kV without contrast medium:
//! fat -120 to -80, water 0, transudate 0 to 20, muscle 35 to 60, blood 35 to 50, liver 50 to 65,
//! spleen 40 to 55, marrow of thoracic vertebrae 100 to 250, compact bone 500 to 1500. Inflated
//! lung lies between -900 and -750; below -950 counts as emphysema (Gevenois et al., AJRCCM 1996;
//! 154:187). Above 130 counts as calcium in the coronary arteries (Agatston et al., JACC 1990;
//! 15:827). Scanners of 12 bits end at 3071.

pub(crate) const AIR: f32 = -1000.0;
pub(crate) const FAT: f32 = -100.0;
pub(crate) const SKIN: f32 = 30.0;
pub(crate) const MUSCLE: f32 = 52.0;
pub(crate) const BLOOD: f32 = 42.0;
pub(crate) const MYOCARDIUM: f32 = 46.0;
pub(crate) const LIVER: f32 = 57.0;
pub(crate) const SPLEEN: f32 = 48.0;
pub(crate) const CARTILAGE: f32 = 110.0;
pub(crate) const MARROW: f32 = 170.0;
pub(crate) const COMPACT_BONE: f32 = 750.0;
pub(crate) const EFFUSION: f32 = 10.0;
pub(crate) const COLLAPSED_LUNG: f32 = 25.0;
pub(crate) const EMPHYSEMA: f32 = -980.0;
pub(crate) const METAL: f32 = 3071.0;

/// The largest and the smallest value of a phantom.
pub(crate) const RANGE: (f32, f32) = (-1024.0, 3071.0);

/// What a voxel belongs to; solids say over which of these they may be painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// Air round the patient, and the table.
    Outside = 0,
    /// Skin, fat, muscle and breast.
    Wall = 1,
    Lung = 2,
    Mediastinum = 3,
    Diaphragm = 4,
    Abdomen = 5,
    /// Heart, great vessels, airway, oesophagus, abdominal organs.
    Organ = 6,
    /// Bone and cartilage.
    Bone = 7,
    /// Pleural and pericardial fluid.
    Fluid = 8,
    /// Metal and calcium, never painted over.
    Hard = 9,
}

/// A set of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Over(u16);

impl Over {
    pub(crate) const fn these(classes: &[Class]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < classes.len() {
            bits |= 1 << classes[i] as u16;
            i += 1;
        }
        Over(bits)
    }

    #[inline]
    pub(crate) fn allows(self, class: u8) -> bool {
        self.0 >> class & 1 == 1
    }
}

/// Inside the ribs and above the diaphragm.
pub(crate) const CHEST: Over = Over::these(&[Class::Lung, Class::Mediastinum, Class::Diaphragm]);
/// Inside the trunk but bone.
pub(crate) const TRUNK: Over = Over::these(&[
    Class::Wall,
    Class::Lung,
    Class::Mediastinum,
    Class::Diaphragm,
    Class::Abdomen,
    Class::Organ,
]);
/// Organs of the chest and what surrounds them.
pub(crate) const VISCERA: Over = Over::these(&[
    Class::Lung,
    Class::Mediastinum,
    Class::Diaphragm,
    Class::Abdomen,
    Class::Organ,
]);
/// The trunk with its bones and fluids.
pub(crate) const BODY: Over = Over::these(&[
    Class::Wall,
    Class::Lung,
    Class::Mediastinum,
    Class::Diaphragm,
    Class::Abdomen,
    Class::Organ,
    Class::Bone,
    Class::Fluid,
]);
