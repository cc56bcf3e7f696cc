//! The K/V cache's bytes: `[layers][pages][page_size]` rows, one a token and layer, in one of four formats.
//!
//! ```text
//!   a row   | K of head 0 | … | K of head n - 1 | V of head 0 | … | V of head n - 1 | n scales of K | n of V |  padding
//!                         elements of the format                                     f32, of int8 alone       to 32 bytes
//! ```
//!
//! All heads and both K and V lie together: a token is one place in memory, so that pages of one token cost no more than
//! pages of many. Knows nothing of who owns a page or which sequence it belongs to.
use super::{Buffer, Shared};
use crate::device::{DeviceError, KvFormat, KvShape};
use crate::narrow::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

/// Rows start on half cache lines: whole vectors of AVX2, and at most one line more than the row needs is touched.
const ALIGN: usize = 32;

/// Bytes of K and V that a page takes in all layers.
pub(crate) fn page_bytes(shape: &KvShape, format: KvFormat) -> usize {
    shape.layers * shape.page_size * RowLayout::new(shape, format).bytes()
}

/// Where things are in a row, in bytes from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowLayout {
    format: KvFormat,
    kv_heads: usize,
    head_dim: usize,
}

impl RowLayout {
    fn new(shape: &KvShape, format: KvFormat) -> Self {
        Self { format, kv_heads: shape.kv_heads, head_dim: shape.head_dim }
    }

    /// How elements are stored.
    pub(crate) fn format(&self) -> KvFormat {
        self.format
    }

    /// A head's K or V.
    fn head_bytes(&self) -> usize {
        self.head_dim * self.format.element_bytes()
    }

    /// A head's key.
    #[inline(always)]
    pub(crate) fn key(&self, kv_head: usize) -> usize {
        kv_head * self.head_bytes()
    }

    /// A head's value.
    #[inline(always)]
    pub(crate) fn value(&self, kv_head: usize) -> usize {
        (self.kv_heads + kv_head) * self.head_bytes()
    }

    fn scales(&self) -> usize {
        (2 * self.kv_heads * self.head_bytes()).next_multiple_of(size_of::<f32>())
    }

    /// The scale of a head's key, where the format has one.
    #[inline(always)]
    pub(crate) fn key_scale(&self, kv_head: usize) -> usize {
        self.scales() + kv_head * size_of::<f32>()
    }

    /// The scale of a head's value, where the format has one.
    #[inline(always)]
    pub(crate) fn value_scale(&self, kv_head: usize) -> usize {
        self.key_scale(self.kv_heads + kv_head)
    }

    /// From a row to the next.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> usize {
        let scales = if self.format.is_scaled() { 2 * self.kv_heads * size_of::<f32>() } else { 0 };
        (self.scales() + scales).next_multiple_of(ALIGN)
    }

    /// Writes a token's keys and values, `[kv_heads * head_dim]` each.
    #[inline(always)]
    pub(crate) fn store(&self, row: &mut [u8], keys: &[f32], values: &[f32]) {
        let (width, bytes) = (self.kv_heads * self.head_dim, self.head_bytes());
        assert!(keys.len() == width && values.len() == width, "a token's K and V are {width} wide");
        let heads = keys.chunks_exact(self.head_dim).chain(values.chunks_exact(self.head_dim));
        for (i, head) in heads.enumerate() {
            let scale = encode(self.format, head, &mut row[i * bytes..][..bytes]);
            if self.format.is_scaled() {
                row[self.key_scale(i)..][..size_of::<f32>()].copy_from_slice(&scale.to_ne_bytes());
            }
        }
    }
}

/// Keys and values of every page.
pub(crate) struct KvCache {
    shape: KvShape,
    layout: RowLayout,
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
        let layout = RowLayout::new(&shape, format);
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

    /// What it was made for.
    pub(crate) fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// What a row looks like.
    pub(crate) fn layout(&self) -> &RowLayout {
        &self.layout
    }

    #[inline(always)]
    fn at(shape: &KvShape, layout: &RowLayout, place: Place) -> usize {
        ((place.layer * shape.pages + place.page) * shape.page_size + place.offset) * layout.bytes()
    }

    /// A token's row.
    #[inline(always)]
    pub(crate) fn row(&self, place: Place) -> &[u8] {
        &self.rows[Self::at(&self.shape, &self.layout, place)..][..self.layout.bytes()]
    }

    /// Reads one K/V head's key, `[head_dim]`.
    pub(crate) fn key(&self, place: Place, kv_head: usize, out: &mut [f32]) {
        self.read(place, self.layout.key(kv_head), self.layout.key_scale(kv_head), out);
    }

    /// Reads one K/V head's value, `[head_dim]`.
    pub(crate) fn value(&self, place: Place, kv_head: usize, out: &mut [f32]) {
        self.read(place, self.layout.value(kv_head), self.layout.value_scale(kv_head), out);
    }

    fn read(&self, place: Place, at: usize, scale: usize, out: &mut [f32]) {
        let (row, format) = (self.row(place), self.layout.format);
        let scale = if format.is_scaled() { f32_at(row, scale) } else { 1.0 };
        decode(format, &row[at..][..self.layout.head_bytes()], scale, out);
    }

    /// For threads that write different tokens.
    pub(crate) fn writer(&mut self) -> KvWriter<'_> {
        KvWriter { shape: self.shape, layout: self.layout, rows: Shared::new(&mut self.rows) }
    }
}

/// Writes tokens of a cache from several threads.
pub(crate) struct KvWriter<'a> {
    shape: KvShape,
    /// What a row looks like.
    pub layout: RowLayout,
    rows: Shared<'a, u8>,
}

impl KvWriter<'_> {
    /// A token's row.
    ///
    /// # Safety
    /// Nobody else holds this place's row meanwhile.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // as `Shared::part`, whose contract this passes on
    pub(crate) unsafe fn row(&self, place: Place) -> &mut [u8] {
        let at = KvCache::at(&self.shape, &self.layout, place);
        // SAFETY: this place is the caller's alone.
        unsafe { self.rows.part(at, self.layout.bytes()) }
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
        for format in FORMATS {
            let mut cache = KvCache::new(SHAPE, format).unwrap();
            let place = Place { layer: 1, page: 2, offset: 1 };
            let keys: Vec<f32> = [1, 2, 3, 127, -5, 6, -127, 8].map(|i| i as f32).into();
            let values: Vec<f32> = keys.iter().map(|k| -k).collect();
            let writer = cache.writer();
            // SAFETY: the only writer.
            writer.layout.store(unsafe { writer.row(place) }, &keys, &values);
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
            let mut row = vec![0; RowLayout::new(&shape, KvFormat::Int8).bytes()];
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
