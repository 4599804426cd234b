-- What a pass of the clean-up finds by tenant and provider.

-- Until when a file that could not be deleted is left alone.
ALTER TABLE attachments ADD COLUMN cleanup_due_at {ts};
-- From when on the store of a deleted chat may be deleted. A pass writes it for chats
-- that were deleted without it.
ALTER TABLE chat_vector_stores ADD COLUMN cleanup_due_at {ts};

CREATE INDEX attachments_due ON attachments
    (tenant_id, storage_backend, (COALESCE(cleanup_due_at, cleanup_updated_at, created_at)), id)
    WHERE cleanup_status = 'pending';
CREATE INDEX chat_vector_stores_due ON chat_vector_stores
    (tenant_id, provider, cleanup_due_at, id) WHERE cleanup_due_at IS NOT NULL;

DROP INDEX attachments_pending_cleanup;
