//! The 117 structures of TotalSegmentator v2's `total` task and their numbers.

/// Names in the order of their numbers, from 1.
const NAMES: [&str; 117] = [
    "spleen",
    "kidney_right",
    "kidney_left",
    "gallbladder",
    "liver",
    "stomach",
    "pancreas",
    "adrenal_gland_right",
    "adrenal_gland_left",
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
    "lung_lower_lobe_right",
    "esophagus",
    "trachea",
    "thyroid_gland",
    "small_bowel",
    "duodenum",
    "colon",
    "urinary_bladder",
    "prostate",
    "kidney_cyst_left",
    "kidney_cyst_right",
    "sacrum",
    "vertebrae_S1",
    "vertebrae_L5",
    "vertebrae_L4",
    "vertebrae_L3",
    "vertebrae_L2",
    "vertebrae_L1",
    "vertebrae_T12",
    "vertebrae_T11",
    "vertebrae_T10",
    "vertebrae_T9",
    "vertebrae_T8",
    "vertebrae_T7",
    "vertebrae_T6",
    "vertebrae_T5",
    "vertebrae_T4",
    "vertebrae_T3",
    "vertebrae_T2",
    "vertebrae_T1",
    "vertebrae_C7",
    "vertebrae_C6",
    "vertebrae_C5",
    "vertebrae_C4",
    "vertebrae_C3",
    "vertebrae_C2",
    "vertebrae_C1",
    "heart",
    "aorta",
    "pulmonary_vein",
    "brachiocephalic_trunk",
    "subclavian_artery_right",
    "subclavian_artery_left",
    "common_carotid_artery_right",
    "common_carotid_artery_left",
    "brachiocephalic_vein_left",
    "brachiocephalic_vein_right",
    "atrial_appendage_left",
    "superior_vena_cava",
    "inferior_vena_cava",
    "portal_vein_and_splenic_vein",
    "iliac_artery_left",
    "iliac_artery_right",
    "iliac_vena_left",
    "iliac_vena_right",
    "humerus_left",
    "humerus_right",
    "scapula_left",
    "scapula_right",
    "clavicula_left",
    "clavicula_right",
    "femur_left",
    "femur_right",
    "hip_left",
    "hip_right",
    "spinal_cord",
    "gluteus_maximus_left",
    "gluteus_maximus_right",
    "gluteus_medius_left",
    "gluteus_medius_right",
    "gluteus_minimus_left",
    "gluteus_minimus_right",
    "autochthon_left",
    "autochthon_right",
    "iliopsoas_left",
    "iliopsoas_right",
    "brain",
    "skull",
    "rib_left_1",
    "rib_left_2",
    "rib_left_3",
    "rib_left_4",
    "rib_left_5",
    "rib_left_6",
    "rib_left_7",
    "rib_left_8",
    "rib_left_9",
    "rib_left_10",
    "rib_left_11",
    "rib_left_12",
    "rib_right_1",
    "rib_right_2",
    "rib_right_3",
    "rib_right_4",
    "rib_right_5",
    "rib_right_6",
    "rib_right_7",
    "rib_right_8",
    "rib_right_9",
    "rib_right_10",
    "rib_right_11",
    "rib_right_12",
    "sternum",
    "costal_cartilages",
];

/// The structure with this number; `None` for 0 (background) and beyond 117.
///
/// ```
/// use uniferum_tasks::totalsegmentator;
/// assert_eq!(totalsegmentator::name(51), Some("heart"));
/// assert_eq!(totalsegmentator::id("lung_lower_lobe_right"), Some(14));
/// ```
pub fn name(id: u16) -> Option<&'static str> {
    NAMES.get(usize::from(id).checked_sub(1)?).copied()
}

/// The number of a structure.
pub fn id(name: &str) -> Option<u16> {
    NAMES.iter().position(|&n| n == name).map(|i| i as u16 + 1)
}

/// All structures with their numbers, in order.
pub fn all() -> impl Iterator<Item = (u16, &'static str)> {
    (1u16..).zip(NAMES)
}

/// The same as names and numbers of one byte, as label maps have them.
pub fn classes() -> Vec<(&'static str, u8)> {
    (1u8..).zip(NAMES).map(|(id, name)| (name, id)).collect()
}

/// The number of the `n`-th thoracic vertebra, counted from the neck: 43 for the first, 32 for
/// the twelfth.
///
/// # Panics
/// Unless `n` is 1 to 12.
pub const fn thoracic_vertebra(n: u16) -> u16 {
    assert!(n >= 1 && n <= 12);
    44 - n
}

/// The number of the `n`-th left rib, counted from the neck.
///
/// # Panics
/// Unless `n` is 1 to 12.
pub const fn left_rib(n: u16) -> u16 {
    assert!(n >= 1 && n <= 12);
    91 + n
}

/// The number of the `n`-th right rib, counted from the neck.
///
/// # Panics
/// Unless `n` is 1 to 12.
pub const fn right_rib(n: u16) -> u16 {
    assert!(n >= 1 && n <= 12);
    103 + n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        for (number, structure) in all() {
            assert_eq!(id(structure), Some(number));
            assert_eq!(name(number), Some(structure));
        }
        assert_eq!(all().count(), 117);
        assert_eq!(name(0), None);
        assert_eq!(name(118), None);
        for n in 1..=12 {
            assert_eq!(id(&format!("vertebrae_T{n}")), Some(thoracic_vertebra(n)));
            assert_eq!(id(&format!("rib_left_{n}")), Some(left_rib(n)));
            assert_eq!(id(&format!("rib_right_{n}")), Some(right_rib(n)));
        }
    }
}
