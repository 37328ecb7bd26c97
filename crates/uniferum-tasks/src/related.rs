//! Labels of different collections that are near to each other without being the same.
//!
//! The paper counts only literally equal findings as shared. These pairs help to read results
//! across collections; nothing is trained or evaluated by them.

/// Two ids and how they differ.
pub(crate) const RELATED: [(&str, &str, &str); 13] = [
    (
        "ct-rate.interlobular-septal-thickening",
        "rad-chest.septal-thickening",
        "the second does not say which septa",
    ),
    (
        "ct-rate.peribronchial-thickening",
        "rad-chest.bronchial-wall-thickening",
        "cuff of tissue against the wall itself",
    ),
    (
        "ct-rate.lung-nodule",
        "rad-chest.scattered-nodules",
        "one nodule against several",
    ),
    (
        "ct-rate.lung-nodule",
        "nodule.pulmonary-nodules",
        "presence against place",
    ),
    (
        "ct-rate.lung-opacity",
        "rad-chest.ground-glass-opacity",
        "any opacity against one kind",
    ),
    (
        "ct-rate.lung-opacity",
        "rad-chest.airspace-disease",
        "any opacity against one kind",
    ),
    (
        "ct-rate.consolidation",
        "rad-chest.pneumonia",
        "sign against one of its causes",
    ),
    (
        "ct-rate.pulmonary-fibrotic-sequela",
        "rad-chest.bandlike-or-linear-opacity",
        "scar against its shape",
    ),
    (
        "ct-rate.coronary-artery-wall-calcification",
        "rad-chest.coronary-artery-disease",
        "sign against the disease",
    ),
    (
        "ct-rate.mosaic-attenuation-pattern",
        "rad-chest.air-trapping",
        "sign against one of its causes",
    ),
    (
        "ct-rate.medical-material",
        "rad-chest.pacemaker-or-defibrillator",
        "any material against one kind",
    ),
    (
        "ct-rate.medical-material",
        "rad-chest.heart-valve-replacement",
        "any material against one kind",
    ),
    (
        "ct-rate.medical-material",
        "rad-chest.sternotomy",
        "any material against its wires",
    ),
];
