//! Everything that the doctor looks for, on small manifests and on real files where they are at hand.

mod common;

use std::path::{Path, PathBuf};

use ndarray::Array3;
use uniferum_ct::{HuSource, Volume, write_nifti};
use uniferum_data::doctor::{
    Check, DoctorOptions, Examination, Severity, Voxels, examine, voxel_facts,
};
use uniferum_data::{Manifest, Scan, Split};
use uniferum_tasks::Catalogue;

fn scan(folder: &Path, name: &str, seed: usize, patient: &str, split: Split) -> Scan {
    let path = folder.join(name);
    common::scan(&path, seed);
    Scan {
        path,
        patient: patient.to_owned(),
        split,
        ..Scan::default()
    }
}

fn look(path: &Path, options: &DoctorOptions) -> Examination {
    examine(path, &Catalogue::standard(), "inspect", options, |_| ()).unwrap()
}

fn checks(found: &Examination, severity: Severity) -> Vec<Check> {
    let mut checks: Vec<Check> = found
        .findings
        .iter()
        .filter(|f| f.severity == severity)
        .map(|f| f.check)
        .collect();
    checks.dedup();
    checks
}

/// Six scans, all in order.
fn healthy(folder: &Path) -> Manifest {
    let mut scans: Vec<Scan> = (0..6)
        .map(|i| {
            let split = if i < 4 { Split::Train } else { Split::Test };
            scan(folder, &format!("s{i}.nii.gz"), i, &format!("p{i}"), split)
        })
        .collect();
    for (i, scan) in scans.iter_mut().enumerate() {
        scan.labels
            .insert("inspect.pleural-effusion".into(), i % 2 == 0);
        scan.spacing_mm = Some([10.0, 10.0, 12.0]);
    }
    Manifest { scans }
}

fn write(folder: &Path, manifest: &Manifest) -> PathBuf {
    let path = folder.join("m.csv");
    manifest.write(&path).unwrap();
    path
}

#[test]
fn a_healthy_manifest_has_no_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), &healthy(folder.path()));
    let found = look(&path, &DoctorOptions::default());
    assert_eq!(
        (found.errors, found.scans, found.patients, found.read),
        (0, 6, 6, 6)
    );
    // Spacing of 12 mm is unusual, one positive in test is few.
    assert_eq!(
        checks(&found, Severity::Warning),
        [Check::Geometry, Check::ClassCount]
    );
    assert_eq!(found.clean().scans.len(), 6);
    assert!(found.text(3).contains("0 errors"), "{}", found.text(3));
}

#[test]
fn scans_of_rows_with_mistakes_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), &healthy(folder.path()));
    let mut text = std::fs::read_to_string(&path).unwrap();
    // The first scan in two rows, the second without a label that can be read, a third without a split.
    let rows: Vec<String> = text.lines().map(str::to_owned).collect();
    text = rows[0].clone() + "\n";
    text += &[&rows[1], &rows[1], &rows[3], &rows[4], &rows[5], &rows[6]]
        .map(|r| format!("{r}\n"))
        .concat();
    text += &rows[2].replace(",0", ",maybe");
    text = text.replace(&rows[3], &rows[3].replace("train", "later"));
    std::fs::write(&path, text).unwrap();
    let found = look(
        &path,
        &DoctorOptions {
            voxels: Voxels::None,
            ..DoctorOptions::default()
        },
    );
    assert_eq!(found.unusable().len(), 3, "{}", found.text(9));
    assert_eq!(found.clean().scans.len(), 3, "{}", found.text(9));
}

#[test]
fn every_mistake_is_found_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut m = healthy(folder.path());
    let s =
        |name: &str, seed, patient: &str, split| scan(folder.path(), name, seed, patient, split);
    // 6: the same patient in another split. 7, 8: equal voxels across splits.
    m.scans.push(s("leak.nii.gz", 20, "p0", Split::Test));
    m.scans.push(s("twin1.nii.gz", 21, "p7", Split::Train));
    m.scans.push(s("twin2.nii.gz", 21, "p8", Split::Test));
    // 9: scaled twice. 10: never scaled. 11: missing. 12: damaged. 13: no lungs. 14: in the list of heads.
    let mut twice = s("twice.nii.gz", 22, "p9", Split::Train);
    twice.hu = HuSource::Table {
        slope: 1.0,
        intercept: -1024.0,
    };
    m.scans.push(twice);
    let mut never = s("never.nii.gz", 23, "p10", Split::Train);
    never.hu = HuSource::Table {
        slope: 1.0,
        intercept: 1024.0,
    };
    m.scans.push(never);
    m.scans.push(s("gone.nii.gz", 24, "p11", Split::Train));
    m.scans.push(s("damaged.nii.gz", 25, "p12", Split::Train));
    let head = s("head.nii.gz", 26, "p13", Split::Train);
    let voxels = Array3::from_shape_fn((24, 20, 16), |(x, y, z)| {
        if x < 6 {
            -1000i16
        } else {
            40 + (x + y + z) as i16
        }
    });
    write_nifti(
        &head.path,
        &Volume::new(voxels, common::lps([10.0, 10.0, 12.0])),
    )
    .unwrap();
    m.scans.push(head);
    m.scans.push(s("listed.nii.gz", 27, "p14", Split::Train));
    // 15: a mask of another grid. 16: labels beyond the map. 17: censored outcome.
    let mut other = s("othergrid.nii.gz", 28, "p15", Split::Train);
    let mask = folder.path().join("other_mask.nii.gz");
    write_nifti(
        &mask,
        &Volume::new(Array3::<u8>::ones((4, 4, 4)), common::lps([10.0; 3])),
    )
    .unwrap();
    other.mask = Some(mask);
    m.scans.push(other);
    let mut beyond = s("beyond.nii.gz", 29, "p16", Split::Train);
    let mask = folder.path().join("beyond_mask.nii.gz");
    common::mask(&mask, 200);
    beyond.mask = Some(mask);
    m.scans.push(beyond);
    let mut censored = s("censored.nii.gz", 30, "p17", Split::Train);
    censored.censored.insert("inspect.mortality-6m".into());
    censored.spacing_mm = Some([5.0, 5.0, 12.0]);
    m.scans.push(censored);
    let path = write(folder.path(), &m);
    std::fs::remove_file(folder.path().join("gone.nii.gz")).unwrap();
    let bytes = std::fs::read(folder.path().join("damaged.nii.gz")).unwrap();
    std::fs::write(
        folder.path().join("damaged.nii.gz"),
        &bytes[..bytes.len() / 2],
    )
    .unwrap();
    let heads = folder.path().join("no_chest.txt");
    std::fs::write(&heads, "train/x/listed.nii.gz\n").unwrap();
    let options = DoctorOptions {
        no_chest: Some(heads),
        tasks: vec![
            "inspect.pleural-effusion".into(),
            "inspect.emphysema".into(),
            "nodule".into(),
        ],
        ..DoctorOptions::default()
    };
    let found = look(&path, &options);
    let count = |severity, check| {
        found
            .findings
            .iter()
            .filter(|f| f.severity == severity && f.check == check)
            .count()
    };
    let expected = [
        (Check::PatientLeak, 1),
        (Check::DuplicateVoxels, 1),
        (Check::MissingFile, 1),
        (Check::Unreadable, 1),
        (Check::UnknownLabel, 2),
        (Check::NoChest, 2),
        (Check::ImplausibleHu, 2),
        (Check::Mask, 2),
    ];
    for (check, n) in expected {
        assert_eq!(
            count(Severity::Error, check),
            n,
            "{check:?}: {:#?}",
            found.findings
        );
    }
    assert_eq!(found.errors, expected.iter().map(|(_, n)| n).sum::<usize>());
    assert_eq!(count(Severity::Warning, Check::Censored), 1);
    let text = found.text(1);
    for part in [
        "patient p0 is in two splits: train, test",
        "twin1, twin2",
        "spacing [10.000, 10.000, 12.000]",
    ] {
        let all = found.text(100);
        assert!(all.contains(part), "{part}: {all}");
    }
    assert!(
        text.contains("and 1 more") && text.contains("12 errors"),
        "{text}"
    );
    // The first twin, the leak and the censored one stay.
    let clean = found.clean();
    let names: Vec<String> = clean.scans.iter().map(Scan::name).collect();
    assert_eq!(names[..6], ["s0", "s1", "s2", "s3", "s4", "s5"]);
    assert_eq!(names[6..], ["leak", "twin1", "censored"]);
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["findings"][0]["check"], "patient-leak");
    assert_eq!(json["findings"][0]["severity"], "error");
}

#[test]
fn wrong_columns_and_rows_are_findings_not_failures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.csv");
    let rows =
        "scan,split,12_month_PH,12_month_Ph\na.nii.gz,train,Censored,1\nb.nii.gz,train,perhaps,\n";
    std::fs::write(&path, rows).unwrap();
    let found = look(
        &path,
        &DoctorOptions {
            voxels: Voxels::None,
            ..Default::default()
        },
    );
    assert_eq!(
        checks(&found, Severity::Error),
        [Check::MissingFile, Check::UnknownLabel, Check::BadValue]
    );
    assert_eq!(
        checks(&found, Severity::Warning),
        [Check::Censored, Check::UnknownPatients]
    );
    assert_eq!(found.classes.len(), 1);
    assert_eq!(
        (found.classes[0].missing, found.classes[0].censored),
        (2, 1)
    );
    let unknown = DoctorOptions {
        tasks: vec!["gout".into()],
        ..Default::default()
    };
    let error = examine(&path, &Catalogue::standard(), "inspect", &unknown, |_| ()).unwrap_err();
    assert!(error.to_string().contains("gout"));
}

#[test]
fn prepared_scans_are_found_in_a_list_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.csv");
    let list = folder.path().join("no_chest.txt");
    let look = |text: &str| {
        std::fs::write(&list, text).unwrap();
        let options = DoctorOptions {
            voxels: Voxels::None,
            no_chest: Some(list.clone()),
            ..Default::default()
        };
        let found = look(&path, &options).findings;
        let mut found = found.into_iter().filter(|f| f.check == Check::NoChest);
        (found.next().unwrap(), found.count())
    };
    for name in ["head.uct", "head.nhdr", "head.hdr.gz", "head.img.gz"] {
        std::fs::write(&path, format!("scan,split\n{name},train\n")).unwrap();
        let (found, others) = look("dataset/train/head.nii.gz\n");
        assert_eq!((found.severity, others), (Severity::Error, 0), "{name}");
    }
    let (found, _) = look("dataset/train/another.nii.gz\n");
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.what.contains("none of its 1 names"), "{}", found.what);
}

#[test]
fn a_sample_is_spread_over_the_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), &healthy(folder.path()));
    let options = |n| DoctorOptions {
        voxels: Voxels::Sample(n),
        ..Default::default()
    };
    assert_eq!(look(&path, &options(2)).read, 2);
    assert_eq!(look(&path, &options(100)).read, 6);
}

#[test]
fn mirrored_lungs_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let examined = |right_is_right: bool| {
        let mut scan = scan(folder.path(), "s.nii.gz", 1, "p", Split::Train);
        let (low, high) = if right_is_right { (12u8, 10) } else { (10, 12) };
        // LPS: the first half along x lies to the patient's right.
        let label = |(x, _, _)| if x < 12 { low } else { high };
        let mask = folder.path().join("mask.nii.gz");
        let volume = Volume::new(
            Array3::from_shape_fn((24, 20, 16), label),
            common::lps([10.0, 10.0, 12.0]),
        );
        write_nifti(&mask, &volume).unwrap();
        scan.mask = Some(mask);
        let path = write(folder.path(), &Manifest { scans: vec![scan] });
        checks(&look(&path, &DoctorOptions::default()), Severity::Error)
    };
    assert_eq!(examined(true), []);
    assert_eq!(examined(false), [Check::Mask]);
}

/// Real scans are too large for the crate: `UNIFERUM_TEST_DATA` names their folder.
#[test]
fn real_heads_are_told_from_real_chests() {
    let Some(folder) = std::env::var_os("UNIFERUM_TEST_DATA").map(PathBuf::from) else {
        eprintln!("skipped: UNIFERUM_TEST_DATA is not set");
        return;
    };
    let litres = |name: &str| {
        let scan = Scan {
            path: folder.join(name),
            ..Scan::default()
        };
        let litres = voxel_facts(&scan).unwrap().0.lung_litres;
        eprintln!("{name}: {litres:.2} litres");
        litres
    };
    for chest in [
        "chest/lung2_image.nrrd",
        "chest_small/lung1_4x_ct.nii.gz",
        "chest_small/cptac_c3n00247_4x_ct.nii.gz",
    ] {
        assert!(litres(chest) > 0.8);
    }
    assert!(litres("nifti_odd/real_ct_head_gantry_shear_scl.nii.gz") < 0.3);
}
