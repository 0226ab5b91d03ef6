//! Decodes tokens on one thread, for counting instructions: `decode MODEL ISA TOKENS`. Prints the last token and the
//! hash of the state, which are the same for every instruction set.

use sarit_core::{Engine, Model, Scratch, State, argmax};
use sarit_cpu::{AlignedBytes, Cpu, Isa, Mapped};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, isa, tokens] = &args[..] else { return Err("usage: decode MODEL ISA TOKENS".into()) };
    let (isa, tokens): (Isa, usize) = (isa.parse()?, tokens.parse()?);
    let cpu = Cpu::with_isa(isa, 1).ok_or("this CPU lacks the instruction set")?;
    let file = Mapped::open(model.as_ref())?;
    let model = Model::from_bytes(file.bytes())?;
    let need = model.memory(1).ok_or("the model is too large")?;
    let mut state = AlignedBytes::zeroed(need.state_bytes)?;
    let mut scratch = AlignedBytes::zeroed(need.scratch_bytes)?;
    let mut state = State::init(&model, &mut state)?;
    let mut scratch = Scratch::new(&model, &mut scratch, 1)?;
    let engine = Engine::new(model, cpu);
    let mut token = 1;
    for _ in 0..tokens {
        token = argmax(engine.step(&mut state, &mut scratch, token)?);
    }
    println!("token {token}, state {:016x}", state.hash());
    Ok(())
}
