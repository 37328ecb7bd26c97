//! A minimal HTML page builder: escaping, sections, tables, figures, one style sheet.

use std::fmt::Write as _;
use std::path::Path;

/// Escapes text for element content and for double-quoted attributes.
///
/// ```
/// assert_eq!(uniferum::report::html::escape("a < b & \"c\""), "a &lt; b &amp; &quot;c&quot;");
/// ```
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(c),
        }
    }
    out
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1d2733;--soft:#5b6876;--line:#d5dce4;--paper:#fff;--accent:#1f6f8b}\
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ef;--soft:#9aa7b5;--line:#38434f;--paper:#161b21;--accent:#6fc3df}}\
*{box-sizing:border-box}body{margin:0 auto;max-width:70rem;padding:1.5rem;background:var(--paper);color:var(--ink);\
font:16px/1.5 system-ui,sans-serif}h1{font-size:1.7rem;margin:.2rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem;\
border-bottom:1px solid var(--line)}p.note{color:var(--soft);font-size:.92rem;max-width:48rem}\
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}th,td{padding:.25rem .7rem;\
border-bottom:1px solid var(--line);text-align:right}th:first-child,td:first-child{text-align:left}\
.scroll{overflow-x:auto}.facts{display:flex;flex-wrap:wrap;gap:.6rem 2rem;margin:1rem 0}.facts div{min-width:8rem}\
.facts b{display:block;font-size:1.3rem;color:var(--accent)}.facts span{color:var(--soft);font-size:.85rem}\
.grid{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0}figcaption{font-size:.85rem;color:var(--soft);max-width:26rem}\
figure img{image-rendering:pixelated;background:#000;display:block;max-width:100%}svg{max-width:100%;height:auto}";

/// A page under construction.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// Starts a page with its title as the first heading.
    pub fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            body: format!("<h1>{}</h1>\n", escape(title)),
        }
    }

    /// Starts a section.
    pub fn section(&mut self, heading: &str) -> &mut Self {
        let _ = writeln!(self.body, "<h2>{}</h2>", escape(heading));
        self
    }

    /// Adds a paragraph of explanation.
    pub fn note(&mut self, text: &str) -> &mut Self {
        let _ = writeln!(self.body, "<p class=\"note\">{}</p>", escape(text));
        self
    }

    /// Adds a row of key figures, each a value above its name.
    pub fn facts(&mut self, facts: &[(String, String)]) -> &mut Self {
        self.body.push_str("<div class=\"facts\">");
        for (name, value) in facts {
            let _ = write!(
                self.body,
                "<div><b>{}</b><span>{}</span></div>",
                escape(value),
                escape(name)
            );
        }
        self.body.push_str("</div>\n");
        self
    }

    /// Adds a table; the first column is left-aligned, the others right-aligned.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) -> &mut Self {
        self.body
            .push_str("<div class=\"scroll\"><table><thead><tr>");
        for cell in head {
            let _ = write!(self.body, "<th>{}</th>", escape(cell));
        }
        self.body.push_str("</tr></thead><tbody>\n");
        for row in rows {
            self.body.push_str("<tr>");
            for cell in row {
                let _ = write!(self.body, "<td>{}</td>", escape(cell));
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</tbody></table></div>\n");
        self
    }

    /// Adds figures side by side: each is trusted markup (an `<svg>` or an `<img>`) and a caption.
    pub fn figures(&mut self, figures: &[(String, String)]) -> &mut Self {
        self.body.push_str("<div class=\"grid\">\n");
        for (markup, caption) in figures {
            let _ = writeln!(
                self.body,
                "<figure>{markup}<figcaption>{}</figcaption></figure>",
                escape(caption)
            );
        }
        self.body.push_str("</div>\n");
        self
    }

    /// The finished document.
    pub fn render(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <title>{}</title><style>{STYLE}</style></head>\n<body>\n{}</body></html>\n",
            escape(&self.title),
            self.body
        )
    }

    /// Writes the finished document.
    ///
    /// # Errors
    /// Those of creating and writing the file.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, self.render())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_everywhere() {
        let mut page = Page::new("<t>");
        page.section("a&b")
            .note("\"x\"")
            .table(&["<h>"], &[vec!["<c>".into()]]);
        page.facts(&[("<n>".into(), "<v>".into())]);
        page.figures(&[("<svg></svg>".into(), "<cap>".into())]);
        let html = page.render();
        for raw in ["<t>", "<h>", "<c>", "<n>", "<v>", "<cap>"] {
            assert!(!html.contains(raw), "{raw} reached the page");
        }
        assert!(html.contains("<svg></svg>"));
        assert!(
            !html.contains("http"),
            "a report loads nothing from elsewhere"
        );
    }
}
