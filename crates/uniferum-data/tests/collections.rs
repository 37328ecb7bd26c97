//! Each collection from small folders with its own layout, column names and oddities.

mod common;

use std::fs;
use std::path::Path;

use uniferum_ct::{HuSource, read_ct, read_mask};
use uniferum_data::collections::{
    Absent, ColumnNames, CtRate, CtRateVersion, HuChoice, Inspect, Luna16, RadChest, ReleaseTable,
    TableSettings, TotalSegmentatorFolder, write_tasks,
};
use uniferum_data::{Scan, Split, SplitBy, SplitPlan};
use uniferum_tasks::{Catalogue, TaskKind};

const CT_RATE: &str = "VolumeName,Medical material,Arterial wall calcification,Cardiomegaly,Pericardial effusion,\
    Coronary artery wall calcification,Hiatal hernia,Lymphadenopathy,Emphysema,Atelectasis,Lung nodule,\
    Lung opacity,Pulmonary fibrotic sequela,Pleural effusion,Mosaic attenuation pattern,\
    Peribronchial thickening,Consolidation,Bronchiectasis,Interlobular septal thickening";

fn ct_rate(root: &Path) {
    let base = root.join("dataset");
    let row = |name: &str, first: &str| format!("{name},{first}{}\n", ",0".repeat(17));
    let mut train = format!("{CT_RATE}\n");
    for patient in 1..=6 {
        train += &row(&format!("train_{patient}_a_1.nii.gz"), "1");
        train += &row(&format!("train_{patient}_a_2.nii.gz"), "");
    }
    common::text(
        &base.join("multi_abnormality_labels/train_predicted_labels.csv"),
        &train,
    );
    let valid = format!("{CT_RATE}\n{}", row("valid_1_a_1.nii.gz", "0"));
    common::text(
        &base.join("multi_abnormality_labels/valid_predicted_labels.csv"),
        &valid,
    );
    let metadata = "VolumeName,RescaleSlope,RescaleIntercept,XYSpacing,ZSpacing\n\
        train_1_a_1.nii.gz,1.0,-8192.0,\"[0.8, 0.8]\",1.5\n\
        train_1_a_2.nii.gz,1.0,-1024.0,\"[nan, nan]\",nan\n\
        train_2_a_1.nii.gz,nan,nan,\"[0.8, 0.8]\",1.5\n";
    common::text(&base.join("metadata/train_metadata.csv"), metadata);
    let heads = "train/train_3/train_3_a/train_3_a_1.nii.gz\n\n";
    common::text(&base.join("metadata/no_chest_train.txt"), heads);
    let reports = "VolumeName,Findings_EN,Impressions_EN\n\
        train_1_a_1.nii.gz,\"Heart, lungs: normal.\nNo effusion.\",Normal.\n";
    common::text(
        &base.join("radiology_text_reports/train_reports.csv"),
        reports,
    );
    for part in ["train", "train_fixed"] {
        for patient in 1..=5 {
            for scan in 1..=2 {
                let tail =
                    format!("train_{patient}/train_{patient}_a/train_{patient}_a_{scan}.nii.gz");
                common::text(&base.join(part).join(tail), "");
            }
        }
    }
    let tail = "valid_1/valid_1_a/valid_1_a_1.nii.gz";
    common::text(&base.join("valid_fixed").join(tail), "");
    common::text(&base.join("ts_seg/ts_total/valid_fixed").join(tail), "");
}

fn by_name<'a>(scans: &'a [Scan], name: &str) -> &'a Scan {
    scans
        .iter()
        .find(|s| s.name() == name)
        .unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn ct_rate_version_2_is_in_hounsfield_units_already() {
    let folder = tempfile::tempdir().unwrap();
    ct_rate(folder.path());
    let mut settings = CtRate::new(folder.path(), CtRateVersion::V2);
    settings.validation_patients = 2;
    let found = settings.read().unwrap();
    let scans = &found.manifest.scans;
    // 12 rows, one without a chest, two without a file; and one of the official validation set.
    assert_eq!(scans.len(), 10);
    assert!(scans.iter().all(|s| s.hu == HuSource::AlreadyHu));
    let first = by_name(scans, "train_1_a_1");
    assert_eq!(first.spacing_mm, Some([0.8, 0.8, 1.5]));
    assert_eq!(
        (first.patient.as_str(), first.study.as_str()),
        ("ct-rate:train_1", "ct-rate:train_1_a")
    );
    assert_eq!(first.labels.len(), 18);
    assert!(first.labels["ct-rate.medical-material"]);
    let second = by_name(scans, "train_1_a_2");
    assert_eq!(second.labels.len(), 17, "an empty cell is missing");
    assert_eq!(second.spacing_mm, None);
    let test = by_name(scans, "valid_1_a_1");
    assert_eq!(test.split, Split::Test);
    assert!(
        test.mask
            .as_ref()
            .unwrap()
            .ends_with("ts_seg/ts_total/valid_fixed/valid_1/valid_1_a/valid_1_a_1.nii.gz")
    );
    let val: std::collections::BTreeSet<&str> = scans
        .iter()
        .filter(|s| s.split == Split::Val)
        .map(|s| s.patient.as_str())
        .collect();
    assert_eq!(val.len(), 2);
    assert_eq!(found.reports.len(), 1);
    assert!(found.reports[0].text.contains("No effusion.\nNormal."));
    let notes = found.notes.join("\n");
    assert!(
        notes.contains("1: scans without a chest") && notes.contains("2: scans of the tables"),
        "{notes}"
    );
    assert!(notes.contains("no_chest_valid.txt"), "{notes}");
    assert_eq!(
        settings.read().unwrap().manifest,
        found.manifest,
        "deterministic"
    );
}

#[test]
fn ct_rate_version_1_takes_slope_and_intercept_from_the_table() {
    let folder = tempfile::tempdir().unwrap();
    ct_rate(folder.path());
    let mut settings = CtRate::new(folder.path().join("dataset"), CtRateVersion::V1);
    settings.validation_patients = 0;
    let found = settings.read().unwrap();
    // Only two rows have a slope; a scan whose units nobody knows is not used.
    assert_eq!(found.manifest.scans.len(), 2);
    let hu = by_name(&found.manifest.scans, "train_1_a_1").hu;
    assert_eq!(
        hu,
        HuSource::Table {
            slope: 1.0,
            intercept: -8192.0
        }
    );
    assert!(
        found.notes.iter().any(|n| n.contains("without slope")),
        "{:?}",
        found.notes
    );
    settings.hu = Some(HuChoice::Header);
    let header = settings.read().unwrap().manifest;
    assert!(header.scans.len() > 2 && header.scans.iter().all(|s| s.hu == HuSource::Header));
    settings.absent = Absent::Stop;
    assert!(
        settings
            .read()
            .unwrap_err()
            .to_string()
            .contains("no such file")
    );
}

#[test]
fn ct_rate_without_a_column_or_with_strange_names_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let labels = folder
        .path()
        .join("multi_abnormality_labels/train_predicted_labels.csv");
    let fails = |text: String, part: &str| {
        common::text(&labels, &text);
        let error = CtRate::new(folder.path(), CtRateVersion::V2)
            .read()
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    };
    fails(CT_RATE.replace("Emphysema", "Emphysem") + "\n", "Emphysema");
    fails(
        format!("{CT_RATE}\nscan7.nii.gz{}\n", ",0".repeat(18)),
        "scan7",
    );
    fails(
        format!("{CT_RATE}\ntrain_1_a_1.nii.gz,2{}\n", ",0".repeat(17)),
        "Medical material",
    );
    let twice = format!("train_1_a_1.nii.gz{}\n", ",0".repeat(18));
    fails(format!("{CT_RATE}\n{twice}{twice}"), "two rows");
}

/// 84 x 52 columns, as the real table has.
fn rad_chest_table(rows: &[(&str, &str, &str, &str)]) -> String {
    let catalogue = Catalogue::standard();
    let mut abnormalities: Vec<String> = catalogue
        .group("rad-chest")
        .iter()
        .map(|t| t.label.clone())
        .collect();
    abnormalities.extend((abnormalities.len()..84).map(|i| format!("other_{i}")));
    let names: Vec<String> = abnormalities
        .iter()
        .flat_map(|a| (0..52).map(move |l| format!("{a}*location_{l}")))
        .collect();
    let mut text = format!("NoteAcc_DEID,{}\n", names.join(","));
    for (scan, abnormality, location, value) in rows {
        let column = format!("{abnormality}*location_{location}");
        let cells = names
            .iter()
            .map(|n| if *n == column { value } else { "0.0" });
        text += &format!("{scan},{}\n", cells.collect::<Vec<_>>().join(","));
    }
    text
}

#[test]
fn rad_chest_labels_are_the_maximum_over_locations() {
    let folder = tempfile::tempdir().unwrap();
    let table = |name: &str, text: &str| common::text(&folder.path().join(name), text);
    let train = rad_chest_table(&[
        ("trn00001", "pleural_effusion", "17", "1.0"),
        ("trn00002", "emphysema", "51", ""),
        ("trn00003", "other_83", "0", "1.0"),
    ]);
    table("imgtrain_Abnormality_and_Location_Labels.csv", &train);
    let valid = rad_chest_table(&[("val00001", "cabg", "0", "1")]);
    table("imgvalid_Abnormality_and_Location_Labels.csv", &valid);
    let metadata = "VolumeAcc_DEID,NoteAcc_DEID,MRN_DEID\ntrn00001.npz,trn00001,mrn7\ntrn00002.npz,trn00002,mrn7\n";
    table("CT_Scan_Metadata_Complete_35747.csv", metadata);
    for scan in ["trn00001", "trn00002", "val00001"] {
        table(&format!("volumes/{scan}.npz"), "");
    }
    let found = RadChest::new(folder.path()).read().unwrap();
    let scans = &found.manifest.scans;
    assert_eq!(scans.len(), 3);
    let first = by_name(scans, "trn00001");
    assert_eq!(first.labels.len(), 39);
    assert_eq!(first.labels.values().filter(|v| **v).count(), 1);
    assert!(first.labels["rad-chest.pleural-effusion"]);
    assert_eq!(
        (first.patient.as_str(), first.hu),
        ("rad-chest:mrn7", HuSource::AlreadyHu)
    );
    let second = by_name(scans, "trn00002");
    assert!(
        !second.labels.contains_key("rad-chest.emphysema"),
        "a missing location is not a no"
    );
    assert_eq!(second.patient, first.patient);
    let val = by_name(scans, "val00001");
    assert_eq!(val.split, Split::Val);
    let bypass = Catalogue::standard()
        .by_label("rad-chest", "cabg")
        .unwrap()
        .id
        .clone();
    assert!(val.labels[&bypass]);
    assert!(
        found.notes.iter().any(|n| n.contains("imgtest")),
        "{:?}",
        found.notes
    );
}

#[test]
fn rad_chest_rows_of_one_scan_must_agree() {
    let folder = tempfile::tempdir().unwrap();
    let table = |name: &str, text: &str| common::text(&folder.path().join(name), text);
    let row = ("trn00001", "pleural_effusion", "17", "1.0");
    let train = "imgtrain_Abnormality_and_Location_Labels.csv";
    table(
        train,
        &rad_chest_table(&[row, row, ("trn00002", "cabg", "0", "1")]),
    );
    table(
        "CT_Scan_Metadata_Complete_35747.csv",
        "NoteAcc_DEID,MRN_DEID\ntrn00001,mrn7\n",
    );
    for scan in ["trn00001", "trn00002"] {
        table(&format!("volumes/{scan}.npz"), "");
    }
    let read = || RadChest::new(folder.path()).read();
    let found = read().unwrap();
    assert_eq!(found.manifest.scans.len(), 2);
    let notes = found.notes.join("\n");
    assert!(
        notes.contains("1: scans without a patient, each taken for its own (trn00002)"),
        "{notes}"
    );
    let other = ("trn00001", "pleural_effusion", "17", "0.0");
    table(train, &rad_chest_table(&[row, other]));
    let error = read().unwrap_err().to_string();
    assert!(
        error.contains("row 3: another row of the scan disagrees"),
        "{error}"
    );
    // In two parts it would be in two splits.
    table(train, &rad_chest_table(&[row]));
    table(
        "imgvalid_Abnormality_and_Location_Labels.csv",
        &rad_chest_table(&[row]),
    );
    let error = read().unwrap_err().to_string();
    assert!(error.contains("its split"), "{error}");
}

#[test]
fn rad_chest_reads_the_authors_own_fake_tables() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "imgtrain_BinaryLabels.csv",
        "all_identifiers.csv",
        "FAKE000.npz",
    ] {
        fs::copy(common::data(name), folder.path().join(name)).unwrap();
    }
    let found = RadChest::new(folder.path()).read().unwrap();
    let [scan] = found.manifest.scans.as_slice() else {
        panic!("{:?}", found.notes);
    };
    assert_eq!(scan.patient, "rad-chest:MRN000");
    assert_eq!(
        scan.labels.len(),
        39,
        "every label has its column in the real list"
    );
    let positive: Vec<&str> = scan
        .labels
        .iter()
        .filter(|(_, v)| **v)
        .map(|(k, _)| k.as_str())
        .collect();
    let expected = [
        "ground-glass-opacity",
        "pneumonia",
        "septal-thickening",
        "tree-in-bud-pattern",
    ];
    for label in expected {
        assert!(
            positive.contains(&format!("rad-chest.{label}").as_str()),
            "{positive:?}"
        );
    }
}

fn inspect(full: &Path) {
    let tsv = |name: &str, text: &str| common::text(&full.join(name), &text.replace(' ', "\t"));
    tsv(
        "labels_20250611.tsv",
        "impression_id pe_positive_nlp 1_month_mortality 6_month_mortality 12_month_mortality \
         1_month_readmission 6_month_readmission 12_month_readmission 12_month_PH\n\
         i1 TRUE False FALSE Censored FALSE FALSE Censor False\n\
         i1 TRUE False FALSE Censored FALSE FALSE Censor False\n\
         i2 False True TRUE True FALSE FALSE FALSE False\n\
         i3 True FALSE FALSE FALSE FALSE FALSE FALSE False\n\
         i3 False FALSE FALSE FALSE FALSE FALSE FALSE False\n",
    );
    tsv(
        "study_mapping_20250611.tsv",
        "impression_id person_id image_id\ni1 11 PE1.nii.gz\ni1 11 PE1.nii.gz\ni2 12 PE2\ni3 13 PE3\n",
    );
    tsv(
        "splits_20250611.tsv",
        "impression_id split\ni1 train\ni1 train\ni2 valid\ni3 test\n",
    );
    common::text(
        &full.join("impressions_20250611.tsv"),
        "impression_id\timpressions\ni1\t1. Acute \"saddle\" embolism, no effusion.\ni1\tagain\ni9\tOther\n",
    );
    for image in ["PE1", "PE2", "PE3"] {
        common::text(&full.join(format!("CTPA/{image}.nii.gz")), "");
    }
}

#[test]
fn inspect_joins_on_impressions_and_keeps_censored_apart() {
    let folder = tempfile::tempdir().unwrap();
    inspect(&folder.path().join("full"));
    let found = Inspect::new(folder.path()).read().unwrap();
    let scans = &found.manifest.scans;
    assert_eq!(scans.len(), 3);
    let splits: Vec<Split> = scans.iter().map(|s| s.split).collect();
    assert_eq!(splits, Split::ALL);
    let first = by_name(scans, "PE1");
    assert_eq!(first.patient, "inspect:11");
    assert!(first.labels["inspect.pulmonary-embolism"]);
    assert!(!first.labels["inspect.mortality-6m"]);
    assert!(
        !first.labels.contains_key("inspect.mortality-12m"),
        "censored is not negative"
    );
    let censored: Vec<&str> = first.censored.iter().map(String::as_str).collect();
    assert_eq!(
        censored,
        ["inspect.mortality-12m", "inspect.readmission-12m"]
    );
    assert!(by_name(scans, "PE2").labels["inspect.mortality-12m"]);
    let third = by_name(scans, "PE3");
    assert!(
        !third.labels.contains_key("inspect.pulmonary-embolism"),
        "rows disagree"
    );
    assert_eq!(third.labels.len(), 7);
    assert!(
        found.notes.iter().any(|n| n.contains("disagree")),
        "{:?}",
        found.notes
    );
    assert_eq!(found.reports.len(), 2);
    assert_eq!(
        found.reports[0].text,
        "1. Acute \"saddle\" embolism, no effusion."
    );
    assert_eq!(found.reports[0].patient, "inspect:11");
}

#[test]
fn inspect_tells_what_its_tables_do_not_join() {
    let folder = tempfile::tempdir().unwrap();
    let full = folder.path().join("full");
    inspect(&full);
    for scan in ["PE1", "PE2", "PE3", "PE4"] {
        common::text(&full.join(format!("CTPA/{scan}.nii.gz")), "");
    }
    let tsv = |name: &str, text: &str| common::text(&full.join(name), &text.replace(' ', "\t"));
    let mapping = "study_mapping_20250611.tsv";
    let head = "impression_id person_id image_id\ni1 11 PE1\ni2 12 PE2\ni3 13 PE3\n";
    tsv(mapping, &format!("{head}i4  PE4\n 14 PE5\n"));
    let splits = "impression_id split\ni1 train\ni2 valid\ni3 test\ni4 train\n";
    tsv("splits_20250611.tsv", splits);
    let read = || Inspect::new(folder.path()).read();
    let found = read().unwrap();
    let notes = found.notes.join("\n");
    for part in [
        "1: rows without impression or image, left out (row 6)",
        "1: scans without a patient, each taken for its own (PE4)",
        "1: scans that labels_20250611.tsv says nothing about (PE4)",
    ] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    assert_eq!(by_name(&found.manifest.scans, "PE4").patient, "inspect:PE4");
    tsv("splits_20250611.tsv", &format!("{splits}i1 test\n"));
    let error = read().unwrap_err().to_string();
    assert!(error.contains("puts PE1 into another split"), "{error}");
    // Of ids that are no integers nobody knows what was meant.
    tsv(
        mapping,
        "impression_id person_id image_id\ni1.0 11 PE1\ni2.0 12 PE2\n",
    );
    let error = read().unwrap_err().to_string();
    assert!(error.contains("are the ids written alike"), "{error}");
}

/// As pandas writes integers of a column that has had a gap.
#[test]
fn inspect_joins_integers_with_floating_point_numbers() {
    let folder = tempfile::tempdir().unwrap();
    inspect(folder.path());
    let path = |name: &str| folder.path().join(format!("{name}_20250611.tsv"));
    for name in ["labels", "splits", "impressions"] {
        let text = fs::read_to_string(path(name)).unwrap();
        let plain = |text: String, i: i32| text.replace(&format!("i{i}\t"), &format!("{i}\t"));
        fs::write(path(name), (1..4).fold(text, plain)).unwrap();
    }
    let mapping = "impression_id person_id image_id\n1.0 11.0 PE1\n2.0 12.0 PE2\n3.0  PE3\n";
    fs::write(path("study_mapping"), mapping.replace(' ', "\t")).unwrap();
    let found = Inspect::new(folder.path()).read().unwrap();
    let scans = &found.manifest.scans;
    let patients: Vec<&str> = scans.iter().map(|s| s.patient.as_str()).collect();
    assert_eq!(patients, ["inspect:11", "inspect:12", "inspect:PE3"]);
    assert_eq!(scans[0].study, "inspect:1");
    assert!(scans[0].labels["inspect.pulmonary-embolism"]);
    let splits: Vec<Split> = scans.iter().map(|s| s.split).collect();
    assert_eq!(splits, Split::ALL);
    assert_eq!(found.reports[0].patient, "inspect:11");
}

#[test]
fn inspect_without_an_official_split_is_split_by_patient_and_takes_report_labels() {
    let folder = tempfile::tempdir().unwrap();
    inspect(folder.path());
    fs::remove_file(folder.path().join("splits_20250611.tsv")).unwrap();
    let labels = folder.path().join("report_labels.csv");
    common::text(
        &labels,
        "id,inspect.pleural-effusion,inspect.emphysema\ni1,0,\ni2,1,1\n",
    );
    let mut settings = Inspect::new(folder.path());
    let error = settings.read().unwrap_err().to_string();
    assert!(
        error.contains("held-out patients"),
        "three scans cannot give 4000: {error}"
    );
    settings.split = SplitPlan {
        by: SplitBy::Patients { val: 1, test: 1 },
        seed: 1,
    };
    settings.report_labels = Some(labels);
    let found = settings.read().unwrap();
    let count = |split| found.manifest.of(split).len();
    assert_eq!(Split::ALL.map(count), [1, 1, 1]);
    assert!(!by_name(&found.manifest.scans, "PE1").labels["inspect.pleural-effusion"]);
    assert!(by_name(&found.manifest.scans, "PE2").labels["inspect.emphysema"]);
    assert_eq!(
        by_name(&found.manifest.scans, "PE1")
            .labels
            .get("inspect.emphysema"),
        None
    );
}

#[test]
fn luna16_spheres_lie_where_the_annotations_say() {
    let folder = tempfile::tempdir().unwrap();
    let uid = "1.3.6.1.4.1.14519.5.2.1.6279.6001.1";
    common::scan(&folder.path().join(format!("subset8/{uid}.nii.gz")), 1);
    common::scan(&folder.path().join("subset0/1.2.3.nii.gz"), 2);
    common::mask(
        &folder.path().join(format!("seg-lungs-LUNA16/{uid}.nii.gz")),
        3,
    );
    let table = "seriesuid,coordX,coordY,coordZ,diameter_mm\n";
    // The scan's origin is RAS (20, 20, -100) with x and y running to the left and back.
    let rows = format!("{uid},60.0,50.0,-28.0,40.0\n{uid},900,0,0,5\n1.9.9,0,0,0,4\n");
    common::text(
        &folder.path().join("annotations.csv"),
        &format!("{table}{rows}"),
    );
    let mut settings = Luna16::new(folder.path(), folder.path().join("nodules"));
    settings.val_subsets = vec![8];
    let found = settings.read(|_| ()).unwrap();
    let [scan] = found.manifest.scans.as_slice() else {
        panic!()
    };
    assert_eq!((scan.split, scan.name()), (Split::Val, uid.to_owned()));
    let notes = found.notes.join("\n");
    for part in [
        "1: scans without nodules",
        "1: annotated scans",
        "1: scans with nodules outside",
    ] {
        assert!(notes.contains(part), "{notes}");
    }
    let image = read_ct(&scan.path, &Default::default()).unwrap().volume;
    let mask = read_mask(scan.nodules.as_ref().unwrap()).unwrap();
    image.check_same_grid(&mask, "nodules").unwrap();
    // LPS (60, 50, -28) is voxel (8, 7, 6).
    assert_eq!(mask.voxels[[8, 7, 6]], 1);
    assert_eq!(mask.voxels[[8, 7, 7]], 1);
    assert_eq!(mask.voxels[[8, 7, 8]], 0);
    let again = settings.read(|_| ()).unwrap();
    assert_eq!(
        again.manifest, found.manifest,
        "masks as new as the table are kept"
    );
    let notes = again.notes.join("\n");
    assert!(
        notes.contains("1: masks are newer than scan and annotations"),
        "{notes}"
    );
    // A corrected table is drawn again.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    let rows = format!("{uid},60.0,60.0,-28.0,10.0\n");
    let corrected = folder.path().join("annotations.csv");
    common::text(&corrected, &format!("{table}{rows}"));
    fs::File::options()
        .append(true)
        .open(&corrected)
        .unwrap()
        .set_modified(later)
        .unwrap();
    settings.read(|_| ()).unwrap();
    let mask = read_mask(scan.nodules.as_ref().unwrap()).unwrap();
    assert_eq!((mask.voxels[[8, 7, 6]], mask.voxels[[8, 8, 6]]), (0, 1));
}

#[test]
fn luna16_leaves_out_a_scan_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    common::scan(&at("subset0/1.1.nii.gz"), 1);
    common::text(&at("subset0/1.2.nii.gz"), "\x1f\x7bdamaged");
    let rows = "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.1,60,50,-28,9\n1.2,60,50,-28,9\n";
    common::text(&at("annotations.csv"), rows);
    let found = Luna16::new(folder.path(), at("nodules"))
        .read(|_| ())
        .unwrap();
    assert_eq!(found.manifest.scans.len(), 1);
    let notes = found.notes.join("\n");
    assert!(notes.contains("1: scans that cannot be read"), "{notes}");
    assert!(notes.contains("1.2.nii.gz: "), "{notes}");
    fs::remove_file(at("subset0/1.1.nii.gz")).unwrap();
    fs::remove_file(at("nodules/1.1.nii.gz")).unwrap();
    let error = Luna16::new(folder.path(), at("nodules"))
        .read(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("1.2.nii.gz: "), "{error}");
}

#[test]
fn luna16_reads_the_real_tables() {
    for name in [
        "luna16_annotations.csv",
        "luna16_annotations_with_malignancy.csv",
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("subset0")).unwrap();
        let mut settings = Luna16::new(folder.path(), folder.path().join("nodules"));
        settings.annotations = Some(common::data(name));
        let found = settings.read(|_| ()).unwrap();
        assert!(found.manifest.scans.is_empty());
        assert!(
            found.notes[0].contains("annotated scans that have no file"),
            "{:?}",
            found.notes
        );
    }
}

#[test]
fn totalsegmentator_folders_of_classes_become_label_maps() {
    let folder = tempfile::tempdir().unwrap();
    for (i, name) in ["s0001", "s0002", "s0003"].iter().enumerate() {
        common::scan(&folder.path().join(name).join("ct.nii.gz"), i);
        let classes = folder.path().join(name).join("segmentations");
        common::mask(&classes.join("lung_upper_lobe_left.nii.gz"), 1);
        common::mask(&classes.join("a_class_of_ones_own.nii.gz"), 1);
    }
    let meta = "image_id;age;split\ns0001;70;train\ns0002;60;val\ns0003;50;test\n";
    common::text(&folder.path().join("meta.csv"), meta);
    let merged = folder.path().join("merged");
    let settings = TotalSegmentatorFolder::new(folder.path(), folder.path(), &merged);
    let found = settings.read(|_| ()).unwrap();
    let splits: Vec<Split> = found.manifest.scans.iter().map(|s| s.split).collect();
    assert_eq!(splits, Split::ALL);
    assert!(
        found.notes[0].contains("left out: a_class_of_ones_own"),
        "{:?}",
        found.notes
    );
    let mask = read_mask(found.manifest.scans[0].mask.as_ref().unwrap()).unwrap();
    let distinct: std::collections::BTreeSet<u8> = mask.voxels.iter().copied().collect();
    assert_eq!(distinct, [0, 10].into(), "the number follows from the name");
}

/// Scans of several collections have one name.
#[test]
fn label_maps_of_another_collection_are_not_taken_for_this_one_s() {
    let folder = tempfile::tempdir().unwrap();
    for (root, class) in [("a", "lung_upper_lobe_left"), ("b", "heart")] {
        let root = folder.path().join(root);
        common::scan(&root.join("s0001/ct.nii.gz"), 1);
        common::mask(&root.join(format!("s0001/segmentations/{class}.nii.gz")), 1);
        common::text(&root.join("meta.csv"), "image_id;split\ns0001;train\n");
    }
    let read = |root: &str| {
        let root = folder.path().join(root);
        let settings = TotalSegmentatorFolder::new(&root, &root, folder.path().join("merged"));
        settings.read(|_| ())
    };
    let map = |root: &str| {
        let found = read(root).unwrap();
        found.manifest.scans[0].mask.clone().unwrap()
    };
    let first = fs::read(map("a")).unwrap();
    let refused = read("b").unwrap_err().to_string();
    assert!(refused.contains("holds label maps of"), "{refused}");
    assert!(fs::read(map("a")).unwrap() == first);
    // It has moved.
    fs::rename(folder.path().join("a"), folder.path().join("c")).unwrap();
    assert!(fs::read(map("c")).unwrap() == first);
}

#[test]
fn totalsegmentator_leaves_out_a_mask_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    for (i, name) in ["s1", "s2"].into_iter().enumerate() {
        common::scan(&folder.path().join(name).join("ct.nii.gz"), i);
        let classes = folder.path().join(name).join("segmentations");
        // Two is no number of a class's own file.
        common::mask(&classes.join("heart.nii.gz"), 1 + i as u8);
    }
    common::text(
        &folder.path().join("meta.csv"),
        "image_id;split\ns1;train\ns2;val\n",
    );
    let merged = folder.path().join("merged");
    let settings = TotalSegmentatorFolder::new(folder.path(), folder.path(), &merged);
    let found = settings.read(|_| ()).unwrap();
    assert_eq!(found.manifest.scans.len(), 1);
    let notes = found.notes.join("\n");
    assert!(notes.contains("1: scans that cannot be read"), "{notes}");
}

#[test]
fn totalsegmentator_label_maps_pair_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..20 {
        common::scan(&folder.path().join(format!("scans/{i}.nii.gz")), i);
        common::mask(&folder.path().join(format!("masks/{i}.nii.gz")), 12);
    }
    common::scan(&folder.path().join("scans/alone.nii.gz"), 99);
    let settings = TotalSegmentatorFolder::new(
        folder.path().join("scans"),
        folder.path().join("masks"),
        folder.path().join("merged"),
    );
    let found = settings.read(|_| ()).unwrap();
    assert_eq!(found.manifest.scans.len(), 20);
    assert_eq!(Split::ALL.map(|s| found.manifest.of(s).len()), [18, 1, 1]);
    assert!(
        found.notes[0].contains("1: scans without a mask"),
        "{:?}",
        found.notes
    );
}

#[test]
fn ones_own_table_with_ones_own_names() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..10 {
        common::text(&folder.path().join(format!("ct/{i}.nii.gz")), "");
    }
    let mut text = "file;mrn;slope;offset;effusion;Emphysema;age\n".to_owned();
    for i in 0..11 {
        text += &format!(
            "{i}.nii.gz;{};1;-1024;{};{};70\n",
            i / 2,
            i % 2,
            if i == 3 { "" } else { "1" }
        );
    }
    let table = folder.path().join("own.csv");
    common::text(&table, &text);
    let mut settings = TableSettings::new(&table, "ct-rate");
    settings.collection = "site-a".to_owned();
    settings.root = Some(folder.path().join("ct"));
    settings.columns = ColumnNames {
        scan: "file".into(),
        patient: "mrn".into(),
        slope: "slope".into(),
        intercept: "offset".into(),
        ..ColumnNames::default()
    };
    settings.hu = HuChoice::Table;
    settings.labels = vec![("effusion".into(), "ct-rate.pleural-effusion".into())];
    let catalogue = Catalogue::standard();
    let error = settings.read(&catalogue).unwrap_err().to_string();
    assert!(error.contains("no column split"), "{error}");
    settings.split = Some(SplitPlan {
        by: SplitBy::Shares {
            val: 0.2,
            test: 0.2,
        },
        seed: 0,
    });
    let found = settings.read(&catalogue).unwrap();
    let scans = &found.manifest.scans;
    assert_eq!(scans.len(), 10, "{:?}", found.notes);
    assert_eq!(scans[3].labels.len(), 1);
    assert_eq!(scans[3].patient, "site-a:1");
    assert_eq!(
        scans[0].hu,
        HuSource::Table {
            slope: 1.0,
            intercept: -1024.0
        }
    );
    assert!(
        found.notes.iter().any(|n| n.contains("(age)")),
        "{:?}",
        found.notes
    );
    assert_eq!(found.manifest.of(Split::Test).len(), 2);
    assert!(!found.notes.iter().any(|n| n.contains("of its own there")));
    let refused = |change: &dyn Fn(&mut TableSettings)| {
        let mut settings = settings.clone();
        change(&mut settings);
        settings.read(&catalogue).unwrap_err().to_string()
    };
    let error = refused(&|s| s.columns.patient = "mnr".into());
    assert!(error.contains("no column mnr"), "{error}");
    let error = refused(&|s| s.columns.mask = "organs".into());
    assert!(error.contains("no column organs"), "{error}");
    // A split of the table's own is not drawn anew.
    let error = refused(&|s| s.columns.split = "age".into());
    assert!(error.contains("got both"), "{error}");
    let mut unnamed = settings.clone();
    unnamed.columns.patient = ColumnNames::default().patient;
    let found = unnamed.read(&catalogue).unwrap();
    let told = found
        .notes
        .iter()
        .any(|n| n.contains("rows have no patient"));
    assert!(told, "{:?}", found.notes);
    settings.labels[0].1 = "ct-rate.gout".into();
    assert!(
        settings
            .read(&catalogue)
            .unwrap_err()
            .to_string()
            .contains("ct-rate.gout")
    );
    settings.labels[0].0 = "effusions".into();
    settings.labels[0].1 = "ct-rate.pleural-effusion".into();
    assert!(
        settings
            .read(&catalogue)
            .unwrap_err()
            .to_string()
            .contains("effusions")
    );
}

#[test]
fn rows_of_one_scan_are_put_together_unless_they_disagree() {
    let folder = tempfile::tempdir().unwrap();
    common::text(&folder.path().join("a.nii.gz"), "");
    let table = folder.path().join("own.csv");
    let read = |rows: &str, labels: &[(&str, &str)]| {
        common::text(
            &table,
            &format!("scan,split,patient,Emphysema,emph\n{rows}"),
        );
        let mut settings = TableSettings::new(&table, "ct-rate");
        let pair = |(column, task): &(&str, &str)| (column.to_string(), task.to_string());
        settings.labels = labels.iter().map(pair).collect();
        settings
            .read(&Catalogue::standard())
            .map_err(|e| e.to_string())
    };
    let found = read("a.nii.gz,train,p,1,\na.nii.gz,train,p,,\n", &[]).unwrap();
    assert_eq!(found.manifest.scans.len(), 1);
    assert!(found.manifest.scans[0].labels["ct-rate.emphysema"]);
    let told = found
        .notes
        .iter()
        .any(|n| n.contains("1 rows are of a scan"));
    assert!(told, "{:?}", found.notes);
    for second in [
        "a.nii.gz,train,p,0,",
        "a.nii.gz,test,p,1,",
        "a.nii.gz,train,p,censored,",
    ] {
        let error = read(&format!("a.nii.gz,train,p,1,\n{second}\n"), &[]).unwrap_err();
        assert!(
            error.contains("row 3") && error.contains("disagrees"),
            "{error}"
        );
    }
    let error = read("a.nii.gz,train,p,1,0\n", &[("emph", "ct-rate.emphysema")]).unwrap_err();
    assert!(error.contains("got emph and Emphysema"), "{error}");
}

#[test]
fn the_releases_parquet_as_pandas_writes_it() {
    for name in ["release_pandas.parquet", "release_pandas_zstd.parquet"] {
        let mut settings = ReleaseTable::new(common::data(name));
        settings.absent = Absent::Keep;
        settings.group = Some("rad-chest".into());
        let found = settings.read(&Catalogue::standard()).unwrap();
        let scans = &found.manifest.scans;
        assert_eq!(scans.len(), 3);
        let first = &scans[0];
        assert_eq!(first.path, Path::new("/data/bin/train_1_a_1.bin"));
        assert_eq!(first.patient, "ct-rate:train_1");
        assert!(first.labels["rad-chest.pleural-effusion"]);
        assert!(!first.labels["rad-chest.emphysema"]);
        let [own] = found.tasks.as_slice() else {
            panic!("{:?}", found.tasks)
        };
        assert_eq!(own.prompt, "Diagnose the presence of asthma in the lungs");
        assert_eq!(own.kind, TaskKind::Diagnosis);
        assert!(first.labels[&own.id]);
        assert_eq!(scans[1].split, Split::Val);
        assert_eq!(
            scans[1].mask.as_deref(),
            Some(Path::new("/data/seg/train_2_a_1.nii.gz"))
        );
        assert_eq!(scans[1].labels.len(), 1, "a mask's label means nothing");
        assert_eq!(
            scans[2].nodules.as_deref(),
            Some(Path::new("/data/nodule_seg/1.3.6.1.4.nii.gz"))
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tasks.json");
        write_tasks(&file, &found.tasks).unwrap();
        let mut catalogue = Catalogue::standard();
        assert_eq!(catalogue.add_file(&file).unwrap(), 1);
        assert_eq!(catalogue.get(&own.id).unwrap().prompt, own.prompt);
    }
}
