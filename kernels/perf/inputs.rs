//! What cases are fed: random weights as a checkpoint stores them, and steps of rows on pages.
use crate::device::{Device, DeviceError, PageId, Shard, Slot, Step, StepRow, TensorView, TokenId, TokenSource, Want};
use crate::dtype::DType;
use crate::narrow::{f32_to_bf16, f32_to_f16};

/// SplitMix64: enough to look random to a kernel.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// -1 to 1.
    pub(super) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// A matrix as a file has it.
pub(super) struct Stored {
    dtype: DType,
    shape: [usize; 2],
    data: Vec<u8>,
}

impl Stored {
    /// Elements within about `1 / sqrt(columns)`, so that products are of the activations' size. `columns` is whole blocks.
    pub(super) fn random(dtype: DType, rows: usize, columns: usize) -> Self {
        let random = &mut Random((rows * columns) as u64);
        let size = 1.0 / (columns as f32).sqrt();
        let bytes = rows * dtype.row_bytes(columns).expect("columns of whole blocks");
        let mut data = Vec::with_capacity(bytes);
        match dtype {
            DType::F32 => (0..rows * columns).for_each(|_| data.extend((random.float() * size).to_le_bytes())),
            DType::F16 => {
                (0..rows * columns).for_each(|_| data.extend(f32_to_f16(random.float() * size).to_le_bytes()));
            }
            DType::BF16 => {
                (0..rows * columns).for_each(|_| data.extend(f32_to_bf16(random.float() * size).to_le_bytes()));
            }
            _ => {
                data.extend(std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(bytes));
                let (scales, largest) = scales(dtype);
                for block in data.chunks_exact_mut(dtype.block_bytes()) {
                    for (i, &at) in scales.iter().enumerate() {
                        // The second is a minimum: added as it is, or scaled by six bits and subtracted.
                        let largest = if i == 0 || dtype.block_len() == 256 { largest } else { 2.0 };
                        block[at..at + 2].copy_from_slice(&f32_to_f16(random.float() * size / largest).to_le_bytes());
                    }
                }
            }
        }
        Self { dtype, shape: [rows, columns], data }
    }

    pub(super) fn view(&self) -> TensorView<'_> {
        TensorView { name: "random", dtype: self.dtype, shape: &self.shape, data: &self.data }
    }

    /// Cut along the rows into matrices of this shape, each alone.
    pub(super) fn parts<'a>(&'a self, shape: &'a [usize; 2]) -> Vec<Vec<TensorView<'a>>> {
        let part = |data| vec![TensorView { name: "random", dtype: self.dtype, shape, data }];
        self.data.chunks_exact(self.data.len() / (self.shape[0] / shape[0])).map(part).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.data.len()
    }

    /// As a device wants it.
    pub(super) fn load<D: Device>(&self, device: &mut D) -> Result<D::Weight, DeviceError> {
        device.load(&[self.view()], Shard::Whole)
    }

    /// So many of them in memory of their own that no cache holds all: what a model's many layers are to a cache.
    pub(super) fn load_many<D: Device>(&self, device: &mut D) -> Result<Vec<D::Weight>, DeviceError> {
        const TOGETHER: usize = 64 << 20;
        (0..TOGETHER.div_ceil(self.bytes()).min(64)).map(|_| self.load(device)).collect()
    }
}

/// Where a block's halves are, and the largest number that the first scales.
fn scales(dtype: DType) -> (&'static [usize], f32) {
    match dtype {
        DType::Q4_0 => (&[0], 8.0),
        DType::Q5_0 => (&[0], 16.0),
        DType::Q8_0 => (&[0], 128.0),
        DType::Q4_1 => (&[0, 2], 15.0),
        DType::Q5_1 => (&[0, 2], 31.0),
        DType::Q4_K | DType::Q5_K => (&[0, 2], 63.0 * 31.0),
        DType::Q6_K => (&[208], 32.0 * 128.0),
        other => unreachable!("{other} has no blocks"),
    }
}

/// Rows of one length, each a sequence of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    /// How many.
    pub(super) count: usize,
    /// Input tokens of each.
    pub(super) len: usize,
    /// Position of the first of them.
    pub(super) start: usize,
    /// Tokens a page.
    pub(super) page_size: usize,
    /// The first page of the first; the others' follow.
    pub(super) first_page: usize,
    /// What each gives back.
    pub(super) want: Want,
}

impl Rows {
    /// Pages that they are on, all together.
    pub(super) fn pages(&self) -> usize {
        self.count * self.pages_each()
    }

    fn pages_each(&self) -> usize {
        (self.start + self.len).div_ceil(self.page_size)
    }

    /// Stages the step. Token `t` of all rows has the id `t`.
    pub(super) fn begin<D: Device>(&self, device: &mut D) {
        let tokens: Vec<TokenId> = (0..(self.count * self.len) as u32).collect();
        let pages: Vec<PageId> = (0..self.pages()).map(|i| PageId((self.first_page + i) as u32)).collect();
        let row = |i: usize| StepRow {
            slot: Slot(i as u32),
            start: self.start,
            tokens: TokenSource::Tokens(&tokens[i * self.len..][..self.len]),
            pages: &pages[i * self.pages_each()..][..self.pages_each()],
            want: self.want,
        };
        let rows: Vec<StepRow<'_>> = (0..self.count).map(row).collect();
        device.begin(&Step { rows: &rows });
    }
}
