//! What the server serves, from its `/v1/models`.
//!
//! Owns the choice of the model. Asks nobody: how the list is had, and what a server without one means, is the client's.
use serde_json::Value;

/// A model that is served, as far as its server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// The name to ask for.
    pub(crate) id: String,
    /// Where its files are, on the server's disk or a hub.
    pub(crate) root: Option<String>,
    /// Tokens of prompt and answer together.
    pub(crate) max_model_len: Option<usize>,
    /// What is simulated, where no such model runs: minisgl's simulated device says so, and its figures are no measurements
    /// of hardware.
    pub(crate) simulated: Option<String>,
}

impl Served {
    /// A model of which nothing but its name is known.
    pub(crate) fn named(id: &str) -> Self {
        Self { id: id.to_owned(), root: None, max_model_len: None, simulated: None }
    }
}

/// The model of a list in OpenAI's form: `wanted`, or the first. The error says what the list lacks.
pub(crate) fn choose(list: &Value, wanted: Option<&str>) -> Result<Served, String> {
    let models: Vec<Served> = list["data"].as_array().into_iter().flatten().filter_map(served).collect();
    let Some(first) = models.first() else {
        return Err("it lists no model (`data` with an `id` each)".to_owned());
    };
    let Some(wanted) = wanted else {
        return Ok(first.clone());
    };
    if let Some(model) = models.iter().find(|model| model.id == wanted) {
        return Ok(model.clone());
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
        simulated: text("simulated"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_model_or_the_one_that_was_asked_for() {
        let list = json!({"data": [
            {"id": "a", "root": "/models/a", "max_model_len": 2048, "simulated": "4xH200"},
            {"id": "b", "root": null},
        ]});
        let a = Served {
            id: "a".into(),
            root: Some("/models/a".into()),
            max_model_len: Some(2048),
            simulated: Some("4xH200".into()),
        };
        assert_eq!(choose(&list, None), Ok(a.clone()));
        assert_eq!(choose(&list, Some("a")), Ok(a));
        assert_eq!(choose(&list, Some("b")), Ok(Served::named("b")));
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
        let odd = json!({"data": [{"id": "a", "max_model_len": -1, "root": 5, "simulated": true}]});
        assert_eq!(choose(&odd, None), Ok(Served::named("a")));
    }
}
