//! A mixture's experts: found in the forms that files have them in, cut into each expert's matrices, loaded onto a device.
//!
//! ```text
//!   experts.3.gate_proj [inner, hidden]         a tensor for each                 Hugging Face
//!   ffn_gate_exps [experts, inner, hidden]      one for all: gate, up, down       GGUF
//!   gate_up_proj [experts, 2 * inner, hidden]   gate and up in one as well        transformers 5's own form, newer GGUF
//! ```
use minisgl_checkpoint::{CheckpointError, Tensor};
use minisgl_kernels::{Device, MoeShape, TensorView};

use super::names::ExpertMatrix;
use super::spec::ModelError;
use super::weights::{Loader, Mlp};

/// One matrix of every expert, as the file has them.
struct Matrices<'a> {
    /// One for each expert, or one of all.
    tensors: Vec<Tensor<'a>>,
    /// Of one expert: `[rows, columns]`.
    shape: [usize; 2],
    /// In a tensor of all: the first expert's first row, and rows from an expert to the next.
    first: usize,
    step: usize,
}

impl Matrices<'_> {
    fn of(&self, expert: usize) -> TensorView<'_> {
        let (tensor, row) = match &self.tensors[..] {
            [all] => (all, self.first + expert * self.step),
            each => (&each[expert], 0),
        };
        let [rows, columns] = self.shape;
        let row_bytes = tensor.dtype.row_bytes(columns).expect("a checkpoint lends whole blocks");
        let data = &tensor.data[row * row_bytes..][..rows * row_bytes];
        TensorView { name: &tensor.name, dtype: tensor.dtype, shape: &self.shape, data }
    }
}

impl<'a, D: Device> Loader<'a, D> {
    /// Layer `i`'s mixture. `shape` is the whole model's, since files hold whole tensors.
    pub(super) fn mixture(&mut self, i: usize, shape: MoeShape) -> Result<Mlp<D>, ModelError> {
        let MoeShape { experts, width, inner, .. } = shape;
        let router = self.router(i, [experts, width])?;
        let gate_up = match self.checkpoint.has(&self.names.experts(i, ExpertMatrix::GateUp)) {
            true => vec![self.half(i, shape, 0)?, self.half(i, shape, 1)?],
            false => vec![
                self.expert_matrices(i, ExpertMatrix::Gate, experts, [inner, width])?,
                self.expert_matrices(i, ExpertMatrix::Up, experts, [inner, width])?,
            ],
        };
        let down = [self.expert_matrices(i, ExpertMatrix::Down, experts, [width, inner])?];
        let gate_up = self.device.load_experts(&views(&gate_up, experts), self.rank.rows())?;
        let down = self.device.load_experts(&views(&down, experts), self.rank.columns())?;
        Ok(Mlp::Mixture { router, gate_up, down })
    }

    /// Gate (0) or up (1) of a tensor that has both.
    fn half(&self, layer: usize, shape: MoeShape, half: usize) -> Result<Matrices<'a>, ModelError> {
        let MoeShape { experts, width, inner, .. } = shape;
        let name = self.names.experts(layer, ExpertMatrix::GateUp);
        let tensors = vec![self.checkpoint.tensor(&name, &[experts, 2 * inner, width])?];
        Ok(Matrices { tensors, shape: [inner, width], first: half * inner, step: 2 * inner })
    }

    /// One tensor of all experts where the file has that, or else one for each.
    fn expert_matrices(
        &self,
        layer: usize,
        matrix: ExpertMatrix,
        experts: usize,
        shape: [usize; 2],
    ) -> Result<Matrices<'a>, ModelError> {
        let [rows, columns] = shape;
        let all = self.names.experts(layer, matrix);
        let each = |expert| self.names.expert(layer, expert, matrix).filter(|_| !self.checkpoint.has(&all));
        let names: Option<Vec<String>> = (0..experts).map(each).collect();
        let tensors: Result<_, CheckpointError> = match names {
            Some(names) => names.iter().map(|name| self.checkpoint.tensor(name, &shape)).collect(),
            None => self.checkpoint.tensor(&all, &[experts, rows, columns]).map(|tensor| vec![tensor]),
        };
        Ok(Matrices { tensors: tensors?, shape, first: 0, step: rows })
    }
}

/// For each expert its matrices, to be stacked.
fn views<'s>(matrices: &'s [Matrices<'_>], experts: usize) -> Vec<Vec<TensorView<'s>>> {
    (0..experts).map(|expert| matrices.iter().map(|matrix| matrix.of(expert)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use minisgl_checkpoint::{Checkpoint, OpenOptions};
    use minisgl_kernels::KvFormat;
    use minisgl_kernels::reference::Reference;
    use safetensors::SafeTensors;
    use serde_json::{Value, json};

    use super::super::decoder::Decoder;
    use super::super::spec::Rank;

    /// Loads the fixture with fields of its config replaced and tensors of these names left out; the error.
    fn error(fields: Value, left_out: &str) -> String {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/qwen3-moe");
        let folder = tempfile::tempdir().unwrap();
        let mut config: Value = serde_json::from_slice(&std::fs::read(fixture.join("config.json")).unwrap()).unwrap();
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let bytes = std::fs::read(fixture.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        let kept = tensors.into_iter().filter(|(name, _)| name != left_out);
        safetensors::serialize_to_file(kept, None, &folder.path().join("model.safetensors")).unwrap();
        let options = OpenOptions { dummy_weights: false, weights: true };
        let checkpoint = Checkpoint::open(folder.path(), options).unwrap();
        let loaded = Decoder::load(&mut Reference::new(KvFormat::F32), &checkpoint, Rank::SOLE, &mut |_, _| {});
        loaded.err().expect("the files do not go together").to_string()
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let missing = "model.layers.2.mlp.experts.5.up_proj.weight";
        let said = error(json!({}), missing);
        assert!(said.contains(&format!("tensor '{missing}': in none of the safetensors files")), "{said}");
        let said = error(json!({"num_local_experts": 9}), "");
        assert!(said.contains("'model.layers.0.mlp.gate.weight': expected shape [9, 64], found [8, 64]"), "{said}");
        let said = error(json!({"moe_intermediate_size": 30}), "");
        let first = "'model.layers.0.mlp.experts.0.gate_proj.weight': expected shape [30, 64], found [32, 64]";
        assert!(said.contains(first), "{said}");
        let said = error(json!({"mlp_only_layers": []}), "");
        assert!(said.contains("'model.layers.1.mlp.gate.weight'"), "{said}");
    }
}
