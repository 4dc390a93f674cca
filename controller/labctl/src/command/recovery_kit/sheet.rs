//! The recovery kit as pages to print, with the secrets on them: whole on one, or as one of three shares
//! on each of three.

use homelab_common::{secret::Secret, split::Share};
use homelab_proto::controller::v1::GetRecoveryKitResponse;

use super::{code, paper};

/// How it looks on paper: no colour, and no secret is torn apart by the end of a page.
const STYLE: &str = "body{font:11pt/1.4 serif;margin:1.5cm}h1{font-size:16pt}\
    pre{font:8.5pt/1.35 monospace;white-space:pre-wrap}\
    .secret{display:grid;grid-template-columns:1fr 5.5cm;gap:1cm;border:1px solid #000;padding:.5cm;\
    margin:.5cm 0;break-inside:avoid}\
    .secret code{font:9pt/1.5 monospace;overflow-wrap:anywhere}.code{width:100%}\
    .warn{border:2px solid #000;padding:.3cm}";

/// What one sheet holds of a secret.
pub(super) struct Held {
    /// Name of the secret.
    pub(super) name: String,
    /// What it opens, for people.
    pub(super) opens: String,
    /// The secret itself, or a share of it.
    pub(super) text: Secret<String>,
}

/// Which sheet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sheet {
    /// With every secret in full.
    Whole,
    /// With one of three shares of each.
    Share(u8),
}

impl Held {
    /// A share of a secret.
    pub(super) fn share(share: &Share, opens: &str) -> Self {
        Self {
            name: share.name().to_owned(),
            opens: opens.to_owned(),
            text: Secret::new(share.to_string()),
        }
    }
}

/// One sheet as a page that needs nothing else. What names and secrets say is text on it.
pub(super) fn page(kit: &GetRecoveryKitResponse, sheet: Sheet, held: &[Held]) -> Secret<String> {
    let title = match sheet {
        Sheet::Whole => format!("Recovery kit of {}", kit.site),
        Sheet::Share(place) => format!("Recovery kit of {}, sheet {place} of 3", kit.site),
    };
    let warning = match sheet {
        Sheet::Whole => {
            "Whoever holds this sheet opens every backup. Keep it away from this house, and from the \
             machines that it restores."
                .to_owned()
        }
        Sheet::Share(place) => format!(
            "This is sheet {place} of 3. Any two of them give every secret back, one alone says nothing: \
             keep them at three places. `labctl recovery-kit join` reads two and gives the secret."
        ),
    };
    let secrets: String = held.iter().map(secret).collect();
    Secret::new(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n<p class=\"warn\">{warning}</p>\n\
         {secrets}<pre>{text}</pre>\n</body></html>\n",
        title = escaped(&title),
        warning = escaped(&warning),
        text = escaped(&paper::text(kit)),
    ))
}

fn secret(held: &Held) -> String {
    let text = held.text.expose();
    let drawn = code::svg(text).unwrap_or_else(|| "<p>too long for a code</p>".to_owned());
    format!(
        "<section class=\"secret\"><div><h2>{}</h2><p>{}</p><code>{}</code></div><div>{drawn}</div>\
         </section>\n",
        escaped(&held.name),
        escaped(&held.opens),
        escaped(text),
    )
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use homelab_common::{chance::SeededChance, split::split};

    use super::*;

    fn kit() -> GetRecoveryKitResponse {
        GetRecoveryKitResponse {
            site: "<b>home</b>".to_owned(),
            fingerprint: "5c1f".to_owned(),
            ..GetRecoveryKitResponse::default()
        }
    }

    #[test]
    fn a_sheet_needs_nothing_else_and_shows_what_others_wrote_as_text() {
        let held = Held {
            name: "nas-key".to_owned(),
            opens: "<script>".to_owned(),
            text: Secret::new("correct <horse>".to_owned()),
        };
        let page = page(&kit(), Sheet::Whole, &[held]);
        let page = page.expose();
        assert!(page.contains("<code>correct &lt;horse&gt;</code>"), "{page}");
        assert!(page.contains("fingerprint 5c1f") && page.contains("<svg"), "{page}");
        for forbidden in ["<script", "<b>home", "src=", "href=", "url("] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn a_sheet_of_shares_holds_no_secret() {
        let shares = split("nas-key", b"correct horse", &SeededChance::new(3)).expect("splits");
        let held = [Held::share(&shares[1], "repository/nas")];
        let page = page(&kit(), Sheet::Share(2), &held);
        let page = page.expose();
        assert!(page.contains("sheet 2 of 3") && page.contains(&shares[1].to_string()), "{page}");
        assert!(!page.contains("correct horse") && !page.contains(&shares[0].to_string()));
    }
}
