//! The K/V cache's bytes: `[layers][pages][page_size][kv_heads][head_dim]`, twice, in the format of computation.
use super::{Buffer, Shared};
use crate::device::{DeviceError, KvShape};
use crate::dtype::DType;
use crate::narrow::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

/// Bytes of K and V that a page takes in all layers.
pub(crate) fn page_bytes(shape: &KvShape, dtype: DType) -> usize {
    2 * shape.layers * shape.page_size * shape.kv_heads * shape.head_dim * dtype.block_bytes()
}

enum Elements {
    F32(Buffer<f32>),
    F16(Buffer<u16>),
    BF16(Buffer<u16>),
}

enum SharedElements<'a> {
    F32(Shared<'a, f32>),
    F16(Shared<'a, u16>),
    BF16(Shared<'a, u16>),
}

/// Keys and values of every page.
pub(crate) struct KvCache {
    shape: KvShape,
    keys: Elements,
    values: Elements,
}

/// One token's K or V of one layer, or the first element of one.
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
    pub(crate) fn new(shape: KvShape, dtype: DType) -> Result<Self, DeviceError> {
        let len = [shape.layers, shape.pages, shape.page_size, shape.kv_heads, shape.head_dim]
            .into_iter()
            .try_fold(1usize, |len, n| len.checked_mul(n))
            .ok_or(DeviceError::Memory { what: "the K/V cache", bytes: usize::MAX })?;
        Ok(Self { shape, keys: Elements::new(len, dtype)?, values: Elements::new(len, dtype)? })
    }

    /// What it was made for.
    pub(crate) fn shape(&self) -> &KvShape {
        &self.shape
    }

    #[inline(always)]
    fn at(shape: &KvShape, place: Place) -> usize {
        let slot = (place.layer * shape.pages + place.page) * shape.page_size + place.offset;
        slot * shape.kv_heads * shape.head_dim
    }

    /// Reads one K/V head's key, `[head_dim]`.
    #[inline(always)]
    pub(crate) fn key(&self, place: Place, kv_head: usize, out: &mut [f32]) {
        self.keys.read(Self::at(&self.shape, place) + kv_head * self.shape.head_dim, out);
    }

    /// Reads one K/V head's value, `[head_dim]`.
    #[inline(always)]
    pub(crate) fn value(&self, place: Place, kv_head: usize, out: &mut [f32]) {
        self.values.read(Self::at(&self.shape, place) + kv_head * self.shape.head_dim, out);
    }

    /// For threads that write different tokens.
    pub(crate) fn writer(&mut self) -> KvWriter<'_> {
        KvWriter { shape: self.shape, keys: self.keys.shared(), values: self.values.shared() }
    }
}

/// Writes tokens of a cache from several threads.
pub(crate) struct KvWriter<'a> {
    shape: KvShape,
    keys: SharedElements<'a>,
    values: SharedElements<'a>,
}

impl KvWriter<'_> {
    /// Writes a token's keys and values, `[kv_heads * head_dim]` each, rounded to the cache's format.
    ///
    /// # Safety
    /// Nobody else writes this place meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, place: Place, keys: &[f32], values: &[f32]) {
        let width = self.shape.kv_heads * self.shape.head_dim;
        assert!(keys.len() == width && values.len() == width, "a token's K and V are {width} wide");
        let at = KvCache::at(&self.shape, place);
        // SAFETY: this place is the caller's alone.
        unsafe {
            self.keys.write(at, keys);
            self.values.write(at, values);
        }
    }
}

impl Elements {
    fn new(len: usize, dtype: DType) -> Result<Self, DeviceError> {
        const WHAT: &str = "the K/V cache";
        match dtype {
            DType::F32 => Ok(Self::F32(Buffer::zeroed(len, WHAT)?)),
            DType::F16 => Ok(Self::F16(Buffer::zeroed(len, WHAT)?)),
            DType::BF16 => Ok(Self::BF16(Buffer::zeroed(len, WHAT)?)),
            other => Err(DeviceError::Other(format!("a K/V cache of {other}: F32, F16 and BF16 are supported"))),
        }
    }

    #[inline(always)]
    fn read(&self, at: usize, out: &mut [f32]) {
        let len = out.len();
        match self {
            Self::F32(all) => out.copy_from_slice(&all[at..at + len]),
            Self::F16(all) => out.iter_mut().zip(&all[at..at + len]).for_each(|(y, &x)| *y = f16_to_f32(x)),
            Self::BF16(all) => out.iter_mut().zip(&all[at..at + len]).for_each(|(y, &x)| *y = bf16_to_f32(x)),
        }
    }

    fn shared(&mut self) -> SharedElements<'_> {
        match self {
            Self::F32(all) => SharedElements::F32(Shared::new(all)),
            Self::F16(all) => SharedElements::F16(Shared::new(all)),
            Self::BF16(all) => SharedElements::BF16(Shared::new(all)),
        }
    }
}

impl SharedElements<'_> {
    /// # Safety
    /// Nobody else writes these elements meanwhile.
    #[inline(always)]
    unsafe fn write(&self, at: usize, from: &[f32]) {
        // SAFETY: these elements are the caller's alone.
        unsafe {
            match self {
                Self::F32(all) => all.part(at, from.len()).copy_from_slice(from),
                Self::F16(all) => all.part(at, from.len()).iter_mut().zip(from).for_each(|(y, &x)| *y = f32_to_f16(x)),
                Self::BF16(all) => {
                    all.part(at, from.len()).iter_mut().zip(from).for_each(|(y, &x)| *y = f32_to_bf16(x));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { layers: 2, pages: 3, page_size: 2, kv_heads: 2, head_dim: 4 };

    #[test]
    fn what_is_written_is_read_and_nothing_else_changes() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let mut cache = KvCache::new(SHAPE, dtype).unwrap();
            let place = Place { layer: 1, page: 2, offset: 1 };
            let keys: Vec<f32> = (1..9).map(|i| i as f32).collect();
            let values: Vec<f32> = keys.iter().map(|k| -k).collect();
            // SAFETY: the only writer.
            unsafe { cache.writer().write(place, &keys, &values) };
            let mut out = [0.0; 4];
            cache.key(place, 1, &mut out);
            assert_eq!(out, [5.0, 6.0, 7.0, 8.0]);
            cache.value(place, 0, &mut out);
            assert_eq!(out, [-1.0, -2.0, -3.0, -4.0]);
            for other in [Place { layer: 0, ..place }, Place { page: 1, ..place }, Place { offset: 0, ..place }] {
                cache.key(other, 0, &mut out);
                assert_eq!(out, [0.0; 4]);
            }
            assert_eq!(page_bytes(&SHAPE, dtype), 2 * 2 * 2 * 8 * dtype.block_bytes());
        }
    }

    #[test]
    fn too_large_a_cache_and_a_strange_format_are_errors() {
        for pages in [usize::MAX, 1 << 58] {
            let said = KvCache::new(KvShape { pages, ..SHAPE }, DType::F32).err().unwrap().to_string();
            assert!(said.contains("K/V cache"), "{said}");
        }
        assert!(KvCache::new(SHAPE, DType::Q8_0).err().unwrap().to_string().contains("Q8_0"));
    }
}
