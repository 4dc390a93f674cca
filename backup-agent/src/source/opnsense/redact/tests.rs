use proptest::prelude::*;

use super::*;

const KEY: &str = "a secret of the backup";
const CANARIES: &str = include_str!("../../../../testdata/opnsense-canaries.txt");

fn parse(text: &str) -> Element {
    Element::parse(text.as_bytes()).expect("a document")
}

fn paths() -> Paths {
    Paths::with(Vec::new(), Vec::new())
}

/// An element at the end of a path, `*` replaced by a name.
fn leaf(path: &str, value: &str) -> Element {
    let mut names = path.trim_start_matches('/').split('/').rev();
    let name = |name: &str| name.replace('*', "opt1");
    let mut element = Element {
        name: name(names.next().expect("a leaf")),
        text: value.to_owned(),
        ..Element::default()
    };
    for above in names {
        element = Element { name: name(above), children: vec![element], ..Element::default() };
    }
    element
}

/// One document with all of these; the roots are the same.
fn document(leaves: impl IntoIterator<Item = Element>) -> Element {
    let children = leaves.into_iter().flat_map(|leaf| leaf.children).collect();
    Element { name: "opnsense".to_owned(), children, ..Element::default() }
}

fn canary_paths() -> Vec<&'static str> {
    CANARIES.lines().filter(|line| line.starts_with('/')).collect()
}

#[test]
fn every_known_place_of_a_secret_is_masked() {
    let canary = |index: usize| format!("cnry{index}");
    let root =
        document(canary_paths().iter().enumerate().map(|(at, path)| leaf(path, &canary(at))));
    let redacted = redact(&root, &paths(), KEY).expect("a copy");
    for (at, path) in canary_paths().iter().enumerate() {
        assert!(!redacted.document.contains(&format!(">{}<", canary(at))), "{path}");
    }
    assert_eq!(redacted.masked, canary_paths().len() as u64);
}

#[test]
fn a_change_of_a_secret_shows_and_nothing_else_does() {
    let of = |value: &str| {
        let root = document([leaf("/opnsense/hasync/password", value)]);
        redact(&root, &paths(), KEY).expect("a copy").document
    };
    assert_eq!(of("one secret"), of("one secret"));
    assert_ne!(of("one secret"), of("another"));
    let root = document([leaf("/opnsense/hasync/password", "one secret")]);
    let elsewhere = redact(&root, &paths(), "another backup").expect("a copy");
    assert_ne!(of("one secret"), elsewhere.document);
    let mark = of("one secret").split(MARK).nth(1).expect("a mark").to_owned();
    let digits = mark.split('<').next().expect("digits");
    assert!(digits.len() == 8 && digits.chars().all(|c| c.is_ascii_hexdigit()), "{digits}");
}

#[test]
fn what_changes_without_meaning_is_left_out() {
    let of = |time: &str| {
        let text = format!(
            "<opnsense><system><lastchange>{time}</lastchange><hostname>fw</hostname></system>\
             <revision><time>{time}</time><username>root@192.0.2.7</username></revision></opnsense>"
        );
        redact(&parse(&text), &paths(), KEY).expect("a copy").document
    };
    assert_eq!(of("1"), of("2"));
    assert!(of("1").contains("<hostname>fw</hostname>"));
}

#[test]
fn an_unknown_leaf_that_looks_secret_refuses_the_copy_without_showing_it() {
    let value = "Kx8vQ2mZp4Lr7TnW3sYbHc9d";
    let root = document([leaf("/opnsense/OPNsense/NewPlugin/general/answer", value)]);
    let refused = redact(&root, &paths(), KEY).expect_err("refused");
    let message = refused.to_string();
    assert!(message.contains("/opnsense/OPNsense/NewPlugin/general/answer"), "{message}");
    assert!(message.contains("public-paths") && !message.contains(value), "{message}");

    let here = |path: &str| vec![path.parse().expect("a path")];
    let path = "/opnsense/OPNsense/NewPlugin/general/answer";
    let public = redact(&root, &Paths::with(Vec::new(), here(path)), KEY).expect("a copy");
    assert!(public.document.contains(value));
    let secret = redact(&root, &Paths::with(here(path), Vec::new()), KEY).expect("a copy");
    assert!(!secret.document.contains(value));
}

#[test]
fn a_private_key_is_masked_even_where_it_was_called_public() {
    let pem = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA==\n-----END EC PRIVATE KEY-----";
    let path = "/opnsense/OPNsense/Plugin/certificate";
    let root = document([leaf(path, pem)]);
    let paths = Paths::with(Vec::new(), vec![path.parse().expect("a path")]);
    assert!(!redact(&root, &paths, KEY).expect("a copy").document.contains("MHcCAQEEIA"));
}

#[test]
fn a_secret_that_is_repeated_elsewhere_is_masked_there_too() {
    let root = document([
        leaf("/opnsense/system/user/password", "correct horse"),
        leaf("/opnsense/filter/rule/descr", "his word is correct horse, tell nobody"),
    ]);
    let redacted = redact(&root, &paths(), KEY).expect("a copy");
    assert!(!redacted.document.contains("correct horse"), "{}", redacted.document);
}

#[test]
fn only_the_login_of_an_address_is_masked() {
    let root = document([leaf("/opnsense/a/url", "https://me:hunt@er2@nas.example/x y")]);
    let redacted = redact(&root, &paths(), KEY).expect("a copy").document;
    assert!(redacted.contains("@nas.example/x y") && !redacted.contains("hunt"), "{redacted}");
}

#[test]
fn attributes_are_looked_at_as_well() {
    let root = parse(
        "<opnsense><a token=\"hunter2\" uuid=\"4f1f5c3e-8f0a-4a52-9d3f-1f0e5f1c2d3e\"/></opnsense>",
    );
    let redacted = redact(&root, &paths(), KEY).expect("a copy").document;
    assert!(redacted.contains("4f1f5c3e") && !redacted.contains("hunter2"), "{redacted}");
}

fn any_secret() -> impl Strategy<Value = String> {
    prop_oneof![
        "[A-Za-z0-9+/]{40,60}=",
        "[ -~]{8,40}".prop_filter("more than space", |text| text.trim().len() >= 8),
        "\\PC{8,20}".prop_filter("more than space", |text| text.trim().chars().count() >= 8),
        "[a-f0-9]{32,64}",
        "\\$6\\$[a-z0-9]{8}\\$[A-Za-z0-9./]{86}",
    ]
}

fn any_plain() -> impl Strategy<Value = (String, String)> {
    let path = "/opnsense/(filter|nat|interfaces/opt[0-9])/(rule|x)/(descr|if|ipaddr)";
    let path = proptest::string::string_regex(path).expect("an expression");
    (path, "[a-z ]{0,12}|10\\.0\\.[0-9]{1,2}\\.1/24|[\\PC]{0,12}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_secret_of_any_configuration_is_ever_in_the_copy(
        secrets in prop::collection::vec((0..261_usize, any_secret()), 1..12),
        unknown in prop::option::of("[A-Za-z0-9]{32,48}"),
        echo in any::<bool>(),
        plain in prop::collection::vec(any_plain(), 0..12),
    ) {
        let known = canary_paths();
        let mut leaves: Vec<Element> = secrets
            .iter()
            .map(|(at, value)| leaf(known[at % known.len()], value))
            .chain(plain.iter().map(|(path, value)| leaf(path, value)))
            .chain(unknown.iter().map(|value| leaf("/opnsense/OPNsense/New/leaf", value)))
            .collect();
        if echo {
            let value = format!("before {} after", secrets[0].1.trim());
            leaves.push(leaf("/opnsense/filter/rule/descr", &value));
        }
        // As it would come from the firewall.
        let root = parse(&document(leaves).to_document());
        let shown = match redact(&root, &paths(), KEY) {
            Ok(redacted) => {
                let copy = parse(&redacted.document);
                prop_assert_eq!(copy.to_document(), redacted.document.clone());
                redacted.document
            }
            Err(refused) => refused.to_string(),
        };
        for (_, secret) in &secrets {
            prop_assert!(!texts(&shown).contains(secret.trim()), "{} in {}", secret, shown);
        }
        if let Some(unknown) = &unknown {
            prop_assert!(!shown.contains(unknown.as_str()));
        }
    }
}

/// All texts of a document with their entities resolved; a message as it is.
fn texts(shown: &str) -> String {
    fn walk(element: &Element, out: &mut String) {
        out.push_str(&element.text);
        out.push('\n');
        element.children.iter().for_each(|child| walk(child, out));
    }
    let mut out = shown.to_owned();
    if let Ok(element) = Element::parse(shown.as_bytes()) {
        walk(&element, &mut out);
    }
    out
}
