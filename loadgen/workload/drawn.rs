//! Workloads without a trace.
//!
//! Owns which request stands at a place: its class, lengths and group, drawn from the seed. When it is sent, `schedule.rs`
//! says.
use minisgl_config::loadgen::LengthRules;
use minisgl_config::loadgen::settings::{LengthClass, PromptKind, SharedPrefix};

use super::{AboutWorkload, Common, changed, request};
use crate::lengths::Lengths;
use crate::lengths::drawn::Classes;
use crate::request::{Prompt, Request};
use crate::rng::SplitMix;

/// Marks the draws of groups apart from all others.
const GROUPS: u64 = u64::MAX - 1;

/// What requests are drawn from.
pub(super) struct Drawn {
    mix: Vec<LengthClass>,
    classes: Classes,
    shared_prefix: Option<SharedPrefix>,
    shared: bool,
    /// Requests at most.
    pub(super) num_requests: Option<usize>,
}

impl Drawn {
    /// Reads the files of lengths.
    pub(super) fn open(
        mix: &[LengthClass],
        shared_prefix: Option<SharedPrefix>,
        num_requests: Option<usize>,
        prompts: Option<PromptKind>,
    ) -> Result<Self, String> {
        let shared = prompts == Some(PromptKind::Shared);
        Ok(Self { mix: mix.to_vec(), classes: Classes::open(mix)?, shared_prefix, shared, num_requests })
    }

    pub(super) fn about(&self, rules: &LengthRules) -> AboutWorkload {
        let class = |class: &LengthClass| {
            let named =
                if class.name.is_empty() { String::new() } else { format!("{} x {}: ", class.name, class.weight) };
            format!("{named}input {}, output {}", class.input, class.output)
        };
        let classes: Vec<String> = self.mix.iter().map(class).collect();
        let groups = match self.shared_prefix {
            Some(SharedPrefix { groups, tokens }) => format!(", {groups} groups that share {tokens} tokens"),
            None => String::new(),
        };
        let prompts = match (self.shared, self.shared_prefix.is_some()) {
            (true, _) => "shared: prefixes of one text, another one in each run",
            (false, true) => "random behind each group's own beginning, fresh in each run",
            (false, false) => "random, fresh in each run",
        };
        AboutWorkload {
            name: classes.join("; ") + &groups + &changed(rules),
            prompts: prompts.to_owned(),
            classes: match self.mix.as_slice() {
                [_] => Vec::new(),
                mix => mix.iter().map(|class| class.name.clone()).collect(),
            },
            trace: None,
        }
    }

    /// The request at a place.
    pub(super) fn request(&self, common: &Common, index: usize) -> Request {
        let draw = self.classes.draw(common.seed, index);
        let prefix = self.shared_prefix.map_or(0, |shared| shared.tokens);
        let lengths = Lengths::by(&common.rules, prefix + draw.input, draw.output);
        let prompt = match self.shared_prefix {
            _ if self.shared => Prompt::Shared,
            Some(SharedPrefix { groups, tokens }) => {
                let group = SplitMix::of(common.seed, &[GROUPS, index as u64]).between(0, groups - 1) as u64;
                Prompt::Group { group, tokens }
            }
            None => Prompt::Random,
        };
        Request { class: draw.class, ..request(lengths, prompt) }
    }
}
