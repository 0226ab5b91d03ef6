//! The kernels of one model: a case for each shape of operation, with all numbers but places as constants.
//!
//! A model has few shapes, as its layers are alike: the compiler then knows every length and every branch of the code
//! that runs. Places stay numbers of the operation, so that models of one architecture share their kernels.

use super::records::{
    AttendOf, Choose, Combine, Convolve, Elements, Embed, Experts, Kind, Multiply, NONE, Op, Prepare,
    Product, Route, ScanOf, Times, Widen, Words,
};
use super::{Program, Programs};
use std::fmt::Write;

/// How the kernels call an operation.
struct Call {
    function: &'static str,
    /// It waits for the operations before it by itself, when it has asked for what they do not make.
    waits: bool,
    record: &'static str,
    differ: fn(&mut Vec<bool>),
}

impl Call {
    fn of<R: Words>(function: &'static str, record: &'static str) -> Self {
        Self { function, waits: false, record, differ: R::differ }
    }

    fn of_kind(kind: u16) -> Self {
        const KINDS: [fn() -> Call; Kind::Histogram as usize + 1] = [
            || Call::of::<Embed>("op_embed", "Embed"),
            || Call::of::<Prepare>("op_prepare", "Prepare"),
            || Call { waits: true, ..Call::of::<Product>("op_product<MANY>", "Product") },
            || Call::of::<Widen>("op_widen", "Widen"),
            || Call::of::<Multiply>("op_multiply", "Multiply"),
            || Call::of::<Convolve>("op_convolve", "Convolve"),
            || Call::of::<Convolve>("op_window<MANY>", "Convolve"),
            || Call::of::<Times>("op_times", "Times"),
            || Call::of::<ScanOf>("op_weigh", "Scan"),
            || Call { waits: true, ..Call::of::<ScanOf>("op_step", "Scan") },
            || Call { waits: true, ..Call::of::<Elements>("op_elements", "Elements") },
            || Call { waits: true, ..Call::of::<ScanOf>("op_scan<MANY>", "Scan") },
            || Call::of::<ScanOf>("op_parts", "Scan"),
            || Call::of::<ScanOf>("op_chunks", "Scan"),
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
    wait: u16,
    /// Of many rows.
    waits: Option<bool>,
    /// Of one row: of many it depends on their number.
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
        Self {
            kind: op.kind,
            wait: op.wait,
            waits: many.then_some(op.waits != 0),
            first: (!many).then_some(op.first),
            words,
        }
    }

    /// The statements that run such an operation.
    fn run(&self) -> String {
        let call = Call::of_kind(self.kind);
        let word = |(i, word): (usize, &Option<u32>)| {
            word.map_or_else(|| format!("place(op.payload[{i}])"), |word| format!("{word}u"))
        };
        let words: Vec<String> = self.words.iter().enumerate().map(word).collect();
        let first = self.first.map_or("op.first".to_owned(), |first| format!("{first}u"));
        // Of one row the device finds out: what is asked for before a wait stays before it.
        let waits = self.waits.map_or("op.waits".to_owned(), |waits| waits.to_string());
        let last = match self.kind.checked_sub(Kind::Histogram as u16) {
            Some(byte) => format!(", {byte}"),
            None if call.waits => format!(", walk.wait<MANY>({waits})"),
            None => String::new(),
        };
        let before = if call.waits || self.waits == Some(false) {
            String::new()
        } else {
            format!("walk.wait<MANY>({waits})(); ")
        };
        let (function, record, words) = (call.function, call.record, words.join(", "));
        format!("{before}{function}(walk.run(), {first}, record<{record}>({{{words}}}){last})")
    }
}

/// Numbers the shapes of operations, from 0 on.
fn number<'a>(ops: impl Iterator<Item = &'a mut Op>, many: bool) -> Vec<Shape> {
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

/// A case for each shape of the `programs`' operations, which get the numbers of their cases. A shape that is always followed by the one
/// of the next number runs on into its case; of many rows one that ends a layer goes back to where most layers begin.
fn switch(programs: &mut [&mut Program], many: bool, text: &mut String) {
    let shapes = number(programs.iter_mut().flat_map(|program| &mut program.ops), many);
    for program in programs.iter_mut() {
        for i in 1..program.body {
            program.ops[i - 1].next = program.ops[i].shape.into();
        }
    }
    // Of a shape's operations the next ones' shapes.
    let nexts = |number: usize| -> Vec<_> {
        let ops = programs.iter().flat_map(|program| &program.ops);
        ops.filter(|op| usize::from(op.shape) == number).map(|op| op.next).collect()
    };
    // Of one row that would let the compiler keep registers through all layers.
    let back = |number: usize| nexts(number).into_iter().find(|&next| many && next as usize <= number);
    let targets: Vec<_> = (0..shapes.len()).filter_map(back).collect();
    writeln!(
        text,
        "\ntemplate <>\n__device__ INLINE void run_ops<{many}>(Walk& walk) {{\n    constexpr bool MANY = {many};\n    \
         switch (walk.op().shape) {{"
    )
    .expect("a string takes all");
    for (number, shape) in shapes.iter().enumerate() {
        let (run, wait) = (shape.run(), shape.wait);
        let next = if nexts(number).iter().all(|&next| next as usize == number + 1) {
            format!("walk.pass<MANY>({wait}u); [[fallthrough]];")
        } else if let Some(back) = back(number) {
            format!("if (walk.op().next == {back}u) {{ walk.pass<MANY>({wait}u); goto op_{back}; }} break;")
        } else {
            "break;".to_owned()
        };
        let label = if targets.contains(&(number as u32)) { format!(" op_{number}:") } else { String::new() };
        writeln!(text, "        case {number}:{label} {{ const Op& op = walk.op(); {run}; }} {next}")
            .expect("a string takes all");
    }
    text.push_str("    }\n}\n");
}

/// `dispatch.cuh` of the kernels for one row and for many.
pub(super) fn dispatch(programs: &mut Programs) -> String {
    let Programs { one, steps, many, halves, ring, .. } = programs;
    let mut of_many: Vec<_> = steps.iter_mut().chain([many]).chain(halves).collect();
    let feeds = if ring.slots() > 0 { "#define SARIT_FEEDS\n" } else { "" };
    let mut text = format!(
        "#pragma once\n{feeds}#include \"operations.cuh\"\n\ntemplate <bool MANY>\n\
         __device__ INLINE void run_ops(Walk& walk);\n"
    );
    switch(&mut of_many, true, &mut text);
    switch(&mut [one], false, &mut text);
    text
}
