//! What dot products multiply: rows (of queries, of weights) by panels (of keys, of values), each f32 or pairs of bf16, in
//! words of 32 bits, sixteen to a vector.
use crate::cpu::simd::{WIDE, Wide};
use crate::device::KvFormat;

/// A number format.
pub(super) trait Number {
    /// Elements a word.
    const PER_WORD: usize;
    /// The format of a cache whose bytes are these elements already.
    const STORED: KvFormat;

    /// Stores sixteen elements.
    ///
    /// # Safety
    /// `16 / PER_WORD` words are writable.
    unsafe fn store<S: Wide>(isa: S, v: S::F, to: *mut u32);
    /// `2^x` for `x <= 0`, with an error below what the format keeps.
    fn exp2<S: Wide>(isa: S, x: S::F) -> S::F;
    /// Rows of elements, `PER_WORD` of them, into words that hold one element of each.
    ///
    /// # Safety
    /// Sixteen elements of each row are readable, sixteen words writable.
    unsafe fn zip<S: Wide>(isa: S, rows: [*const u32; 2], to: *mut u32);
}

/// One f32 a word.
pub(super) struct F32;

impl Number for F32 {
    const PER_WORD: usize = 1;
    const STORED: KvFormat = KvFormat::F32;

    #[inline(always)]
    unsafe fn store<S: Wide>(isa: S, v: S::F, to: *mut u32) {
        // SAFETY: writable, by contract.
        unsafe { isa.store(v, to.cast()) }
    }
    #[inline(always)]
    fn exp2<S: Wide>(isa: S, x: S::F) -> S::F {
        isa.exp2::<5>(x)
    }
    #[inline(always)]
    unsafe fn zip<S: Wide>(isa: S, rows: [*const u32; 2], to: *mut u32) {
        // SAFETY: readable and writable, by contract; rows of a cache need not be aligned, and are loaded as if they were not.
        unsafe { isa.store(isa.load(rows[0].cast()), to.cast()) }
    }
}

/// A pair of bf16 a word.
pub(super) struct BF16;

impl Number for BF16 {
    const PER_WORD: usize = 2;
    const STORED: KvFormat = KvFormat::BF16;

    #[inline(always)]
    unsafe fn store<S: Wide>(isa: S, v: S::F, to: *mut u32) {
        // SAFETY: writable, by contract.
        unsafe { isa.store_bf16(v, to.cast()) }
    }
    #[inline(always)]
    fn exp2<S: Wide>(isa: S, x: S::F) -> S::F {
        isa.exp2::<3>(x)
    }
    #[inline(always)]
    unsafe fn zip<S: Wide>(isa: S, rows: [*const u32; 2], to: *mut u32) {
        // SAFETY: readable and writable, by contract.
        unsafe { isa.store_bytes(isa.zip(rows[0].cast(), rows[1].cast()), to.cast()) }
    }
}

/// How rows and panels are multiplied. Sums are f32.
pub(super) trait Element: Copy + Send + Sync {
    /// What rows are made of.
    type Row: Number;
    /// What panels are made of.
    type Panel: Number;
    /// Sixteen words, or one part of each.
    type Words<S: Wide>: Copy;
    /// Elements a word of a panel.
    const PER_WORD: usize = Self::Panel::PER_WORD;
    /// Elements a word of a row.
    const ROW_PER_WORD: usize = Self::Row::PER_WORD;
    /// Parts of a panel's word, multiplied one after the other, each by a word of the row.
    const PARTS: usize = Self::PER_WORD / Self::ROW_PER_WORD;

    /// A part of sixteen words of a panel.
    ///
    /// # Safety
    /// Sixteen words are readable.
    unsafe fn load<S: Wide>(isa: S, from: *const u32, part: usize) -> Self::Words<S>;
    /// Sixteen times one word of a row.
    ///
    /// # Safety
    /// One word is readable.
    unsafe fn splat<S: Wide>(isa: S, from: *const u32) -> Self::Words<S>;
    /// `sum + w · x`, of each word.
    fn dot<S: Wide>(isa: S, sum: S::F, w: Self::Words<S>, x: Self::Words<S>) -> S::F;
    /// Whether rows of a cache of this format are multiplied as they lie there.
    fn multiplies(format: KvFormat) -> bool;
    /// What [`Element::load`] gives of a panel that has these stored rows, `PER_WORD` of them.
    ///
    /// # Safety
    /// Sixteen elements of each row are readable, and `multiplies` holds of the format.
    unsafe fn load_rows<S: Wide, R: Stored>(isa: S, rows: [*const u8; 2], part: usize) -> Self::Words<S>;
}

/// An f32 in all lanes.
///
/// # Safety
/// One word is readable.
#[inline(always)]
unsafe fn splat_f32<S: Wide>(isa: S, from: *const u32) -> S::F {
    // SAFETY: readable, by contract.
    isa.splat(f32::from_bits(unsafe { *from }))
}

/// f32 by f32.
#[derive(Clone, Copy)]
pub(super) struct Single;

impl Element for Single {
    type Row = F32;
    type Panel = F32;
    type Words<S: Wide> = S::F;

    #[inline(always)]
    unsafe fn load<S: Wide>(isa: S, from: *const u32, _: usize) -> S::F {
        // SAFETY: readable, by contract.
        unsafe { isa.load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn splat<S: Wide>(isa: S, from: *const u32) -> S::F {
        // SAFETY: readable, by contract.
        unsafe { splat_f32(isa, from) }
    }
    #[inline(always)]
    fn dot<S: Wide>(isa: S, sum: S::F, w: S::F, x: S::F) -> S::F {
        isa.fma(w, x, sum)
    }
    #[inline(always)]
    fn multiplies(format: KvFormat) -> bool {
        matches!(format, KvFormat::F32 | KvFormat::F16)
    }
    #[inline(always)]
    unsafe fn load_rows<S: Wide, R: Stored>(isa: S, rows: [*const u8; 2], _: usize) -> S::F {
        // SAFETY: readable, by contract.
        unsafe { R::load(isa, rows[0]) }
    }
}

/// f32 by pairs of bf16, which are widened as they are multiplied: the bits of [`Single`], from half the memory.
#[derive(Clone, Copy)]
pub(super) struct Widened;

impl Element for Widened {
    type Row = F32;
    type Panel = BF16;
    type Words<S: Wide> = S::F;

    #[inline(always)]
    unsafe fn load<S: Wide>(isa: S, from: *const u32, part: usize) -> S::F {
        // SAFETY: readable, by contract.
        let pairs = unsafe { isa.load_bytes(from.cast()) };
        if part == 0 { isa.evens(pairs) } else { isa.odds(pairs) }
    }
    #[inline(always)]
    unsafe fn splat<S: Wide>(isa: S, from: *const u32) -> S::F {
        // SAFETY: readable, by contract.
        unsafe { splat_f32(isa, from) }
    }
    #[inline(always)]
    fn dot<S: Wide>(isa: S, sum: S::F, w: S::F, x: S::F) -> S::F {
        isa.fma(w, x, sum)
    }
    #[inline(always)]
    fn multiplies(format: KvFormat) -> bool {
        matches!(format, KvFormat::BF16 | KvFormat::Int8)
    }
    #[inline(always)]
    unsafe fn load_rows<S: Wide, R: Stored>(isa: S, rows: [*const u8; 2], part: usize) -> S::F {
        // SAFETY: readable, by contract.
        unsafe { R::load(isa, rows[part]) }
    }
}

/// Pairs of bf16 by pairs of bf16.
#[derive(Clone, Copy)]
pub(super) struct Pairs;

impl Element for Pairs {
    type Row = BF16;
    type Panel = BF16;
    type Words<S: Wide> = S::B;

    #[inline(always)]
    unsafe fn load<S: Wide>(isa: S, from: *const u32, _: usize) -> S::B {
        // SAFETY: readable, by contract.
        unsafe { isa.load_bytes(from.cast()) }
    }
    #[inline(always)]
    unsafe fn splat<S: Wide>(isa: S, from: *const u32) -> S::B {
        // SAFETY: readable, by contract.
        unsafe { isa.splat_4(from.cast()) }
    }
    #[inline(always)]
    fn dot<S: Wide>(isa: S, sum: S::F, w: S::B, x: S::B) -> S::F {
        isa.dot_bf16(sum, w, x)
    }
    #[inline(always)]
    fn multiplies(format: KvFormat) -> bool {
        format == KvFormat::BF16
    }
    #[inline(always)]
    unsafe fn load_rows<S: Wide, R: Stored>(isa: S, rows: [*const u8; 2], _: usize) -> S::B {
        // SAFETY: readable, by contract, which says as well that they are bf16.
        unsafe { isa.zip(rows[0].cast(), rows[1].cast()) }
    }
}

/// How the cache stores elements.
pub(super) trait Stored {
    /// Its name.
    const FORMAT: KvFormat;
    /// Sixteen elements, widened; a scale is not applied.
    ///
    /// # Safety
    /// Sixteen elements are readable.
    unsafe fn load<S: Wide>(isa: S, from: *const u8) -> S::F;
}

macro_rules! stored {
    ($($name:ident $format:ident $load:ident $doc:literal),*) => {$(
        #[doc = $doc]
        pub(super) struct $name;
        impl Stored for $name {
            const FORMAT: KvFormat = KvFormat::$format;
            #[inline(always)]
            unsafe fn load<S: Wide>(isa: S, from: *const u8) -> S::F {
                // SAFETY: readable, by contract.
                unsafe { isa.$load(from.cast()) }
            }
        }
    )*};
}

stored! {
    StoredF32 F32 load "IEEE single.",
    StoredF16 F16 load_f16 "IEEE half.",
    StoredBF16 BF16 load_bf16 "bfloat16.",
    StoredInt8 Int8 load_i8 "Signed bytes."
}

/// An expression for how a cache of a format stores its elements.
macro_rules! by_format {
    ($format:expr, $R:ident => $body:expr) => {{
        macro_rules! of {
            ($stored:ident) => {{
                type $R = $crate::cpu::attention::element::$stored;
                $body
            }};
        }
        match $format {
            $crate::device::KvFormat::F32 => of!(StoredF32),
            $crate::device::KvFormat::F16 => of!(StoredF16),
            $crate::device::KvFormat::BF16 => of!(StoredBF16),
            $crate::device::KvFormat::Int8 => of!(StoredInt8),
        }
    }};
}
pub(super) use by_format;

/// The first `count` of sixteen stored elements, widened, then zeros.
///
/// # Safety
/// `count` elements are readable.
#[inline(always)]
pub(super) unsafe fn load_some<S: Wide, R: Stored>(isa: S, from: *const u8, count: usize) -> S::F {
    if count >= WIDE {
        // SAFETY: readable, by contract.
        return unsafe { R::load(isa, from) };
    }
    let mut whole = [0u8; 4 * WIDE];
    let bytes = count * R::FORMAT.element_bytes();
    // SAFETY: `count` elements are readable, and sixteen of any format fit in `whole`.
    unsafe {
        std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), bytes);
        R::load(isa, whole.as_ptr())
    }
}
