use std::time::Duration;

use super::*;

fn document(text: &str) -> Document {
    Document::parse("site.toml", text).expect("valid TOML")
}

/// Reads what the tests below know, and gives the report.
fn report(text: &str) -> String {
    let document = document(text);
    let root = document.root();
    root.required("name", parse::string);
    root.or("interval", Duration::ZERO, parse::duration);
    let listen = root.table("listen");
    listen.or("grpc", ([127, 0, 0, 1], 0).into(), parse::socket_addr);
    for host in root.tables("host") {
        host.required("address", parse::ip_addr);
        host.optional("tier", parse::word(&[("bronze", 1), ("silver", 2), ("gold", 3)]));
        host.list("ports", parse::integer(1..=65_535_u16));
    }
    match document.finish() {
        Ok(()) => String::new(),
        Err(report) => report.to_string(),
    }
}

#[test]
fn a_file_in_order_gives_its_values() {
    let document = document("name = 'a'\n[listen]\ngrpc = '[::1]:1'\n[[host]]\nports = [1, 2]\n");
    let root = document.root();
    let name = root.required("name", parse::string);
    let grpc = root.table("listen").required("grpc", parse::socket_addr);
    let ports: Vec<Vec<u16>> =
        root.tables("host").iter().map(|h| h.list("ports", parse::integer(1..=9))).collect();
    let (name, grpc) = document.finish_with(|| Some((name?, grpc?))).expect("no problems");
    assert_eq!((name.as_str(), grpc.port(), ports), ("a", 1, vec![vec![1, 2]]));
}

#[test]
fn all_problems_come_in_one_report_with_their_lines() {
    let text = "\
intervall = \"5m\"
[listen]
grpc = \"7450\"

[[host]]
address = \"192.0.2.1\"
ports = [80, 0, \"x\"]
[[host]]
tier = \"siver\"
password = \"hunter2\"
";
    let expected = r#"
site.toml: 8 problems
   - | name                     missing; it has no default
   1 | intervall                no such key; did you mean `interval`?
   3 | listen.grpc = "7450"     an address with a port, such as "127.0.0.1:7450" or "[::1]:7450"
   7 | host[0].ports[1] = 0     a whole number from 1 to 65535
   7 | host[0].ports[2] = "x"   a whole number from 1 to 65535
   8 | host[1].address          missing; it has no default
   9 | host[1].tier = "siver"   one of `bronze`, `silver`, `gold`; did you mean `silver`?
  10 | host[1].password         no such key; known: `address`, `ports`, `tier`"#;
    assert_eq!(report(text), expected.trim_start());
}

#[test]
fn what_stands_where_the_place_of_a_secret_is_expected_is_not_shown() {
    let document = Document::parse("f.toml", "password = 'hunter2'\n").unwrap();
    document.root().optional("password", parse::secret_source);
    let report = document.finish().unwrap_err().to_string();
    assert!(report.contains("password") && !report.contains("hunter2"), "{report}");
}

#[test]
fn values_of_unknown_keys_are_not_shown() {
    assert!(!report("name = 'a'\npassword = 'hunter2'\n").contains("hunter2"));
}

#[test]
fn text_that_is_not_toml_is_reported_with_line_and_column() {
    let report = Document::parse("a.toml", "ok = 1\nname = \nb = [1,\n").expect_err("not TOML");
    let first = &report.problems()[0];
    assert_eq!((first.line, first.column), (Some(2), Some(8)));
    assert!(report.to_string().starts_with("a.toml: "), "{report}");
}

#[test]
fn a_missing_file_says_what_to_do() {
    let report = Document::load("/nonexistent/agent.toml").expect_err("no file");
    assert!(report.to_string().contains("--config"), "{report}");
}

#[test]
fn a_table_of_the_wrong_kind_is_a_problem() {
    let seen = report("name = 'a'\nlisten = 3\nhost = { address = '192.0.2.1' }\n");
    assert!(seen.contains("listen = 3   "), "{seen}");
    assert!(seen.contains("a table: [listen]"), "{seen}");
    assert!(seen.contains("a list of tables: [[host]]"), "{seen}");
}

#[test]
fn a_table_that_nobody_asked_for_is_one_problem() {
    let seen = report("name = 'a'\n[hots]\na = 1\nb = 2\n");
    let expected = "site.toml: 1 problem\n  2 | hots   no such key; did you mean `host`?";
    assert_eq!(seen, expected);
}

#[test]
fn a_left_out_table_still_misses_its_required_keys() {
    let document = document("");
    document.root().table("site").required("name", parse::string);
    let report = document.finish().expect_err("a problem");
    assert_eq!(report.problems()[0].key, "site.name");
}

#[test]
fn free_keys_can_be_walked() {
    let document = document("[labels]\nrack = 'a'\nroom = 'b'\n");
    let labels = document.root().table("labels");
    let read: Vec<_> = labels
        .keys()
        .into_iter()
        .filter_map(|key| labels.optional(&key, parse::string).map(|value| (key, value)))
        .collect();
    document.finish().expect("no problems");
    assert_eq!(read, [("rack".into(), "a".into()), ("room".into(), "b".into())]);
}

#[test]
fn a_rule_about_two_keys_points_at_the_line() {
    let document = document("min = 5\nmax = 3\n");
    let root = document.root();
    let (min, max) =
        (root.or("min", 0, parse::integer(0..=9)), root.or("max", 9, parse::integer(0..=9)));
    if max < min {
        root.problem("max", "at least `min`");
    }
    let report = document.finish().expect_err("a problem");
    assert_eq!(report.to_string(), "site.toml: 1 problem\n  2 | max = 3   at least `min`");
}

#[test]
fn an_empty_required_list_is_a_problem() {
    for text in ["", "hosts = []", "hosts = 'a'"] {
        let document = document(text);
        assert!(document.root().required_list("hosts", parse::string).is_empty());
        assert_eq!(document.finish().expect_err("a problem").problems().len(), 1, "{text}");
    }
}

fn parsed<T>(value: &str, parse: impl FnOnce(&Value<'_>) -> Result<T, Allowed>) -> Option<T> {
    let text = format!("x = {value}");
    let document = document(&text);
    document.root().required("x", parse)
}

#[test]
fn spans_of_time() {
    let cases = [
        ("'250ms'", Some(250)),
        ("'30s'", Some(30_000)),
        ("'1h30m'", Some(5_400_000)),
        ("'1h 30m'", Some(5_400_000)),
        ("'2w'", Some(1_209_600_000)),
        ("'30m1h'", None),
        ("'5'", None),
        ("'5 m'", None),
        ("'-5m'", None),
        ("''", None),
        ("30", None),
        ("'99999999999999999999s'", None),
    ];
    for (text, millis) in cases {
        assert_eq!(parsed(text, parse::duration), millis.map(Duration::from_millis), "{text}");
    }
}

#[test]
fn sizes() {
    let cases = [
        ("'512 B'", Some(512)),
        ("'32KiB'", Some(32_768)),
        ("'1 GB'", Some(1_000_000_000)),
        ("'32'", None),
        ("'1 kb'", None),
        ("'99999999 TiB'", None),
    ];
    for (text, size) in cases {
        assert_eq!(parsed(text, parse::bytes), size, "{text}");
    }
}

#[test]
fn sizes_and_spans_are_shown_as_they_are_read() {
    assert_eq!(parse::show_bytes(32_768), "32 KiB");
    assert_eq!(parse::show_bytes(1_000), "1000 B");
    assert_eq!(parse::show_bytes(0), "0 B");
    assert_eq!(parse::show_duration(Duration::from_secs(5_400)), "1h30m");
    assert_eq!(parse::show_duration(Duration::ZERO), "0s");
}

#[test]
fn numbers_words_paths_and_sources() {
    assert_eq!(parsed("0x10", parse::integer(0..=99)), Some(16));
    assert_eq!(parsed("300", parse::integer(0..=255_u8)), None);
    assert_eq!(parsed("1", parse::float(0.0..=2.0)), Some(1.0));
    assert_eq!(parsed("nan", parse::float(0.0..=2.0)), None);
    assert_eq!(parsed("true", parse::bool), Some(true));
    assert_eq!(parsed("'true'", parse::bool), None);
    assert_eq!(parsed("'relative'", parse::path), None);
    assert_eq!(parsed("'  '", parse::string), None);
    let source = parsed("'credential:pg'", parse::secret_source);
    assert_eq!(source, Some(crate::secret::Source::Credential("pg".into())));
    assert_eq!(parsed("'60s'", parse::duration_in(Duration::ZERO..=Duration::from_secs(9))), None);
}
