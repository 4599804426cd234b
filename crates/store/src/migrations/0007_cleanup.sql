-- What deletes files and vector stores at providers.

-- Chats that a process cleans up.
CREATE TABLE cleanup_claims (
    chat_id {uuid} NOT NULL PRIMARY KEY REFERENCES chats (id) ON DELETE CASCADE,
    tenant_id {uuid} NOT NULL,
    locked_by {str128} NOT NULL,
    locked_until {ts} NOT NULL
){strict};

-- When the store was last tried to be deleted.
ALTER TABLE chat_vector_stores ADD COLUMN cleanup_updated_at {ts};

CREATE INDEX attachments_pending_cleanup ON attachments (cleanup_updated_at, chat_id)
    WHERE cleanup_status = 'pending';
CREATE INDEX attachments_cleanup_in_chat ON attachments (chat_id, cleanup_status);
CREATE INDEX attachments_in_progress ON attachments (updated_at)
    WHERE status IN ('pending', 'uploaded');
CREATE INDEX attachments_left_behind ON attachments (id)
    WHERE status = 'failed' AND cleanup_status IS NULL AND provider_file_id IS NOT NULL;
CREATE INDEX chats_deleted ON chats (deleted_at) WHERE deleted_at IS NOT NULL;
