//! The operations of each kind of block, state spaces apart (`ssm`); `sarit-core`'s `engine` has the same steps.

use super::builder::{Builder, Forms, Map, Order, ROW_MOST, THREADS, map};
use super::layout::Buffer;
use super::records::{
    AttendOf, Combine, ConvOf, Convolve, Experts, Kind, Mat, NONE, Route, Source, Target, Vector, source,
    target,
};
use super::ssm::{Posting, SCAN_CHANNELS};
use crate::error::CudaError;
use sarit_core::plan::{
    Activation, Attention, BLOCK_PARTS, BlockInput, BlockOutput, Join, LinearBlock, Mlp, Moe, Routing,
    ShortConv,
};
use sarit_core::{ALIGN, Block, StateDType, StatePart};

/// Activation that changes nothing.
const LINEAR: u32 = 5;

fn activation(activation: Activation) -> u32 {
    match activation {
        Activation::Silu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Relu2 => 3,
        Activation::Relu => 4,
    }
}

/// Taps of a convolution that the kernels load together.
pub(super) const CONV_TAPS: usize = 4;

impl<'m> Builder<'m> {
    /// A block whose state begins at float `state` and whose normed input has `input_len` elements; `shares` says whether
    /// the block after it reads the same input, `next_takes_posted` whether what comes after it takes a posted residual.
    pub(super) fn block(
        &mut self,
        block: &Block<'m>,
        state: usize,
        input_len: usize,
        shares: bool,
        next_takes_posted: bool,
    ) -> Result<(), CudaError> {
        let mut parts = [0; BLOCK_PARTS];
        let mut place = state;
        for (part, StatePart { len, .. }) in parts.iter_mut().zip(block.state_parts(StateDType::F32)) {
            *part = u32::try_from(place).map_err(|_| CudaError::TooLarge)?;
            place += len.next_multiple_of(ALIGN / 4);
        }
        let posts = self.takes_posted(block, shares);
        let input = self.input(block.join(), input_len, shares)?;
        let output = self.output(block.join());
        match block {
            Block::Ssm(p) => {
                let posting = Posting { within: posts, residual: posts && next_takes_posted };
                self.ssm(p, &input, output, parts, posting)
            }
            Block::Attention(p) => self.attention(p, &input, output, parts),
            Block::Mlp(p) => self.mlp(p, &input, output),
            Block::Moe(p) => self.moe(p, &input, output),
            Block::ShortConv(p) => self.short_conv(p, &input, output, parts[0]),
            Block::Linear(p) => self.linear_block(p, &input, output),
        }
    }

    fn branch(&mut self) -> Vector {
        self.buffer(Buffer::Branch, self.model.d_model())
    }

    /// A block's normed input.
    fn input(&mut self, join: &Join<'m>, len: usize, shares: bool) -> Result<Source, CudaError> {
        let residual = self.residual();
        let plain = Source::plain(residual, len);
        let source = match join.input {
            BlockInput::Same => return Ok(Source::plain(self.buffer(Buffer::Hidden, len), len)),
            BlockInput::Residual => plain,
            BlockInput::Branch => Source::plain(self.branch(), len),
            BlockInput::ResidualPlusBranch => {
                let b = self.branch();
                Source { kind: source::SUM, b, ..plain }
            }
            BlockInput::ResidualAndEmbedding => {
                let d_model = self.model.d_model();
                let b = self.buffer(Buffer::Embedded, d_model);
                Source { kind: source::CONCAT, b, split: d_model as u32, ..plain }
            }
        };
        let source = Source { norm: self.norm(&join.norm, 1), ..source };
        if !shares {
            return Ok(source);
        }
        let hidden = self.buffer(Buffer::Hidden, len);
        self.floats(&source, hidden)?;
        Ok(Source::plain(hidden, len))
    }

    /// Where a block's output goes.
    fn output(&mut self, join: &Join<'m>) -> Target {
        let (kind, y) = match join.output {
            BlockOutput::Residual => (target::ADD, self.buffer(Buffer::Residual, self.model.d_model())),
            BlockOutput::Replace => (target::SET, self.buffer(Buffer::Residual, self.model.d_model())),
            BlockOutput::Branch => (target::SET, self.branch()),
        };
        Target { kind, scale: join.scale, before: y, ..Target::store(y) }
    }

    /// Whether a block posts what passes between its operations, and takes a posted residual; `shares` as in
    /// [`block`](Self::block).
    pub(super) fn takes_posted(&self, block: &Block<'m>, shares: bool) -> bool {
        let Block::Ssm(p) = block else { return false };
        let joins =
            (block.join().input, block.join().output) == (BlockInput::Residual, BlockOutput::Residual);
        let has_adapter = p.in_proj.adapter.is_some() || p.out_proj.adapter.is_some();
        self.one && joins && !shares && !has_adapter && self.model.d_model().max(p.d_inner()) <= ROW_MOST
    }

    /// Units of an operation that has a thread for each of `len` elements of each row.
    pub(super) fn thread_units(&self, len: usize) -> usize {
        (self.extent.rows * len).div_ceil(THREADS)
    }

    /// The rows of `conv` as floats in `y`, and where there is a token of each sequence the windows after it, if they are short.
    pub(super) fn convolution(&self, conv: ConvOf, y: Vector) -> Convolve {
        let shifts = ((self.one || self.steps) && conv.width as usize <= CONV_TAPS).into();
        Convolve { conv, y, halves: Vector::NONE, shifts }
    }

    /// The windows after that, if they have not been made; only the next step reads them.
    pub(super) fn window(&mut self, record: &Convolve) {
        if record.shifts == 0 {
            self.op(Kind::Window, (record.conv.channels as usize).div_ceil(THREADS), record);
            self.no_barrier();
        }
    }

    fn attention(
        &mut self,
        p: &Attention<'m>,
        input: &Source,
        output: Target,
        [window, keys, values, _]: [u32; BLOCK_PARTS],
    ) -> Result<(), CudaError> {
        let (q_len, kv_len, qkv_len) = (p.q_len(), p.kv_len(), p.qkv_len());
        let rows = self.extent.rows;
        let proj = self.buffer(Buffer::Proj, qkv_len);
        let [q, k, v] = [(&p.q, 0), (&p.k, q_len), (&p.v, q_len + kv_len)]
            .map(|(linear, start)| map(self, linear, Target::store(proj.columns(start))));
        self.products(input, &[q, k, v])?;
        let mut qkv = proj;
        let mut convolve = None;
        if p.conv_width > 1 {
            qkv = self.buffer(Buffer::Conv, qkv_len);
            let conv = ConvOf {
                x: proj,
                factor: Vector::NONE,
                window,
                weight: self.place(p.conv_weight),
                bias: self.optional(p.conv_bias),
                width: p.conv_width as u32,
                channels: qkv_len as u32,
                silu: 0,
            };
            let record = self.convolution(conv, qkv);
            self.op(Kind::Convolve, self.thread_units(qkv_len), &record);
            convolve = Some(record);
        }
        let (rotary_dims, turns) = match &p.rope {
            None => (0, NONE),
            Some(rope) => {
                // 8-byte numbers, so on an even word.
                self.tables.resize(self.tables.len().next_multiple_of(2), 0);
                let start = self.tables.len() as u32;
                for i in 0..rope.dims / 2 {
                    let step = rope.step(i);
                    self.tables.extend([step as u32, (step >> 32) as u32]);
                }
                (rope.dims as u32, start)
            }
        };
        let y = self.buffer(Buffer::Inner, q_len);
        let attend = AttendOf {
            heads: p.heads as u32,
            kv_heads: p.kv_heads as u32,
            head_dim: p.head_dim as u32,
            window: p.window as u32,
            keys,
            values,
            scores: self.buffer(Buffer::Scores, p.window).start,
            scale: p.scale,
            qkv,
            y,
            q_norm: self.norm(&p.q_norm, 1),
            k_norm: self.norm(&p.k_norm, 1),
            rotary_dims,
            turns,
        };
        if rotary_dims > 0 || [attend.q_norm, attend.k_norm].iter().any(|norm| norm.kind != 0) {
            self.op(Kind::Rotate, (rows * (p.heads + p.kv_heads)).div_ceil(SCAN_CHANNELS), &attend);
        }
        self.op(Kind::Attend, rows * p.heads, &attend);
        if let Some(record) = convolve {
            self.window(&record);
        }
        // What only the next step reads.
        self.op(Kind::Ring, self.thread_units(kv_len), &attend);
        self.no_barrier();
        let to = map(self, &p.o, output);
        self.products(&Source::plain(y, q_len), &[to])
    }

    fn mlp(&mut self, p: &Mlp<'m>, input: &Source, output: Target) -> Result<(), CudaError> {
        let d_ff = p.up.matrix.rows();
        let inner = self.buffer(Buffer::Inner, d_ff);
        let mut hidden = Source {
            kind: source::ACTIVATE,
            activation: activation(p.activation),
            ..Source::plain(inner, d_ff)
        };
        let up = map(self, &p.up, Target::store(inner));
        if let Some(gate) = &p.gate {
            hidden.b = self.buffer(Buffer::Proj, d_ff);
            let gate = map(self, gate, Target::store(hidden.b));
            self.products(input, &[up, gate])?;
        } else {
            self.products(input, &[up])?;
        }
        let down = map(self, &p.down, output);
        self.products(&hidden, &[down])
    }

    fn short_conv(
        &mut self,
        p: &ShortConv<'m>,
        input: &Source,
        output: Target,
        window: u32,
    ) -> Result<(), CudaError> {
        let channels = p.channels;
        let proj = self.buffer(Buffer::Proj, 3 * channels);
        let to = map(self, &p.in_proj, Target::store(proj));
        self.products(input, &[to])?;
        let conv = ConvOf {
            x: proj.columns(2 * channels),
            factor: proj,
            window,
            weight: self.place(p.conv_weight),
            bias: self.optional(p.conv_bias),
            width: p.conv_width as u32,
            channels: channels as u32,
            silu: 0,
        };
        let y = self.buffer(Buffer::Inner, channels);
        let record = self.convolution(conv, y);
        self.op(Kind::Convolve, self.thread_units(channels), &record);
        self.window(&record);
        let gated = Source {
            kind: source::ACTIVATE,
            activation: LINEAR,
            b: proj.columns(channels),
            ..Source::plain(y, channels)
        };
        let to = map(self, &p.out_proj, output);
        self.products(&gated, &[to])
    }

    fn linear_block(&mut self, p: &LinearBlock<'m>, input: &Source, output: Target) -> Result<(), CudaError> {
        let to = map(self, &p.linear, output);
        self.products(input, &[to])
    }

    fn moe(&mut self, p: &Moe<'m>, input: &Source, output: Target) -> Result<(), CudaError> {
        let (rows, width, d_ff, chosen) = (self.extent.rows, p.width, p.d_ff, p.chosen);
        let logits = self.buffer(Buffer::Router, p.experts);
        let router = Map { matrix: &p.router, adapter: None, to: Target::store(logits) };
        let mut v = *input;
        if let Some((latent_in, _)) = &p.latent {
            let select = self.buffer(Buffer::Select, width);
            let latent_in = map(self, latent_in, Target::store(select));
            self.products(input, &[router, latent_in])?;
            v = Source::plain(select, width);
        } else {
            self.products(input, &[router])?;
        }
        let (ids, weights) =
            (self.buffer(Buffer::ExpertIds, chosen), self.buffer(Buffer::ExpertWeights, chosen));
        let route = Route {
            logits,
            ids,
            weights,
            experts: p.experts as u32,
            chosen: chosen as u32,
            groups: p.groups as u32,
            chosen_groups: p.chosen_groups as u32,
            routing: match p.routing {
                Routing::SoftmaxOfChosen => 0,
                Routing::SoftmaxOfAll => 1,
                Routing::Sigmoid => 2,
                Routing::SigmoidNormalized => 3,
            },
            correction: self.optional(p.correction),
            weight_scale: p.weight_scale,
        };
        self.shared(3 * p.experts + p.groups, 0)?;
        self.op(Kind::Route, rows, &route);
        self.no_barrier();

        let experts: Vec<_> = (0..p.experts).map(|e| self.model.expert(p, e)).collect();
        let forms = |down: bool| {
            let of = |e: &sarit_core::plan::Expert<'m>| {
                if down { vec![e.down] } else { e.gate.into_iter().chain([e.up]).collect() }
            };
            let any =
                |quantized| experts.iter().flat_map(of).any(|matrix| matrix.is_quantized() == quantized);
            Forms { codes: any(true).then_some(Order::Natural), floats: any(false) }
        };
        let codes = self.expert_input(&v, 1, forms(false))?;
        let inner = Vector { stride: d_ff as u32, ..self.buffer(Buffer::Inner, chosen * d_ff) };
        let up: Vec<_> = experts.iter().map(|e| e.up).collect();
        let first =
            Experts { table: 0, chosen: chosen as u32, shared: 1, rows: d_ff as u32, ids, y: inner, codes };
        self.experts(&up, first);
        let mut hidden = Source {
            kind: source::ACTIVATE,
            activation: activation(p.activation),
            ..Source::plain(inner, d_ff)
        };
        let gates: Vec<_> = experts.iter().filter_map(|e| e.gate).collect();
        if !gates.is_empty() {
            hidden.b = Vector { stride: d_ff as u32, ..self.buffer(Buffer::Proj, chosen * d_ff) };
            self.no_barrier();
            self.experts(&gates, Experts { y: hidden.b, ..first });
        }
        let codes = self.expert_input(&hidden, chosen, forms(true))?;
        let parts = Vector { stride: width as u32, ..self.buffer(Buffer::Parts, chosen * width) };
        let down: Vec<_> = experts.iter().map(|e| e.down).collect();
        self.experts(&down, Experts { shared: 0, rows: width as u32, y: parts, codes, ..first });

        let mut combine = Combine { parts, weights, chosen: chosen as u32, width: width as u32, to: output };
        let units = (rows * width).div_ceil(THREADS);
        let Some((_, latent_out)) = &p.latent else {
            self.writes(combine.to.y);
            self.op(Kind::Combine, units, &combine);
            return Ok(());
        };
        let sum = self.buffer(Buffer::Normed, width);
        combine.to = Target::store(sum);
        self.writes(combine.to.y);
        self.op(Kind::Combine, units, &combine);
        let to = map(self, latent_out, output);
        self.products(&Source::plain(sum, width), &[to])
    }

    /// The products of the chosen ones of `matrices`.
    fn experts(&mut self, matrices: &[sarit_core::Matrix<'m>], record: Experts) {
        let table = self.tables.len() as u32;
        for matrix in matrices {
            let Mat { data, dtype, rows, cols } = self.mat(matrix);
            self.tables.extend([data, dtype, rows, cols]);
        }
        let units = self.extent.rows * record.chosen as usize * (record.rows as usize).div_ceil(8);
        self.op(Kind::Experts, units, &Experts { table, ..record });
    }
}
