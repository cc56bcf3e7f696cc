//! The page around figures.
//!
//! Owns its style sheet, light and dark, and the escaping of text. Knows nothing of figures' content.
use std::fmt::Write;

/// Forbids itself everything but its own styles, so that no value in a report can load anything.
const HEAD: &str = r#"<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">"#;

const STYLE: &str = include_str!("page.css");

/// A whole page: `body` is HTML already.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n{HEAD}\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// A table of these rows: the first cell of each heads it, figures stand right. An empty heading is left out, and what is then a list of facts stands left.
pub fn table<const N: usize>(heading: &[&str; N], rows: &[[String; N]]) -> String {
    let headed = heading.iter().any(|cell| !cell.is_empty());
    let mut html = String::from(if headed { "<table>\n" } else { "<table class=\"facts\">\n" });
    if headed {
        let cells: String = heading.iter().map(|cell| format!("<th scope=\"col\">{}</th>", escape(cell))).collect();
        let _ = writeln!(html, "<thead><tr>{cells}</tr></thead>");
    }
    html.push_str("<tbody>\n");
    for row in rows {
        let cell = |(at, cell): (usize, &String)| match at {
            0 => format!("<th scope=\"row\">{}</th>", escape(cell)),
            _ => format!("<td>{}</td>", escape(cell)),
        };
        let _ = writeln!(html, "<tr>{}</tr>", row.iter().enumerate().map(cell).collect::<String>());
    }
    html + "</tbody></table>\n"
}

/// Text as HTML and attributes take it; control characters, which XML has no way to write, are shown as such.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(c),
            c if c.is_control() => safe.push('�'),
            c => safe.push(c),
        }
    }
    safe
}
