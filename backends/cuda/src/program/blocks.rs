//! The operations of each kind of block; `sarit-core`'s `engine` has the same steps.

use super::builder::{Buffer, Builder, CHUNK, MADE, Map, ROW_MOST, Residual, STEPS, THREADS, map};
use super::records::{
    AttendOf, Codes, Combine, ConvOf, Convolve, Elements, Experts, Kind, Mat, NONE, NormOf, Route, ScanOf,
    Source, Target, Through, TimeOf, Times, Vector, source, target,
};
use crate::error::CudaError;
use sarit_core::kernels::{HELD, LANES};
use sarit_core::plan::{
    Activation, Attention, BLOCK_PARTS, BlockInput, BlockOutput, Decay, Join, LinearBlock, Mlp, Moe,
    NormKind, Routing, ShortConv, Ssm,
};
use sarit_core::{ALIGN, Block, GROUP, StateDType, StatePart};

/// State elements of a channel that the scan keeps in registers: 16 for each of 16 threads.
const D_STATE_MOST: usize = 256;

/// Parts of a norm whose sums the kernels keep.
const NORM_PARTS_MOST: usize = 256;

/// Channels of a unit of the scan.
const SCAN_CHANNELS: usize = 16;

/// Activation that changes nothing.
const LINEAR: u32 = 5;

/// Floats that a token keeps for each head while it is scanned: `HeadRead` of the kernels.
const HEAD_READ: usize = 2 * HELD + 4;

/// Rows that a block weighs at once, at most: as the kernels have it.
const WEIGH_ROWS: usize = 4;

/// State elements of a channel for each of 16 threads, as the kernels have them.
fn scan_elements(p: &Ssm<'_>) -> usize {
    [1, 4, 8, 16].into_iter().find(|e| p.d_state <= LANES * e).unwrap_or(16)
}

/// Floats in shared memory of the scan of a prompt: `ScanRows` of the kernels.
fn scan_floats(p: &Ssm<'_>) -> usize {
    let elements = scan_elements(p);
    let stages = if elements > 8 { 1 } else { 2 };
    let row = LANES * elements + if elements > 1 { LANES } else { 0 };
    (stages * 2 * HELD + SCAN_CHANNELS) * row
}

/// The same of the scan of a token of each sequence, with a decay per head: the pieces of `HeadStep`, and fewer for what else it has there.
fn step_floats(p: &Ssm<'_>) -> usize {
    4 * scan_elements(p).min(8) * THREADS
}

/// Most channels of a unit and most elements of a state of a scan in chunks: as the kernels have them.
const CHUNK_CHANNELS: usize = 64;
const CHUNK_STATES: usize = 128;

/// Whether a block can be in f16, with its scan in chunks.
fn can_chunk(p: &Ssm<'_>) -> bool {
    let is_plain = p.select.is_none() && p.in_proj.adapter.is_none() && p.in_proj.bias.is_none();
    let late_gate = p.norm_before_gate && p.gate_norm.kind != NormKind::Identity;
    let by_16 = p.head_dim.min(CHUNK_CHANNELS).is_multiple_of(16) && p.d_state.is_multiple_of(16);
    let units = p.head_dim <= CHUNK_CHANNELS || p.head_dim.is_multiple_of(CHUNK_CHANNELS);
    p.decays_by_head() && p.d_state <= CHUNK_STATES && by_16 && units && is_plain && !late_gate
}

/// Floats in shared memory of a scan in chunks, in f16: B, C and states, then x and what is left of it.
fn chunk_floats(p: &Ssm<'_>) -> usize {
    ((2 * CHUNK + CHUNK_CHANNELS) * (p.d_state + 8) + 2 * CHUNK * (CHUNK + 8)) / 2
}

/// Units of the scan of one sequence, at most: each is of one group, and of one row a block may have more channels at once.
fn scan_units(p: &Ssm<'_>) -> usize {
    p.n_groups * (p.d_inner() / p.n_groups).div_ceil(SCAN_CHANNELS)
}

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
const CONV_TAPS: usize = 4;

/// What a block posts of what it writes: between its operations, and the residual.
#[derive(Debug, Clone, Copy)]
struct Posting {
    within: bool,
    residual: bool,
}

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

    fn ssm(
        &mut self,
        p: &Ssm<'m>,
        input: &Source,
        mut output: Target,
        [window, state, _, held]: [u32; BLOCK_PARTS],
        posting: Posting,
    ) -> Result<(), CudaError> {
        let (d_inner, channels) = (p.d_inner(), p.conv_channels());
        if p.d_state > D_STATE_MOST {
            return Err(CudaError::DState(p.d_state));
        }
        if p.n_groups > NORM_PARTS_MOST {
            return Err(CudaError::Groups(p.n_groups));
        }
        let in_chunks = self.halves && can_chunk(p);
        let proj_len = p.in_proj.matrix.rows();
        let written = if in_chunks {
            self.half_buffer(Buffer::HalfProj, proj_len)
        } else {
            self.row(posting, [Buffer::Proj, Buffer::PostedProj], proj_len)
        };
        let kind = if in_chunks { target::STORE_HALVES } else { target::STORE };
        let to = map(self, &p.in_proj, Target { kind, ..Target::store(written) });
        let columns = |v: Vector, i| if in_chunks { v.half_columns(i) } else { v.columns(i) };
        let mut conv = ConvOf {
            x: Vector::NONE,
            factor: Vector::NONE,
            window,
            weight: self.place(p.conv_weight),
            bias: self.optional(p.conv_bias),
            width: p.conv_width as u32,
            channels: channels as u32,
            silu: p.conv_silu.into(),
        };
        let through = self.through(p, conv);
        self.through = through;
        self.products(input, &[to])?;
        self.posts_if(posting.within);
        let projected = self.ops.len() - 1;
        let proj = self.read(written, projected);
        conv.x = columns(proj, d_inner);
        let has_norm = p.gate_norm.kind != NormKind::Identity;
        let late_gate = has_norm && p.norm_before_gate;
        let inner = if in_chunks {
            self.half_buffer(Buffer::HalfInner, d_inner)
        } else {
            self.row(posting, [Buffer::Inner, Buffer::PostedInner], d_inner)
        };
        let mut scan = ScanOf {
            heads: p.heads as u32,
            head_dim: p.head_dim as u32,
            d_state: p.d_state as u32,
            n_groups: p.n_groups as u32,
            d: self.place(p.d),
            state,
            held,
            x: Vector::NONE,
            b: Vector::NONE,
            c: Vector::NONE,
            // Raw where it is not projected.
            dt: columns(proj, d_inner + channels),
            decay: Vector::NONE,
            reads: Vector::NONE,
            parts: Vector::NONE,
            z: if late_gate { Vector::NONE } else { proj },
            y: inner,
            time: self.time(p),
            conv,
            select: Vector::NONE,
            rank: 0,
            dt_norm: NormOf::IDENTITY,
            b_norm: NormOf::IDENTITY,
            c_norm: NormOf::IDENTITY,
            dt_proj: Mat::NONE,
        };
        if let Some(select) = &p.select {
            let norms = [&select.dt_norm, &select.b_norm, &select.c_norm];
            if norms.iter().any(|norm| norm.kind != NormKind::Identity) {
                [scan.dt_norm, scan.b_norm, scan.c_norm] = norms.map(|norm| self.norm(norm, 1));
            }
            scan.rank = select.dt_proj.cols() as u32;
            scan.dt_proj = self.mat(&select.dt_proj);
            scan.select = self.row(posting, [Buffer::Select, Buffer::PostedSelect], select.x_proj.rows());
        }
        // Made where the rows are.
        let mut codes = Codes::NONE;
        if self.one {
            self.scan_one(p, scan, projected, posting)?
        } else if self.steps && !p.decays_by_head() {
            let is_coded = !has_norm && p.out_proj.matrix.is_quantized() && p.out_proj.adapter.is_none();
            if is_coded {
                codes = self.codes(MADE, d_inner);
            }
            self.elements(p, scan, through, codes)?
        } else {
            self.scan_many(p, scan, through, in_chunks)?
        }

        let mut gated = Source::plain(self.read(inner, self.ops.len() - 1), d_inner);
        if has_norm {
            gated.norm = NormOf { bias: NONE, ..self.norm(&p.gate_norm, p.n_groups) };
        }
        if in_chunks {
            gated.kind = source::HALVES;
        }
        let proj = self.read(written, projected);
        conv.x = columns(proj, d_inner);
        if late_gate {
            gated.after = proj;
        }
        // The window is read by the convolution only, which is over.
        if self.one {
            self.shift = conv;
        } else {
            let mut record = self.convolution(conv, Vector::NONE);
            if in_chunks {
                record.halves = conv.x;
            }
            self.window(&record);
        }
        if posting.within {
            output.before = self.residual();
        }
        if posting.residual {
            output.y = self.posted(Buffer::PostedResidual, self.model.d_model());
        }
        let to = map(self, &p.out_proj, output);
        if codes == Codes::NONE {
            self.products(&gated, &[to])?;
        } else {
            self.coded_product(codes, to)?;
        }
        self.posts_if(posting.residual);
        self.residual =
            if posting.residual { Residual::PostedBy(self.ops.len() - 1) } else { Residual::Plain };
        Ok(())
    }

    /// A row for who writes it, plain or posted.
    fn row(&mut self, posting: Posting, [plain, posted]: [Buffer; 2], len: usize) -> Vector {
        if posting.within { self.posted(posted, len) } else { self.buffer(plain, len) }
    }

    fn posts_if(&mut self, posts: bool) {
        if posts {
            self.posts();
        }
    }

    /// Convolution, projections of Mamba-1 and scan of one row: what a block needs it makes for itself. Operation `projected` has
    /// made what it reads.
    fn scan_one(
        &mut self,
        p: &Ssm<'m>,
        mut scan: ScanOf,
        projected: usize,
        posting: Posting,
    ) -> Result<(), CudaError> {
        // B and C, and B of the held tokens.
        let len = 2 * p.bc_len() + if p.decays_by_head() { HELD * p.d_state } else { 0 };
        if let Some(select) = &p.select {
            let x = Source {
                kind: source::CONVOLVED,
                conv: scan.conv,
                ..Source::plain(scan.conv.x, p.d_inner())
            };
            let to = Map { matrix: &select.x_proj, adapter: None, to: Target::store(scan.select) };
            self.products(&x, &[to])?;
            if posting.within {
                self.posts();
                self.passes();
            }
            scan.select = self.read(scan.select, self.ops.len() - 1);
            self.shared(scan.rank as usize + len, (scan.rank as usize).div_ceil(GROUP))?;
        } else {
            self.shared(len, 0)?;
        }
        for row in [&mut scan.conv.x, &mut scan.dt, &mut scan.z] {
            *row = self.read(*row, projected);
        }
        self.op(Kind::Scan, scan_units(p), &scan);
        self.posts_if(posting.within);
        Ok(())
    }

    /// What the results of `in_proj` go through: of a token of each sequence, where the product can do it.
    fn through(&mut self, p: &Ssm<'m>, conv: ConvOf) -> Through {
        let quantized = p.in_proj.matrix.is_quantized() && p.in_proj.adapter.is_none();
        let fits = p.d_inner().is_multiple_of(GROUP) && p.conv_width <= CONV_TAPS;
        // `elements` reads what was made two barriers before.
        let is_early = p.select.is_none() && !p.decays_by_head();
        if !self.steps || !quantized || !fits || is_early {
            return Through::NONE;
        }
        let (first, y) = (p.d_inner() as u32, self.buffer(Buffer::Conv, p.conv_channels()));
        let through = Through { first, conv, y, ..Through::NONE };
        match &p.select {
            None => {
                let [dt, decay] = self.dt_and_decay(p.heads);
                Through { time: self.time(p), heads: p.heads as u32, dt, decay, ..through }
            }
            Some(select) if select.x_proj.is_quantized() => {
                Through { codes: self.codes(MADE, p.d_inner()), codes_len: first, ..through }
            }
            Some(_) => through,
        }
    }

    /// The convolution of many rows, unless they have gone `through` it.
    fn convolve(&mut self, p: &Ssm<'m>, scan: &mut ScanOf, through: Through, in_chunks: bool) -> Vector {
        if through != Through::NONE {
            return through.y;
        }
        let conv = self.buffer(Buffer::Conv, p.conv_channels());
        let mut convolve = self.convolution(scan.conv, conv);
        if in_chunks {
            scan.reads = self.half_buffer(Buffer::HalfConv, p.conv_channels());
            convolve.halves = scan.reads;
        }
        self.op(Kind::Convolve, self.thread_units(p.conv_channels()), &convolve);
        conv
    }

    /// The same for many rows, one thing after another.
    fn scan_many(
        &mut self,
        p: &Ssm<'m>,
        mut scan: ScanOf,
        through: Through,
        in_chunks: bool,
    ) -> Result<(), CudaError> {
        let (d_inner, bc, heads) = (p.d_inner(), p.bc_len(), p.heads);
        let conv = self.convolve(p, &mut scan, through, in_chunks);
        let mut raw = scan.dt;
        if let Some(select) = &p.select {
            let to = Map { matrix: &select.x_proj, adapter: None, to: Target::store(scan.select) };
            self.products(&Source::plain(conv, d_inner), &[to])?;
            let selected = self.selected(p, &scan, true)?;
            raw = self.project_dt(&select.dt_proj, selected)?;
            let rank = scan.rank as usize;
            (scan.b, scan.c) = (selected.columns(rank), selected.columns(rank + bc));
        } else {
            (scan.b, scan.c) = (conv.columns(d_inner), conv.columns(d_inner + bc));
        }
        [scan.dt, scan.decay] = [through.dt, through.decay];
        if scan.dt == Vector::NONE {
            if p.select.is_none() {
                self.no_barrier();
            }
            [scan.dt, scan.decay] = self.times(p, &scan, raw, in_chunks);
        }
        scan.x = conv;
        if in_chunks {
            self.shared(chunk_floats(p), 0)?;
            let channels = p.head_dim.min(CHUNK_CHANNELS);
            // And the log of a decay.
            scan.parts =
                self.buffer(Buffer::ScanParts, (channels * p.d_state + 1).next_multiple_of(ALIGN / 4));
            self.op(Kind::Parts, d_inner / channels, &scan);
            self.op(Kind::Chunks, d_inner / channels, &scan);
            self.hold(p, &scan);
            return Ok(());
        }
        if p.decays_by_head() {
            scan.reads = self.buffer(Buffer::Reads, heads * HEAD_READ);
            self.shared(WEIGH_ROWS * HELD * (heads + p.n_groups), 0)?;
            self.op(Kind::Weigh, self.extent.rows.div_ceil(WEIGH_ROWS), &scan);
        }
        if self.steps {
            self.shared(step_floats(p), 0)?;
            self.op(Kind::Step, scan_units(p), &scan);
            return Ok(());
        }
        self.shared(scan_floats(p), 0)?;
        self.op(Kind::Scan, scan_units(p), &scan);
        if p.decays_by_head() {
            self.hold(p, &scan);
        }
        Ok(())
    }

    /// The same for a token of each sequence, with a decay per element: what is made comes in codes at once where products take it, as
    /// does the result if `codes` says where to. Between the convolution and the scan there are two barriers.
    fn elements(
        &mut self,
        p: &Ssm<'m>,
        mut scan: ScanOf,
        through: Through,
        codes: Codes,
    ) -> Result<(), CudaError> {
        let (d_inner, bc, rank) = (p.d_inner(), p.bc_len(), scan.rank as usize);
        let conv = self.convolve(p, &mut scan, through, false);
        let mut record = Elements {
            channels: d_inner as u32,
            head_dim: scan.head_dim,
            d_state: scan.d_state,
            n_groups: scan.n_groups,
            d: scan.d,
            state: scan.state,
            x: conv,
            z: scan.z,
            dt: Vector::NONE,
            b: conv.columns(d_inner),
            c: conv.columns(d_inner + bc),
            y: scan.y,
            time: scan.time,
            dt_proj: scan.dt_proj,
            dt_codes: Codes::NONE,
            codes,
        };
        let units = self.thread_units(d_inner);
        let Some(select) = &p.select else {
            [record.dt, _] = self.times(p, &scan, scan.dt, false);
            self.op(Kind::Elements, units, &record);
            return Ok(());
        };
        let to = Map { matrix: &select.x_proj, adapter: None, to: Target::store(scan.select) };
        let projects = select.dt_proj.is_quantized();
        let has_norms = scan.dt_norm.kind + scan.b_norm.kind + scan.c_norm.kind > 0;
        let codes_at_once = projects && !has_norms && select.x_proj.is_quantized();
        if codes_at_once {
            record.dt_codes = self.codes(STEPS, rank);
            self.through =
                Through { first: 0, codes: record.dt_codes, codes_len: rank as u32, ..Through::NONE };
        }
        if through.codes == Codes::NONE {
            self.products(&Source::plain(conv, d_inner), &[to])?;
        } else {
            self.coded_product(through.codes, to)?;
        }
        if projects && !codes_at_once {
            let source = Source { norm: scan.dt_norm, ..Source::plain(scan.select, rank) };
            record.dt_codes = self.quantize(STEPS, &source)?;
            self.no_barrier();
        }
        let selected = self.selected(p, &scan, !projects)?;
        if !projects {
            let raw = self.project_dt(&select.dt_proj, selected)?;
            [record.dt, _] = self.times(p, &scan, raw, false);
        }
        (record.b, record.c) = (selected.columns(rank), selected.columns(rank + bc));
        self.op(Kind::Elements, units, &record);
        Ok(())
    }

    /// `[dt | B | C]` of Mamba-1 of many rows, normed, if they are; dt only if asked for.
    fn selected(&mut self, p: &Ssm<'m>, scan: &ScanOf, with_dt: bool) -> Result<Vector, CudaError> {
        let (rank, bc) = (scan.rank as usize, p.bc_len());
        let norms = [(scan.dt_norm, 0, rank), (scan.b_norm, rank, bc), (scan.c_norm, rank + bc, bc)];
        if norms.iter().all(|(norm, ..)| norm.kind == 0) {
            return Ok(scan.select);
        }
        let selected = self.buffer(Buffer::Normed, rank + 2 * bc);
        let first = usize::from(!with_dt);
        for (i, (norm, start, len)) in norms.into_iter().enumerate().skip(first) {
            if i > first {
                self.no_barrier();
            }
            let part = Source { norm, ..Source::plain(scan.select.columns(start), len) };
            self.floats(&part, selected.columns(start))?;
        }
        Ok(selected)
    }

    /// The raw dt of Mamba-1.
    fn project_dt(
        &mut self,
        dt_proj: &sarit_core::Matrix<'m>,
        selected: Vector,
    ) -> Result<Vector, CudaError> {
        let dt = self.buffer(Buffer::Dt, dt_proj.rows());
        let to = Map { matrix: dt_proj, adapter: None, to: Target::store(dt) };
        self.products(&Source::plain(selected, dt_proj.cols()), &[to])?;
        Ok(dt)
    }

    /// dt and the decays of many rows.
    fn times(&mut self, p: &Ssm<'m>, scan: &ScanOf, raw: Vector, halves: bool) -> [Vector; 2] {
        let heads = p.heads;
        let [dt, decay] = self.dt_and_decay(heads);
        let record = Times { time: scan.time, heads: heads as u32, halves: halves.into(), raw, dt, decay };
        self.op(Kind::Times, self.thread_units(heads), &record);
        [dt, decay]
    }

    fn dt_and_decay(&mut self, heads: usize) -> [Vector; 2] {
        [self.buffer(Buffer::Dt, heads), self.buffer(Buffer::Decay, heads)]
    }

    /// Units of an operation that has a thread for each of `len` elements of each row.
    fn thread_units(&self, len: usize) -> usize {
        (self.extent.rows * len).div_ceil(THREADS)
    }

    /// The rows of `conv` as floats in `y`, and where there is a token of each sequence the windows after it, if they are short.
    fn convolution(&self, conv: ConvOf, y: Vector) -> Convolve {
        let shifts = ((self.one || self.steps) && conv.width as usize <= CONV_TAPS).into();
        Convolve { conv, y, halves: Vector::NONE, shifts }
    }

    /// The windows after that, if they have not been made; only the next step reads them.
    fn window(&mut self, record: &Convolve) {
        if record.shifts == 0 {
            self.op(Kind::Window, (record.conv.channels as usize).div_ceil(THREADS), record);
            self.no_barrier();
        }
    }

    /// The last tokens become held ones. Those are read by the scan only, which is over.
    fn hold(&mut self, p: &Ssm<'m>, scan: &ScanOf) {
        self.op(Kind::Hold, self.thread_units(p.d_inner() + p.bc_len() + p.heads), scan);
        self.no_barrier();
    }

    fn time(&self, p: &Ssm<'m>) -> TimeOf {
        match p.decay {
            Decay::Exp { dt_bias, dt_min, dt_max, a_log2 } => TimeOf {
                sigmoid: 0,
                bias: self.place(dt_bias),
                min: dt_min,
                max: dt_max,
                a_log2: self.place(a_log2),
                per_element: (!p.decays_by_head()).into(),
            },
            Decay::Sigmoid => {
                TimeOf { sigmoid: 1, bias: NONE, min: 0.0, max: 0.0, a_log2: NONE, per_element: 0 }
            }
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
        let any = |quantized: bool, down: bool| {
            let of = |e: &sarit_core::plan::Expert<'m>| {
                if down { vec![e.down] } else { e.gate.into_iter().chain([e.up]).collect() }
            };
            experts.iter().flat_map(of).any(|matrix| matrix.is_quantized() == quantized)
        };
        let codes = self.expert_input(&v, 1, (any(true, false), any(false, false)))?;
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
        let codes = self.expert_input(&hidden, chosen, (any(true, true), any(false, true)))?;
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
