//! Dot products of every row of one matrix with every row of another: where the time goes.
//!
//! Each product has one accumulator of eight lanes, filled in order of k and summed as a tree, whatever its neighbours:
//! so a value has the same bits in a batch of 1 and of 1000. Registers are shared instead: a tile of x rows times w rows
//! loads each vector once for several products. AVX2 has 16 registers, and two FMAs a cycle of latency 4 want at least
//! eight accumulators: tiles of 12, down to 8 for a single row of x.
use super::{Isa, Kernel};

/// `out[m][n] = x[m] · w[n]`
pub(in crate::cpu) struct Panel<'a> {
    /// `[m, k]`, rows `x_stride` apart.
    pub x: &'a [f32],
    /// Elements from a row of x to the next.
    pub x_stride: usize,
    /// `[n, k]`, rows `k` apart.
    pub w: &'a [f32],
    /// Elements of a product: whole vectors.
    pub k: usize,
    /// Rows of x.
    pub m: usize,
    /// Rows of w.
    pub n: usize,
    /// `[m, n]`, rows `out_stride` apart.
    pub out: &'a mut [f32],
    /// Elements from a row of out to the next.
    pub out_stride: usize,
}

impl Kernel for Panel<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Isa>(mut self, isa: S) {
        assert!(self.k.is_multiple_of(super::LANES) && self.k <= self.x_stride && self.n <= self.out_stride);
        assert!(self.m == 0 || self.x.len() >= (self.m - 1) * self.x_stride + self.k);
        assert!(self.w.len() >= self.n * self.k);
        assert!(self.m == 0 || self.out.len() >= (self.m - 1) * self.out_stride + self.n);
        let mut m = 0;
        while m + 4 <= self.m {
            self.rows::<S, 4, 3>(isa, m);
            m += 4;
        }
        match self.m - m {
            3 => self.rows::<S, 3, 4>(isa, m),
            2 => self.rows::<S, 2, 6>(isa, m),
            1 => self.rows::<S, 1, 8>(isa, m),
            _ => {}
        }
    }
}

impl Panel<'_> {
    /// `M` rows of x with all rows of w, `N` at a time.
    #[inline(always)]
    fn rows<S: Isa, const M: usize, const N: usize>(&mut self, isa: S, m: usize) {
        let mut n = 0;
        while n + N <= self.n {
            self.tile::<S, M, N>(isa, m, n);
            n += N;
        }
        while n < self.n {
            self.tile::<S, M, 1>(isa, m, n);
            n += 1;
        }
    }

    // Loops over indices: what an iterator over an array of registers compiles to keeps them in memory.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn tile<S: Isa, const M: usize, const N: usize>(&mut self, isa: S, m: usize, n: usize) {
        let x = self.x[m * self.x_stride..][..(M - 1) * self.x_stride + self.k].as_ptr();
        let w = self.w[n * self.k..][..N * self.k].as_ptr();
        let mut sums = [[isa.splat(0.0); N]; M];
        let mut k = 0;
        while k < self.k {
            let mut columns = [isa.splat(0.0); N];
            for j in 0..N {
                // SAFETY: k is a multiple of eight below self.k, itself one; so the load ends within row j of N.
                columns[j] = unsafe { isa.load(w.add(j * self.k + k)) };
            }
            for i in 0..M {
                // SAFETY: likewise within row i of M.
                let x = unsafe { isa.load(x.add(i * self.x_stride + k)) };
                for j in 0..N {
                    sums[i][j] = isa.fma(x, columns[j], sums[i][j]);
                }
            }
            k += super::LANES;
        }
        for i in 0..M {
            let out = &mut self.out[(m + i) * self.out_stride + n..][..N];
            let mut j = 0;
            while j < N {
                let mut four = [isa.splat(0.0); 4];
                let count = if N - j < 4 { N - j } else { 4 };
                four[..count].copy_from_slice(&sums[i][j..j + count]);
                out[j..j + count].copy_from_slice(&isa.sums(four)[..count]);
                j += 4;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::super::Level;
    use super::*;

    fn product(level: Level, x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
        let (m, n) = (x.len() / k, w.len() / k);
        let mut out = vec![f32::NAN; m * n];
        level.run(Panel { x, x_stride: k, w, k, m, n, out: &mut out, out_stride: n });
        out
    }

    #[test]
    fn tiles_of_every_shape_agree_bit_by_bit_and_with_f64() {
        let mut random = SmallRng::seed_from_u64(1);
        for level in Level::all() {
            for k in [8, 64, 136] {
                let x: Vec<f32> = (0..11 * k).map(|_| random.random_range(-1.0..1.0)).collect();
                let w: Vec<f32> = (0..29 * k).map(|_| random.random_range(-1.0..1.0)).collect();
                let all = product(level, &x, &w, k);
                for m in 0..11 {
                    for n in 0..29 {
                        let (x, w) = (&x[m * k..][..k], &w[n * k..][..k]);
                        let exact: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                        let got = all[m * 29 + n];
                        assert!((f64::from(got) - exact).abs() < 1e-5, "{m} {n}: {got}, {exact}");
                        assert_eq!(product(level, x, w, k)[0].to_bits(), got.to_bits());
                    }
                }
                for rows in 1..8 {
                    let some = product(level, &x[..rows * k], &w, k);
                    assert_eq!(some, all[..rows * 29]);
                }
            }
        }
    }
}
