-- What removes chats that were deleted long ago.

-- Turns of removed chats, added up.
CREATE TABLE turn_rollups (
    tenant_id {uuid} NOT NULL,
    user_id {uuid} NOT NULL,
    day {date} NOT NULL,
    model {str1024} NOT NULL,
    policy_version {i64} NOT NULL,
    turns {i64} NOT NULL DEFAULT 0 CHECK (turns >= 0),
    settled {i64} NOT NULL DEFAULT 0 CHECK (settled >= 0),
    credits_micro {i64} NOT NULL DEFAULT 0 CHECK (credits_micro >= 0),
    PRIMARY KEY (tenant_id, user_id, day, model, policy_version)
){strict};

-- In the order in which they are removed.
CREATE INDEX chats_deleted_in_order ON chats (deleted_at, id) WHERE deleted_at IS NOT NULL;

-- To delete a message, the database looks for the turns that point to it.
CREATE INDEX chat_turns_by_answer ON chat_turns (assistant_message_id)
    WHERE assistant_message_id IS NOT NULL;

-- To delete a chat, it looks for all of its messages, deleted ones too.
CREATE INDEX messages_in_order ON messages (chat_id, created_at, id);

-- Last, because from here on nobody else reads these tables until the commit.
DROP INDEX chats_deleted;
DROP INDEX messages_by_time;
