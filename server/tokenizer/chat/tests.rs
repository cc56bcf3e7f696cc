//! Renderings against transformers' (`fixtures/make.py`), and templates that mean harm.
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::*;

#[derive(Deserialize)]
struct Golden {
    templates: std::collections::BTreeMap<String, String>,
    conversations: Vec<Vec<Message>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
    name: Option<String>,
    tool_call_id: Option<String>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: usize,
    generate: bool,
    extra: Map<String, Json>,
    text: Option<String>,
    error: Option<String>,
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source.into(), vec![("bos_token".into(), "<s>".into()), ("eos_token".into(), "</s>".into())])
}

fn render(source: &str, messages: &[ChatMessage]) -> Result<String, TokenizerError> {
    template(source).render(messages, &ChatOptions::default())
}

fn why(source: &str) -> String {
    render(source, &[ChatMessage::new("user", "hi")]).expect_err(source).to_string()
}

#[test]
fn renders_as_transformers() {
    let golden: Golden = serde_json::from_str(include_str!("../fixtures/chat.json")).unwrap();
    for case in golden.cases {
        let messages: Vec<ChatMessage> = golden.conversations[case.messages]
            .iter()
            .map(|m| ChatMessage {
                role: m.role.clone(),
                content: m.content.clone(),
                name: m.name.clone(),
                tool_call_id: m.tool_call_id.clone(),
            })
            .collect();
        let options = ChatOptions { add_generation_prompt: case.generate, extra: case.extra };
        let rendered = template(&golden.templates[&case.template]).render(&messages, &options);
        let which = format!("{}, conversation {}", case.template, case.messages);
        match (rendered, case.error) {
            (Ok(text), None) => assert_eq!(Some(text), case.text, "{which}"),
            (Err(TokenizerError::Template { line: Some(_), why }), Some(expected)) => {
                assert_eq!(why, expected, "{which}")
            }
            (other, expected) => panic!("{which}: {other:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn errors_name_the_line() {
    assert_eq!(
        why("a\nb\n{{ raise_exception('roles must alternate') }}"),
        "chat template, line 3: roles must alternate"
    );
    assert!(why("a\n{% if %}").starts_with("chat template, line 2: "), "{}", why("a\n{% if %}"));
    assert!(why("a\n\n{{ missing.attribute }}").starts_with("chat template, line 3: "));
    assert!(why("{{ messages[0].content.frobnicate() }}").contains("frobnicate"));
}

#[test]
fn the_developer_role_is_system_where_a_template_does_not_know_it() {
    let roles = "{% for m in messages %}{{ m.role }} {% endfor %}";
    let messages = [ChatMessage::new("developer", "x"), ChatMessage::new("user", "y")];
    assert_eq!(render(roles, &messages).unwrap(), "system user ");
    assert_eq!(render(&format!("{roles}{{# developer #}}"), &messages).unwrap(), "developer user ");
}

#[test]
fn extra_variables_do_not_replace_the_messages() {
    let extra =
        json!({"messages": [], "add_generation_prompt": true, "bos_token": "B", "tools": ["t"], "n": {"a": [1, null]}});
    let Json::Object(extra) = extra else { unreachable!("an object") };
    let options = ChatOptions { add_generation_prompt: false, extra };
    let source = "{{ messages|length }} {{ add_generation_prompt }} {{ bos_token }} {{ eos_token }} {{ tools[0] }} {{ n.a[1] is none }}";
    let text = template(source).render(&[ChatMessage::new("user", "hi")], &options);
    assert_eq!(text.unwrap(), "1 False B </s> t True");
}

#[test]
fn the_clock_is_there() {
    let year = render("{{ strftime_now('%Y') }}", &[]).unwrap();
    assert!(year.len() == 4 && year.as_str() >= "2024", "{year}");
}

#[test]
fn templates_cannot_run_or_write_for_ever() {
    let steps = "{% for a in range(9999) %}{% for b in range(9999) %}{% set x = a + b %}{% endfor %}{% endfor %}";
    assert!(why(steps).ends_with("it takes too many steps"), "{}", why(steps));
    let writes = "{% for a in range(9999) %}{{ 'a' * 9999 }}{% endfor %}";
    assert!(why(writes).ends_with("it writes too much text for these messages"), "{}", why(writes));
    let recurses = "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}";
    assert!(why(recurses).contains("recursion"), "{}", why(recurses));
    let repeats = "{{ 'a' * 99999999999 }}";
    assert!(why(repeats).contains("too large"), "{}", why(repeats));
    let nests =
        "{% set ns = namespace(x=[]) %}{% for a in range(300) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}";
    assert!(why(nests).contains("too deeply nested"), "{}", why(nests));
    let includes = "{% include '/etc/passwd' %}";
    assert!(why(includes).contains("passwd"), "{}", why(includes));
}

#[test]
fn a_template_that_writes_nothing_of_its_own_is_as_long_as_its_messages() {
    let long = "x".repeat(3 << 20);
    assert_eq!(render("{{ messages[0].content }}", &[ChatMessage::new("user", &long)]).unwrap(), long);
}
