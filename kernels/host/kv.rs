//! The K/V cache's bytes: `[layers][pages][page_size]` tokens, in one of four formats and one of two layouts.
//!
//! ```text
//!   rows, one a token and layer:
//!     | K of head 0 | … | K of head n - 1 | V of head 0 | … | V of head n - 1 | n scales of K | n of V |  padding
//!                         elements of the format                                f32, of int8 alone       to 32 bytes
//!   turned, where pages are whole groups of sixteen tokens and attention multiplies elements as they are stored (F32, BF16):
//!     | K of head 0: [words of a head][16 keys], words of four bytes | V of head 0: of 16 tokens | K of head 1 | … |  padding
//! ```
//!
//! In rows all heads and both K and V lie together: a token is one place in memory, so that pages of one token cost no more than
//! pages of many. Turned keys are what a product wants of them: word w of sixteen keys is a vector, and a query that reads a
//! key once need not turn it first. Queries meet one head after the other, and what they read of a head is one run of memory
//! a group: hardware that fetches ahead wants runs. Knows nothing of who owns a page or which sequence it belongs to.
use super::prefault::{Grid, Prefault};
use super::{Buffer, Shared};
use crate::device::{DeviceError, KvFormat, KvShape};
use crate::narrow::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

/// Rows start on half cache lines: whole vectors of AVX2, and at most one line more than the row needs is touched.
const ALIGN: usize = 32;

/// Tokens whose keys are turned together.
pub(crate) const GROUP: usize = 16;

/// Bytes of a word of turned keys.
const WORD: usize = 4;

/// Bytes of K and V that a page takes in all layers.
pub(crate) fn page_bytes(shape: &KvShape, format: KvFormat) -> usize {
    shape.layers * shape.page_size * KvLayout::new(shape, format).bytes()
}

/// Where things are, in bytes from a token's keys, or from its values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvLayout {
    format: KvFormat,
    kv_heads: usize,
    head_dim: usize,
    is_turned: bool,
}

impl KvLayout {
    fn new(shape: &KvShape, format: KvFormat) -> Self {
        let &KvShape { kv_heads, head_dim, page_size, .. } = shape;
        let is_multiplied = matches!(format, KvFormat::F32 | KvFormat::BF16);
        let is_whole = page_size.is_multiple_of(GROUP) && (head_dim * format.element_bytes()).is_multiple_of(WORD);
        Self { format, kv_heads, head_dim, is_turned: is_multiplied && is_whole }
    }

    /// How elements are stored.
    pub(crate) fn format(&self) -> KvFormat {
        self.format
    }

    /// Whether the keys of sixteen tokens lie as vectors: then they have one start, their group's.
    pub(crate) fn is_turned(&self) -> bool {
        self.is_turned
    }

    /// A head's K or V.
    pub(crate) fn head_bytes(&self) -> usize {
        self.head_dim * self.format.element_bytes()
    }

    /// All heads' K or V.
    fn all_bytes(&self) -> usize {
        self.kv_heads * self.head_bytes()
    }

    /// A head's key, from the token's keys; where they are turned, the head's sixteen keys. A head's value, from the token's
    /// values.
    #[inline(always)]
    pub(crate) fn head(&self, kv_head: usize) -> usize {
        kv_head * self.head_bytes() * if self.is_turned { 2 * GROUP } else { 1 }
    }

    /// From a token's keys to its scales, of rows.
    fn scales(&self) -> usize {
        (2 * self.all_bytes()).next_multiple_of(size_of::<f32>())
    }

    /// The scale of a head's key, from the token's keys, where the format has one.
    #[inline(always)]
    pub(crate) fn key_scale(&self, kv_head: usize) -> usize {
        self.scales() + kv_head * size_of::<f32>()
    }

    /// The scale of a head's value, from the token's keys, where the format has one.
    #[inline(always)]
    pub(crate) fn value_scale(&self, kv_head: usize) -> usize {
        self.key_scale(self.kv_heads + kv_head)
    }

    /// Bytes a token.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> usize {
        let scales = if self.format.is_scaled() { 2 * self.kv_heads * size_of::<f32>() } else { 0 };
        (self.scales() + scales).next_multiple_of(ALIGN)
    }

    /// How many tokens from `offset` of a page on lie at equal distances: as many as the page has left, or the group.
    #[inline(always)]
    pub(crate) fn run(&self, page_size: usize, offset: usize) -> usize {
        if self.is_turned { GROUP - offset % GROUP } else { page_size - offset }
    }

    /// From the keys and the values of a token of such a run to the next one's.
    #[inline(always)]
    pub(crate) fn strides(&self) -> [usize; 2] {
        if self.is_turned { [0, self.head_bytes()] } else { [self.bytes(); 2] }
    }

    /// Where a token's keys and its values start.
    #[inline(always)]
    fn starts(&self, shape: &KvShape, place: Place) -> (usize, usize) {
        let token = (place.layer * shape.pages + place.page) * shape.page_size + place.offset;
        if self.is_turned {
            let group = token / GROUP * GROUP * self.bytes();
            (group, group + (GROUP + token % GROUP) * self.head_bytes())
        } else {
            let row = token * self.bytes();
            (row, row + self.all_bytes())
        }
    }
}

/// Keys and values of every page.
pub(crate) struct KvCache {
    shape: KvShape,
    layout: KvLayout,
    rows: Buffer<u8>,
}

/// One token of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Decoder layer.
    pub layer: usize,
    /// Its page.
    pub page: usize,
    /// Its place in the page.
    pub offset: usize,
}

impl KvCache {
    /// A zeroed cache; an error where its memory cannot be had.
    pub(crate) fn new(shape: KvShape, format: KvFormat) -> Result<Self, DeviceError> {
        const WHAT: &str = "the K/V cache";
        let layout = KvLayout::new(&shape, format);
        // A row first: its own bytes are small numbers, but the shape is not checked by anybody else.
        let len = [shape.layers, shape.pages, shape.page_size, 2 * format.element_bytes() + ALIGN]
            .into_iter()
            .chain([shape.kv_heads, shape.head_dim])
            .try_fold(1usize, |len, n| len.checked_mul(n))
            .filter(|len| isize::try_from(*len).is_ok())
            .map(|_| shape.layers * shape.pages * shape.page_size * layout.bytes());
        let len = len.ok_or(DeviceError::Memory { what: WHAT, bytes: usize::MAX })?;
        Ok(Self { shape, layout, rows: Buffer::zeroed(len, WHAT)? })
    }

    /// For asking for its memory ahead of writes; none for a cache smaller than a large page.
    pub(crate) fn prefault(&self) -> Option<Prefault> {
        let KvShape { layers, pages, page_size, .. } = self.shape;
        let grid = Grid { layers, pages, bytes: page_size * self.layout.bytes() };
        self.rows.memory().map(|memory| Prefault::new(memory, grid))
    }

    /// Bytes of K and V that a token takes in all layers.
    pub(crate) fn token_bytes(&self) -> usize {
        self.shape.layers * self.layout.bytes()
    }

    /// What it was made for.
    pub(crate) fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// What a row looks like.
    pub(crate) fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Where a token's keys and its values start.
    #[inline(always)]
    pub(crate) fn at(&self, place: Place) -> [*const u8; 2] {
        let (keys, values) = self.layout.starts(&self.shape, place);
        let end = values + self.layout.head(self.layout.kv_heads - 1) + self.layout.head_bytes();
        assert!(place.offset < self.shape.page_size && end <= self.rows.len(), "{place:?} is not in the K/V cache");
        [keys, values].map(|at| self.rows.as_ptr().wrapping_add(at))
    }

    /// Reads one K/V head's key, `[head_dim]`.
    pub(crate) fn key(&self, place: Place, kv_head: usize, out: &mut [f32]) {
        let start = self.layout.starts(&self.shape, place).0;
        if self.layout.is_turned {
            let at = start + self.layout.head(kv_head) + place.offset % GROUP * WORD;
            let words = self.rows[at..].chunks(GROUP * WORD).take(self.layout.head_bytes() / WORD);
            let key: Vec<u8> = words.flat_map(|word| word[..WORD].iter().copied()).collect();
            decode(self.layout.format, &key, 1.0, out);
        } else {
            self.read(start, start + self.layout.head(kv_head), self.layout.key_scale(kv_head), out);
        }
    }

    /// Reads one K/V head's value, `[head_dim]`.
    pub(crate) fn value(&self, place: Place, kv_head: usize, out: &mut [f32]) {
        let (start, values) = self.layout.starts(&self.shape, place);
        self.read(start, values + self.layout.head(kv_head), self.layout.value_scale(kv_head), out);
    }

    fn read(&self, start: usize, at: usize, scale: usize, out: &mut [f32]) {
        let format = self.layout.format;
        let scale = if format.is_scaled() { f32_at(&self.rows[start..], scale) } else { 1.0 };
        decode(format, &self.rows[at..][..self.layout.head_bytes()], scale, out);
    }

    /// For threads that write different tokens.
    pub(crate) fn writer(&mut self) -> KvWriter<'_> {
        KvWriter { shape: self.shape, layout: self.layout, bytes: Shared::new(&mut self.rows) }
    }
}

/// Writes tokens of a cache from several threads.
pub(crate) struct KvWriter<'a> {
    shape: KvShape,
    layout: KvLayout,
    bytes: Shared<'a, u8>,
}

impl KvWriter<'_> {
    /// Writes a token's keys and values, `[kv_heads * head_dim]` each.
    ///
    /// # Safety
    /// Nobody else reads or writes this place meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn store(&self, place: Place, keys: &[f32], values: &[f32]) {
        let KvLayout { format, kv_heads, head_dim, is_turned } = self.layout;
        let width = kv_heads * head_dim;
        assert!(keys.len() == width && values.len() == width, "a token's K and V are {width} wide");
        let (start, values_at) = self.layout.starts(&self.shape, place);
        let head_bytes = self.layout.head_bytes();
        for (h, head) in values.chunks_exact(head_dim).enumerate() {
            // SAFETY: this place is the caller's alone.
            unsafe { self.store_head(start, values_at + self.layout.head(h), self.layout.value_scale(h), head) };
        }
        if !is_turned {
            for (h, head) in keys.chunks_exact(head_dim).enumerate() {
                // SAFETY: as above.
                unsafe { self.store_head(start, start + self.layout.head(h), self.layout.key_scale(h), head) };
            }
            return;
        }
        let per_word = WORD / format.element_bytes();
        for (h, head) in keys.chunks_exact(head_dim).enumerate() {
            let at = start + self.layout.head(h) + place.offset % GROUP * WORD;
            // SAFETY: of each word's sixteen keys, this place's is the caller's alone; the head's words are these.
            let words = unsafe { self.bytes.strided(at, WORD, GROUP * WORD, head_bytes / WORD) };
            for (elements, word) in head.chunks_exact(per_word).zip(words) {
                encode(format, elements, word);
            }
        }
    }

    /// # Safety
    /// The head and its scale are the caller's alone.
    #[inline(always)]
    unsafe fn store_head(&self, start: usize, at: usize, scale_at: usize, head: &[f32]) {
        // SAFETY: by contract.
        let scale = encode(self.layout.format, head, unsafe { self.bytes.part(at, self.layout.head_bytes()) });
        if self.layout.format.is_scaled() {
            // SAFETY: by contract.
            unsafe { self.bytes.part(start + scale_at, size_of::<f32>()) }.copy_from_slice(&scale.to_ne_bytes());
        }
    }
}

/// A scale.
#[inline(always)]
fn f32_at(row: &[u8], at: usize) -> f32 {
    f32::from_ne_bytes(*row[at..].first_chunk().expect("a row holds its scales"))
}

/// Stores elements, and says what they are to be multiplied by when they are read.
#[inline(always)]
fn encode(format: KvFormat, from: &[f32], to: &mut [u8]) -> f32 {
    let halves = to.as_chunks_mut::<2>().0;
    match format {
        KvFormat::F32 => to.as_chunks_mut::<4>().0.iter_mut().zip(from).for_each(|(y, x)| *y = x.to_ne_bytes()),
        KvFormat::F16 => halves.iter_mut().zip(from).for_each(|(y, &x)| *y = f32_to_f16(x).to_ne_bytes()),
        KvFormat::BF16 => halves.iter_mut().zip(from).for_each(|(y, &x)| *y = f32_to_bf16(x).to_ne_bytes()),
        KvFormat::Int8 => return encode_int8(from, to),
    }
    1.0
}

/// The largest becomes ±127. A NaN makes the scale NaN, so that nothing read from this row is a number.
#[inline(always)]
fn encode_int8(from: &[f32], to: &mut [u8]) -> f32 {
    let (mut largest, mut nan) = (0.0f32, false);
    for x in from {
        largest = if x.abs() > largest { x.abs() } else { largest };
        nan |= x.is_nan();
    }
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    for (y, x) in to.iter_mut().zip(from) {
        // To nearest, ties to even: 1.5 * 2^23 leaves no bits for a fraction, and is an integer's low bits itself.
        *y = (x * inverse + 12_582_912.0).to_bits() as u8;
    }
    if nan { f32::NAN } else { largest / 127.0 }
}

/// Reads elements.
fn decode(format: KvFormat, from: &[u8], scale: f32, to: &mut [f32]) {
    let (words, halves) = (from.as_chunks::<4>().0, from.as_chunks::<2>().0);
    match format {
        KvFormat::F32 => to.iter_mut().zip(words).for_each(|(y, x)| *y = f32::from_ne_bytes(*x)),
        KvFormat::F16 => to.iter_mut().zip(halves).for_each(|(y, x)| *y = f16_to_f32(u16::from_ne_bytes(*x))),
        KvFormat::BF16 => to.iter_mut().zip(halves).for_each(|(y, x)| *y = bf16_to_f32(u16::from_ne_bytes(*x))),
        KvFormat::Int8 => to.iter_mut().zip(from).for_each(|(y, x)| *y = f32::from(x.cast_signed()) * scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { layers: 2, pages: 3, page_size: 2, kv_heads: 2, head_dim: 4 };
    const FORMATS: [KvFormat; 4] = [KvFormat::F32, KvFormat::F16, KvFormat::BF16, KvFormat::Int8];

    #[test]
    fn what_is_written_is_read_and_nothing_else_changes() {
        // Rows, turned keys, and rows of pages that could be turned.
        for (format, page_size) in
            FORMATS.into_iter().flat_map(|format| [2, 16, 48].map(|page_size| (format, page_size)))
        {
            let mut cache = KvCache::new(KvShape { page_size, ..SHAPE }, format).unwrap();
            let is_turned = page_size > 2 && matches!(format, KvFormat::F32 | KvFormat::BF16);
            assert_eq!(cache.layout().is_turned(), is_turned, "{format:?}");
            let place = Place { layer: 1, page: 2, offset: page_size - 1 };
            let keys: Vec<f32> = [1, 2, 3, 127, -5, 6, -127, 8].map(|i| i as f32).into();
            let values: Vec<f32> = keys.iter().map(|k| -k).collect();
            // SAFETY: the only writer.
            unsafe { cache.writer().store(place, &keys, &values) };
            let mut out = [0.0; 4];
            cache.key(place, 1, &mut out);
            assert_eq!(out, [-5.0, 6.0, -127.0, 8.0]);
            cache.value(place, 0, &mut out);
            assert_eq!(out, [-1.0, -2.0, -3.0, -127.0]);
            for other in [Place { layer: 0, ..place }, Place { page: 1, ..place }, Place { offset: 0, ..place }] {
                cache.key(other, 0, &mut out);
                assert_eq!(out, [0.0; 4]);
            }
        }
    }

    #[test]
    fn a_page_takes_what_its_rows_take() {
        let shape = KvShape { head_dim: 64, kv_heads: 3, ..SHAPE };
        // Of int8: 2 · 3 · (64 + 4) is 408.
        for (format, row) in FORMATS.into_iter().zip([1536, 768, 768, 416]) {
            assert_eq!(page_bytes(&shape, format), 2 * 2 * row, "{format:?}");
        }
    }

    #[test]
    fn int8_is_within_half_a_step_of_the_largest() {
        let shape = KvShape { head_dim: 50, kv_heads: 1, ..SHAPE };
        for seed in 1..200u32 {
            let size = f32::from_bits((seed % 90 + 60) << 23);
            let from: Vec<f32> = (0..50u32)
                .map(|i| ((i * seed).wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32 - 0.5) * size)
                .collect();
            let mut row = vec![0; KvLayout::new(&shape, KvFormat::Int8).bytes()];
            let scale = encode(KvFormat::Int8, &from, &mut row[..50]);
            let mut to = [0.0; 50];
            decode(KvFormat::Int8, &row[..50], scale, &mut to);
            let largest = from.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            for (x, y) in from.iter().zip(to) {
                assert!((x - y).abs() <= largest / 253.9, "{x} became {y}, of {largest}");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for format in FORMATS {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let (mut row, mut out) = ([0; 16], [0.0; 4]);
                let row = &mut row[..4 * format.element_bytes()];
                let scale = encode(format, &[1.0, bad, 0.0, -2.0], row);
                decode(format, row, scale, &mut out);
                assert!(!out[1].is_finite(), "{format:?}: {bad} became {}", out[1]);
            }
        }
    }

    #[test]
    fn too_large_a_cache_is_an_error() {
        for pages in [usize::MAX, 1 << 56] {
            let said = KvCache::new(KvShape { pages, ..SHAPE }, KvFormat::F32).err().unwrap().to_string();
            assert!(said.contains("K/V cache"), "{said}");
        }
    }
}
