//! QR codes as SVG, for paper: what was printed is read back by any telephone.

use qrcodegen::{QrCode, QrCodeEcc};

/// White modules around a code, as ISO/IEC 18004 wants them.
const QUIET: i32 = 4;

/// A text as a QR code in one SVG element; none when it is too long for one. A quarter of the code may
/// be lost on paper: the level is Q.
pub(super) fn svg(text: &str) -> Option<String> {
    let code = QrCode::encode_text(text, QrCodeEcc::Quartile);
    Some(draw(&code.ok()?))
}

fn draw(code: &QrCode) -> String {
    let size = code.size() + 2 * QUIET;
    let mut path = String::new();
    for y in 0..code.size() {
        for x in (0..code.size()).filter(|x| code.get_module(*x, y)) {
            path.push_str(&format!("M{} {}h1v1h-1z", x + QUIET, y + QUIET));
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size} {size}\" class=\"code\" \
         role=\"img\" aria-label=\"QR code of the text beside it\"><path d=\"{path}\"/></svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_its_corners_and_room_around_it() {
        let drawn = svg("share-2-of-3:nas-key:1:0a0b0c0d0e:00000000").expect("fits");
        // Each corner but one begins with a row of seven.
        for corner in ["M4 4h1v1h-1zM5 4h1v1h-1z", "M4 10h1v1h-1zM5 10h1v1h-1z"] {
            assert!(drawn.contains(corner), "{drawn}");
        }
        assert!(!drawn.contains("M3 ") && !drawn.contains(" 3h1"), "nothing in the quiet zone");
    }

    #[test]
    fn the_longest_share_fits_and_a_book_does_not() {
        assert!(svg(&"a".repeat(1_150)).is_some());
        assert_eq!(svg(&"a".repeat(5_000)), None);
    }
}
