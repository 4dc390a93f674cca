//! What leaves the house, asked over gRPC and decided by the rules of the site file.

use homelab_proto::controller::v1::{
    gold_service_client::GoldServiceClient, job_service_client::JobServiceClient,
};

use super::*;

/// A site with a provider that nobody answers for, and rules for one person.
fn site(key: &Path) -> String {
    format!(
        "[site]\nname = \"home\"\n[[host]]\nname = \"x99\"\naddress = \"127.0.0.1\"\n\
         [ai]\ncurrency = \"EUR\"\n[[ai.tier]]\ntier = \"gold\"\nmodels = [\"far-small\"]\n\
         [[ai.provider]]\nname = \"far\"\nurl = \"https://127.0.0.1:{}/v1\"\nkey = \"{}\"\n\
         [[ai.provider.model]]\nname = \"far-small\"\ninput-price = \"1.00\"\n\
         output-price = \"2.00\"\ncontext = 8000\n\
         [[ai.rule]]\nname = \"ada\"\nkeys = [\"user/ada\"]\nclasses = [\"plain\"]\n\
         action = \"allow\"\n[[ai.budget]]\nname = \"house\"\nday = \"1.00\"\nmonth = \"10.00\"\n",
        free_port(),
        key.display()
    )
}

async fn lab() -> Lab {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("far.key");
    std::fs::write(folder.path().join("homelab.toml"), site(&key)).expect("writable");
    let config = config(folder.path(), "state");
    Lab::found(folder, config, Arc::new(SystemClock)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_and_a_trial_are_had_without_anything_leaving() {
    let lab = lab().await;
    let mut gold = GoldServiceClient::new(lab.admin());
    let request = pb::GetBudgetsRequest { calls_max: 10 };
    let budgets = gold.get_budgets(request).await.expect("budgets").into_inner();
    let shown: Vec<_> = budgets
        .budgets
        .iter()
        .map(|one| (one.budget.as_str(), one.period.as_str(), one.left_micros))
        .collect();
    assert_eq!(shown, [("house", "day", 1_000_000), ("house", "month", 10_000_000)]);
    assert_eq!((budgets.currency.as_str(), budgets.calls.len()), ("EUR", 0));

    let mut check = async |text: &str, asker: &str| {
        let request =
            pb::CheckTextRequest { text: text.to_owned(), asker: asker.to_owned(), tags: vec![] };
        gold.check_text(request).await.map(Response::into_inner)
    };
    let plain = check("hello", "").await.expect("checked");
    assert_eq!((plain.action(), plain.asker.as_str()), (pb::GoldAction::Allow, "user/ada"));
    let named = check("a\nwake x99", "").await.expect("checked");
    assert_eq!(named.action(), pb::GoldAction::Refuse);
    let found = &named.findings[0];
    assert_eq!(
        (found.line, found.column, found.classes.as_slice()),
        (2, 6, &["host-name".to_owned()][..])
    );
    let other = check("hello", "key/chat").await.expect("checked");
    assert_eq!(other.action(), pb::GoldAction::Refuse, "no rule speaks of that key");
    assert_eq!(check("hello", "nobody").await.expect_err("refused").code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_explained_before_it_leaves_and_refused_with_its_reason() {
    let lab = lab().await;
    let mut jobs = JobServiceClient::new(lab.admin());
    let mut ask = async |text: &str| {
        let request = pb::SubmitJobRequest {
            request_id: "01a2087d-9b89-7f3e-bc1c-9162e4d363dd".to_owned(),
            validate_only: true,
            tier: pb::Tier::Gold.into(),
            model: "far-small".to_owned(),
            openai_request: format!(
                "{{\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}"
            )
            .into(),
            ..pb::SubmitJobRequest::default()
        };
        jobs.submit_job(request).await.map(Response::into_inner)
    };
    let explained = ask("hello").await.expect("may leave").explanation.expect("explained");
    let lines = explained.outside.join("\n");
    assert!(lines.contains("by rule ada") && lines.contains("1.00 EUR left this day"), "{lines}");
    let refused = ask("wake x99").await.expect_err("stays");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(reason_of(&refused).as_deref(), Some("GOLD_REFUSED"));
    assert!(refused.message().contains("1 host-name"), "{refused:?}");
}
