//! `sarit eval frames`: the shipped motion classifier on its test set, and files that do not fit.

use super::{data, fails, json, output, str};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn model() -> PathBuf {
    data("../models/motion.sarit")
}

fn test_set() -> PathBuf {
    data("data/motion/test.csv")
}

fn eval(model: &Path, more: &[&str]) -> Value {
    json(&[&["eval", "frames", str(model), str(&test_set()), "--json"], more].concat())
}

/// The figures of models/README.md.
#[test]
fn the_motion_classifier_is_as_good_as_its_card_says() {
    let folder = tempfile::tempdir().unwrap();
    let exact = folder.path().join("f32.sarit");
    output(&["convert", str(&data("golden-frames/motion")), "-o", str(&exact), "--weights", "f32"]);
    for model in [&exact, &model()] {
        let whole = eval(model, &[]);
        assert_eq!((&whole["series"], &whole["frames"]), (&json!(40), &json!(100)));
        assert_eq!(whole["right"], 40);
        assert_eq!(eval(model, &["--first", "20"])["right"], 40);
        let early = eval(model, &["--first", "10"]);
        assert_eq!((&early["right"], &early["accuracy"]), (&json!(27), &json!(67.5)));
        assert_eq!(early["confusion"], json!([[9, 0, 0, 1], [0, 6, 2, 2], [3, 0, 7, 0], [3, 0, 2, 5]]));
    }
}

#[test]
fn the_table_says_what_was_mistaken() {
    let table = output(&["eval", "frames", str(&model()), str(&test_set()), "--first", "10"]);
    assert!(table.contains("Badminton"), "{table}");
    assert!(table.ends_with("27 of 40 series right (67.5 %) after at most 10 frames each\n"), "{table}");
}

/// The motion classifier on a file with these rows after the line of names.
fn fails_on(rows: &[&str], words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    let names = "series,label,time,acc_x,acc_y,acc_z,gyro_x,gyro_y,gyro_z";
    std::fs::write(&path, [&[names], rows].concat().join("\n")).unwrap();
    fails(&["eval", "frames", str(&model()), str(&path), "--time-column", "time"], words);
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let numbers = "1,2,3,4,5,6";
    let row = |key: &str| format!("{key},{numbers}");
    let all = |keys: &[&str], words: &[&str]| {
        let rows: Vec<String> = keys.iter().map(|key| row(key)).collect();
        fails_on(&rows.iter().map(String::as_str).collect::<Vec<_>>(), words);
    };
    all(&[], &["no rows"]);
    all(
        &["a,Walking,0", "a,Swimming,0.1"],
        &["line 3", "\"Swimming\"", "Standing, Running, Walking, Badminton"],
    );
    all(&["a,Walking,0", "a,Running,0.1"], &["line 3", "\"Walking\"", "\"Running\""]);
    all(&["a,Walking,0", "b,Walking,0", "a,Walking,0.1"], &["line 4", "series \"a\""]);
    all(&["a,Walking,0", "a,Walking,0"], &["line 3", "time later"]);
    fails_on(&["a,Walking,0,1,2,3,4,5"], &["line 2", "fields"]);
    fails_on(&[&format!("{}\r{}", row("a,Walking,0"), row("a,Walking,0.1"))], &["line 2", "carriage return"]);
    fails_on(&["a,Walking,0,1e30,1e38,1e38,1,1,1e38"], &["line 2", "not finite"]);
    fails(
        &["eval", "frames", str(&model()), str(&test_set()), "--label-column", "activity"],
        &["\"activity\"", "label"],
    );
    let tokens = data("../models/indic-qa.sarit");
    fails(&["eval", "frames", str(&tokens), str(&test_set())], &["no classifier of frames"]);
}
