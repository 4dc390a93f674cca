//! The text of a page that was written in a visual editor.

/// Tags whose content nobody reads.
const UNREAD: [&str; 2] = ["script", "style"];

/// Tags after which a new line begins.
const BLOCKS: [&str; 14] = [
    "p",
    "div",
    "br",
    "li",
    "tr",
    "ul",
    "ol",
    "table",
    "pre",
    "blockquote",
    "h1",
    "h2",
    "h3",
    "h4",
];

/// HTML as Markdown, as far as search and citations need it: headings stay headings, blocks become
/// lines, and everything else is its text. Not a parser: a page that is no HTML comes out as a text
/// that looks odd, never as an error.
pub(super) fn text(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut rest = html;
    while let Some((before, after)) = rest.split_once('<') {
        push(&mut text, before);
        let Some((tag, after)) = after.split_once('>') else {
            rest = "";
            break;
        };
        rest = after;
        let name = tag.trim_start_matches('/').split(|c: char| !c.is_ascii_alphanumeric()).next();
        let name = name.unwrap_or_default().to_ascii_lowercase();
        let closes = tag.starts_with('/');
        if UNREAD.contains(&name.as_str()) && !closes {
            let end = format!("</{name}");
            rest = rest.find(&end).and_then(|at| rest.get(at..)).unwrap_or_default();
        } else if BLOCKS.contains(&name.as_str()) {
            text.push('\n');
            let level = name.strip_prefix('h').and_then(|level| level.parse::<usize>().ok());
            if let (Some(level), false) = (level, closes) {
                text.push_str(&"#".repeat(level));
                text.push(' ');
            } else if name == "li" && !closes {
                text.push_str("- ");
            }
        }
    }
    push(&mut text, rest);
    let lines = text.lines().map(str::trim_end);
    let mut squeezed = String::with_capacity(text.len());
    let mut blank = 0;
    for line in lines {
        blank = if line.is_empty() { blank + 1 } else { 0 };
        if blank < 2 {
            squeezed.push_str(line);
            squeezed.push('\n');
        }
    }
    squeezed
}

/// Adds text with its character references resolved, the common ones.
fn push(text: &mut String, part: &str) {
    let mut rest = part;
    while let Some((before, after)) = rest.split_once('&') {
        text.push_str(before);
        let known = [
            ("amp;", '&'),
            ("lt;", '<'),
            ("gt;", '>'),
            ("quot;", '"'),
            ("#39;", '\''),
            ("nbsp;", ' '),
        ];
        let found = known.iter().find_map(|(name, c)| Some((*c, after.strip_prefix(name)?)));
        let (c, after) = found.unwrap_or(('&', after));
        text.push(c);
        rest = after;
    }
    text.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn headings_stay_headings_and_the_rest_is_its_text() {
        let html = "<style>p{}</style><h2 id=\"a\">Wake &amp; sleep</h2><p>Use <code>labctl</code>.</p>\
                    <ul><li>one</li><li>two</li></ul><script>alert('<p>')</script>end";
        assert_eq!(text(html), "\n## Wake & sleep\n\nUse labctl.\n\n- one\n\n- two\n\nend\n");
    }

    #[test]
    fn what_is_no_html_does_no_harm() {
        assert_eq!(text("a < b && c &unknown; <script>"), "a\n");
        assert_eq!(text(""), "");
    }
}
