//! Hub ids, and which files of a listing a run needs. Listings are untrusted: a name is used only where it is one that is
//! looked for, or a relative path that stays inside.
use crate::error::quoted;
use crate::safetensors::{INDEX, SINGLE, is_inside, is_weights};

/// Files beside the weights, all at the top.
const SMALL_FILES: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
];
const MOST_NAMES_IN_ERROR: usize = 20;

/// `org/name` or `org/name:file.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubId {
    /// `org/name`
    pub(super) repository: String,
    /// The one file wanted.
    pub(super) file: Option<String>,
}

impl HubId {
    /// Only what hubs allow in names: the parts become paths and URLs.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (repository, file) = match text.split_once(':') {
            Some((repository, file)) => (repository, Some(file)),
            None => (text, None),
        };
        let (organisation, name) = repository.split_once('/')?;
        let is_name = |part: &str| {
            (1..=96).contains(&part.len())
                && !part.starts_with(['.', '-'])
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let file_is_right = file.is_none_or(|file| is_inside(file) && file.to_ascii_lowercase().ends_with(".gguf"));
        (is_name(organisation) && is_name(name) && file_is_right)
            .then(|| Self { repository: repository.into(), file: file.map(str::to_string) })
    }

    /// The id as a user writes it.
    pub(super) fn text(&self) -> String {
        match &self.file {
            Some(file) => format!("{}:{file}", self.repository),
            None => self.repository.clone(),
        }
    }
}

/// What to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// One GGUF file.
    Gguf(String),
    /// Files of a directory. Where [`INDEX`] is among them, the files it names too.
    Directory(Vec<String>),
}

/// Chooses from a listing's names. The error says what is there instead.
pub(super) fn plan(names: &[String], file: Option<&str>, weights: bool) -> Result<Plan, String> {
    let has = |name: &str| names.iter().any(|n| n == name);
    if let Some(file) = file {
        return if has(file) {
            Ok(Plan::Gguf(file.into()))
        } else {
            Err(lacking(names, &format!("has no file '{}'", quoted(file))))
        };
    }
    let safetensors: Vec<&String> = names.iter().filter(|name| !name.contains('/') && is_weights(name)).collect();
    let complete = if weights { !safetensors.is_empty() || has(INDEX) } else { has("tokenizer.json") };
    if has("config.json") && complete {
        let mut files: Vec<String> = SMALL_FILES.iter().filter(|name| has(name)).map(ToString::to_string).collect();
        if weights {
            match [SINGLE, INDEX].into_iter().find(|name| has(name)) {
                Some(name) => files.push(name.into()),
                None => files.extend(safetensors.into_iter().filter(|name| is_inside(name)).cloned()),
            }
        }
        return Ok(Plan::Directory(files));
    }
    match ggufs(names)[..] {
        [file] => Ok(Plan::Gguf(file.into())),
        [] => Err(lacking(names, "has neither config.json with safetensors nor a GGUF file")),
        _ => Err(lacking(names, "has several GGUF files; name one, as org/name:file.gguf")),
    }
}

/// Models in GGUF form: not the vision projectors beside them.
fn ggufs(names: &[String]) -> Vec<&str> {
    let is_model = |name: &&String| {
        let name_lower = name.to_ascii_lowercase();
        name_lower.ends_with(".gguf") && !name_lower.contains("mmproj") && is_inside(name)
    };
    names.iter().filter(is_model).map(String::as_str).collect()
}

/// What is wrong, and the GGUF files that could be named instead.
fn lacking(names: &[String], what: &str) -> String {
    let ggufs = ggufs(names);
    if ggufs.is_empty() {
        return format!("it {what}");
    }
    let more = if ggufs.len() > MOST_NAMES_IN_ERROR { ", …" } else { "" };
    let listed: Vec<String> = ggufs.iter().take(MOST_NAMES_IN_ERROR).map(|name| quoted(name)).collect();
    format!("it {what}; there are {}{more}", listed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(names: &[&str], weights: bool) -> Result<Plan, String> {
        plan(&names.iter().map(ToString::to_string).collect::<Vec<_>>(), None, weights)
    }

    fn directory(files: &[&str]) -> Result<Plan, String> {
        Ok(Plan::Directory(files.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn ids_are_two_plain_names_and_maybe_a_file() {
        let id = HubId::parse("Qwen/Qwen3-0.6B").unwrap();
        assert_eq!((id.repository.as_str(), &id.file), ("Qwen/Qwen3-0.6B", &None));
        let id = HubId::parse("a/b:sub/m.Q4.gguf").unwrap();
        assert_eq!((id.file.as_deref(), id.text().as_str()), (Some("sub/m.Q4.gguf"), "a/b:sub/m.Q4.gguf"));
        for bad in [
            "gpt2",
            "a/b/c",
            "../b",
            "a/..",
            "a/",
            "/b",
            "a/b?c",
            "a/b c",
            "a/b:",
            "a/b:../x.gguf",
            "a/b:x.bin",
            "http://a/b",
        ] {
            assert_eq!(HubId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_what_a_run_needs_is_chosen() {
        let small = ["config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "original/params.json"];
        let with = |more: &[&'static str]| [&small[..], more].concat();
        let chosen = ["config.json", "tokenizer.json", "tokenizer_config.json"];
        let and = |more: &[&'static str]| directory(&[&chosen[..], more].concat());
        assert_eq!(plan_of(&with(&[SINGLE, INDEX, "consolidated.safetensors"]), true), and(&[SINGLE]));
        assert_eq!(plan_of(&with(&[INDEX, "model-00001-of-00001.safetensors"]), true), and(&[INDEX]));
        assert_eq!(
            plan_of(&with(&["a.safetensors", "x/b.safetensors", "adapter_model.safetensors"]), true),
            and(&["a.safetensors"])
        );
        assert_eq!(plan_of(&with(&[SINGLE]), false), and(&[]));
        assert_eq!(plan_of(&with(&["m.gguf"]), false), and(&[]));
    }

    #[test]
    fn a_gguf_file_is_taken_where_it_is_the_only_one() {
        assert_eq!(plan_of(&["config.json", "m.gguf", "mmproj-f16.gguf"], true), Ok(Plan::Gguf("m.gguf".into())));
        assert_eq!(plan_of(&["config.json", "m.gguf"], false), Ok(Plan::Gguf("m.gguf".into())));
        assert_eq!(plan_of(&["../m.gguf", "/m.gguf", "n.gguf"], true), Ok(Plan::Gguf("n.gguf".into())));
        let error = plan_of(&["a.gguf", "b.gguf"], true).unwrap_err();
        assert_eq!(error, "it has several GGUF files; name one, as org/name:file.gguf; there are a.gguf, b.gguf");
        let error = plan_of(&["config.json", "pytorch_model.bin"], true).unwrap_err();
        assert_eq!(error, "it has neither config.json with safetensors nor a GGUF file");
        let names = ["a.gguf".to_string()];
        assert_eq!(plan(&names, Some("a.gguf"), true), Ok(Plan::Gguf("a.gguf".into())));
        assert_eq!(plan(&names, Some("c.gguf"), true).unwrap_err(), "it has no file 'c.gguf'; there are a.gguf");
    }
}
