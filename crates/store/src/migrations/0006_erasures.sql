-- Persons whose content is erased.

CREATE TABLE erasures (
    id {uuid} NOT NULL PRIMARY KEY,
    tenant_id {uuid} NOT NULL,
    user_id {uuid},
    requested_at {ts} NOT NULL,
    finished_at {ts},
    chats {i64} NOT NULL DEFAULT 0 CHECK (chats >= 0),
    messages {i64} NOT NULL DEFAULT 0 CHECK (messages >= 0),
    files {i64} NOT NULL DEFAULT 0 CHECK (files >= 0),
    turns {i64} NOT NULL DEFAULT 0 CHECK (turns >= 0),
    quota_rows {i64} NOT NULL DEFAULT 0 CHECK (quota_rows >= 0),
    events {i64} NOT NULL DEFAULT 0 CHECK (events >= 0),
    CONSTRAINT erasures_person CHECK ((user_id IS NULL) = (finished_at IS NOT NULL))
){strict};

CREATE UNIQUE INDEX erasures_open ON erasures (tenant_id, user_id)
    WHERE user_id IS NOT NULL;

-- What is deleted already is to be found as well.
CREATE INDEX chats_deleted_of_user ON chats (tenant_id, user_id, id)
    WHERE deleted_at IS NOT NULL;
CREATE INDEX messages_deleted ON messages (chat_id, id)
    WHERE deleted_at IS NOT NULL;
CREATE INDEX outbox_messages_delivered ON outbox_messages (tenant_id, id)
    WHERE done_at IS NOT NULL;
