//! Manifests: both formats and back, what is refused, merging, splitting.

mod common;

use std::collections::BTreeSet;

use proptest::prelude::*;
use uniferum_ct::HuSource;
use uniferum_data::{Manifest, ProblemKind, Scan, Split, SplitBy, SplitPlan, Table};
use uniferum_tasks::Catalogue;

fn read(text: &str) -> Result<Manifest, String> {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.nii.gz", "b.nii.gz"] {
        std::fs::write(folder.path().join(name), b"").unwrap();
    }
    let path = folder.path().join("labels.csv");
    std::fs::write(&path, text).unwrap();
    Manifest::read(&path, &Catalogue::standard(), "phantom").map_err(|e| e.to_string())
}

#[test]
fn missing_is_not_negative() {
    let m = read(
        "scan,split,patient,pleural_effusion,emphysema,cardiomegaly\n\
         a.nii.gz,train,p1,1,Censored,0\nb.nii.gz,test,p2,FALSE,,nan\n",
    )
    .unwrap();
    assert_eq!(m.of(Split::Train), [0]);
    let labels: Vec<_> = m.scans[0]
        .labels
        .iter()
        .map(|(k, v)| (k.as_str(), *v))
        .collect();
    let expected = [
        ("phantom.cardiomegaly", false),
        ("phantom.pleural-effusion", true),
    ];
    assert_eq!(labels, expected);
    assert!(m.scans[0].censored.contains("phantom.emphysema"));
    assert_eq!(m.scans[1].labels.len(), 1);
}

#[test]
fn files_of_one_name_are_not_one_patient() {
    let folder = tempfile::tempdir().unwrap();
    for patient in ["p1", "p2"] {
        std::fs::create_dir(folder.path().join(patient)).unwrap();
        std::fs::write(folder.path().join(patient).join("ct.nii.gz"), b"").unwrap();
    }
    std::fs::write(folder.path().join("own.nii.gz"), b"").unwrap();
    let path = folder.path().join("labels.csv");
    let text = "scan,split\np1/ct.nii.gz,train\np2/ct.nii.gz,test\nown.nii.gz,val\n";
    std::fs::write(&path, text).unwrap();
    let read = Manifest::read(&path, &Catalogue::standard(), "phantom").unwrap();
    let patients: BTreeSet<&str> = read.scans.iter().map(|s| s.patient.as_str()).collect();
    assert_eq!(patients.len(), 3);
    assert!(patients.contains("own"), "{patients:?}");
}

#[test]
fn mistakes_are_named_with_their_row() {
    let fails = |text: &str, part: &str| {
        let error = read(text).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    fails("scan,split\na.nii.gz,train\nc.nii.gz,test\n", "row 3");
    fails("scan,split\na.nii.gz,train\n,\nb.nii.gz,test\n", "row 3");
    fails("scan,split,emphysema\na.nii.gz,train,maybe\n", "maybe");
    fails("scan,split,unknown\na.nii.gz,train,1\n", "unknown");
    fails("scan\na.nii.gz\n", "split");
    fails("scan,split\na.nii.gz,other\n", "other");
    fails("scan,split,mask\na.nii.gz,train,none.nii\n", "mask");
    fails("scan,split,split\na.nii.gz,train,test\n", "two columns");
    fails("scan,split,hu_source\na.nii.gz,train,table\n", "hu_slope");
    fails("scan,split\na.nii.gz,train\na.nii.gz,train\n", "two rows");
    fails(
        "scan,split,emphysema,censored\na.nii.gz,train,0,phantom.emphysema\n",
        "although it is censored",
    );
    fails(
        "scan,split,censored\na.nii.gz,train,phantom.gout\n",
        "phantom.gout",
    );
    fails(
        "scan,split,patient\na.nii.gz,train,p\nb.nii.gz,test,p\n",
        "two splits",
    );
    fails(
        "scan,split,patient,study\na.nii.gz,train,p,s\nb.nii.gz,test,q,s\n",
        "study s",
    );
    // Numbered as pandas does where some patients are not known.
    fails(
        "scan,split,patient\na.nii.gz,train,17.0\nb.nii.gz,test,17.0\n",
        "patient 17 is in two splits",
    );
}

#[test]
fn long_tables_have_a_row_a_label() {
    let m = read(
        "scan,split,task,label\na.nii.gz,train,phantom.emphysema,1\n\
         a.nii.gz,train,cardiomegaly,0\nb.nii.gz,val,phantom.emphysema,Censor\n",
    )
    .unwrap();
    assert_eq!(m.scans.len(), 2);
    assert_eq!(m.scans[0].labels.len(), 2);
    assert!(m.scans[1].labels.is_empty() && m.scans[1].censored.len() == 1);
    let twice = "scan,split,task,label\na.nii.gz,train,emphysema,1\na.nii.gz,train,emphysema,0\n";
    assert!(read(twice).unwrap_err().contains("opposite"));
    let unknown = "scan,split,task,label\na.nii.gz,train,gout,1\n";
    assert!(read(unknown).unwrap_err().contains("gout"));
}

#[test]
fn reading_on_collects_every_problem() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.csv");
    let rows = "scan,split,patient,emphysema,gout\n\
                a.nii.gz,train,p,1,1\nb.nii.gz,test,p,perhaps,\n,train,q,,\nd.nii.gz,nowhere,q,,\n";
    std::fs::write(&path, rows).unwrap();
    let (manifest, problems) =
        Manifest::read_with_problems(&path, &Catalogue::standard(), "phantom").unwrap();
    assert_eq!(manifest.scans.len(), 2);
    let count = |kind| problems.iter().filter(|p| p.kind == kind).count();
    assert_eq!(count(ProblemKind::UnknownColumn), 1);
    assert_eq!(count(ProblemKind::MissingFile), 2);
    assert_eq!(count(ProblemKind::BadValue), 3);
    assert_eq!(count(ProblemKind::PatientLeak), 1);
}

fn full(folder: &std::path::Path) -> Manifest {
    let scan = |name: &str, split, patient: &str| Scan {
        path: folder.join(name),
        patient: patient.to_owned(),
        split,
        ..Scan::default()
    };
    let mut scans = vec![
        scan("scans/1.2.840.1.nii.gz", Split::Train, "a:1"),
        scan("scans/b, c.nii.gz", Split::Val, "a:\"2\""),
        scan("/elsewhere/c.nii.gz", Split::Test, "a:3"),
    ];
    scans[0].mask = Some(folder.join("masks/m.nii.gz"));
    scans[0].hu = HuSource::Table {
        slope: 1.5,
        intercept: -1024.25,
    };
    scans[0].spacing_mm = Some([0.7, 0.7, 1.25]);
    scans[0].labels.insert("ct-rate.emphysema".into(), true);
    scans[1].labels.insert("ct-rate.emphysema".into(), false);
    scans[1].study = "study 1".into();
    scans[1].hu = HuSource::AlreadyHu;
    scans[2].nodules = Some(folder.join("n.nii.gz"));
    scans[2].collection = "inspect".into();
    scans[2].censored = ["inspect.mortality-6m", "inspect.mortality-12m"]
        .map(String::from)
        .into();
    Manifest { scans }
}

#[test]
fn csv_and_parquet_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let before = full(folder.path());
    for name in ["m.csv", "m.parquet"] {
        let path = folder.path().join(name);
        before.write(&path).unwrap();
        let (after, problems) =
            Manifest::read_with_problems(&path, &Catalogue::standard(), "ct-rate").unwrap();
        assert_eq!(after, before, "{name}");
        assert!(
            problems.iter().all(|p| p.kind == ProblemKind::MissingFile),
            "{problems:?}"
        );
        let table = Table::read(&path).unwrap();
        let scan = table.find("scan").unwrap();
        assert_eq!(table.cell(0, scan), "scans/1.2.840.1.nii.gz");
        assert_eq!(table.cell(2, scan), "/elsewhere/c.nii.gz");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "no partial file stays");
}

#[test]
fn an_empty_manifest_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["m.csv", "m.parquet"] {
        let path = folder.path().join(name);
        Manifest::default().write(&path).unwrap();
        let manifest = Manifest::read(&path, &Catalogue::standard(), "ct-rate").unwrap();
        assert!(manifest.scans.is_empty());
    }
}

#[test]
fn merging_adds_labels_and_refuses_contradictions() {
    let folder = tempfile::tempdir().unwrap();
    let base = full(folder.path());
    let mut more = base.clone();
    more.scans.truncate(1);
    more.scans[0].labels = [("ct-rate.cardiomegaly".to_owned(), true)].into();
    more.scans[0].mask = None;
    more.scans[0].nodules = Some("n.nii.gz".into());
    let merged = Manifest::merge([base.clone(), more.clone()]).unwrap();
    assert_eq!(merged.scans.len(), 3);
    assert_eq!(merged.scans[0].labels.len(), 2);
    assert!(merged.scans[0].mask.is_some() && merged.scans[0].nodules.is_some());
    more.scans[0].labels = [("ct-rate.emphysema".to_owned(), false)].into();
    let error = Manifest::merge([base.clone(), more.clone()])
        .unwrap_err()
        .to_string();
    assert!(error.contains("emphysema"), "{error}");
    more.scans[0].labels.clear();
    more.scans[0].split = Split::Test;
    let error = Manifest::merge([base, more]).unwrap_err().to_string();
    assert!(error.contains("split"), "{error}");
}

fn patients(n: usize) -> Manifest {
    let scans = (0..3 * n).map(|i| Scan {
        path: format!("{i}.nii").into(),
        patient: format!("p{}", i % n),
        ..Scan::default()
    });
    Manifest {
        scans: scans.collect(),
    }
}

#[test]
fn splits_hold_out_what_was_asked() {
    let plan = |by| SplitPlan { by, seed: 3 };
    let held = |by, split| {
        let mut m = patients(40);
        plan(by).apply(&mut m, |_| true).unwrap();
        let of: BTreeSet<String> = m
            .of(split)
            .iter()
            .map(|&i| m.scans[i].patient.clone())
            .collect();
        of.len()
    };
    let shares = SplitBy::Shares {
        val: 0.1,
        test: 0.2,
    };
    assert_eq!(
        (held(shares, Split::Val), held(shares, Split::Test)),
        (4, 8)
    );
    let people = SplitBy::Patients { val: 5, test: 0 };
    assert_eq!(
        (held(people, Split::Val), held(people, Split::Test)),
        (5, 0)
    );
    // Three scans a patient: 10 scans need 4 patients.
    let scans = SplitBy::Scans { val: 10, test: 3 };
    assert_eq!((held(scans, Split::Val), held(scans, Split::Test)), (4, 1));
    for wrong in [
        SplitBy::Shares {
            val: 0.6,
            test: 0.5,
        },
        SplitBy::Shares {
            val: -0.1,
            test: 0.5,
        },
        SplitBy::Patients { val: 40, test: 0 },
    ] {
        assert!(
            plan(wrong).apply(&mut patients(40), |_| true).is_err(),
            "{wrong:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_split_never_parts_a_patient_and_ignores_the_order(
        n in 5usize..60, seed in 0u64..1000, val in 0.0f64..0.4, test in 0.0f64..0.4,
    ) {
        let plan = SplitPlan { by: SplitBy::Shares { val, test }, seed };
        let mut one = patients(n);
        plan.apply(&mut one, |_| true).unwrap();
        let mut other = patients(n);
        other.scans.reverse();
        plan.apply(&mut other, |_| true).unwrap();
        other.scans.reverse();
        prop_assert_eq!(&one, &other);
        for a in &one.scans {
            for b in &one.scans {
                prop_assert!(a.patient != b.patient || a.split == b.split);
            }
        }
    }
}
