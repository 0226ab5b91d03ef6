//! What the README says is true.

use super::output;

const README: &str = include_str!("../../../README.md");

/// The words of a shell command; quotes hold words together.
fn words(command: &str) -> Vec<String> {
    let parts = command.split('"').enumerate();
    let words = parts.flat_map(|(i, part)| match i % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

#[test]
fn the_first_command_answers_as_stated() {
    let (_, rest) = README.split_once("cargo run --release -q -- ").unwrap();
    let (command, rest) = rest.split_once('\n').unwrap();
    let (_, rest) = rest.split_once("prints `").unwrap();
    let (answer, _) = rest.split_once('`').unwrap();
    assert_eq!(output(&words(command)), format!("{answer}\n"));
}

#[test]
fn the_examples_answer_as_stated() {
    let examples: Vec<_> = README.lines().filter(|line| line.starts_with("sarit ask --context \"")).collect();
    assert!(examples.len() >= 3);
    for example in examples {
        let (command, answer) = example.split_once("    # ").unwrap();
        assert_eq!(output(&words(command)[1..]), format!("{answer}\n"));
    }
}

#[test]
fn the_table_of_models_names_every_family() {
    let (_, table) = README.split_once("## Models").unwrap();
    let rows = table.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let named = rows.take_while(|line| line.starts_with('|')).map(|line| line.split('`').nth(1).unwrap());
    assert_eq!(named.collect::<Vec<_>>(), sarit_quant::FAMILIES);
}
