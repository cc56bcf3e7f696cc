//! Mixtures of experts against the reference: odd shapes, one token and many, experts that nobody chose, ties, NaN.
use super::ops::{FLAT, Pair, single_rows};
use super::*;

/// A mixture on both devices.
struct Mixture {
    pair: Pair,
    shape: MoeShape,
    norm: Vec<f32>,
    router: (Weight, reference::Matrix),
    gate_up: (Experts, Vec<reference::Matrix>),
    down: (Experts, Vec<reference::Matrix>),
    normalise: bool,
    act: Activation,
}

/// What varies apart from the shape.
struct Variant {
    tokens: usize,
    threads: usize,
    compute: DType,
    level: Level,
    normalise: bool,
    act: Activation,
    /// Formats of gate, up and down.
    formats: [DType; 3],
}

impl Mixture {
    fn new(random: &mut SmallRng, shape: MoeShape, it: &Variant, router: &Stored) -> Self {
        let Variant { tokens, threads, compute, level, normalise, act, formats } = *it;
        let MoeShape { experts, per_token, width, inner } = shape;
        let limits = Limits { tokens, slots: tokens, context: 8 };
        let what = format!(
            "{tokens} tokens by {per_token} of {experts} experts, {width} to {inner} in {formats:?}, {compute}, {}",
            level.name()
        );
        let mut pair = Pair::new(cpu(threads, compute, level), limits, 4, FLAT, what);
        pair.begin(&single_rows(random, tokens, 4));
        let router = pair.weights(std::slice::from_ref(router));
        let gate_up = experts_on(&mut pair, experts, || {
            vec![
                Stored::random(random, formats[0], &[inner, width]),
                Stored::random(random, formats[1], &[inner, width]),
            ]
        });
        let down = experts_on(&mut pair, experts, || vec![Stored::random(random, formats[2], &[width, inner])]);
        Self { pair, shape, norm: floats(random, width), router, gate_up, down, normalise, act }
    }

    /// The op on these residuals, by both.
    fn run(&mut self, x: &mut Tensor, x_ref: &mut reference::Tensor) {
        let (per_token, normalise, act) = (self.shape.per_token, self.normalise, self.act);
        let mut scratch = self.pair.cpu.moe_scratch(self.shape).unwrap();
        let weight = &Vector(self.norm.clone().into());
        let op = Moe {
            norm: Norm { weight, eps: 1e-5 },
            router: &self.router.0,
            gate_up: &self.gate_up.0,
            down: &self.down.0,
            per_token,
            normalise,
            act,
        };
        self.pair.cpu.moe(&op, &mut scratch, x);
        let op = Moe {
            norm: Norm { weight: &self.norm, eps: 1e-5 },
            router: &self.router.1,
            gate_up: &self.gate_up.1,
            down: &self.down.1,
            per_token,
            normalise,
            act,
        };
        self.pair.reference.moe(&op, &mut (), x_ref);
    }
}

fn experts_on(
    pair: &mut Pair,
    experts: usize,
    mut make: impl FnMut() -> Vec<Stored>,
) -> (Experts, Vec<reference::Matrix>) {
    let stored: Vec<Vec<Stored>> = (0..experts).map(|_| make()).collect();
    let views: Vec<Vec<_>> = stored.iter().map(|parts| parts.iter().map(Stored::view).collect()).collect();
    let cpu = pair.cpu.load_experts(&views, Shard::Whole).unwrap();
    (cpu, pair.reference.load_experts(&views, Shard::Whole).unwrap())
}

fn plain(tokens: usize, level: Level) -> Variant {
    let (normalise, act) = (true, Activation::Silu);
    Variant { tokens, threads: 2, compute: DType::F32, level, normalise, act, formats: [DType::F32; 3] }
}

#[test]
fn mixtures_of_every_shape_and_format() {
    // experts, per token, width, inner; the last two have whole blocks of every format but the K ones
    let shapes = [(1, 1, 7, 5), (5, 2, 33, 9), (16, 16, 18, 30), (64, 3, 130, 17), (9, 4, 64, 32), (128, 8, 96, 64)];
    for (case, level) in (0..24).flat_map(|case| levels().into_iter().map(move |level| (case, level))) {
        let random = &mut random(case);
        let (experts, per_token, width, inner) = shapes[case as usize % shapes.len()];
        let shape = MoeShape { experts, per_token, width, inner };
        let blocks = width % 32 == 0 && inner % 32 == 0;
        let formats: [DType; 3] = std::array::from_fn(|_| match blocks {
            true => DType::ALL[random.random_range(0..8usize)],
            false => DType::ALL[random.random_range(0..3usize)],
        });
        let it = Variant {
            tokens: [1, 2, 3, 40, 17, 39][random.random_range(0..6usize)],
            threads: random.random_range(1..4usize),
            compute: [DType::F32, DType::F32, DType::F16, DType::BF16][case as usize % 4],
            level,
            normalise: random.random(),
            act: [Activation::Silu, Activation::Gelu, Activation::GeluTanh][random.random_range(0..3usize)],
            formats,
        };
        let router = Stored::random(random, DType::F32, &[experts, width]);
        let mut mixture = Mixture::new(random, shape, &it, &router);
        let (mut x, mut x_ref) = mixture.pair.filled(random, width);
        // Twice: the second finds what the first left in the scratch's place.
        mixture.run(&mut x, &mut x_ref);
        mixture.pair.compare(&x, &x_ref, "moe");
    }
}

#[test]
fn of_equal_experts_the_lower_indices_are_chosen() {
    for level in levels() {
        let random = &mut random(5);
        let shape = MoeShape { experts: 6, per_token: 2, width: 16, inner: 8 };
        let row = Stored::random(random, DType::F32, &[1, 16]);
        let router = Stored { dtype: DType::F32, shape: vec![6, 16], data: row.data.repeat(6) };
        let mut mixture = Mixture::new(random, shape, &plain(3, level), &router);
        let (mut x, mut x_ref) = mixture.pair.filled(random, 16);
        mixture.run(&mut x, &mut x_ref);
        mixture.pair.compare(&x, &x_ref, "moe of ties");
        // The same choice is what `Choose` makes of equal logits.
        let (mut chosen, mut weights) = ([9; 2], [0.0; 2]);
        let (logits, normalise) = (&mut [0.25; 6], true);
        level.run(super::super::moe::Choose { logits, normalise, chosen: &mut chosen, weights: &mut weights });
        assert_eq!((chosen, weights), ([0, 1], [0.5, 0.5]));
    }
}

#[test]
fn all_tokens_may_choose_one_expert() {
    for level in levels() {
        let random = &mut random(6);
        let shape = MoeShape { experts: 5, per_token: 1, width: 16, inner: 24 };
        // Tokens are near all ones, and row 3 of the router likes that.
        let rows = [0.0f32, 0.1, -0.2, 2.0, 0.3];
        let data = rows.iter().flat_map(|x| [*x; 16]).flat_map(f32::to_le_bytes).collect();
        let router = Stored { dtype: DType::F32, shape: vec![5, 16], data };
        let mut mixture = Mixture::new(random, shape, &plain(37, level), &router);
        mixture.norm = vec![1.0; 16];
        let (mut x, mut x_ref) = mixture.pair.tensors(16);
        for t in 0..37 {
            let values: Vec<f32> = floats(random, 16).iter().map(|x| 1.0 + 0.1 * x).collect();
            Cpu::set(&mut x, t, &values);
            Reference::set(&mut x_ref, t, &values);
        }
        mixture.run(&mut x, &mut x_ref);
        mixture.pair.compare(&x, &x_ref, "moe of one expert");
    }
}

#[test]
fn a_token_that_is_not_a_number_spoils_no_other() {
    for level in levels() {
        let random = &mut random(7);
        let shape = MoeShape { experts: 8, per_token: 3, width: 32, inner: 16 };
        let router = Stored::random(random, DType::F32, &[8, 32]);
        let mut mixture = Mixture::new(random, shape, &plain(6, level), &router);
        let (x, mut x_ref) = mixture.pair.filled(random, 32);
        let mut alone = mixture.pair.cpu.tensor(32).unwrap();
        for t in 0..6 {
            Cpu::set(&mut alone, t, &Cpu::get(&x, t));
        }
        mixture.run(&mut alone, &mut x_ref);
        for values in [[f32::NAN; 32], [f32::INFINITY; 32]] {
            let (mut spoiled, mut ignored) = mixture.pair.tensors(32);
            for t in 0..6 {
                Cpu::set(&mut spoiled, t, &Cpu::get(&x, t));
            }
            Cpu::set(&mut spoiled, 2, &values);
            mixture.run(&mut spoiled, &mut ignored);
            for t in 0..6 {
                let (got, expected) = (Cpu::get(&spoiled, t), Cpu::get(&alone, t));
                assert_eq!(t == 2, got.iter().any(|x| x.is_nan()), "token {t}");
                assert!(t == 2 || got == expected, "token {t}");
            }
        }
    }
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    let mut cpu = cpu(1, DType::F32, Level::detect());
    cpu.reserve(Limits { tokens: 1 << 40, slots: 1, context: 8 }, 4).unwrap();
    for per_token in [1, 1 << 40] {
        let shape = MoeShape { experts: 1 << 40, per_token, width: 64, inner: 64 };
        let error = cpu.moe_scratch(shape).err().expect("more than any memory");
        assert!(error.to_string().contains("the experts' activations"), "{error}");
    }
}
