//! Where models come from and are kept: what the environment says, read once, so that tests can say otherwise.
use std::path::PathBuf;

/// Everything outside the arguments that decides where a model is found.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// What `~` stands for.
    pub(super) home: PathBuf,
    /// Files of aliases are kept here.
    pub(super) cache: PathBuf,
    pub(super) hugging_face: HuggingFacePlaces,
    pub(super) modelscope: ModelScopePlaces,
    /// Commands to try as pip, in order.
    pub(super) pips: Vec<Vec<String>>,
}

#[derive(Clone, Debug)]
pub(super) struct HuggingFacePlaces {
    /// The hub cache, in the layout that Python's `huggingface_hub` shares.
    pub(super) cache: PathBuf,
    pub(super) endpoint: String,
    /// Where `None`, a token that was stored by logging in is used.
    pub(super) token: Option<String>,
    /// Use the cache only.
    pub(super) offline: bool,
}

#[derive(Clone, Debug)]
pub(super) struct ModelScopePlaces {
    /// Models are kept in `models/org/name` below it.
    pub(super) cache: PathBuf,
    pub(super) endpoint: String,
}

/// The folder of what is downloaded, models and traces: `$MINISGL_CACHE`, else `$XDG_CACHE_HOME/minisgl`, else
/// `~/.cache/minisgl`.
pub fn cache_folder() -> PathBuf {
    var("MINISGL_CACHE").map_or_else(|| caches().join("minisgl"), PathBuf::from)
}

/// A variable that says something.
fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn home() -> PathBuf {
    std::env::home_dir().unwrap_or_else(std::env::temp_dir)
}

fn caches() -> PathBuf {
    var("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from)
}

impl Places {
    pub(super) fn from_env() -> Self {
        let home = home();
        let hf_home = var("HF_HOME").map_or_else(|| caches().join("huggingface"), PathBuf::from);
        let offline = var("HF_HUB_OFFLINE")
            .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true"));
        let modelscope = var("MODELSCOPE_ENDPOINT").or_else(|| var("MODELSCOPE_DOMAIN"));
        Self {
            cache: cache_folder(),
            hugging_face: HuggingFacePlaces {
                cache: var("HF_HUB_CACHE").map_or_else(|| hf_home.join("hub"), PathBuf::from),
                endpoint: endpoint(var("HF_ENDPOINT"), "https://huggingface.co"),
                token: var("HF_TOKEN"),
                offline,
            },
            modelscope: ModelScopePlaces {
                cache: var("MODELSCOPE_CACHE").map_or_else(|| home.join(".cache/modelscope/hub"), PathBuf::from),
                endpoint: endpoint(modelscope, "https://www.modelscope.cn"),
            },
            pips: [&["python3", "-m", "pip"][..], &["pip3"], &["pip"]]
                .map(|words| words.iter().map(ToString::to_string).collect())
                .to_vec(),
            home,
        }
    }

    /// `~` and `~/…` as paths below home.
    pub(super) fn expand(&self, path: &str) -> PathBuf {
        match path.strip_prefix('~') {
            Some("") => self.home.clone(),
            Some(rest) if rest.starts_with('/') => self.home.join(rest.trim_start_matches('/')),
            _ => PathBuf::from(path),
        }
    }
}

/// A domain alone means https.
fn endpoint(stated: Option<String>, default: &str) -> String {
    let stated = stated.unwrap_or_else(|| default.into());
    let stated = stated.trim_end_matches('/');
    if stated.contains("://") { stated.into() } else { format!("https://{stated}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_without_a_slash_at_the_end() {
        assert_eq!(endpoint(None, "https://a"), "https://a");
        assert_eq!(endpoint(Some("www.modelscope.ai".into()), ""), "https://www.modelscope.ai");
        assert_eq!(endpoint(Some("http://127.0.0.1:1/".into()), ""), "http://127.0.0.1:1");
    }

    #[test]
    fn home_is_what_a_tilde_stands_for() {
        let places = Places { home: "/h".into(), ..Places::from_env() };
        for (path, expanded) in [("~", "/h"), ("~/a/b", "/h/a/b"), ("~x", "~x"), ("a~", "a~")] {
            assert_eq!(places.expand(path), PathBuf::from(expanded));
        }
    }
}
