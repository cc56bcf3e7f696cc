//! Biases, QK-norm and rotation of q and k, and k and v into their pages: one pass over a token's row.
//!
//! Cosines and sines are those of the step's positions, computed when its first layer asks and kept for the others.
use std::sync::Arc;

use super::rows::norm_scale;
use super::simd::{Wide, WideKernel};
use super::tensor::Tensor;
use super::{Cpu, Vector, Workers};
use crate::device::{RopeLayout, RopeStore};
use crate::host::{KvWriter, Place, Shared, Staged};

/// Elements of q, k and v a task, about: less is done sooner by one thread than shared.
const ELEMENTS_A_TASK: usize = 8192;

/// Frequencies that a model may alternate between (local and global layers) without computing angles again.
const KEPT: usize = 4;

/// Angles of a step's tokens, for each set of frequencies that was asked for lately.
#[derive(Default)]
pub(super) struct Angles(Vec<Table>);

/// Of one set of frequencies.
struct Table {
    inv_freq: Arc<[f32]>,
    scale: f32,
    /// The step that it is of.
    step: u64,
    /// `[tokens][cosines | sines]`
    values: Vec<f32>,
}

impl Angles {
    /// Those of this step.
    fn of(&mut self, workers: &mut Workers, staged: &Staged, inv_freq: &Arc<[f32]>, scale: f32) -> &[f32] {
        let known = |table: &Table| Arc::ptr_eq(&table.inv_freq, inv_freq) && table.scale == scale;
        let at = self.0.iter().position(known).unwrap_or_else(|| {
            if self.0.len() == KEPT {
                self.0.remove(0);
            }
            self.0.push(Table { inv_freq: Arc::clone(inv_freq), scale, step: 0, values: Vec::new() });
            self.0.len() - 1
        });
        let table = &mut self.0[at];
        if table.step != staged.number() {
            table.step = staged.number();
            table.fill(workers, staged);
        }
        &table.values
    }
}

impl Table {
    fn fill(&mut self, workers: &mut Workers, staged: &Staged) {
        // A cosine and a sine cost as much as some twenty elements of a row.
        let (half, count) = (self.inv_freq.len(), staged.tokens.len());
        let each = (ELEMENTS_A_TASK / (40 * half).max(1)).max(1);
        self.values.resize(count * 2 * half, 0.0);
        let values = Shared::new(&mut self.values);
        workers.run(count.div_ceil(each), |_, task| {
            for t in task * each..((task + 1) * each).min(count) {
                // SAFETY: a token is one task's alone.
                let (cos, sin) = unsafe { values.part(t * 2 * half, 2 * half) }.split_at_mut(half);
                for ((cos, sin), freq) in cos.iter_mut().zip(sin).zip(&*self.inv_freq) {
                    let angle = staged.tokens[t].position as f32 * freq;
                    (*cos, *sin) = (angle.cos() * self.scale, angle.sin() * self.scale);
                }
            }
        });
    }
}

impl Cpu {
    /// The whole operation.
    pub(super) fn rotate_and_store(&mut self, qkv: &mut Tensor, op: &RopeStore<'_, Vector>) {
        let cache = self.cache.as_mut().expect("kv_cache comes before steps");
        let shape = *cache.shape();
        assert_eq!((shape.kv_heads, shape.head_dim), (op.kv_heads, op.head_dim), "the cache's heads");
        assert!(op.layer < shape.layers, "layer {} of {}", op.layer, shape.layers);
        assert_eq!(qkv.width, (op.heads + 2 * op.kv_heads) * op.head_dim, "a row of q, k and v");
        let (inv_freq, half) = (&op.inv_freq.0, op.inv_freq.0.len());
        assert!(2 * half <= op.head_dim, "{half} frequencies for heads of {}", op.head_dim);
        let (staged, level) = (&self.staged, self.workers.level);
        let angles = self.angles.of(&mut self.workers, staged, inv_freq, op.rope_scale);
        let (stride, width, count) = (qkv.stride, qkv.width, staged.tokens.len());
        let (rows, writer) = (Shared::new(&mut qkv.values), cache.writer());
        let each = (ELEMENTS_A_TASK / width).max(1);
        // Keys of sixteen tokens share lines of memory, which two threads would take from each other.
        self.workers.run_in_runs(count.div_ceil(each), |_, task| {
            for t in task * each..((task + 1) * each).min(count) {
                let token = staged.tokens[t];
                let page = staged.pages(token.row)[token.position / shape.page_size] as usize;
                let place = Place { layer: op.layer, page, offset: token.position % shape.page_size };
                // SAFETY: a token's row is its task's alone.
                let qkv = unsafe { rows.part(t * stride, width) };
                let cos_sin = angles[t * 2 * half..][..2 * half].split_at(half);
                // SAFETY: so is its place: staging checked that no page is written by two rows, and a row's tokens have
                // different positions.
                level.run(unsafe { Token::new(qkv, op, cos_sin, &writer, place) });
            }
        });
    }
}

/// One token's.
struct Token<'a> {
    /// `[q heads | k heads | v heads] * head_dim`
    qkv: &'a mut [f32],
    op: &'a RopeStore<'a, Vector>,
    /// Of its position, `[rotary_dim / 2]` each.
    cos_sin: (&'a [f32], &'a [f32]),
    writer: &'a KvWriter<'a>,
    place: Place,
}

impl<'a> Token<'a> {
    /// # Safety
    /// Nobody else reads or writes the place meanwhile.
    unsafe fn new(
        qkv: &'a mut [f32],
        op: &'a RopeStore<'a, Vector>,
        cos_sin: (&'a [f32], &'a [f32]),
        writer: &'a KvWriter<'a>,
        place: Place,
    ) -> Self {
        Self { qkv, op, cos_sin, writer, place }
    }
}

impl WideKernel for Token<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Wide>(self, _isa: S) {
        let Self { qkv, op, cos_sin, writer, place } = self;
        let dim = op.head_dim;
        if let Some(bias) = op.bias {
            qkv.iter_mut().zip(&*bias.0).for_each(|(x, b)| *x += b);
        }
        for (h, head) in qkv[..(op.heads + op.kv_heads) * dim].chunks_exact_mut(dim).enumerate() {
            if let Some(norm) = if h < op.heads { &op.q_norm } else { &op.k_norm } {
                let scale = norm_scale(head, norm.eps);
                head.iter_mut().zip(&*norm.weight.0).for_each(|(x, w)| *x = *x * scale * w);
            }
            rotate(head, op.layout, cos_sin);
        }
        let (keys, values) = qkv[op.heads * dim..].split_at(op.kv_heads * dim);
        // SAFETY: by the contract of `new`.
        unsafe { writer.store(place, keys, values) };
    }
}

#[inline(always)]
fn rotate(head: &mut [f32], layout: RopeLayout, (cos, sin): (&[f32], &[f32])) {
    let half = cos.len();
    let turn = |a: f32, b: f32, (cos, sin): (&f32, &f32)| (a * cos - b * sin, b * cos + a * sin);
    match layout {
        RopeLayout::Halves => {
            let (a, b) = head[..2 * half].split_at_mut(half);
            for ((a, b), angle) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
                (*a, *b) = turn(*a, *b, angle);
            }
        }
        RopeLayout::Pairs => {
            for (pair, angle) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos.iter().zip(sin)) {
                (pair[0], pair[1]) = turn(pair[0], pair[1], angle);
            }
        }
    }
}
