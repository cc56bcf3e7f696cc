//! The pass as a device sees it: which operations, in which order, on which weights; and that nothing of a step changes them.
use std::path::Path;

use minisgl_checkpoint::OpenOptions;
use minisgl_kernels::{
    Activation, Collective, KvShape, Limits, Moe, MoeShape, PageId, RopeLayout, RowError, SampleRow, Shard, Slot, Step,
    StepKey, StepRow, TensorView, TokenId, TokenSource, Want,
};

use super::*;

/// Computes nothing, writes down everything. Weights are their parts' names, tensors their widths.
#[derive(Default)]
struct Tape {
    loads: Vec<String>,
    ops: Vec<String>,
    tensors: usize,
}

fn joined(parts: &[TensorView<'_>]) -> String {
    let short = |name: &str| name.trim_start_matches("model.").trim_end_matches(".weight").to_owned();
    parts.iter().map(|part| short(part.name)).collect::<Vec<_>>().join("+")
}

impl Device for Tape {
    type Weight = String;
    type Vector = String;
    type Tensor = usize;
    type Experts = String;
    type MoeScratch = MoeShape;

    fn name(&self) -> String {
        "tape".to_owned()
    }
    fn join(&mut self, _: Collective) {}
    fn load(&mut self, parts: &[TensorView<'_>], shard: Shard) -> Result<String, DeviceError> {
        let shapes: Vec<_> = parts.iter().map(|part| format!("{:?}", part.shape)).collect();
        self.loads.push(format!("{} {} {shard:?}", joined(parts), shapes.join("+")));
        Ok(joined(parts))
    }
    fn load_experts(&mut self, experts: &[Vec<TensorView<'_>>], shard: Shard) -> Result<String, DeviceError> {
        let experts: Vec<String> = experts.iter().map(|parts| joined(parts)).collect();
        self.loads.push(format!("[{}] {shard:?}", experts.join(", ")));
        Ok(format!("[{}]", experts.join(", ")))
    }
    fn load_vector(&mut self, parts: &[TensorView<'_>], shard: Shard) -> Result<String, DeviceError> {
        self.load(parts, shard)
    }
    fn vector(&mut self, values: &[f32]) -> Result<String, DeviceError> {
        Ok(format!("{} frequencies", values.len()))
    }
    fn reserve(&mut self, _: Limits, _: usize) -> Result<(), DeviceError> {
        Ok(())
    }
    fn tensor(&mut self, width: usize) -> Result<usize, DeviceError> {
        self.tensors += 1;
        Ok(width)
    }
    fn moe_scratch(&mut self, shape: MoeShape) -> Result<MoeShape, DeviceError> {
        Ok(shape)
    }
    fn kv_cache(&mut self, _: KvShape) -> Result<(), DeviceError> {
        Ok(())
    }
    fn page_bytes(&self, _: KvShape) -> usize {
        1
    }
    fn available_memory(&self) -> usize {
        usize::MAX
    }
    fn begin(&mut self, _: &Step<'_>) {}
    fn step(&mut self, _: StepKey, forward: &mut dyn FnMut(&mut Self)) {
        forward(self);
    }
    fn embed(&mut self, table: &String, out: &mut usize) {
        self.ops.push(format!("embed {table} -> {out}"));
    }
    fn norm_matmul(&mut self, x: &usize, norm: &Norm<'_, String>, w: &String, out: &mut usize) {
        self.ops.push(format!("norm_matmul {x} {} {w} -> {out}", norm.weight));
    }
    fn rope_store_kv(&mut self, qkv: &mut usize, op: &RopeStore<'_, String>) {
        assert_eq!((op.layout, op.rope_scale), (RopeLayout::Halves, 1.0));
        let (heads, bias, norm) = ((op.heads, op.kv_heads, op.head_dim), op.bias, op.q_norm.is_some());
        let layer = op.layer;
        self.ops.push(format!("rope_store_kv {layer}: {qkv} {heads:?} {bias:?} {norm} {}", op.inv_freq));
    }
    fn attend(&mut self, qkv: &usize, op: &Attend, out: &mut usize) {
        self.ops.push(format!("attend {}: {qkv} {} {:?} -> {out}", op.layer, op.scale, op.window));
    }
    fn gated(&mut self, gate_up: &usize, bias: Option<&String>, act: Activation, out: &mut usize) {
        self.ops.push(format!("gated {gate_up} {bias:?} {act:?} -> {out}"));
    }
    fn matmul_reduce_add(&mut self, x: &usize, w: &String, bias: Option<&String>, residual: &mut usize) {
        self.ops.push(format!("matmul_reduce_add {x} {w} {bias:?} -> {residual}"));
    }
    fn moe(&mut self, op: &Moe<'_, Self>, scratch: &mut MoeShape, residual: &mut usize) {
        let Moe { norm, router, gate_up, down, per_token, normalise, act } = op;
        assert_eq!(scratch.per_token, *per_token);
        let norm = norm.weight;
        self.ops.push(format!("moe {norm} {router} {per_token} {normalise} {gate_up} {act:?} {down} -> {residual}"));
    }
    fn logits(&mut self, x: &usize, norm: &Norm<'_, String>, head: &String) {
        self.ops.push(format!("logits {x} {} {head}", norm.weight));
    }
    fn sample(&mut self, _: &[SampleRow<'_>]) -> Vec<Result<TokenId, RowError>> {
        unreachable!("the pass does not sample")
    }
    fn scores(&self, _: usize) -> Vec<f32> {
        unreachable!("the pass reads no scores")
    }
}

fn open(model: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(model);
    let gguf = folder.join("model.gguf");
    let path = if gguf.exists() { gguf } else { folder };
    Checkpoint::open(&path, OpenOptions { dummy_weights: false, weights: true }).unwrap()
}

fn load(model: &str, rank: Rank) -> (Tape, Decoder<Tape>) {
    let checkpoint = open(model);
    let mut tape = Tape::default();
    let decoder = Decoder::load(&mut tape, &checkpoint, rank, &mut |_, _| {}).unwrap();
    (tape, decoder)
}

#[test]
fn the_pass_in_operations() {
    let (mut tape, decoder) = load("llama-bias", Rank::SOLE);
    let mut x = Activations::new(&mut tape, decoder.spec()).unwrap();
    decoder.forward(&mut tape, &mut x);
    let layer = |i: usize| {
        let name = |part: &str| format!("layers.{i}.{part}");
        let qkv = ["q", "k", "v"].map(|part| name(&format!("self_attn.{part}_proj")));
        let gate_up = ["gate", "up"].map(|part| name(&format!("mlp.{part}_proj")));
        let biases = |names: &[String]| names.iter().map(|name| format!("{name}.bias")).collect::<Vec<_>>().join("+");
        let (o, down) = (name("self_attn.o_proj"), name("mlp.down_proj"));
        [
            format!("norm_matmul 64 {} {} -> 256", name("input_layernorm"), qkv.join("+")),
            format!("rope_store_kv {i}: 256 (2, 1, 64) Some({:?}) false 32 frequencies", biases(&qkv)),
            format!("attend {i}: 256 0.125 None -> 128"),
            format!("matmul_reduce_add 128 {o} Some(\"{o}.bias\") -> 64"),
            format!("norm_matmul 64 {} {} -> 192", name("post_attention_layernorm"), gate_up.join("+")),
            format!("gated 192 Some({:?}) Gelu -> 96", biases(&gate_up)),
            format!("matmul_reduce_add 96 {down} Some(\"{down}.bias\") -> 64"),
        ]
    };
    let mut expected = vec!["embed embed_tokens -> 64".to_owned()];
    expected.extend(layer(0));
    expected.extend(layer(1));
    expected.push("logits 64 norm embed_tokens".to_owned()); // tied
    assert_eq!(tape.ops, expected);
}

#[test]
fn a_mixture_takes_the_mlp_s_place_in_sparse_layers() {
    let (mut tape, decoder) = load("qwen3-moe", Rank::SOLE);
    let mut x = Activations::new(&mut tape, decoder.spec()).unwrap();
    decoder.forward(&mut tape, &mut x);
    let experts = |i: usize, parts: &[&str]| {
        let expert = |e| parts.iter().map(move |part| format!("layers.{i}.mlp.experts.{e}.{part}_proj"));
        let experts: Vec<String> = (0..8).map(|e| expert(e).collect::<Vec<_>>().join("+")).collect();
        format!("[{}]", experts.join(", "))
    };
    let mixture = |i| {
        let (norm, router) = (format!("layers.{i}.post_attention_layernorm"), format!("layers.{i}.mlp.gate"));
        let (gate_up, down) = (experts(i, &["gate", "up"]), experts(i, &["down"]));
        format!("moe {norm} {router} 3 true {gate_up} Silu {down} -> 64")
    };
    let mlps: Vec<&String> = tape.ops.iter().filter(|op| op.contains("moe") || op.contains("mlp")).collect();
    assert_eq!((mlps.len(), mlps[0], mlps[3]), (4, &mixture(0), &mixture(2)));
    assert!(mlps[1].starts_with("norm_matmul 64 layers.1.post_attention_layernorm layers.1.mlp.gate_proj"));
}

#[test]
fn a_rank_has_columns_of_every_expert() {
    let (tape, decoder) = load("qwen3-moe-stacked", Rank { rank: 0, of: 1 });
    assert_eq!(decoder.spec().moe_shape().unwrap().inner, 24);
    // Gate and up are cut out of one tensor: its name stands twice for each expert.
    let both = ["layers.1.mlp.experts.gate_up_proj+layers.1.mlp.experts.gate_up_proj"; 5].join(", ");
    assert!(tape.loads.contains(&format!("[{both}] Whole")), "{:?}", tape.loads);

    let checkpoint = open("gguf-qwen3moe");
    let rank = Rank { rank: 1, of: 2 };
    let (mut tape, whole) = (Tape::default(), DecoderSpec::of(&checkpoint).unwrap());
    let names = Names::of(checkpoint.config());
    let mut loader = Loader { device: &mut tape, checkpoint: &checkpoint, names, rank, spec: &whole };
    loader.mixture(0, whole.moe_shape().unwrap()).map(|_| ()).unwrap();
    let of_each = |name: &str| format!("[{}]", [name; 6].join(", "));
    let expected = [
        "blk.0.ffn_gate_inp [6, 64] Whole".to_owned(),
        format!("{} Rows {{ rank: 1, of: 2 }}", of_each("blk.0.ffn_gate_exps+blk.0.ffn_up_exps")),
        format!("{} Columns {{ rank: 1, of: 2 }}", of_each("blk.0.ffn_down_exps")),
    ];
    assert_eq!(tape.loads, expected);
}

/// What lets a device capture the pass once and replay it: it is the same launches on the same buffers, whatever the step.
#[test]
fn a_step_changes_nothing_in_the_pass() {
    let (mut tape, decoder) = load("qwen3", Rank::SOLE);
    let mut x = Activations::new(&mut tape, decoder.spec()).unwrap();
    let (loads, tensors) = (tape.loads.len(), tape.tensors);
    let tokens = [1, 2, 3, 4, 5];
    let row = |slot, tokens, want| StepRow { slot: Slot(slot), start: 0, tokens, pages: &[PageId(0)], want };
    let steps = [
        vec![row(0, TokenSource::Tokens(&tokens), Want::Nothing)],
        vec![row(0, TokenSource::LastSampled, Want::Sample), row(7, TokenSource::Tokens(&tokens), Want::Scores)],
    ];
    let mut passes = Vec::new();
    for rows in &steps {
        // Padded to what a captured graph may have been made for.
        let key = StepKey { tokens: 64, rows: 8 };
        tape.begin(&Step { rows });
        tape.step(key, &mut |device| decoder.forward(device, &mut x));
        passes.push(std::mem::take(&mut tape.ops));
    }
    assert_eq!(passes[0], passes[1]);
    assert_eq!((tape.loads.len(), tape.tensors), (loads, tensors), "the pass allocates nothing");
}

#[test]
fn a_rank_loads_its_part() {
    let rank = Rank { rank: 1, of: 2 };
    let (mut tape, decoder) = load("llama", rank);
    let rows = "Rows { rank: 1, of: 2 }";
    let layer = |i: usize| {
        [
            format!("layers.{i}.input_layernorm [64] Whole"),
            // Of 4 heads and 2 K/V heads.
            format!(
                "layers.{i}.self_attn.q_proj+layers.{i}.self_attn.k_proj+layers.{i}.self_attn.v_proj \
                 [128, 64]+[64, 64]+[64, 64] Whole"
            ),
            format!("layers.{i}.self_attn.o_proj [64, 256] Columns {{ rank: 1, of: 2 }}"),
            format!("layers.{i}.post_attention_layernorm [64] Whole"),
            format!("layers.{i}.mlp.gate_proj+layers.{i}.mlp.up_proj [96, 64]+[96, 64] {rows}"),
            format!("layers.{i}.mlp.down_proj [64, 96] Columns {{ rank: 1, of: 2 }}"),
        ]
    };
    let mut expected = vec![format!("embed_tokens [256, 64] {rows}")];
    expected.extend(layer(0));
    expected.extend(layer(1));
    expected.extend(["norm [64] Whole".to_owned(), format!("lm_head [256, 64] {rows}")]);
    assert_eq!(tape.loads, expected);

    let mut x = Activations::new(&mut tape, decoder.spec()).unwrap();
    decoder.forward(&mut tape, &mut x);
    assert!(
        tape.ops.contains(&"rope_store_kv 0: 256 (2, 1, 64) None false 32 frequencies".to_owned()),
        "{:?}",
        tape.ops
    );
}
