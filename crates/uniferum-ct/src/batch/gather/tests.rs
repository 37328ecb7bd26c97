//! Scans are found as they are named, each once.

use super::*;

fn touch(folder: &Path, names: &[&str]) {
    for name in names {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }
}

fn of(folder: &Path, sources: Sources) -> Vec<Input> {
    let inputs = sources.inputs.iter().map(|p| folder.join(p)).collect();
    let sources = Sources { inputs, ..sources };
    gather(&sources).unwrap().inputs
}

fn names(folder: &Path, inputs: &[Input]) -> Vec<String> {
    let name = |i: &Input| {
        let path = i.scan.strip_prefix(folder).unwrap();
        path.to_string_lossy().into_owned()
    };
    inputs.iter().map(name).collect()
}

#[test]
fn folders_lists_and_files_name_each_scan_once() {
    let dir = tempfile::tempdir().unwrap();
    let f = dir.path();
    touch(
        f,
        &[
            "b/2.nii.gz",
            "b/1.nii",
            "b/notes.md",
            "b/.c.nii",
            "b/ct/1.dcm",
            "b/ct/2.dcm",
            "x.any",
        ],
    );
    std::fs::write(f.join("l.txt"), "# two\nb/1.nii\n\nmissing.nii\n").unwrap();
    let inputs = ["b", "l.txt", "x.any"].map(PathBuf::from).to_vec();
    let found = of(
        f,
        Sources {
            inputs,
            ..Sources::default()
        },
    );
    assert_eq!(
        names(f, &found),
        ["b/1.nii", "b/2.nii.gz", "b/ct", "missing.nii", "x.any"]
    );
    assert!(
        found
            .iter()
            .all(|i| i.problem.is_none() && i.hu == HuSource::Header)
    );
    let (inputs, exclude) = (vec![PathBuf::from("b")], Some(f.join("b/../b/ct")));
    let found = of(
        f,
        Sources {
            inputs,
            exclude,
            ..Sources::default()
        },
    );
    assert_eq!(names(f, &found), ["b/1.nii", "b/2.nii.gz"]);
    assert_eq!(stem(Path::new("a/b.v1.nii.gz")), "b.v1");
    assert_eq!(stem(Path::new("a/c")), "c");
}

#[test]
fn a_dicom_medium_is_not_a_scan_beside_its_series() {
    let dir = tempfile::tempdir().unwrap();
    let f = dir.path();
    touch(
        f,
        &["cd/a/ct/2.dcm", "cd/a/scout.dcm", "cd/b/1.dcm", "cd/c.nii"],
    );
    let marked = [[0; 128].as_slice(), b"DICM"].concat();
    for name in ["DICOMDIR", "dicomdir"] {
        std::fs::write(f.join("cd").join(name), &marked).unwrap();
        let inputs = vec![PathBuf::from("cd")];
        let sources = Sources {
            inputs,
            ..Sources::default()
        };
        let found = of(f, sources);
        assert_eq!(names(f, &found), ["cd/a/ct", "cd/b", "cd/c.nii"]);
        let warned: Vec<usize> = found.iter().map(|i| i.warnings.len()).collect();
        assert_eq!(warned, [1, 0, 0]);
    }
}

#[test]
fn tables_bring_masks_and_scaling() {
    let dir = tempfile::tempdir().unwrap();
    let f = dir.path();
    std::fs::write(
        f.join("t.csv"),
        "patient,scan,mask,slope,intercept\np,s/1.nii,m/1.nii,2,-1024\nq,s/2.nii,,,\n",
    )
    .unwrap();
    let inputs = vec![PathBuf::from("t.csv")];
    let sources = Sources {
        inputs,
        hu: Some(HuChoice::Table),
        ..Sources::default()
    };
    let found = of(f, sources.clone());
    assert_eq!(found[0].mask, Some(f.join("m/1.nii")));
    assert_eq!(
        found[0].hu,
        HuSource::Table {
            slope: 2.0,
            intercept: -1024.0
        }
    );
    assert!(found[1].mask.is_none() && found[1].problem.is_some());
    std::fs::write(
        f.join("meta.csv"),
        "VolumeName,RescaleSlope,RescaleIntercept\n2.nii,1,-8\n",
    )
    .unwrap();
    let hu_table = Some(f.join("meta.csv"));
    let found = of(
        f,
        Sources {
            hu_table,
            ..sources
        },
    );
    assert_eq!(
        found[1].hu,
        HuSource::Table {
            slope: 1.0,
            intercept: -8.0
        }
    );
    assert!(found[1].problem.is_none());
    std::fs::write(f.join("bad.csv"), "file\nx\n").unwrap();
    let inputs = vec![f.join("bad.csv")];
    let error = gather(&Sources {
        inputs,
        ..Sources::default()
    })
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("expected scan or img_file_path, got file"),
        "{error}"
    );
}

#[test]
fn a_manifest_says_where_each_scan_s_hounsfield_units_come_from() {
    let dir = tempfile::tempdir().unwrap();
    let f = dir.path();
    let table = "scan,hu_source,hu_slope,hu_intercept\n\
                 a.nii,table,1,-8192\nb.nii,already_hu,,\nc.nii,header,,\nd.nii,,2,3\ne.nii,table,,\n";
    std::fs::write(f.join("m.csv"), table).unwrap();
    let with = |hu| Sources {
        inputs: vec![PathBuf::from("m.csv")],
        hu,
        ..Sources::default()
    };
    let found = of(f, with(None));
    let scaled = HuSource::Table {
        slope: 1.0,
        intercept: -8192.0,
    };
    let sources: Vec<HuSource> = found.iter().map(|i| i.hu).collect();
    let expected = [
        scaled,
        HuSource::AlreadyHu,
        HuSource::Header,
        HuSource::Header,
    ];
    assert_eq!(sources[..4], expected);
    let problems =
        |found: &[Input]| -> Vec<bool> { found.iter().map(|i| i.problem.is_some()).collect() };
    assert_eq!(problems(&found), [false, false, false, false, true]);
    // What is asked for all scans must not contradict their rows.
    let found = of(f, with(Some(HuChoice::Table)));
    assert_eq!(problems(&found), [false, true, true, false, true]);
    let problem = found[1].problem.as_deref().unwrap();
    assert!(
        problem.contains("already_hu, asked for is table"),
        "{problem}"
    );
    let refused = |name: &str, text: &str| {
        std::fs::write(f.join(name), text).unwrap();
        let inputs = vec![f.join(name)];
        let sources = Sources {
            inputs,
            ..Sources::default()
        };
        gather(&sources).unwrap_err().to_string()
    };
    let error = refused("bad.csv", "scan,hu_source\na.nii,hounsfield\n");
    assert!(error.contains("\"hounsfield\" in line 2"), "{error}");
    for name in ["m.parquet", "m.tsv"] {
        let error = refused(name, "");
        assert!(
            error.contains("expected CSV") && error.contains("manifest merge"),
            "{error}"
        );
    }
}

#[test]
fn masks_are_found_by_the_scan_s_name() {
    let dir = tempfile::tempdir().unwrap();
    let f = dir.path();
    touch(
        f,
        &[
            "s/a/1.nii.gz",
            "s/2.mha",
            "s/3.nii",
            "m/a/1.nii.gz",
            "m/2_seg.nii.gz",
        ],
    );
    let inputs = vec![PathBuf::from("s")];
    let sources = Sources {
        inputs,
        masks: Some(f.join("m")),
        ..Sources::default()
    };
    let found = of(f, sources.clone());
    assert_eq!(names(f, &found), ["s/2.mha", "s/3.nii", "s/a/1.nii.gz"]);
    assert_eq!(found[0].mask, Some(f.join("m/2_seg.nii.gz")));
    assert_eq!(found[2].mask, Some(f.join("m/a/1.nii.gz")));
    assert!(found[1].problem.as_ref().unwrap().contains("no mask"));
    let found = of(
        f,
        Sources {
            allow_missing_masks: true,
            ..sources
        },
    );
    assert!(found[1].problem.is_none() && found[1].warnings.len() == 1);
}

fn classes() -> MaskClasses {
    let names = ["heart", "lung_upper_lobe_left"].map(str::to_owned);
    names.into_iter().zip([51, 10]).collect()
}

#[test]
fn folders_with_a_file_a_class_are_masks() {
    let dir = tempfile::tempdir().unwrap();
    let f = dir.path();
    touch(
        f,
        &[
            "s/p/1.nii.gz",
            "s/p/2.nii.gz",
            "s/3.nii",
            "s/4/a.dcm",
            "s/5.mha",
            "m/p/1/heart.nii.gz",
            "m/x/2_seg/segmentations/lung_upper_lobe_left.nii.gz",
            "m/3/heart.nii",
            "m/3/statistics.json",
            "m/4/heart.nii.gz",
        ],
    );
    let inputs = vec![PathBuf::from("s")];
    let sources = Sources {
        inputs,
        masks: Some(f.join("m")),
        mask_classes: classes(),
        ..Sources::default()
    };
    let found = of(f, sources);
    assert_eq!(
        names(f, &found),
        ["s/3.nii", "s/4", "s/5.mha", "s/p/1.nii.gz", "s/p/2.nii.gz"]
    );
    let masks: Vec<_> = found
        .iter()
        .map(|i| Some(i.mask.as_ref()?.strip_prefix(f).unwrap().to_owned()))
        .collect();
    let expected = [
        Some("m/3"),
        Some("m/4"),
        None,
        Some("m/p/1"),
        Some("m/x/2_seg/segmentations"),
    ];
    assert_eq!(masks, expected.map(|m| m.map(PathBuf::from)));
    assert!(found[2].problem.as_ref().unwrap().contains("no mask"));
    assert_eq!(found[0].mask_classes, classes());
}

#[test]
fn a_data_set_of_totalsegmentator_is_scans_and_masks_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let f = dir.path();
    touch(
        f,
        &[
            "d/s1/ct.nii.gz",
            "d/s1/segmentations/heart.nii.gz",
            "d/s2/ct.nii.gz",
            "d/s2/segmentations/heart.nii.gz",
        ],
    );
    // The same folder in another spelling: a scan is not its own mask.
    let sources = Sources {
        inputs: vec![PathBuf::from("d")],
        masks: Some(f.join("d/../d")),
        mask_classes: classes(),
        ..Sources::default()
    };
    let found = of(f, sources);
    assert_eq!(names(f, &found), ["d/s1/ct.nii.gz", "d/s2/ct.nii.gz"]);
    for (input, case) in found.iter().zip(["s1", "s2"]) {
        let mask = input.mask.as_ref().unwrap();
        let expected = f.join("d/../d").join(case).join("segmentations");
        assert_eq!(*mask, expected);
    }
}

#[test]
fn one_scan_s_classes_may_be_named_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let f = dir.path();
    touch(
        f,
        &["a.nii.gz", "b.nii.gz", "out/heart.nii.gz", "none/x.nii"],
    );
    let sources = |inputs: &[&str], masks: &str| Sources {
        inputs: inputs.iter().map(PathBuf::from).collect(),
        masks: Some(f.join(masks)),
        mask_classes: classes(),
        ..Sources::default()
    };
    let found = of(f, sources(&["a.nii.gz"], "out"));
    assert_eq!(found[0].mask, Some(f.join("out")));
    let found = of(f, sources(&["a.nii.gz", "b.nii.gz"], "out"));
    assert!(found.iter().all(|i| i.problem.is_some()));
    // A table names folders too, those of a case as well as those of its classes.
    touch(f, &["case/segmentations/heart.nii.gz"]);
    let table = "scan,mask\na.nii.gz,case\nb.nii.gz,none\n";
    std::fs::write(f.join("t.csv"), table).unwrap();
    let sources = Sources {
        inputs: vec![PathBuf::from("t.csv")],
        mask_classes: classes(),
        ..Sources::default()
    };
    let found = of(f, sources);
    assert_eq!(found[0].mask, Some(f.join("case/segmentations")));
    let problem = found[1].problem.as_ref().unwrap();
    assert!(problem.contains("named after a class"), "{problem}");
}

#[test]
fn results_masks_and_circles_of_links_below_an_input_are_not_searched() {
    let dir = tempfile::tempdir().unwrap();
    let f = dir.path();
    let files = [
        "d/1.nii",
        "d/masks/1.nii",
        "d/std/prepare.json",
        "d/std/scans/1.uct",
        "d/asked/predict-1-of-2.json",
        "d/asked/masks/1_liver.nii.gz",
        "d/asked/2.nii",
    ];
    touch(f, &files);
    #[cfg(unix)]
    for link in ["d/latest", "d/std/up"] {
        std::os::unix::fs::symlink(f.join("d"), f.join(link)).unwrap();
    }
    let sources = |input: &str, pass_over_results| Sources {
        inputs: vec![f.join(input)],
        masks: Some(f.join("d/masks")),
        allow_missing_masks: true,
        pass_over_results,
        ..Sources::default()
    };
    let found = gather(&sources("d", true)).unwrap();
    assert_eq!(names(f, &found.inputs), ["d/1.nii", "d/asked/2.nii"]);
    assert_eq!(found.inputs[0].mask, Some(f.join("d/masks/1.nii")));
    let left_out = [
        "asked/masks: results",
        "masks: named as",
        "std/scans: results",
    ];
    assert_eq!(found.left_out.len(), left_out.len(), "{:?}", found.left_out);
    for (told, expected) in found.left_out.iter().zip(left_out) {
        assert!(told.contains(expected), "{told}");
    }
    let own = Sources {
        exclude: Some(f.join("d")),
        ..sources("d", true)
    };
    let own = gather(&own).unwrap();
    assert!(own.inputs.is_empty() && own.left_out[0].contains("for results"));
    // What a person names is searched, whatever it is.
    let named = gather(&sources("d/std/scans", true)).unwrap();
    assert_eq!(names(f, &named.inputs), ["d/std/scans/1.uct"]);
    let all = gather(&sources("d", false)).unwrap();
    assert_eq!(
        names(f, &all.inputs),
        [
            "d/1.nii",
            "d/asked/2.nii",
            "d/asked/masks/1_liver.nii.gz",
            "d/std/scans/1.uct"
        ]
    );
}

#[test]
fn a_scan_that_is_named_twice_has_what_both_say() {
    let dir = tempfile::tempdir().unwrap();
    let f = dir.path();
    touch(f, &["s/a.nii", "m/a.nii"]);
    // As an editor writes it: with a mark in front.
    std::fs::write(
        f.join("t.csv"),
        "\u{feff}scan,mask,hu_source\ns/a.nii,m/a.nii,already_hu\n",
    )
    .unwrap();
    std::fs::write(f.join("l.txt"), "\u{feff}s/a.nii\r\n").unwrap();
    let inputs = ["s", "t.csv", "l.txt"].map(PathBuf::from).to_vec();
    let found = of(
        f,
        Sources {
            inputs,
            ..Sources::default()
        },
    );
    assert_eq!(names(f, &found), ["s/a.nii"]);
    assert_eq!(found[0].mask, Some(f.join("m/a.nii")));
    assert_eq!(found[0].hu, HuSource::AlreadyHu);
}

#[test]
fn a_folder_called_by_a_dot_has_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("p1");
    touch(&folder, &["1.dcm"]);
    std::fs::create_dir(folder.join("x")).unwrap();
    assert_eq!(stem(&folder.join("x/..")), "p1");
    assert_eq!(stem(&folder.join(".")), "p1");
}
