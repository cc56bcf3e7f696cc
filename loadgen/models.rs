//! What the server serves, from its `/v1/models`.
//!
//! Owns the choice of the model and what a server without that endpoint means. Knows nothing of prompts.
use std::time::Duration;

use serde_json::Value;

use crate::client::{self, Target};
use crate::error::LoadgenError;
use crate::records::{Failure, Reason};

/// A server that does not answer `/v1/models` within this has hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A model that is served, as far as its server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// The name to ask for.
    pub(crate) id: String,
    /// Where its files are, on the server's disk or a hub.
    pub(crate) root: Option<String>,
    /// Tokens of prompt and answer together.
    pub(crate) max_model_len: Option<usize>,
}

/// Asks which model is served: `wanted`, or the first. With it comes what should be noted, if anything.
pub(crate) async fn ask(target: &Target, wanted: Option<&str>) -> Result<(Served, Option<String>), LoadgenError> {
    let url = target.url();
    let problem = match client::get_json(target, "models", ANSWER_WITHIN).await {
        Ok(list) => match choose(&list, wanted) {
            Ok(served) => return Ok(served),
            Err(problem) => problem,
        },
        // The detail says it all; what kind of failure it is, the message around it says.
        Err(Failure { reason: Reason::Connect(_), detail }) => {
            return Err(LoadgenError::Connect { url: url.clone(), problem: detail });
        }
        Err(failure) if matches!(failure.reason, Reason::Reset | Reason::NoResponse | Reason::Timeout) => {
            let problem = format!("{}: {}", failure.reason, failure.detail);
            return Err(LoadgenError::Connect { url: url.clone(), problem });
        }
        Err(failure) => format!("{}: {}", failure.reason, failure.detail),
    };
    match wanted {
        Some(id) => {
            let note =
                format!("{url}/v1/models: {problem}; asking for `{id}` all the same, its context length unknown");
            Ok((Served { id: id.to_owned(), root: None, max_model_len: None }, Some(note)))
        }
        None => Err(LoadgenError::Models { url: url.clone(), problem }),
    }
}

/// The model of a list in OpenAI's form.
fn choose(list: &Value, wanted: Option<&str>) -> Result<(Served, Option<String>), String> {
    let models: Vec<Served> = list["data"].as_array().into_iter().flatten().filter_map(served).collect();
    let Some(first) = models.first() else {
        return Err("it lists no model (`data` with an `id` each)".to_owned());
    };
    let Some(wanted) = wanted else {
        return Ok((first.clone(), None));
    };
    if let Some(model) = models.iter().find(|model| model.id == wanted) {
        return Ok((model.clone(), None));
    }
    let ids: Vec<&str> = models.iter().map(|model| model.id.as_str()).take(8).collect();
    Err(format!("it does not list `{wanted}` but {}", ids.join(", ")))
}

fn served(model: &Value) -> Option<Served> {
    let text = |field: &str| {
        let text = model[field].as_str()?;
        (!text.is_empty() && text.len() <= 4096 && !text.contains(char::is_control)).then(|| text.to_owned())
    };
    Some(Served {
        id: text("id")?,
        root: text("root"),
        max_model_len: model["max_model_len"].as_u64().filter(|&n| n > 0).map(|n| n as usize),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_model_or_the_one_that_was_asked_for() {
        let list = json!({"data": [
            {"id": "a", "root": "/models/a", "max_model_len": 2048},
            {"id": "b", "root": null},
        ]});
        let a = Served { id: "a".into(), root: Some("/models/a".into()), max_model_len: Some(2048) };
        assert_eq!(choose(&list, None), Ok((a.clone(), None)));
        assert_eq!(choose(&list, Some("a")), Ok((a, None)));
        assert_eq!(choose(&list, Some("b")), Ok((Served { id: "b".into(), root: None, max_model_len: None }, None)));
        assert!(choose(&list, Some("c")).unwrap_err().contains("`c` but a, b"));
    }

    #[test]
    fn lists_that_say_nothing() {
        for list in [
            json!({}),
            json!([]),
            json!(null),
            json!({"data": []}),
            json!({"data": [{"id": 3}, {}]}),
            json!({"data": [{"id": "\u{1b}[2J"}]}),
        ] {
            assert!(choose(&list, None).is_err(), "{list}");
        }
        let odd = json!({"data": [{"id": "a", "max_model_len": -1, "root": 5}]});
        assert_eq!(choose(&odd, None).unwrap().0, Served { id: "a".into(), root: None, max_model_len: None });
    }
}
