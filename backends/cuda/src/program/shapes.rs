//! The kernels of one model: a case for each shape of operation, with all numbers but places as constants.
//!
//! A model has few shapes, as its layers are alike: the compiler then knows every length and every branch of the code
//! that runs. Places stay numbers of the operation, so that models of one architecture share their kernels.

use super::records::{
    AttendOf, Choose, Combine, Convolve, Embed, Experts, Kind, NONE, Op, Prepare, Product, Route, ScanOf, Times, Words,
};
use std::fmt::Write;

/// How the kernels call an operation.
struct Call {
    function: &'static str,
    /// What asks for its early loads, and where they go.
    ask: Option<(&'static str, &'static str)>,
    record: &'static str,
    differ: fn(&mut Vec<bool>),
}

impl Call {
    fn of<R: Words>(function: &'static str, record: &'static str) -> Self {
        Self { function, ask: None, record, differ: R::differ }
    }

    fn of_kind(kind: u16) -> Self {
        const KINDS: [fn() -> Call; Kind::Histogram as usize + 1] = [
            || Call::of::<Embed>("op_embed", "Embed"),
            || Call::of::<Prepare>("op_prepare", "Prepare"),
            || Call { ask: Some(("ask_product", "early.product")), ..Call::of::<Product>("op_product<MANY>", "Product") },
            || Call::of::<Convolve>("op_convolve", "Convolve"),
            || Call::of::<Convolve>("op_window<MANY>", "Convolve"),
            || Call::of::<Times>("op_times", "Times"),
            || Call { ask: Some(("ask_scan", "early.scan")), ..Call::of::<ScanOf>("op_scan<MANY>", "Scan") },
            || Call::of::<ScanOf>("op_hold", "Scan"),
            || Call::of::<AttendOf>("op_rotate", "Attend"),
            || Call::of::<AttendOf>("op_attend", "Attend"),
            || Call::of::<AttendOf>("op_ring", "Attend"),
            || Call::of::<Route>("op_route", "Route"),
            || Call::of::<Experts>("op_experts", "Experts"),
            || Call::of::<Combine>("op_combine", "Combine"),
            || Call::of::<Choose>("op_argmax", "Choose"),
            || Call::of::<Choose>("op_choose", "Choose"),
            || Call::of::<Choose>("op_histogram", "Choose"),
        ];
        KINDS[usize::from(kind).min(KINDS.len() - 1)]()
    }
}

/// Operations alike but for places.
#[derive(PartialEq)]
struct Shape {
    kind: u16,
    /// With many rows it depends on their number.
    first: Option<u32>,
    /// The record's words, where they are constants.
    words: Vec<Option<u32>>,
}

impl Shape {
    fn of(op: &Op, many: bool) -> Self {
        let mut differ = Vec::new();
        (Call::of_kind(op.kind).differ)(&mut differ);
        let words = op.payload.iter().zip(differ);
        let words = words.map(|(&word, differs)| (!differs || word == NONE).then_some(word)).collect();
        Self { kind: op.kind, first: (!many).then_some(op.first), words }
    }

    /// The arguments that all operations take.
    fn arguments(&self) -> String {
        let word = |(i, word): (usize, &Option<u32>)| word.map_or(format!("place(op.payload[{i}])"), |w| format!("{w}u"));
        let words: Vec<String> = self.words.iter().enumerate().map(word).collect();
        let first = self.first.map_or("op.first".to_owned(), |first| format!("{first}u"));
        format!("run, {first}, record<{}>({{{}}})", Call::of_kind(self.kind).record, words.join(", "))
    }

    fn run(&self) -> String {
        let call = Call::of_kind(self.kind);
        let last = match self.kind.checked_sub(Kind::Histogram as u16) {
            Some(byte) => format!(", {byte}"),
            None => call.ask.map_or(String::new(), |(_, early)| format!(", {early}")),
        };
        format!("{}({}{last})", call.function, self.arguments())
    }

    fn ask(&self) -> Option<String> {
        let (function, early) = Call::of_kind(self.kind).ask?;
        Some(format!("{function}({}, {early})", self.arguments()))
    }
}

/// Numbers the shapes of `ops`, from 0 on.
fn number(ops: &mut [Op], many: bool) -> Vec<Shape> {
    let mut shapes: Vec<Shape> = Vec::new();
    for op in ops {
        let own = Shape::of(op, many);
        let found = shapes.iter().position(|shape| *shape == own);
        op.shape = found.unwrap_or_else(|| {
            shapes.push(own);
            shapes.len() - 1
        }) as u16;
    }
    shapes
}

fn switch(calls: impl Iterator<Item = Option<String>>, text: &mut String) {
    text.push_str("switch (op.shape) {\n");
    for (number, call) in calls.enumerate() {
        if let Some(call) = call {
            writeln!(text, "        case {number}: {call}; break;").expect("a string takes all");
        }
    }
    text.push_str("    }\n");
}

/// `dispatch.cuh` of the kernels for one row and for many, whose operations get the numbers of their cases.
pub(super) fn dispatch(one: &mut [Op], many: &mut [Op]) -> String {
    let [one, many] = [number(one, false), number(many, true)];
    let mut text = String::from(
        "#pragma once\n#include \"operations.cuh\"\n\ntemplate <bool MANY>\n\
         __device__ INLINE void run_op(Run run, const Op& op, Early& early) {\n    if constexpr (MANY) ",
    );
    switch(many.iter().map(|shape| Some(shape.run())), &mut text);
    text.push_str("    else ");
    switch(one.iter().map(|shape| Some(shape.run())), &mut text);
    text.push_str("}\n\n__device__ INLINE Early ask(Run run, const Op& op) {\n    Early early;\n    ");
    switch(one.iter().map(Shape::ask), &mut text);
    text.push_str("    return early;\n}\n");
    text
}
