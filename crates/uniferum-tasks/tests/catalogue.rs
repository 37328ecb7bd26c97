//! The catalogue against the numbers and lists of the paper.

use std::collections::HashSet;

use uniferum_tasks::{Catalogue, Error, GROUPS, Task, TaskKind, totalsegmentator};

fn labels(catalogue: &Catalogue, group: &str) -> HashSet<String> {
    catalogue
        .group(group)
        .iter()
        .map(|t| t.label.clone())
        .collect()
}

#[test]
fn groups_have_the_sizes_of_the_paper() {
    let catalogue = Catalogue::standard();
    let expected = [
        ("ct-rate", 18),
        ("rad-chest", 39),
        ("rad-chest-shared", 7),
        ("rad-chest-unique", 32),
        ("inspect", 20),
        ("inspect-shared", 12),
        ("inspect-unique", 8),
        ("anatomy", 60),
        ("nodule", 1),
        ("phantom", 10),
        ("ct-rate-shared", 18),
        ("ct-rate-unique", 0),
        ("elsewhere", 0),
    ];
    for (group, count) in expected {
        assert_eq!(catalogue.group(group).len(), count, "{group}");
    }
    assert_eq!(catalogue.groups(), GROUPS);
    assert_eq!(catalogue.tasks().len(), 18 + 39 + 20 + 60 + 1 + 10);
}

#[test]
fn ids_are_unique_slugs() {
    let catalogue = Catalogue::standard();
    let mut seen = HashSet::new();
    for task in &catalogue {
        assert!(seen.insert(&task.id), "{} twice", task.id);
        assert_eq!(catalogue.get(&task.id), Some(task));
        let (group, tail) = task.id.split_once('.').expect("group.name");
        assert_eq!(group, task.group);
        assert_eq!(uniferum_tasks::slug(tail), tail);
    }
    for group in GROUPS {
        let tasks = catalogue.group(group);
        let distinct: HashSet<_> = tasks.iter().map(|t| &t.label).collect();
        assert_eq!(distinct.len(), tasks.len(), "labels of {group}");
        let prompts: HashSet<_> = tasks.iter().map(|t| &t.prompt).collect();
        assert_eq!(prompts.len(), tasks.len(), "prompts of {group}");
    }
}

#[test]
fn prompts_follow_the_templates() {
    let catalogue = Catalogue::standard();
    let prompt = |id: &str| {
        catalogue
            .get(id)
            .unwrap_or_else(|| panic!("{id}"))
            .prompt
            .clone()
    };
    let effusion = "Diagnose the presence of pleural effusion around the lungs";
    assert_eq!(prompt("ct-rate.pleural-effusion"), effusion);
    assert_eq!(prompt("inspect.pleural-effusion"), effusion);
    assert_eq!(
        prompt("inspect.mortality-6m"),
        "Predict the risk of mortality in 6 months"
    );
    assert_eq!(
        prompt("inspect.mortality-1m"),
        "Predict the risk of mortality in 1 month"
    );
    assert_eq!(prompt("anatomy.lungs"), "Segment the lungs in the image.");
    assert_eq!(
        prompt("anatomy.left-rib-4"),
        "Segment left rib 4 in the image."
    );
    assert_eq!(
        prompt("nodule.pulmonary-nodules"),
        "Segment pulmonary nodules in the image."
    );
    for task in &catalogue {
        let start = match task.kind {
            TaskKind::Diagnosis => "Diagnose the presence of ",
            TaskKind::Prognosis => "Predict the risk of ",
            TaskKind::Segmentation => "Segment ",
        };
        assert!(task.prompt.starts_with(start), "{}", task.prompt);
        assert_eq!(
            task.organ.is_some(),
            task.kind == TaskKind::Diagnosis,
            "{}",
            task.id
        );
        assert_eq!(
            task.months.is_some(),
            task.kind == TaskKind::Prognosis,
            "{}",
            task.id
        );
        assert!(
            task.prompt.is_ascii() && !task.prompt.contains('_'),
            "{}",
            task.prompt
        );
    }
}

#[test]
fn equal_findings_have_equal_prompts() {
    let catalogue = Catalogue::standard();
    for task in &catalogue {
        for other in catalogue.same_finding(task) {
            assert_eq!(task.prompt, other.prompt, "{} and {}", task.id, other.id);
            assert_ne!(task.group, other.group);
        }
    }
}

#[test]
fn shared_labels_are_those_of_the_supplement() {
    let catalogue = Catalogue::standard();
    let rad: HashSet<String> = [
        "atelectasis",
        "bronchiectasis",
        "cardiomegaly",
        "consolidation",
        "emphysema",
        "pericardial_effusion",
        "pleural_effusion",
    ]
    .map(String::from)
    .into();
    assert_eq!(labels(&catalogue, "rad-chest-shared"), rad);
    let inspect_unique: HashSet<String> = [
        "pe_positive_nlp",
        "1_month_mortality",
        "6_month_mortality",
        "12_month_mortality",
        "1_month_readmission",
        "6_month_readmission",
        "12_month_readmission",
        "12_month_PH",
    ]
    .map(String::from)
    .into();
    assert_eq!(labels(&catalogue, "inspect-unique"), inspect_unique);
    let ct_rate = labels(&catalogue, "ct-rate");
    assert!(labels(&catalogue, "inspect-shared").is_subset(&ct_rate));
}

#[test]
fn anatomy_has_the_right_numbers() {
    let catalogue = Catalogue::standard();
    let ids = |id: &str| {
        catalogue
            .get(id)
            .unwrap_or_else(|| panic!("{id}"))
            .mask_labels
            .clone()
    };
    assert_eq!(ids("anatomy.left-lung"), [10, 11]);
    assert_eq!(ids("anatomy.right-lung"), [12, 13, 14]);
    assert_eq!(ids("anatomy.left-ribs").len(), 12);
    assert_eq!(ids("anatomy.thoracic-vertebra-1"), [43]);
    assert_eq!(ids("anatomy.thoracic-vertebra-12"), [32]);
    let tasks = catalogue.group("anatomy");
    let singles: Vec<_> = tasks.iter().filter(|t| t.mask_labels.len() == 1).collect();
    assert_eq!(singles.len(), 53);
    let distinct: HashSet<u16> = singles.iter().map(|t| t.mask_labels[0]).collect();
    assert_eq!(distinct.len(), 53);
    for task in singles {
        assert_eq!(
            totalsegmentator::name(task.mask_labels[0]),
            Some(task.label.as_str())
        );
    }
}

#[test]
fn release_numbers_differ_exactly_where_the_release_is_wrong() {
    let catalogue = Catalogue::standard();
    let differing: Vec<&str> = catalogue
        .group("anatomy")
        .into_iter()
        .filter(|t| t.release_tag.is_some() && t.release_labels != t.mask_labels)
        .map(|t| t.id.as_str())
        .collect();
    assert_eq!(
        differing,
        [
            "anatomy.left-ribs",
            "anatomy.left-lung",
            "anatomy.right-lung"
        ]
    );
    let tagged = catalogue
        .group("anatomy")
        .iter()
        .filter(|t| t.release_tag.is_some())
        .count();
    assert_eq!(tagged, 24);
}

#[test]
fn release_questions_find_their_task() {
    let catalogue = Catalogue::standard();
    let id = |q: &str| catalogue.from_release_question(q).unwrap().id;
    assert_eq!(id("Segment:rib cartilage"), "anatomy.costal-cartilages");
    assert_eq!(id("Segment:Nodule"), "nodule.pulmonary-nodules");
    let free = catalogue.from_release_question("Diagnose the presence of asthma in the lungs");
    assert_eq!(free.unwrap().kind, TaskKind::Diagnosis);
    let error = catalogue
        .from_release_question("Segment:spleen")
        .unwrap_err();
    assert!(matches!(error, Error::UnknownTask { .. }));
}

#[test]
fn what_people_type_resolves_or_helps() {
    let catalogue = Catalogue::standard();
    assert_eq!(
        catalogue.resolve("ct-rate.emphysema").unwrap().id,
        "ct-rate.emphysema"
    );
    let prompt = "Diagnose the presence of hemothorax around the lungs";
    assert_eq!(
        catalogue.resolve(prompt).unwrap().id,
        "rad-chest.hemothorax"
    );
    assert_eq!(
        catalogue.resolve("Is it a boy?").unwrap().kind,
        TaskKind::Diagnosis
    );
    let message = catalogue.resolve("ct-rate").unwrap_err().to_string();
    assert!(message.contains("a group of 18 tasks"), "{message}");
    let mut own = catalogue.clone();
    let blind = Task::segmentation("mine", "spleen", "spleen", Vec::new());
    let message = own.add(blind).unwrap_err().to_string();
    assert!(message.contains("mask_labels"), "{message}");
    let message = catalogue.resolve("emphysema").unwrap_err().to_string();
    assert_eq!(
        message,
        "unknown task `emphysema` (did you mean `ct-rate.emphysema`?)"
    );
    let message = catalogue.resolve("ct-rate.pleural-efusion").unwrap_err();
    let message = message.to_string();
    assert!(
        message.contains("mean `ct-rate.pleural-effusion`?"),
        "{message}"
    );
    assert!(catalogue.resolve("  ").is_err());
    assert!(
        catalogue
            .require_group("ct-rat")
            .unwrap_err()
            .to_string()
            .contains("ct-rate, rad")
    );
}

#[test]
fn every_task_explains_itself() {
    let catalogue = Catalogue::standard();
    for task in &catalogue {
        let text = catalogue.explain(task);
        assert!(text.contains(&task.prompt) && text.contains(&task.id));
        assert!(text.lines().count() >= 4);
    }
    let near = catalogue.explain(catalogue.get("ct-rate.medical-material").unwrap());
    for id in near
        .lines()
        .filter_map(|l| l.trim().strip_prefix("near to   "))
    {
        let id = id.split(':').next().unwrap();
        assert!(catalogue.get(id).is_some(), "{id}");
    }
    assert_eq!(near.matches("near to").count(), 3);
}
