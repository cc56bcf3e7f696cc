//! What fits beside the weights: pages of K/V, slots, tokens a batch. A pure function of sizes.
use minisgl_config::EngineSettings;

use super::LoadError;
use crate::batch::Capacity;
use crate::models::DecoderSpec;

/// K/V of a CPU engine takes at most this, unless `--num-pages` says otherwise: more would surprise whoever shares the machine.
const MOST_KV_BYTES: usize = 4 << 30;
/// Activations take at most this part of the memory after the weights; the batch shrinks to fit.
const ACTIVATIONS_SHARE: usize = 4;

/// What the device has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// Bytes, after the weights.
    pub(super) available: usize,
    /// Bytes of K/V a page, of all ranks together.
    pub(super) page_bytes: usize,
    /// Ranks that share this memory.
    pub(super) ranks: usize,
}

/// Decides what the engine holds; `spec` is one rank's.
pub(super) fn plan(spec: &DecoderSpec, settings: &EngineSettings, memory: Memory) -> Result<Capacity, LoadError> {
    let context = context(spec, settings)?;
    let slots = settings.max_running_requests;
    let page_size = settings.page_size();
    assert!(slots > 0 && page_size > 0, "settings are checked where they are read");

    let (batch_tokens, activation_bytes) = batch_tokens(spec, settings, context, memory)?;
    let left = memory.available.saturating_sub(activation_bytes);
    // Every sequence at its longest: n tokens need n - 1 places. More pages than that are never in use.
    let useful = slots.saturating_mul((context - 1).max(1).div_ceil(page_size)).min(u32::MAX as usize);
    let pages = match settings.num_pages {
        Some(0) => return Err(setting("num-pages", "0: at least one page is needed".to_owned())),
        Some(pages) => {
            let bytes = pages.saturating_mul(memory.page_bytes);
            if bytes > left || pages > u32::MAX as usize {
                let why = format!(
                    "{pages} pages of {page_size} tokens take {} of K/V, and {} of memory are available",
                    readable(bytes),
                    readable(left)
                );
                return Err(setting("num-pages", why));
            }
            pages
        }
        None => {
            let budget = ((left as f64 * settings.memory_ratio) as usize).min(MOST_KV_BYTES);
            (budget / memory.page_bytes).min(useful)
        }
    };
    if pages == 0 {
        let why = format!(
            "one K/V page of {page_size} tokens takes {}, and {} of the {} available after the weights is less: \
             lower --page-size, raise --memory-ratio or use a smaller model",
            readable(memory.page_bytes),
            settings.memory_ratio,
            readable(left)
        );
        return Err(LoadError::Memory(why));
    }
    let capacity = Capacity { pages, page_size, slots, context, vocabulary: spec.vocab_size, batch_tokens };
    let longest = capacity.longest_sequence();
    if longest < context {
        tracing::warn!("the K/V cache holds sequences of at most {longest} tokens; the context is {context}");
    }
    Ok(capacity)
}

/// The longest sequence: the model's, or what `--max-seq-len-override` says.
fn context(spec: &DecoderSpec, settings: &EngineSettings) -> Result<usize, LoadError> {
    match settings.max_seq_len_override {
        None => Ok(spec.context),
        Some(n) if n < 2 => {
            let why = format!("{n} tokens: a sequence has at least 2, one of prompt and one of output");
            Err(setting("max-seq-len-override", why))
        }
        Some(n) => {
            if n > spec.context {
                let made_for = spec.context;
                tracing::warn!(
                    "--max-seq-len-override {n}: the model was made for {made_for}; it may write nonsense beyond"
                );
            }
            Ok(n)
        }
    }
}

/// Tokens a batch may have, and the bytes that its activations take.
fn batch_tokens(
    spec: &DecoderSpec,
    settings: &EngineSettings,
    context: usize,
    memory: Memory,
) -> Result<(usize, usize), LoadError> {
    let Memory { available, ranks, .. } = memory;
    let slots = settings.max_running_requests;
    let f32_bytes = size_of::<f32>();
    // Of several ranks each has a part of a sum as wide as the residual stream, and of the logits before they are gathered.
    let (parts_width, logits) = if ranks > 1 { (spec.hidden_size, 2) } else { (0, 1) };
    let token_bytes = ranks * (spec.activation_width() + parts_width) * f32_bytes;
    let logits_bytes = slots.saturating_mul(logits * spec.vocab_size * f32_bytes);
    // A decode row for every slot always fits; more tokens than all sequences together never come.
    let wanted = settings.max_prefill_length.min(slots.saturating_mul(context)).max(slots);
    let room = (available / ACTIVATIONS_SHARE).saturating_sub(logits_bytes) / token_bytes;
    if room < slots {
        let why = format!(
            "the activations of {slots} sequences take {}, and {} of memory are available after the weights: \
             lower --max-running-requests",
            readable(slots.saturating_mul(token_bytes).saturating_add(logits_bytes)),
            readable(available)
        );
        return Err(LoadError::Memory(why));
    }
    let tokens = wanted.min(room);
    if tokens < settings.max_prefill_length.min(wanted) {
        tracing::warn!("a batch has at most {tokens} tokens, not {wanted}: more activations do not fit the memory");
    }
    Ok((tokens, tokens * token_bytes + logits_bytes))
}

fn setting(flag: &'static str, why: String) -> LoadError {
    LoadError::Setting { flag, why }
}

/// Bytes for people.
pub(super) fn readable(bytes: usize) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1.0 {
        format!("{:.1} KiB", mib * 1024.0)
    } else if mib < 1024.0 {
        format!("{mib:.1} MiB")
    } else {
        format!("{:.1} GiB", mib / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::spec::tests::spec;

    const GIB: usize = 1 << 30;

    fn settings() -> EngineSettings {
        EngineSettings { max_running_requests: 4, max_prefill_length: 8192, page_size: Some(16), ..Default::default() }
    }

    fn planned(settings: &EngineSettings, available: usize) -> Result<Capacity, LoadError> {
        plan(&spec(), settings, Memory { available, page_bytes: 1 << 20, ranks: 1 })
    }

    #[test]
    fn sizes_follow_what_can_be_used() {
        // The model's context is 256: 255 places are 16 pages a sequence.
        let capacity = planned(&settings(), 100 * GIB).unwrap();
        assert_eq!((capacity.pages, capacity.slots, capacity.context), (64, 4, 256));
        // Four sequences of 256 tokens never fill 8192.
        assert_eq!(capacity.batch_tokens, 1024);

        let small = EngineSettings { max_prefill_length: 1, ..settings() };
        assert_eq!(planned(&small, 100 * GIB).unwrap().batch_tokens, 4, "a decode row a slot");
    }

    #[test]
    fn all_ranks_count() {
        let most = |ranks| {
            let settings = EngineSettings { max_prefill_length: 1 << 20, max_running_requests: 64, ..settings() };
            let part = spec().of_rank(crate::models::Rank { rank: 0, of: ranks }).unwrap();
            plan(&part, &settings, Memory { available: 64 << 20, page_bytes: 1 << 10, ranks }).unwrap().batch_tokens
        };
        // A quarter of 64 MiB, for the logits of 64 sequences and what a token takes.
        let (logits, alone, half) = (64 * 128, 64 + 256 + 128 + 3 * 96, 64 + 128 + 64 + 3 * 48);
        assert_eq!(most(1), ((4 << 20) - logits) / alone);
        assert_eq!(most(2), ((4 << 20) - 2 * logits) / (2 * (half + 64)));
    }

    #[test]
    fn kv_is_bounded_by_4_gib_and_by_the_ratio() {
        let many = EngineSettings { max_running_requests: 4096, ..settings() };
        assert_eq!(planned(&many, 100 * GIB).unwrap().pages, 4096);
        let half = EngineSettings { memory_ratio: 0.5, ..many };
        let pages = planned(&half, GIB).unwrap().pages;
        assert!((256..512).contains(&pages), "{pages} MiB of half of 1 GiB, activations apart");
    }

    #[test]
    fn num_pages_holds_or_is_refused() {
        let set = |num_pages| EngineSettings { num_pages: Some(num_pages), ..settings() };
        assert_eq!(planned(&set(5000), 100 * GIB).unwrap().pages, 5000, "beyond 4 GiB, since it was asked for");
        assert_eq!(planned(&set(1), GIB).unwrap().longest_sequence(), 17);
        for (pages, word) in [(5000, "5000 pages"), (0, "at least one")] {
            let said = planned(&set(pages), GIB).unwrap_err().to_string();
            assert!(said.contains("--num-pages") && said.contains(word), "{said}");
        }
    }

    #[test]
    fn context_can_be_replaced() {
        let set = |n| EngineSettings { max_seq_len_override: Some(n), ..settings() };
        assert_eq!(planned(&set(100), GIB).unwrap().context, 100);
        assert_eq!(planned(&set(1000), GIB).unwrap().context, 1000);
        let said = planned(&set(0), GIB).unwrap_err().to_string();
        assert!(said.contains("--max-seq-len-override"), "{said}");
    }

    #[test]
    fn too_little_memory_is_said() {
        let said = planned(&settings(), 1 << 20).unwrap_err().to_string();
        assert!(said.contains("one K/V page of 16 tokens takes 1.0 MiB"), "{said}");
        let said = planned(&settings(), 1 << 10).unwrap_err().to_string();
        assert!(said.contains("--max-running-requests"), "{said}");
    }
}
