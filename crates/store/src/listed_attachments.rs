//! What lists of messages show of their files (API-60): all of them, and as many of
//! their thumbnails as fit into a page.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;

use minichat_core::{AttachmentId, ChatId, MessageId, TenantId};

use crate::attachments::thumbnail;
use crate::value::{Param, Row, params};
use crate::{StoreError, Thumbnail, Tx};

/// The most bytes of thumbnails in one page.
const PAGE_BYTES: u64 = 1024 * 1024;

/// A file of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachmentSummary {
    pub attachment_id: AttachmentId,
    pub kind: String,
    pub filename: String,
    pub status: String,
    pub thumbnail: ListedThumbnail,
}

/// The thumbnail of a file in a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListedThumbnail {
    /// The file has none.
    None,
    Shown(Thumbnail),
    /// The page has no room for it.
    Omitted,
}

/// A file as it is read at first: with the size of its thumbnail.
struct Listed {
    id: AttachmentId,
    kind: String,
    filename: String,
    status: String,
    thumbnail_bytes: Option<u64>,
}

type ByMessage<T> = HashMap<MessageId, Vec<T>>;
type Chosen = HashSet<(MessageId, AttachmentId)>;

impl Tx {
    /// The undeleted files of the `messages` of a page, by message, in their order.
    pub(crate) async fn message_attachments(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
        messages: &[MessageId],
    ) -> Result<ByMessage<AttachmentSummary>, StoreError> {
        let files = self.listed(tenant, chat, messages).await?;
        let chosen = fitting(messages, &files, PAGE_BYTES);
        let thumbnails = self.thumbnails(tenant, chat, &chosen).await?;
        let summaries = files.into_iter().map(|(message, files)| {
            let files = files.into_iter().map(|file| {
                let is_chosen = chosen.contains(&(message, file.id));
                file.summary(is_chosen, &thumbnails)
            });
            (message, files.collect())
        });
        Ok(summaries.collect())
    }

    async fn listed(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
        messages: &[MessageId],
    ) -> Result<ByMessage<Listed>, StoreError> {
        let mut files: ByMessage<_> = HashMap::new();
        let Some(ids) = Ids::new(messages.iter().copied()) else {
            return Ok(files);
        };
        let sql = format!(
            "SELECT l.message_id, a.id, a.attachment_kind, a.filename, a.status, \
             CAST(LENGTH(a.img_thumbnail) AS BIGINT) \
             FROM message_attachments l JOIN attachments a ON a.id = l.attachment_id \
             AND a.chat_id = l.chat_id AND a.tenant_id = l.tenant_id WHERE l.tenant_id = $1 \
             AND l.chat_id = $2 AND a.deleted_at IS NULL AND l.message_id IN ({}) \
             ORDER BY l.message_id, l.created_at, a.id",
            ids.placeholders()
        );
        let params = ids.params(tenant, chat);
        let rows = self.query_page(&sql, true, &params, listed_row);
        for (message, file) in rows.await? {
            files.entry(message).or_default().push(file);
        }
        Ok(files)
    }

    async fn thumbnails(
        &mut self,
        tenant: TenantId,
        chat: ChatId,
        chosen: &Chosen,
    ) -> Result<HashMap<AttachmentId, Thumbnail>, StoreError> {
        let files: BTreeSet<_> = chosen.iter().map(|(_, file)| file.0).collect();
        let Some(ids) = Ids::new(files.iter().copied()) else {
            return Ok(HashMap::new());
        };
        let sql = format!(
            "SELECT id, img_thumbnail, img_thumbnail_width, img_thumbnail_height \
             FROM attachments WHERE tenant_id = $1 AND chat_id = $2 AND id IN ({}) \
             AND deleted_at IS NULL",
            ids.placeholders()
        );
        let params = ids.params(tenant, chat);
        let rows = self.query_page(&sql, true, &params, thumbnail_row);
        let found = rows.await?.into_iter();
        Ok(found.filter_map(|(id, it)| Some((id, it?))).collect())
    }
}

/// The thumbnails that fit into `room` bytes together: that of the first file of each
/// message, then of the second of each, and so on, so that no message takes the room of
/// all others.
fn fitting(messages: &[MessageId], files: &ByMessage<Listed>, room: u64) -> Chosen {
    let mut chosen = HashSet::new();
    let mut room = room;
    let most = files.values().map(Vec::len).max().unwrap_or_default();
    for nth in 0..most {
        for message in messages {
            let file = files.get(message).and_then(|files| files.get(nth));
            let Some((id, bytes)) = file.and_then(|file| Some((file.id, file.thumbnail_bytes?)))
            else {
                continue;
            };
            if let Some(left) = room.checked_sub(bytes) {
                room = left;
                chosen.insert((*message, id));
            }
        }
    }
    chosen
}

impl Listed {
    fn summary(
        self,
        is_chosen: bool,
        thumbnails: &HashMap<AttachmentId, Thumbnail>,
    ) -> AttachmentSummary {
        let thumbnail = match self.thumbnail_bytes {
            None => ListedThumbnail::None,
            Some(_) if !is_chosen => ListedThumbnail::Omitted,
            Some(_) => match thumbnails.get(&self.id) {
                Some(found) => ListedThumbnail::Shown(found.clone()),
                // The file was deleted meanwhile.
                None => ListedThumbnail::None,
            },
        };
        AttachmentSummary {
            attachment_id: self.id,
            kind: self.kind,
            filename: self.filename,
            status: self.status,
            thumbnail,
        }
    }
}

/// Ids to look up, from `$3` on. There is a power of two of them, so that there are few
/// texts of queries; the first one is repeated.
struct Ids(Vec<Param<'static>>);

impl Ids {
    /// `None` if there are none.
    fn new<T: Copy + Into<Param<'static>>>(
        ids: impl ExactSizeIterator<Item = T> + Clone,
    ) -> Option<Self> {
        let length = ids.len().next_power_of_two();
        let first = ids.clone().next()?;
        let filled = ids.chain(std::iter::repeat(first)).take(length);
        Some(Self(filled.map(Into::into).collect()))
    }

    fn placeholders(&self) -> String {
        let mut list = "$3".to_owned();
        for number in 4..self.0.len() + 3 {
            let _ = write!(list, ", ${number}");
        }
        list
    }

    fn params(self, tenant: TenantId, chat: ChatId) -> Vec<Param<'static>> {
        let mut params = params![tenant, chat].to_vec();
        params.extend(self.0);
        params
    }
}

fn listed_row(row: &Row<'_>) -> Result<(MessageId, Listed), StoreError> {
    let message = row.take()?;
    let file = Listed {
        id: row.take()?,
        kind: row.take()?,
        filename: row.take()?,
        status: row.take()?,
        thumbnail_bytes: row.take()?,
    };
    Ok((message, file))
}

fn thumbnail_row(row: &Row<'_>) -> Result<(AttachmentId, Option<Thumbnail>), StoreError> {
    Ok((row.take()?, thumbnail(row)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(thumbnail_bytes: Option<u64>) -> Listed {
        Listed {
            id: AttachmentId::random(),
            kind: "image".to_owned(),
            filename: "a".to_owned(),
            status: "ready".to_owned(),
            thumbnail_bytes,
        }
    }

    /// API-60: which files of each message are chosen of a page with these thumbnails.
    fn chosen(page: &[&[Option<u64>]], room: u64) -> Vec<Vec<bool>> {
        let messages: Vec<_> = page.iter().map(|_| MessageId::random()).collect();
        let files = page
            .iter()
            .map(|sizes| sizes.iter().map(|bytes| file(*bytes)).collect());
        let files: ByMessage<_> = messages.iter().copied().zip(files).collect();
        let chosen = fitting(&messages, &files, room);
        let of = |message: &MessageId| {
            let files = files[message].iter();
            files
                .map(|file| chosen.contains(&(*message, file.id)))
                .collect()
        };
        messages.iter().map(of).collect()
    }

    /// API-60
    #[test]
    fn no_message_takes_the_room_of_the_others() {
        let many = [Some(3); 5];
        let page: [&[_]; 3] = [&many, &[Some(3)], &[None, Some(3)]];
        let found = chosen(&page, 12);
        assert_eq!(found[0], [true, true, false, false, false]);
        assert_eq!(found[1..], [vec![true], vec![false, true]]);
        assert!(chosen(&page, 21).iter().flatten().filter(|it| **it).count() == 7);
        assert!(!chosen(&page, 2).iter().flatten().any(|it| *it));
        assert!(chosen(&[], 12).is_empty());
    }

    /// API-60: a smaller thumbnail takes the room that a larger one does not fit into.
    #[test]
    fn what_does_not_fit_is_left_out_alone() {
        let found = chosen(&[&[Some(9), Some(1)], &[Some(2)]], 10);
        assert_eq!(found, [vec![true, true], vec![false]]);
    }
}
