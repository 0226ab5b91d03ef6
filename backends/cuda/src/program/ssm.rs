//! The operations of a block with a state space: of one row, of many, and of a token of each of several sequences.

use super::blocks::CONV_TAPS;
use super::builder::{Builder, Map, Order, Residual, THREADS, map};
use super::layout::{Buffer, CHUNK, MADE, STEPS, shared_bytes};
use super::records::{
    Codes, ConvOf, Elements, Kind, Mat, NONE, NormOf, ScanOf, Source, Target, Through, TimeOf, Times, Vector,
    source, target,
};
use crate::error::CudaError;
use sarit_core::kernels::{HELD, LANES};
use sarit_core::plan::{BLOCK_PARTS, Decay, NormKind, Ssm};
use sarit_core::{ALIGN, GROUP};

/// State elements of a channel that the scan keeps in registers: 16 for each of 16 threads.
const D_STATE_MOST: usize = 256;

/// Parts of a norm whose sums the kernels keep.
const NORM_PARTS_MOST: usize = 256;

/// Channels of a unit of the scan.
pub(super) const SCAN_CHANNELS: usize = 16;

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

/// Sequences that a block weighs at once where each has a token, heads of each of them, and channels of a unit: as the kernels have them.
const STEP_ROWS: usize = 2;
const STEP_HEADS: usize = 32;
const STEP_CHANNELS: usize = THREADS / 4;

/// Places of pieces of states there: as many as there is room for.
const STEP_PLACES: [usize; 2] = [4, 2];

/// The same of the scan of a token of each sequence, with a decay per head: `StepMemory` of the kernels.
fn step_floats(p: &Ssm<'_>, places: usize) -> usize {
    let pieces = scan_elements(p).min(2 * places) * 4 * THREADS;
    let rests = 2 * STEP_CHANNELS * (HELD + 5);
    let sequences = (STEP_ROWS + 1) * 4;
    let heads = p.heads.min(STEP_HEADS.max((STEP_CHANNELS - 1) / p.head_dim + 2));
    pieces + rests + sequences + STEP_ROWS * (heads * (HEAD_READ + HELD) + p.n_groups * HELD)
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

/// What a block posts of what it writes: between its operations, and the residual.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posting {
    pub(super) within: bool,
    pub(super) residual: bool,
}

impl<'m> Builder<'m> {
    pub(super) fn ssm(
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
        // The product before, which is another block's output, is taken to have begun with the first block.
        if posting.within {
            self.units = self.product_units(&p.out_proj.matrix);
        }
        // z, with which the result of the scan is multiplied.
        if self.one && p.in_proj.adapter.is_none() {
            self.late_len = d_inner;
        }
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
            places: 0,
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
                let order = self.order([&p.out_proj.matrix]);
                codes = self.codes(MADE, d_inner, order);
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
        if posting.within {
            self.units = 0;
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
            self.posts_if(posting.within);
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
                let order = self.order([&select.x_proj]);
                Through { codes: self.codes(MADE, p.d_inner(), order), codes_len: first, ..through }
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
        if self.steps {
            let fits = |places: &usize| {
                shared_bytes(step_floats(p, *places), self.layout.many.groups) <= self.extent.shared_bytes
            };
            let places = STEP_PLACES.into_iter().find(fits).unwrap_or(STEP_PLACES[1]);
            self.shared(step_floats(p, places), 0)?;
            scan.places = places as u32;
            self.op(Kind::Step, scan_units(p), &scan);
            return Ok(());
        }
        if p.decays_by_head() {
            scan.reads = self.buffer(Buffer::Reads, heads * HEAD_READ);
            self.shared(WEIGH_ROWS * HELD * (heads + p.n_groups), 0)?;
            self.op(Kind::Weigh, self.extent.rows.div_ceil(WEIGH_ROWS), &scan);
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
            record.dt_codes = self.codes(STEPS, rank, Order::Natural);
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
}
