//! Documents that jobs may be given as context, and runbooks.

use homelab_domain::{
    context::{Attached, Citation, Leaves, Passage, Query, Refreshed},
    ids::SourceName,
    job::Record,
    runbook::{Decision, Runbook, RunbookState, RunbookVerdict, Undecided},
};
use homelab_store::{Decided, StoreError};

use crate::bench::{Bench, at, job, uuid};

fn source(name: &str) -> SourceName {
    SourceName::try_new(name).unwrap()
}

fn passage(document: &str, heading: &str, text: &str) -> Passage {
    Passage {
        id: [9; 16],
        document: document.to_owned(),
        heading: heading.to_owned(),
        url: String::new(),
        version: "c0ffee".to_owned(),
        text: text.to_owned(),
    }
}

fn refreshed(version: &str) -> Refreshed {
    Refreshed {
        at: at(0),
        version: version.to_owned(),
        fingerprint: [3; 32],
        documents: 2,
        passages: 3,
        withheld: 1,
        skipped: 0,
        notes: vec!["docs/a.md: holds a secret".to_owned()],
    }
}

async fn fill(bench: &Bench, name: &str, passages: &[Passage]) {
    let mut tx = bench.store.begin().await.unwrap();
    let generation = tx.context().begin(&source(name)).await.unwrap();
    tx.context().put(&source(name), generation, passages).await.unwrap();
    tx.context().publish(&source(name), generation, &refreshed("one")).await.unwrap();
    tx.commit().await.unwrap();
}

async fn found(bench: &Bench, names: &[&str], text: &str) -> Vec<String> {
    let sources: Vec<SourceName> = names.iter().map(|name| source(name)).collect();
    let query = Query::of(text).unwrap();
    let mut tx = bench.store.read().await.unwrap();
    let found = tx.context().search(&query, &sources, 20).await.unwrap();
    found.into_iter().map(|candidate| candidate.passage.text).collect()
}

pub(crate) async fn documents_are_found_by_any_of_their_words(bench: &Bench) {
    let passages = [
        passage("docs/wake.md", "Power > Wake", "A magic packet is sent to x99."),
        passage("docs/über.md", "", "Straße und Öl: the wiki.home.arpa page"),
        passage("docs/other.md", "", "Nothing of that."),
    ];
    fill(bench, "homelab", &passages).await;
    fill(bench, "wiki", &[passage("home", "", "The magic page.")]).await;
    assert_eq!(found(bench, &["homelab"], "magic word").await, [passages[0].text.as_str()]);
    assert_eq!(found(bench, &["homelab"], "WAKE").await, [passages[0].text.as_str()], "by heading");
    assert_eq!(found(bench, &["homelab"], "arpa").await, [passages[1].text.as_str()], "by part");
    assert_eq!(found(bench, &["homelab", "wiki"], "magic").await.len(), 2);
    assert!(found(bench, &["homelab"], "absent").await.is_empty());
    assert!(found(bench, &[], "magic").await.is_empty());
}

pub(crate) async fn no_text_is_taken_for_syntax_of_a_search(bench: &Bench) {
    let text = "NEAR(\"a\" 'b' : * ^ -x OR) & | ! <-> ) AND NOT \\ \0 İ ß 1e5 0x1f 10.0.0.1 a:b*";
    fill(bench, "homelab", &[passage("a \0 b.md", "near", text)]).await;
    for word in ["near", "1e5", "İb", "ß", "near or (", "\"near\" OR", "near*", "near:*", "'near"]
    {
        if let Some(query) = Query::of(word) {
            let mut tx = bench.store.read().await.unwrap();
            let sources = [source("homelab")];
            let found = tx.context().search(&query, &sources, 20).await.unwrap();
            assert!(word.starts_with(['İ', 'ß']) || found.len() == 1, "{word}");
        }
    }
}

pub(crate) async fn a_generation_is_searched_once_it_is_whole_and_replaces_the_one_before(
    bench: &Bench,
) {
    let name = source("homelab");
    fill(bench, "homelab", &[passage("a.md", "", "old magic")]).await;
    let mut tx = bench.store.begin().await.unwrap();
    let next = tx.context().begin(&name).await.unwrap();
    let many: Vec<Passage> =
        (0..450).map(|at| passage("a.md", "", &format!("new magic {at}"))).collect();
    tx.context().put(&name, next, &many).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(found(bench, &["homelab"], "magic").await, ["old magic"]);
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.context().sweep(1_000).await.unwrap(), 0, "neither is old");
    tx.context().publish(&name, next, &refreshed("two")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(found(bench, &["homelab"], "magic").await.len(), 20);
    assert!(found(bench, &["homelab"], "old").await.is_empty());
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.context().sweep(1_000).await.unwrap(), 1);
    assert_eq!(tx.context().retain(&[source("wiki")]).await.unwrap(), 1);
    assert_eq!(tx.context().sweep(100).await.unwrap(), 100);
    assert_eq!(tx.context().sweep(1_000).await.unwrap(), 350);
    tx.commit().await.unwrap();
    assert!(found(bench, &["homelab"], "magic").await.is_empty());
}

pub(crate) async fn who_was_overtaken_can_fill_and_publish_no_more(bench: &Bench) {
    let name = source("homelab");
    let mut tx = bench.store.begin().await.unwrap();
    let first = tx.context().begin(&name).await.unwrap();
    let second = tx.context().begin(&name).await.unwrap();
    assert!(second > first);
    let put = tx.context().put(&name, first, &[passage("a.md", "", "x")]).await;
    assert!(matches!(put, Err(StoreError::Conflict { .. })), "{put:?}");
    let published = tx.context().publish(&name, first, &refreshed("one")).await;
    assert!(matches!(published, Err(StoreError::Conflict { .. })), "{published:?}");
}

pub(crate) async fn what_is_known_of_a_source_says_how_fresh_it_is(bench: &Bench) {
    let name = source("wiki");
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.context().failed(&name, "no answer", at(1)).await.unwrap(), 1);
    assert_eq!(tx.context().failed(&name, "no answer yet", at(9)).await.unwrap(), 2);
    let state = tx.context().sources().await.unwrap().remove(0);
    let trouble = state.trouble.unwrap();
    assert_eq!((trouble.since, trouble.at, trouble.failures), (at(1), at(9), 2));
    assert_eq!((trouble.message.as_str(), state.refreshed), ("no answer yet", None));
    tx.commit().await.unwrap();
    fill(bench, "wiki", &[passage("home", "", "page")]).await;
    let mut tx = bench.store.begin().await.unwrap();
    tx.context().seen(&name, at(60)).await.unwrap();
    let state = tx.context().sources().await.unwrap().remove(0);
    assert_eq!(state.refreshed, Some(refreshed("one")));
    assert_eq!((state.looked_at, state.trouble), (Some(at(60)), None));
}

pub(crate) async fn what_was_put_before_a_job_stays_with_it(bench: &Bench) {
    let attached = Attached {
        citations: vec![Citation {
            number: 1,
            source: source("homelab"),
            document: "docs/a.md".to_owned(),
            heading: "A".to_owned(),
            url: String::new(),
            version: "c0ffee".to_owned(),
            passage: "09".repeat(16),
        }],
        leaves: Leaves::ByRule,
        asked: [5; 32],
    };
    let mut spec = job(1);
    spec.request.attached = Some(Box::new(attached.clone()));
    spec.record = Record::Full;
    bench.submit(spec).await;
    let mut tx = bench.store.read().await.unwrap();
    let kept = tx.jobs().get(uuid(1).into()).await.unwrap().unwrap();
    assert_eq!(kept.spec().request.attached.as_deref(), Some(&attached));
}

fn runbook(id: u128) -> Runbook {
    Runbook {
        id: uuid(id).into(),
        text: "# Wake\nWhy.\n## Steps\n1. Do.\n".parse().unwrap(),
        digest: [4; 32],
        proposed_by: "key/ann".to_owned(),
        proposed_at: at(0),
        from_job: Some(uuid(77).into()),
        decision: None,
    }
}

fn said(verdict: RunbookVerdict) -> Decision {
    Decision { verdict, by: "ann".to_owned(), at: at(5), reason: "read it".to_owned() }
}

pub(crate) async fn a_runbook_is_proposed_once_and_approved_as_it_was_read(bench: &Bench) {
    let mut tx = bench.store.begin().await.unwrap();
    let proposed = runbook(1);
    assert_eq!(tx.runbooks().propose(&proposed).await.unwrap(), proposed);
    let again = Runbook { proposed_by: "key/bob".to_owned(), ..runbook(1) };
    assert_eq!(tx.runbooks().propose(&again).await.unwrap(), proposed);
    tx.runbooks().propose(&runbook(2)).await.unwrap();
    let approve = said(RunbookVerdict::Approve);
    let other = tx.runbooks().decide(proposed.id, [0; 32], approve.clone()).await.unwrap();
    assert_eq!(other, Decided::Refused(Undecided::OtherText));
    let missing = tx.runbooks().decide(uuid(9).into(), [4; 32], approve.clone()).await.unwrap();
    assert_eq!(missing, Decided::NotFound);
    let decided = tx.runbooks().decide(proposed.id, [4; 32], approve.clone()).await.unwrap();
    let approved = Runbook { decision: Some(approve), ..proposed };
    assert_eq!(decided, Decided::Stands(Box::new(approved.clone())));
    assert_eq!(
        tx.runbooks().list(Some(RunbookState::Approved), None, 10).await.unwrap(),
        std::slice::from_ref(&approved)
    );
    let proposed = Some(RunbookState::Proposed);
    assert_eq!(tx.runbooks().list(proposed, None, 10).await.unwrap(), [runbook(2)]);
    let all = tx.runbooks().list(None, None, 10).await.unwrap();
    assert_eq!(all.iter().map(|one| one.id).collect::<Vec<_>>(), [runbook(2).id, approved.id]);
    assert_eq!(tx.runbooks().list(None, Some(runbook(2).id), 10).await.unwrap(), [approved]);
}
