use proptest::prelude::*;

use super::*;
use crate::{
    context::Citation,
    gold::pseudonym::Written,
    gold::{Price, Restorer},
    ids::{HostName, ProviderName, RuleName, SiteName, SourceName},
    schedule::Zone,
    site::{ExpectedPower, Gold, Host, KIT_PROOF_EVERY, SiteDraft, TierConfig, TokensField},
};
use jiff::Timestamp;

fn rule(name: &str, classes: &[DataClass], action: Action) -> Rule {
    Rule {
        name: RuleName::try_new(name).unwrap(),
        keys: vec![],
        tags: vec![],
        classes: classes.to_vec(),
        action,
    }
}

fn model() -> ModelName {
    ModelName::try_new("far").unwrap()
}

fn site(rules: Vec<Rule>) -> Site {
    let provider = Provider {
        name: ProviderName::try_new("far-away").unwrap(),
        url: "https://api.example/v1".parse().unwrap(),
        key: "credential:far".to_owned(),
        ca_file: None,
        parallel: 4,
        tokens_field: TokensField::MaxTokens,
        models: vec![ProviderModel {
            name: model(),
            upstream: ModelName::try_new("org/far-1").unwrap(),
            price: Price { input: "1.00".parse().unwrap(), output: "10.00".parse().unwrap() },
            context_tokens: 8_000,
            output_tokens_max: 500,
        }],
    };
    let budget = crate::gold::Budget {
        name: crate::ids::BudgetName::try_new("all").unwrap(),
        keys: vec![],
        day: Some("1.00".parse().unwrap()),
        month: None,
    };
    let draft = SiteDraft {
        name: SiteName::try_new("home").unwrap(),
        domain: "thuis.example".to_owned(),
        time_zone: Zone::UTC,
        hosts: vec![Host {
            name: HostName::try_new("x99").unwrap(),
            address: [192, 168, 200, 40].into(),
            description: String::new(),
            place: "home".to_owned(),
            expected_power: ExpectedPower::On,
            mac: None,
            power: crate::site::Power::default(),
            daemons: vec![],
        }],
        networks: vec![],
        segment_rules: vec![],
        services: vec![],
        repositories: vec![],
        backups: vec![],
        windows: vec![],
        secrets: vec![],
        kit_proof_every: KIT_PROOF_EVERY,
        tiers: vec![TierConfig {
            tier: Tier::Gold,
            hosts: vec![],
            models: vec![model()],
            default_model: None,
        }],
        gold: Gold {
            providers: vec![provider],
            rules,
            budgets: vec![budget],
            words: vec!["zeester".to_owned()],
            currency: "EUR".to_owned(),
        },
        context: vec![],
    };
    draft.check(Timestamp::UNIX_EPOCH).unwrap()
}

fn plain() -> Rule {
    rule("plain", &[DataClass::Plain], Action::Allow)
}

fn names() -> Rule {
    let classes = [DataClass::HostName, DataClass::PrivateAddress, DataClass::Secret];
    rule("names", &classes, Action::Pseudonymise)
}

fn chat(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}]})
}

fn wish(request: &Value) -> Wish<'_> {
    Wish {
        tier: Tier::Gold,
        submitted_by: "key/ann",
        tokens_max: None,
        tags: &[],
        request,
        attached: None,
        seed: 7,
    }
}

fn asked(rules: Vec<Rule>, wish: Wish<'_>) -> Result<Outbound, Refusal> {
    let site = site(rules);
    permit(&site, &Classifier::of(&site), &model(), wish)
}

fn text_of(outbound: &Outbound) -> String {
    let body: Value = serde_json::from_slice(outbound.body()).unwrap();
    body["messages"][0]["content"].as_str().unwrap().to_owned()
}

#[test]
fn a_plain_question_leaves_by_the_rule_that_lets_it() {
    let request = json!({"model": "far", "stream": false, "user": "ann", "temperature": 0.5,
        "messages": [{"role": "user", "content": "Why is the sky blue?"}]});
    let outbound = asked(vec![plain()], wish(&request)).unwrap();
    let body: Value = serde_json::from_slice(outbound.body()).unwrap();
    assert_eq!(
        body,
        json!({"model": "org/far-1", "stream": true, "stream_options": {"include_usage": true},
            "temperature": 0.5, "max_tokens": 500,
            "messages": [{"role": "user", "content": "Why is the sky blue?"}]})
    );
    assert_eq!(outbound.withheld(), ["user"]);
    assert_eq!(
        (outbound.verdict().rules(), outbound.verdict().classes()),
        ("plain".into(), "nothing".into())
    );
}

#[test]
fn without_rules_nothing_leaves() {
    let refusal = asked(vec![], wish(&chat("hi"))).unwrap_err();
    assert_eq!(refusal.because.reason, Reason::GOLD_REFUSED);
    assert!(
        refusal.because.message.contains("no rule lets any text of key/ann leave"),
        "{refusal:?}"
    );
}

#[test]
fn a_refusal_says_what_was_found_and_where_and_never_the_text() {
    let request = chat("hello\nmy password is hunter2");
    let refusal = asked(vec![plain()], wish(&request)).unwrap_err();
    assert_eq!(refusal.found[0].classes, [DataClass::Secret]);
    let shown = format!("{refusal:?}");
    assert!(shown.contains("messages[0].content line 2 character 16"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn what_has_a_pseudonym_does_not_leave_and_comes_back() {
    let text = "ssh x99, or 192.168.200.40 with password: geheim! x99 again";
    let outbound = asked(vec![plain(), names()], wish(&chat(text))).unwrap();
    let sent = text_of(&outbound);
    for original in ["x99", "192.168.200.40", "geheim"] {
        assert!(!String::from_utf8_lossy(outbound.body()).contains(original), "{sent}");
    }
    assert_eq!(sent.matches("_HOST_0001").count(), 2, "{sent}");
    assert_eq!(Restorer::whole(outbound.pseudonyms(), Written::Plain, &sent), text);
}

#[test]
fn every_attempt_at_a_job_uses_the_same_pseudonyms() {
    let request = chat("wake x99");
    let first = asked(vec![plain(), names()], wish(&request)).unwrap();
    let second = asked(vec![plain(), names()], wish(&request)).unwrap();
    assert_eq!(first.body(), second.body());
}

#[test]
fn a_finding_of_two_classes_leaves_only_if_both_may() {
    let person = rule("mail", &[DataClass::Person], Action::Allow);
    let request = chat("mail root@x99.thuis.example");
    assert!(asked(vec![plain(), person.clone()], wish(&request)).is_err());
    let outbound = asked(vec![plain(), person, names()], wish(&request)).unwrap();
    assert!(!text_of(&outbound).contains("root"));
}

#[test]
fn a_secret_leaves_by_no_rule_that_lets_all_else_leave() {
    let all: Vec<DataClass> =
        DataClass::ALL.iter().copied().filter(|class| class.may(Action::Allow)).collect();
    let all = rule("all", &all, Action::Allow);
    assert!(asked(vec![all.clone()], wish(&chat("password: geheim"))).is_err());
    assert!(asked(vec![all], wish(&chat("x99 at 192.168.200.40"))).is_ok());
}

#[test]
fn a_job_that_is_tagged_to_stay_stays() {
    for tags in [json!("work, local-only"), json!(["Local-Only"])] {
        let mut request = chat("hi");
        request["metadata"] = json!({ "tags": tags });
        let refusal = asked(vec![plain()], wish(&request)).unwrap_err();
        assert_eq!(refusal.because.reason, Reason::LOCAL_ONLY);
    }
}

#[test]
fn the_tags_of_the_job_count_like_those_of_its_request() {
    let request = chat("hi");
    for (tag, reason) in [("Local-Only", Reason::LOCAL_ONLY), ("local only", Reason::GOLD_REFUSED)]
    {
        let tags = [tag.to_owned()];
        let refusal = asked(vec![plain()], Wish { tags: &tags, ..wish(&request) }).unwrap_err();
        assert_eq!(refusal.because.reason, reason);
    }
    let public = Rule { tags: vec!["public".parse().unwrap()], ..plain() };
    let tags = ["public".to_owned()];
    assert!(asked(vec![public.clone()], Wish { tags: &tags, ..wish(&request) }).is_ok());
    assert!(asked(vec![public], wish(&request)).is_err());
}

#[test]
fn tags_that_cannot_be_read_keep_a_job_here() {
    for tags in [json!("local only"), json!(7), json!([7]), json!({"a": 1})] {
        let mut request = chat("hi");
        request["metadata"] = json!({ "tags": tags });
        assert!(asked(vec![plain()], wish(&request)).is_err(), "{request}");
    }
}

#[test]
fn a_picture_leaves_by_a_rule_of_its_own_and_counts_as_a_full_context() {
    let request = json!({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]}]});
    assert!(asked(vec![plain()], wish(&request)).is_err());
    let pictures = rule("pictures", &[DataClass::Attachment], Action::Allow);
    let outbound = asked(vec![plain(), pictures], wish(&request)).unwrap();
    assert_eq!(outbound.worst().read, 8_000);
}

#[test]
fn what_it_may_cost_is_bounded_before_it_leaves() {
    let mut request = chat("hi");
    request["max_tokens"] = json!(100_000);
    request["n"] = json!(2);
    let outbound = asked(vec![plain()], wish(&request)).unwrap();
    assert_eq!(outbound.worst().written, 1_000);
    let read = u64::try_from(outbound.body().len()).unwrap();
    assert_eq!(outbound.worst().cost.micros(), read + 10_000);

    request["max_tokens"] = json!(20);
    let wish = Wish { tokens_max: Some(10), ..wish(&request) };
    assert_eq!(asked(vec![plain()], wish).unwrap().worst().written, 20);

    for wrong in [json!(0), json!(99), json!("2"), json!(-1)] {
        request["n"] = wrong;
        assert!(asked(vec![plain()], self::wish(&request)).is_err(), "{request}");
    }
}

#[test]
fn daemons_and_strangers_ask_for_nothing_outside() {
    let request = chat("hi");
    for submitted_by in ["", "spiffe://home/agent/x99", "controller"] {
        assert!(asked(vec![plain()], Wish { submitted_by, ..wish(&request) }).is_err());
    }
}

fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    let classes = proptest::sample::subsequence(DataClass::ALL.to_vec(), 0..=DataClass::ALL.len());
    let one = (classes, proptest::sample::select(Action::ALL.to_vec()), any::<bool>());
    proptest::collection::vec(one, 0..4).prop_map(|rules| {
        let rules = rules.into_iter().enumerate();
        rules
            .map(|(index, (mut classes, action, for_ann))| {
                // What a site file may say.
                classes.retain(|class| class.may(action));
                classes.extend(classes.is_empty().then_some(DataClass::Person));
                (index, (classes, action, for_ann))
            })
            .map(|(index, (classes, action, for_ann))| Rule {
                keys: if for_ann { vec!["key/ann".parse().unwrap()] } else { vec![] },
                ..rule(&format!("rule-{index}"), &classes, action)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn a_job_for_the_house_is_let_out_by_no_rules(
        rules in any_rules(), tier in proptest::sample::select(vec![Tier::Bronze, Tier::Silver]),
        text in ".{0,40}", key in "[a-z]{1,5}",
    ) {
        let submitted_by = format!("key/{key}");
        let request = chat(&text);
        let wish = Wish { tier, submitted_by: &submitted_by, ..wish(&request) };
        let refusal = asked(rules, wish).unwrap_err();
        prop_assert_eq!(refusal.because.reason, Reason::LOCAL_ONLY);
    }

    #[test]
    fn what_leaves_holds_only_what_the_rules_let_out(
        rules in any_rules(),
        words in proptest::collection::vec(prop_oneof![
            Just("10.20.3.4"), Just("x99"), Just("zeester"), Just("ann@example.org"),
            Just("password=geheim7"), Just("hello"), Just("é\""),
        ], 0..8),
        key in prop_oneof![Just("key/ann"), Just("key/bob")],
    ) {
        let marked = [
            ("10.20.3.4", DataClass::PrivateAddress),
            ("x99", DataClass::HostName),
            ("zeester", DataClass::ListedWord),
            ("ann@example.org", DataClass::Person),
            ("geheim7", DataClass::Secret),
        ];
        let text = words.join(" ");
        let request = chat(&text);
        let asker = key.parse().unwrap();
        let wish = Wish { submitted_by: key, ..wish(&request) };
        let outcome = asked(rules.clone(), wish);
        let action = |class| decide(&rules, &asker, &[], class).action;
        let must_stay = action(DataClass::Plain) == Action::Refuse
            || marked.iter().any(|(mark, class)| text.contains(mark) && action(*class) == Action::Refuse);
        prop_assert_eq!(outcome.is_err(), must_stay);
        if let Ok(outbound) = outcome {
            let body = String::from_utf8_lossy(outbound.body()).into_owned();
            for (mark, class) in marked {
                let leaves = text.contains(mark) && action(class) == Action::Allow;
                prop_assert_eq!(body.contains(mark), leaves, "{}: {}", mark, body);
            }
            let restored = Restorer::whole(outbound.pseudonyms(), Written::Plain, &text_of(&outbound));
            prop_assert_eq!(restored, text);
        }
    }
}

fn attached(leaves: Leaves) -> Attached {
    let citation = Citation {
        number: 1,
        source: SourceName::try_new("homelab").unwrap(),
        document: "docs/a.md".to_owned(),
        heading: String::new(),
        url: String::new(),
        version: "c0ffee".to_owned(),
        passage: "00".repeat(16),
    };
    Attached { citations: vec![citation], leaves, asked: [0; 32] }
}

#[test]
fn passages_of_documents_stay_unless_their_source_and_a_rule_both_let_them_leave() {
    let request = chat("hello");
    let documents = || rule("documents", &[DataClass::Document], Action::Allow);
    let with = |leaves, rules| {
        let attached = attached(leaves);
        asked(rules, Wish { attached: Some(&attached), ..wish(&request) })
    };
    let reason = |refusal: Refusal| refusal.because.reason;
    let never = with(Leaves::Never, vec![plain(), documents()]).unwrap_err();
    assert_eq!(reason(never), Reason::LOCAL_ONLY);
    let unruled = with(Leaves::ByRule, vec![plain()]).unwrap_err();
    assert!(unruled.because.message.contains("1 document"), "{}", unruled.because.message);
    assert_eq!(reason(unruled), Reason::GOLD_REFUSED);
    let let_out = with(Leaves::ByRule, vec![plain(), documents()]).unwrap();
    assert_eq!(let_out.verdict().rules(), "plain, documents");
}
