-- What keeps the repairs of the clean-up from reading tables that only grow.

-- How far deleted chats have been looked through.
CREATE TABLE cleanup_progress (
    scan {str32} NOT NULL PRIMARY KEY,
    deleted_until {ts} NOT NULL
){strict};

-- Stores that are being created.
CREATE INDEX chat_vector_stores_unnamed ON chat_vector_stores (created_at)
    WHERE vector_store_id IS NULL;
