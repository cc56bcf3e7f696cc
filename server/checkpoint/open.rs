//! [`Checkpoint`]: one way to a model's numbers, tensors and tokenizer, whichever form its files have.
use std::path::{Path, PathBuf};

use crate::config::{GenerationConfig, ModelConfig};
use crate::dummy::{self, Made};
use crate::error::CheckpointError;
use crate::gguf::Gguf;
use crate::hf;
use crate::safetensors::Shards;
use crate::tensor::Tensor;
use crate::tokenizer::TokenizerSource;

/// What of a checkpoint is wanted.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Make up the weights: no weight file is needed or opened.
    pub dummy_weights: bool,
    /// Weights at all. Without them the config and the tokenizer can be had, and no tensor.
    pub weights: bool,
}

enum Weights {
    Closed,
    Made(Made),
    Shards(Shards),
    /// In the GGUF file itself.
    Gguf,
}

/// An open model: a GGUF file or a directory in Hugging Face form.
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    generation: GenerationConfig,
    gguf: Option<Gguf>,
    weights: Weights,
}

impl Checkpoint {
    /// Opens the file or directory and checks all that its headers state.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self, CheckpointError> {
        if std::fs::metadata(path).map_err(CheckpointError::io(path))?.is_dir() {
            Self::open_directory(path, options)
        } else {
            Self::open_gguf(path, options)
        }
    }

    fn open_directory(path: &Path, options: OpenOptions) -> Result<Self, CheckpointError> {
        let raw = hf::read_raw(path)?;
        let mut config = hf::model_config(&path.join("config.json"), &raw)?;
        let weights = match options {
            OpenOptions { weights: false, .. } => Weights::Closed,
            OpenOptions { dummy_weights: true, .. } => Weights::Made(Made::new(&config)),
            _ => {
                let shards = Shards::open(path, &config.tensor_prefix)?;
                if config.tensor_prefix == hf::NESTED_PREFIX {
                    // Inner and outer config contradict each other in real files; the tensors do not.
                    config.tie_word_embeddings = !shards.has(&format!("{}lm_head.weight", config.tensor_prefix));
                }
                Weights::Shards(shards)
            }
        };
        let generation = hf::read_generation(path, &raw)?;
        Ok(Self { path: path.to_path_buf(), config, generation, gguf: None, weights })
    }

    fn open_gguf(path: &Path, options: OpenOptions) -> Result<Self, CheckpointError> {
        let gguf = Gguf::open(path)?;
        let (config, generation) = (gguf.config()?, gguf.generation()?);
        let weights = match options {
            OpenOptions { weights: false, .. } => Weights::Closed,
            OpenOptions { dummy_weights: true, .. } => Weights::Made(Made::new(&config)),
            _ => Weights::Gguf,
        };
        Ok(Self { path: path.to_path_buf(), config, generation, gguf: Some(gguf), weights })
    }

    /// The file or directory, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's numbers.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The model's own defaults for generation.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// Reads the tokenizer's files.
    pub fn tokenizer(&self) -> Result<TokenizerSource, CheckpointError> {
        match &self.gguf {
            Some(gguf) => gguf.tokenizer().map(TokenizerSource::Gguf),
            None => TokenizerSource::open(&self.path),
        }
    }

    /// Whether [`tensor`](Self::tensor) can give the tensor. With made-up weights the config decides: the output matrix
    /// where it is not tied, biases where a flag or the architecture says so. A made-up GGUF has what the file lists.
    pub fn has(&self, name: &str) -> bool {
        match (&self.weights, &self.gguf) {
            (Weights::Closed, _) => false,
            (Weights::Shards(shards), _) => shards.has(name),
            (_, Some(gguf)) => gguf.has(name),
            (_, None) => dummy::has(&self.config, name),
        }
    }

    /// The tensor of that name, which must have that shape (rows first). Names are the file's own: `blk.0.attn_q.weight`
    /// in GGUF, `{tensor_prefix}model.layers.0.self_attn.q_proj.weight` in Hugging Face form.
    ///
    /// # Errors
    /// Where the tensor is absent, of another shape, or of a type that is not read.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor<'_>, CheckpointError> {
        let wrong = |why: String| CheckpointError::tensor(&self.path, name, why);
        match (&self.weights, &self.gguf) {
            (Weights::Closed, _) => Err(wrong("the checkpoint was opened without weights".into())),
            (Weights::Shards(shards), _) => shards.tensor(name, shape),
            (Weights::Made(_), _) if !self.has(name) => Err(wrong("the model has no such tensor".into())),
            (Weights::Made(made), _) => made.tensor(name, shape).map_err(wrong),
            (Weights::Gguf, Some(gguf)) => gguf.tensor(name, shape),
            (Weights::Gguf, None) => unreachable!("only a GGUF file has its weights within"),
        }
    }

    /// Bytes of the text model's weights; zero where they were not wanted. Of made-up weights, the bytes of its matrices.
    pub fn weight_bytes(&self) -> u64 {
        match (&self.weights, &self.gguf) {
            (Weights::Closed, _) => 0,
            (Weights::Shards(shards), _) => shards.bytes(&self.config.tensor_prefix),
            (Weights::Gguf, Some(gguf)) => gguf.bytes(),
            _ => dummy::bytes(&self.config),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{safetensors_bytes, tiny_gguf, tiny_json, write};

    const WHOLE: OpenOptions = OpenOptions { dummy_weights: false, weights: true };
    const DUMMY: OpenOptions = OpenOptions { dummy_weights: true, weights: true };
    const CLOSED: OpenOptions = OpenOptions { dummy_weights: false, weights: false };

    #[test]
    fn a_directory_opens_with_without_and_with_made_up_weights() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        write(path, "config.json", tiny_json().to_string());
        write(path, "generation_config.json", r#"{"eos_token_id":[2,3]}"#);
        write(path, "tokenizer.json", "{}");
        assert!(Checkpoint::open(path, WHOLE).err().unwrap().to_string().contains("no weights"));

        let closed = Checkpoint::open(path, CLOSED).unwrap();
        assert_eq!((closed.weight_bytes(), closed.has("model.norm.weight")), (0, false));
        assert!(closed.tensor("model.norm.weight", &[8]).unwrap_err().to_string().contains("opened without weights"));
        assert_eq!(closed.generation().eos_token_ids, [2, 3]);
        assert!(closed.tokenizer().is_ok());

        let dummy = Checkpoint::open(path, DUMMY).unwrap();
        assert!(dummy.has("lm_head.weight"));
        assert_eq!(dummy.tensor("model.norm.weight", &[8]).unwrap().data.len(), 16);
        assert!(dummy.tensor("model.nope", &[8]).unwrap_err().to_string().contains("the model has no such tensor"));
        let matrices = 2 * (2 * (2 + 1) * 4 * 8 + 3 * 16 * 8) + 2 * 32 * 8;
        assert_eq!(dummy.weight_bytes(), 2 * matrices);

        write(path, "model.safetensors", safetensors_bytes(&[("model.norm.weight", "F32", &[8], &[1; 32])]));
        let whole = Checkpoint::open(path, WHOLE).unwrap();
        assert_eq!((whole.path(), whole.weight_bytes()), (path, 32));
        assert_eq!(whole.tensor("model.norm.weight", &[8]).unwrap().data.as_ref(), [1; 32]);
        assert!(!whole.config().tie_word_embeddings);
    }

    #[test]
    fn a_nested_model_is_tied_where_it_has_no_output_matrix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let config = serde_json::json!({"architectures": ["Mistral3ForConditionalGeneration"], "text_config": tiny_json(), "tie_word_embeddings": true});
        write(path, "config.json", config.to_string());
        for (head, tied) in [("lm_head.weight", false), ("model.language_model.norm.weight", true)] {
            write(path, "model.safetensors", safetensors_bytes(&[(head, "F32", &[1], &[0; 4])]));
            assert_eq!(Checkpoint::open(path, WHOLE).unwrap().config().tie_word_embeddings, tied);
        }
    }

    #[test]
    fn a_gguf_file_opens_with_without_and_with_made_up_weights() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.gguf");
        write(directory.path(), "m.gguf", tiny_gguf().bytes());
        let whole = Checkpoint::open(&path, WHOLE).unwrap();
        assert_eq!((whole.weight_bytes(), whole.has("output_norm.weight")), (182, true));
        assert_eq!(whole.tensor("output_norm.weight", &[32]).unwrap().data.as_ref(), [7; 128]);
        assert!(matches!(whole.tokenizer().unwrap(), TokenizerSource::Gguf(_)));
        let dummy = Checkpoint::open(&path, DUMMY).unwrap();
        assert_eq!(dummy.tensor("output_norm.weight", &[32]).unwrap().data.as_ref(), 1f32.to_le_bytes().repeat(32));
        assert!(!Checkpoint::open(&path, CLOSED).unwrap().has("output_norm.weight"));
    }

    #[test]
    fn what_is_no_model_is_said_to_be_none() {
        let directory = tempfile::tempdir().unwrap();
        let error = |path: &Path| Checkpoint::open(path, WHOLE).err().unwrap().to_string();
        assert!(error(directory.path()).contains("no config.json there"));
        assert!(error(&directory.path().join("gone")).contains("gone: "));
        write(directory.path(), "x.gguf", "hello world");
        assert!(error(&directory.path().join("x.gguf")).contains("not a GGUF file"));
        write(directory.path(), "config.json", "[]");
        assert!(error(directory.path()).contains("config.json: not the JSON that it should be"));
    }
}
