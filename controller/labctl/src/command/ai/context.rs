//! `labctl ai context …`: documents of the house that jobs may be given.

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{
    Citation, ContextSource, ListContextSourcesRequest, ListContextSourcesResponse,
    RefreshContextRequest, RefreshContextResponse, SearchContextRequest, SearchContextResponse,
};
use jiff::Timestamp;

use crate::{
    args::{ContextCommand, ContextSearchArgs},
    call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows, distance},
};

/// Runs one verb on documents.
///
/// # Errors
/// As the call behind it.
pub(super) async fn run(lab: &Lab, command: ContextCommand) -> Result<Exit, Failure> {
    match command {
        ContextCommand::List => list(lab).await,
        ContextCommand::Search(args) => search(lab, args).await,
        ContextCommand::Refresh(args) => {
            let action = format!("have {} read", args.source);
            let request = RefreshContextRequest { source: args.source.clone() };
            let answer: RefreshContextResponse =
                lab.call(&action, call::REFRESH_CONTEXT, request).await?;
            lab.tell(call::REFRESH_CONTEXT, &answer, Rows::default, || {
                format!(
                    "{} is read now; labctl ai context list shows what came of it\n",
                    args.source
                )
            })?;
            Ok(Exit::Ok)
        }
    }
}

async fn list(lab: &Lab) -> Result<Exit, Failure> {
    let answer: ListContextSourcesResponse =
        lab.call("list sources", call::LIST_CONTEXT_SOURCES, ListContextSourcesRequest {}).await?;
    lab.print(call::LIST_CONTEXT_SOURCES, &answer, || sources(lab.now(), &answer.sources))?;
    if !lab.for_programs() {
        output::write(&remarks(lab.now(), &answer.sources))?;
    }
    Ok(Exit::Ok)
}

async fn search(lab: &Lab, args: ContextSearchArgs) -> Result<Exit, Failure> {
    let ContextSearchArgs { text, sources, bytes_max } = args;
    let request = SearchContextRequest { text, sources, bytes_max };
    let answer: SearchContextResponse =
        lab.call("search the documents", call::SEARCH_CONTEXT, request).await?;
    lab.tell(call::SEARCH_CONTEXT, &answer, || passages(&answer), || found(&answer))?;
    Ok(Exit::Ok)
}

fn sources(now: Timestamp, sources: &[ContextSource]) -> Rows {
    let head =
        ["source", "origin", "documents", "passages", "withheld", "skipped", "as of", "leaves"];
    let mut rows = Rows::new(&head, "No source: name one as [[context.source]] in the site file.");
    for source in sources {
        rows.push(
            &source.name,
            [
                source.name.clone(),
                source.origin.clone(),
                source.documents.to_string(),
                source.passages.to_string(),
                source.withheld.to_string(),
                source.skipped.to_string(),
                // Not when it was read: when it was last known to be so.
                source
                    .looked_at
                    .map_or_else(|| "never read".to_owned(), |at| distance(now, Some(at))),
                source.leaves.clone(),
            ],
        );
    }
    rows
}

/// What is not well, and what is left out.
fn remarks(now: Timestamp, sources: &[ContextSource]) -> String {
    let mut text = String::new();
    for source in sources {
        if !source.trouble.is_empty() {
            let since = distance(now, source.trouble_since);
            text.push_str(&format!(
                "\n{} cannot be read since {since}: {}\n",
                source.name, source.trouble
            ));
        }
        if !source.notes.is_empty() {
            text.push_str(&format!("\nLeft out of {}:\n", source.name));
        }
        for note in &source.notes {
            text.push_str(&format!("  {note}\n"));
        }
    }
    text
}

fn passages(answer: &SearchContextResponse) -> Rows {
    let mut rows = Rows::new(&["passage"], "Nothing was found.");
    for citation in answer.passages.iter().filter_map(|passage| passage.citation.as_ref()) {
        rows.push(&citation.passage_id, [line(citation)]);
    }
    rows
}

fn found(answer: &SearchContextResponse) -> String {
    if answer.passages.is_empty() {
        return format!(
            "Nothing was found for: {}. labctl ai context list shows what is searched.\n",
            answer.words.join(" ")
        );
    }
    let mut text = String::new();
    for passage in &answer.passages {
        let citation = passage.citation.as_ref().map(line).unwrap_or_default();
        text.push_str(&format!("{citation}\n{}\n", output::indented(&passage.text, 4)));
    }
    text
}

/// Where the passages are from that were put before a job; nothing for one without.
pub(crate) fn cited(citations: &[Citation]) -> String {
    let lines: String =
        citations.iter().map(|citation| format!("  {}\n", line(citation))).collect();
    if lines.is_empty() { lines } else { format!("\nIt was given these passages:\n{lines}") }
}

fn line(citation: &Citation) -> String {
    let version: String = citation.version.chars().take(24).collect();
    let place = if citation.url.is_empty() { &citation.document } else { &citation.url };
    let heading = match citation.heading.as_str() {
        "" => String::new(),
        heading => format!(" — {heading}"),
    };
    format!("[{}] {}: {place} @ {version}{heading}", citation.number, citation.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn citation() -> Citation {
        Citation {
            number: 1,
            source: "homelab".to_owned(),
            document: "docs/wake.md".to_owned(),
            heading: "Wake".to_owned(),
            version: "c0ffee".to_owned(),
            ..Citation::default()
        }
    }

    #[test]
    fn an_answer_is_followed_by_what_it_was_given() {
        assert_eq!(cited(&[]), "");
        assert_eq!(
            cited(&[citation()]),
            "\nIt was given these passages:\n  [1] homelab: docs/wake.md @ c0ffee — Wake\n"
        );
    }

    #[test]
    fn a_source_that_was_never_read_is_not_shown_as_fresh() {
        let source = ContextSource {
            name: "wiki".to_owned(),
            trouble: "no answer".to_owned(),
            ..ContextSource::default()
        };
        let text = sources(Timestamp::UNIX_EPOCH, std::slice::from_ref(&source)).text();
        assert!(text.contains("never read"), "{text}");
        let remarks = remarks(Timestamp::UNIX_EPOCH, &[source]);
        assert!(remarks.contains("wiki cannot be read"), "{remarks}");
    }
}
