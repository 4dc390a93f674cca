use proptest::prelude::*;

use super::*;

fn classifier() -> Classifier {
    let words = ["Villa Kakelbont".to_owned(), "project zeester".to_owned(), "Čapek".to_owned()];
    Classifier {
        names: name::Names::new(["x99", "hx310-db"].into_iter(), "thuis.example", &words),
        addresses: address::Known {
            addresses: vec!["203.0.113.7".parse().unwrap()],
            networks: vec!["198.51.100.0/24".parse().unwrap()],
        },
    }
}

/// Each part that was found, with its class.
fn found(text: &str) -> Vec<(String, DataClass)> {
    let findings = classifier().find(text);
    findings
        .iter()
        .map(|finding| (text.get(finding.span.clone()).unwrap().to_owned(), finding.class()))
        .collect()
}

fn only(text: &str, part: &str, class: DataClass) {
    assert_eq!(found(text), [(part.to_owned(), class)], "{text}");
}

#[test]
fn private_addresses_are_found_wherever_they_stand() {
    for (text, part) in [
        ("ping 10.20.3.4.", "10.20.3.4"),
        ("(192.168.200.40:8006)", "192.168.200.40"),
        ("route 172.16.0.0/12 via", "172.16.0.0"),
        ("http://10.0.0.1/x", "10.0.0.1"),
        ("1.10.0.0.1", "10.0.0.1"),
        ("010.001.000.009", "010.001.000.009"),
        ("on 100.100.1.2 and", "100.100.1.2"),
        ("169.254.1.1", "169.254.1.1"),
        ("at fd12:3456::1, yes", "fd12:3456::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fd00::7]:443", "fd00::7"),
        ("server:fd00::12", "fd00::12"),
        ("IPv6:fd00::1 answers", "fd00::1"),
        ("12:fd00::1", "fd00::1"),
        ("fd12:3456:789a:1:2:3:4:5:443", "fd12:3456:789a:1:2:3:4:5"),
        ("::ffff:10.20.3.4", "::ffff:10.20.3.4"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
        ("mac 00:1b:21:3c:4d:5e!", "00:1b:21:3c:4d:5e"),
        ("mac 00-1B-21-3C-4D-5E", "00-1B-21-3C-4D-5E"),
        ("port 001b.213c.4d5e.", "001b.213c.4d5e"),
        ("the site's own 198.51.100.9", "198.51.100.9"),
        ("its address 203.0.113.7", "203.0.113.7"),
    ] {
        only(text, part, DataClass::PrivateAddress);
    }
}

#[test]
fn public_addresses_and_numbers_are_none_of_our_business() {
    for text in [
        "1.1.1.1 and 8.8.8.8",
        "2001:db8::1",
        "127.0.0.1",
        "::1",
        "version 1.2.3",
        "at 12:30:45",
        "10.5 and 300.300.300.300",
        "std::vec::Vec",
    ] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn an_address_behind_invisible_or_wide_characters_is_found() {
    only("a 10.\u{200b}20.3.4 b", "10.\u{200b}20.3.4", DataClass::PrivateAddress);
    only("１０.20.3.4", "１０.20.3.4", DataClass::PrivateAddress);
    only("X\u{ad}99", "X\u{ad}99", DataClass::HostName);
}

#[test]
fn a_secret_that_is_split_by_what_nobody_sees_is_found_whole() {
    let unseen = [
        // Isolates of direction, and the marks before them.
        0x2066, 0x2067, 0x2068, 0x2069, 0x61c, 0x200e, 0x202e, 0x206a, 0x206f,
        // Zero-width, joiners, fillers.
        0xad, 0x34f, 0x180e, 0x200b, 0x200d, 0x2060, 0x2065, 0x3164, 0xfeff, 0xffa0, 0xfff9,
        // Variation selectors and tags.
        0xfe00, 0xfe0f, 0xe0001, 0xe0041, 0xe007f, 0xe0100, 0xe01ef, 0x180b, 0x180f,
        // Control characters that are no space.
        0x0, 0x8, 0x1b, 0x7f, 0x85,
    ];
    for code in unseen {
        let c = char::from_u32(code).unwrap();
        let token = format!("ghp_0123456789{c}abcdefghij{c}ABCDEFGHIJ012345");
        only(&format!("use {token}"), &token, DataClass::Secret);
        let address = format!("10.2{c}0.3.4");
        only(&format!("ping {address}."), &address, DataClass::PrivateAddress);
        let name = format!("x{c}99");
        only(&format!("wake {name} now"), &name, DataClass::HostName);
    }
    for space in ['\n', '\t', '\r', ' '] {
        assert_eq!(found(&format!("x{space}99")), [], "{space:?}");
    }
}

#[test]
fn hosts_and_names_of_home_networks_are_found() {
    for (text, part) in [
        ("wake X99 now", "X99"),
        ("ssh root@hx310-db", "hx310-db"),
        ("x99_backup", "x99"),
        ("nas.local is up", "nas.local"),
        ("see printer.home.arpa.", "printer.home.arpa"),
        ("https://wiki.thuis.example/a", "wiki.thuis.example"),
        ("db01.internal", "db01.internal"),
    ] {
        only(text, part, DataClass::HostName);
    }
    for text in ["x990 and ax99", "locally, at home", "go home. Now", "www.example.com"] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn listed_words_are_found_in_any_case_and_only_whole() {
    only("our villa kakelbont!", "villa kakelbont", DataClass::ListedWord);
    only("PROJECT ZEESTER", "PROJECT ZEESTER", DataClass::ListedWord);
    only("by čapek.", "čapek", DataClass::ListedWord);
    assert_eq!(found("Projects zeesterren"), []);
}

#[test]
fn mail_addresses_are_found() {
    only("to ann.b+c@example.org.", "ann.b+c@example.org", DataClass::Person);
    assert_eq!(found("root@pam and @home and a@b"), []);
}

#[test]
fn secrets_are_found_by_their_form() {
    for (text, part) in [
        (
            "use ghp_0123456789abcdefghijABCDEFGHIJ012345",
            "ghp_0123456789abcdefghijABCDEFGHIJ012345",
        ),
        ("key sk-abc123def456ghi789jkl0", "sk-abc123def456ghi789jkl0"),
        ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("password: hunter2", "hunter2"),
        ("DB_PASSWORD=correct-horse", "correct-horse"),
        ("{\"api_key\": \"abcdef\"}", "abcdef"),
        ("{\\\"password\\\": \\\"geheim\\\"}", "geheim"),
        ("run --token s3cr3t! now", "s3cr3t!"),
        ("het wachtwoord: zonnebloem", "zonnebloem"),
        ("my password is hunter2", "hunter2"),
        ("postgres://lab:geheim@db/x", "geheim"),
        ("Authorization: Bearer abcdef1234", "abcdef1234"),
        (
            "wg yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=",
            "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=",
        ),
        ("d41d8cd98f00b204e9800998ecf8427e", "d41d8cd98f00b204e9800998ecf8427e"),
    ] {
        only(text, part, DataClass::Secret);
    }
}

#[test]
fn a_private_key_is_found_whole_even_when_it_is_cut_off() {
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\n-----END OPENSSH PRIVATE KEY-----";
    only(&format!("here:\n{key}\nthanks"), key, DataClass::Secret);
    let cut = "-----BEGIN PRIVATE KEY-----\nMIIE\nmore";
    only(&format!("x {cut}"), cut, DataClass::Secret);
    assert_eq!(found("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"), []);
}

#[test]
fn prose_code_paths_and_ids_are_no_secrets() {
    for text in [
        "What is the password policy of PostgreSQL?",
        "fn login(password: &str, token: Option<Token>) -> bool",
        "password = ${DB_PASSWORD}",
        "token: ********",
        "/usr/lib/x86_64-linux-gnu/libsystemd.so.0.38.0",
        "0190a5de-9a2b-7c3d-8e4f-5a6b7c8d9e0f",
        "homelabControllerServiceClientV1Builder",
        "the max_tokens: 4096 field",
        "basic authentication and bearer authentication",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn parts_that_overlap_are_one_finding_of_all_their_classes() {
    let text = "mail root@x99.thuis.example";
    let findings = classifier().find(text);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].span, 5..text.len());
    assert_eq!(findings[0].classes, [DataClass::Person, DataClass::HostName]);
}

proptest! {
    #[test]
    fn a_private_address_is_found_in_any_surroundings(
        before in "[^0-9A-Za-z.:]{0,12}", after in "([^0-9A-Za-z.:][^0-9]{0,12})?",
        b in any::<u8>(), c in any::<u8>(), d in any::<u8>(),
    ) {
        let address = format!("10.{b}.{c}.{d}");
        let text = format!("{before}{address}{after}");
        let inside = classifier().find(&text).into_iter().any(|finding| {
            let part = text.get(finding.span.clone()).unwrap();
            finding.classes.contains(&DataClass::PrivateAddress) && part.contains(&address)
        });
        prop_assert!(inside, "{text:?}");
    }

    #[test]
    fn findings_stand_in_order_apart_and_between_characters(text in ".{0,200}") {
        let mut last = 0;
        for finding in classifier().find(&text) {
            prop_assert!(finding.span.start >= last && finding.span.start < finding.span.end);
            prop_assert!(text.get(finding.span.clone()).is_some());
            last = finding.span.end;
        }
    }
}
