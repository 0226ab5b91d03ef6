//! Memory that several threads write at once, each its own part. The only place where it is cut.

use core::marker::PhantomData;
use core::ops::Range;
use half::f16;
use sarit_core::STATE_GROUP;
use sarit_core::kernels::{Rests, RowSink, RowsMut, SsmState, rests_len};

/// A slice that can be cut into ranges.
pub(crate) struct Cuttable<'a, T> {
    start: *mut T,
    len: usize,
    data: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for an exclusive borrow of `T`s; whoever calls `range` sees to it that no two threads reach the
// same ones.
unsafe impl<T: Send> Sync for Cuttable<'_, T> {}

impl<'a, T> Cuttable<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), data: PhantomData }
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements `range`.
    ///
    /// # Safety
    /// Ranges that are used at the same time must not overlap.
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: the range lies in the slice that `new` has borrowed for `'a`, and nobody else uses it (contract).
        unsafe { core::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// An SSM state that can be cut into rows.
pub(crate) enum CuttableState<'a> {
    F32(Cuttable<'a, f32>),
    F16(Cuttable<'a, f16>),
    I8 { codes: Cuttable<'a, i8>, scales: Cuttable<'a, f32>, rests: Cuttable<'a, Rests> },
}

impl<'a> CuttableState<'a> {
    pub(crate) fn new(state: SsmState<'a>) -> Self {
        match state {
            SsmState::F32(h) => Self::F32(Cuttable::new(h)),
            SsmState::F16(h) => Self::F16(Cuttable::new(h)),
            SsmState::I8 { codes, scales, rests } => Self::I8 {
                codes: Cuttable::new(codes),
                scales: Cuttable::new(scales),
                rests: Cuttable::new(rests),
            },
        }
    }

    /// The rows `rows` of `n` elements each.
    ///
    /// # Safety
    /// Rows that are used at the same time must not overlap.
    pub(crate) unsafe fn rows(&self, rows: Range<usize>, n: usize) -> SsmState<'a> {
        let times = |n: usize| rows.start * n..rows.end * n;
        // SAFETY: different rows have different elements, scales and rests.
        unsafe {
            match self {
                Self::F32(h) => SsmState::F32(h.range(times(n))),
                Self::F16(h) => SsmState::F16(h.range(times(n))),
                Self::I8 { codes, scales, rests } => SsmState::I8 {
                    codes: codes.range(times(n)),
                    scales: scales.range(times(n.div_ceil(STATE_GROUP))),
                    rests: rests.range(if rests.is_empty() { 0..0 } else { times(rests_len(n)) }),
                },
            }
        }
    }
}

/// Rows of floats that can be cut into [`Part`]s.
pub(crate) struct Columns<'a> {
    start: *mut f32,
    stride: usize,
    cols: usize,
    count: usize,
    data: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for an exclusive borrow of `f32`s; whoever calls `part` sees to it that no two threads reach the
// same ones.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    pub(crate) fn new(mut rows: RowsMut<'a>) -> Self {
        let (stride, cols, count) = (rows.stride(), rows.cols(), rows.count());
        Self { start: rows.data().as_mut_ptr(), stride, cols, count, data: PhantomData }
    }

    /// The columns `cols` of the rows `rows`; its row 0 is the first of them.
    ///
    /// # Safety
    /// Parts that exist at the same time must not overlap.
    pub(crate) unsafe fn part(&self, rows: Range<usize>, cols: Range<usize>) -> Part<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.count);
        assert!(cols.start <= cols.end && cols.end <= self.cols);
        // Wrapping, because a part without rows may begin behind the end.
        let start = self.start.wrapping_add(rows.start * self.stride + cols.start);
        Part { start, stride: self.stride, cols: cols.len(), count: rows.len(), data: PhantomData }
    }
}

/// Some columns of some rows, owned by one thread.
pub(crate) struct Part<'a> {
    start: *mut f32,
    stride: usize,
    cols: usize,
    count: usize,
    data: PhantomData<&'a mut [f32]>,
}

impl RowSink for Part<'_> {
    #[inline(always)]
    fn row(&mut self, t: usize) -> &mut [f32] {
        assert!(t < self.count);
        // SAFETY: `RowsMut` has checked that each of its rows lies in its slice, and `part` that these rows and columns
        // are some of them. The slice borrows `self`, and no other part overlaps this one (contract of `part`).
        unsafe { core::slice::from_raw_parts_mut(self.start.add(t * self.stride), self.cols) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_where_they_should_be() {
        let mut data: [f32; 11] = core::array::from_fn(|i| i as f32);
        let columns = Columns::new(RowsMut::new(&mut data, 3, 3, 4));
        // SAFETY: the two parts have no element in common.
        let (mut a, mut b) = unsafe { (columns.part(0..3, 0..1), columns.part(1..3, 1..3)) };
        assert_eq!((a.row(2), b.row(0)), (&mut [8.0][..], &mut [5.0, 6.0][..]));
        b.row(1).fill(0.0);
        assert_eq!(data[7..], [7.0, 8.0, 0.0, 0.0]);
    }

    #[test]
    fn an_empty_part_is_allowed() {
        let columns = Columns::new(RowsMut::new(&mut [], 0, 3, 4));
        // SAFETY: an empty part overlaps nothing.
        assert_eq!(unsafe { columns.part(0..0, 1..2) }.count, 0);
    }
}
