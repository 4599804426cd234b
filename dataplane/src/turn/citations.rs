//! The sources of an answer, as clients see them (CONT-109, CONT-110).

use std::collections::HashMap;
use std::time::Duration;

use minichat_core::stream::{Citation, CitationSource, StreamEvent};
use minichat_provider::Citation as Cited;
use minichat_store::{CitableFile, StoreError};
use tokio::time::timeout;

use super::open::OpenTurn;

/// How long the end of an answer waits for the names of the files that it cites.
const PATIENCE: Duration = Duration::from_secs(1);

/// The event with the sources of a whole answer; `None` if clients may see none.
pub(super) async fn event(turn: &OpenTurn, cited: Vec<Cited>) -> Option<StreamEvent<'static>> {
    let has_files = cited.iter().any(|it| it.source == CitationSource::File);
    let files = if has_files {
        files(turn).await
    } else {
        HashMap::new()
    };
    let items: Vec<_> = cited
        .into_iter()
        .filter_map(|cited| shown(cited, &files))
        .collect();
    (!items.is_empty()).then_some(StreamEvent::Citations(items))
}

/// The files of the chat by their id at the provider. The answer does not fail for
/// them.
async fn files(turn: &OpenTurn) -> HashMap<String, CitableFile> {
    let (tenant, chat) = (turn.caller.tenant_id, turn.ids().chat_id);
    let found = turn
        .app
        .store
        .read(move |tx| Box::pin(async move { tx.citable_files(tenant, chat).await }));
    let found = timeout(PATIENCE, found).await;
    let found: Result<_, StoreError> = found.unwrap_or(Err(StoreError::Deadline));
    let found = found.unwrap_or_else(|error| {
        tracing::warn!(%error, "an answer cites files that could not be looked up");
        Vec::new()
    });
    let files = found.into_iter();
    files
        .map(|file| (file.provider_file_id.clone(), file))
        .collect()
}

/// A file is shown by our id and name, or not at all: it may be deleted, and ids of
/// providers are never shown (CONT-39). A page is shown by its address.
fn shown(cited: Cited, files: &HashMap<String, CitableFile>) -> Option<Citation> {
    let (title, url, attachment_id) = match cited.source {
        CitationSource::File => {
            let file = cited.file_id.as_ref().and_then(|id| files.get(id));
            let Some(file) = file else {
                tracing::debug!("an answer cites a file that the chat does not have");
                return None;
            };
            (file.filename.clone(), None, Some(file.attachment_id))
        }
        CitationSource::Web => (
            cited.title,
            Some(cited.url.filter(|url| is_web(url))?),
            None,
        ),
    };
    Some(Citation {
        source: cited.source,
        title,
        url,
        attachment_id,
        snippet: cited.snippet,
        span: cited.span,
    })
}

/// Whether a client can follow the address without running it.
fn is_web(url: &str) -> bool {
    let begins_with = |scheme: &str| {
        url.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    begins_with("https://") || begins_with("http://")
}

#[cfg(test)]
mod tests {
    use minichat_core::AttachmentId;
    use minichat_core::stream::Span;
    use uuid::Uuid;

    use super::*;

    fn cited(source: CitationSource) -> Cited {
        Cited {
            source,
            title: "theirs".to_owned(),
            url: None,
            file_id: None,
            snippet: "words".to_owned(),
            span: Some(Span { start: 1, end: 4 }),
        }
    }

    /// CONT-109
    #[test]
    fn a_file_is_shown_by_our_id_and_name_or_not_at_all() {
        let ours = AttachmentId(Uuid::from_u128(1));
        let file = CitableFile {
            provider_file_id: "file-1".to_owned(),
            attachment_id: ours,
            filename: "notes.txt".to_owned(),
        };
        let files = HashMap::from([("file-1".to_owned(), file)]);
        let of_file = |id: Option<&str>| Cited {
            file_id: id.map(str::to_owned),
            ..cited(CitationSource::File)
        };
        let known = shown(of_file(Some("file-1")), &files).unwrap();
        assert_eq!(known.attachment_id, Some(ours));
        assert_eq!(known.title, "notes.txt");
        assert_eq!(known.url, None);
        assert_eq!(shown(of_file(Some("file-2")), &files), None);
        assert_eq!(shown(of_file(None), &files), None);
    }

    #[test]
    fn a_page_is_shown_only_with_an_address_that_can_be_followed() {
        let of_url = |url: Option<&str>| Cited {
            url: url.map(str::to_owned),
            ..cited(CitationSource::Web)
        };
        let page = shown(of_url(Some("HTTPS://example.com/")), &HashMap::new()).unwrap();
        assert_eq!(page.title, "theirs");
        assert_eq!(page.url.as_deref(), Some("HTTPS://example.com/"));
        for url in [None, Some(""), Some("javascript:alert(1)"), Some("http:/x")] {
            assert_eq!(shown(of_url(url), &HashMap::new()), None, "{url:?}");
        }
    }
}
