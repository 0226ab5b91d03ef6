//! mamba-rs: its language model on the CPU, which is Mamba-1 in f32 on one thread.

use crate::{DType, WARM_UP};
use anyhow::{Result, bail, ensure};
use mamba_rs::module::lm::MambaLM;
use mamba_rs::module::sample::SampleParams;
use std::path::Path;
use std::time::Instant;

/// Seconds for `count` steps. A step ends with a choice of the likeliest token: its API has no other way in.
pub(crate) fn decode(checkpoint: &Path, dtype: DType, count: usize) -> Result<f64> {
    ensure!(dtype == DType::F32, "mamba-rs computes in f32 on a CPU");
    let mut model = match MambaLM::from_hf(checkpoint) {
        Ok(model) => model,
        Err(error) => bail!("mamba-rs: {error}"),
    };
    let params = SampleParams { temperature: 0.0, max_tokens: WARM_UP + count + 1, ..SampleParams::default() };
    // Each call marks the end of the step before it.
    let mut ends = Vec::with_capacity(params.max_tokens);
    model.generate_streaming(&[1], &params, |_, _| ends.push(Instant::now()));
    Ok((ends[WARM_UP + count] - ends[WARM_UP]).as_secs_f64())
}
