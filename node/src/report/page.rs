//! The page: headings, prose, tables and plots in one HTML file that needs nothing else.

use std::fmt::Write as _;

/// A page under construction.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    title: String,
    body: String,
}

const STYLE: &str = "\
:root{color-scheme:light}\
body{font:16px/1.5 system-ui,sans-serif;color:#1b1f24;background:#fff;max-width:1080px;margin:2rem auto;padding:0 1.25rem}\
h1{font-size:1.7rem;margin:0 0 .25rem}h2{font-size:1.2rem;margin:2.2rem 0 .4rem;border-top:1px solid #d9dee3;padding-top:1.2rem}\
p{max-width:46rem}.lead{font-size:1.05rem;color:#3d4650}\
table{border-collapse:collapse;margin:.8rem 0;font-variant-numeric:tabular-nums;font-size:.92rem}\
th,td{padding:.3rem .7rem;border-bottom:1px solid #e4e8ec;text-align:right;white-space:nowrap}\
th{color:#55606b;font-weight:600}th:first-child,td:first-child{text-align:left}\
.scroll{overflow-x:auto}.plots{display:flex;flex-wrap:wrap;gap:1rem}.plots figure{margin:0;flex:1 1 480px}\
figure svg{width:100%;height:auto}figcaption{font-size:.88rem;color:#55606b;max-width:44rem}\
code{background:#f2f4f6;padding:.05rem .3rem;border-radius:3px}footer{margin:3rem 0 1rem;color:#6b7580;font-size:.85rem}";

impl Page {
    /// A page with a heading and one sentence on what it shows.
    pub(crate) fn new(title: &str, lead: &str) -> Self {
        let mut page = Self { title: title.to_owned(), body: String::new() };
        page.put(format_args!("<h1>{}</h1><p class=lead>{}</p>", escape(title), escape(lead)));
        page
    }

    /// A section heading.
    pub(crate) fn section(&mut self, heading: &str) -> &mut Self {
        self.put(format_args!("<h2>{}</h2>", escape(heading)))
    }

    /// A paragraph.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.put(format_args!("<p>{}</p>", escape(text)))
    }

    /// Plots side by side, each an SVG from [`super::plot`] and a caption.
    pub(crate) fn plots(&mut self, plots: &[(String, String)]) -> &mut Self {
        self.put(format_args!("<div class=plots>"));
        for (svg, caption) in plots {
            self.put(format_args!("<figure>{svg}<figcaption>{}</figcaption></figure>", escape(caption)));
        }
        self.put(format_args!("</div>"))
    }

    /// A table; the first column is the row's name.
    pub(crate) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) -> &mut Self {
        self.put(format_args!("<div class=scroll><table><tr>"));
        for cell in head {
            self.put(format_args!("<th>{}</th>", escape(cell)));
        }
        self.put(format_args!("</tr>"));
        for row in rows {
            self.put(format_args!("<tr>"));
            for cell in row {
                self.put(format_args!("<td>{}</td>", escape(cell)));
            }
            self.put(format_args!("</tr>"));
        }
        self.put(format_args!("</table></div>"))
    }

    /// The finished file.
    pub(crate) fn html(&self, footer: &str) -> String {
        format!(
            "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
             <title>{}</title><style>{STYLE}</style><body>{}<footer>{}</footer></body></html>\n",
            escape(&self.title),
            self.body,
            escape(footer)
        )
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) -> &mut Self {
        // Writing to a String cannot fail.
        let _ = self.body.write_fmt(text);
        self
    }
}

/// Text that is safe between tags and in attributes.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_stays_text() {
        let mut page = Page::new("a <b>", "lead");
        page.table(&["peer"], &[vec!["<script>alert(1)</script>".into()]]);
        let html = page.html("end");
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script>"));
        assert!(html.contains("<title>a &lt;b&gt;</title>"));
    }
}
